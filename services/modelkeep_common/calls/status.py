"""An exception of the suite as ``google.rpc.Status``: one ErrorInfo, and the details that fit.

The status travels in ``grpc-status-details-bin``, that is, in trailers: gRPC and proxies limit those to
some KiB, so the details are kept below 4 KiB by leaving out what is least needed. The message travels a
second time in ``grpc-message``, percent-encoded. From 8 KiB of trailers on gRPC drops calls at random.
"""

from __future__ import annotations

from urllib.parse import quote

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from modelkeep.exceptions import ConflictException, ExhaustedException, ModelkeepError, NotFoundException

from ..wire import to_duration

#: The limit of a serialised status, in bytes.
MAX_STATUS_BYTES = 4096 - 256
_MAX_TEXT = 500
_MAX_MESSAGE = 1000
_MAX_ENCODED_MESSAGE = 1500

DETAILS_KEY = "grpc-status-details-bin"
CODES: dict[str, grpc.StatusCode] = {code.name: code for code in grpc.StatusCode}


def domain_of(service: str) -> str:
    """The ErrorInfo domain of a service, ``record`` → ``record.modelkeep.dev``."""
    return f"{service}.modelkeep.dev"


def to_status(error: ModelkeepError, domain: str, request_id: str = "") -> status_pb2.Status:
    """The status of ``error``; its code and message are those to give the call as well."""
    code = CODES[error.code]
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=domain)
    for key, value in error.facts.items():
        info.metadata[_clip(key)] = _clip(value)
    optional: list[Message] = []
    if error.retry_after is not None:
        optional.append(_retry_info(error.retry_after))
    if error.violations:
        optional.append(_bad_request(error))
    elif isinstance(error, NotFoundException | ConflictException):
        optional.extend(_resource_info(error))
    if isinstance(error, ExhaustedException):
        violation = error_details_pb2.QuotaFailure.Violation(
            subject=error.reason, description=_clip(error.message)
        )
        optional.append(error_details_pb2.QuotaFailure(violations=[violation]))
    elif error.code == "FAILED_PRECONDITION":
        broken = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=_subject(error), description=_clip(error.message)
        )
        optional.append(error_details_pb2.PreconditionFailure(violations=[broken]))
    if request_id:
        optional.append(error_details_pb2.RequestInfo(request_id=request_id))
    return _assemble(code.value[0], _clip_message(error.message), info, optional)


def internal_status(domain: str, request_id: str) -> status_pb2.Status:
    """What an unexpected exception becomes: nothing of it but the id to find it by in the log."""
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=domain, metadata={"request_id": request_id})
    message = f"Internal error; the server's log has it under request id {request_id}."
    return _assemble(
        grpc.StatusCode.INTERNAL.value[0],
        message,
        info,
        [error_details_pb2.RequestInfo(request_id=request_id)],
    )


def _assemble(
    code: int, message: str, info: error_details_pb2.ErrorInfo, optional: list[Message]
) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=message)
    # A peer that learns nothing else must learn the reason: metadata goes before ErrorInfo does.
    while info.metadata and info.ByteSize() > MAX_STATUS_BYTES - len(message.encode()) - 200:
        del info.metadata[max(info.metadata, key=lambda key: len(key) + len(info.metadata[key]))]
    status.details.add().Pack(info)
    for detail in optional:
        packed = status.details.add()
        packed.Pack(detail)
        if status.ByteSize() > MAX_STATUS_BYTES:
            del status.details[-1]
    return status


def _retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    return error_details_pb2.RetryInfo(retry_delay=to_duration(max(0.0, seconds)))


def _bad_request(error: ModelkeepError) -> error_details_pb2.BadRequest:
    detail = error_details_pb2.BadRequest()
    room = MAX_STATUS_BYTES // 2
    for violation in error.violations:
        added = detail.field_violations.add(
            field=_clip(violation.field), description=_clip(violation.description), reason=error.reason
        )
        room -= added.ByteSize() + 4
        if room < 0:
            del detail.field_violations[-1]
            break
    return detail


#: Metadata keys that name a resource, and its type.
_RESOURCES = (
    ("key", "modelkeep.dev/Model"),
    ("path", "modelkeep.dev/Path"),
    ("job_id", "modelkeep.dev/Job"),
    ("id", "modelkeep.dev/Job"),
    ("lease_id", "modelkeep.dev/Lease"),
)


def _resource_info(error: ModelkeepError) -> list[Message]:
    for key, kind in _RESOURCES:
        if key in error.metadata:
            return [
                error_details_pb2.ResourceInfo(
                    resource_type=kind,
                    resource_name=_clip(error.metadata[key]),
                    description=_clip(error.message),
                )
            ]
    return []


def _subject(error: ModelkeepError) -> str:
    return next((_clip(error.metadata[key]) for key, _ in _RESOURCES if key in error.metadata), "")


def _clip(text: str, limit: int = _MAX_TEXT) -> str:
    """At most ``limit`` characters, and none that protobuf or a header cannot carry."""
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def _clip_message(text: str) -> str:
    clipped = _clip(text, _MAX_MESSAGE)
    while len(quote(clipped, safe=_UNQUOTED)) > _MAX_ENCODED_MESSAGE:
        clipped = _clip(clipped, len(clipped) * 3 // 4)
    return clipped


#: What ``grpc-message`` does not encode: printable ASCII.
_UNQUOTED = "".join(map(chr, range(0x20, 0x7F)))

#: Status codes by their number on the wire.
CODE_OF_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
