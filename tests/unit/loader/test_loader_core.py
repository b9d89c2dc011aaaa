"""The loader's core through its own methods: fake plans, helper and memory, and time that a test skips."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from modelkeep.exceptions import (
    FieldInvalidException,
    ForbiddenTicketException,
    InvalidModelException,
    LeaseRevokedException,
    LeasesExhaustedException,
    RamExhaustedException,
    ServerBusyException,
    ServerDrainingException,
    UnknownLeaseException,
    WrongHostException,
)
from modelkeep_loader.domain.components import ComponentRef
from modelkeep_loader.domain.lease import LeaseEnd, LeaseState
from modelkeep_loader.domain.requests import Alive, Granted, Identifying, Loaded, Loading, Lost, Queued
from support.faketime import now, run
from support.kiln import MB
from support.lendingcore import Core, Ear, core, wish


async def cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


def held(made: Core) -> list[str]:
    """Components that a lease or a request holds."""
    return [resident.id for resident in made.cache.tier.residents() if resident.wanted]


def test_a_hold_hears_all_that_happens_in_order_and_five_times_a_second() -> None:
    async def story() -> None:
        async with core() as made:
            made.drawer.takes_s, made.forge.takes_s = 1.0, 2.1
            task, ear = made.hold("a")
            granted = await ear.granted()
            assert ear.words == ["Identifying", "Loading", "Granted"]
            assert ear.times(Identifying) == [0.15, 0.35, 0.55, 0.75, 0.95]
            # The first at once, so that a caller knows soon what it waits for.
            assert ear.times(Loading)[:3] == [1.0, 1.2, 1.4]
            assert len(ear.times(Loading)) == 11
            rates = [news.bytes_per_second for _, news in ear.heard if isinstance(news, Loading)]
            assert sum(rates) * 0.2 == pytest.approx(
                0.9 * MB, rel=0.01
            )  # the last tenth comes with the grant
            assert granted.brief == ["a"]
            await asyncio.sleep(50)
            assert [round(t) for t in ear.times(Alive)] == [18, 33, 48]
            made.lending.release(granted.lease.id, granted.lease.secret)
            await task
            assert ear.words[-1] == "Alive"  # nobody is told of the end that he asked for
            assert held(made) == []

    run(story())


def test_what_is_resident_is_granted_without_other_news() -> None:
    async def story() -> None:
        async with core() as made:
            made.forge.takes_s = 1.0
            await made.lending.load([ComponentRef("a", "", "float32")], 0.0, Ear())
            began = now()
            task, ear = made.hold("a")
            await ear.granted()
            assert ear.words == ["Granted"]
            assert now() - began < 0.01
            await cancel(task)

    run(story())


def test_a_load_tells_plan_progress_and_each_resident_and_keeps_nothing() -> None:
    async def story() -> None:
        async with core() as made:
            made.forge.takes_s = 0.3
            ear = Ear()
            await made.lending.load([ComponentRef(key, "", "float32") for key in "ab"], 0.0, ear)
            assert ear.words == ["Planned", "Loading", "Loaded"]
            loaded = [news for _, news in ear.heard if isinstance(news, Loaded)]
            assert [(news.resident.id, news.is_last) for news in loaded] == [("a", False), ("b", True)]
            assert held(made) == []

    run(story())


def test_who_waits_for_room_hears_who_has_it_and_gets_it_when_that_one_goes() -> None:
    async def story() -> None:
        async with core(budget=MB) as made:
            first = await made.lending.acquire(wish("a"), ttl_s=10.0)
            task, ear = made.hold("b", max_wait_s=60.0)
            await ear.granted()
            assert now() == pytest.approx(10.0, abs=0.1)
            queued = [news for _, news in ear.heard if isinstance(news, Queued)]
            assert {tuple(news.holders) for news in queued} == {(first.lease.id,)}
            assert queued[0].demand.bytes_short == 0  # it is not short any more
            assert [resident.id for resident in made.cache.tier.residents()] == ["b"]
            await cancel(task)

    run(story())


def test_fifty_who_race_for_the_last_place_get_it_one_by_one_or_hear_why_not() -> None:
    async def story() -> None:
        async with core(budget=MB) as made:
            made.forge.takes_s = 1.0

            async def use(key: str) -> None:
                ear = Ear()
                task = asyncio.create_task(made.lending.hold(wish(key, max_wait_s=20.0), ear))
                granting = asyncio.create_task(ear.granted())
                await asyncio.wait({task, granting}, return_when=asyncio.FIRST_COMPLETED)
                granting.cancel()
                if task.done():
                    task.result()
                assert made.cache.usage().used <= MB
                await asyncio.sleep(1.0)
                await cancel(task)

            results = await asyncio.gather(*(use(f"m{n}") for n in range(50)), return_exceptions=True)
            kinds = {type(result) for result in results}
            assert kinds == {type(None), RamExhaustedException}
            # Detached leases are kept for five seconds, so one place changes hands every seven.
            assert sum(result is None for result in results) == 3
            assert made.cache.usage().waiting == 0

    run(story())


@pytest.mark.parametrize("moment", [0.05, 0.5, 1.5])
def test_a_caller_who_goes_away_while_it_loads_leaves_nothing_behind(moment: float) -> None:
    async def story() -> None:
        async with core() as made:
            made.drawer.takes_s, made.forge.takes_s = 1.0, 1.0
            task, ear = made.hold("a")
            await asyncio.sleep(moment)
            await cancel(task)
            assert (held(made), made.lending.leases.alive(), ear.words[-1:] == ["Granted"]) == ([], [], False)
            again, ear = made.hold("a")
            await ear.granted()
            assert len(made.forge.began) == 1  # what was begun goes on, for whoever asks next
            await cancel(again)

    run(story())


def test_a_brief_that_refuses_is_the_answer_and_there_is_no_lease() -> None:
    def refuse(plans: Sequence[Any], residents: Sequence[Any]) -> object:
        raise FieldInvalidException("too much to tell", violations=[])

    async def story() -> None:
        async with core() as made:
            ear = Ear()
            with pytest.raises(FieldInvalidException, match="too much"):
                await made.lending.hold(wish("a", brief=refuse), ear)
            assert (held(made), made.lending.leases.alive(), ear.words) == ([], [], ["Loading"])

    run(story())


def test_a_drain_ends_holds_and_loads_and_every_lease_with_its_grace() -> None:
    async def story() -> None:
        async with core(budget=3 * MB) as made:
            held_task, ear = made.hold("a")
            lease = (await ear.granted()).lease
            made.forge.takes_s = 100.0
            loading = asyncio.create_task(made.lending.load([ComponentRef("b", "", "float32")], 0.0, Ear()))
            await asyncio.sleep(1.0)
            made.lending.drain()
            for task in (held_task, loading):
                with pytest.raises(ServerDrainingException):
                    await task
            assert lease.state is LeaseState.DETACHED
            again = wish("a", lease_id=lease.id, lease_secret=lease.secret)
            for asked in (wish("c"), again):  # who took it up would be sent away at once, and come again
                with pytest.raises(ServerDrainingException):
                    await made.lending.hold(asked, ear)
            assert len(ear.times(Granted)) == 1
            await asyncio.sleep(4.9)
            assert lease.state is LeaseState.DETACHED
            await asyncio.sleep(0.2)
            assert (lease.end, held(made)) == (LeaseEnd.DETACHED, [])

    run(story())


def test_a_lease_by_time_ends_when_its_time_is_over_and_not_before() -> None:
    async def story() -> None:
        async with core() as made:
            granted = await made.lending.acquire(wish("a", with_ticket=False), ttl_s=None)
            assert granted.ticket == b""
            await asyncio.sleep(59.0)
            lease, ticket = made.lending.renew(granted.lease.id, granted.lease.secret, 5.0)
            assert len(ticket) == 32
            await asyncio.sleep(4.9)
            assert lease.state is LeaseState.ACTIVE
            await asyncio.sleep(0.2)
            assert (lease.end, held(made)) == (LeaseEnd.EXPIRED, [])
            with pytest.raises(UnknownLeaseException):
                made.lending.renew(lease.id, lease.secret, 5.0)

    run(story())


@pytest.mark.parametrize("ttl_s", [0.0, 0.999, 86_401.0])
def test_a_time_beyond_reason_is_refused_before_anything_is_loaded(ttl_s: float) -> None:
    async def story() -> None:
        async with core() as made:
            with pytest.raises(FieldInvalidException) as raised:
                await made.lending.acquire(wish("a"), ttl_s)
            assert [violation.field for violation in raised.value.violations] == ["ttl"]
            assert made.forge.began == []

    run(story())


def test_a_caller_on_another_host_is_sent_to_its_own_loader() -> None:
    async def story() -> None:
        async with core() as made:
            for call in (
                made.lending.hold(wish("a", boot_id="there"), Ear()),
                made.lending.acquire(wish("a", boot_id="there"), None),
            ):
                with pytest.raises(WrongHostException):
                    await call
            assert made.forge.began == []

    run(story())


def test_a_connection_keeps_the_lease_when_the_stream_goes_and_its_process_takes_it_along() -> None:
    async def story() -> None:
        async with core() as made:
            task, ear = made.hold("a", claimed_pid=7)
            granted = await ear.granted()
            assert made.watched == [7]
            connection = made.lending.redeem(granted.ticket, 7, 1000)
            with pytest.raises(ForbiddenTicketException):
                made.lending.redeem(granted.ticket, 7, 1000)
            await cancel(task)
            await asyncio.sleep(3600.0)
            assert granted.lease.state is LeaseState.ACTIVE
            made.lending.leases.process_died(7)
            assert (granted.lease.end, connection.ended.is_set()) == (LeaseEnd.HOLDER_DIED, True)
            assert held(made) == []
            connection.closed()  # as the socket does when it hears of the end

    run(story())


def test_a_ticket_is_good_for_ten_seconds_and_for_a_living_lease() -> None:
    async def story() -> None:
        async with core() as made:
            old = await made.lending.acquire(wish("a"), 60.0)
            await asyncio.sleep(10.0)
            gone = await made.lending.acquire(wish("a"), 60.0)
            made.lending.release(gone.lease.id, gone.lease.secret)
            for granted in (old, gone):
                with pytest.raises(ForbiddenTicketException):
                    made.lending.redeem(granted.ticket, 7, 1000)

    run(story())


def test_one_lease_has_only_so_many_connections() -> None:
    async def story() -> None:
        async with core() as made:
            granted = await made.lending.acquire(wish("a"), 60.0)
            lease, ticket = granted.lease, granted.ticket
            for _ in range(16):
                made.lending.redeem(ticket, 7, 1000)
                _, ticket = made.lending.renew(lease.id, lease.secret, 60.0)
            with pytest.raises(ServerBusyException):
                made.lending.redeem(ticket, 7, 1000)

    run(story())


def test_a_detached_lease_is_taken_up_by_who_knows_its_secret_and_its_components() -> None:
    async def story() -> None:
        async with core() as made:
            task, ear = made.hold("a", claimed_pid=7)
            lease = (await ear.granted()).lease
            await cancel(task)
            assert lease.state is LeaseState.DETACHED
            known = {"lease_id": lease.id, "lease_secret": lease.secret}
            with pytest.raises(FieldInvalidException):
                await made.lending.hold(wish("b", **known), Ear())
            with pytest.raises(ForbiddenTicketException):
                await made.lending.hold(wish("a", lease_id=lease.id, lease_secret=bytes(32)), Ear())
            again, ear = made.hold("a", claimed_pid=8, **known)
            assert (await ear.granted()).lease is lease
            assert (lease.state, made.watched) == (LeaseState.ACTIVE, [7, 8])
            made.lending.revoke(lease.id, "room is needed", by="ann")
            await again
            lost = ear.heard[-1][1]
            assert isinstance(lost, Lost)
            assert isinstance(lost.error, LeaseRevokedException)

    run(story())


def test_what_is_being_loaded_counts_towards_a_callers_leases() -> None:
    async def story() -> None:
        async with core(max_per_principal=1) as made:
            made.forge.takes_s = 10.0
            task, _ = made.hold("a", principal="ann")
            await asyncio.sleep(1.0)
            with pytest.raises(LeasesExhaustedException):
                await made.lending.acquire(wish("a", principal="ann"), None)
            await cancel(task)
            await made.lending.acquire(wish("a", principal="ann"), None)
            await made.lending.acquire(wish("a", principal="bob"), None)

    run(story())


def test_a_build_that_fails_is_tried_again_after_two_seconds_then_four_up_to_a_minute() -> None:
    async def story() -> None:
        async with core() as made:
            made.forge.broken = True
            while now() < 200:
                with pytest.raises(InvalidModelException):
                    await made.lending.acquire(wish("a"), None)
                await asyncio.sleep(0.5)
            gaps = [b - a for a, b in zip(made.forge.began, made.forge.began[1:], strict=False)]
            assert gaps[:6] == pytest.approx([2, 4, 8, 16, 32, 60], abs=0.6)
            made.forge.broken = False
            await asyncio.sleep(60)
            await made.lending.acquire(wish("a"), None)

    run(story())


def test_files_that_change_while_they_are_loaded_are_looked_at_once_more_and_no_more() -> None:
    async def story() -> None:
        async with core() as made:
            made.forge.changing = 1
            granted = await made.lending.acquire(wish("a"), None)
            assert granted.brief == ["a"]
            assert made.drawer.distrusted == ["a"]
            made.forge.changing, ear = 1, Ear()
            await made.lending.load([ComponentRef("b", "", "float32")], 0.0, ear)
            assert ear.words[-1] == "Loaded"
            made.forge.changing = 2
            with pytest.raises(InvalidModelException, match="was changed"):
                await made.lending.acquire(wish("c"), None)

    run(story())


def test_memory_that_is_mapped_without_a_lease_is_neither_dropped_nor_free() -> None:
    async def story() -> None:
        async with core(budget=MB) as made:
            first = await made.lending.acquire(wish("a"), 60.0)
            slab = made.forge.slabs["a"]
            slab.mapped = True
            made.lending.release(first.lease.id, first.lease.secret)
            with pytest.raises(RamExhaustedException):
                await made.lending.acquire(wish("b"), 60.0)
            assert made.lending.tiers.evict("a").zombie == MB
            usage = made.lending.capacity().usage
            assert (usage.residents, usage.zombie) == (0, MB)
            waiting, ear = made.hold("b", max_wait_s=60.0)
            await asyncio.sleep(30.0)
            assert ear.words == ["Queued"]
            slab.mapped = False
            await ear.granted()
            assert now() == pytest.approx(31, abs=1.1)  # nobody tells the loader; it looks every second
            await cancel(waiting)

    run(story())


def test_leases_and_residents_are_found_by_model_and_after_the_last_one_seen() -> None:
    async def story() -> None:
        async with core() as made:
            for key in "aab":
                await made.lending.acquire(wish(key), 60.0)
            leases = made.lending.find_leases("a")
            assert [lease.refs[0].key for lease in leases] == ["a", "a"]
            after = (leases[0].create_time, leases[0].id)
            assert made.lending.find_leases("a", after=after) == leases[1:]
            assert len(made.lending.find_leases("")) == made.lending.capacity().lease_count == 3
            assert [r.id for r in made.lending.tiers.find_residents("", after="a")] == ["b"]
            assert [r.id for r in made.lending.tiers.find_residents("a", after="")] == ["a"]

    run(story())
