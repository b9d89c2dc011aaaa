"""Weights in a GPU's memory: one copy for all workers, taken from who is idle, and harmed by nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import capacity_pb2
from support import tinymodels
from support.loaders import Lender, lender
from support.workers import Worker, WorkerError, Workers

pytestmark = [pytest.mark.cuda, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

#: What lends, and what is asked for.
KIND = "cuda"
PARTS = [("vae", "AutoencoderKL"), ("unet", "UNet2DConditionModel"), ("text_encoder", "CLIPTextModel")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(alone: list[Workers], folder: Path) -> AsyncIterator[Lender]:
    """A loader that lends the GPU's memory."""
    tinymodels.save_pipeline(folder / "imports" / "sd")
    async with lender(folder / "data", folder / "imports", warm_helper=True, accelerator=KIND) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def workers(loader: Lender, alone: list[Workers]) -> AsyncIterator[list[Worker]]:
    """Three; the last one is there to be broken."""
    found = [await one.new() for one in alone]
    yield found
    for worker in found:
        await worker.close()


async def most_bytes(loader: Lender) -> int:
    """The first accelerator's memory."""
    capacity = await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
    return int(capacity.accelerators[0].total_bytes)


@pytest.mark.parametrize(("part", "class_name"), PARTS)
async def test_what_is_lent_there_computes_what_from_pretrained_does_there(
    loader: Lender, key: str, workers: list[Worker], part: str, class_name: str
) -> None:
    ours, theirs, _ = workers
    await ours.do("keep_on", address=loader.address, key=key, submodel=part, device=KIND)
    expected = await theirs.do(
        "original_on", folder=str(loader.models / "sd" / part), class_name=class_name, device=KIND
    )
    assert await ours.do("result_on") == expected
    await ours.do("let_go_on")


@pytest.mark.parametrize("part", ["vae", "unet"])
async def test_what_is_there_in_part_computes_the_same(
    loader: Lender, key: str, workers: list[Worker], part: str
) -> None:
    ours, theirs, _ = workers
    where = {"address": loader.address, "key": key, "submodel": part, "device": KIND}
    await ours.do("keep_on", **where)
    await theirs.do("keep_on", **where, max_vram_bytes=2 << 20)
    expected = await ours.do("result_on")
    for _ in range(3):  # from the second pass on copies are begun ahead
        assert await theirs.do("result_on") == expected
    await ours.do("let_go_on")
    await theirs.do("let_go_on")


async def test_a_second_worker_takes_no_memory_for_weights(
    loader: Lender, key: str, workers: list[Worker]
) -> None:
    first, second, _ = workers
    where = {"address": loader.address, "key": key, "submodel": "unet", "device": KIND}
    await first.do("keep_on", **where)
    assert (await second.do("keep_on", **where))["taken_bytes"] == 0
    assert await first.do("result_on") == await second.do("result_on")
    await first.do("let_go_on")
    await second.do("let_go_on")


async def test_memory_is_had_back_from_who_is_idle_and_a_captured_graph_stays_good(
    loader: Lender, key: str, workers: list[Worker]
) -> None:
    keeper, other, _ = workers
    where = {"address": loader.address, "key": key, "device": KIND}
    room = {"activation_bytes": await most_bytes(loader) * 6 // 10}  # two such do not fit
    await keeper.do("keep_on", **where, submodel="vae", **room)
    before = [await keeper.do("result_on"), *([await keeper.do("capture")] if KIND == "cuda" else [])]
    await other.do("keep_on", **where, submodel="unet", **room)
    assert await keeper.do("is_demoted")
    await other.do("let_go_on")
    after = [await keeper.do("result_on"), *([await keeper.do("replay")] if KIND == "cuda" else [])]
    assert after == before
    assert not await keeper.do("is_demoted")
    await keeper.do("let_go_on")


async def test_a_worker_that_writes_harms_itself_alone(
    loader: Lender, key: str, workers: list[Worker]
) -> None:
    keeper, _, writer = workers
    where = {"address": loader.address, "key": key, "submodel": "vae", "device": KIND}
    await keeper.do("keep_on", **where)
    before = await keeper.do("result_on")
    await writer.do("keep_on", **where)
    try:
        told = await writer.do("write_on")
    except WorkerError as error:
        told = str(error)
    assert "illegal" in told or "died" in told
    assert await keeper.do("result_on") == before
    await keeper.do("let_go_on")
