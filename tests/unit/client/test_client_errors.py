"""Errors from the wire become the exceptions that the services raised."""

from __future__ import annotations

import grpc
import pytest
from grpc import aio

from modelkeep.client import Address
from modelkeep.exceptions import (
    BY_REASON,
    ChecksumMismatchException,
    DeadlineExceededException,
    FieldInvalidException,
    FieldViolation,
    ModelkeepError,
    NotFoundException,
    QueueFullException,
    UpstreamUnavailableException,
)
from modelkeep.rpc import decode, exception_of
from modelkeep.server.v1 import job_pb2
from modelkeep_common.calls.status import CODES, domain_of, to_status

ADDRESS = Address("record", "127.0.0.1:1", "the default port")


def on_the_wire(error: ModelkeepError) -> aio.AioRpcError:
    status = to_status(error, domain_of("record"))
    metadata = aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return aio.AioRpcError(CODES[error.code], aio.Metadata(), metadata, details=error.message)


@pytest.mark.parametrize("cls", BY_REASON.values(), ids=lambda cls: cls.__name__)
def test_every_exception_comes_back_as_the_class_that_was_raised(cls: type[ModelkeepError]) -> None:
    back = decode(on_the_wire(cls("It is so.", metadata={"key": "a"})), ADDRESS)
    assert type(back) is cls
    assert (back.message, back.metadata["key"]) == ("It is so.", "a")
    assert back.remedy == cls("It is so.", metadata={"key": "a"}).remedy


def test_violations_and_the_time_to_wait_come_back() -> None:
    bad = FieldInvalidException("Bad.", violations=[FieldViolation("model.name", "too long")])
    assert decode(on_the_wire(bad), ADDRESS).violations == (FieldViolation("model.name", "too long"),)
    full = QueueFullException("Full.", retry_after=1.5)
    assert decode(on_the_wire(full), ADDRESS).retry_after == 1.5


def test_a_reason_of_a_newer_service_is_raised_by_its_code() -> None:
    class NewerException(ModelkeepError):
        reason = "MADE_NEXT_YEAR"
        code = "NOT_FOUND"

    back = decode(on_the_wire(NewerException("New.")), ADDRESS)
    assert type(back) is NotFoundException
    assert back.metadata["reason"] == "MADE_NEXT_YEAR"


def bare(code: grpc.StatusCode, text: str = "") -> ModelkeepError:
    return decode(aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details=text), ADDRESS)


def test_an_unreachable_service_is_named_with_its_address_and_what_to_do() -> None:
    refused = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused"
    error = bare(grpc.StatusCode.UNAVAILABLE, refused)
    assert type(error) is UpstreamUnavailableException
    assert error.metadata == {"peer": "record", "service": "record", "address": "127.0.0.1:1"}
    for part in ("record service", "127.0.0.1:1", "connection refused", "modelkeep up"):
        assert part in error.message
    assert "MODELKEEP_CLIENT_RECORD_ADDRESS" in error.message


def test_errors_without_details_are_raised_by_their_code() -> None:
    assert type(bare(grpc.StatusCode.DEADLINE_EXCEEDED)) is DeadlineExceededException
    assert type(bare(grpc.StatusCode.UNKNOWN)) is ModelkeepError
    assert "no record service" in bare(grpc.StatusCode.UNIMPLEMENTED).message


def test_damaged_details_do_not_hide_the_error() -> None:
    metadata = aio.Metadata(("grpc-status-details-bin", b"\xff\xff"))
    error = aio.AioRpcError(grpc.StatusCode.NOT_FOUND, aio.Metadata(), metadata, details="gone")
    assert type(decode(error, ADDRESS)) is NotFoundException


def test_a_jobs_error_becomes_the_exception_of_its_reason() -> None:
    failed = job_pb2.JobError(reason="CHECKSUM_MISMATCH", message="Other bytes.", metadata={"path": "/x"})
    error = exception_of(failed)
    assert type(error) is ChecksumMismatchException
    assert error.metadata == {"path": "/x"}
