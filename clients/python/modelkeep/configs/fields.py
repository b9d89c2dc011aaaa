"""Single fields between messages and Python, by their descriptors: no field is named here.

Enums are members of the vocabulary's enums, times are datetimes, parts (messages inside a message) are
mappings. Whoever needs a class makes it of those.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel

from modelkeep.taxonomy import WIRE_ENUMS, wire_name, wire_prefix

#: Python's (the original's) name of a field → the wire's, where they differ.
WIRE_NAMES: Final[Mapping[str, str]] = {
    "model_type": "type",
    "model_format": "format",
    "base_model": "base",
    "config": "checkpoint_config",
}


class UnknownValueError(ValueError):
    """An enum number or a base that this version does not know."""


@cache
def enum_of(descriptor: Any) -> type[StrEnum]:
    """The enum of the vocabulary that an enum of the wire is."""
    unspecified = descriptor.values[0].name
    return next(enum for enum in WIRE_ENUMS if unspecified == f"{wire_prefix(enum)}UNSPECIFIED")


def number_of(descriptor: Any, value: str) -> int:
    """The number of a member, or of its text.

    Raises:
        ValueError: There is no such member.
    """
    return int(descriptor.values_by_name[wire_name(enum_of(descriptor)(value))].number)


def member_of(descriptor: Any, number: int) -> StrEnum:
    """The member with a number.

    Raises:
        UnknownValueError: There is none in this version.
    """
    try:
        return _members(descriptor)[number]
    except KeyError:
        name = enum_of(descriptor).__name__
        raise UnknownValueError(f"{name} has no value for the number {number}") from None


@cache
def _members(descriptor: Any) -> dict[int, StrEnum]:
    return {number_of(descriptor, member): member for member in enum_of(descriptor)}


def put(message: Message, name: str, value: Any) -> None:
    """Set a field to a value of Python; None unsets it.

    Raises:
        ValueError, TypeError: The field cannot have this value.
    """
    field = message.DESCRIPTOR.fields_by_name[name]
    if value is not None and is_part(field):
        part = getattr(message, name)  # what a newer version put into it stays
        part.SetInParent()
        fill(part, dict(value))
        return
    message.ClearField(name)
    if value is None:
        return
    if is_map(field):
        getattr(message, name).update(value)
    elif field.is_repeated:
        for item in value:
            if field.message_type is None:
                getattr(message, name).append(str(item))
            else:
                fill(getattr(message, name).add(), dict(item) if isinstance(item, BaseModel) else item)
    elif field.enum_type is not None:
        setattr(message, name, number_of(field.enum_type, value))
    elif isinstance(value, datetime):
        getattr(message, name).FromDatetime(value)
    else:
        setattr(message, name, str(value) if isinstance(value, str) else value)


def fill(message: Message, values: Mapping[str, Any]) -> None:
    """:func:`put` of those values, by the wire's names, that the message has a field for."""
    for name in values.keys() & set(message.DESCRIPTOR.fields_by_name):
        put(message, name, values[name])


def values_of(message: Message, only: Iterable[str] | None = None) -> dict[str, Any]:
    """The values of the fields that are set, by the wire's names; ``only`` those of some names.

    Raises:
        UnknownValueError: An enum has a number that this version does not know.
    """
    fields = message.DESCRIPTOR.fields_by_name
    values: dict[str, Any] = {}
    for name in fields if only is None else only:
        field, value = fields[name], getattr(message, name)
        if _is_set(message, field, value):
            values[name] = _get(field, value)
    return values


def readable_values(message: Message, only: Iterable[str] | None = None) -> dict[str, Any]:
    """The same without what this version does not know."""
    values: dict[str, Any] = {}
    for name in message.DESCRIPTOR.fields_by_name if only is None else only:
        with contextlib.suppress(UnknownValueError):
            values |= values_of(message, (name,))
    return values


def _is_set(message: Message, field: Any, value: Any) -> bool:
    if field.is_repeated:
        return len(value) > 0
    return message.HasField(field.name) if field.has_presence else bool(value != field.default_value)


def is_map(field: Any) -> bool:
    """Whether the field is a map (of texts, in this API)."""
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def is_part(field: Any) -> bool:
    """Whether the field is one message of several values, which a time is not."""
    kind = field.message_type
    return bool(
        kind is not None and not field.is_repeated and kind.full_name != Timestamp.DESCRIPTOR.full_name
    )


def _get(field: Any, value: Any) -> Any:
    if is_map(field):
        return dict(value)
    if field.is_repeated:
        return [values_of(item) if field.message_type is not None else item for item in value]
    if field.enum_type is not None:
        return member_of(field.enum_type, value)
    if isinstance(value, Timestamp):
        return _moment(value)
    return values_of(value) if isinstance(value, Message) else value


def _moment(value: Timestamp) -> datetime:
    """The time, or the nearest that a datetime can hold."""
    try:
        return value.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return (datetime.max if value.seconds > 0 else datetime.min).replace(tzinfo=UTC)
