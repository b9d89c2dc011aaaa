"""Modules in channels last: lent in that order, the same as torch's own conversion of them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from modelkeep.exceptions import FieldInvalidException
from modelkeep.loader.v1 import hold_pb2, load_pb2, residents_pb2
from modelkeep.loader.v1 import resident_pb2 as pb
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.worker import ModelLoader, mapped_memory, verify_attachment
from modelkeep.worker._fetch import fetch_descriptors
from support import oddweights, tinymodels
from support.failures import refused
from support.lending import acquire, release
from support.loaders import Lender, lender
from support.originalforwards import output_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

CLASSES: dict[str, Any] = {
    "vae": AutoencoderKL,
    "unet": UNet2DConditionModel,
    "text_encoder": CLIPTextModel,
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    models = folder / "imports"
    tinymodels.save_pipeline(models / "sd", widths=(32, 64))
    async with lender(folder / "data", models, warm_helper=True) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(loader: Lender) -> str:
    return await loader.register(loader.models / "sd")


@pytest.fixture
def models(loader: Lender) -> Iterator[ModelLoader]:
    with ModelLoader(loader.address) as opened:
        yield opened


def converted(cls: Any, folder: Path, precision: str) -> Any:
    """What torch makes of the module that the library reads."""
    dtype = {"dtype" if cls is CLIPTextModel else "torch_dtype": getattr(torch, precision)}
    return cls.from_pretrained(folder, **dtype).eval().to(memory_format=torch.channels_last)


def tensors_of(module: Any) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}


def assert_same(mine: Any, theirs: Any) -> None:
    """Equal values, and each in the same place among the others."""
    lent, original = tensors_of(mine), tensors_of(theirs)
    assert lent.keys() == original.keys()
    for name, tensor in original.items():
        assert lent[name].stride() == tensor.stride(), name
        assert lent[name].dtype == tensor.dtype, name
        assert torch.equal(lent[name], tensor), name


def ref(key: str, submodel: str = "", **fields: Any) -> pb.ComponentRef:
    return pb.ComponentRef(
        key=key,
        submodel=f"SUB_MODEL_TYPE_{(submodel or 'unspecified').upper()}",
        **{"memory_format": pb.MEMORY_FORMAT_CHANNELS_LAST, **fields},
    )


@pytest.mark.parametrize(
    ("part", "precision"),
    [("vae", "float32"), ("vae", "bfloat16"), ("unet", "float32"), ("unet", "float16")],
)
async def test_a_lent_module_is_the_one_that_torch_makes_channels_last(
    loader: Lender, models: ModelLoader, key: str, part: str, precision: Any
) -> None:
    def compare() -> None:
        expected = converted(CLASSES[part], loader.models / "sd" / part, precision)
        info = models.get_model(key, part, precision=precision, memory_format="channels_last")
        with info as module:
            assert_same(module, expected)
            wide = [p for p in module.parameters() if p.dim() == 4]
            assert any(not p.is_contiguous() for p in wide)
            assert all(p.is_contiguous(memory_format=torch.channels_last) for p in wide)
            assert output_of(module) == output_of(expected)
            verify_attachment(module)
            assert mapped_memory(module)
            # What torch would do to it is done: nothing is copied.
            module.to(memory_format=torch.channels_last)
            verify_attachment(module)

    await asyncio.to_thread(compare)


async def test_a_module_that_is_built_layer_by_layer_is_no_different(
    loader: Lender, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelkeep.worker import attachment

    monkeypatch.setattr(attachment, "unpack", lambda *arguments: None)
    one = ref(key, "vae", precision=pb.PRECISION_FLOAT32)
    module, _ = await fetched(loader, one)
    assert_same(module, converted(AutoencoderKL, loader.models / "sd" / "vae", "float32"))


async def fetched(loader: Lender, one: pb.ComponentRef) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """A component's module, and the shapes that stand in the header of its file."""
    from modelkeep.worker import attach

    grant = await acquire(loader, one)

    def fetch() -> tuple[Any, dict[str, tuple[int, ...]]]:
        connection, (fd,) = fetch_descriptors(grant.socket_path, grant.ticket, 1)
        with connection, open(fd, "rb"):
            lent: Any = safe_open(f"/proc/self/fd/{fd}", framework="pt")
            with lent as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}
            return attach(fd), shapes

    try:
        return await asyncio.to_thread(fetch)
    finally:
        await release(loader, grant)


async def test_the_file_says_the_shape_of_its_bytes_and_the_manifest_that_of_the_module(
    loader: Lender, key: str
) -> None:
    one = ref(key, "unet", precision=pb.PRECISION_BFLOAT16)
    grant = (await loader.stub.AcquireLease(hold_pb2.AcquireLeaseRequest(components=[one]))).grant
    (manifest,) = grant.manifests
    assert manifest.component == one
    module, header = await fetched(loader, one)
    state = module.state_dict()
    told = {tensor.name: tensor for tensor in manifest.tensors}
    assert told.keys() == header.keys()
    for name, entry in told.items():
        assert tuple(entry.shape) == tuple(state[name].shape)
        if len(entry.shape) != 4:
            assert header[name] == tuple(entry.shape)
            assert not entry.strides
            continue
        n, c, h, w = entry.shape
        assert header[name] == (n, h, w, c)
        assert tuple(entry.strides) == (h * w * c, 1, w * c, c) == state[name].stride()
    await release(loader, grant)


