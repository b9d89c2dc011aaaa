"""A worker whose loader is out of reach for a while: its lease is taken up again, and nothing else is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import leases_pb2, load_pb2, resident_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep_loader.domain.lease import LeaseEnd
from support import tinymodels
from support.cutlink import CutLink, cut_link
from support.lending import evict_all, leases, no_leases
from support.loaders import Lender, lender
from support.workers import Worker, shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

ACTIVE = resident_pb2.LEASE_STATE_ACTIVE


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


@pytest_asyncio.fixture(loop_scope="module")
async def link(loader: Lender) -> AsyncIterator[CutLink]:
    async with cut_link(loader.address) as between:
        yield between
    for lease in loader.app.lending.leases.alive():
        loader.app.lending.leases.release(lease)
    await evict_all(loader)


@pytest_asyncio.fixture(loop_scope="module")
async def worker() -> AsyncIterator[Worker]:
    made = await shared_workers().new()
    yield made
    with contextlib.suppress(ProcessLookupError):
        made.kill()
    await made.close()


async def until(
    worker: Worker, holds: Callable[[dict[str, Any]], Any], timeout_s: float = 20
) -> dict[str, Any]:
    """How the worker's lease stands once that is so."""
    deadline = time.monotonic() + timeout_s
    while not holds(standing := await worker.do("standing")):
        assert time.monotonic() < deadline, standing
        await asyncio.sleep(0.02)
    return dict(standing)


def end(loader: Lender, lease_id: str) -> None:
    """A lease ends as one does that nobody took up in time."""
    loader.app.lending.leases.release(loader.app.lending.leases.get(lease_id), LeaseEnd.DETACHED)


async def test_a_lease_whose_stream_broke_is_taken_up_again_with_the_memory_that_is_mapped(
    loader: Lender, key: str, link: CutLink, worker: Worker
) -> None:
    before = await worker.do("hold_on", address=link.address, key=key)
    weights = await worker.do("weights")
    for count in (1, 2):
        await link.cut()
        away = await until(worker, lambda now: now["away"])
        assert "the loader went away" in away["away"]
        assert away["lost"] == ""
        await asyncio.sleep(0.3)
        await link.mend()
        after = await until(worker, lambda now: not now["away"])
        assert after == {**before, "reattached": count}
        (lease,) = await leases(loader)
        assert (lease.id, lease.state, lease.holder.pid) == (before["lease"], ACTIVE, worker.pid)
        # The connection of the time before is closed, and not left to count.
        assert (lease.stream_bound, lease.descriptor_connections) == (True, 1)
    assert await worker.do("weights") == weights
    await worker.do("leave")
    assert await leases(loader) == []


async def test_a_lease_that_ended_meanwhile_gives_way_to_one_on_the_same_memory(
    loader: Lender, key: str, link: CutLink, worker: Worker
) -> None:
    before = await worker.do("hold_on", address=link.address, key=key, label="night", labels={"job": "7"})
    await link.cut()
    await until(worker, lambda now: now["away"])
    end(loader, before["lease"])
    assert await leases(loader) == []
    await link.mend()
    after = await until(worker, lambda now: now["reattached"])
    (lease,) = await leases(loader)
    assert after == {**before, "lease": lease.id, "reattached": 1}
    assert lease.id != before["lease"]
    assert (lease.state, lease.holder.pid, lease.holder.label) == (ACTIVE, worker.pid, "night")
    assert dict(lease.labels) == {"job": "7"}


