"""Components whose files are quantised: lent as the numbers that the files mean."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from support import tinymodels
from support.loaders import Lender, lender
from support.workers import Worker, shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

CLASSES = {
    "vae": "AutoencoderKL",
    "unet": "UNet2DConditionModel",
    "text_encoder": "CLIPTextModel",
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    shared_workers()  # begins to import while the model is made
    models = folder / "imports"
    tinymodels.save_pipeline(models / "sd", widths=(32, 64))
    async with lender(folder / "data", models, warm_helper=True) as both:
        yield both


def two_of(loader: Lender, name: str, part: str, way: str) -> tuple[Path, Path]:
    """A pipeline of which one component is quantised, and the component with the numbers that it means."""
    from support import quantisers

    ways = {
        "fp8": quantisers.fp8(),
        "fp8 rows": quantisers.fp8("weight_scale", rows=True),
        "fp8 blocks": quantisers.fp8("weight_scale_inv", block=16),
        "int8": quantisers.int8,
        "int8 rows": quantisers.int8_rows,
        "quanto": quantisers.quanto,
        "nf4": quantisers.four_bits(nested=True),
        "fp4": quantisers.four_bits("fp4"),
    }
    place, plain = loader.models / name.replace(" ", "-"), loader.models / f"{name.replace(' ', '-')}-plain"
    shutil.copytree(loader.models / "sd", place)
    shutil.copytree(loader.models / "sd" / part, plain)
    assert quantisers.quantise_folder(place / part, plain, ways[way])
    return place, plain


@pytest.mark.parametrize(
    ("part", "way", "precision"),
    [
        ("vae", "fp8", "float32"),
        ("unet", "fp8 blocks", "bfloat16"),
        ("unet", "nf4", "float16"),
        ("text_encoder", "fp8", "bfloat16"),
        ("text_encoder", "int8", "float32"),
        ("text_encoder", "int8 rows", "bfloat16"),
        ("text_encoder", "quanto", "float32"),
        ("text_encoder", "nf4", "bfloat16"),
        ("text_encoder", "fp4", "float32"),
        ("vae", "fp8 rows", "bfloat16"),
    ],
)
async def test_quantised_weights_are_lent_as_what_they_mean(
    loader: Lender, worker: Worker, part: str, way: str, precision: str
) -> None:
    place, plain = two_of(loader, f"{part} {way}", part, way)
    key = await loader.register(place)
    await worker.do("hold", key=key, submodel=part, precision=precision)
    expected = await worker.do("reference", folder=str(plain), class_name=CLASSES[part], precision=precision)
    assert await worker.do("tensors") == expected["tensors"]
    assert await worker.do("verify")
    await worker.do("release")
