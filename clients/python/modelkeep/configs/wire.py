"""Configs to messages and back. Needs protobuf, not grpc.

A message's ``config`` arm has the name of its type's value (``vae`` for ``ModelType.Vae``), and every
field the name it has in Python but for the few in :data:`_COMMON` and :data:`_ARM`; the tests hold
both sides against each other. What a message has beyond what this version knows (an enum number, a
field, a base) stays with the config and goes back unchanged with :func:`to_model`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Any, get_args

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, ValidationError

from modelkeep.configs._base import License, ModelConfigBase, ModelFile, SubmodelDefinition
from modelkeep.configs._kinds import UnknownConfig
from modelkeep.configs._union import AnyModelConfig, config_class, formats_of, literal_values
from modelkeep.exceptions import FieldViolation
from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.taxonomy import BaseModelType, ModelFormat, ModelType, wire_name

_log = logging.getLogger(__name__)

#: Python's (the original's) name → the wire's, for the fields that every model has.
_COMMON = {"model_type": "type", "model_format": "format", "base_model": "base"}
#: The same for the fields of the arms.
_ARM = {"config": "checkpoint_config"}


class UnknownValueError(ValueError):
    """An enum number or a base that this version does not know."""


def to_model(config: ModelConfigBase) -> model_pb2.Model:
    """The message of a config.

    If the config was read from a message, that message with the fields changed since: nothing is
    lost that this version does not know.
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
    for name in changed & set(ModelConfigBase.model_fields):
        _put(message, _COMMON.get(name, name), getattr(config, name))
    if isinstance(config, UnknownConfig):
        if message.type == taxonomy_pb2.MODEL_TYPE_UNKNOWN:
            raw = json.dumps(config.raw) if config.raw else ""
            message.unknown.CopyFrom(model_pb2.UnknownConfig(raw_json=raw))
        return message  # else the arm is one that this version cannot read, and stays
    arm: Message = getattr(message, config.model_type.value)
    arm.SetInParent()
    for name in changed - set(ModelConfigBase.model_fields):
        _put(arm, _ARM.get(name, name), getattr(config, name))
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
    for name in ModelFile.model_fields:
        _put(message, name, getattr(file, name))
    return message


def from_file(message: model_pb2.ModelFile) -> ModelFile:
    """One file of a model; an unknown state of its digests is taken as pending."""
    try:
        return ModelFile.model_validate(_get_all(message, ModelFile, {}))
    except UnknownValueError:
        fields = {name: field for name, field in ModelFile.model_fields.items() if name != "digest_state"}
        return ModelFile.model_validate(_get_all(message, ModelFile, {}, only=fields))


def to_submodel(part: SubmodelDefinition) -> model_pb2.Submodel:
    """The message of one component of a main model."""
    message = model_pb2.Submodel()
    for name in SubmodelDefinition.model_fields:
        _put(message, name, getattr(part, name))
    return message


def from_submodel(message: model_pb2.Submodel) -> SubmodelDefinition:
    """One component of a main model.

    Raises:
        UnknownValueError: Its type is of a newer version.
    """
    return SubmodelDefinition.model_validate(_get_all(message, SubmodelDefinition, {}))


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
    names = {_ARM.get(name, name) for name in cls.model_fields}
    arm: Message = getattr(message, arm_name)
    return [
        FieldViolation(f"{arm_name}.{field.name}", f"a model in format {model_format} has no such field")
        for field, _ in arm.ListFields()
        if field.name not in names
    ]


def is_known_kind(type_number: int, format_number: int, base: str) -> bool:
    """Whether this version knows a type, format and base, and that they go together."""
    probe = model_pb2.Model(base=base)
    probe.type, probe.format = type_number, format_number  # type: ignore[assignment]  # open enums
    return base in set(BaseModelType) and not kind_violations(probe)


def arm_of_type(number: int) -> str | None:
    """The name of the config arm of a type's number; None for a type that this version does not know."""
    try:
        return str(_enum(ModelType, model_pb2.Model.DESCRIPTOR.fields_by_name["type"].enum_type, number))
    except UnknownValueError:
        return None


def wire_path(name: str, model_type: ModelType | None = None) -> str:
    """The path in ``Model`` of a config's field.

    ``base_model`` → ``base``; of a VAE, ``config`` → ``vae.checkpoint_config``.
    """
    head, _, rest = name.partition(".")
    if head in ModelConfigBase.model_fields or model_type is None:
        path = _COMMON.get(head, head)
    else:
        path = f"{model_type.value}.{_ARM.get(head, head)}"
    return f"{path}.{rest}" if rest else path


_MISSING = object()


