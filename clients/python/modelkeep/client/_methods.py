"""May a call be made twice?"""

from __future__ import annotations

import uuid

from google.protobuf.message import Message

from modelkeep import rpc


def ensure_request_id(request: Message) -> None:
    """Give a call that changes something an id by which the service knows a repetition."""
    fields = request.DESCRIPTOR.fields_by_name
    if "request_id" in fields and not getattr(request, "request_id"):  # noqa: B009  # not on every message
        setattr(request, "request_id", str(uuid.uuid4()))  # noqa: B010


def may_repeat(request: Message) -> bool:
    """Whether a call may be made again when it is not known whether the first one arrived.

    True if the RPC says so (idempotency_level), or if the request has a request_id.
    """
    if rpc.is_repeatable(rpc.methods()[request.DESCRIPTOR.full_name]):
        return True
    return bool(getattr(request, "request_id", ""))
