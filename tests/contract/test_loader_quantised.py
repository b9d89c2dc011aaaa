"""Components whose files are quantised: lent as the numbers that the files mean."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import hold_pb2, load_pb2, resident_pb2
from modelkeep.model.v1 import taxonomy_pb2
from support import ggufs, oddweights, tinymodels
from support.loaders import Lender, lender
from support.workers import Worker, shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

CLASSES = {
    "vae": "AutoencoderKL",
    "unet": "UNet2DConditionModel",
    "text_encoder": "CLIPTextModel",
    "t5": "T5EncoderModel",
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    shared_workers()  # begins to import while the model is made
    models = folder / "imports"
    tinymodels.save_pipeline(models / "sd", widths=(32, 64))
    tinymodels.t5_encoder(d_ff=128).save_pretrained(models / "sd" / "t5")
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


async def registered(loader: Lender, place: Path, part: str) -> tuple[str, str | None]:
    """Key and submodel of a component."""
    if part == "t5":
        return await loader.register(place / "t5", type=taxonomy_pb2.MODEL_TYPE_T5_ENCODER), None
    return await loader.register(place), part


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
        ("t5", "fp8", "float16"),
    ],
)
async def test_quantised_weights_are_lent_as_what_they_mean(
    loader: Lender, worker: Worker, part: str, way: str, precision: str
) -> None:
    place, plain = two_of(loader, f"{part} {way}", part, way)
    key, submodel = await registered(loader, place, part)
    await worker.do("hold", key=key, submodel=submodel, precision=precision)
    expected = await worker.do("reference", folder=str(plain), class_name=CLASSES[part], precision=precision)
    assert await worker.do("tensors") == expected["tensors"]
    assert await worker.do("verify")
    await worker.do("release")


@pytest.mark.parametrize(
    ("part", "way", "precision"),
    [
        ("vae", "fp8", "bfloat16"),
        ("unet", "nf4", "float32"),
        ("text_encoder", "int8", "float16"),
        ("text_encoder", "fp8 blocks", "bfloat16"),
        ("t5", "nf4", "float16"),
        ("t5", "fp8 rows", "float32"),
    ],
)
async def test_stored_weights_make_the_outputs_of_the_dequantised_in_less_memory(
    loader: Lender, worker: Worker, part: str, way: str, precision: str
) -> None:
    place, _ = two_of(loader, f"stored {part} {way}", part, way)
    key, submodel = await registered(loader, place, part)
    plain = await worker.do("hold", key=key, submodel=submodel, precision=precision)
    expected = await worker.do("outputs")
    await worker.do("release")
    stored = await worker.do("hold", key=key, submodel=submodel, precision=precision, weights="stored")
    assert await worker.do("outputs") == expected
    assert await worker.do("verify"), "every parameter is the loader's memory"
    assert stored["lease"] != plain["lease"]
    assert stored["weight_bytes"] < plain["weight_bytes"]
    await worker.do("release")


@pytest.mark.parametrize(("part", "precision"), [("unet", "bfloat16"), ("vae", "float32")])
async def test_wide_weights_in_float8_make_the_outputs_of_diffusers_layerwise_casting(
    loader: Lender, worker: Worker, part: str, precision: str
) -> None:
    place = loader.models / f"wide-{part}"
    shutil.copytree(loader.models / "sd", place)
    key = await loader.register(place)
    plain = await worker.do("hold", key=key, submodel=part, precision=precision)
    await worker.do("release")
    narrow = await worker.do("hold", key=key, submodel=part, precision=precision, weights="float8")
    found = await worker.do("outputs")
    assert await worker.do("verify")
    assert narrow["weight_bytes"] < 0.6 * plain["weight_bytes"]
    await worker.do("release")
    folder = str(place / part)
    expected = await worker.do("layerwise", folder=folder, class_name=CLASSES[part], precision=precision)
    assert found == expected


async def test_a_plain_cast_to_float8_stays_one_where_it_is_asked_for_as_stored(
    loader: Lender, worker: Worker
) -> None:
    place = loader.models / "cast"
    shutil.copytree(loader.models / "sd", place)
    oddweights.fp8_plain(place / "vae")
    key = await loader.register(place)
    plain = await worker.do("hold", key=key, submodel="vae", precision="float32")
    expected = await worker.do("outputs")
    await worker.do("release")
    stored = await worker.do("hold", key=key, submodel="vae", precision="float32", weights="stored")
    assert await worker.do("outputs") == expected
    assert stored["weight_bytes"] < 0.4 * plain["weight_bytes"]
    await worker.do("release")


async def test_a_grant_tells_what_the_parts_of_a_weight_are(loader: Lender) -> None:
    place, _ = two_of(loader, "told", "text_encoder", "fp8 rows")
    ref = resident_pb2.ComponentRef(
        key=await loader.register(place),
        submodel=taxonomy_pb2.SUB_MODEL_TYPE_TEXT_ENCODER,
        precision=resident_pb2.PRECISION_AUTO,
        weights=resident_pb2.WEIGHT_FORM_AS_STORED,
    )
    grant = (await loader.stub.AcquireLease(hold_pb2.AcquireLeaseRequest(components=[ref]))).grant
    (manifest,) = grant.manifests
    assert manifest.component == ref
    assert manifest.quantisation == "scaled"
    lent = {tensor.name: tensor for tensor in manifest.tensors}
    assert manifest.quantised_tensors
    for weight in manifest.quantised_tensors:
        assert weight.scheme == "scaled"
        assert weight.dtype == "BF16"
        assert weight.parts.keys() == {"data", "scale"}
        assert lent[weight.parts["data"]].dtype == "F8_E4M3"
        assert lent[weight.parts["data"]].shape == weight.shape
        assert weight.name not in lent
    request = load_pb2.LoadModelRequest(components=[ref])
    residents = [f.resident async for f in loader.stub.LoadModel(request) if f.HasField("resident")]
    assert [one.weights for one in residents] == [resident_pb2.WEIGHT_FORM_AS_STORED]


@pytest.mark.parametrize("weights", ["dequantised", "stored"])
async def test_a_gguf_file_is_lent_as_what_its_blocks_mean(
    loader: Lender, worker: Worker, weights: str
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    (path,) = (loader.models / "sd" / "vae").glob("*.safetensors")
    state = {name: tensor.float().numpy() for name, tensor in load_file(path).items()}
    types = {name: "Q8_0" for name, numbers in state.items() if numbers.ndim == 2}
    # ggml's blocks lie along the last dimension, so who writes a convolution makes it a matrix.
    notes: dict[str, Any] = {}
    for name, numbers in state.items():
        if numbers.ndim == 4 and numbers[0].size % 32 == 0:
            state[name] = numbers.reshape(len(numbers), -1)
            types[name] = "Q4_0"
            notes[f"comfy.gguf.orig_shape.{name}"] = list(numbers.shape)
    file = loader.models / f"{weights}.gguf"
    meant = ggufs.save(file, state, types, notes)
    plain = loader.models / f"{weights}-plain.safetensors"
    shapes = {name: tensor.shape for name, tensor in load_file(path).items()}
    save_file({n: torch.from_numpy(v.reshape(shapes[n]).copy()) for n, v in meant.items()}, plain)
    vae = {"type": taxonomy_pb2.MODEL_TYPE_VAE}
    key = await loader.register(plain, format=taxonomy_pb2.MODEL_FORMAT_CHECKPOINT, **vae)
    wide = await worker.do("hold", key=key, submodel=None, precision="bfloat16")
    expected = await worker.do("outputs")
    await worker.do("release")
    key = await loader.register(file, format=taxonomy_pb2.MODEL_FORMAT_GGUF_QUANTIZED, **vae)
    held = await worker.do("hold", key=key, submodel=None, precision="auto", weights=weights)
    assert held["precision"] == "torch.bfloat16"
    assert await worker.do("outputs") == expected
    assert await worker.do("verify")
    if weights == "stored":
        assert held["weight_bytes"] < 0.7 * wide["weight_bytes"]
    await worker.do("release")
