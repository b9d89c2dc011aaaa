"""Configs to messages and back. Needs protobuf, not grpc.

A message's ``config`` arm has the name of its type's value (``vae`` for ``ModelType.Vae``), and every
field the name it has in Python but for the few in ``WIRE_NAMES``; the tests hold both sides against each
other. What a message has beyond what this version knows (an enum number, a field, a base) stays with the
config and goes back unchanged with :func:`to_model`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from pydantic import ValidationError

from modelkeep.configs._base import ModelConfigBase, ModelFile
from modelkeep.configs._extra_fields import put_values, values_of_texts
from modelkeep.configs._kinds import UnknownConfig
from modelkeep.configs._union import AnyModelConfig, config_class, formats_of, literal_values
from modelkeep.configs.fields import (
    WIRE_NAMES,
    UnknownValueError,
    fill,
    member_of,
    number_of,
    put,
    readable_values,
    values_of,
)
from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.messages import must_be
from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.taxonomy import BaseModelType, ModelFormat, ModelType

_log = logging.getLogger(__name__)

_FIELDS: Mapping[str, Any] = model_pb2.Model.DESCRIPTOR.fields_by_name
_ARMS = frozenset(field.name for field in model_pb2.Model.DESCRIPTOR.oneofs_by_name["config"].fields)
_COMMON = frozenset(_FIELDS) - _ARMS


def to_model(config: ModelConfigBase) -> model_pb2.Model:
    """The message of a config.

    If the config was read from a message, that message with the fields changed since: nothing is
    lost that this version does not know.

    Raises:
        FieldInvalidException: A value is beyond what the wire carries.
    """
    before: ModelConfigBase | None = None
    message = model_pb2.Model()
    if config._wire:
        message.ParseFromString(config._wire)
        before = from_model(message)
    changed = {
        name
        for name in type(config).model_fields
        if before is None or getattr(before, name, _MISSING) != getattr(config, name)
    }
    if config.extra_fields or (before is not None and before.extra_fields):
        put_values(message.extra_fields, config.extra_fields)
    for name in changed & set(ModelConfigBase.model_fields) - {"extra_fields"}:
        _set(message, WIRE_NAMES.get(name, name), getattr(config, name))
    if isinstance(config, UnknownConfig):
        if message.type == taxonomy_pb2.MODEL_TYPE_UNKNOWN:
            raw = json.dumps(config.raw) if config.raw else ""
            message.unknown.CopyFrom(model_pb2.UnknownConfig(raw_json=raw))
        return message  # else the arm is one that this version cannot read, and stays
    arm: Message = getattr(message, config.model_type.value)
    arm.SetInParent()
    for name in changed - set(ModelConfigBase.model_fields):
        _set(arm, WIRE_NAMES.get(name, name), getattr(config, name))
    return message


def from_model(message: model_pb2.Model) -> AnyModelConfig:
    """The config of a message; an :class:`UnknownConfig` with the raw fields if it cannot be read."""
    try:
        config = _read(message)
    except (UnknownValueError, ValidationError) as error:
        _log.warning("The record of model %s is shown as unknown: %s", message.key, error)
        config = _read_unknown(message)
    config._wire = message.SerializeToString()
    return config


def to_file(file: ModelFile) -> model_pb2.ModelFile:
    """The message of one file of a model."""
    message = model_pb2.ModelFile()
    for name, value in dict(file).items():
        _set(message, name, value)
    return message


def from_file(message: model_pb2.ModelFile) -> ModelFile:
    """One file of a model; an unknown state of its digests is taken as pending."""
    try:
        return ModelFile.model_validate(values_of(message))
    except UnknownValueError:
        readable = ModelFile.model_fields.keys() - {"digest_state"}
        return ModelFile.model_validate(values_of(message, only=readable))


def assemble(values: Mapping[str, Any]) -> tuple[model_pb2.Model, frozenset[str]]:
    """A record of values by the wire's names, those of its config's fields among them.

    Returns:
        The record, with the arm of its type set, and the names that such a record does not have.

    Raises:
        ValueError, TypeError: A field cannot have its value.
    """
    message = model_pb2.Model()
    fill(message, {name: values[name] for name in _COMMON.intersection(values)})
    arm: Message = getattr(message, str(ModelType(values["type"])))
    arm.SetInParent()
    fill(arm, values)
    return message, frozenset(values) - _COMMON.union(arm.DESCRIPTOR.fields_by_name)


def config_values(message: model_pb2.Model) -> dict[str, Any]:
    """What is set in a record's arm, as far as this version knows it, by the wire's names."""
    arm_name = message.WhichOneof("config")
    return readable_values(getattr(message, arm_name)) if arm_name is not None else {}


def is_readable(message: model_pb2.Model) -> bool:
    """Whether this version knows the message's type, format and base, and they fit together."""
    try:
        _read(message)
    except (UnknownValueError, ValidationError):
        return False
    return True


def kind_violations(message: model_pb2.Model) -> list[FieldViolation]:
    """What keeps a record from being of one of the kinds: its type, format, base and arm, and the
    fields of the arm that its format does not have. Paths are those of ``Model``."""
    violations = [
        FieldViolation(name, "must be set")
        for name in ("type", "format", "base")
        if not getattr(message, name)
    ]
    if violations:
        return violations
    try:
        model_type, model_format = _kind(message)
    except UnknownValueError as error:
        return [FieldViolation("type", str(error))]
    arm_name = message.WhichOneof("config")
    if arm_name not in (None, model_type.value):
        return [
            FieldViolation(
                str(arm_name), f"a model of type {model_type} has its config in {model_type.value}"
            )
        ]
    cls = _class_of(message, model_type, model_format)
    if cls is None:
        formats = ", ".join(formats_of(model_type))
        return [
            FieldViolation(
                "format",
                f"a model of type {model_type} cannot have the format {model_format}, but one of: {formats}",
            )
        ]
    if arm_name is None or cls is UnknownConfig:
        return []
    names = _wire_names(cls)
    arm: Message = getattr(message, arm_name)
    return [
        FieldViolation(f"{arm_name}.{field.name}", f"a model in format {model_format} has no such field")
        for field, _ in arm.ListFields()
        if field.name not in names
    ]


