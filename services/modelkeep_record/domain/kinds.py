"""The type of a record and the arm of its config, which go together; what another kind of model keeps."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from google.protobuf.message import Message

from modelkeep.configs.wire import arm_of_type, kind_violations, type_of_arm_name
from modelkeep.model.v1.model_pb2 import Model


def type_of_arm(model: Model) -> Any:
    """The type whose settings a record has; 0 if it has none."""
    arm = model.WhichOneof("config")
    return 0 if arm is None else type_of_arm_name(arm)


def select_arm(model: Model) -> None:
    """Set the arm of the record's type, empty, if the record has none."""
    arm = arm_of_type(model.type)
    if arm is not None and model.WhichOneof("config") is None:
        getattr(model, arm).SetInParent()


def switch(model: Model, update: Model, named: Set[str]) -> None:
    """Give a record the type that an update says, or that follows from the arm that it gives.

    Another type has another arm: that makes room for it, so that paths into it can be applied.

    Args:
        model: The record; changed in place.
        update: The update.
        named: The paths of its mask; none: what is set in it.
    """
    arm = update.WhichOneof("config")
    says_type = bool(update.type) and (not named or bool(named & {"type", "*"}))
    says_arm = arm is not None and (not named or bool(named & {arm, "*"}))
    if not says_type and says_arm and not (named and "type" in named):
        update.type = type_of_arm(update)
        says_type = True
    if not says_type:
        return
    model.type = update.type
    new = arm_of_type(model.type)
    if new is not None and model.WhichOneof("config") != new:
        getattr(model, new).SetInParent()


def carry(before: Model, model: Model, named: Set[str]) -> list[str]:
    """Keep in a record of another type what both kinds have, as far as the update did not say it.

    Args:
        before: The record before the update.
        model: The record; changed in place.
        named: The paths of the update's mask.

    Returns:
        Paths of what was set before and is lost, since the new kind has no such field.
    """
    if before.type == model.type:
        return []  # a format that has no such field wants it cleared by name
    old_arm, new_arm = before.WhichOneof("config"), model.WhichOneof("config")
    if old_arm is None or new_arm is None:
        return []
    old, new = getattr(before, old_arm), getattr(model, new_arm)
    said = bool(named & {new_arm, "*"})
    for field, _ in old.ListFields():
        if old_arm != new_arm and not said and _is_same(field, new) and not _is_set(new, field.name):
            _copy(old, new, field)
    if not said:
        for violation in kind_violations(model):
            arm, _, name = violation.field.partition(".")
            if arm == new_arm and name and _is_set(old, name) and violation.field not in named:
                new.ClearField(name)
    return [f"{old_arm}.{field.name}" for field, _ in old.ListFields() if not _is_set(new, field.name)]


def _is_same(field: Any, message: Message) -> bool:
    """Whether a message has such a field too."""
    other: Any = message.DESCRIPTOR.fields_by_name.get(field.name)
    return other is not None and (other.type, other.is_repeated, other.message_type, other.enum_type) == (
        *(field.type, field.is_repeated, field.message_type, field.enum_type),
    )


def _is_set(message: Message, name: str) -> bool:
    return any(field.name == name for field, _ in message.ListFields())


def _copy(old: Message, new: Message, field: Any) -> None:
    value = getattr(old, field.name)
    if field.is_repeated:
        getattr(new, field.name).MergeFrom(value)
    elif field.message_type is not None:
        getattr(new, field.name).CopyFrom(value)
    else:
        setattr(new, field.name, value)