def _kind(message: model_pb2.Model) -> tuple[ModelType, ModelFormat]:
    fields = message.DESCRIPTOR.fields_by_name
    return (
        _enum(ModelType, fields["type"].enum_type, message.type),
        _enum(ModelFormat, fields["format"].enum_type, message.format),
    )


def _class_of(
    message: model_pb2.Model, model_type: ModelType, model_format: ModelFormat
) -> type[ModelConfigBase] | None:
    cls = config_class(model_type, model_format, message.base)
    # config_class is as lenient as the original (a main model in an ONNX format); a record is not.
    if cls is None or model_type not in literal_values(cls.model_fields["model_type"].annotation):
        return None
    return cls


def _read(message: model_pb2.Model) -> AnyModelConfig:
    model_type, model_format = _kind(message)
    cls = _class_of(message, model_type, model_format)
    arm_name = message.WhichOneof("config")
    if cls is None or message.base not in set(BaseModelType):
        raise UnknownValueError(f"no kind of model is {model_type}, {model_format}, {message.base!r}")
    if arm_name not in (None, model_type.value):
        raise UnknownValueError(f"a model of type {model_type} has the config of a {arm_name}")
    values = _get_all(message, ModelConfigBase, _COMMON)
    values["compatible_bases"] = _known_bases(message)
    if cls is UnknownConfig:
        values["raw"] = _parse_raw(message.unknown.raw_json)
    elif arm_name is not None:
        only = {name for name in cls.model_fields if name not in ModelConfigBase.model_fields}
        values |= _get_all(getattr(message, arm_name), cls, _ARM, only=only)
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
    readable: dict[str, Any] = {}
    for name in ModelConfigBase.model_fields:
        try:
            readable |= _get_all(message, ModelConfigBase, _COMMON, only=(name,))
        except UnknownValueError:
            continue
    readable["compatible_bases"] = _known_bases(message)
    if message.base not in set(BaseModelType):
        del readable["base_model"]
    readable.pop("model_type", None)
    try:
        return UnknownConfig.model_validate(readable | must)
    except ValidationError:
        return UnknownConfig.model_validate(must)


def _known_bases(message: model_pb2.Model) -> list[str]:
    return [base for base in message.compatible_bases if base in set(BaseModelType)]


@cache
def _members(enum: type[StrEnum], descriptor: Any) -> dict[int, StrEnum]:
    return {descriptor.values_by_name[wire_name(member)].number: member for member in enum}


def _enum(enum: type[StrEnum], descriptor: Any, number: int) -> Any:
    try:
        return _members(enum, descriptor)[number]
    except KeyError:
        raise UnknownValueError(f"{enum.__name__} has no value for the number {number}") from None


def _get_all(
    message: Message, cls: type[BaseModel], names: dict[str, str], only: Iterable[str] | None = None
) -> dict[str, Any]:
    """The values of a class's fields that are set in a message, by their names in Python."""
    values: dict[str, Any] = {}
    for name in cls.model_fields if only is None else only:
        field = message.DESCRIPTOR.fields_by_name[names.get(name, name)]
        value = getattr(message, field.name)
        if field.is_repeated:
            values[name] = [_get(cls, name, field, item) for item in value]
        elif message.HasField(field.name) if field.has_presence else value != field.default_value:
            values[name] = _get(cls, name, field, value)
    return values


def _get(cls: type[BaseModel], name: str, field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        enum = next(part for part in _types(cls.model_fields[name].annotation) if issubclass(part, StrEnum))
        return _enum(enum, field.enum_type, value)
    if isinstance(value, Timestamp):
        return _moment(value)
    if isinstance(value, model_pb2.Submodel):
        return from_submodel(value)
    return value


def _moment(value: Timestamp) -> datetime:
    """The time, or the nearest that a datetime can hold."""
    try:
        return value.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return (datetime.max if value.seconds > 0 else datetime.min).replace(tzinfo=UTC)


def _types(annotation: Any) -> Iterator[type]:
    """The classes that an annotation is built of."""
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from _types(part)


def _put(message: Message, name: str, value: Any) -> None:
    field = message.DESCRIPTOR.fields_by_name[name]
    message.ClearField(name)
    if value is None:
        return
    if field.is_repeated:
        target = getattr(message, name)
        for item in value:
            target.append(to_submodel(item) if isinstance(item, SubmodelDefinition) else str(item))
    elif field.enum_type is not None:
        setattr(message, name, field.enum_type.values_by_name[wire_name(value)].number)
    elif isinstance(value, datetime):
        getattr(message, name).FromDatetime(value)
    else:
        setattr(message, name, str(value) if isinstance(value, License) else value)
