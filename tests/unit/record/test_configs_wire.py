"""Configs and messages: the same fields on both sides, and nothing is lost on the way."""

from __future__ import annotations

import string
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, get_args

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from modelkeep import taxonomy
from modelkeep.configs import (
    CONFIG_CLASSES,
    CoverImage,
    DefaultSettings,
    ModelConfigBase,
    ModelConfigFactory,
    ModelFile,
    SubmodelDefinition,
    UnknownConfig,
    VaeDiffusersConfig,
    config_class,
)
from modelkeep.configs._union import literal_values
from modelkeep.configs.wire import from_file, from_model, is_readable, to_file, to_model, wire_path
from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.model.v1.cover_image_pb2 import CoverImage as CoverImageMessage
from modelkeep.model.v1.default_settings_pb2 import DefaultSettings as DefaultSettingsMessage
from modelkeep.taxonomy import (
    BaseModelType,
    DigestState,
    ModelFormat,
    ModelSourceType,
    ModelType,
    ModelVariantType,
    SchedulerPredictionType,
    SubModelType,
    from_wire_name,
    wire_name,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
TIMES = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))
HEX64 = st.text(string.hexdigits.lower()[:16], min_size=64, max_size=64)


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def kinds_of(cls: type[BaseModel]) -> dict[str, type]:
    """The type of each field when it is set."""
    return {name: next(iter(leaves(field.annotation))) for name, field in cls.model_fields.items()}


def leaves(annotation: Any) -> Iterator[type]:
    for part in get_args(annotation) or (annotation,):
        if get_args(part):
            yield from leaves(part)
        elif isinstance(part, type) and part is not type(None):
            yield part