@pytest.mark.parametrize("again", [False, True])
async def test_memory_that_the_loader_does_not_have_any_more_is_not_leased_and_nothing_is_loaded_for_it(
    loader: Lender, key: str, link: CutLink, worker: Worker, again: bool
) -> None:
    before = await worker.do("hold_on", address=link.address, key=key)
    weights = await worker.do("weights")
    await link.cut()
    await until(worker, lambda now: now["away"])
    end(loader, before["lease"])
    await loader.stub.EvictModel(load_pb2.EvictModelRequest(key=key))
    if again:  # the same component, in other memory
        other = await shared_workers().new()
        await other.do("hold_on", address=loader.address, key=key)
        await other.do("leave")
        await other.close()
    await link.mend()
    after = await until(worker, lambda now: now["lost"])
    assert ("in other memory now" if again else "ended") in after["lost"]
    assert {**after, "lost": ""} == before
    assert await leases(loader) == []
    built = [one for one in loader.app.lending.cache.tier.residents() if one.built is not None]
    assert len(built) == int(again)
    assert await worker.do("weights") == weights
    await worker.do("leave")


async def test_a_lease_that_an_operator_ended_is_not_asked_for_again(
    loader: Lender, key: str, link: CutLink, worker: Worker
) -> None:
    before = await worker.do("hold_on", address=link.address, key=key)
    await link.cut()
    await until(worker, lambda now: now["away"])
    request = leases_pb2.RevokeLeaseRequest(lease_id=before["lease"], why="a new kernel")
    await loader.stub.RevokeLease(request)
    await link.mend()
    assert "a new kernel" in (await until(worker, lambda now: now["lost"]))["lost"]
    assert await leases(loader) == []


async def test_what_is_released_while_the_loader_is_away_is_released_when_it_is_back(
    loader: Lender, key: str, link: CutLink, worker: Worker
) -> None:
    before = await worker.do("hold_on", address=link.address, key=key)
    await link.cut()
    await until(worker, lambda now: now["away"])
    assert await worker.do("leave") < 1.0
    await asyncio.sleep(0.2)
    # Its process is alive, so that it is kept for a minute unless it is released.
    (lease,) = await leases(loader)
    assert lease.state == resident_pb2.LEASE_STATE_DETACHED
    await link.mend()
    await no_leases(loader)
    ended = (await loader.stub.GetLease(leases_pb2.GetLeaseRequest(lease_id=before["lease"]))).lease
    assert ended.end == resident_pb2.LEASE_END_RELEASED


async def test_a_loader_that_stays_away_is_given_up_in_time_and_not_asked_without_rest(
    loader: Lender, key: str, link: CutLink, worker: Worker
) -> None:
    before = await worker.do("hold_on", address=link.address, key=key, reattach_s=1.5)
    await link.cut()
    await until(worker, lambda now: now["away"])
    taken = await worker.do("processor_seconds")
    lost = (await until(worker, lambda now: now["lost"]))["lost"]
    assert "was not back within 1.5 s" in lost
    assert await worker.do("processor_seconds") - taken < 1.0
    await link.mend()
    await asyncio.sleep(0.5)
    assert await worker.do("standing") == {**before, "lost": lost}
    await worker.do("leave")


async def test_who_wants_no_lease_back_gives_it_up_at_once(
    loader: Lender, key: str, link: CutLink, worker: Worker
) -> None:
    await worker.do("hold_on", address=link.address, key=key, reattach_s=0)
    await link.cut()
    lost = (await until(worker, lambda now: now["lost"]))["lost"]
    assert lost.startswith("the loader went away")
    assert "back" not in lost


async def test_a_child_that_is_forked_meanwhile_neither_takes_the_lease_up_nor_releases_it(
    loader: Lender, key: str, link: CutLink, worker: Worker
) -> None:
    before = await worker.do("hold_on", address=link.address, key=key)
    await link.cut()
    await until(worker, lambda now: now["away"])
    child = await worker.do("fork")
    await worker.do("leave_in_a_child")
    await link.mend()
    await until(worker, lambda now: now["reattached"] == 1)
    (lease,) = await leases(loader)
    assert (lease.id, lease.holder.pid, lease.descriptor_connections) == (before["lease"], worker.pid, 1)
    worker.kill()
    await no_leases(loader)  # the child, which lives, holds nothing
    os.kill(child, 9)
