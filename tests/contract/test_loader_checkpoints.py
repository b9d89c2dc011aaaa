"""Main models in one file: their components are lent as diffusers' own reading of the file has them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch

from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.worker._fetch import fetch_descriptors
from support import originals, tinymodels
from support.failures import refused
from support.lending import acquire, release
from support.loaders import Lender, component, lender
from support.workers import Worker, shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

CHECKPOINT = taxonomy_pb2.MODEL_FORMAT_CHECKPOINT
CLASSES = {
    "sd-1": {"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel", "vae": "AutoencoderKL"},
    "sd-2": {"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel", "vae": "AutoencoderKL"},
    "sdxl": {
        "unet": "UNet2DConditionModel",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "vae": "AutoencoderKL",
    },
    "sdxl-refiner": {
        "unet": "UNet2DConditionModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "vae": "AutoencoderKL",
    },
    "sd-3": {
        "transformer": "SD3Transformer2DModel",
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
        "vae": "AutoencoderKL",
    },
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    shared_workers()  # begins to import while the models are made
    models = folder / "imports"
    models.mkdir()
    async with lender(folder / "data", models, warm_helper=True) as both:
        yield both


@pytest.mark.long
@pytest.mark.parametrize(
    ("base", "precision"), [*((base, "float32") for base in CLASSES), ("sd-3", "float16")]
)
async def test_every_component_of_a_file_is_what_diffusers_reads(
    loader: Lender, worker: Worker, base: str, precision: str
) -> None:
    place = loader.models / f"{base}-{precision}"
    file, folder = place / "model.safetensors", place / "settings"
    modules, parts = originals.modules_of(base)
    originals.write(file, parts)
    originals.write_settings(folder, modules)
    key = await loader.register(file, base=base, format=CHECKPOINT)
    assert CLASSES[base].keys() == modules.keys()
    for submodel, class_name in CLASSES[base].items():
        facts = await worker.do("hold", key=key, submodel=submodel, precision=precision)
        assert facts["location"] == str(file)
        expected = await worker.do(
            "original",
            file=str(file),
            folder=str(folder),
            submodel=submodel,
            class_name=class_name,
            precision=precision,
        )
        assert await worker.do("tensors") == expected["tensors"], submodel
        assert await worker.do("output") == expected["output"], submodel
        await worker.do("release")


async def registered(loader: Lender, name: str, base: str, **fields: Any) -> tuple[str, Path]:
    """Key and file of a tiny model."""
    file = loader.models / f"{name}.safetensors"
    originals.write(file, originals.modules_of(base)[1])
    settings = model_pb2.MainConfig(**fields)
    return await loader.register(file, base=base, format=CHECKPOINT, main=settings), file


async def config_of(loader: Lender, key: str, submodel: str) -> dict[str, Any]:
    """The configuration that a component is lent with."""
    grant = await acquire(loader, component(key, submodel, "float32"))
    await release(loader, grant)
    found: dict[str, Any] = json.loads(grant.manifests[0].config_json)
    return found


async def test_a_configuration_that_the_record_names_is_obeyed(loader: Lender) -> None:
    configs = loader.models.parent / "data" / "configs"
    configs.mkdir(parents=True, exist_ok=True)
    (configs / "four-heads.yaml").write_text(
        "model: {params: {scale_factor: 0.5, unet_config: {params: {num_heads: 4, context_dim: 64}}}}"
    )
    key, _ = await registered(loader, "named", "sd-1", checkpoint_config="configs/four-heads.yaml")
    assert (await config_of(loader, key, "unet"))["attention_head_dim"] == 4
    assert (await config_of(loader, key, "vae"))["scaling_factor"] == 0.5
    plain, _ = await registered(loader, "unnamed", "sd-1")
    assert (await config_of(loader, plain, "unet"))["attention_head_dim"] == 8
    assert (await config_of(loader, plain, "vae"))["scaling_factor"] == 0.18215

    (configs / "four-heads.yaml").write_text(
        "model: {params: {unet_config: {params: {num_heads: 2, context_dim: 64}}}}"
    )
    assert (await config_of(loader, key, "unet"))["attention_head_dim"] == 2, "read anew"
    (configs / "four-heads.yaml").write_text(
        "model: {params: {unet_config: {params: {num_heads: 2, context_dim: 768}}}}"
    )
    with refused("INVALID_MODEL") as error:
        await acquire(loader, component(key, "unet"))
    assert "cross_attention_dim is 768, by the file's tensors 64" in error.message


async def test_configurations_that_the_original_names_come_along(loader: Lender) -> None:
    named = "configs/stable-diffusion/v2-inference-v.yaml"
    key, _ = await registered(loader, "shipped", "sd-2", checkpoint_config=named)
    with refused("INVALID_MODEL") as error:  # which is right: this tiny one is 64 wide
        await acquire(loader, component(key, "unet"))
    assert "v2-inference-v.yaml is another model's" in error.message
    key, _ = await registered(loader, "unheard-of", "sd-2", checkpoint_config="configs/mine.yaml")
    with refused("MODEL_NOT_FOUND_ON_DISK") as error:
        await acquire(loader, component(key, "unet"))
    assert "v1-inference.yaml" in error.message
    key, _ = await registered(loader, "outside", "sd-1", checkpoint_config="/etc/hostname")
    with refused("FORBIDDEN_PATH"):
        await acquire(loader, component(key, "unet"))


async def test_what_the_record_says_of_attention_prediction_and_vae_is_obeyed(
    loader: Lender, worker: Worker
) -> None:
    tinymodels.vae(seed=11, widths=(32, 64)).save_pretrained(loader.models / "other-vae")
    key, _ = await registered(
        loader,
        "said",
        "sd-2",
        upcast_attention=True,
        prediction_type=taxonomy_pb2.PREDICTION_TYPE_V_PREDICTION,
        vae=str(loader.models / "other-vae"),
    )
    unet = await config_of(loader, key, "unet")
    assert (unet["upcast_attention"], unet["sample_size"]) == (True, 96)
    assert await scheduler_of(loader, key) == ("DDIMScheduler", "v_prediction")
    await worker.do("hold", key=key, submodel="vae", precision="float32")
    folder = str(loader.models / "other-vae")
    expected = await worker.do("reference", folder=folder, class_name="AutoencoderKL", precision="float32")
    assert await worker.do("tensors") == expected["tensors"]
    await worker.do("release")


async def scheduler_of(loader: Lender, key: str) -> tuple[str, str]:
    """Class and prediction type of the scheduler that is lent."""
    grant = await acquire(loader, component(key, "scheduler"))
    (lent,) = grant.manifests
    (tensor,) = lent.tensors
    connection, (fd,) = await asyncio.to_thread(fetch_descriptors, grant.socket_path, grant.ticket, 1)
    settings = json.loads(os.pread(fd, tensor.size_bytes, tensor.offset))
    os.close(fd)
    connection.close()
    await release(loader, grant)
    assert settings["_class_name"] == lent.class_name
    return lent.class_name, settings["prediction_type"]


async def test_what_a_file_does_not_hold_is_said(loader: Lender) -> None:
    key, file = await registered(loader, "asked", "sd-2")
    with refused("SUBMODEL_REQUIRED") as error:
        await acquire(loader, component(key))
    assert error.metadata["loadable"] == "text_encoder,unet,vae"
    assert "scheduler (INVALID_MODEL)" in error.message
    with refused("UNKNOWN_SUBMODEL") as error:
        await acquire(loader, component(key, "tokenizer"))
    assert "No single file holds a tokenizer" in error.message
    with refused("INVALID_MODEL") as error:
        await acquire(loader, component(key, "scheduler"))
    assert "prediction_type" in error.remedy

    other = file.with_name("renamed.safetensors")
    os.link(file, other)
    key = await loader.register(other, base="sd-1", format=CHECKPOINT)
    with refused("INVALID_MODEL") as error:
        await acquire(loader, component(key, "unet"))
    assert "is no Stable Diffusion 1, as its record says" in error.message
    assert error.remedy == "Correct the record's base."


async def test_a_tensor_that_no_class_takes_is_a_refusal_of_its_component_alone(loader: Lender) -> None:
    file = loader.models / "more.safetensors"
    parts = originals.modules_of("sd-1")[1]
    originals.write(
        file,
        parts,
        model__diffusion_model__input_blocks__1__1__gate=torch.ones(3),
        first_stage_model__loss__weight=torch.ones(3),
        model_ema__decay=torch.ones(1),
        alphas_cumprod=torch.ones(1000),
    )
    key = await loader.register(file, base="sd-1", format=CHECKPOINT)
    with refused("INVALID_MODEL") as error:
        await acquire(loader, component(key, "unet"))
    assert "input_blocks.1.1.gate" in error.message or "attentions.0.gate" in error.message
    for submodel in ("text_encoder", "vae"):
        await release(loader, await acquire(loader, component(key, submodel)))