SUBMODELS = st.builds(
    SubmodelDefinition, type=st.sampled_from(SubModelType), path_or_prefix=TEXT, class_name=TEXT, library=TEXT
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
#: Values of a field of DefaultSettings, by its annotation without None.
OF_KIND: dict[type, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(1, 2**31 - 1),
    float: NUMBERS,
    bool: st.booleans(),
}
SETTINGS = {name: optional(OF_KIND[kind]) for name, kind in kinds_of(DefaultSettings).items()}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
SIMPLE: dict[str, st.SearchStrategy[Any]] = {
    "key": st.text("0123456789abcdef", min_size=32, max_size=32),
    "name": TEXT,
    "path": TEXT,
    "compatible_bases": st.lists(st.sampled_from(BaseModelType), max_size=3, unique=True),
    "root_id": optional(TEXT),
    "size_bytes": st.integers(0, 2**63 - 1),
    "original_hash": optional(TEXT),
    "current_hash": optional(TEXT),
    "description": optional(TEXT),
    "source": optional(TEXT),
    "source_type": optional(st.sampled_from(ModelSourceType)),
    "tags": st.lists(TEXT, max_size=3),
    "labels": st.dictionaries(TEXT, TEXT, max_size=3),
    "trigger_phrases": st.lists(TEXT, max_size=3),
    "license": optional(TEXT),
    "preview_url": optional(TEXT),
    "source_url": optional(TEXT),
    "default_settings": optional(st.builds(DefaultSettings, **SETTINGS)),
    "related_keys": st.lists(TEXT, max_size=3),
    "extra_fields": st.dictionaries(TEXT, JSON, max_size=3),
    "cover_image": optional(st.builds(CoverImage, media_type=TEXT, size_bytes=st.integers(0, 2**63 - 1))),
    "create_time": optional(TIMES),
    "update_time": optional(TIMES),
    "missing_time": optional(TIMES),
    "etag": optional(TEXT),
    "revision": st.integers(0, 2**63 - 1),
    "config": optional(TEXT),
    "vae": optional(TEXT),
    "variant": st.sampled_from(ModelVariantType),
    "prediction_type": st.sampled_from(SchedulerPredictionType),
    "upcast_attention": st.booleans(),
    "family_variant": optional(TEXT),
    "submodels": st.lists(SUBMODELS, max_size=3),
    "scaling_factor": optional(st.floats(allow_nan=False, allow_infinity=False)),
    "rank": optional(st.integers(1, 2**31 - 1)),
    "key_layout": optional(TEXT),
    "image_encoder": optional(TEXT),
    "raw": st.dictionaries(TEXT, TEXT | st.integers(-(2**53), 2**53) | st.booleans(), max_size=3),
}


def configs(cls: type[ModelConfigBase]) -> st.SearchStrategy[ModelConfigBase]:
    fields = {
        name: st.sampled_from(list(literal_values(field.annotation)))
        if name in ("model_type", "model_format", "base_model")
        else SIMPLE[name]
        for name, field in cls.model_fields.items()
    }
    if cls.__name__ == "ONNXConfig":  # SD-1 and SD-2 have classes of their own
        fields["base_model"] = st.sampled_from(["sdxl", "any", "flux"])
    return st.fixed_dictionaries(fields).map(cls.model_validate)


@pytest.mark.parametrize("cls", CONFIG_CLASSES, ids=lambda cls: cls.__name__)
def test_every_config_survives_the_way_to_the_wire_and_back(cls: type[ModelConfigBase]) -> None:
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(configs(cls))
    def check(config: ModelConfigBase) -> None:
        message = to_model(config)
        back = from_model(model_pb2.Model.FromString(message.SerializeToString()))
        assert back == config
        assert to_model(back) == message
        assert is_readable(message)
        assert message.WhichOneof("config") == config.model_type.value

    check()


def arms() -> dict[str, Message]:
    oneof = model_pb2.Model.DESCRIPTOR.oneofs_by_name["config"]
    return {field.name: getattr(model_pb2.Model(), field.name) for field in oneof.fields}


def test_every_type_has_an_arm_and_every_arm_a_type_with_a_class() -> None:
    assert set(arms()) == {model_type.value for model_type in ModelType}
    assert set(arms()) == {
        value for cls in CONFIG_CLASSES for value in literal_values(cls.model_fields["model_type"].annotation)
    }


@pytest.mark.parametrize("arm", sorted(arms()))
def test_an_arm_has_the_same_fields_in_python_and_on_the_wire(arm: str) -> None:
    python = {
        wire_path(name, ModelType(arm)).removeprefix(f"{arm}.")
        for cls in CONFIG_CLASSES
        if arm in list(literal_values(cls.model_fields["model_type"].annotation))
        for name in cls.model_fields
        if name not in ModelConfigBase.model_fields
    }
    wire = {field.name for field in arms()[arm].DESCRIPTOR.fields}
    assert {"raw_json" if name == "raw" else name for name in python} == wire


def test_the_common_fields_are_the_same_in_python_and_on_the_wire() -> None:
    wire = {field.name for field in model_pb2.Model.DESCRIPTOR.fields} - set(arms())
    assert {wire_path(name) for name in ModelConfigBase.model_fields} == wire
    assert set(ModelFile.model_fields) == set(model_pb2.ModelFile.DESCRIPTOR.fields_by_name)
    assert set(SubmodelDefinition.model_fields) == set(model_pb2.Submodel.DESCRIPTOR.fields_by_name)
    assert set(CoverImage.model_fields) == set(CoverImageMessage.DESCRIPTOR.fields_by_name)
    assert set(DefaultSettings.model_fields) == set(DefaultSettingsMessage.DESCRIPTOR.fields_by_name)


ENUMS: list[tuple[type[StrEnum], Any]] = [
    (ModelType, taxonomy_pb2.ModelType),
    (ModelFormat, taxonomy_pb2.ModelFormat),
    (SubModelType, taxonomy_pb2.SubModelType),
    (ModelVariantType, taxonomy_pb2.ModelVariant),
    (SchedulerPredictionType, taxonomy_pb2.PredictionType),
    (ModelSourceType, taxonomy_pb2.ModelSourceType),
    (DigestState, model_pb2.DigestState),
]


@pytest.mark.parametrize(("enum", "wire"), ENUMS, ids=lambda enum: getattr(enum, "__name__", "wire"))
def test_an_enum_has_the_same_values_in_python_and_on_the_wire(enum: type[StrEnum], wire: Any) -> None:
    names = [wire_name(member) for member in enum]
    assert set(names) == {name for name in wire.keys() if not name.endswith("_UNSPECIFIED")}  # noqa: SIM118
    assert [from_wire_name(enum, name) for name in names] == list(enum)
    assert from_wire_name(enum, taxonomy.wire_prefix(enum) + "UNSPECIFIED") is None


def vae_message(**fields: Any) -> model_pb2.Model:
    config = VaeDiffusersConfig(key="0" * 32, name="v", path="p", base_model=BaseModelType.StableDiffusion1)
    message = to_model(config)
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    "fields", [{"type": 99}, {"format": 99}, {"base": "sd-99"}, {"source_type": 99}, {"size_bytes": -1}]
)
def test_a_record_of_a_newer_version_is_unknown_with_its_raw_fields(fields: dict[str, Any]) -> None:
    message = vae_message(**fields)
    config = from_model(message)
    assert isinstance(config, UnknownConfig)
    name, value = next(iter(fields.items()))
    assert str(config.raw[name]) == str(value)
    assert (config.key, config.name, config.path) == ("0" * 32, "v", "p")
    assert not is_readable(message)


