"""One way for an error to reach the client: an exception, a Status, ``context.abort``."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from modelkeep.exceptions import FieldInvalidException, ModelkeepError

from . import status
from .call import Call
from .request_id import HEADER

_log = logging.getLogger("modelkeep.errors")


def status_of(error: Exception, domain: str, method: str, request_id: str) -> tuple[status_pb2.Status, str]:
    """What ``error`` becomes on the wire, and its reason. Logs what the client is not told."""
    if isinstance(error, DecodeError):
        error = FieldInvalidException("The request is not a message of the type that the method takes.")
    if isinstance(error, ModelkeepError) and type(error).code != "INTERNAL":
        try:
            return status.to_status(error, domain), error.reason
        except Exception as broken:
            error = broken
    _log.error(
        "unexpected exception",
        extra={"fields": {"method": method, "request_id": request_id}},
        exc_info=(type(error), error, error.__traceback__),
    )
    return status.internal_status(domain, request_id), "INTERNAL"


async def answer(call: Call, context: Any, error: Exception, domain: str) -> NoReturn:
    """End the call with what ``error`` becomes; code and message of the call are those of the status."""
    made, call.reason = status_of(error, domain, call.method, call.request_id)
    code = status.CODE_OF_NUMBER[made.code]
    call.code = code.name
    try:
        await context.abort(
            code,
            made.message,
            ((status.DETAILS_KEY, made.SerializeToString()), (HEADER, call.request_id)),
        )
    except grpc.aio.InternalError as failure:
        # The caller has left and hears nothing any more.
        raise asyncio.CancelledError from failure
    raise AssertionError("abort returned")


def note_end(call: Call, context: Any) -> None:
    """The caller has left, or his deadline has come."""
    remaining = context.time_remaining()
    is_late = remaining is not None and remaining <= 0
    call.code = call.reason = "DEADLINE_EXCEEDED" if is_late else "CANCELLED"


def note_abort(call: Call, context: Any) -> None:
    """The handler has ended the call by itself."""
    code = context.code()
    known = code if isinstance(code, grpc.StatusCode) else status.CODE_OF_NUMBER.get(code)
    call.code = known.name if known is not None else "UNKNOWN"
