"""Fifty that want memory which ten of them fill: in skipped time, and with sizes and reservations mixed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from modelkeep.exceptions import RamExhaustedException
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.demand import Demand, Terms
from support.faketime import now, run
from support.kiln import MB, plan, ram_cache
from support.lendingcore import Forge, free_at_once

ROOM = 10 * MB


def room_for_ten(takes_s: float = 0.05) -> Cache:
    return ram_cache(Forge(takes_s), budget_bytes=ROOM, free=free_at_once, clock=now, wall_clock=now)


async def use(cache: Cache, number: int, held_s: float, max_wait_s: float, besides: int = 0) -> float:
    """Hold a component of one's own for some seconds; how long it took to get it."""
    began = now()
    demand = Demand([plan(f"p{number}")], f"worker-{number}", terms=Terms(besides))
    try:
        await cache.acquire(demand, max_wait_s=max_wait_s)
    finally:
        waited = now() - began
        usage = cache.usage()
        assert usage.taken <= ROOM
        assert waited <= max_wait_s + 1.0, "nobody waits for longer than he said, and a build"
    assert usage.leased <= usage.used
    await asyncio.sleep(held_s)
    cache.give_back(demand.holder)
    return waited


def test_all_are_served_in_turn_where_they_can_wait_for_it_and_the_first_to_come_first() -> None:
    async def story() -> None:
        cache = room_for_ten()
        waits = await asyncio.gather(*(use(cache, number, 1.0, 60.0) for number in range(50)))
        assert waits == sorted(waits), "in the order in which they came"
        assert max(waits) < 6.0, "five rounds of ten"
        assert cache.usage().high_watermark == ROOM
        await cache.close()

    run(story())


def test_who_cannot_wait_for_so_long_hears_so_in_time_and_holds_nothing() -> None:
    async def story() -> None:
        cache = room_for_ten()
        results = await asyncio.gather(
            *(use(cache, number, 1.0, 1.5) for number in range(50)), return_exceptions=True
        )
        kinds = Counter(type(result) for result in results)
        assert kinds == {float: 20, RamExhaustedException: 30}, "two rounds fit into that time"
        usage = cache.usage()
        assert (usage.leased, usage.waiting, usage.reserved) == (0, 0, 0)
        await cache.close()

    run(story())


@pytest.mark.parametrize("seed", range(5))
def test_with_sizes_and_reservations_mixed_nobody_starves_and_nothing_is_left(seed: int) -> None:
    async def worker(cache: Cache, number: int, dice: random.Random) -> None:
        for turn in range(4):
            sizes = [dice.choice((MB // 2, MB, 3 * MB)) for _ in range(dice.choice((1, 1, 2)))]
            plans = [plan(f"{dice.randrange(20)}-{size}", size) for size in sizes]
            holder, began = f"{number}-{turn}", now()
            terms = Terms(dice.choice((0, MB)), dice.choice((None, 0.0, 1.0)))
            await cache.acquire(Demand(plans, holder, terms=terms), max_wait_s=200.0)
            slowest.append(now() - began)
            assert cache.usage().taken <= ROOM
            await asyncio.sleep(dice.random())
            cache.give_back(holder)

    async def story() -> None:
        cache = room_for_ten()
        await asyncio.gather(
            *(worker(cache, number, random.Random(seed * 100 + number)) for number in range(50))
        )
        usage = cache.usage()
        assert (usage.leased, usage.waiting, usage.reserved) == (0, 0, 0)
        await cache.close()

    slowest: list[float] = []
    run(story())
    assert len(slowest) == 200
    assert max(slowest) < 100.0