@cache
def _wire_names(cls: type[ModelConfigBase]) -> frozenset[str]:
    return frozenset(WIRE_NAMES.get(name, name) for name in cls.model_fields)


def is_known_kind(type_number: int, format_number: int, base: str) -> bool:
    """Whether this version knows a type, format and base, and that they go together."""
    probe = model_pb2.Model(base=base)
    probe.type, probe.format = type_number, format_number  # type: ignore[assignment]  # open enums
    return base in set(BaseModelType) and not kind_violations(probe)


def arm_of_type(number: int) -> str | None:
    """The name of the config arm of a type's number; None for a type that this version does not know."""
    try:
        return str(member_of(_FIELDS["type"].enum_type, number))
    except UnknownValueError:
        return None


def type_of_arm_name(arm: str) -> int:
    """The number of the type whose config an arm is."""
    return number_of(_FIELDS["type"].enum_type, arm)


def wire_path(name: str, model_type: ModelType | None = None) -> str:
    """The path in ``Model`` of a config's field.

    ``base_model`` → ``base``; of a VAE, ``config`` → ``vae.checkpoint_config``.
    """
    head, _, rest = name.partition(".")
    if head in ModelConfigBase.model_fields or model_type is None:
        path = WIRE_NAMES.get(head, head)
    else:
        path = f"{model_type.value}.{WIRE_NAMES.get(head, head)}"
    return f"{path}.{rest}" if rest else path


_MISSING = object()


def _set(message: Message, name: str, value: Any) -> None:
    try:
        put(message, name, value)
    except (TypeError, ValueError):
        problem = must_be(message.DESCRIPTOR.fields_by_name[name], value)
        raise FieldInvalidException("", violations=[FieldViolation(name, problem)]) from None


def _kind(message: model_pb2.Model) -> tuple[ModelType, ModelFormat]:
    return _kind_of(message.type, message.format)


@lru_cache(maxsize=1024)
def _kind_of(type_number: int, format_number: int) -> tuple[ModelType, ModelFormat]:
    return (
        ModelType(member_of(_FIELDS["type"].enum_type, type_number)),
        ModelFormat(member_of(_FIELDS["format"].enum_type, format_number)),
    )


def _class_of(
    message: model_pb2.Model, model_type: ModelType, model_format: ModelFormat
) -> type[ModelConfigBase] | None:
    cls = config_class(model_type, model_format, message.base)
    # config_class is as lenient as the original (a main model in an ONNX format); a record is not.
    return cls if cls is not None and model_type in _types_of(cls) else None


@cache
def _types_of(cls: type[ModelConfigBase]) -> frozenset[ModelType]:
    return frozenset(literal_values(cls.model_fields["model_type"].annotation))


def _read(message: model_pb2.Model) -> AnyModelConfig:
    model_type, model_format = _kind(message)
    cls = _class_of(message, model_type, model_format)
    arm_name = message.WhichOneof("config")
    if cls is None or message.base not in set(BaseModelType):
        raise UnknownValueError(f"no kind of model is {model_type}, {model_format}, {message.base!r}")
    if arm_name not in (None, model_type.value):
        raise UnknownValueError(f"a model of type {model_type} has the config of a {arm_name}")
    values = _read_fields(message, ModelConfigBase.model_fields)
    values["compatible_bases"] = _known_bases(message)
    if cls is UnknownConfig:
        values["raw"] = _parse_raw(message.unknown.raw_json)
    elif arm_name is not None:
        own = cls.model_fields.keys() - ModelConfigBase.model_fields.keys()
        values |= _read_fields(getattr(message, arm_name), own)
    return cls.model_validate(values)  # type: ignore[return-value]  # config_class gives members of the union


def _parse_raw(text: str) -> dict[str, Any]:
    try:
        raw = json.loads(text) if text else {}
    except ValueError:
        raw = None
    return raw if isinstance(raw, dict) else {"raw_json": text}


def _read_unknown(message: model_pb2.Model) -> UnknownConfig:
    must = {
        "key": message.key,
        "name": message.name or message.key or "unknown",
        "path": message.path or "unknown",
        "raw": MessageToDict(message, preserving_proto_field_name=True),
    }
    readable = _read_fields(message, ModelConfigBase.model_fields, readable_values)
    readable["compatible_bases"] = _known_bases(message)
    if message.base not in set(BaseModelType):
        readable.pop("base_model", None)
    readable.pop("model_type", None)
    try:
        return UnknownConfig.model_validate(readable | must)
    except ValidationError:
        return UnknownConfig.model_validate(must)


def _known_bases(message: model_pb2.Model) -> list[str]:
    return [base for base in message.compatible_bases if base in set(BaseModelType)]


def _read_fields(
    message: Message, names: Iterable[str], read: Callable[..., dict[str, Any]] = values_of
) -> dict[str, Any]:
    """The values that are set of fields that Python calls so, by these names."""
    python = {WIRE_NAMES.get(name, name): name for name in names}
    values = {python[name]: value for name, value in read(message, python).items()}
    if "extra_fields" in values:
        values["extra_fields"] = values_of_texts(values["extra_fields"])
    return values
