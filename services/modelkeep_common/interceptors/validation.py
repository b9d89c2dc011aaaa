"""Requests against the rules in their .proto (protovalidate), before a handler sees them.

A message type without any rule costs nothing. The engine is imported, and a type's rules compiled, at
the first request that needs them, so that a service starts fast and a bad rule stops one method only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from modelkeep.exceptions import FieldInvalidException, FieldViolation

#: Tag of the extensions (buf.validate.field), .message and .oneof: field 1159, length-delimited.
_RULE_TAG = b"\xba\x48"
_MAX_VIOLATIONS = 50


def validator_of(descriptor: Descriptor | None) -> Callable[[Message], None] | None:
    """What checks messages of this type; None if there is nothing to check.

    The checker raises FieldInvalidException with one violation per broken rule.
    """
    if descriptor is None or not has_rules(descriptor):
        return None
    return _check


def has_rules(descriptor: Descriptor, seen: set[str] | None = None) -> bool:
    """Whether the type, or one that it contains, has a rule."""
    seen = set() if seen is None else seen
    if descriptor.full_name in seen:
        return False
    seen.add(descriptor.full_name)
    annotated: list[Any] = [descriptor, *descriptor.fields, *descriptor.oneofs]
    if any(_RULE_TAG in element.GetOptions().SerializeToString() for element in annotated):
        return True
    return any(
        field.message_type is not None and has_rules(field.message_type, seen) for field in descriptor.fields
    )


@cache
def _collect() -> Callable[..., list[Any]]:
    from protovalidate import Validator

    return Validator().collect_violations


def _check(message: Message) -> None:
    found = _collect()(message)
    if found:
        violations = [_to_violation(violation.proto) for violation in found[:_MAX_VIOLATIONS]]
        raise FieldInvalidException(
            "The request has bad fields.",
            metadata={"fields": ",".join(dict.fromkeys(v.field for v in violations))[:500]},
            violations=violations,
        )


def _to_violation(violation: Any) -> FieldViolation:
    path = ""
    for element in violation.field.elements if violation.field is not None else ():
        path += f".{element.field_name}" if path else element.field_name
        subscript = element.subscript
        if subscript is not None:
            value = subscript.value
            path += f"[{value!r}]" if not isinstance(value, str) else f'["{value}"]'
    return FieldViolation(path, violation.message or violation.rule_id)
