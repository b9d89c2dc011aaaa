"""Errors from the wire become the exceptions that the services raised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from modelkeep.client._addresses import Address, variable
from modelkeep.exceptions import (
    BY_REASON,
    CancelledException,
    DeadlineExceededException,
    FieldInvalidException,
    FieldViolation,
    ModelkeepError,
    NotFoundException,
    ServerBusyException,
    UnavailableException,
    UpstreamUnavailableException,
)
from modelkeep.server.v1 import job_pb2

_DETAILS_KEY: Final = "grpc-status-details-bin"
_DOMAIN: Final = ".modelkeep.dev"

#: Class by status code alone, for errors that gRPC or a proxy made, and for reasons of newer services.
_BY_CODE: Final[Mapping[grpc.StatusCode, type[ModelkeepError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: FieldInvalidException,
    grpc.StatusCode.NOT_FOUND: NotFoundException,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ServerBusyException,
    grpc.StatusCode.UNAVAILABLE: UnavailableException,
    grpc.StatusCode.CANCELLED: CancelledException,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededException,
}


def decode(error: aio.AioRpcError, address: Address) -> ModelkeepError:
    """The exception of a failed call.

    With a ``google.rpc.Status`` of the suite it is the class of its reason, as the service raised it.
    Without one the status code decides; a service that cannot be reached is an
    UpstreamUnavailableException that names service and address and says what to do.
    """
    code, text = error.code(), error.details() or ""
    status = _status(error)
    info = _error_info(status)
    if status is None or info is None:
        return _decode_bare(code, text, address)
    violations: list[FieldViolation] = []
    retry_after: float | None = None
    for detail in status.details:
        bad_request, retry_info = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad_request):
            violations += [FieldViolation(v.field, v.description) for v in bad_request.field_violations]
        elif detail.Unpack(retry_info):
            retry_after = retry_info.retry_delay.ToNanoseconds() / 1e9
    cls = BY_REASON.get(info.reason) or _BY_CODE.get(code, ModelkeepError)
    metadata = dict(info.metadata)
    if cls.reason != info.reason:
        metadata.setdefault("reason", info.reason)
    return cls(status.message or text, metadata=metadata, violations=violations, retry_after=retry_after)


def exception_of(error: job_pb2.JobError) -> ModelkeepError:
    """The exception that a job's error stands for; not raised, since the job failed and not the call."""
    cls = BY_REASON.get(error.reason, ModelkeepError)
    return cls(error.message, metadata=error.metadata)


def unreachable(address: Address, detail: str) -> UpstreamUnavailableException:
    """The exception for a service that does not answer."""
    service = address.service
    return UpstreamUnavailableException(
        f"The {service} service does not answer at {address.target} "
        f"(address from {address.origin}; {detail}). "
        f"Start the suite with `modelkeep up`, or say where it is with {variable(service)}=HOST:PORT.",
        metadata={"peer": service, "service": service, "address": address.target},
    )


def _short(text: str) -> str:
    """What gRPC says about a failed connection, without the addresses it repeats."""
    return text.rpartition(": ")[2].rstrip(".").lower() if "last error" in text else text


def _status(error: aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _error_info(status: status_pb2.Status | None) -> error_details_pb2.ErrorInfo | None:
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain.endswith(_DOMAIN):
            return info
    return None


def _decode_bare(code: grpc.StatusCode, text: str, address: Address) -> ModelkeepError:
    where = {"service": address.service, "address": address.target}
    if code is grpc.StatusCode.UNAVAILABLE:
        return unreachable(address, _short(text))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceededException(
            f"The {address.service} service at {address.target} did not answer in time; the work may have "
            "been done. Ask again, or give a longer timeout.",
            metadata=where,
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ModelkeepError(
            f"What answers at {address.target} is no {address.service} service of this version ({text}). "
            f"Check the address (from {address.origin}), or update one side.",
            metadata=where,
        )
    cls = _BY_CODE.get(code, ModelkeepError)
    return cls(
        f"The {address.service} service at {address.target} answered {code.name}: {text}", metadata=where
    )
