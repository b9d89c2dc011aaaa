"""All kinds of models as one discriminated union, and the factory that reads dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import NoneType
from typing import Annotated, Any, Literal, TypeAlias, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, TypeAdapter, ValidationError

from modelkeep.configs import _kinds as kinds
from modelkeep.configs._base import ModelConfigBase
from modelkeep.configs.problems import violations_of
from modelkeep.exceptions import FieldViolation, InvalidModelConfigException
from modelkeep.taxonomy import BaseModelType, ModelFormat, ModelType


def _get(value: Any, *names: str) -> Any:
    if isinstance(value, Mapping):
        return next((value[name] for name in names if name in value), None)
    return getattr(value, names[0], None)


def _discriminate(value: Any) -> str | None:
    if isinstance(value, ModelConfigBase):
        return type(value).__name__
    cls = config_class(
        _get(value, "model_type", "type"),
        _get(value, "model_format", "format"),
        _get(value, "base_model", "base"),
    )
    return cls.__name__ if cls else None


#: Any kind of model, chosen by (type, format), for ONNX models also by base: not by format alone as
#: in the original, but dicts written for the original validate.
AnyModelConfig: TypeAlias = Annotated[
    Annotated[kinds.MainCheckpointConfig, Tag("MainCheckpointConfig")]
    | Annotated[kinds.MainDiffusersConfig, Tag("MainDiffusersConfig")]
    | Annotated[kinds.ONNXSD1Config, Tag("ONNXSD1Config")]
    | Annotated[kinds.ONNXSD2Config, Tag("ONNXSD2Config")]
    | Annotated[kinds.ONNXConfig, Tag("ONNXConfig")]
    | Annotated[kinds.VaeCheckpointConfig, Tag("VaeCheckpointConfig")]
    | Annotated[kinds.VaeDiffusersConfig, Tag("VaeDiffusersConfig")]
    | Annotated[kinds.LoRAConfig, Tag("LoRAConfig")]
    | Annotated[kinds.ControlLoRAConfig, Tag("ControlLoRAConfig")]
    | Annotated[kinds.ControlNetCheckpointConfig, Tag("ControlNetCheckpointConfig")]
    | Annotated[kinds.ControlNetDiffusersConfig, Tag("ControlNetDiffusersConfig")]
    | Annotated[kinds.TextualInversionConfig, Tag("TextualInversionConfig")]
    | Annotated[kinds.IPAdapterConfig, Tag("IPAdapterConfig")]
    | Annotated[kinds.T2IConfig, Tag("T2IConfig")]
    | Annotated[kinds.CLIPVisionConfig, Tag("CLIPVisionConfig")]
    | Annotated[kinds.CLIPEmbedConfig, Tag("CLIPEmbedConfig")]
    | Annotated[kinds.T5EncoderConfig, Tag("T5EncoderConfig")]
    | Annotated[kinds.Qwen3EncoderConfig, Tag("Qwen3EncoderConfig")]
    | Annotated[kinds.QwenVLEncoderConfig, Tag("QwenVLEncoderConfig")]
    | Annotated[kinds.Qwen3VLEncoderConfig, Tag("Qwen3VLEncoderConfig")]
    | Annotated[kinds.MistralEncoderConfig, Tag("MistralEncoderConfig")]
    | Annotated[kinds.WanT5EncoderConfig, Tag("WanT5EncoderConfig")]
    | Annotated[kinds.Gemma2EncoderConfig, Tag("Gemma2EncoderConfig")]
    | Annotated[kinds.SpandrelImageToImageConfig, Tag("SpandrelImageToImageConfig")]
    | Annotated[kinds.SigLIPConfig, Tag("SigLIPConfig")]
    | Annotated[kinds.FluxReduxConfig, Tag("FluxReduxConfig")]
    | Annotated[kinds.LlavaOnevisionConfig, Tag("LlavaOnevisionConfig")]
    | Annotated[kinds.PromptEnhancerConfig, Tag("PromptEnhancerConfig")]
    | Annotated[kinds.TextLLMConfig, Tag("TextLLMConfig")]
    | Annotated[kinds.ExternalImageGeneratorConfig, Tag("ExternalImageGeneratorConfig")]
    | Annotated[kinds.PiDDecoderConfig, Tag("PiDDecoderConfig")]
    | Annotated[kinds.UnknownConfig, Tag("UnknownConfig")],
    Discriminator(_discriminate),
]

#: Every class that a record can have, most specific first.
CONFIG_CLASSES: tuple[type[ModelConfigBase], ...] = tuple(
    get_args(member)[0] for member in get_args(get_args(AnyModelConfig)[0])
)


def literal_values(annotation: Any) -> Iterator[Any]:
    """The values that a (union of) Literal allows; all members for an enum."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif isinstance(annotation, type) and issubclass(annotation, StrEnum):
        yield from annotation
    else:
        for part in get_args(annotation):
            yield from literal_values(part)


_Candidates = list[tuple[type[ModelConfigBase], frozenset[str] | None]]


