"""Whole pipelines over leased components, against a real suite: as from_pretrained makes them, and shared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)

from modelkeep.client import Client
from modelkeep.exceptions import (
    FieldInvalidException,
    InvalidModelException,
    UnknownModelException,
    UnknownSubmodelException,
)
from modelkeep.supervisor import Suite
from modelkeep.taxonomy import BaseModelType, ModelType
from modelkeep.worker import PipelineInfo, verify_attachment
from support import originals, tinymodels

pytestmark = pytest.mark.timeout(240)

MODULES = {"vae", "unet", "text_encoder"}


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return {
        "services": ("record", "loader"),
        "env": {
            "MODELKEEP_LOADER_WARM_HELPER": "true",
            "MODELKEEP_LOADER_ALLOW_ANY_IMPORT_ROOT": "true",
        },
    }


@pytest.fixture(scope="module")
def client(suite: Suite) -> Iterator[Client]:
    with Client(data_dir=suite.data_dir) as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(suite: Suite) -> Path:
    return tinymodels.save_pipeline(suite.data_dir.parent / "tiny")


@pytest.fixture(scope="module")
def key(client: Client, folder: Path) -> str:
    return register(client, folder)


def register(client: Client, folder: Path, **fields: Any) -> str:
    config = {
        "name": folder.name,
        "path": folder,
        "model_type": "main",
        "model_format": "diffusers",
        "base_model": "sd-1",
        **fields,
    }
    return client.model_record_store.add_model(None, config).key


def draw(pipeline: Any, **more: Any) -> torch.Tensor:
    """What it makes of a fixed prompt and fixed noise."""
    pipeline.set_progress_bar_config(disable=True)
    more.setdefault("num_inference_steps", 2)
    images = pipeline(
        "a photo of a cat",
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
        **more,
    ).images
    assert isinstance(images, torch.Tensor)
    return images


@pytest.fixture(scope="module")
def expected(folder: Path) -> torch.Tensor:
    return draw(DiffusionPipeline.from_pretrained(folder), height=64, width=64)


@pytest.mark.long
def test_it_draws_bit_for_bit_what_from_pretrained_draws(
    client: Client, folder: Path, key: str, expected: torch.Tensor
) -> None:
    info = client.model_loader.get_pipeline(key)
    assert isinstance(info, PipelineInfo)
    assert (info.key, info.name, info.type) == (key, "tiny", ModelType.Main)
    assert (info.base_model, info.location) == (BaseModelType.StableDiffusion1, folder)
    assert {name for name in info.precisions if name in MODULES} == MODULES
    assert client.model_loader.leases() == []
    with info as pipeline:
        assert type(pipeline) is StableDiffusionPipeline
        assert torch.equal(draw(pipeline, height=64, width=64), expected)
        (lease,) = client.model_loader.leases()  # one for all of them
        assert {name.removeprefix("tiny/") for name in lease.display_names} >= MODULES
        verify_attachment(pipeline)
        with info as again:
            assert again is pipeline
        assert len(client.model_loader.leases()) == 1
    assert client.model_loader.leases() == []
    assert torch.equal(draw(pipeline, height=64, width=64), expected)  # it goes on working
    with info as another:
        assert another is not pipeline


def test_it_is_made_as_from_pretrained_makes_it(client: Client, folder: Path, key: str) -> None:
    theirs = DiffusionPipeline.from_pretrained(str(folder))
    with client.model_loader.get_pipeline(key) as pipeline:
        assert dict(pipeline.config) == dict(theirs.config)
        assert {name: type(part) for name, part in pipeline.components.items()} == {
            name: type(part) for name, part in theirs.components.items()
        }
        assert pipeline.scheduler.config == theirs.scheduler.config
        assert pipeline.tokenizer("a cat").input_ids == theirs.tokenizer("a cat").input_ids


@pytest.mark.long
def test_precision_is_said_for_all_components_or_for_each(client: Client, folder: Path, key: str) -> None:
    theirs = DiffusionPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    with client.model_loader.get_pipeline(key, precision="bfloat16") as pipeline:
        size = {"height": 64, "width": 64}
        assert torch.equal(draw(pipeline, **size), draw(theirs, **size))
    by_name = {"vae": "float32", "default": torch.float16}
    with client.model_loader.get_pipeline(key, precision=by_name) as pipeline:
        assert (pipeline.vae.dtype, pipeline.unet.dtype) == (torch.float32, torch.float16)


@pytest.mark.long
def test_a_model_in_one_file_takes_the_tokenizer_of_a_folder(client: Client, folder: Path, key: str) -> None:
    file = originals.write(folder.parent / "one.safetensors", originals.modules_of("sd-1")[1])
    one = register(client, file, model_format="checkpoint")
    loader = client.model_loader
    with pytest.raises(UnknownSubmodelException, match="take it from a folder"):
        loader.get_model(one, "tokenizer")
    with loader.get_model(key, "tokenizer") as tokenizer:
        given = {"tokenizer": tokenizer, "safety_checker": None, "feature_extractor": None}
        info = loader.get_pipeline(one, pipeline_class=StableDiffusionPipeline, **given)
        with info as pipeline:
            assert draw(pipeline, height=64, width=64).shape == (1, 3, 64, 64)


def test_a_mapping_that_names_no_component_of_the_model_is_refused(client: Client, key: str) -> None:
    for said in ("precision", "weights", "memory_format"):
        value = {"precision": "float32", "weights": "float8", "memory_format": "channels_last"}[said]
        given: dict[str, Any] = {said: {"vea": value}}
        with pytest.raises(FieldInvalidException, match=rf"{said} is 'vea' and must be one of .*\bvae\b"):
            client.model_loader.get_pipeline(key, **given)


def test_weights_are_said_for_all_components_or_for_each(client: Client, key: str) -> None:
    size = {"height": 64, "width": 64}
    loader = client.model_loader
    with loader.get_pipeline(key, weights={"unet": "float8"}) as pipeline:
        drawn = draw(pipeline, **size)
        verify_attachment(pipeline)
    with loader.get_model(key, "unet", weights="float8") as unet:
        assert any(parameter.dtype is torch.uint8 for parameter in unet.parameters())
        with loader.get_pipeline(key, unet=unet) as pipeline:
            assert torch.equal(draw(pipeline, **size), drawn)
            verify_attachment(pipeline)


def test_a_class_and_components_of_ones_own_take_the_place_of_the_models(
    client: Client, folder: Path, key: str
) -> None:
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False, prediction_type="v_prediction")
    vae = tinymodels.vae(seed=50)
    info = client.model_loader.get_pipeline(
        key, pipeline_class=StableDiffusionImg2ImgPipeline, scheduler=scheduler, vae=vae
    )
    assert "vae" not in info.precisions
    picture = torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    more = {"image": picture, "strength": 1.0}
    with info as pipeline:
        assert (pipeline.vae, pipeline.scheduler) == (vae, scheduler)
        drawn = draw(pipeline, **more)
        with pytest.raises(InvalidModelException, match="vae was not made"):
            verify_attachment(pipeline)
    theirs = StableDiffusionImg2ImgPipeline.from_pretrained(
        folder,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False, prediction_type="v_prediction"),
        vae=vae,
    )
    assert torch.equal(drawn, draw(theirs, **more))


def test_each_component_has_its_events(client: Client, key: str) -> None:
    heard: list[tuple[str, str]] = []

    class Bus:
        def dispatch(self, event_name: str, payload: Any) -> None:
            heard.append((payload["event"], payload["data"]["submodel"]))

    client.model_loader.get_pipeline(key, SimpleNamespace(event_bus=Bus()))
    half = len(heard) // 2
    assert {name for event, name in heard[:half] if event == "model_load_started"} >= MODULES
    assert [name for _, name in heard[:half]] == [name for _, name in heard[half:]]
    assert {event for event, _ in heard[half:]} == {"model_load_completed"}


def test_what_is_no_whole_pipeline_is_refused_and_nothing_is_leased(
    client: Client, folder: Path, tmp_path: Path
) -> None:
    loader = client.model_loader
    with pytest.raises(UnknownModelException):
        loader.get_pipeline("0" * 32)
    vae = register(client, folder / "vae", model_type="vae")
    with pytest.raises(InvalidModelException, match="no main model"):
        loader.get_pipeline(vae)
    assert not any(ref.key == vae for one in loader.residents() for ref in one.components)
    stranger = Path(shutil.copytree(folder, tmp_path / "stranger"))
    index = json.loads((stranger / "model_index.json").read_text())
    for change, problem in (
        ({"_class_name": "EvilPipeline"}, "one of diffusers'"),
        ({"_class_name": ["evil", "EvilPipeline"]}, "one of diffusers'"),
        ({"_class_name": "AutoencoderKL"}, "one of diffusers'"),
        ({"tokenizer": ["os", "system"]}, "tokenizer"),
        ({"scheduler": ["diffusers", "AutoencoderKL"]}, "scheduler"),
        ({"tokenizer": [None, None]}, "needs a tokenizer"),
    ):
        (stranger / "model_index.json").write_text(json.dumps({**index, **change}))
        other = register(client, stranger)
        with pytest.raises(InvalidModelException, match=problem) as caught:
            loader.get_pipeline(other)
        assert caught.value.remedy
        client.model_record_store.del_model(other)
    assert loader.leases() == []


def test_a_component_that_cannot_be_lent_can_be_left_out_or_passed(
    client: Client, folder: Path, tmp_path: Path
) -> None:
    careful = Path(shutil.copytree(folder, tmp_path / "careful"))
    index = json.loads((careful / "model_index.json").read_text())
    index |= {"feature_extractor": ["transformers", "NoSuchProcessor"]}
    (careful / "model_index.json").write_text(json.dumps(index))
    key = register(client, careful)
    with pytest.raises(InvalidModelException, match="feature_extractor"):
        client.model_loader.get_pipeline(key)
    with client.model_loader.get_pipeline(key, feature_extractor=None) as pipeline:
        assert pipeline.feature_extractor is None
        verify_attachment(pipeline)
