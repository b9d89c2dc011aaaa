"""Main models in one file with quantised weights: lent as the numbers that these stand for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from safetensors.torch import load_file, save_file

from modelkeep.loader.v1 import resident_pb2
from modelkeep.model.v1 import taxonomy_pb2
from support import ggufs, originals, quantisers
from support.lending import acquire, release
from support.loaders import Lender, component, lender
from support.workers import Worker, shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

CHECKPOINT = taxonomy_pb2.MODEL_FORMAT_CHECKPOINT
GGUF = taxonomy_pb2.MODEL_FORMAT_GGUF_QUANTIZED


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    shared_workers()  # begins to import while the models are made
    models = folder / "imports"
    models.mkdir()
    async with lender(folder / "data", models, warm_helper=True) as both:
        yield both


async def tensors_of(worker: Worker, key: str, submodel: str) -> str:
    """Digest of a component's tensors in float32."""
    await worker.do("hold", key=key, submodel=submodel, precision="float32")
    found: str = await worker.do("tensors")
    await worker.do("release")
    return found


@pytest.mark.long
async def test_float8_beside_scales_in_a_checkpoint_is_lent_as_what_it_means(
    loader: Lender, worker: Worker
) -> None:
    plain = originals.write(loader.models / "plain.safetensors", originals.modules_of("sd-1")[1])
    stored: dict[str, torch.Tensor] = {}
    meant: dict[str, torch.Tensor] = {}
    quantise = quantisers.fp8()
    for name, tensor in load_file(plain).items():
        meant[name] = stored[name] = tensor
        if name.startswith("model.diffusion_model.") and quantisers.is_matrix(name, tensor):
            del stored[name]
            parts, meant[name] = quantise(name, tensor)
            stored |= parts
    assert len(stored) > len(meant)
    for name, tensors in (("stored", stored), ("meant", meant)):
        save_file({n: t.contiguous() for n, t in tensors.items()}, loader.models / f"{name}.safetensors")
    key, plain_key, meant_key = [
        await loader.register(loader.models / f"{name}.safetensors", base="sd-1", format=CHECKPOINT)
        for name in ("stored", "plain", "meant")
    ]
    unet = await tensors_of(worker, key, "unet")
    assert unet == await tensors_of(worker, meant_key, "unet")
    assert unet != await tensors_of(worker, plain_key, "unet")
    encoder = await tensors_of(worker, key, "text_encoder")
    assert encoder == await tensors_of(worker, plain_key, "text_encoder")

    # As stored it is quantised in its unet alone.
    forms = resident_pb2.WEIGHT_FORM_AS_STORED, resident_pb2.WEIGHT_FORM_DEQUANTISED
    counts = len(stored) - len(meant), 0
    for submodel, count, form in zip(("unet", "text_encoder"), counts, forms, strict=True):
        as_stored = component(key, submodel)
        as_stored.weights = resident_pb2.WEIGHT_FORM_AS_STORED
        grant = await acquire(loader, as_stored)
        assert len(grant.manifests[0].quantised_tensors) == count, submodel
        assert grant.manifests[0].weights == form, submodel
        await release(loader, grant)


async def test_a_transformer_in_a_gguf_file_is_lent_as_what_its_blocks_mean(
    loader: Lender, worker: Worker
) -> None:
    state = originals.mmdit(originals.sd3())
    infos: list[tuple[str, str, tuple[int, ...], bytes]] = []
    meant: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        blocks = tensor.ndim == 2 and tensor.shape[1] % 32 == 0
        kind = "Q8_0" if blocks else "F32"
        data, numbers = ggufs.quantised(kind, tensor.detach().numpy())
        infos.append((name, kind, tuple(tensor.shape), data))
        meant[name] = torch.from_numpy(numbers.copy())
    assert any(kind == "Q8_0" for _, kind, _, _ in infos)
    (loader.models / "sd3.gguf").write_bytes(ggufs.file_of(infos))
    save_file(meant, loader.models / "sd3-meant.safetensors")
    key = await loader.register(loader.models / "sd3.gguf", base="sd-3", format=GGUF)
    meant_key = await loader.register(loader.models / "sd3-meant.safetensors", base="sd-3", format=CHECKPOINT)
    found = await tensors_of(worker, key, "transformer")
    assert found == await tensors_of(worker, meant_key, "transformer")
