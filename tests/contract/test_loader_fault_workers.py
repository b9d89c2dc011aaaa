"""Workers that are killed or stopped at every step on their way to a module: what becomes of their leases."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import capacity_pb2, leases_pb2, load_pb2, resident_pb2
from modelkeep.model.v1 import taxonomy_pb2
from support import tinymodels
from support.failures import refused
from support.lending import acquire, evict_all, leases, load, no_leases, release
from support.loaders import Lender, component, lender
from support.workers import Worker, shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

#: Seconds that a lease may outlive its killed holder: far less than the time that it could be taken up again.
SOON_S = 5.0
HELD = ("granted", "fetched", "mapped")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    shared_workers()  # begins to import while the model is made
    models = folder / "imports"
    tinymodels.vae().save_pretrained(models / "vae")
    async with lender(folder / "data", models, warm_helper=True, detach_grace_s=60.0) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(loader: Lender) -> str:
    return await loader.register(loader.models / "vae", type=taxonomy_pb2.MODEL_TYPE_VAE)


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def clean(loader: Lender) -> AsyncIterator[None]:
    yield
    for lease in loader.app.lending.leases.alive():
        loader.app.lending.leases.release(lease)
    await evict_all(loader)


@pytest_asyncio.fixture(loop_scope="module")
async def worker() -> AsyncIterator[Worker]:
    made = await shared_workers().new()
    yield made
    with contextlib.suppress(ProcessLookupError):
        os.kill(made.pid, signal.SIGCONT)
        os.kill(made.pid, signal.SIGKILL)
    await made.close()


async def ram(loader: Lender) -> resident_pb2.TierCapacity:
    capacity: capacity_pb2.GetCapacityResponse = await loader.stub.GetCapacity(
        capacity_pb2.GetCapacityRequest()
    )
    return next(tier for tier in capacity.tiers if tier.tier == resident_pb2.TIER_RAM)


async def until(holds: Callable[[resident_pb2.TierCapacity], bool], loader: Lender) -> None:
    deadline = time.monotonic() + 20
    while not holds(await ram(loader)):
        assert time.monotonic() < deadline, await ram(loader)
        await asyncio.sleep(0.02)


async def evict(loader: Lender, key: str) -> load_pb2.EvictModelResponse:
    return await loader.stub.EvictModel(load_pb2.EvictModelRequest(key=key))  # type: ignore[no-any-return]


@pytest.mark.parametrize("step", HELD)
async def test_a_worker_that_is_killed_loses_its_lease_and_its_memory_at_any_step(
    loader: Lender, key: str, worker: Worker, step: str
) -> None:
    told = await worker.do("go_to", step=step, address=loader.address, key=key, precision="bfloat16")
    assert [lease.id for lease in await leases(loader)] == [told["lease"]]
    with refused("MODEL_IN_USE"):
        await evict(loader, key)
    worker.kill()
    assert await no_leases(loader) < SOON_S
    ended = (await loader.stub.GetLease(leases_pb2.GetLeaseRequest(lease_id=told["lease"]))).lease
    assert ended.end == resident_pb2.LEASE_END_HOLDER_DIED
    assert (await evict(loader, key)).evicted_count == 1
    await until(lambda tier: tier.zombie_bytes == tier.used_bytes == 0, loader)


async def test_a_worker_that_is_killed_while_it_waits_for_room_waits_no_more(
    loader: Lender, key: str, worker: Worker
) -> None:
    held = await acquire(loader, component(key, "", "float32"))
    tier = loader.app.lending.cache.tier
    budget, tier.budget_bytes = tier.budget_bytes, tier.usage().taken + 1000
    try:
        asked = {"step": "asked", "address": loader.address, "key": key, "precision": "bfloat16"}
        assert (await worker.do("go_to", **asked))["first"] == "queued"
        assert loader.app.lending.cache.usage().waiting == 1
        worker.kill()
        await until(lambda _: loader.app.lending.cache.usage().waiting == 0, loader)
        await release(loader, held)
        # Nobody gets what nobody waits for.
        await asyncio.sleep(0.1)
        assert not await leases(loader)
    finally:
        tier.budget_bytes = budget


async def test_a_worker_that_is_killed_while_its_component_is_built_leaves_no_lease(
    loader: Lender, key: str, worker: Worker
) -> None:
    asked = {"step": "asked", "address": loader.address, "key": key, "precision": "bfloat16"}
    assert (await worker.do("go_to", **asked))["first"] == "progress"
    worker.kill()
    for _ in range(500):
        residents = loader.app.lending.cache.tier.residents()
        if not await leases(loader) and not any(one.wanted or one.is_loading for one in residents):
            break
        await asyncio.sleep(0.02)
    else:
        raise AssertionError("somebody holds what nobody wants")
    # What was built is there for the next one, or is built again.
    await release(loader, await acquire(loader, component(key, "", "bfloat16")))
    assert (await evict(loader, key)).evicted_count == 1


@pytest.mark.parametrize("step", HELD)
async def test_a_worker_that_is_stopped_keeps_its_lease_hinders_nobody_and_can_be_revoked(
    loader: Lender, key: str, worker: Worker, step: str
) -> None:
    told = await worker.do("go_to", step=step, address=loader.address, key=key, precision="bfloat16")
    os.kill(worker.pid, signal.SIGSTOP)
    wanted = component(key, "", "bfloat16")
    async with asyncio.timeout(20):
        other = await acquire(loader, wanted)
        await release(loader, other)
        await load(loader, wanted)
    assert [lease.id for lease in await leases(loader)] == [told["lease"]]
    await loader.stub.RevokeLease(leases_pb2.RevokeLeaseRequest(lease_id=told["lease"], why="it hangs"))
    assert not await leases(loader)
    dropped = await evict(loader, key)
    # What a stopped process has open or mapped is not taken away behind its back, and counts.
    assert (dropped.zombie_bytes > 0) == (step != "granted")
    os.kill(worker.pid, signal.SIGCONT)
    assert (await worker.do("told"))[-1] == "lost"
    if step == "mapped":
        assert await worker.do("works") > 0
    await worker.do("let_go")
    await until(lambda tier: tier.zombie_bytes == 0, loader)


async def test_a_worker_that_is_stopped_while_its_component_is_built_holds_nobody_up(
    loader: Lender, key: str, worker: Worker
) -> None:
    asked = {"step": "asked", "address": loader.address, "key": key, "precision": "bfloat16"}
    await worker.do("go_to", **asked)
    os.kill(worker.pid, signal.SIGSTOP)
    async with asyncio.timeout(60):
        await release(loader, await acquire(loader, component(key, "", "bfloat16")))
        await release(loader, await acquire(loader, component(key, "", "float16")))
    worker.kill()
    assert await no_leases(loader) < SOON_S


async def test_a_stopped_worker_whose_lease_is_asked_back_hears_of_it_once_it_goes_on(
    loader: Lender, key: str, worker: Worker
) -> None:
    told = await worker.do("go_to", step="mapped", address=loader.address, key=key, precision="bfloat16")
    os.kill(worker.pid, signal.SIGSTOP)
    request = leases_pb2.RevokeLeaseRequest(lease_id=told["lease"], why="the machine goes down")
    request.grace.seconds = 1
    await loader.stub.RevokeLease(request)
    assert await no_leases(loader) < 1 + SOON_S
    os.kill(worker.pid, signal.SIGCONT)
    assert [event for event in await worker.do("told") if event != "alive"] == ["revoke_requested", "lost"]


async def test_a_program_that_inherits_connection_and_descriptor_keeps_the_memory_and_not_the_lease(
    loader: Lender, key: str, worker: Worker
) -> None:
    await worker.do("go_to", step="fetched", address=loader.address, key=key, precision="bfloat16")
    child = await worker.do("hand_on")
    try:
        worker.kill()
        assert await no_leases(loader) < SOON_S
        assert (await evict(loader, key)).zombie_bytes > 0
        await until(lambda tier: tier.zombie_bytes > 0, loader)
    finally:
        os.kill(child, signal.SIGKILL)
    await until(lambda tier: tier.zombie_bytes == 0, loader)
