"""What loading would take: told from the tier as it is, which stays so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from modelkeep.exceptions import InvalidModelException
from modelkeep_convert.checkpoints.parts import parts_of
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.caches import Caches
from modelkeep_loader.domain.devices import Devices
from modelkeep_loader.domain.estimate import estimate
from support.kiln import MB, Clock, Kiln, plan, ram_cache, want


@pytest.fixture
def kiln() -> Kiln:
    return Kiln()


@pytest.fixture
async def cache(kiln: Kiln) -> AsyncIterator[Cache]:
    made = ram_cache(kiln, budget_bytes=4 * MB, clock=Clock())
    yield made
    await made.close()


def only(cache: Cache) -> Caches:
    """A host without accelerators."""
    return Caches(cache, Devices())


async def loaded(cache: Cache, *names: str, holder: str = "") -> None:
    await cache.acquire(want(holder or "load", *map(plan, names), lease=bool(holder)))
    cache.give_back("load")


async def test_what_is_there_needs_nothing_and_what_is_not_takes_its_size(cache: Cache) -> None:
    await loaded(cache, "a")
    found = estimate([plan("a"), plan("b", 2 * MB)], only(cache), 1000)
    there, missing = found.components
    assert there.resident is cache.tier.get("a")
    assert (there.size_bytes, there.load_seconds) == (MB, 0.0)
    assert (missing.resident, missing.size_bytes) == (None, 2 * MB)
    assert missing.load_seconds > 0
    assert found.needed_bytes == 2 * MB + 1000
    assert (found.victims, found.bytes_short, found.fits_at_all) == ([], 0, True)
    assert found.load_seconds == missing.load_seconds


async def test_it_says_what_would_go_and_that_is_what_goes(cache: Cache, kiln: Kiln) -> None:
    await loaded(cache, "a", "b", "c")
    before = [(r.id, r.last_use, dict(r.leases)) for r in cache.tier.residents()]
    usage = cache.usage()
    found = estimate([plan("d", 2 * MB), plan("a")], only(cache), 0)
    assert [(r.id, r.last_use, dict(r.leases)) for r in cache.tier.residents()] == before
    assert cache.usage() == usage
    assert kiln.built == ["a", "b", "c"]
    await cache.acquire(want("lease", plan("d", 2 * MB), plan("a")))
    left = {r.id for r in cache.tier.residents()}
    assert {r.id for r in found.victims} == {"a", "b", "c"} - left
    assert "a" in left


async def test_what_others_hold_makes_it_short_and_what_is_too_large_never_fits(cache: Cache) -> None:
    await loaded(cache, "a", "b", holder="lease")
    found = estimate([plan("c", 3 * MB)], only(cache), 0)
    assert (found.bytes_short, found.victims, found.fits_at_all) == (MB, (), True)
    found = estimate([plan("c", 3 * MB)], only(cache), 2 * MB)
    assert (found.bytes_short, found.fits_at_all) == (3 * MB, False)


async def test_the_same_component_under_two_names_takes_its_room_once(cache: Cache) -> None:
    found = estimate([plan("a", key="one"), plan("a", key="two")], only(cache), 0)
    assert len(found.components) == 2
    assert found.needed_bytes == MB
    unknown = replace(plan("a"), id="")
    assert estimate([unknown, unknown], only(cache), 0).needed_bytes == MB
    assert estimate([unknown, replace(unknown, precision="float16")], only(cache), 0).needed_bytes == 2 * MB
    assert estimate([unknown, replace(unknown, weights="stored")], only(cache), 0).needed_bytes == 2 * MB


async def test_two_encoders_of_one_checkpoint_are_two_components(cache: Cache) -> None:
    names = [f"text_encoders.{name}.transformer.x" for name in ("clip_l", "clip_g")]
    parts = parts_of(dict.fromkeys(names, (1,)), "sd-3", "sd3.safetensors")
    assert [part.class_name for part in parts.values()] == ["CLIPTextModelWithProjection"] * 2
    encoders = [replace(plan("a"), id="", part=part) for part in parts.values()]
    assert estimate(encoders, only(cache), 0).needed_bytes == 2 * MB


async def test_a_failure_is_told_as_long_as_it_stands(cache: Cache, kiln: Kiln) -> None:
    kiln.broken.add("a")
    with pytest.raises(InvalidModelException):
        await loaded(cache, "a")
    (one,) = estimate([plan("a")], only(cache), 0).components
    assert isinstance(one.error, InvalidModelException)
    assert one.retry_in_s == 2.0
    clock: Any = cache.tier.clock
    clock.now += 3
    found = estimate([plan("a")], only(cache), 0)
    assert found.components[0].error is None
    assert found.needed_bytes == MB


async def test_what_building_takes_besides_is_part_of_the_estimate(cache: Cache) -> None:
    wide = replace(plan("a"), build_bytes=2 * MB)
    found = estimate([wide], only(cache), 0)
    assert (found.needed_bytes, found.fits_at_all) == (3 * MB, True)
    assert not estimate([replace(wide, build_bytes=4 * MB)], only(cache), 0).fits_at_all
    await cache.acquire(want("lease", wide))
    assert estimate([wide], only(cache), 0).needed_bytes == 0, "it is built"
