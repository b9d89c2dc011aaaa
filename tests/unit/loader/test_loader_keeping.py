"""What stays in RAM and for how long: keep_alive, pins, reservations, and what is counted."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from modelkeep.exceptions import ModelInUseException, ModelPinnedException, RamExhaustedException
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.components import ComponentRef, Plan, Resident
from modelkeep_loader.domain.demand import Demand, Terms
from support.kiln import MB, Clock, Kiln, plan, ram_cache


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def demoted() -> list[str]:
    return []


@pytest.fixture
async def cache(clock: Clock, demoted: list[str]) -> AsyncIterator[Cache]:
    def demote(resident: Resident) -> None:
        assert resident.built is not None
        os.close(resident.built.memory.open_for_holder())  # it is still there to be taken
        demoted.append(resident.id)

    made = ram_cache(Kiln(), budget_bytes=3 * MB, clock=clock, wall_clock=clock, demote=demote)
    yield made
    await made.close()


async def hold(cache: Cache, holder: str, *plans: Plan, wait: float = 0.0, **terms: float) -> None:
    wanted = Terms(int(terms.get("activation", 0)), terms.get("keep_alive"))
    await cache.acquire(Demand(plans, holder, terms=wanted), max_wait_s=wait)


async def use(cache: Cache, name: str, **terms: float) -> None:
    await hold(cache, f"use of {name}", plan(name), **terms)
    cache.give_back(f"use of {name}")


def names(cache: Cache) -> list[str]:
    return [resident.id for resident in cache.tier.residents()]


# How long.


async def test_with_keep_alive_0_it_goes_with_its_last_lease(cache: Cache) -> None:
    await hold(cache, "one", plan("a"), keep_alive=0)
    await hold(cache, "two", plan("a"), keep_alive=0)
    cache.give_back("one")
    assert names(cache) == ["a"]
    cache.give_back("two")
    assert names(cache) == []


async def test_with_a_time_it_goes_so_long_after_its_last_use_and_says_when(
    cache: Cache, clock: Clock
) -> None:
    await hold(cache, "one", plan("a"), keep_alive=10)
    (resident,) = cache.tier.residents()
    assert resident.keep_until is None, "a lease holds it"
    clock.now += 100
    cache.give_back("one")
    assert resident.keep_until == clock.now + 10
    clock.now += 9.9
    cache.sweep()
    assert names(cache) == ["a"]
    await use(cache, "a", keep_alive=10)
    clock.now += 9.9
    cache.sweep()
    assert names(cache) == ["a"], "each use counts anew"
    clock.now += 0.2
    cache.sweep()
    assert names(cache) == []


async def test_the_last_who_asks_says_how_long_and_who_does_not_say_leaves_it_to_the_setting(
    clock: Clock,
) -> None:
    cache = ram_cache(Kiln(), budget_bytes=3 * MB, clock=clock, wall_clock=clock, keep_alive_s=5.0)
    for terms, seconds in (({"keep_alive": 60.0}, 60), ({}, 5), ({"keep_alive": -1.0}, None)):
        await use(cache, "a", **terms)
        (resident,) = cache.tier.residents()
        assert resident.keep_until == (clock.now + seconds if seconds is not None else None)
    clock.now += 1e9
    cache.sweep()
    assert names(cache) == ["a"], "for as long as there is room"
    await cache.close()


async def test_what_was_kept_for_long_enough_goes_first_and_not_while_it_is_mapped(
    cache: Cache, clock: Clock
) -> None:
    await use(cache, "old")
    clock.now += 1
    await use(cache, "short", keep_alive=5)
    await use(cache, "third")
    clock.now += 6
    # No sweep has come by yet.
    await use(cache, "new")
    assert names(cache) == ["new", "old", "third"]

    await use(cache, "new", keep_alive=5)
    resident = cache.tier.get("new")
    assert resident is not None
    fd = cache.tier.export(resident)
    mapping = mmap.mmap(fd, MB, mmap.MAP_PRIVATE, mmap.PROT_READ)
    os.close(fd)
    clock.now += 6
    cache.sweep()
    assert "new" in names(cache), "its memory would not come back"
    mapping.close()
    cache.sweep()
    assert names(cache) == ["old", "third"]


# Pins.


async def test_what_is_pinned_stays_whatever_else_needs_room(cache: Cache, clock: Clock) -> None:
    await use(cache, "a", keep_alive=1)
    assert cache.pin([plan("a")]) == [plan("a").ref]
    assert cache.pin([plan("a")]) == [], "again changes nothing"
    clock.now += 100
    cache.sweep()
    for name in "bcdefg":
        await use(cache, name)
    assert names(cache) == ["a", "f", "g"]
    with pytest.raises(RamExhaustedException, match=r"1,048,576 bytes are pinned") as raised:
        await hold(cache, "all", plan("all", 3 * MB))
    assert "cache unpin" in raised.value.remedy
    assert cache.unpin([ComponentRef("a")]) == [plan("a").ref]
    cache.sweep()
    assert names(cache) == ["f", "g"], "its time had run out"


async def test_a_pin_on_what_is_not_there_keeps_it_once_it_comes(cache: Cache) -> None:
    cache.pin([plan("a")])
    assert names(cache) == []
    await use(cache, "a", keep_alive=0)
    assert names(cache) == ["a"]
    assert cache.usage().pinned == MB


async def test_a_pinned_model_is_not_evicted_and_another_model_that_shares_it_is_no_more_of_it(
    cache: Cache,
) -> None:
    await hold(cache, "one", plan("shared", key="mine"), plan("plain", key="mine"))
    await hold(cache, "two", plan("shared", key="other"))
    cache.pin([plan("shared", key="mine")])
    with pytest.raises(ModelInUseException):
        cache.evict("mine")
    cache.give_back("one")
    cache.give_back("two")
    for validate_only in (True, False):
        with pytest.raises(ModelPinnedException, match="is pinned: tiny") as raised:
            cache.evict("mine", validate_only=validate_only)
    assert raised.value.metadata == {"key": "mine", "components": "tiny"}
    assert names(cache) == ["plain", "shared"], "nothing was dropped"
    assert cache.evict("other").residents == []
    shared = cache.tier.get("shared")
    assert shared is not None
    assert {ref.key for ref in shared.refs} == {"mine"}
    cache.unpin([ComponentRef("mine")])
    assert len(cache.evict("mine").residents) == 2


async def test_pins_are_taken_back_by_model_component_or_precision(cache: Cache) -> None:
    refs = [ComponentRef("k", part, kind) for part in ("vae", "unet") for kind in ("float16", "float32")]
    plans = [replace(plan(f"{ref.submodel}-{ref.precision}"), ref=ref) for ref in refs]
    for asked, taken in (
        (ComponentRef("k"), refs),
        (ComponentRef("k", "vae"), refs[:2]),
        (ComponentRef("k", "vae", "float32"), [refs[1]]),
        (ComponentRef("k", "", "float32"), [refs[1], refs[3]]),
        (ComponentRef("other"), []),
    ):
        cache.pin(plans)
        assert set(cache.unpin([asked])) == set(taken)
    cache.pin(plans)
    assert cache.unpin([ComponentRef("k")], exactly=True) == []
    assert set(cache.unpin(refs, exactly=True)) == set(refs)


async def test_pins_are_taken_back_by_form_and_memory_format(cache: Cache) -> None:
    plain = ComponentRef("k", "unet", memory_format="contiguous")
    said = replace(plain, weights="dequantised")
    float8, last = replace(plain, weights="float8"), replace(plain, memory_format="channels_last")
    named = [plain, said, float8, last]
    plans = [replace(plan(f"{ref.weights}-{ref.memory_format}"), ref=ref) for ref in named]
    any_form = ComponentRef("k", "unet", memory_format="")
    for asked, taken in (
        (any_form, named),
        (replace(any_form, weights="float8"), [float8]),
        (replace(any_form, weights="dequantised"), [plain, said, last]),  # so is what "auto" means
        (last, [last]),
        (plain, [plain, said, float8]),
    ):
        cache.pin(plans)
        assert set(cache.unpin([asked])) == set(taken)


async def test_a_pin_follows_its_name_to_what_the_files_are_now_and_ends_with_the_model(
    cache: Cache,
) -> None:
    before, after = plan("before", key="k"), plan("after", key="k")
    await hold(cache, "one", before)
    cache.pin([before])
    await hold(cache, "two", after)
    pinned = {resident.id for resident in cache.tier.residents() if resident.pins}
    assert pinned == {"after"}
    for holder in ("one", "two"):
        cache.give_back(holder)
    cache.model_removed("k")
    assert names(cache) == []
    assert cache.unpin([ComponentRef("k")]) == []


# Reservations, and what is counted.


async def test_what_a_lease_wants_besides_is_reserved_while_it_lives_and_got_all_or_none(
    cache: Cache,
) -> None:
    await use(cache, "idle")
    await hold(cache, "one", plan("a"), activation=2 * MB)
    usage = cache.usage()
    assert (usage.used, usage.reserved, names(cache)) == (MB, 2 * MB, ["a"])
    # It is there, and what it wants besides is not: it gets neither.
    with pytest.raises(RamExhaustedException) as raised:
        await hold(cache, "two", plan("a"), activation=1)
    assert raised.value.metadata["bytes_short"] == "1"
    (resident,) = cache.tier.residents()
    assert list(resident.leases) == ["one"]
    waiting = asyncio.create_task(hold(cache, "two", plan("b"), wait=1000, activation=MB))
    await asyncio.sleep(0.01)
    assert names(cache) == ["a"]
    cache.give_back("one")
    await waiting
    assert cache.usage().reserved == MB
    cache.give_back("two")
    assert cache.usage().reserved == 0


async def test_what_would_never_fit_with_its_activations_is_refused_without_waiting(cache: Cache) -> None:
    with pytest.raises(RamExhaustedException, match="bytes are asked for; the whole budget is"):
        await hold(cache, "one", plan("a"), wait=1000, activation=3 * MB)
    assert names(cache) == []


async def test_hits_misses_evictions_and_the_high_watermark_are_counted(
    cache: Cache, demoted: list[str]
) -> None:
    await hold(cache, "one", plan("a"), plan("b"), activation=MB)
    cache.give_back("one")
    await use(cache, "a")
    await hold(cache, "two", plan("b"), plan("c"), plan("d"))
    usage = cache.usage()
    assert (usage.hits, usage.misses, usage.evictions, usage.high_watermark) == (2, 4, 1, 3 * MB)
    assert demoted == ["a"], "what goes to make room is offered to the tier below"
    cache.give_back("two")
    cache.evict("c")
    assert (cache.usage().evictions, demoted) == (2, ["a"])
