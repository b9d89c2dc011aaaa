"""Tokenizers, schedulers and bare tensors, lent and made again by a worker's own code."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import hold_pb2, resident_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.worker._fetch import fetch_descriptors
from support import tinymodels
from support.failures import refused
from support.lending import acquire, release
from support.loaders import Lender, component, lender

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

LORA = taxonomy_pb2.MODEL_TYPE_LORA


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    models = folder / "imports"
    models.mkdir()
    tinymodels.save_pipeline(models / "tiny-sd", widths=(32, 64))
    async with lender(folder / "data", models, warm_helper=True) as both:
        yield both


async def lent(loader: Lender, *components: resident_pb2.ComponentRef) -> tuple[hold_pb2.Grant, list[Any]]:
    """What a worker has of these components, made in this process."""
    from modelkeep.worker import attach

    grant = await acquire(loader, *components)

    def fetch() -> list[Any]:
        connection, descriptors = fetch_descriptors(grant.socket_path, grant.ticket, len(components))
        with connection:
            try:
                return [attach(fd) for fd in descriptors]
            finally:
                for fd in descriptors:
                    os.close(fd)

    made = await asyncio.to_thread(fetch)
    await release(loader, grant)
    return grant, made


async def copied(loader: Lender, name: str) -> Path:
    """A model with the tokenizer and the scheduler of the other."""
    place = loader.models / name
    skip = shutil.ignore_patterns("unet", "vae", "text_encoder")
    await asyncio.to_thread(shutil.copytree, loader.models / "tiny-sd", place, ignore=skip)
    return place


async def test_a_tokenizer_and_a_scheduler_come_as_from_pretrained_makes_them(loader: Lender) -> None:
    from diffusers import DDIMScheduler
    from transformers import CLIPTokenizer

    place = loader.models / "tiny-sd"
    key = await loader.register(place)
    grant, (tokenizer, scheduler, vae) = await lent(
        loader, component(key, "tokenizer"), component(key, "scheduler"), component(key, "vae")
    )
    kinds = [manifest.kind for manifest in grant.manifests]
    kind = resident_pb2.ManifestKind
    assert kinds == [kind.MANIFEST_KIND_OBJECT, kind.MANIFEST_KIND_OBJECT, kind.MANIFEST_KIND_MODULE]
    assert grant.manifests[0].precision == resident_pb2.PRECISION_UNSPECIFIED
    assert type(vae).__name__ == "AutoencoderKL"
    assert not grant.manifests[2].object_paths
    # A worker that would rather read the files finds them by their paths.
    folders = {Path(path).parent for path in grant.manifests[0].object_paths}
    assert folders == {place / "tokenizer"}

    expected = CLIPTokenizer.from_pretrained(place / "tokenizer")
    text = "a photo of an astronaut riding a horse on mars"
    assert type(tokenizer) is type(expected)
    assert tokenizer(text, padding="max_length").input_ids == expected(text, padding="max_length").input_ids
    assert tokenizer.get_vocab() == expected.get_vocab()
    reference = DDIMScheduler.from_pretrained(place / "scheduler")
    assert type(scheduler) is DDIMScheduler
    assert scheduler.config == reference.config
    assert scheduler.alphas_cumprod.equal(reference.alphas_cumprod)


async def test_the_files_of_an_object_are_in_the_lent_memory_byte_by_byte(loader: Lender) -> None:
    from safetensors.torch import safe_open

    model = await copied(loader, "bytes")
    place = model / "tokenizer"
    key = await loader.register(model)
    grant = await acquire(loader, component(key, "tokenizer"))
    connection, (fd,) = await asyncio.to_thread(fetch_descriptors, grant.socket_path, grant.ticket, 1)
    with connection, safe_open(f"/proc/self/fd/{fd}", framework="pt") as file:
        names = set(file.keys())
        for name in names:
            assert file.get_tensor(name).numpy().tobytes() == (place / name).read_bytes()
    os.close(fd)
    assert names == {Path(path).name for path in grant.manifests[0].object_paths}
    assert {entry.name for entry in grant.manifests[0].tensors} == names
    await release(loader, grant)


async def test_what_the_record_says_of_the_prediction_reaches_the_scheduler(loader: Lender) -> None:
    config = taxonomy_pb2.PREDICTION_TYPE_V_PREDICTION
    key = await loader.register(await copied(loader, "predicts"), main={"prediction_type": config})
    grant, (scheduler,) = await lent(loader, component(key, "scheduler"))
    assert scheduler.config.prediction_type == "v_prediction"
    assert json.loads(grant.manifests[0].config_json) == {"prediction_type": "v_prediction"}


async def test_an_object_that_is_edited_is_lent_as_what_it_is_now(loader: Lender) -> None:
    place = await copied(loader, "edited")
    key = await loader.register(place)
    before, _ = await lent(loader, component(key, "scheduler"))
    config = place / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("1000", "500"))
    after, (scheduler,) = await lent(loader, component(key, "scheduler"))
    assert scheduler.config.num_train_timesteps == 500
    assert before.manifests[0].resident_id != after.manifests[0].resident_id


async def test_files_that_make_no_object_are_said_to_by_the_worker(loader: Lender) -> None:
    from modelkeep.exceptions import InvalidModelException

    place = await copied(loader, "broken")
    for name in ("tokenizer.json", "vocab.json"):
        (place / "tokenizer" / name).unlink(missing_ok=True)
        (place / "tokenizer" / name).write_text("[")
    key = await loader.register(place)
    with pytest.raises(InvalidModelException, match="CLIPTokenizer cannot be built"):
        await lent(loader, component(key, "tokenizer"))


async def test_a_lora_comes_as_its_tensors_over_lent_memory(loader: Lender) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    path = loader.models / "lora.safetensors"
    torch.manual_seed(0)
    state = {
        "unet.down.lora_A.weight": torch.randn(4, 64, dtype=torch.float16),
        "unet.down.lora_B.weight": torch.randn(64, 4, dtype=torch.float16),
        "unet.down.alpha": torch.tensor(4.0),
        "steps": torch.arange(3),
    }
    save_file(state, path)
    key = await loader.register(path, type=LORA, format=taxonomy_pb2.MODEL_FORMAT_LYCORIS)
    grant, (tensors,) = await lent(loader, component(key))
    manifest = grant.manifests[0]
    assert manifest.kind == resident_pb2.MANIFEST_KIND_STATE_DICT
    assert (manifest.library, manifest.class_name, manifest.config_json) == ("", "", "{}")
    expected = load_file(path)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])
    begin = min(tensor.data_ptr() for tensor in tensors.values())
    lines = (await asyncio.to_thread(Path("/proc/self/maps").read_text)).splitlines()
    spans = {line: [int(end, 16) for end in line.split()[0].split("-")] for line in lines}
    (mapped,) = [line for line, (low, high) in spans.items() if low <= begin < high]
    assert "memfd:modelkeep:" in mapped

    _, (halves,) = await lent(loader, component(key, "", "bfloat16"))
    assert {name: tensor.dtype for name, tensor in halves.items()} == {
        name: torch.bfloat16 if tensor.is_floating_point() else tensor.dtype for name, tensor in state.items()
    }
    assert torch.equal(halves["unet.down.alpha"], state["unet.down.alpha"].bfloat16())


async def test_a_lora_that_is_a_pickle_is_refused(loader: Lender) -> None:
    (loader.models / "lora.pt").write_bytes(b"\x80\x02}q\x00.")
    key = await loader.register(
        loader.models / "lora.pt", type=LORA, format=taxonomy_pb2.MODEL_FORMAT_LYCORIS
    )
    with refused("UNSAFE_FORMAT"):
        await acquire(loader, component(key))