def _classes_by_kind() -> dict[tuple[ModelType, ModelFormat], _Candidates]:
    """The classes of each kind, with the bases that they are for (None: all)."""
    found: dict[tuple[ModelType, ModelFormat], _Candidates] = {}
    for cls in CONFIG_CLASSES:
        base = cls.model_fields["base_model"].annotation
        bases = None if base is BaseModelType else frozenset(literal_values(base))
        for model_type in literal_values(cls.model_fields["model_type"].annotation):
            for model_format in literal_values(cls.model_fields["model_format"].annotation):
                found.setdefault((model_type, model_format), []).append((cls, bases))
    return found


_BY_KIND = _classes_by_kind()


def formats_of(model_type: ModelType) -> list[ModelFormat]:
    """The formats that a type of model may have."""
    return [model_format for kind, model_format in _BY_KIND if kind is model_type]


def config_class(
    model_type: ModelType | str, model_format: ModelFormat | str, base: BaseModelType | str | None = None
) -> type[ModelConfigBase] | None:
    """The class for a type in a format; None if there is no such kind.

    ``base`` matters only for ONNX models, whose class goes by it. As in the original, a main model
    in an ONNX format is an ONNX model.
    """
    try:
        kind = ModelType(model_type), ModelFormat(model_format)
    except ValueError:
        return None
    if kind[0] is ModelType.Main and kind[1] in (ModelFormat.Onnx, ModelFormat.Olive):
        kind = ModelType.ONNX, kind[1]
    candidates = _BY_KIND.get(kind, [])
    return next((cls for cls, bases in candidates if base is None or bases is None or base in bases), None)


def field_types() -> dict[str, tuple[type, type]]:
    """Of every field of a config, by name: its type, and that of its items (or keys) if it has some.

    Optional fields have the type that they have when they are set. One that consists of several values has
    those, too, by names such as ``default_settings.steps``.
    """
    found: dict[str, tuple[type, type]] = {}
    for cls in CONFIG_CLASSES:
        for name, field in cls.model_fields.items():
            found[name] = kind = _field_type(field.annotation)
            if issubclass(kind[0], BaseModel):
                parts = kind[0].model_fields.items()
                found |= {f"{name}.{part}": _field_type(of.annotation) for part, of in parts}
    return found


def _field_type(annotation: Any) -> tuple[type, type]:
    origin = get_origin(annotation)
    if origin in (list, dict):
        return origin, get_args(annotation)[0]
    options = [*get_args(annotation), annotation]
    if (annotated := next((o for o in options if get_origin(o) is Annotated), None)) is not None:
        options = [*get_args(annotated)]
    parts = [part for part in options if isinstance(part, type) and part is not NoneType]
    return (parts[0], parts[0]) if parts else (str, str)


_ADAPTER: TypeAdapter[AnyModelConfig] = TypeAdapter(AnyModelConfig, config=ConfigDict(defer_build=True))


class ModelConfigFactory:
    """Makes configs of dicts. The original's name and method."""

    @staticmethod
    def make_config(
        model_data: Mapping[str, Any] | ModelConfigBase, key: str | None = None
    ) -> AnyModelConfig:
        """The config of the class that the data's type and format say.

        Args:
            model_data: Fields by name (`model_type`, …, or `type`, `format`, `base`), or a config,
                of which a copy is made.
            key: The key to give it, in place of what the data says.

        Raises:
            InvalidModelConfigException: There is no such kind of model, or fields are bad; its
                violations list every bad field.
        """
        if isinstance(model_data, ModelConfigBase):
            config = model_data.model_copy(deep=True)
            if key is not None:
                config.key = key
            return cast(AnyModelConfig, config)
        data = dict(model_data) if key is None else {**model_data, "key": key}
        violations = list(_kind_violations(data))
        if not violations:
            try:
                return _ADAPTER.validate_python(data)
            except ValidationError as error:
                # The first part of each location is the union's tag, which is no field.
                violations = violations_of(error, skip=1)
        raise InvalidModelConfigException("This is no valid model configuration.", violations=violations)


def _kind_violations(data: Mapping[str, Any]) -> Iterator[FieldViolation]:
    """What keeps the data from being of any kind; nothing if it is of one."""
    enums: dict[str, type[StrEnum]] = {
        "model_type": ModelType,
        "model_format": ModelFormat,
        "base_model": BaseModelType,
    }
    bad = False
    for name, enum in enums.items():
        value = _get(data, name, name.split("_")[0 if enum is BaseModelType else 1])
        if value is None:
            if enum is not BaseModelType:  # a base may be the class's default
                bad = True
                yield FieldViolation(name, "must be set")
        elif value not in {member.value for member in enum}:
            bad = True
            yield FieldViolation(name, f"{value!r} is not one of {', '.join(enum)}")
    if not bad and _discriminate(data) is None:
        model_type = ModelType(_get(data, "model_type", "type"))
        formats = ", ".join(formats_of(model_type))
        yield FieldViolation(
            "model_format",
            f"a model of type {model_type} cannot have the format "
            f"{_get(data, 'model_format', 'format')}, but one of: {formats}",
        )
