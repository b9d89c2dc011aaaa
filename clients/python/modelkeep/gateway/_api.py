"""What the API's descriptors say of its methods: whose they are, and which may be sent twice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodOptions

import modelkeep
from modelkeep.defaults import SERVICES

#: The descriptors of the whole API, with the rules by which methods are called over HTTP.
DESCRIPTOR_SET: Final = Path(modelkeep.__file__).with_name("api.binpb")
#: Answered by every service.
SERVER_SERVICE: Final = "modelkeep.server.v1.ServerService"
_REPEATABLE = (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the API.

    Attributes:
        full_name: ``modelkeep.record.v1.RecordService``.
        methods: The names of its methods.
        repeatable: Those of them that may be sent twice: NO_SIDE_EFFECTS and IDEMPOTENT.
    """

    full_name: str
    methods: tuple[str, ...]
    repeatable: tuple[str, ...]


@cache
def services() -> dict[str, Service]:
    """Short name ("record", …) to service."""
    found = {service.full_name: service for service in _all()}
    return {name: found[f"modelkeep.{name}.v1.{name.title()}Service"] for name in SERVICES}


@cache
def server_service() -> Service:
    """What every service answers."""
    return next(service for service in _all() if service.full_name == SERVER_SERVICE)


@cache
def method_names() -> frozenset[str]:
    """Every method as ``modelkeep.record.v1.RecordService/GetModel``."""
    return frozenset(f"{service.full_name}/{method}" for service in _all() for method in service.methods)


@cache
def _all() -> tuple[Service, ...]:
    files = FileDescriptorSet.FromString(DESCRIPTOR_SET.read_bytes()).file
    return tuple(
        Service(
            f"{file.package}.{service.name}",
            tuple(method.name for method in service.method),
            tuple(
                method.name for method in service.method if method.options.idempotency_level in _REPEATABLE
            ),
        )
        for file in files
        for service in file.service
    )
