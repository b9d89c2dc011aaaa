"""One way for an error to reach the client: an exception, a Status, ``context.abort``."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NoReturn

import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from modelkeep.exceptions import FieldInvalidException, ModelkeepError

from . import status
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


async def abort(context: Any, answer: status_pb2.Status, request_id: str) -> NoReturn:
    """End the call with ``answer``; code and message of the call are those of the status."""
    try:
        await context.abort(
            status.CODE_OF_NUMBER[answer.code],
            answer.message,
            ((status.DETAILS_KEY, answer.SerializeToString()), (HEADER, request_id)),
        )
    except grpc.aio.InternalError as error:
        # The caller has left and hears nothing any more.
        raise asyncio.CancelledError from error
    raise AssertionError("abort returned")
