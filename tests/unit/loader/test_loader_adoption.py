"""A loader is killed, and the next one goes on with what was kept: residents, pins, and leases on them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import (
    ForbiddenTicketException,
    LeaseRevokedException,
    ServerDrainingException,
    UnknownLeaseException,
)
from modelkeep_common.digests import Digests
from modelkeep_loader.domain.components import ComponentRef, Identified, SourceFile
from modelkeep_loader.domain.demand import Demand
from modelkeep_loader.domain.digests import Known
from modelkeep_loader.domain.lease import Lease, LeaseEnd, LeaseState
from support.cupboards import SIZE, Cupboard, Loader, contents
from support.faketime import run
from support.kiln import Clock, plan
from support.lendingcore import core
from support.memorytruth import memfd_bytes


@pytest.fixture
async def cupboard() -> AsyncIterator[Cupboard]:
    made = Cupboard()
    yield made
    await made.close(keep=False)


async def next_loader(before: Loader, grace_s: float = 10.0, down_s: float = 1.0, **settings: Any) -> Loader:
    """Kill a loader, and start one some seconds later."""
    before.die()
    before.clock.now += down_s
    after = Loader(before.cupboard, before.clock, marks=before.marks, **settings)
    return await after.adopt(grace_s)


def state(lease: Lease) -> LeaseState:
    return lease.state


async def test_what_was_resident_is_lent_on_without_a_build(cupboard: Cupboard) -> None:
    first = Loader(cupboard, Clock())
    await first.load("a", "b")
    before = first.tier.get("a")
    assert before is not None
    second = await next_loader(first)
    assert second.names == ["a", "b"]
    after = second.tier.get("a")
    assert after is not None
    assert after.built is not None
    assert (after.built.config, [t.name for t in after.built.tensors]) == ({"of": "a"}, ["weight"])
    for name in ("plan", "refs", "size_bytes", "load_seconds", "load_time", "use_time"):
        assert getattr(after, name) == getattr(before, name), name
    demand = Demand([plan("a", SIZE)], "lease-1")
    assert second.cache.take_now(demand) == [after]
    assert contents(second, "a") == "a"
    assert (second.cache.usage().hits, second.cache.usage().misses, second.oven.built) == (1, 0, [])
    second.die()


async def test_what_was_read_for_its_digest_is_not_read_again(cupboard: Cupboard) -> None:
    read, unread = (
        SourceFile(Path(f"/models/tiny/{name}"), "tiny", 7, f"1:{name}:7:8:9", 9, True) for name in "ab"
    )
    known = Known(Digests("2b", "b3", 7, 8.0), 5.0)
    first = Loader(cupboard, Clock())
    first.digests[read] = known
    made = replace(plan("a", SIZE), files=(read, unread), digests=(Identified("b3", 5.0),) * 2)
    await first.cache.acquire(Demand([made], "load", is_lease=False))
    second = await next_loader(first)
    assert second.digests == {read: known}
    second.die()


async def test_a_lease_waits_for_its_holder_who_takes_it_up_with_its_secret(cupboard: Cupboard) -> None:
    first = Loader(cupboard, Clock(), marks={41: "then"})
    granted = await first.grant("a", "b", pid=41, activation_bytes=3 * SIZE)
    second = await next_loader(first)
    (lease,) = second.leases.alive()
    assert state(lease) is LeaseState.DETACHED
    for name in (
        "id",
        "refs",
        "display_names",
        "resident_ids",
        "create_time",
        "principal",
        "label",
        "labels",
    ):
        assert getattr(lease, name) == getattr(granted, name), name
    assert (lease.pids, lease.uid, lease.activation_bytes) == ({41}, 1000, 3 * SIZE)
    assert [p.ref for p in lease.plans] == lease.refs
    assert second.changes(lease.id) == ["readopted"]
    usage = second.cache.usage()
    assert (usage.leased, usage.reserved) == (2 * SIZE, 3 * SIZE)
    assert second.watched == [41]
    with pytest.raises(ForbiddenTicketException):
        second.leases.authorise(lease.id, b"x" * 32)
    assert second.leases.authorise(lease.id, granted.secret) is lease
    second.leases.take_up(lease, 0)
    stream = second.leases.bind_stream(lease)
    assert state(lease) is LeaseState.ACTIVE
    second.clock.now += 60
    second.leases.sweep()
    assert state(lease) is LeaseState.ACTIVE
    second.leases.unbind(lease, stream)
    second.leases.release(lease)
    assert (second.cache.usage().leased, second.cache.usage().reserved) == (0, 0)
    assert [name for name in cupboard.things if name.startswith("lease/")] == []
    second.die()


async def test_a_lease_that_nobody_takes_up_ends_with_the_grace_and_leaves_its_components(
    cupboard: Cupboard,
) -> None:
    first = Loader(cupboard, Clock())
    await first.grant("a")
    second = await next_loader(first, grace_s=7.0)
    (lease,) = second.leases.alive()
    second.clock.now += 6.9
    second.leases.sweep()
    assert state(lease) is LeaseState.DETACHED
    second.clock.now += 0.2
    second.leases.sweep()
    assert (state(lease), lease.end) == (LeaseState.ENDED, LeaseEnd.DETACHED)
    assert (second.names, second.cache.usage().leased) == (["a"], 0)
    second.die()


async def test_a_ttl_goes_on_over_the_restart(cupboard: Cupboard) -> None:
    first = Loader(cupboard, Clock())
    short, long = await first.grant("a", ttl_s=5), await first.grant("b", ttl_s=30)
    held = await first.grant("c", ttl_s=5, pid=41)
    second = await next_loader(first, down_s=10.0)
    with pytest.raises(UnknownLeaseException):
        second.leases.get(short.id)
    lease = second.leases.get(long.id)
    assert (state(lease), lease.expires_at, lease.expire_time) == (
        LeaseState.ACTIVE,
        long.expires_at,
        long.expire_time,
    )
    # Its ttl is over, and a connection was there that its holder may open again.
    assert state(second.leases.get(held.id)) is LeaseState.DETACHED
    second.clock.now += 20.1
    second.leases.sweep()
    assert (state(lease), lease.end) == (LeaseState.ENDED, LeaseEnd.EXPIRED)
    assert second.names == ["a", "b", "c"]
    second.die()


async def test_a_lease_of_a_process_that_has_died_meanwhile_ends_at_once(cupboard: Cupboard) -> None:
    marks = dict.fromkeys((41, 42, 43, 44), "then")
    first = Loader(cupboard, Clock(), marks=marks)
    gone = await first.grant("a", pid=41)
    another = await first.grant("a", pid=42)
    forked = await first.grant("a", pid=43)
    first.leases.bind_connection(forked, 44, 1000)
    claimed = await first.grant("a", claimed_pid=41)
    unheard = await first.grant("a", claimed_pid=99)
    del marks[41], marks[43]
    marks[42] = "started since, with the number of the dead"
    second = await next_loader(first)
    for lease in (gone, another, claimed):
        assert second.leases.get(lease.id).end is LeaseEnd.HOLDER_DIED
        assert second.changes(lease.id) == ["readopted", "ended"]
    # One of its two processes lives; of the other lease nobody knows the process.
    assert {lease.id for lease in second.leases.alive()} == {forked.id, unheard.id}
    second.leases.process_died(44)
    assert second.leases.get(forked.id).end is LeaseEnd.HOLDER_DIED
    second.die()


async def test_what_is_dead_or_asked_back_stays_so(cupboard: Cupboard) -> None:
    first = Loader(cupboard, Clock(), marks={41: "then", 42: "then"})
    lease = await first.grant("a", pid=41)
    first.leases.bind_connection(lease, 42, 1000)
    first.leases.process_died(41)
    first.leases.revoke(lease.id, "maintenance", 20.0)
    second = await next_loader(first)
    (again,) = second.leases.alive()
    assert (again.dead, again.pid) == ({41}, 42)
    assert (again.revocation, state(again)) == (lease.revocation, LeaseState.DETACHED)
    second.leases.take_up(again, 0)
    second.leases.bind_stream(again)
    assert state(again) is LeaseState.REVOKING
    second.clock.now += 20
    second.leases.sweep()
    with pytest.raises(LeaseRevokedException, match="maintenance"):
        second.leases.authorise(again.id, lease.secret)
    second.die()


async def test_a_lease_is_on_the_models_that_it_named_where_others_have_the_same_component(
    cupboard: Cupboard,
) -> None:
    first = Loader(cupboard, Clock())
    await first.load("a")
    holder = "lease-of-another"
    other = plan("a", SIZE, key="other")
    residents = await first.cache.acquire(Demand([other], holder))
    lease = first.leases.grant(holder, [other], residents)
    first.leases.bind_stream(lease)
    second = await next_loader(first)
    (again,) = second.leases.alive()
    assert [p.ref.key for p in again.plans] == ["other"]
    resident = second.tier.get("a")
    assert resident is not None
    assert resident.leases == {holder: frozenset({"other"})}
    assert [ref.key for ref in resident.refs] == ["a", "other"]
    assert second.cache.evict("a").residents == []  # it is the other's, too
    second.die()


async def test_pins_stay_also_on_what_is_not_there(cupboard: Cupboard) -> None:
    first = Loader(cupboard, Clock())
    await first.load("a", "b")
    first.cache.pin([plan("a", SIZE), plan("absent", SIZE)])
    second = await next_loader(first)
    assert second.cache.usage().pinned == SIZE
    second.cache.evict_idle()
    assert second.names == ["a"]
    await second.load("absent")
    assert second.cache.usage().pinned == 2 * SIZE
    second.cache.unpin([ComponentRef("a")])
    third = await next_loader(second)
    assert third.cache.usage().pinned == SIZE
    third.die()


async def test_what_is_kept_for_some_time_goes_when_that_is_over_counted_from_its_last_use(
    cupboard: Cupboard,
) -> None:
    first = Loader(cupboard, Clock())
    lease = await first.grant("a", keep_alive_s=20.0)
    await first.load("b", keep_alive_s=20.0)
    held = await first.grant("c", keep_alive_s=20.0)
    first.clock.now += 15
    first.leases.release(lease)
    second = await next_loader(first, down_s=6.0)
    second.cache.sweep()
    assert second.names == ["a", "c"]
    second.clock.now += 14
    second.cache.sweep()
    assert second.names == ["c"]
    second.leases.release(second.leases.get(held.id))
    second.clock.now += 20
    second.cache.sweep()
    assert second.names == []
    second.die()


async def test_a_smaller_budget_drops_what_is_idle_the_longest_unused_first_and_nothing_that_is_held(
    cupboard: Cupboard,
) -> None:
    first = Loader(cupboard, Clock())
    await first.grant("a")
    for name in ("d", "c", "b"):
        first.clock.now += 1
        await first.load(name, keep_alive_s=100.0)
    second = await next_loader(first, budget=3 * SIZE)
    assert second.names == ["a", "b", "c"]
    third = await next_loader(second, budget=SIZE // 2)
    assert (third.names, third.cache.usage().leased) == (["a"], SIZE)
    assert sorted(name for name in cupboard.things if name.startswith("resident/")) == ["resident/a"]
    third.die()


async def test_what_was_in_use_at_the_start_with_a_smaller_budget_goes_when_it_is_idle(
    cupboard: Cupboard,
) -> None:
    first = Loader(cupboard, Clock())
    lease = await first.grant("a")
    await first.load("b", "c")
    before = first.tier.get("b")
    assert before is not None
    workers = first.tier.export(before)
    second = await next_loader(first, budget=SIZE)
    assert second.names == ["a", "b"]
    os.close(workers)
    second.cache.sweep()
    assert second.names == ["a"]
    third = await next_loader(second, budget=SIZE // 2)
    third.leases.release(third.leases.get(lease.id))
    third.cache.sweep()
    assert third.names == []
    third.die()


async def test_a_model_that_was_removed_under_a_lease_goes_with_that_lease(cupboard: Cupboard) -> None:
    first = Loader(cupboard, Clock())
    lease = await first.grant("a")
    first.cache.model_removed("a")
    second = await next_loader(first)
    assert second.names == ["a"]
    second.leases.release(second.leases.get(lease.id))
    assert second.names == []
    second.die()


async def test_a_hundred_residents_are_taken_over_and_every_byte_is_given_back(cupboard: Cupboard) -> None:
    names = [f"c{number:02}" for number in range(100)]
    first = Loader(cupboard, Clock(), budget=100 * SIZE)
    await first.load(*names)
    second = await next_loader(first, budget=100 * SIZE)
    assert second.names == names
    assert [contents(second, name) for name in names] == names
    assert memfd_bytes([os.getpid()], "modelkeep:test:") == second.cache.usage().used == 100 * SIZE
    assert second.cache.evict_idle().zombie == 0, "the keeper's descriptors are no use by others"
    await second.tier.freed()
    assert memfd_bytes([os.getpid()], "modelkeep:test:") == 0
    assert not cupboard.things


@pytest.mark.parametrize("keeps", [False, True])
def test_a_clean_stop_ends_all_leases_or_leaves_them_to_the_next_loader(keeps: bool) -> None:
    async def story() -> None:
        async with core(keeps=keeps, detach_grace_s=1.0) as made:
            task, ear = made.hold("a")
            lease = (await ear.granted()).lease
            made.lending.drain()
            with pytest.raises(ServerDrainingException):
                await task
            await asyncio.sleep(0.5 if not keeps else 60.0)
            assert lease.state is LeaseState.DETACHED
        assert lease.end is (None if keeps else LeaseEnd.DRAINED)
        assert made.forge.slabs["a"].closed

    run(story())


async def test_memory_that_was_dropped_and_is_still_mapped_counts_at_the_next_loader_too(
    cupboard: Cupboard,
) -> None:
    first = Loader(cupboard, Clock())
    await first.load("a", "b")
    resident = first.tier.get("a")
    assert resident is not None
    workers = first.tier.export(resident)
    first.tier.drop(resident)
    assert first.tier.usage().zombie == SIZE
    second = await next_loader(first)
    assert second.names == ["b"]
    assert second.tier.usage().zombie == SIZE
    second.tier.sweep()
    assert second.tier.usage().zombie == SIZE, "somebody has it"
    third = await next_loader(second)
    assert third.tier.usage().zombie == SIZE
    os.close(workers)
    third.tier.sweep()
    assert third.tier.usage().zombie == 0
    assert not [name for name in cupboard.things if name.startswith("zombie/")]
    third.die()
