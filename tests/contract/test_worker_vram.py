"""Workers of a loader with two simulated accelerators: what they use, keep, give back and have again."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch

from modelkeep.exceptions import DeviceUnavailableException, VramExhaustedException
from modelkeep.worker import ModelLoader, _places, verify_attachment
from modelkeep.worker.kept import KeptModel
from support import tinymodels
from support.lending import leases
from support.loaders import Lender, lender
from support.originalforwards import output_of
from support.waiting import wait_until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

MIB = 1 << 20


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    models = folder / "imports"
    tinymodels.save_pipeline(models / "sd", widths=(32, 64))
    async with lender(folder / "data", models, warm_helper=True, accelerator="sim:2x64MiB") as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(loader: Lender) -> str:
    return await loader.register(loader.models / "sd")


@pytest.fixture
def models(loader: Lender) -> Iterator[ModelLoader]:
    with ModelLoader(loader.address, max_wait_s=5.0, precision="float32") as opened:
        yield opened


def mapped(device: str) -> int:
    """How many allocations of a device this process maps."""
    return Path("/proc/self/maps").read_text().count(f"modelkeep:{device}")


def is_streamed(layer: Any) -> bool:
    """Whether some of a layer's weights are copied to the accelerator when it runs."""
    return type(layer._parameters) is not dict


@pytest.mark.long
@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder"])
async def test_a_component_on_an_accelerator_computes_what_it_computes_on_the_cpu(
    models: ModelLoader, key: str, part: str
) -> None:
    def compare() -> None:
        here, there = (models.get_model(key, part, device=device) for device in ("cpu", "sim:1"))
        assert there.device == torch.device("cpu"), "what torch calls the simulated accelerator"
        with here as one, there as other:
            assert output_of(other) == output_of(one)
            verify_attachment(other)
            theirs = {p.data_ptr() for p in one.parameters()}
            assert not any(p.data_ptr() in theirs for p in other.parameters())

    await asyncio.to_thread(compare)


async def test_a_module_goes_on_when_its_lease_has_ended(models: ModelLoader, key: str) -> None:
    def use() -> None:
        with models.get_model(key, "vae", device="sim") as vae:
            before = output_of(vae)
        assert output_of(vae) == before

    await asyncio.to_thread(use)


async def test_what_nobody_uses_any_more_is_unmapped_without_a_garbage_collection(
    models: ModelLoader, key: str
) -> None:
    def use() -> None:
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                info = models.get_model(key, "vae", device="sim:0")
                with info as vae:
                    assert mapped("sim:0") == 1
                    del vae
                kept = info.keep()
                with kept as vae:
                    del vae
                kept.release()
                del kept
                wait_until(lambda: mapped("sim:0") == 0, "it stays mapped")
        finally:
            gc.enable()

    await asyncio.to_thread(use)


@pytest.mark.parametrize("device", ["sim", {"unet": "sim:0", "default": "cpu"}])
async def test_a_pipeline_on_accelerators_makes_the_same_picture(
    models: ModelLoader, key: str, device: Any
) -> None:
    def picture(**where: Any) -> Any:
        info = models.get_pipeline(key, safety_checker=None, **where)
        with info as pipeline:
            pipeline.set_progress_bar_config(disable=True)
            if "max_vram_bytes" in where:  # nothing of it fits any more, and it computes there all the same
                assert is_streamed(pipeline.vae.decoder.conv_in) == (where["device"] == "sim")
            made = pipeline(
                "a photo of a cat",
                num_inference_steps=2,
                output_type="pt",
                generator=torch.Generator().manual_seed(0),
            )
            return made.images

    expected = await asyncio.to_thread(picture, device="cpu")
    assert torch.equal(await asyncio.to_thread(picture, device=device), expected)
    bound = await asyncio.to_thread(picture, device=device, max_vram_bytes=2 * MIB)
    assert torch.equal(bound, expected)


async def test_a_component_with_little_room_is_streamed(models: ModelLoader, key: str) -> None:
    def compare() -> None:
        with (
            models.get_model(key, "unet", device="cpu") as whole,
            models.get_model(key, "unet", device="sim:0", max_vram_bytes=2 * MIB) as part,
        ):
            assert [output_of(part) for _ in range(2)] == [output_of(whole)] * 2
            streamed = list(filter(is_streamed, part.modules()))
            assert 0 < len(streamed) < len(list(part.modules()))

    await asyncio.to_thread(compare)


async def test_what_is_kept_is_given_back_when_another_needs_the_room_and_is_had_again(
    loader: Lender, models: ModelLoader, key: str
) -> None:
    room: Any = {"activation_bytes": 40 * MIB}  # more than half of what may be used of an accelerator

    def keep() -> tuple[KeptModel, str, list[int]]:
        kept = models.get_model(key, "vae", device="sim:0", **room).keep()
        with kept as vae:
            return kept, output_of(vae), [p.data_ptr() for p in vae.parameters()]

    kept, before, addresses = await asyncio.to_thread(keep)
    assert not kept.demoted

    def other() -> None:
        with models.get_model(key, "unet", device="sim:0", **room) as unet:
            output_of(unet)
            assert kept.demoted

    await asyncio.to_thread(other)
    (lease,) = await leases(loader)
    assert lease.demoted
    assert lease.vram_bytes == 0

    def again() -> None:
        with kept as vae:
            assert [p.data_ptr() for p in vae.parameters()] == addresses
            assert output_of(vae) == before
            verify_attachment(vae)
            with pytest.raises(VramExhaustedException):
                models.get_model(key, "unet", device="sim:0", **room).__enter__()
        assert not kept.demoted, "whoever waited has given up"

    await asyncio.to_thread(again)
    await asyncio.to_thread(kept.release)
    gc.collect()
    assert await leases(loader) == []


async def test_entering_where_there_is_no_room_can_be_tried_again(models: ModelLoader, key: str) -> None:
    room: Any = {"activation_bytes": 40 * MIB}

    def use() -> None:
        kept = models.get_model(key, "vae", device="sim:0", **room).keep()
        other = models.get_model(key, "unet", device="sim:0", **room)
        with other:
            assert kept.demoted
            with pytest.raises(VramExhaustedException):
                kept.__enter__()
        with kept as vae:
            output_of(vae)
        kept.release()

    await asyncio.to_thread(use)


async def test_a_worker_that_can_use_no_accelerator_has_what_is_left_to_the_loader_in_ram(
    models: ModelLoader, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(device: str, uuid: str) -> torch.device:
        if device == "cpu":
            return torch.device(device)
        raise DeviceUnavailableException(f"This worker cannot use {device}.", metadata={"device": device})

    monkeypatch.setattr(_places, "torch_device", refuse)

    def use() -> None:
        with models.get_model(key, "vae") as vae:
            assert vae.device == torch.device("cpu")
        with models.get_pipeline(key, device={"unet": "auto", "default": "cpu"}) as pipeline:
            assert pipeline.unet.device == torch.device("cpu")
        with pytest.raises(DeviceUnavailableException):
            models.get_model(key, "vae", device="sim:0")

    await asyncio.to_thread(use)
