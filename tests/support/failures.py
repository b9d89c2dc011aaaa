"""How tests look at the errors of calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from modelkeep.exceptions import BY_REASON, ModelkeepError
from modelkeep.reasons import COMMON_KEYS, SITUATIONS
from modelkeep.rpc import Address, decode


@dataclass
class Failure:
    """What a call answered in place of a response."""

    code: grpc.StatusCode
    reason: str
    domain: str
    metadata: dict[str, str]
    #: Paths of the bad fields.
    fields: list[str]


@contextlib.contextmanager
def fails(*, code: str, reason: str, fields: list[str] | None = None) -> Iterator[list[Failure]]:
    """The call inside fails like this; ``fields`` are those that BadRequest must name.

    The failure is in the list afterwards.
    """
    found: list[Failure] = []
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        yield found
    failure = failure_of(raised.value)
    found.append(failure)
    assert (failure.code.name, failure.reason) == (code, reason), raised.value.details()
    known = {*SITUATIONS[reason].keys, *COMMON_KEYS}
    assert failure.metadata.keys() <= known, f"{reason} has no such keys: see modelkeep/reasons.py"
    if fields is not None:
        assert failure.fields == fields
    if code == "INVALID_ARGUMENT" and reason not in ("REQUEST_ID_REUSED", "RESUME_TOKEN_FOREIGN"):
        assert failure.fields, "bad input is answered with the bad fields"


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    """The parts of an error's google.rpc.Status."""
    status = status_of(error)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(bad.DESCRIPTOR):
            detail.Unpack(bad)
    if info.reason:
        assert info.domain.endswith(".modelkeep.dev")
    fields = [violation.field for violation in bad.field_violations]
    return Failure(error.code(), info.reason, info.domain, dict(info.metadata), fields)


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The google.rpc.Status of an error; an empty one if it has none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            return status_pb2.Status.FromString(value)
    return status_pb2.Status()


@contextlib.contextmanager
def refused(reason: str) -> Iterator[ModelkeepError]:
    """What is inside fails with this reason; afterwards the exception it stands for can be looked at."""
    found = BY_REASON[reason]("")
    with pytest.raises(grpc.RpcError) as raised:
        yield found
    error = decode(raised.value, Address("record", "", "the test"))
    assert error.reason == reason, raised.value
    assert error.message
    assert "Traceback" not in str(raised.value)
    assert raised.value.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    if raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT and reason == "FIELD_INVALID":
        assert error.violations, "a bad field is named"
    found.__dict__.update(error.__dict__)