async def test_each_order_is_a_component_of_its_own_and_listed_as_such(loader: Lender, key: str) -> None:
    as_ever = ref(key, "vae", precision=pb.PRECISION_FLOAT16, memory_format=pb.MEMORY_FORMAT_CONTIGUOUS)
    for one in (as_ever, ref(key, "vae", precision=pb.PRECISION_FLOAT16)):
        async for _ in loader.stub.LoadModel(load_pb2.LoadModelRequest(components=[one])):
            pass
    found = (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest(key=key))).residents
    vaes = [r for r in found if r.precision == pb.PRECISION_FLOAT16 and r.class_name == "AutoencoderKL"]
    assert {r.memory_format for r in vaes} == {
        pb.MEMORY_FORMAT_CONTIGUOUS,
        pb.MEMORY_FORMAT_CHANNELS_LAST,
    }
    assert len({r.id for r in vaes}) == len(vaes) == 2
    # To say that it is to be as ever is not to ask for anything else.
    asked = {r.memory_format: list(r.components) for r in vaes}
    assert [c.memory_format for c in asked[pb.MEMORY_FORMAT_CONTIGUOUS]] == [pb.MEMORY_FORMAT_UNSPECIFIED]


async def test_what_has_no_tensors_of_four_dimensions_is_lent_once(
    loader: Lender, models: ModelLoader, key: str
) -> None:
    grants = [
        await acquire(loader, ref(key, "text_encoder", memory_format=order))
        for order in (pb.MEMORY_FORMAT_CONTIGUOUS, pb.MEMORY_FORMAT_CHANNELS_LAST)
    ]
    one, other = [list(grant.lease.resident_ids) for grant in grants]
    assert one == other
    for grant in grants:
        await release(loader, grant)


async def test_a_single_file_with_the_original_names_is_lent_so_too(
    loader: Lender, models: ModelLoader, folder: Path
) -> None:
    place = loader.models / "single.safetensors"
    shutil.copy(next((loader.models / "sd" / "vae").glob("*.safetensors")), place)
    key = await loader.register(
        place, type=taxonomy_pb2.MODEL_TYPE_VAE, format=taxonomy_pb2.MODEL_FORMAT_CHECKPOINT
    )

    def compare() -> None:
        plain = models.get_model(key, precision="float32")
        turned = models.get_model(key, precision="float32", memory_format="channels_last")
        with plain as one, turned as other:
            assert output_of(other) == output_of(
                converted(AutoencoderKL, loader.models / "sd" / "vae", "float32")
            )
            assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))

    await asyncio.to_thread(compare)


async def test_the_precision_of_the_files_is_found_as_ever(loader: Lender, models: ModelLoader) -> None:
    place = loader.models / "fp16-file"
    shutil.copytree(loader.models / "sd", place)
    (weights,) = (place / "unet").glob("*.safetensors")
    save_file({n: t.half() for n, t in load_file(weights).items()}, weights, {"format": "pt"})
    key = await loader.register(place)

    def compare() -> None:
        with models.get_model(key, "unet", memory_format="channels_last") as unet:
            assert_same(unet, converted(UNet2DConditionModel, place / "unet", "float16"))

    await asyncio.to_thread(compare)


async def test_a_pipeline_is_lent_so_with_its_objects_as_ever(models: ModelLoader, key: str) -> None:
    def draw() -> None:
        with models.get_pipeline(key, memory_format="channels_last") as pipeline:
            verify_attachment(pipeline)
            assert pipeline.unet.conv_in.weight.stride()[1] == 1
            assert pipeline.vae.decoder.conv_in.weight.stride()[1] == 1
            assert pipeline.tokenizer("a cat").input_ids
        with models.get_pipeline(key, memory_format={"unet": "channels_last"}) as pipeline:
            assert pipeline.unet.conv_in.weight.stride()[1] == 1
            assert pipeline.vae.decoder.conv_in.weight.is_contiguous()

    await asyncio.to_thread(draw)


async def test_what_has_no_such_order_is_refused_with_words(loader: Lender, key: str) -> None:
    place = loader.models / "narrow"
    shutil.copytree(loader.models / "sd", place)
    oddweights.fp8_plain(place / "vae")
    narrow = await loader.register(place)
    lora = loader.models / "lora.safetensors"
    save_file({"lora_unet_conv.lora_down.weight": torch.ones(2, 2, 1, 1)}, lora)
    tensors = await loader.register(
        lora, type=taxonomy_pb2.MODEL_TYPE_LORA, format=taxonomy_pb2.MODEL_FORMAT_LYCORIS
    )
    for one, word in (
        (ref(key, "tokenizer"), "object"),
        (ref(tensors), "state dict"),
        (ref(narrow, "vae", weights=pb.WEIGHT_FORM_AS_STORED), "stored"),
        (ref(key, "vae", weights=pb.WEIGHT_FORM_FLOAT8), "float8"),
    ):
        with refused("INVALID_MODEL") as failure:
            await acquire(loader, one)
        assert word in failure.message
    # As the numbers that they mean, and where nothing is quantised, they have one.
    for one in (
        ref(narrow, "vae"),
        ref(key, "vae", weights=pb.WEIGHT_FORM_AS_STORED),
    ):
        await release(loader, await acquire(loader, one))


async def test_a_word_that_is_no_memory_format_is_refused_before_anything_is_asked(key: str) -> None:
    from modelkeep.components import component, memory_format_name

    assert memory_format_name(torch.channels_last) == "channels_last"
    assert memory_format_name(torch.contiguous_format) == "contiguous"
    with pytest.raises(FieldInvalidException, match="channels_last_3d"):
        component(key, memory_format=torch.channels_last_3d)
