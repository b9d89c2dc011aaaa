"""Overrides of an install to messages and back: fields of configs, of any kind of model at once."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from pydantic import ValidationError

from modelkeep.configs._base import SubmodelDefinition
from modelkeep.configs._default_settings import DefaultSettings
from modelkeep.configs.fields import WIRE_NAMES, enum_of, is_map, is_part, put, readable_values
from modelkeep.configs.problems import violations_of
from modelkeep.exceptions import FieldViolation, InvalidModelConfigException
from modelkeep.install.v1 import install_pb2
from modelkeep.taxonomy import BaseModelType

#: Python's name of an override → the wire's; today's dicts say ``config_path``.
_NAMES: Final = {**WIRE_NAMES, "config_path": "checkpoint_config"}
#: Texts on the wire, of which this version takes those that it knows.
_BASES: Final = frozenset({"base", "compatible_bases"})
#: What a text may be read as, by the type of the field.
_NUMBERS: Final[Mapping[int, type[int] | type[float]]] = {
    FieldDescriptor.TYPE_INT32: int,
    FieldDescriptor.TYPE_DOUBLE: float,
}


def overrides_of(config: Mapping[str, Any] | None) -> install_pb2.ModelOverrides | None:
    """A dict of config fields on the wire.

    Raises:
        InvalidModelConfigException: A field that cannot be overridden, or a bad value.
    """
    if not config:
        return None
    message = install_pb2.ModelOverrides()
    fields = message.DESCRIPTOR.fields_by_name
    violations: list[FieldViolation] = []
    for given, value in config.items():
        name = _NAMES.get(given, given)
        if name not in fields:
            known = ", ".join(sorted({*fields} - {*_NAMES.values()} | {*_NAMES}))
            violations.append(FieldViolation(given, f"cannot be overridden; these can: {known}"))
            continue
        try:
            put(message, name, None if value is None else _checked(fields[name], value))
        except ValidationError as error:
            violations += [
                FieldViolation(f"{given}.{part.field}", part.description) for part in violations_of(error)
            ]
        except (TypeError, ValueError) as error:
            violations.append(FieldViolation(given, str(error)))
    if violations:
        raise InvalidModelConfigException("The overrides do not fit a model", violations=violations)
    return message


def config_of(overrides: install_pb2.ModelOverrides) -> dict[str, Any]:
    """Overrides as the dict that a caller would have given."""
    python = {wire: name for name, wire in WIRE_NAMES.items()}
    values = {python.get(name, name): value for name, value in readable_values(overrides).items()}
    if "submodels" in values:
        values["submodels"] = [SubmodelDefinition.model_validate(part) for part in values["submodels"]]
    if "default_settings" in values:
        values["default_settings"] = DefaultSettings.model_validate(values["default_settings"])
    return values


def _checked(field: Any, value: Any) -> Any:
    """What a caller gave as what the field takes. Raises TypeError, ValueError."""
    if field.enum_type is not None:
        _check_member(enum_of(field.enum_type), value)
    elif is_map(field):
        if not isinstance(value, Mapping):
            raise TypeError(f"{value!r} is no mapping, such as {{'project': 'x'}}")
        return {str(key): str(text) for key, text in value.items()}
    elif is_part(field):
        return DefaultSettings.model_validate(value)
    elif field.message_type is not None:
        return [SubmodelDefinition.model_validate(part, from_attributes=True) for part in value]
    elif field.name in _BASES or field.is_repeated:
        texts = [value] if isinstance(value, str) else list(map(str, value))
        for text in texts if field.name in _BASES else ():
            _check_member(BaseModelType, text)
        return texts if field.is_repeated else str(value)
    elif field.type == FieldDescriptor.TYPE_BOOL:
        if not isinstance(value, bool):  # "no" is a true value in Python
            raise ValueError(f"{value!r} is neither true nor false")
    elif field.type in _NUMBERS:
        if isinstance(value, bool):
            raise ValueError(f"{value!r} is no number")
        return _NUMBERS[field.type](value)
    else:
        return str(value)
    return value


def _check_member(enum: type[StrEnum], value: Any) -> None:
    try:
        enum(value)
    except ValueError:
        raise ValueError(f"{value!r} is not one of {', '.join(enum)}") from None
