"""What the descriptors say about each RPC: may it be called twice?

Every RPC of the suite has a request message of its own, so a request tells its RPC.
"""

from __future__ import annotations

import uuid
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message

from modelkeep.download.v1 import download_service_pb2
from modelkeep.install.v1 import install_service_pb2
from modelkeep.loader.v1 import loader_service_pb2
from modelkeep.record.v1 import record_service_pb2
from modelkeep.server.v1 import server_service_pb2

_FILES: Final[tuple[Any, ...]] = (
    record_service_pb2,
    download_service_pb2,
    install_service_pb2,
    loader_service_pb2,
    server_service_pb2,
)
_SAFE: Final = frozenset({MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT})


@cache
def _methods() -> dict[str, MethodDescriptor]:
    services: list[ServiceDescriptor] = [
        service for file in _FILES for service in file.DESCRIPTOR.services_by_name.values()
    ]
    return {method.input_type.full_name: method for service in services for method in service.methods}


def method_of(request: Message) -> MethodDescriptor:
    """The RPC that a message is the request of."""
    return _methods()[request.DESCRIPTOR.full_name]


def ensure_request_id(request: Message) -> None:
    """Give a call that changes something an id by which the service knows a repetition."""
    fields = request.DESCRIPTOR.fields_by_name
    if "request_id" in fields and not getattr(request, "request_id"):  # noqa: B009  # not on every message
        setattr(request, "request_id", str(uuid.uuid4()))  # noqa: B010


def may_repeat(request: Message) -> bool:
    """Whether a call may be made again when it is not known whether the first one arrived.

    True if the RPC says so (idempotency_level), or if the request has a request_id.
    """
    if method_of(request).GetOptions().idempotency_level in _SAFE:
        return True
    return bool(getattr(request, "request_id", ""))
