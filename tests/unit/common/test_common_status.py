"""modelkeep_common.calls.status and the error path: every exception of the suite has its Status."""

from __future__ import annotations

import logging

import grpc
import pytest
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.errors.v1 import error_reason_pb2
from modelkeep.exceptions import BY_REASON, FieldInvalidException, FieldViolation, ModelkeepError
from modelkeep_common.calls.errors import status_of
from modelkeep_common.calls.status import domain_of, internal_status, to_status


def details(status: status_pb2.Status) -> dict[str, object]:
    found: dict[str, object] = {}
    for packed in status.details:
        name = packed.type_url.rsplit(".", 1)[-1]
        message = getattr(error_details_pb2, name)()
        packed.Unpack(message)
        found[name] = message
    return found


def info_of(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    info = details(status)["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    return info


@pytest.mark.parametrize("reason", sorted(BY_REASON))
def test_every_exception_has_a_code_and_a_reason_that_the_api_lists(reason: str) -> None:
    cls = BY_REASON[reason]
    status = to_status(cls("What went wrong.", metadata={"key": "v"}, retry_after=2), "record.modelkeep.dev")
    assert status.code == grpc.StatusCode[cls.code].value[0]
    assert status.message == "What went wrong."
    assert info_of(status).metadata.get("remedy", "") == cls("", metadata={"key": "v"}).remedy
    found = details(status)
    info = found["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, info.metadata["key"]) == (reason, "record.modelkeep.dev", "v")
    retry = found["RetryInfo"]
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.seconds == 2
    assert f"ERROR_REASON_{reason}" in error_reason_pb2.ErrorReason.keys()  # noqa: SIM118  not a dict


@given(
    st.text(),
    st.dictionaries(st.text(), st.text()),
    st.lists(st.builds(FieldViolation, st.text(), st.text()), max_size=30),
    st.none() | st.floats(0, 1e6),
)
def test_any_error_fits_into_trailers_with_its_reason(
    message: str, metadata: dict[str, str], violations: list[FieldViolation], retry_after: float | None
) -> None:
    error = FieldInvalidException(message, metadata=metadata, violations=violations, retry_after=retry_after)
    status = to_status(error, domain_of("record"))
    assert status.ByteSize() < 4096
    info = details(status)["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.reason == "FIELD_INVALID"


@pytest.mark.parametrize("character", ["x", "ü", "😀", "\udcff"])
def test_huge_texts_fit_too(character: str) -> None:
    error = FieldInvalidException(
        character * 100_000,
        metadata={character * 1000 + str(number): character * 10_000 for number in range(40)},
        violations=[FieldViolation(character * 1000, character * 1000)] * 40,
    )
    status = to_status(error, domain_of("record"))
    assert status.ByteSize() < 4096
    assert "ErrorInfo" in details(status)


def test_violations_are_mapped_one_to_one() -> None:
    error = FieldInvalidException(
        "Bad.", violations=[FieldViolation("a.b", "too long"), FieldViolation("c", "x")]
    )
    bad = details(to_status(error, "d"))["BadRequest"]
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [("a.b", "too long"), ("c", "x")]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret"),
        ModelkeepError("secret"),
        ExceptionGroup("secret", [KeyError("secret")]),
        type("Odd", (ModelkeepError,), {"reason": "X", "code": "NO_SUCH_CODE"})("secret"),
    ],
)
def test_what_is_unexpected_tells_the_client_nothing_but_an_id(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        status, reason = status_of(error, "record.modelkeep.dev", "s/M", "id-7")
    assert reason == "INTERNAL"
    assert status == internal_status("record.modelkeep.dev", "id-7")
    assert b"secret" not in status.SerializeToString()
    assert b"id-7" in status.SerializeToString()
    assert len(caplog.records) == 1


def test_a_message_that_does_not_parse_is_the_callers_mistake() -> None:
    status, reason = status_of(DecodeError("secret"), "d", "s/M", "id")
    assert (status.code, reason) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "FIELD_INVALID")
    assert b"secret" not in status.SerializeToString()
