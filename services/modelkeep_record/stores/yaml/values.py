"""Single values of a file to those of a message's fields; each error says what was expected, and where."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from typing import Any, Final

from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from modelkeep.configs.fields import enum_of, is_map, number_of
from modelkeep_common.wire import from_time_text

from .names import UNKNOWN, readable, shown
from .nodes import Listing, Mapping, Node, Scalar
from .problems import Problem

_INTEGER: Final = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_TRUE, _FALSE = frozenset({"true", "yes", "on"}), frozenset({"false", "no", "off"})
#: How much a name must be like one that there is to be taken for a mistake in writing it.
_LIKE: Final = 0.85
_NAMED: Final = {".nan": "nan", ".inf": "inf", "+.inf": "inf", "-.inf": "-inf"}


def put(message: Message, field: Any, node: Node) -> None:
    """Set a field to what a file says.

    Raises:
        Problem: The field cannot have this value.
    """
    if isinstance(node, Scalar) and node.is_null:
        return
    if is_map(field):
        values = {
            name: _single(field.message_type.fields_by_name["value"], item)
            for name, item in _pairs(field, node)
        }
        getattr(message, field.name).update(values)
    elif field.is_repeated:
        _put_list(getattr(message, field.name), field, node)
    elif field.message_type is None:
        setattr(message, field.name, _single(field, node))
    else:
        part = getattr(message, field.name)
        part.SetInParent()
        _fill(part, field, node)


def merge_unknown(message: Message, node: Node) -> None:
    """Take in what a newer version wrote."""
    try:
        message.MergeFromString(bytes.fromhex(_scalar(UNKNOWN, node).text))
    except (ValueError, DecodeError):
        what = f"{UNKNOWN} must be what a newer version wrote there, unchanged"
        raise Problem(node.line, node.column, what) from None


def check_name(name: Scalar, known: Any) -> None:
    """Refuse a name that is most likely another one, written wrongly."""
    if close := get_close_matches(name.text, list(known), 1, _LIKE):
        raise Problem(name.line, name.column, f"there is no field {name.text}: {close[0]} is meant, perhaps")


def as_json(node: Node) -> str:
    """A value as JSON, as YAML's core schema reads it."""
    return json.dumps(_plain(node), ensure_ascii=False)


def _put_list(target: Any, field: Any, node: Node) -> None:
    if not isinstance(node, Listing):
        raise Problem(node.line, node.column, f"{shown(field)} must be a list")
    for item in node.items:
        if field.message_type is not None:
            _fill(target.add(), field, item)
        else:
            target.append(_single(field, item))


def _fill(message: Message, field: Any, node: Node) -> None:
    """Set a part of a record."""
    if isinstance(message, Timestamp):
        _set_time(message, field, node)
        return
    fields = readable(message.DESCRIPTOR)
    for name, item, place in _entries(field, node):
        if name == UNKNOWN:
            merge_unknown(message, item)
        elif (inner := fields.get(name)) is not None:
            put(message, inner, item)
        else:
            close = get_close_matches(name, list(fields), 1)
            meant = f": {close[0]} is meant, perhaps" if close else ""
            raise Problem(place.line, place.column, f"{shown(field)} has no field {name}{meant}")


def _entries(field: Any, node: Node) -> list[tuple[str, Node, Scalar]]:
    if not isinstance(node, Mapping):
        raise Problem(node.line, node.column, f"{shown(field)} must have fields with names")
    return [(name, item, place) for name, (place, item) in node.pairs.items()]


def _pairs(field: Any, node: Node) -> list[tuple[str, Node]]:
    return [(name, item) for name, item, _ in _entries(field, node)]


def _scalar(name: str, node: Node) -> Scalar:
    if not isinstance(node, Scalar):
        raise Problem(node.line, node.column, f"{name} must be a single value")
    return node


def _single(field: Any, node: Node) -> Any:
    scalar = _scalar(shown(field), node)
    text = scalar.text
    if field.enum_type is not None:
        return _number(field, scalar)
    match field.cpp_type:
        case field.CPPTYPE_STRING:
            return text
        case field.CPPTYPE_BOOL:
            return _truth(field, scalar)
        case field.CPPTYPE_DOUBLE | field.CPPTYPE_FLOAT:
            try:
                return float(_NAMED.get(text.lower(), text))
            except ValueError:
                what = f"{shown(field)} must be a number, not {_quote(text)}"
                raise Problem(node.line, node.column, what) from None
    bits = 32 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 64
    if not _INTEGER.fullmatch(text) or len(text) > 32 or not -(1 << bits - 1) <= int(text) < 1 << bits - 1:
        raise Problem(
            node.line,
            node.column,
            f"{shown(field)} must be a whole number of {bits} bits, not {_quote(text)}",
        )
    return int(text)


def _truth(field: Any, scalar: Scalar) -> bool:
    word = scalar.text.lower()
    if word not in _TRUE | _FALSE:
        raise Problem(
            scalar.line, scalar.column, f"{shown(field)} must be true or false, not {_quote(scalar.text)}"
        )
    return word in _TRUE


def _number(field: Any, scalar: Scalar) -> int:
    """The number of an enum's value: by its text, or the number itself where this version knows no text."""
    text = scalar.text
    if _INTEGER.fullmatch(text) and len(text) <= 10 and int(text) < 1 << 31:
        return int(text)
    try:
        return number_of(field.enum_type, text)
    except ValueError:
        known = [str(member) for member in enum_of(field.enum_type)]
    close = get_close_matches(text, known, 1)
    meant = f": {close[0]} is meant, perhaps" if close else f", but must be one of: {', '.join(known)}"
    raise Problem(scalar.line, scalar.column, f"{shown(field)} is {_quote(text)}{meant}")


def _set_time(message: Timestamp, field: Any, node: Node) -> None:
    text = _scalar(shown(field), node).text
    try:
        message.CopyFrom(from_time_text(text))
    except ValueError:
        what = f"{shown(field)} must be a time such as 2026-01-31T12:00:00Z, not {_quote(text)}"
        raise Problem(node.line, node.column, what) from None


def _plain(node: Node) -> Any:
    if isinstance(node, Mapping):
        return {name: _plain(item) for name, (_, item) in node.pairs.items()}
    if isinstance(node, Listing):
        return [_plain(item) for item in node.items]
    if not node.plain:
        return node.text
    if node.is_null:
        return None
    if node.text.lower() in ("true", "false"):
        return node.text.lower() == "true"
    try:
        return json.loads(node.text, parse_constant=str)
    except ValueError:
        return node.text


def _quote(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
