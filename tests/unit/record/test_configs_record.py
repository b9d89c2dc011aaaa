"""The vocabulary and the config classes: names, dicts of the original, licences, bad input."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from modelkeep import configs, taxonomy
from modelkeep.configs import (
    AnyModelConfig,
    CheckpointConfig,
    DiffusersConfig,
    InvalidModelConfigException,
    LoRAConfig,
    MainCheckpointConfig,
    MainConfig,
    MainDiffusersConfig,
    ModelConfigBase,
    ModelConfigFactory,
    ONNXSD2Config,
    UnknownConfig,
    VaeDiffusersConfig,
    config_class,
    formats_of,
)
from modelkeep.taxonomy import (
    BaseModelType,
    ModelFormat,
    ModelType,
    ModelVariantType,
    SchedulerPredictionType,
)

COMMON = {"name": "n", "path": "p"}


def make(**fields: Any) -> AnyModelConfig:
    return ModelConfigFactory.make_config(COMMON | fields)


def test_the_enums_have_the_names_and_values_of_the_original() -> None:
    members = (
        (ModelType("lora"), "Lora", "lora"),
        (ModelType.LoRA, "Lora", "lora"),
        (ModelType.TextualInversion, "TextualInversion", "embedding"),
        (BaseModelType.StableDiffusionXLRefiner, "StableDiffusionXLRefiner", "sdxl-refiner"),
        (ModelFormat.EmbeddingFolder, "EmbeddingFolder", "embedding_folder"),
        (taxonomy.SubModelType.TextEncoder2, "TextEncoder2", "text_encoder_2"),
    )
    for member, name, value in members:
        assert (member.name, member.value, str(member)) == (name, value, value)
    assert [v.value for v in ModelVariantType] == ["normal", "inpaint", "depth"]
    assert [v.value for v in SchedulerPredictionType] == ["epsilon", "v_prediction", "sample"]
    assert len(BaseModelType) == 18
    assert len(ModelType) == 27
    assert len(taxonomy.SubModelType) == 35
    for name in ("ModelType", "ModelFormat", "BaseModelType", "SubModelType", "ModelVariantType"):
        assert getattr(configs, name) is getattr(taxonomy, name)


def test_importing_the_configs_imports_neither_torch_nor_grpc_nor_protobuf() -> None:
    code = "import sys, modelkeep.configs; print({m.partition('.')[0] for m in sys.modules})"
    root = Path(configs.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert not {"torch", "grpc", "google"} & {name.strip(" {}'") for name in done.stdout.strip().split(",")}


@pytest.mark.parametrize("names", [("model_type", "model_format", "base_model"), ("type", "format", "base")])
@pytest.mark.parametrize(
    ("kind", "cls"),
    [
        (("main", "checkpoint", "sd-1"), MainCheckpointConfig),
        (("main", "gguf_quantized", "flux"), MainCheckpointConfig),
        (("main", "diffusers", "sdxl"), MainDiffusersConfig),
        (("onnx", "onnx", "sd-1"), configs.ONNXSD1Config),
        (("onnx", "olive", "sd-2"), ONNXSD2Config),
        (("main", "olive", "sd-2"), ONNXSD2Config),
        (("vae", "checkpoint", "any"), configs.VaeCheckpointConfig),
        (("vae", "diffusers", "any"), VaeDiffusersConfig),
        (("lora", "lycoris", "sd-1"), LoRAConfig),
        (("lora", "diffusers", "sd-1"), LoRAConfig),
        (("controlnet", "checkpoint", "sd-1"), configs.ControlNetCheckpointConfig),
        (("controlnet", "diffusers", "sd-1"), configs.ControlNetDiffusersConfig),
        (("embedding", "embedding_folder", "sd-1"), configs.TextualInversionConfig),
        (("ip_adapter", "invokeai", "sdxl"), configs.IPAdapterConfig),
        (("clip_vision", "diffusers", "any"), configs.CLIPVisionConfig),
        (("t2i_adapter", "diffusers", "sd-1"), configs.T2IConfig),
        (("siglip", "diffusers", "any"), configs.SigLIPConfig),
        (("unknown", "checkpoint", "unknown"), UnknownConfig),
    ],
)
def test_a_dict_becomes_the_class_of_its_type_and_format(
    names: tuple[str, ...], kind: tuple[str, ...], cls: type[ModelConfigBase]
) -> None:
    config = make(**dict(zip(names, kind, strict=True)))
    assert type(config) is cls
    assert TypeAdapter(AnyModelConfig).validate_python(config.model_dump()) == config
    assert TypeAdapter(AnyModelConfig).validate_json(config.model_dump_json()) == config


def test_the_hierarchy_is_that_of_the_original() -> None:
    assert issubclass(MainCheckpointConfig, CheckpointConfig)
    assert issubclass(MainCheckpointConfig, MainConfig)
    assert issubclass(MainDiffusersConfig, DiffusersConfig)
    main = make(type="main", format="checkpoint", base="sd-1", config="v1.yaml", vae="v")
    assert isinstance(main, MainConfig)
    assert isinstance(main, CheckpointConfig)
    assert (main.config, main.vae, main.variant) == ("v1.yaml", "v", ModelVariantType.Normal)
    onnx = make(type="onnx", format="onnx", base="sd-2")
    assert isinstance(onnx, ONNXSD2Config)
    assert (onnx.prediction_type, onnx.upcast_attention) == (SchedulerPredictionType.VPrediction, True)


def test_every_main_model_takes_prediction_type_and_upcast_attention() -> None:
    for format_ in formats_of(ModelType.Main):
        config = make(
            type="main", format=format_, base="sd-2", prediction_type="v_prediction", upcast_attention=True
        )
        assert config.prediction_type is SchedulerPredictionType.VPrediction  # type: ignore[union-attr]


def test_a_family_variant_may_come_as_variant() -> None:
    config = make(type="main", format="diffusers", base="flux", variant="schnell")
    assert isinstance(config, MainConfig)
    assert (config.variant, config.family_variant) == (ModelVariantType.Normal, "schnell")


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        ({}, ["model_type", "model_format"]),
        ({"type": "vea", "format": "diffusers", "base": "sd-1"}, ["model_type"]),
        ({"type": "vae", "format": "difusers", "base": "sd1"}, ["model_format", "base_model"]),
        ({"type": "vae", "format": "lycoris", "base": "sd-1"}, ["model_format"]),
        ({"type": "vae", "format": "diffusers", "base": "sd-1", "pth": "x"}, ["pth"]),
        (
            {"type": "vae", "format": "diffusers", "base": "sd-1", "name": "", "size_bytes": -1},
            ["name", "size_bytes"],
        ),
        ({"type": "vae", "format": "diffusers", "base": "sd-1", "tags": "a"}, ["tags"]),
        ({"type": "main", "format": "diffusers", "base": "sd-1", "variant": "x"}, ["variant"]),
        ({"type": "vae", "format": "diffusers"}, ["base_model"]),
    ],
)
def test_a_bad_dict_is_refused_with_its_bad_fields(data: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(InvalidModelConfigException) as raised:
        make(**data)
    assert [violation.field for violation in raised.value.violations] == fields
    for field in fields:
        assert field in raised.value.message
    for violation in raised.value.violations:
        assert not re.match("Input|Extra|Field", violation.description), violation


def test_assignments_are_checked() -> None:
    config = make(type="vae", format="diffusers", base="sd-1")
    with pytest.raises(ValidationError):
        config.base_model = "sd-99"  # type: ignore[assignment]  # what is refused
    config.license = "MIT"  # type: ignore[assignment]  # text becomes a License
    assert config.license.contains("MIT")


def test_a_licence_knows_its_terms() -> None:
    terms = "allowCommercialUse=Sell;allowCommercialUse=RentCivit,allowDerivatives=true"
    config = make(type="vae", format="diffusers", base="sd-1", license=terms)
    assert config.license == terms
    assert config.license.contains("allowCommercialUse=Sell")
    assert config.license.contains("allowDerivatives=true")
    assert not config.license.contains("allowCommercialUse=Rent")
    assert not config.license.contains("Sell")
    assert not config.license.contains("")
    assert not make(type="vae", format="diffusers", base="sd-1").license.contains("MIT")
    assert make(type="vae", format="diffusers", base="sd-1", license=None).license == ""


def test_paths_may_be_path_objects_and_times_are_utc() -> None:
    east = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    config = make(
        type="vae", format="checkpoint", base="sd-1", path=Path("a/b"), config=Path("c"), create_time=east
    )
    assert (config.path, config.config) == ("a/b", "c")  # type: ignore[union-attr]
    assert config.create_time == east
    assert config.create_time is not None
    assert config.create_time.tzinfo is UTC


def test_the_factory_copies_a_config_and_sets_its_key() -> None:
    config = make(type="vae", format="diffusers", base="sd-1", tags=["a"], compatible_bases=["sd-2", "sd-1"])
    copy = ModelConfigFactory.make_config(config, key="k")
    copy.tags.append("b")
    assert (config.key, copy.key, config.tags) == ("", "k", ["a"])
    assert config.bases == ["sd-1", "sd-2"]
    assert config != copy
    assert config_class("vae", "nonsense") is None
