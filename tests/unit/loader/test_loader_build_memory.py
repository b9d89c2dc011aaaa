"""What builds take besides their components is in the budget: as estimated, and as it turns out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from modelkeep.exceptions import RamExhaustedException
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.components import BuildProgress, Built, Plan, Stage
from support.kiln import MB, Clock, Kiln, plan, ram_cache, want


class Hearth(Kiln):
    """Says what its builds take besides, and waits a moment after each step."""

    def __init__(self) -> None:
        super().__init__()
        #: Of each component: bytes of it that are there, and bytes that are taken in all, step by step.
        self.steps: dict[str, list[tuple[int, int]]] = {}
        self.ended: list[str] = []

    async def build(self, plan: Plan, progress: BuildProgress) -> Built:
        try:
            for done, private in self.steps.get(plan.id, []):
                progress(Stage.CONVERTING, done, private)
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.ended.append(plan.id)
            raise
        return await super().build(plan, progress)


@pytest.fixture
def hearth() -> Hearth:
    return Hearth()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def cache(hearth: Hearth, clock: Clock) -> AsyncIterator[Cache]:
    made = ram_cache(hearth, budget_bytes=4 * MB, clock=clock)
    yield made
    await made.close()


def names(cache: Cache) -> list[str]:
    return [resident.id for resident in cache.tier.residents() if resident.stage is Stage.RESIDENT]


async def test_the_estimate_is_reserved_while_something_is_built_and_once_for_all_that_wait_their_turn(
    cache: Cache, hearth: Hearth
) -> None:
    hearth.gate.clear()
    wide, narrow = replace(plan("a"), build_bytes=2 * MB), replace(plan("b"), build_bytes=MB)
    both = asyncio.create_task(cache.acquire(want("one", wide, narrow)))
    await asyncio.sleep(0)
    assert (cache.usage().used, cache.usage().reserved) == (2 * MB, 2 * MB)
    with pytest.raises(RamExhaustedException):
        await cache.acquire(want("two", plan("c")))
    hearth.gate.set()
    await both
    assert cache.usage().reserved == 0
    await cache.acquire(want("two", plan("c")))


async def test_what_fits_and_whose_build_never_would_is_refused_without_waiting(cache: Cache) -> None:
    with pytest.raises(RamExhaustedException, match="bytes are asked for; the whole budget is"):
        await cache.acquire(want("one", replace(plan("a", 3 * MB), build_bytes=2 * MB)), max_wait_s=1000)


async def test_what_a_build_takes_makes_what_is_idle_go_and_what_is_not_yet_written_is_not_counted_twice(
    cache: Cache, hearth: Hearth
) -> None:
    await cache.acquire(want("one", plan("idle", 2 * MB)))
    cache.give_back("one")
    # First it is all in the build's own memory, then half of it is there and the build keeps all the same.
    hearth.steps["a"] = [(0, 2 * MB), (MB, 2 * MB), (2 * MB, MB)]
    hearth.gate.clear()
    task = asyncio.create_task(cache.acquire(want("two", plan("a", 2 * MB))))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert cache.usage().reserved == 0
    assert names(cache) == ["idle"]
    for _ in range(5):
        await asyncio.sleep(0)
    assert cache.usage().reserved == MB
    hearth.gate.set()
    await task
    assert names(cache) == ["a"]
    assert cache.usage().high_watermark <= 5 * MB


async def test_a_build_that_outgrows_what_can_be_had_is_ended_and_told_and_cooled_down(
    cache: Cache, hearth: Hearth, clock: Clock
) -> None:
    await cache.acquire(want("one", plan("held", 2 * MB)))
    hearth.steps["a"] = [(MB, MB), (MB, 3 * MB), (MB, 0)]
    with pytest.raises(RamExhaustedException, match="Building it takes 3,145,728 bytes of RAM") as raised:
        await cache.acquire(want("two", plan("a")))
    assert hearth.ended == ["a"], "its process is not left to itself"
    assert raised.value.metadata["bytes_short"] == str(2 * MB)
    assert (names(cache), cache.usage().reserved, cache.usage().used) == (["held"], 0, 2 * MB)
    with pytest.raises(RamExhaustedException):
        await cache.acquire(want("two", plan("a")))
    assert hearth.ended == ["a"], "it is not tried again at once"
    cache.give_back("one")
    clock.now += 3
    await cache.acquire(want("two", plan("a")))
    assert names(cache) == ["a"]


async def test_a_shutdown_under_a_build_is_no_outgrown_one(cache: Cache, hearth: Hearth) -> None:
    hearth.gate.clear()
    task = asyncio.create_task(cache.acquire(want("one", replace(plan("a"), build_bytes=MB))))
    await asyncio.sleep(0)
    await cache.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cache.usage().reserved == 0
