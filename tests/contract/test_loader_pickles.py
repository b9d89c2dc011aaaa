"""Weights as torch.save writes them: lent as from_pretrained reads them, refused where they are code."""

from __future__ import annotations

import os
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from safetensors.torch import load_file

from modelkeep.model.v1 import taxonomy_pb2
from support import originals, tinymodels
from support.failures import refused
from support.lending import acquire
from support.loaders import Lender, component, lender
from support.workers import Worker, shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

VAE = taxonomy_pb2.MODEL_TYPE_VAE
CHECKPOINT = taxonomy_pb2.MODEL_FORMAT_CHECKPOINT
CLASSES = {"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel", "vae": "AutoencoderKL"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    shared_workers()  # begins to import while the models are made
    models = folder / "imports"
    models.mkdir()
    async with lender(folder / "data", models, warm_helper=True) as both:
        yield both


async def lent_as_read(
    loader: Lender, worker: Worker, folder: Path, class_name: str, precision: str, **fields: Any
) -> None:
    """Compare what is lent of a folder with what from_pretrained makes of it."""
    assert not list(folder.glob("*.safetensors"))
    key = await loader.register(folder, **fields)
    await worker.do("hold", key=key, submodel=None, precision=precision)
    expected = await worker.do("reference", folder=str(folder), class_name=class_name, precision=precision)
    assert await worker.do("tensors") == expected["tensors"]
    await worker.do("release")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
async def test_a_folder_of_diffusers_is_lent_as_from_pretrained_reads_it(
    loader: Lender, worker: Worker, precision: str
) -> None:
    folder = loader.models / f"vae-{precision}"
    tinymodels.vae().save_pretrained(folder, safe_serialization=False)
    assert zipfile.is_zipfile(folder / "diffusion_pytorch_model.bin")
    await lent_as_read(loader, worker, folder, "AutoencoderKL", precision, type=VAE)


@pytest.mark.parametrize("precision", ["float32", "float16"])
async def test_tied_weights_and_tensors_that_lie_otherwise_come_out_as_they_are(
    loader: Lender, worker: Worker, precision: str
) -> None:
    folder = loader.models / f"t5-{precision}"
    module = tinymodels.t5_encoder()
    module.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    state = module.state_dict()
    assert state["shared.weight"].data_ptr() == state["encoder.embed_tokens.weight"].data_ptr()
    turned = "encoder.block.0.layer.0.SelfAttention.q.weight"
    state[turned] = state[turned].t().contiguous().t()
    torch.save(state, folder / "pytorch_model.bin")
    kind = taxonomy_pb2.MODEL_TYPE_T5_ENCODER
    await lent_as_read(loader, worker, folder, "T5EncoderModel", precision, type=kind)


async def test_a_vae_in_one_file_and_a_checkpoint_are_lent_part_by_part(
    loader: Lender, worker: Worker
) -> None:
    place = loader.models / "sd-1"
    modules, parts = originals.modules_of("sd-1")
    state = load_file(originals.write(place / "model.safetensors", parts))
    originals.write_settings(place / "settings", modules)
    torch.save({"state_dict": state, "epoch": 3, "global_step": 7}, place / "model.ckpt")
    key = await loader.register(place / "model.ckpt", base="sd-1", format=CHECKPOINT)
    for submodel, class_name in CLASSES.items():
        facts = await worker.do("hold", key=key, submodel=submodel, precision="float32")
        assert facts["location"] == str(place / "model.ckpt")
        expected = await worker.do(
            "original",
            file=str(place / "model.safetensors"),
            folder=str(place / "settings"),
            submodel=submodel,
            class_name=class_name,
            precision="float32",
        )
        assert await worker.do("tensors") == expected["tensors"], submodel
        await worker.do("release")

    vae = tinymodels.vae()
    torch.save(tinymodels.to_ldm(vae.state_dict()), loader.models / "vae.pt")
    vae.save_pretrained(loader.models / "same")
    key = await loader.register(loader.models / "vae.pt", type=VAE, base="sd-1", format=CHECKPOINT)
    await worker.do("hold", key=key, submodel=None, precision="float32")
    expected = await worker.do(
        "reference", folder=str(loader.models / "same"), class_name="AutoencoderKL", precision="float32"
    )
    assert await worker.do("tensors") == expected["tensors"]
    await worker.do("release")


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


async def test_code_beside_the_tensors_is_refused_and_never_run(loader: Lender) -> None:
    canary = loader.models / "canary"
    module = tinymodels.vae()
    state = dict(module.state_dict())
    odd = {
        "among": {**state, "more": Payload(canary)},
        "beside": {"state_dict": state, "callbacks": [Payload(canary)]},
        "legacy": state,
    }
    said = {"among": "posix.system", "beside": "posix.system", "legacy": "zip format"}
    for name, saved in odd.items():
        folder = loader.models / name
        module.save_config(folder)
        weights = folder / "diffusion_pytorch_model.bin"
        torch.save(saved, weights, _use_new_zipfile_serialization=name != "legacy")
        key = await loader.register(folder, type=VAE)
        with refused("UNSAFE_FORMAT") as error:
            await acquire(loader, component(key))
        assert said[name] in error.message
        assert error.metadata["path"] == str(weights)
    assert not canary.exists()
    torch.load(loader.models / "among" / "diffusion_pytorch_model.bin", weights_only=False)
    assert canary.exists(), "it would have been run"
