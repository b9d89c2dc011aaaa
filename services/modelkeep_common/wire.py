"""Times, durations and sizes on the wire: conversions that cannot fail.

What a file, a peer or a clock says may lie outside what the wire carries: a file modified in the year
11476, sizes whose sum is beyond 2^63. Such values become the nearest one that can be said. Whatever is
compared with a value that crossed the wire goes through the same function first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

#: Bounds of int64.
MIN_INT64, MAX_INT64 = -(1 << 63), (1 << 63) - 1
#: Timestamps reach from the year 1 to the year 9999, as seconds since 1970.
MIN_TIME_S, MAX_TIME_S = -62_135_596_800, 253_402_300_799
#: Durations reach 10,000 years both ways.
_MAX_DURATION_S = 315_576_000_000


def clamped_time(seconds: float) -> float:
    """Seconds since 1970 as a Timestamp can hold them; 1970 for what is no number."""
    return 0.0 if math.isnan(seconds) else min(max(seconds, MIN_TIME_S), MAX_TIME_S)


def to_timestamp(seconds: float) -> Timestamp:
    """Seconds since 1970 as a Timestamp, to the microsecond."""
    whole, micros = divmod(round(clamped_time(seconds) * 1e6), 1_000_000)
    return Timestamp(seconds=whole, nanos=micros * 1000)


def clamped_timestamp(value: Timestamp) -> Timestamp:
    """A time that somebody sent, or the nearest one that can be."""
    return to_timestamp(to_seconds(value)) if not MIN_TIME_S <= value.seconds <= MAX_TIME_S else value


def to_time_text(value: Timestamp) -> str:
    """A time as RFC 3339 says it, in UTC, with all of its digits: ``2026-01-31T12:00:00.5Z``."""
    if not MIN_TIME_S <= value.seconds <= MAX_TIME_S or not 0 <= value.nanos < 10**9:
        value = to_timestamp(to_seconds(value))
    return value.ToJsonString()


def from_time_text(text: str) -> Timestamp:
    """The time of a text: of RFC 3339, or of ISO 8601 as Python reads it, in UTC where no zone is named.

    Raises:
        ValueError: It is no time.
    """
    found = Timestamp()
    try:
        found.FromJsonString(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        try:
            found.FromDatetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
        except OverflowError:
            raise ValueError("is beyond the years 1 to 9999") from None
    return found


def to_duration(seconds: float) -> Duration:
    """Seconds as a Duration, to the microsecond; 0 for what is no number."""
    bounded = 0.0 if math.isnan(seconds) else min(max(seconds, -_MAX_DURATION_S), _MAX_DURATION_S)
    whole = math.trunc(bounded)
    return Duration(seconds=whole, nanos=round((bounded - whole) * 1e6) * 1000)


def to_seconds(value: Timestamp | Duration) -> float:
    """Seconds since 1970, or seconds, of whatever a peer put into the message; always finite."""
    return float(value.seconds + value.nanos / 1e9)


def to_micros(value: Timestamp) -> int:
    """Whole microseconds since 1970 of a time that this suite wrote."""
    return int(value.seconds * 1_000_000 + value.nanos // 1000)


def clamped_int(number: int) -> int:
    """A whole number as an int64 can hold it."""
    return min(max(number, MIN_INT64), MAX_INT64)


def total(sizes: Iterable[int]) -> int:
    """The sum, or the largest int64 if it is beyond that."""
    return clamped_int(sum(sizes))


def field_bytes(number: int, message: bytes) -> bytes:
    """A field of a message's kind, as it goes over the wire, from its number and a serialised message.

    For answers that are mostly what was serialised before.
    https://protobuf.dev/programming-guides/encoding/#structure
    """
    return _varint(number << 3 | 2) + _varint(len(message)) + message


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
