"""Applying an update to a resource, all of it or nothing.

A mask's paths are relative to the resource (``name``, ``lora.default_weight``). Without a mask the
fields that are set in the update count, down to the single fields of sub-messages. A repeated field, a
map or a sub-message that a mask names is replaced as a whole, and cleared when the update lacks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from modelkeep.configs.fields import is_map
from modelkeep.exceptions import FieldInvalidException, FieldViolation

M = TypeVar("M", bound=Message)

#: Paths that a mask may have; no resource has so many fields.
MAX_PATHS = 256


def apply_update(
    current: M,
    update: M,
    mask: FieldMask | None,
    *,
    mutable: Set[str],
    immutable: Set[str] = frozenset(),
    prefix: str = "",
) -> list[str]:
    """Change ``current`` in place as ``update`` says.

    Args:
        current: The resource as it is.
        update: A resource with the new values.
        mask: Which paths to take; None or empty: those that are set in ``update``; ``*``: all mutable.
        mutable: Paths that may change; a path stands for everything below it as well.
        immutable: Paths that are set once; naming one with its present value is accepted.
            Whatever is in neither set is output only: accepted without a mask if it has its present
            value (somebody sends back what he read), refused in a mask.
        prefix: Put before the paths in violations, as ``model.``.

    A oneof: naming an arm as a whole selects it; a path into an arm that is not the present one is
    refused, because it would silently drop the other.

    Returns:
        The paths whose values changed, sorted.

    Raises:
        FieldInvalidException: The mask is too long, or has bad paths, each with its violation; ``current``
            is untouched then.
    """
    if mask is not None and len(mask.paths) > MAX_PATHS:
        raise FieldInvalidException(
            "The update mask is too long.",
            violations=[FieldViolation("update_mask", f"has more than {MAX_PATHS} paths")],
        )
    asked = set(mask.paths) if mask is not None else set()
    if not asked:
        paths = set(_populated(update, current))
    elif asked == {"*"}:
        # Of a oneof only the arm that the update has: clearing the others says nothing.
        paths = {path for path in mutable if _arm_matters(update, path)}
    else:
        paths = asked
    violations = [
        FieldViolation(prefix + path, problem)
        for path in sorted(paths)
        if (problem := _problem(current, update, path, paths, mutable, immutable, explicit=bool(asked)))
    ]
    if violations:
        raise FieldInvalidException(
            "The update names fields that cannot be changed.",
            violations=violations,
        )
    paths = _without_covered(paths)
    before = type(current)()
    before.CopyFrom(current)
    for path in sorted(paths):
        if _covered(path, mutable):
            _copy(current, update, path.split("."))
    return sorted(path for path in paths if _value(before, path) != _value(current, path))


def _problem(
    current: Message,
    update: Message,
    path: str,
    paths: Set[str],
    mutable: Set[str],
    immutable: Set[str],
    *,
    explicit: bool,
) -> str | None:
    fields = _resolve(current, path)
    if fields is None:
        return "is not a field"
    if not _covered(path, mutable):
        if _covered(path, immutable):
            return None if _value(current, path) == _value(update, path) else "cannot be changed"
        if any(name.startswith(path + ".") for name in mutable):
            return "cannot be replaced as a whole: name its fields"
        if not explicit and _value(current, path) == _value(update, path):
            return None
        return "is set by the server"
    for depth, field in enumerate(fields[:-1]):
        oneof = field.containing_oneof
        if oneof is None:
            continue
        parents = [parent.name for parent in fields[:depth]]
        present = _descend(current, parents).WhichOneof(oneof.name)
        chosen = _descend(update, parents).WhichOneof(oneof.name)
        if chosen is not None and ".".join([*parents, chosen]) in paths:
            present = chosen  # the same update selects this arm
        elif present is None and chosen is not None:
            # So does a path into it.
            into = ".".join([*parents, chosen]) + "."
            present = chosen if any(other.startswith(into) for other in paths) else None
        if present is not None and present != field.name:
            return f"belongs to {field.name}, but the resource has {present}"
    return None


def _populated(update: Message, current: Message, prefix: str = "") -> Iterator[str]:
    for field, value in update.ListFields():
        path = prefix + field.name
        if not _is_composite(field) or not value.ListFields() or _switches_arm(field, current):
            yield path
        else:
            yield from _populated(value, getattr(current, field.name), path + ".")


def _is_composite(field: Any) -> bool:
    """A sub-message with fields of its own, not one that stands for a single value."""
    message = field.message_type
    return (
        message is not None and not field.is_repeated and not message.full_name.startswith("google.protobuf.")
    )


def _switches_arm(field: FieldDescriptor, current: Message) -> bool:
    if field.containing_oneof is None:
        return False
    active = current.WhichOneof(field.containing_oneof.name)
    return active is not None and active != field.name


def _arm_matters(update: Message, path: str) -> bool:
    message = update
    for name in path.split("."):
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            return True  # reported as a violation
        oneof = field.containing_oneof
        if oneof is not None and message.WhichOneof(oneof.name) not in (None, name) and len(oneof.fields) > 1:
            return False
        if not _is_composite(field):
            return True
        message = getattr(message, name)
    return True


def _without_covered(paths: Set[str]) -> set[str]:
    """None below another: the order in which they are applied then does not matter."""
    if not any("." in path for path in paths):
        return set(paths)
    return {path for path in paths if not _covered(path, paths - {path})}


def _covered(path: str, names: Set[str]) -> bool:
    if "." not in path:
        return path in names
    parts = path.split(".")
    return any(".".join(parts[:length]) in names for length in range(1, len(parts) + 1))


def _resolve(resource: Message, path: str) -> list[FieldDescriptor] | None:
    fields: list[FieldDescriptor] = []
    message: Any = resource.DESCRIPTOR
    for name in path.split("."):
        field = message.fields_by_name.get(name) if message is not None else None
        if field is None:
            return None
        fields.append(field)
        message = None if field.is_repeated else field.message_type
    return fields


def _descend(message: Message, names: list[str]) -> Message:
    for name in names:
        message = getattr(message, name)
    return message


def _value(message: Message, path: str) -> Any:
    """The value at ``path``, with None for what is unset and can tell."""
    *parents, leaf = path.split(".")
    for name in parents:
        if not message.HasField(name):
            return None
        message = getattr(message, name)
    field = message.DESCRIPTOR.fields_by_name[leaf]
    if field.has_presence and not message.HasField(leaf):
        return None
    value = getattr(message, leaf)
    if field.is_repeated:
        return dict(value) if is_map(field) else list(value)
    return value


def _copy(current: Message, update: Message, names: list[str]) -> None:
    name, *rest = names
    field = current.DESCRIPTOR.fields_by_name[name]
    if rest:
        if update.HasField(name) or current.HasField(name):
            _copy(getattr(current, name), getattr(update, name), rest)
        return
    if field.has_presence and not update.HasField(name):
        current.ClearField(name)
        return
    value = getattr(update, name)
    if field.is_repeated:
        current.ClearField(name)
        getattr(current, name).MergeFrom(value)
    elif field.message_type is not None:
        getattr(current, name).SetInParent()
        getattr(current, name).CopyFrom(value)
    else:
        setattr(current, name, value)
