"""A record as the names and values of its entry, before they are text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from modelkeep.configs.fields import UnknownValueError, is_map, member_of
from modelkeep.configs.wire import arm_of_type
from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep_common.wire import to_time_text

from .names import COMMON, FILES, OTHER_CONFIG, UNKNOWN, arm_fields, shown
from .reading import key_of


class Token(str):
    """What stands in a file as it is: a number, a time, a name of the vocabulary."""

    __slots__ = ()


#: A text, a token, a list or a mapping.
Tree: TypeAlias = "str | list[Any] | dict[str, Any]"

_WORDS: Final = {math.inf: ".inf", -math.inf: "-.inf"}
#: After these come the settings of the record's type.
_SETTINGS_AFTER: Final = "description"


def tree_of(model: Model, files: Sequence[ModelFile], name: str) -> dict[str, Tree]:
    """What stands in the entry of a record.

    Args:
        model: The record.
        files: Its files.
        name: The entry's name, which says the key unless it is another one.
    """
    tree: dict[str, Tree] = {}
    arm = model.WhichOneof("config")
    for field in COMMON:
        if field.name != "key" or key_of(name) != model.key:
            _add(tree, model, field)
        if field.name == _SETTINGS_AFTER and arm is not None:
            settings = getattr(model, arm)
            if arm != arm_of_type(model.type):
                tree[OTHER_CONFIG] = {arm: _part(settings)}
                continue
            for setting in arm_fields(model.type):
                _add(tree, settings, setting)
            if len(UnknownFieldSet(settings)):  # merged into the record, as a part of its config
                only = Model()
                getattr(only, arm).MergeFromString(_unknown(settings))
                tree[UNKNOWN] = _encoded(only.SerializeToString())
    if files and not model.size_bytes:
        tree["size_bytes"] = Token(0)  # else it would follow from the files
    if files:
        tree[FILES] = [_part(file) for file in files]
    if unknown := _unknown(model):  # of the record itself
        before = bytes.fromhex(str(tree.get(UNKNOWN, "")))
        tree[UNKNOWN] = _encoded(before + unknown)
    return tree


def _add(tree: dict[str, Tree], message: Message, field: Any) -> None:
    value = getattr(message, field.name)
    if field.is_repeated:
        is_set = len(value) > 0
    else:
        is_set = message.HasField(field.name) if field.has_presence else value != field.default_value
    if is_set:
        tree[shown(field)] = _value(field, value)


def _value(field: Any, value: Any) -> Tree:
    if is_map(field):
        # Maps have no order; this one is always the same.
        return {name: _single(field, value[name]) for name in sorted(value)}
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Tree:
    if isinstance(value, Timestamp):
        return Token(to_time_text(value))
    if isinstance(value, Message):
        return _part(value)
    if field.enum_type is not None:
        try:
            return Token(member_of(field.enum_type, value))
        except UnknownValueError:
            return Token(value)
    if isinstance(value, bool):
        return Token("true" if value else "false")
    if isinstance(value, float):
        return Token(".nan" if math.isnan(value) else _WORDS.get(value, repr(value)))
    return Token(value) if isinstance(value, int) else str(value)


def _part(message: Message) -> dict[str, Tree]:
    tree: dict[str, Tree] = {}
    for field in message.DESCRIPTOR.fields:
        _add(tree, message, field)
    if unknown := _unknown(message):
        tree[UNKNOWN] = _encoded(unknown)
    return tree


def _unknown(message: Message) -> bytes:
    """The fields of a message itself that this version does not know."""
    if not len(UnknownFieldSet(message)):
        return b""
    rest = type(message)()
    rest.CopyFrom(message)
    for field, _ in rest.ListFields():
        rest.ClearField(field.name)
    return rest.SerializeToString()


def _encoded(data: bytes) -> Token:
    return Token(data.hex())
