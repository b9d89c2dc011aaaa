"""What the fields of a record are called in a file: as the original's configs call them.

The settings of a record's type stand beside its other fields, as in the original. The names that the API has
for the same (`type` for `model_type`) are read too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

from modelkeep.configs.fields import WIRE_NAMES
from modelkeep.configs.wire import arm_of_type
from modelkeep.model.v1.model_pb2 import Model

#: The list of a record's files, in its entry.
FILES: Final = "files"
#: What a newer version put into a message, in hexadecimal.
UNKNOWN: Final = "unknown_fields"
#: Settings that are not those of the record's type, by the type's name.
OTHER_CONFIG: Final = "other_config"
#: Follows from the rest of a record, and is not written down.
DERIVED: Final = "etag"
#: Fields that this program has no place for, of a record; their values are JSON texts.
EXTRA: Final = "extra_fields"

_SHOWN: Final[Mapping[str, str]] = {wire: name for name, wire in WIRE_NAMES.items()}
#: What a person looks for comes first, what only programs look at last.
_FIRST: Final = ("key", "name", "path", "root_id", "base", "type", "format", "description")
_LAST: Final = (
    *("original_hash", "current_hash", "size_bytes", "create_time", "update_time", "missing_time"),
    *("revision", EXTRA, "cover_image"),
)

_FIELDS: Final[Mapping[str, Any]] = Model.DESCRIPTOR.fields_by_name
_ARMS: Final = frozenset(field.name for field in Model.DESCRIPTOR.oneofs_by_name["config"].fields)
#: The messages whose fields stand in an entry itself.
_OWN: Final = frozenset({Model.DESCRIPTOR.full_name, *(_FIELDS[arm].message_type.full_name for arm in _ARMS)})
#: The fields that every record has, in the order in which they are written.
COMMON: Final = tuple(
    _FIELDS[name]
    for name in (
        *_FIRST,
        *(name for name in _FIELDS if name not in {*_FIRST, *_LAST, *_ARMS, DERIVED}),
        *(name for name in _LAST if name in _FIELDS),
    )
)


def shown(field: Any) -> str:
    """What a field is called in a file; those of a record's parts as in the API."""
    is_own = field.containing_type.full_name in _OWN
    return _SHOWN.get(field.name, field.name) if is_own else str(field.name)


def names_of(field: Any) -> tuple[str, ...]:
    """Every name that a field may be given by."""
    return (shown(field), field.name) if shown(field) != field.name else (field.name,)


def arm_fields(type_number: int) -> tuple[Any, ...]:
    """The fields of the settings of a type; none for a type that this version does not know."""
    arm = arm_of_type(type_number)
    return tuple(_FIELDS[arm].message_type.fields) if arm is not None else ()


@cache
def readable(descriptor: Any) -> Mapping[str, Any]:
    """The fields of a part of a record, by every name."""
    return _by_name(descriptor.fields)


@cache
def readable_in_entry(type_number: int) -> Mapping[str, Any]:
    """The fields of an entry whose model has this type, by every name."""
    return _by_name([*COMMON, *arm_fields(type_number)])


@cache
def arms() -> Mapping[str, Any]:
    """The fields that hold the settings of each type."""
    return {name: _FIELDS[name] for name in _ARMS}


def _by_name(fields: Iterable[Any]) -> Mapping[str, Any]:
    return {name: field for field in fields for name in names_of(field)}
