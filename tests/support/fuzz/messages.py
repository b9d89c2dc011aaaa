"""Strategies for messages of any type, out of their descriptors.

A value is of three kinds: an edge of its type, something that the suite itself has answered before (so
that calls get past "there is no such thing"), or noise. Which fields a message has decides the
descriptor alone, so a new RPC or field is covered when it is there.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

_F = FieldDescriptor
_INT32 = (_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32)
_UINT = (_F.TYPE_UINT32, _F.TYPE_UINT64, _F.TYPE_FIXED32, _F.TYPE_FIXED64)
_DEEPEST = 4
_EDGES = (0, 1, -1, 2, 50, 1000, 1001, 2**31 - 1, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63))
_SECONDS = (0, 1, -1, 86_400, 253_402_300_800, -62_135_596_801, 3 * 10**11, 2**63 - 1, -(2**63))
_TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "\n",
    "a" * 65,
    "b" * 5000,
    "é" * 40_000,
    "\U0001f600" * 3,
    "\u202egnp.exe",
    "0" * 32,
    "0" * 32 + "\n",
    "f" * 64,
    '"etag"',
    "any",
    "sd-1",
    "../../etc/passwd",
    "/",
    ".",
    "/" + "d/" * 2000,
    "/proc/self/mem",
    "a b c d e f g h i j k l m n o p",
    'zq" OR 1=1 --',
    "http://127.0.0.1:1/model.safetensors?token=x",
    "http://[::1]:0/",
    "http://127.0.0.1:99999/x",
    "http:///",
    "file:///etc/passwd",
    "00000000-0000-4000-8000-000000000000",
    "%s%n{0}",
    "WyJhIiwxXQ",
)


#: What is repeated many times has so many bytes at most.
_MANY_BYTES = 1 << 20


class Pool:
    """What the suite has answered, by the name of the field that it stood in."""

    def __init__(self, most: int = 40) -> None:
        self._most = most
        self._values: dict[str, list[Any]] = defaultdict(list)

    def learn(self, message: Message) -> None:
        """Take a message, and the texts, bytes and numbers in it."""
        self._add(message.DESCRIPTOR.full_name, message)
        for field, value in message.ListFields():
            for item in value if field.is_repeated and not _is_map(field) else [value]:
                if isinstance(item, Message):
                    self.learn(item)
                elif isinstance(item, str | bytes | int) and not _is_map(field):
                    self._add(field.name, item)

    def message(self, descriptor: Descriptor, at: int) -> Message | None:
        """A copy of a message of this type that was seen."""
        seen = self._values[descriptor.full_name]
        if not seen:
            return None
        copy: Message = type(seen[0])()
        copy.CopyFrom(seen[at % len(seen)])
        return copy

    def pick(self, name: str, at: int, kind: type) -> Any:
        """One of the values seen under this name, or a name that means the same; None if there is none."""
        for known in (name, *_ALIKE.get(name, ())):
            values = [value for value in self._values[known] if type(value) is kind]
            if values:
                return values[at % len(values)]
        return None

    def _add(self, name: str, value: Any) -> None:
        values = self._values[name]
        if value not in values:
            values.append(value)
            del values[: -self._most]


#: Fields of requests, and where answers have such values.
_ALIKE = {
    "keys": ("key",),
    "ids": ("id",),
    "hash": ("current_hash", "sha256"),
    "paths": ("path",),
    "page_token": ("next_page_token",),
    "ticket": ("lease_secret",),
    "destination": ("path",),
}


@functools.cache  # making a strategy takes longer than drawing from it
def messages(descriptor: Descriptor, pool: Pool, depth: int = 0) -> st.SearchStrategy[Message]:
    """Any message of a type."""
    cls = message_factory.GetMessageClass(descriptor)

    @st.composite
    def build(draw: st.DrawFn) -> Message:
        known = pool.message(descriptor, draw(st.integers(0, 99)))
        at_all = 7 if depth < 2 else 4
        if draw(st.booleans()) and known is not None:
            # One that was answered, with a field or two put wrong.
            message, at_all = known, 1
        else:
            message = cls()
        if descriptor.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            message.seconds = draw(st.sampled_from(_SECONDS))  # type: ignore[attr-defined]  # both have it
            message.nanos = draw(st.sampled_from((0, 1, -1, 10**9, 2**31 - 1)))  # type: ignore[attr-defined]
            return message
        # Most fields of a new one are set: a call with none is refused at once.
        for field in descriptor.fields:
            if draw(st.integers(0, 9)) < at_all:
                _fill(draw, message, field, pool, depth)
        return message

    return build()


def _fill(draw: st.DrawFn, message: Message, field: FieldDescriptor, pool: Pool, depth: int) -> None:
    if _is_map(field):
        assert field.message_type is not None
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        target = getattr(message, field.name)
        for _ in range(draw(st.sampled_from((1, 2, 40)))):
            name = draw(values(key, pool))
            if value.message_type is None:
                target[name] = draw(values(value, pool))
            else:
                target[name].CopyFrom(draw(messages(value.message_type, pool, depth + 1)))
    elif field.message_type is not None:
        if depth >= _DEEPEST:
            return
        made = [draw(messages(field.message_type, pool, depth + 1)) for _ in range(_few(draw, field))]
        if field.is_repeated:
            size = sum(part.ByteSize() for part in made)
            times = draw(st.sampled_from((1, 1, 1, 300)))
            # many of what has many in it itself would be more than any machine has
            getattr(message, field.name).extend(made * (times if size * times < _MANY_BYTES else 1))
        else:
            getattr(message, field.name).CopyFrom(made[0])
    elif field.is_repeated:
        made = [draw(values(field, pool)) for _ in range(_few(draw, field))]
        size = sum(len(item) if isinstance(item, str | bytes) else 8 for item in made)
        times = draw(st.sampled_from((1, 1, 1, 30, 2000)))
        getattr(message, field.name).extend(made * (times if size * times < _MANY_BYTES else 1))
    else:
        setattr(message, field.name, draw(values(field, pool)))


def _few(draw: st.DrawFn, field: FieldDescriptor) -> int:
    return draw(st.integers(1, 3)) if field.is_repeated else 1


@functools.cache
def values(field: FieldDescriptor, pool: Pool) -> st.SearchStrategy[Any]:
    """Any value of a field that is no message."""
    if field.type == _F.TYPE_BOOL:
        return st.booleans()
    if field.enum_type is not None:
        known = [value.number for value in field.enum_type.values]
        return st.sampled_from([*known, *known, -1, 999, 2**31 - 1])
    if field.type in (_F.TYPE_FLOAT, _F.TYPE_DOUBLE):
        return st.sampled_from((0.0, -0.0, 1.0, float("nan"), float("inf"), -float("inf"), 1e308, 5e-324))
    if field.type == _F.TYPE_STRING:
        return _known(field, pool, str, _texts(field, pool))
    if field.type == _F.TYPE_BYTES:
        return _known(field, pool, bytes, st.binary(max_size=200))
    low, high = (0, 2**32 - 1) if field.type in _UINT else (-(2**63), 2**63 - 1)
    if field.type in _INT32:
        low, high = -(2**31), 2**31 - 1
    edges = st.sampled_from([edge for edge in _EDGES if low <= edge <= high])
    return _known(field, pool, int, edges | st.integers(low, high))


def _texts(field: FieldDescriptor, pool: Pool) -> st.SearchStrategy[str]:
    noise = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    if not field.name.endswith("token"):
        return st.sampled_from(_TEXTS) | noise

    def altered(parts: tuple[int, int, str]) -> str:
        token = pool.pick(field.name, parts[0], str) or "WyJhIiwxXQ"
        at = parts[1] % len(token)
        return token[:at] + parts[2] + token[at + 1 :]

    return st.tuples(st.integers(0, 99), st.integers(0, 999), st.sampled_from("AZaz09_-=.\0é")).map(altered)


def _known(
    field: FieldDescriptor, pool: Pool, kind: type, other: st.SearchStrategy[Any]
) -> st.SearchStrategy[Any]:
    """What the suite has said, twice as often as anything else; what is picked depends on the moment."""
    first = kind() if kind is not int else 1

    def pick(at: int) -> Any:
        value = pool.pick(field.name, at, kind)
        return first if value is None or (field.type in _INT32 and abs(value) >= 2**31) else value

    known = st.integers(0, 99).map(pick)
    return st.one_of(known, known, other)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
