"""Weight files as people have them: lent as what they mean, or refused with what is wrong with them."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from modelkeep.model.v1 import taxonomy_pb2
from support import oddweights, tinymodels
from support.failures import refused
from support.lending import acquire
from support.loaders import Lender, component, lender
from support.workers import Worker, shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

VAE = taxonomy_pb2.MODEL_TYPE_VAE
CHECKPOINT = taxonomy_pb2.MODEL_FORMAT_CHECKPOINT
fp8 = oddweights.fp8_beside_scales
CLASSES = {"vae": "AutoencoderKL", "unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    shared_workers()  # begins to import while the model is made
    models = folder / "imports"
    tinymodels.save_pipeline(models / "sd", widths=(32, 64))
    async with lender(folder / "data", models, warm_helper=True) as both:
        yield both


async def variant_of(loader: Lender, name: str, part: str, change: Callable[[Path], None]) -> str:
    """Key of a pipeline of which one component was changed."""
    place = loader.models / name.replace(" ", "-")
    shutil.copytree(loader.models / "sd", place)
    change(place / part)
    return await loader.register(place)


@pytest.mark.parametrize(
    ("name", "part", "change", "said"),
    [
        # A name that nobody has heard of yet is a tensor that the module does not take.
        ("fp8 other", "vae", fp8("factor"), "factor"),
        ("fp8 other text", "text_encoder", fp8("factor"), "factor"),
        ("int8 alone", "text_encoder", partial(oddweights.int8, scales=False), "integers of 8 bits"),
        ("nf4 without a state", "text_encoder", oddweights.nf4, "cannot be read"),
    ],
)
async def test_weights_that_mean_something_only_with_their_scales_are_refused_and_named(
    loader: Lender, name: str, part: str, change: Callable[[Path], None], said: str
) -> None:
    key = await variant_of(loader, name, part, change)
    with refused("INVALID_MODEL") as error:
        await acquire(loader, component(key, part))
    assert said in error.message
    assert "float16" in error.remedy


@pytest.mark.parametrize(
    ("name", "part", "change"),
    [
        (
            "shards, old names",
            "unet",
            partial(
                oddweights.shard,
                pattern="diffusion_pytorch_model.fp16-{:05d}-of-00002.safetensors",
                index="diffusion_pytorch_model.safetensors.index.fp16.json",
            ),
        ),
        (
            "shards, new names",
            "unet",
            partial(
                oddweights.shard,
                pattern="diffusion_pytorch_model-{:05d}-of-00002.fp16.safetensors",
                index="diffusion_pytorch_model.safetensors.index.fp16.json",
            ),
        ),
        (
            "positions as integers",
            "text_encoder",
            partial(oddweights.with_position_ids, dtype="int64"),
        ),
        (
            "positions as floats",
            "text_encoder",
            partial(oddweights.with_position_ids, dtype="float16"),
        ),
    ],
)
async def test_other_files_of_the_same_weights_are_lent_as_these(
    loader: Lender, worker: Worker, name: str, part: str, change: Callable[[Path], None]
) -> None:
    key = await variant_of(loader, name, part, change)
    await worker.do("hold", key=key, submodel=part, precision="float32")
    plain = str(loader.models / "sd" / part)
    expected = await worker.do("reference", folder=plain, class_name=CLASSES[part], precision="float32")
    assert await worker.do("tensors") == expected["tensors"]
    await worker.do("release")


async def test_a_plain_cast_to_float8_is_lent_as_its_numbers(loader: Lender, worker: Worker) -> None:
    key = await variant_of(loader, "fp8 plain", "vae", oddweights.fp8_plain)
    await worker.do("hold", key=key, submodel="vae", precision="float32")
    place = str(loader.models / "fp8-plain" / "vae")
    expected = await worker.do("reference", folder=place, class_name="AutoencoderKL", precision="float32")
    assert await worker.do("tensors") == expected["tensors"]
    await worker.do("release")


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder"])
async def test_no_tensor_is_dropped_in_silence(loader: Lender, part: str) -> None:
    import torch

    def change(place: Path) -> None:
        oddweights.rewrite(place, lambda state: {**state, "something.more": torch.ones(3)})

    key = await variant_of(loader, f"more {part}", part, change)
    with refused("INVALID_MODEL") as error:
        await acquire(loader, component(key, part))
    assert f"hold what {CLASSES[part]} does not take: something.more" in error.message


async def test_what_joins_a_text_encoder_to_the_other_half_of_its_clip_may_stay_behind(
    loader: Lender, worker: Worker
) -> None:
    import torch

    more = {"text_projection.weight": torch.ones(64, 64), "logit_scale": torch.tensor(1.0)}
    key = await variant_of(
        loader,
        "whole clip",
        "text_encoder",
        lambda place: oddweights.rewrite(place, lambda state: {**state, **more}),
    )
    await worker.do("hold", key=key, submodel="text_encoder", precision="float32")
    plain = str(loader.models / "sd" / "text_encoder")
    expected = await worker.do("reference", folder=plain, class_name="CLIPTextModel", precision="float32")
    assert await worker.do("tensors") == expected["tensors"]
    await worker.do("release")


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
async def test_of_a_vae_in_one_file_only_what_trained_it_may_stay_behind(
    loader: Lender, worker: Worker, prefix: str
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    path = loader.models / f"{prefix}vae.safetensors"
    tinymodels.save_vae_file(path, ldm=True, prefix=prefix)
    state = load_file(path)
    save_file({**state, f"{prefix}loss.discriminator.main.0.weight": torch.ones(3)}, path)
    key = await loader.register(path, type=VAE, format=CHECKPOINT)
    await worker.do("hold", key=key, submodel=None, precision="float32")
    assert await worker.do("tensors")
    await worker.do("release")

    stray = loader.models / f"{prefix}stray.safetensors"
    save_file({**state, f"{prefix}encoder.conv_in.factor": torch.ones(1)}, stray)
    key = await loader.register(stray, type=VAE, format=CHECKPOINT)
    with refused("INVALID_MODEL") as error:
        await acquire(loader, component(key))
    assert f"{prefix}encoder.conv_in.factor" in error.message
