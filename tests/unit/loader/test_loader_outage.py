"""The core when leases are asked back, and when an operator takes it out of service; time is skipped."""

from __future__ import annotations

import asyncio

import pytest

from modelkeep.exceptions import LeaseRevokedException, ServerDrainingException
from modelkeep_loader.domain.components import ComponentRef
from modelkeep_loader.domain.lease import LeaseEnd, LeaseState
from modelkeep_loader.domain.outage import Remaining
from modelkeep_loader.domain.requests import Lost, RevokeRequested
from support.faketime import now, run
from support.lendingcore import Core, Ear, core, wish


async def taken_out(made: Core, timeout_s: float = 0.0, *, revoke: bool = False) -> list[Remaining]:
    asked = made.lending.take_out("a new kernel", "ann", timeout_s=timeout_s, revoke=revoke)
    return [left async for left in asked]


def test_a_holder_hears_at_once_that_its_lease_is_asked_back_and_at_the_deadline_that_it_is_lost() -> None:
    async def story() -> None:
        async with core() as made:
            task, ear = made.hold("a")
            lease = (await ear.granted()).lease
            await asyncio.sleep(3)
            made.lending.revoke(lease.id, "the night shift", "ann", grace_s=20.0)
            await task
            assert ear.words == ["Loading", "Granted", "RevokeRequested", "Alive", "Lost"]
            assert (ear.times(RevokeRequested), [round(t) for t in ear.times(Lost)]) == ([3.0], [23])
            lost = ear.heard[-1][1]
            assert isinstance(lost, Lost)
            assert isinstance(lost.error, LeaseRevokedException)
            assert lost.error.metadata["why"] == "the night shift"

    run(story())


def test_every_stream_of_a_lease_hears_it_and_again_when_the_deadline_comes_nearer() -> None:
    async def story() -> None:
        async with core() as made:
            first, ear = made.hold("a")
            lease = (await ear.granted()).lease
            second, other = made.hold("a", lease_id=lease.id, lease_secret=lease.secret)
            await other.granted()
            for grace in (60.0, 90.0, 10.0):
                made.lending.revoke(lease.id, "", "ann", grace_s=grace)
                await asyncio.sleep(1)
            for heard in (ear, other):
                deadlines = [n.revocation.deadline for _, n in heard.heard if isinstance(n, RevokeRequested)]
                assert deadlines == [60.0, 12.0]
            late, third = made.hold("a", lease_id=lease.id, lease_secret=lease.secret)
            await third.granted()
            await asyncio.sleep(0)
            made.lending.release(lease.id, lease.secret)
            await asyncio.gather(first, second, late)
            # Who takes it up meanwhile is told as well.
            assert third.words == ["Granted", "RevokeRequested"]
            assert lease.end is LeaseEnd.RELEASED

    run(story())


def test_out_of_service_what_is_new_or_waits_is_refused_and_what_is_held_goes_on() -> None:
    async def story() -> None:
        async with core() as made:
            task, ear = made.hold("a")
            lease = (await ear.granted()).lease
            made.forge.takes_s = 100.0
            waiting = asyncio.create_task(made.lending.acquire(wish("b"), None))
            loading = asyncio.create_task(made.lending.load([ComponentRef("b", "", "float32")], 0.0, Ear()))
            await asyncio.sleep(1)
            assert [left.lease_count for left in await taken_out(made)] == [1]
            for refused in (waiting, loading, asyncio.create_task(made.lending.acquire(wish("a"), None))):
                with pytest.raises(ServerDrainingException, match="out of service: a new kernel") as caught:
                    await refused
                assert caught.value.remedy
            assert [resident.id for resident in made.cache.tier.residents() if resident.wanted] == ["a"]
            assert made.lending.capacity().out_of_service is not None
            made.lending.renew(lease.id, lease.secret, 60.0)
            again, other = made.hold("a", lease_id=lease.id, lease_secret=lease.secret)
            await other.granted()
            assert not task.done()
            assert made.lending.put_back("ann")
            assert not made.lending.put_back("ann")
            made.forge.takes_s = 0.0
            await made.lending.acquire(wish("b"), None)
            made.lending.release(lease.id, lease.secret)
            await asyncio.gather(task, again)

    run(story())


def test_a_drain_tells_what_is_left_until_nothing_is() -> None:
    async def story() -> None:
        async with core() as made:
            granted = [await made.lending.acquire(wish(key), 3600.0) for key in "ab"]

            async def go() -> None:
                for seconds, one in zip((5, 25), granted, strict=True):
                    await asyncio.sleep(seconds)
                    made.lending.release(one.lease.id, one.lease.secret)

            going = asyncio.create_task(go())
            told = await taken_out(made, 600.0)
            await going
            # Also while nothing changes it is told, so that a caller knows that it is heard.
            assert [left.lease_count for left in told] == [2, 1, 1, 0]
            assert [left.done for left in told] == [False, False, False, True]
            assert told[0].lease_ids == [one.lease.id for one in granted]
            assert told[0].leased_bytes == 2 * told[2].leased_bytes > 0
            assert round(now()) == 30

    run(story())


def test_a_drain_that_revokes_leaves_nothing_when_its_time_is_over_and_the_memory_can_be_dropped() -> None:
    async def story() -> None:
        async with core() as made:
            task, ear = made.hold("a")
            lease = (await ear.granted()).lease
            by_time = await made.lending.acquire(wish("b"), 3600.0)
            told = await taken_out(made, 30.0, revoke=True)
            assert told[-1].lease_count == 0
            assert 30 <= now() < 31
            await task
            assert ear.words[-2:] == ["Alive", "Lost"]
            assert {lease.end, by_time.lease.end} == {LeaseEnd.REVOKED}
            assert made.lending.tiers.evict("a").freed > 0

    run(story())


def test_a_drain_whose_caller_goes_away_stands() -> None:
    async def story() -> None:
        async with core() as made:
            by_time = await made.lending.acquire(wish("a"), 3600.0)
            asked = made.lending.take_out("", "ann", timeout_s=60.0, revoke=True)
            await anext(asked)
            await asked.aclose()
            assert made.lending.capacity().out_of_service is not None
            assert by_time.lease.state is LeaseState.REVOKING
            await asyncio.sleep(61)
            assert by_time.lease.end is LeaseEnd.REVOKED

    run(story())


def test_a_shutdown_ends_a_drain_and_nothing_puts_the_loader_back() -> None:
    async def story() -> None:
        async with core() as made:
            await made.lending.acquire(wish("a"), 3600.0)
            asked = made.lending.take_out("", "ann", timeout_s=600.0, revoke=False)
            await anext(asked)
            made.lending.drain()
            with pytest.raises(ServerDrainingException, match="shutting down"):
                await anext(asked)
            assert not made.lending.put_back("ann")
            with pytest.raises(ServerDrainingException, match="shutting down"):
                await made.lending.acquire(wish("a"), None)

    run(story())
