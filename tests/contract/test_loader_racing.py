"""Fifty processes that want room for ten: each gets its turn, and the budget holds all the while."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from modelkeep.model.v1 import taxonomy_pb2
from support import tinymodels
from support.lending import acquire, evict_all, no_leases, release
from support.loaders import Lender, component, lender

pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

WORKERS = 50
ROOM = 10
#: Every so manieth is killed while it holds its component; the others let go.
KILLED = 5


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    models = folder / "imports"
    models.mkdir()
    for seed in range(WORKERS):
        tinymodels.save_vae_file(models / f"{seed}.safetensors", seed=seed)
    settings = {"max_leases_per_principal": WORKERS, "warm_helper": True}
    async with lender(folder / "data", models, **settings) as both:
        yield both


async def test_fifty_workers_that_race_for_room_for_ten_all_get_theirs(loader: Lender) -> None:
    keys = [
        await loader.register(
            loader.models / f"{seed}.safetensors",
            type=taxonomy_pb2.MODEL_TYPE_VAE,
            format=taxonomy_pb2.MODEL_FORMAT_CHECKPOINT,
        )
        for seed in range(WORKERS)
    ]
    grant = await acquire(loader, component(keys[0]))
    await release(loader, grant)
    lending = loader.app.lending
    (resident,) = lending.cache.tier.residents()
    size = resident.size_bytes
    await evict_all(loader)
    budget = ROOM * size + resident.plan.build_bytes
    lending.cache.tier.budget_bytes = budget
    most = 0

    async def race(number: int) -> str:
        nonlocal most
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "support.racer",
            loader.address,
            keys[number],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=PIPE,
            stdout=PIPE,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        digest = (await process.stdout.readline()).decode().strip()
        usage = lending.cache.usage()
        most = max(most, len(lending.leases.alive()))
        assert usage.taken <= budget
        assert usage.leased <= ROOM * size
        await asyncio.sleep(0.2)
        if number % KILLED == 0:
            process.kill()
        else:
            process.stdin.close()
        assert await process.wait() == (-9 if number % KILLED == 0 else 0)
        return digest

    digests = await asyncio.gather(*map(race, range(WORKERS)))
    assert len(set(digests)) == WORKERS, "each had its own component, whole"
    assert "" not in digests
    assert 1 < most <= ROOM
    await no_leases(loader)
    usage = lending.cache.usage()
    assert (usage.leased, usage.waiting) == (0, 0)
    assert usage.high_watermark <= budget
    # What nobody holds may still be mapped for a moment by whoever was killed; then all of it goes.
    await evict_all(loader)
    async with asyncio.timeout(10):
        while lending.cache.usage().taken:
            await asyncio.sleep(0.05)
            lending.cache.sweep()
