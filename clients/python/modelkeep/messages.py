"""Messages of what a caller gives: a value that a field cannot have is told by its field, not by protobuf."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.taxonomy import wire_name

M = TypeVar("M", bound=Message)
E = TypeVar("E", bound=StrEnum)

_INT32: Final = "a whole number from -2,147,483,648 to 2,147,483,647"
_INT64: Final = "a whole number from -9,223,372,036,854,775,808 to 9,223,372,036,854,775,807"
_KINDS: Final = {
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_UINT32: "a whole number from 0 to 4,294,967,295",
    FieldDescriptor.TYPE_UINT64: "a whole number from 0 to 18,446,744,073,709,551,615",
    FieldDescriptor.TYPE_DOUBLE: "a number",
    FieldDescriptor.TYPE_FLOAT: "a number",
    FieldDescriptor.TYPE_BOOL: "true or false",
    FieldDescriptor.TYPE_STRING: "a text that UTF-8 can hold",
    FieldDescriptor.TYPE_BYTES: "bytes",
}
_SHOWN: Final = 100
_MAX_DURATION_S: Final = 315_576_000_000


def made(cls: type[M], /, **fields: Any) -> M:
    """A message with these fields; None leaves one unset.

    Raises:
        FieldInvalidException: A field cannot have its value; says what it may have.
    """
    try:
        return cls(**fields)
    except (TypeError, ValueError):
        violations = [
            FieldViolation(name, must_be(cls.DESCRIPTOR.fields_by_name[name], value))
            for name, value in fields.items()
            if name in cls.DESCRIPTOR.fields_by_name and not _fits(cls, name, value)
        ]
        if not violations:
            raise
        raise FieldInvalidException("", violations=violations) from None


def duration(seconds: float, field: str, or_else: str = "") -> Duration:
    """Seconds as a Duration, to the millisecond.

    Args:
        seconds: How many.
        field: The field that they are for.
        or_else: What else the field may have, in words.

    Raises:
        FieldInvalidException: It is no number, negative, or beyond 10,000 years.
    """
    if not 0 <= seconds <= _MAX_DURATION_S:
        problem = f"must be from 0 to {_MAX_DURATION_S:,} seconds{or_else}, not {seconds}"
        raise FieldInvalidException("", violations=[FieldViolation(field, problem)])
    millis = round(seconds * 1000)
    return Duration(seconds=millis // 1000, nanos=millis % 1000 * 1_000_000)


def time_kept(seconds: float | None) -> Duration | None:
    """How long something is kept, as ``keep_alive`` says it: all that is negative means for ever.

    Raises:
        FieldInvalidException: It is no number, or beyond 10,000 years.
    """
    if seconds is None:
        return None
    if seconds < 0:
        return Duration(seconds=-1)
    return duration(seconds, "keep_alive", or_else=", or negative for as long as there is room")


def wire(enum: type[E], value: str, field: str) -> str:
    """The name on the wire of an enum's member, or of its text.

    Raises:
        FieldInvalidException: There is no such member; the message lists those that there are.
    """
    try:
        return wire_name(enum(value))
    except ValueError:
        raise none_of(field, value, [member.value for member in enum]) from None


def none_of(field: str, said: str, known: Iterable[str]) -> FieldInvalidException:
    """What is said of a word that a field cannot have; of a long list the word stands before it."""
    problem = f"is {said!r} and must be one of {', '.join(known)}"
    return FieldInvalidException("", violations=[FieldViolation(field, problem)])


def wires(enum: type[E], values: Iterable[str], field: str) -> list[str]:
    """The names of several."""
    return [wire(enum, value, field) for value in values]


def must_be(field: Any, value: Any) -> str:
    """What a field may have, and what it was given: as a description of its violation."""
    if field.enum_type is not None:
        kind = f"one of {', '.join(known.name for known in field.enum_type.values)}"
    else:
        kind = _KINDS.get(field.type, "a message")
        if field.message_type is not None:
            kind = "pairs of texts" if field.message_type.GetOptions().map_entry else field.message_type.name
    shown = ascii(value)
    shown = shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"
    of_each = "in each entry " if field.is_repeated and "pairs" not in kind else ""
    return f"must be {of_each}{kind}, not {shown}"


def _fits(cls: type[Message], name: str, value: Any) -> bool:
    try:
        cls(**{name: value})
    except (TypeError, ValueError):
        return False
    return True
