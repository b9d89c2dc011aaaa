"""The memory of a real build is within the budget, by what the kernel says of the processes and memfds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import capacity_pb2, resident_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep_loader.helper import _LIBRARY_BYTES
from support import tinymodels
from support.failures import refused
from support.lending import evict_all, load
from support.loaders import Lender, component, lender
from support.memorytruth import memfd_bytes, own_bytes

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

T5 = taxonomy_pb2.MODEL_TYPE_T5_ENCODER
MIB = 1 << 20
#: What the component takes in float32: nearly all of it one tied tensor, so that the library itself loads it.
COMPONENT = 128 * MIB


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    tinymodels.t5_encoder(vocabulary=1 << 20).half().save_pretrained(folder / "imports" / "wide")
    async with lender(folder / "data", folder / "imports", warm_helper=True) as both:
        await both.app.helper.warm()
        yield both


async def test_a_build_and_its_component_stay_within_the_budget_by_the_kernels_count(loader: Lender) -> None:
    wide = await loader.register(loader.models / "wide", type=T5)
    tier = loader.app.lending.cache.tier
    budget, tier.budget_bytes = tier.budget_bytes, 2 * COMPONENT + 16 * MIB
    helper = loader.app.helper.pid
    before, most, looks = own_bytes(helper), 0, 0
    ended = asyncio.Event()

    async def look() -> None:
        nonlocal most, looks
        while not ended.is_set():
            processes = (helper, os.getpid())
            taken = memfd_bytes(processes, "modelkeep:") + own_bytes(helper) - before
            most, looks = max(most, taken), looks + 1
            await asyncio.sleep(0.005)

    try:
        looking = asyncio.create_task(look())
        await load(loader, component(wide, "", "float32"))
        ended.set()
        await looking
        assert looks > 5
        assert COMPONENT < most <= tier.budget_bytes + _LIBRARY_BYTES
        tiers = (await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())).tiers
        (ram,) = [tier for tier in tiers if tier.tier == resident_pb2.TIER_RAM]
        assert ram.reserved_bytes == 0
        assert COMPONENT < ram.high_watermark_bytes <= tier.budget_bytes
        await evict_all(loader)
        # The component alone would fit, and what it takes to build it would not.
        tier.budget_bytes = COMPONENT + 32 * MIB
        with refused("RAM_EXHAUSTED") as error:
            await load(loader, component(wide, "", "float32"))
        assert int(error.metadata["bytes_short"]) > 32 * MIB
    finally:
        ended.set()
        tier.budget_bytes = budget
