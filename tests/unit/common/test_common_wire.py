"""modelkeep_common.wire and tokens: no value from outside makes a conversion fail."""

from __future__ import annotations

import base64
import json
import math

from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from modelkeep_common import tokens, wire

FLOATS = st.floats() | st.integers(-(2**70), 2**70).map(float)
INT64 = st.integers(wire.MIN_INT64, wire.MAX_INT64)
FIELDS = st.lists(st.text() | INT64 | st.floats(allow_nan=False, allow_infinity=False), max_size=6)


@given(FLOATS)
def test_every_time_becomes_a_timestamp_that_every_language_can_read(seconds: float) -> None:
    stamp = wire.to_timestamp(seconds)
    assert 1 <= stamp.ToDatetime().year <= 9999
    if wire.MIN_TIME_S <= seconds <= wire.MAX_TIME_S:
        assert abs(wire.to_seconds(stamp) - seconds) < 1e-4
        assert wire.clamped_time(seconds) == seconds


def test_a_file_of_the_year_11476_has_the_last_time_there_is() -> None:
    assert wire.to_timestamp(3e11).ToJsonString() == "9999-12-31T23:59:59Z"
    assert wire.clamped_time(3e11) == wire.clamped_time(4e11) == wire.MAX_TIME_S


@given(FLOATS)
def test_every_number_of_seconds_becomes_a_duration(seconds: float) -> None:
    duration = wire.to_duration(seconds)
    assert duration.ToJsonString()
    if abs(seconds) < 1e9:
        assert abs(wire.to_seconds(duration) - seconds) < 1e-6


@given(INT64, st.integers(-(2**31), 2**31 - 1))
def test_whatever_a_peer_puts_into_a_time_is_a_finite_number(seconds: int, nanos: int) -> None:
    assert math.isfinite(wire.to_seconds(Timestamp(seconds=seconds, nanos=nanos)))
    assert math.isfinite(wire.to_seconds(Duration(seconds=seconds, nanos=nanos)))
    assert isinstance(wire.to_micros(Timestamp(seconds=seconds, nanos=nanos)), int)


@given(st.lists(INT64))
def test_a_sum_of_sizes_stays_within_an_int64(sizes: list[int]) -> None:
    assert wire.total(sizes) == min(max(sum(sizes), wire.MIN_INT64), wire.MAX_INT64)


@given(FIELDS)
def test_a_token_holds_its_fields(fields: list[tokens.Field]) -> None:
    found = tokens.decode(tokens.encode(fields))
    assert found == fields
    assert [type(value) for value in found] == [type(value) for value in fields]


@given(FIELDS, st.data())
def test_a_token_has_one_spelling(fields: list[tokens.Field], data: st.DataObject) -> None:
    token = tokens.encode(fields)
    at = data.draw(st.integers(0, len(token)))
    other = token[:at] + data.draw(st.text(max_size=3)) + token[at + data.draw(st.integers(0, 2)) :]
    found = tokens.decode(other)
    assert found is None or tokens.encode(found) == other


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("=")))
def test_no_text_breaks_the_reader_of_tokens(text: str) -> None:
    found = tokens.decode(text)
    assert found is None or tokens.encode(found) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(JSON | st.lists(JSON))
@example([""])
def test_what_a_store_cannot_take_is_no_token(value: object) -> None:
    raw = json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()
    found = tokens.decode(base64.urlsafe_b64encode(raw).decode().rstrip("="))
    for field in found or ():
        if isinstance(field, str):
            field.encode()  # fails for what is no text
        assert type(field) is not int or wire.MIN_INT64 <= field <= wire.MAX_INT64
        assert type(field) is not float or math.isfinite(field)


def test_numbers_of_thousands_of_digits_and_deep_nesting_are_no_tokens() -> None:
    for raw in (
        b"[" + b"9" * 10_000 + b"]",
        b"[" * 20_000,
        b"[1e999]",
        b'["\\ud800"]',
        b"[18446744073709551616]",
    ):
        assert tokens.decode(base64.urlsafe_b64encode(raw).decode().rstrip("=")) is None


@given(st.binary(max_size=70_000), st.sampled_from(["", "a", "b" * 200]))
def test_a_field_of_bytes_is_read_as_the_message_that_it_was(value: bytes, text: str) -> None:
    inner = any_pb2.Any(type_url=text, value=value)
    number = status_pb2.Status.DETAILS_FIELD_NUMBER
    data = status_pb2.Status(code=7).SerializeToString() + wire.field_bytes(number, inner.SerializeToString())
    assert status_pb2.Status.FromString(data) == status_pb2.Status(code=7, details=[inner])
    high = wire.field_bytes(1000, b"")
    assert high == b"\xc2\x3e\x00"  # 1000 << 3 | 2, seven bits at a time
