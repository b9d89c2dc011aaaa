"""Requests against the rules in their .proto (protovalidate), before a handler sees them.

A message type without any rule costs nothing. Importing the engine takes a fifth of a second and a
type's first check some ten milliseconds, too long for an event loop: both are done on another thread,
the import right after the start, the first check at the first request of the type.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import cache
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from modelkeep.exceptions import FieldInvalidException, FieldViolation

from .sentences import in_words

#: Tag of the extensions (buf.validate.field), .message and .oneof: field 1159, length-delimited.
_RULE_TAG = b"\xba\x48"
_MAX_VIOLATIONS = 50
_LARGE_BYTES = 4 << 10


class Rules:
    """The rules of one message type."""

    __slots__ = ("_descriptor", "ready")

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor
        #: Whether `check` is quick from the first call on.
        self.ready = False

    async def prepare(self) -> None:
        """Compile the rules on another thread."""
        await asyncio.to_thread(self._compile)
        self.ready = True

    def _compile(self) -> None:
        collector()(message_factory.GetMessageClass(self._descriptor)())

    def check(self, message: Message, size: int = 0) -> None:
        """Raise FieldInvalidException with one violation per broken rule, if one is.

        Of a message of more than 4 KiB (``size`` bytes) only the first: to put thousands of them together
        would block the event loop.
        """
        violations = self.violations(message, first_only=size > _LARGE_BYTES)
        if violations:
            raise FieldInvalidException("", violations=violations)

    def violations(
        self, message: Message, *, first_only: bool = False, without: Collection[str] = ()
    ) -> list[FieldViolation]:
        """The rules that a message breaks, at most fifty.

        Args:
            message: The message.
            first_only: Whether to look for no other once one is found.
            without: Ids of rules that do not count, such as ``enum.defined_only``.
        """
        found = collector()(message, fail_fast=first_only and not without)
        counted = [one for one in found if one.proto.rule_id not in without]
        return [in_words(one, self._descriptor) for one in counted[:_MAX_VIOLATIONS]]


async def parsed(raw: bytes, parse: Callable[[bytes], Any], rules: Rules | None) -> Any:
    """The request, checked.

    Raises:
        DecodeError: It is no such message.
        FieldInvalidException: It breaks a rule.
    """
    try:
        request = parse(raw)
    except Exception as error:
        raise DecodeError from error
    if rules is not None:
        if not rules.ready:
            await rules.prepare()
        rules.check(request, len(raw))
    return request


def rules_of(descriptor: Descriptor | None) -> Rules | None:
    """The rules of messages of this type; None if there are none."""
    return None if descriptor is None or not has_rules(descriptor) else Rules(descriptor)


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
def collector() -> Callable[..., list[Any]]:
    """The engine's check; the first call imports the engine."""
    from protovalidate import Validator

    return Validator().collect_violations
