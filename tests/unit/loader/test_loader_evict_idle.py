"""Dropping all that nobody uses."""

from __future__ import annotations

import asyncio

from modelkeep_loader.domain.components import Stage
from support.kiln import MB, Clock, Kiln, plan, ram_cache, want


async def test_what_is_leased_pinned_or_on_its_way_stays() -> None:
    kiln = Kiln()
    cache = ram_cache(kiln, budget_bytes=8 * MB, clock=Clock())
    for name in "abc":
        await cache.acquire(want(f"load-{name}", plan(name), lease=False))
        cache.give_back(f"load-{name}")
    await cache.acquire(want("lease", plan("b")))
    pinned = cache.tier.get("c")
    assert pinned is not None
    pinned.pins = frozenset({"c"})
    kiln.gate.clear()
    coming = asyncio.create_task(cache.acquire(want("load-d", plan("d"), lease=False)))
    await asyncio.sleep(0)

    would = cache.evict_idle(validate_only=True)
    assert [r.id for r in would.residents] == ["a"]
    assert [r.id for r in cache.tier.residents()] == ["a", "b", "c", "d"]
    done = cache.evict_idle()
    assert (done.freed, done.zombie) == (would.freed, would.zombie) == (MB, 0)
    assert [r.id for r in cache.tier.residents()] == ["b", "c", "d"]
    kiln.gate.set()
    (resident,) = await coming
    assert resident.stage is Stage.RESIDENT
    await cache.close()


async def test_it_makes_room_for_those_who_wait() -> None:
    cache = ram_cache(Kiln(), budget_bytes=2 * MB, clock=Clock())
    await cache.acquire(want("lease", plan("a", 2 * MB)))
    waiting = asyncio.create_task(cache.acquire(want("other", plan("b")), max_wait_s=60))
    await asyncio.sleep(0)
    assert cache.evict_idle().residents == []
    assert not waiting.done()
    cache.give_back("lease")
    cache.evict_idle()
    async with asyncio.timeout(10):
        assert [r.id for r in await waiting] == ["b"]
    await cache.close()
