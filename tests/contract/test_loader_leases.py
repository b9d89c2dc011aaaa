"""LoaderService over real channels: labels, leases that are asked back, their journal, and a drain."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import capacity_pb2, hold_pb2, leases_pb2, load_pb2, resident_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.worker._fetch import fetch_descriptors
from support import tinymodels
from support.failures import refused
from support.lending import acquire, hold, leases, load, release
from support.loaders import Lender, component, lender
from support.workers import shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

REVOKING, ENDED = resident_pb2.LEASE_STATE_REVOKING, resident_pb2.LEASE_STATE_ENDED


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    shared_workers()  # begins to import while the model is made
    models = folder / "imports"
    tinymodels.vae().save_pretrained(models / "vae")
    async with lender(folder / "data", models, warm_helper=True, detach_grace_s=0.3) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def ref(loader: Lender) -> resident_pb2.ComponentRef:
    key = await loader.register(loader.models / "vae", type=taxonomy_pb2.MODEL_TYPE_VAE)
    wanted = component(key, "", "bfloat16")
    await load(loader, wanted)
    return wanted


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def clean(loader: Lender) -> AsyncIterator[None]:
    yield
    for lease in loader.app.lending.leases.alive():
        loader.app.lending.leases.release(lease)


async def revoke(loader: Lender, lease_id: str, why: str = "", grace_s: int = 0) -> resident_pb2.Lease:
    request = leases_pb2.RevokeLeaseRequest(lease_id=lease_id, why=why)
    request.grace.seconds = grace_s
    return (await loader.stub.RevokeLease(request)).lease  # type: ignore[no-any-return]  # an untyped stub


class Watch:
    """A watch of leases, and what it told."""

    def __init__(self, loader: Lender, **fields: Any) -> None:
        self._call = loader.stub.WatchLeases(leases_pb2.WatchLeasesRequest(**fields))
        self.token = ""

    async def next(self) -> leases_pb2.WatchLeasesResponse:
        frame = await self._call.read()
        self.token = frame.resume_token
        return frame  # type: ignore[no-any-return]  # an untyped stub

    async def snapshot(self) -> list[str]:
        found: list[str] = []
        while True:
            frame = await self.next()
            found += [event.put.id for event in frame.events]
            if frame.snapshot_complete:
                return found

    async def until_removed(self, count: int = 1) -> list[tuple[str, str]]:
        """(lease, what happened) until so many leases are no more."""
        found: list[tuple[str, str]] = []
        while sum(what == "removed" for _, what in found) < count:
            for event in (await self.next()).events:
                if event.WhichOneof("change") == "removed_id":
                    found.append((event.removed_id, "removed"))
                else:
                    change = resident_pb2.LeaseChange.Name(event.put.last_change)
                    found.append((event.put.id, change.removeprefix("LEASE_CHANGE_").lower()))
        return found

    def cancel(self) -> None:
        self._call.cancel()


async def test_labels_are_kept_shown_and_filtered_by(loader: Lender, ref: resident_pb2.ComponentRef) -> None:
    one = await acquire(loader, ref, labels={"job": "42", "team": "night"})
    two = await acquire(loader, ref, labels={"job": "42"})
    call, _, three = await hold(loader, hold_pb2.HoldModelRequest(components=[ref], labels={"team": "day"}))
    assert dict(one.lease.labels) == {"job": "42", "team": "night"}

    async def named(**labels: str) -> list[str]:
        request = leases_pb2.ListLeasesRequest(labels=labels)
        return [lease.id for lease in (await loader.stub.ListLeases(request)).leases]

    assert await named(job="42") == [one.lease.id, two.lease.id]
    assert await named(job="42", team="night") == [one.lease.id]
    assert await named(team="day") == [three.lease.id]
    assert await named(team="") == []
    watch = Watch(loader, labels={"team": "night"})
    assert await watch.snapshot() == [one.lease.id]
    for grant in (three, two, one):
        await release(loader, grant)
    assert await watch.until_removed() == [(one.lease.id, "ended"), (one.lease.id, "removed")]
    watch.cancel()
    call.cancel()


@pytest.mark.parametrize(
    "labels", [{"A": "x"}, {"": "x"}, {"a": "x" * 257}, {str(number): "" for number in range(33)}]
)
async def test_labels_have_bounds(
    loader: Lender, ref: resident_pb2.ComponentRef, labels: dict[str, str]
) -> None:
    with refused("FIELD_INVALID"):
        await acquire(loader, ref, labels=labels)
    with refused("FIELD_INVALID"):
        await loader.stub.HoldModel(hold_pb2.HoldModelRequest(components=[ref], labels=labels)).read()


async def test_the_journal_tells_every_entry_of_a_leases_life_and_goes_on_from_a_token(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    first = await loader.stub.ListLeases(leases_pb2.ListLeasesRequest())
    watch = Watch(loader, resume_token=first.resume_token, key=ref.key)
    call, _, grant = await hold(loader, hold_pb2.HoldModelRequest(components=[ref]))
    connection, descriptors = await asyncio.to_thread(fetch_descriptors, grant.socket_path, grant.ticket, 1)
    assert len(descriptors) == 1
    call.cancel()
    await asyncio.sleep(0.2)
    connection.close()
    told = await watch.until_removed()
    mine = [what for lease, what in told if lease == grant.lease.id]
    # This process is alive, so the lease is kept for a while.
    assert mine == ["granted", "stream_opened", "connected", "unbound", "detached", "ended", "removed"]
    watch.cancel()
    # Nothing is missed by who comes back, and nothing told twice.
    again = Watch(loader, resume_token=first.resume_token, key=ref.key)
    assert await again.until_removed() == told
    later = Watch(loader, resume_token=again.token, key=ref.key)
    by_time = await acquire(loader, ref)
    await release(loader, by_time)
    assert [what for _, what in await later.until_removed()] == ["granted", "renewed", "ended", "removed"]
    for one in (again, later):
        one.cancel()


async def test_revisions_of_lists_and_watches_are_the_same(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    watch = Watch(loader, skip_snapshot=True)
    await watch.next()
    grant = await acquire(loader, ref)
    listed = (await leases(loader))[0]
    got = (await loader.stub.GetLease(leases_pb2.GetLeaseRequest(lease_id=grant.lease.id))).lease
    assert listed.revision == got.revision > 0
    seen: list[resident_pb2.Lease] = []
    while not seen or seen[-1].last_change != resident_pb2.LEASE_CHANGE_RENEWED:
        seen += [event.put for event in (await watch.next()).events]
    assert seen[-1] == listed == got
    watch.cancel()


async def test_no_entry_has_a_secret(loader: Lender, ref: resident_pb2.ComponentRef) -> None:
    watch = Watch(loader, skip_snapshot=True)
    await watch.next()
    grant = await acquire(loader, ref)
    frame = await watch.next()
    assert frame.events
    assert grant.lease_secret not in frame.SerializeToString()
    assert grant.ticket not in frame.SerializeToString()
    watch.cancel()


async def test_a_holder_is_asked_and_releases_in_time(loader: Lender, ref: resident_pb2.ComponentRef) -> None:
    call, _, grant = await hold(loader, hold_pb2.HoldModelRequest(components=[ref]))
    told = await revoke(loader, grant.lease.id, "the night shift", 60)
    assert (told.state, told.end_message) == (REVOKING, "the night shift")
    frame = await call.read()
    assert frame.revoke_requested.why == "the night shift"
    assert frame.revoke_requested.deadline_time == told.revoke_deadline_time
    assert 50 < told.revoke_deadline_time.seconds - told.create_time.seconds < 75
    await release(loader, grant)
    ended = (await loader.stub.GetLease(leases_pb2.GetLeaseRequest(lease_id=grant.lease.id))).lease
    assert (ended.state, ended.end) == (ENDED, resident_pb2.LEASE_END_RELEASED)
    call.cancel()


async def test_who_lives_by_a_ttl_reads_it_from_its_renewal_and_loses_the_lease_at_the_deadline(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    grant = await acquire(loader, ref)
    await revoke(loader, grant.lease.id, "", 1)
    renewal = hold_pb2.RenewLeaseRequest(lease_id=grant.lease.id, lease_secret=grant.lease_secret)
    renewed = (await loader.stub.RenewLease(renewal)).lease
    assert renewed.state == REVOKING
    assert renewed.HasField("revoke_deadline_time")
    await asyncio.sleep(1.3)
    with refused("LEASE_REVOKED"):
        await loader.stub.RenewLease(renewal)


async def test_a_grace_of_more_than_a_day_is_refused(loader: Lender, ref: resident_pb2.ComponentRef) -> None:
    grant = await acquire(loader, ref)
    with refused("FIELD_INVALID"):
        await revoke(loader, grant.lease.id, "", 86401)


async def test_a_worker_is_told_and_its_module_goes_on_working_when_the_lease_is_gone(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    worker = await shared_workers().new()
    await worker.do("connect", address=loader.address)
    held = await worker.do("hold", key=ref.key, submodel=None, precision="bfloat16")
    before = await worker.do("decode")
    assert await worker.do("asked_back") is None
    await revoke(loader, held["lease"], "a new kernel", 1)
    for _ in range(100):
        if (asked := await worker.do("asked_back")) is not None:
            break
        await asyncio.sleep(0.02)
    assert asked == "a new kernel"
    assert await worker.do("events") == [["asked back", {"why": "a new kernel"}]]
    for _ in range(300):
        if lost := await worker.do("lost"):
            break
        await asyncio.sleep(0.02)
    assert "a new kernel" in lost
    assert await worker.do("decode") == before
    await worker.do("release")
    await worker.close()


async def test_a_drained_loader_gives_nothing_new_and_tells_what_is_left(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    grant = await acquire(loader, ref)
    request = leases_pb2.DrainRequest(why="a new kernel")
    request.timeout.seconds = 60
    draining = loader.stub.Drain(request)
    first = await draining.read()
    assert (first.lease_count, list(first.lease_ids), first.done) == (1, [grant.lease.id], False)
    assert first.leased_bytes == grant.lease.size_bytes
    with refused("SERVER_DRAINING"):
        await acquire(loader, ref)
    with refused("SERVER_DRAINING"):
        await loader.stub.LoadModel(load_pb2.LoadModelRequest(components=[ref])).read()
    capacity = await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
    assert capacity.draining
    await release(loader, grant)
    last = await draining.read()
    assert (last.lease_count, last.done) == (0, True)
    assert (await loader.stub.Undrain(leases_pb2.UndrainRequest())).was_drained
    assert not (await loader.stub.Undrain(leases_pb2.UndrainRequest())).was_drained
    await release(loader, await acquire(loader, ref))


async def test_a_drain_that_revokes_asks_all_leases_back(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    call, _, _ = await hold(loader, hold_pb2.HoldModelRequest(components=[ref]))
    await acquire(loader, ref)
    request = leases_pb2.DrainRequest(revoke=True, why="a new kernel")
    request.timeout.seconds = 1
    try:
        frames = [frame async for frame in loader.stub.Drain(request)]
        assert (frames[0].lease_count, frames[-1].lease_count, frames[-1].done) == (2, 0, True)
        words: list[str] = []
        while not words or words[-1] != "lost":
            words.append((await call.read()).WhichOneof("event"))
        assert words == ["revoke_requested", "lost"]
    finally:
        await loader.stub.Undrain(leases_pb2.UndrainRequest())


async def test_where_there_is_no_accelerator_nothing_is_demoted_and_only_cpu_can_be_asked_for(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    there = resident_pb2.ComponentRef()
    there.CopyFrom(ref)
    there.device = "cuda:1"
    with refused("FIELD_INVALID") as error:
        await acquire(loader, there)
    assert "it has cpu" in error.message
    there.device = "cpu"
    grant = await acquire(loader, there)
    assert grant.lease.components[0].device == "cpu"
    assert not grant.manifests[0].HasField("device_descriptor_index")
    demotion = hold_pb2.DemoteLeaseRequest(lease_id=grant.lease.id, lease_secret=grant.lease_secret)
    kept = (await loader.stub.DemoteLease(demotion)).lease
    assert not kept.demoted
    assert kept.size_bytes == grant.lease.size_bytes
    promotion = hold_pb2.PromoteLeaseRequest(lease_id=grant.lease.id, lease_secret=grant.lease_secret)
    again = (await loader.stub.PromoteLease(promotion)).grant
    assert again.lease.id == grant.lease.id
    assert again.manifests == grant.manifests
    connection, descriptors = await asyncio.to_thread(
        fetch_descriptors, again.socket_path, again.ticket, len(again.manifests)
    )
    connection.close()
    for descriptor in descriptors:
        os.close(descriptor)