def test_reading_changing_and_writing_keeps_what_this_version_does_not_know() -> None:
    message = vae_message(type=99)
    message.compatible_bases.extend(["sd-2", "sd-99"])
    # Field 3000 of the record and of its arm, as a newer version may have.
    unknown_field = b"\xc2\xbb\x01\x03new"
    message.MergeFromString(unknown_field)
    message.vae.MergeFromString(unknown_field)
    for type_ in (99, taxonomy_pb2.MODEL_TYPE_VAE):
        message.type = type_  # type: ignore[assignment]  # open enum
        config = from_model(message)
        config.description = "changed here"
        written = to_model(config)
        expected = model_pb2.Model.FromString(message.SerializeToString())
        expected.description = "changed here"
        assert written.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


@settings(max_examples=30, deadline=None, database=None)
@given(
    st.builds(
        ModelFile,
        path=TEXT,
        size_bytes=st.integers(0, 2**63 - 1),
        modify_time=optional(TIMES),
        sha256=optional(HEX64),
        blake3=optional(HEX64),
        digest_state=st.sampled_from(DigestState),
    )
)
def test_every_file_survives_the_way_to_the_wire_and_back(file: ModelFile) -> None:
    assert from_file(to_file(file)) == file


def test_a_file_in_an_unknown_digest_state_is_pending() -> None:
    message = to_file(ModelFile(path="a", size_bytes=3))
    message.digest_state = 99  # type: ignore[assignment]  # open enum
    assert from_file(message) == ModelFile(path="a", size_bytes=3)


def test_bad_raw_json_of_an_unknown_model_is_shown_as_text() -> None:
    message = to_model(UnknownConfig(name="u", path="p"))
    message.unknown.raw_json = "{"
    config = from_model(message)
    assert isinstance(config, UnknownConfig)
    assert config.raw == {"raw_json": "{"}


def test_a_config_made_by_the_factory_for_onnx_goes_by_its_base() -> None:
    assert config_class("onnx", "olive", "sd-2").__name__ == "ONNXSD2Config"  # type: ignore[union-attr]
    data = {"name": "n", "path": "p", "type": "main", "format": "onnx", "base": "sd-1"}
    assert type(ModelConfigFactory.make_config(data)).__name__ == "ONNXSD1Config"
