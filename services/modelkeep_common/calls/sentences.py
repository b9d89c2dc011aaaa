"""Broken rules in words: what a value must be, as a sentence goes on after the name of its field.

The engine's own texts are for whoever wrote the rules: they quote patterns. Those about bounds of numbers are
fine as they are. A test goes through every rule of every request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from modelkeep.exceptions import FieldViolation

#: What a text of a pattern is.
_PATTERNS: Final[Mapping[str, str]] = {
    r"\S": "must not be blank",
    "^[0-9a-f]{32}$": "must be 32 characters of 0-9 and a-f",
    "^[0-9a-f]{4,32}$": "must be 4 to 32 characters of 0-9 and a-f",
    "^[0-9a-f]{64}$": "must be 64 characters of 0-9 and a-f",
    "^[0-9a-fA-F]{64}$": "must be 64 hexadecimal characters",
    "^[a-z0-9]+(-[a-z0-9]+)*$": "must be of a-z and 0-9, with single hyphens between, such as sd-1",
    "^[a-z0-9./_-]{1,63}$": 'must be 1 to 63 characters of a-z, 0-9, ".", "/", "_" and "-"',
    "^(auto|cpu|(cuda|sim)(:[0-9]{1,3})?)$": 'must be "auto", "cpu", "cuda", or one device such as "cuda:1"',
    "^(cuda|sim):[0-9]{1,3}$": 'must be an accelerator such as "cuda:1"',
    "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$": (
        'must be 1 to 64 characters of A-Z, a-z, 0-9, ".", "_" and "-", and not begin with "."'
    ),
    "^[A-Za-z0-9._-]{0,64}$": 'must be at most 64 characters of A-Z, a-z, 0-9, ".", "_" and "-"',
}

#: Rule → what it asks for, of (the rule's value, the field's value).
_SENTENCES: Final[Mapping[str, Callable[[Any, Any], str]]] = {
    "required": lambda rule, value: "must be set",
    "enum.not_in": lambda rule, value: "must be set",
    "enum.defined_only": lambda rule, value: f"has the value {value}, which this version does not know",
    "string.min_len": lambda rule, value: f"must have {_counted(rule, 'character')} or more",
    "string.max_len": lambda rule, value: (
        f"must have at most {_counted(rule, 'character')}, not {len(value):,}"
    ),
    "string.max_bytes": lambda rule, value: (
        f"must have at most {_counted(rule, 'byte')} as UTF-8, not {len(value.encode()):,}"
    ),
    "bytes.max_len": lambda rule, value: f"must have at most {_counted(rule, 'byte')}, not {len(value):,}",
    "string.pattern": lambda rule, value: _PATTERNS.get(rule, "has characters that it may not have"),
    "string.uuid": lambda rule, value: "must be a UUID",
    "repeated.min_items": lambda rule, value: f"must have {_counted(rule, 'entry')} or more",
    "repeated.max_items": lambda rule, value: (
        f"must have at most {_counted(rule, 'entry')}, not {len(value):,}"
    ),
    "repeated.unique": lambda rule, value: "must not name the same twice",
    "map.max_pairs": lambda rule, value: f"must have at most {_counted(rule, 'entry')}, not {len(value):,}",
    "double.finite": lambda rule, value: "must be a finite number",
}


def in_words(violation: Any, request: Descriptor) -> FieldViolation:
    """A broken rule, as the engine found it in a message of this type."""
    proto = violation.proto
    elements = list(proto.field.elements) if proto.field is not None else []
    if choice := _choice(elements, request):
        return FieldViolation(_path(elements[:-1]) or elements[-1].field_name, choice)
    return FieldViolation(_path(elements), _description(violation))


def _description(violation: Any) -> str:
    proto, value = violation.proto, violation.field_value
    make = _SENTENCES.get(proto.rule_id)
    if isinstance(value, str | bytes) and not value:
        said = "must not be empty" if proto.for_key or _is_item(proto) else "must be set"
    elif make is not None:
        said = make(violation.rule_value, value)
    else:
        said = proto.message or f"breaks the rule {proto.rule_id}"
    return f"its key {said}" if proto.for_key else said


def _is_item(proto: Any) -> bool:
    return any(element.field_name in ("items", "values") for element in proto.rule.elements)


def _choice(elements: list[Any], request: Descriptor) -> str:
    """What a path to a oneof asks for; "" if it leads to a field."""
    message: Descriptor | None = request
    for element in elements:
        if message is None:
            return ""
        field: FieldDescriptor | None = message.fields_by_name.get(element.field_name)
        if field is None:
            oneof = message.oneofs_by_name.get(element.field_name)
            if oneof is None:
                return ""
            *others, last = [arm.name for arm in oneof.fields]
            return f"needs {', '.join(others)} or {last}"
        message = field.message_type
    return ""


def _path(elements: list[Any]) -> str:
    path = ""
    for element in elements:
        path += f".{element.field_name}" if path else element.field_name
        if (subscript := element.subscript) is not None:
            value = subscript.value
            path += f"[{value!r}]" if not isinstance(value, str) else f'["{value}"]'
    return path


def _counted(number: int, what: str) -> str:
    plural = {"entry": "entries"}.get(what, f"{what}s")
    return f"{number:,} {what if number == 1 else plural}"
