"""Main models in one file whose weights are quantised: what is lent of them dequantised and as stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from safetensors.torch import load_file, save_file

from modelkeep.model.v1 import taxonomy_pb2
from support import originals, quantisers
from support.loaders import Lender, lender
from support.workers import Worker, shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


def cast(name: str, weight: torch.Tensor) -> quantisers.Stored:
    """A plain cast to float8."""
    narrow = weight.to(torch.float8_e4m3fn)
    return {name: narrow}, narrow.float()


WAYS: dict[str, quantisers.Quantiser] = {
    "fp8": quantisers.fp8(),
    "int8": quantisers.int8_rows,
    "cast": cast,
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
    ("base", "way", "submodels"),
    [
        ("sd-1", "fp8", ["unet", "text_encoder"]),
        ("sd-3", "int8", ["transformer", "text_encoder_3"]),
        ("sd-3", "cast", ["transformer"]),
    ],
)
async def test_a_quantised_checkpoint_is_lent_as_what_it_means_in_either_form(
    loader: Lender, worker: Worker, base: str, way: str, submodels: list[str]
) -> None:
    file, plain = (
        loader.models / f"{base}-{way}.safetensors",
        loader.models / f"{base}-{way}-plain.safetensors",
    )
    originals.write(file, originals.modules_of(base)[1])
    stored: dict[str, torch.Tensor] = {}
    meant: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(file).items():
        if quantisers.is_matrix(name, tensor):
            parts, meant[name] = WAYS[way](name, tensor)
            stored |= parts
        else:
            stored[name] = meant[name] = tensor
    for path, state in ((file, stored), (plain, meant)):
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    format_ = taxonomy_pb2.MODEL_FORMAT_CHECKPOINT
    wide = await loader.register(plain, base=base, format=format_)
    key = await loader.register(file, base=base, format=format_)
    for submodel in submodels:
        await worker.do("hold", key=wide, submodel=submodel, precision="bfloat16")
        tensors, output = await worker.do("tensors"), await worker.do("output")
        await worker.do("release")
        full = await worker.do("hold", key=key, submodel=submodel, precision="bfloat16")
        assert await worker.do("tensors") == tensors, submodel
        await worker.do("release")
        held = await worker.do("hold", key=key, submodel=submodel, precision="bfloat16", weights="stored")
        assert await worker.do("output") == output, submodel
        assert held["weight_bytes"] < 0.9 * full["weight_bytes"], submodel
        assert await worker.do("verify")
        await worker.do("release")
