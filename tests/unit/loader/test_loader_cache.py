"""The RAM tier: what is kept, what goes, who waits. Real sealed memory, no torch."""

from __future__ import annotations

import asyncio
import errno
import itertools
import mmap
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from modelkeep.exceptions import (
    InvalidModelException,
    ModelInUseException,
    ModelkeepError,
    ModelNotFoundException,
    QueueFullException,
    RamExhaustedException,
)
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.components import (
    BuildProgress,
    Built,
    ModelFacts,
    Plan,
    SourceFile,
    Stage,
)
from modelkeep_loader.domain.drain import Drain
from modelkeep_loader.domain.loads import Loads
from modelkeep_loader.domain.requests import News, Tell
from support.kiln import MB, Clock, Kiln, plan, ram_cache, want
from support.lendingcore import Drawer


@pytest.fixture
def kiln() -> Kiln:
    return Kiln()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def cache(kiln: Kiln, clock: Clock) -> AsyncIterator[Cache]:
    made = ram_cache(kiln, budget_bytes=3 * MB, clock=clock)
    yield made
    await made.close()


async def held(cache: Cache, holder: str, *plans: Plan, wait: float = 0.0) -> None:
    await cache.acquire(want(holder, *plans), max_wait_s=wait)


def names(cache: Cache) -> list[str]:
    return [resident.id for resident in cache.tier.residents()]


async def test_the_least_recently_used_goes_first_and_a_leased_one_never(cache: Cache, clock: Clock) -> None:
    for name in ("a", "b", "c"):
        clock.now += 1
        await held(cache, f"lease-{name}", plan(name))
    cache.give_back("lease-a")
    clock.now += 1
    cache.give_back("lease-b")
    await held(cache, "lease-d", plan("d"))
    assert names(cache) == ["b", "c", "d"]
    await held(cache, "lease-e", plan("e"))
    assert names(cache) == ["c", "d", "e"]
    with pytest.raises(RamExhaustedException) as raised:
        await held(cache, "lease-f", plan("f"))
    assert "ends any" in raised.value.remedy
    assert (
        raised.value.metadata.items()
        >= {
            "bytes_short": str(MB),
            "budget_bytes": str(3 * MB),
            "holders": "lease-c,lease-d,lease-e",
        }.items()
    )


async def test_many_at_once_share_one_build(cache: Cache, kiln: Kiln) -> None:
    kiln.gate.clear()
    tasks = [asyncio.create_task(held(cache, f"lease-{i}", plan("a"))) for i in range(20)]
    await asyncio.sleep(0)
    kiln.gate.set()
    await asyncio.gather(*tasks)
    assert kiln.built == ["a"]
    (resident,) = cache.tier.residents()
    assert len(resident.leases) == 20


async def test_fifty_that_race_for_the_last_place_get_it_one_after_the_other(
    cache: Cache, kiln: Kiln
) -> None:
    async def use(number: int) -> None:
        holder = f"lease-{number}"
        await cache.acquire(want(holder, plan(f"p{number % 5}", 2 * MB)), max_wait_s=1000)
        assert cache.usage().used <= 3 * MB
        await asyncio.sleep(0)
        cache.give_back(holder)

    await asyncio.gather(*(use(number) for number in range(50)))
    assert cache.usage().leased == 0
    assert cache.usage().waiting == 0


async def test_several_components_come_all_or_none(cache: Cache) -> None:
    await held(cache, "first", plan("a", 2 * MB))
    with pytest.raises(RamExhaustedException):
        await held(cache, "second", plan("b"), plan("c"))
    assert names(cache) == ["a"]
    waiting = asyncio.create_task(held(cache, "second", plan("b"), plan("c"), wait=1000))
    await asyncio.sleep(0.01)
    # While it waits it holds nothing: what fits beside it goes on.
    await held(cache, "third", plan("b"))
    cache.give_back("third")
    assert cache.usage().waiting == 1
    cache.give_back("first")
    await waiting
    assert names(cache) == ["b", "c"]


async def test_what_is_larger_than_the_budget_is_refused_without_waiting(cache: Cache) -> None:
    with pytest.raises(RamExhaustedException) as raised:
        await held(cache, "lease", plan("huge", 4 * MB), wait=1000)
    assert "Raise ram_budget_bytes" in raised.value.remedy
    # Also when a part of it is there already: the rest would never fit beside it.
    await held(cache, "first", plan("a", 2 * MB))
    with pytest.raises(RamExhaustedException) as raised:
        await held(cache, "second", plan("a", 2 * MB), plan("b", 2 * MB), wait=1000)
    assert "Raise ram_budget_bytes" in raised.value.remedy


async def test_what_became_larger_than_estimated_takes_the_place_of_what_is_idle(
    cache: Cache, kiln: Kiln
) -> None:
    await held(cache, "one", plan("a"))
    await held(cache, "two", plan("b"))
    cache.give_back("one")
    kiln.true_bytes["c"] = 2 * MB
    await held(cache, "three", plan("c"))
    assert names(cache) == ["b", "c"]
    assert cache.usage().used == 3 * MB


async def test_what_nobody_waits_for_any_more_goes_again_when_it_became_too_large(kiln: Kiln) -> None:
    told: list[tuple[Stage, bool]] = []
    cache = ram_cache(kiln, budget_bytes=3 * MB, on_change=lambda r, gone: told.append((r.stage, gone)))
    kiln.gate.clear()
    kiln.true_bytes["a"] = 4 * MB
    task = asyncio.create_task(held(cache, "lease", plan("a")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    kiln.gate.set()
    await asyncio.gather(*cache._builds.values())
    assert names(cache) == []
    assert told[-2:] == [(Stage.RESIDENT, False), (Stage.EVICTING, True)], "its end is the last that is told"
    await cache.close()


async def test_memory_is_freed_beside_the_event_loop(cache: Cache, kiln: Kiln) -> None:
    await held(cache, "lease", plan("a"))
    cache.give_back("lease")
    cache.evict("a")
    await asyncio.get_running_loop().shutdown_default_executor()
    (closer,) = kiln.closed_by
    assert closer != threading.get_ident()


async def test_a_build_that_fails_is_not_repeated_until_its_pause_is_over(
    cache: Cache, kiln: Kiln, clock: Clock
) -> None:
    kiln.broken.add("a")
    with pytest.raises(InvalidModelException):
        await held(cache, "one", plan("b"), plan("a"))
    resident = {r.id: r for r in cache.tier.residents()}
    assert resident["a"].stage is Stage.FAILED
    assert not resident["b"].leases
    kiln.broken.clear()
    with pytest.raises(InvalidModelException) as again:
        await held(cache, "two", plan("a"))
    assert again.value.retry_after == pytest.approx(2.0, abs=0.1)
    assert again.value.metadata == {"path": "x", "component": "tiny"}
    assert again.value.message == "tiny: a is broken"
    clock.now += 2.1
    await held(cache, "three", plan("a"))
    assert cache.usage().used == 2 * MB


async def test_a_failure_of_what_models_share_is_told_to_each_by_its_own_name(
    cache: Cache, kiln: Kiln
) -> None:
    kiln.broken.add("shared")
    with pytest.raises(InvalidModelException):
        await held(cache, "one", plan("shared", key="one"))
    facts = ModelFacts("other", "sd-1", "vae", Path("/models/other"), "hash")
    with pytest.raises(InvalidModelException) as raised:
        await held(cache, "two", replace(plan("shared", key="two"), model=facts))
    assert raised.value.message.startswith("other is the same component as tiny, whose build failed: ")
    assert raised.value.metadata == {"path": "/models/other", "component": "other"}


def at(path: str, key: str) -> Plan:
    """A plan for a component that several models have, each at a path of its own."""
    file = SourceFile(Path(path), key, 1, "signature", 0, True)
    return replace(plan("shared", key=key), files=(file,))


async def test_files_that_are_gone_are_one_models_and_another_with_the_same_component_is_tried_at_once(
    cache: Cache, kiln: Kiln, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(plan: Plan, progress: BuildProgress) -> Built:
        raise ModelNotFoundException("it has gone")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(kiln, "build", gone)
        with pytest.raises(ModelNotFoundException):
            await held(cache, "one", at("/a", "one"))
    with pytest.raises(ModelNotFoundException):
        await held(cache, "one", at("/a", "one"))
    await held(cache, "two", at("/b", "two"))
    assert [one.stage for one in cache.tier.residents()] == [Stage.RESIDENT]


async def test_who_waits_for_a_build_that_misses_another_models_files_gets_one_from_its_own(
    cache: Cache, kiln: Kiln, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_build = kiln.build

    async def build(plan: Plan, progress: BuildProgress) -> Built:
        await asyncio.sleep(0)
        if plan.files[0].path == Path("/a"):
            raise ModelNotFoundException("it has gone")
        return await true_build(plan, progress)

    monkeypatch.setattr(kiln, "build", build)
    first = asyncio.create_task(held(cache, "one", at("/a", "one")))
    await asyncio.sleep(0)
    await held(cache, "two", at("/b", "two"))
    with pytest.raises(ModelNotFoundException):
        await first
    assert [list(one.leases) for one in cache.tier.residents()] == [["two"]]


async def test_what_this_host_refuses_is_no_fault_of_the_model_and_is_logged(
    cache: Cache, kiln: Kiln, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def build(plan: Plan, progress: BuildProgress) -> Built:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(kiln, "build", build)
    with pytest.raises(ModelkeepError, match="cannot be built here: Input/output error") as failed:
        await held(cache, "one", plan("a"))
    assert failed.value.reason == "INTERNAL"
    assert [record.exc_info is not None for record in caplog.records] == [True]


async def test_each_failure_doubles_the_pause(cache: Cache, kiln: Kiln, clock: Clock) -> None:
    kiln.broken.add("a")
    pauses: list[float] = []
    for _ in range(7):
        with pytest.raises(InvalidModelException):
            await held(cache, "one", plan("a"))
        (resident,) = cache.tier.residents()
        pauses.append(round(resident.retry_at - clock.now))
        clock.now = resident.retry_at
    assert pauses == [2, 4, 8, 16, 32, 60, 60]


async def test_mapped_memory_is_not_dropped_to_make_room_and_is_a_zombie_when_evicted(
    cache: Cache,
) -> None:
    await held(cache, "lease", plan("a", 2 * MB))
    (resident,) = cache.tier.residents()
    assert resident.built is not None
    fd = resident.built.memory.open_for_holder()
    mapping = mmap.mmap(fd, 2 * MB, mmap.MAP_PRIVATE, mmap.PROT_READ)
    os.close(fd)
    cache.give_back("lease")
    with pytest.raises(RamExhaustedException) as raised:
        await held(cache, "other", plan("b", 2 * MB))
    assert "mapped" in raised.value.message
    evicted = cache.evict("a")
    assert (evicted.freed, evicted.zombie) == (0, 2 * MB)
    assert cache.usage().zombie == 2 * MB
    with pytest.raises(RamExhaustedException):
        await held(cache, "other", plan("b", 2 * MB))
    mapping.close()
    cache.sweep()
    await held(cache, "other", plan("b", 2 * MB))
    assert cache.usage().zombie == 0


async def test_eviction_spares_what_is_leased_and_what_another_model_leases(cache: Cache) -> None:
    await held(cache, "lease", plan("shared", key="one"))
    with pytest.raises(ModelInUseException) as raised:
        cache.evict("one")
    assert raised.value.metadata["holders"] == "lease"
    await held(cache, "short", plan("shared", key="two"))
    cache.give_back("short")
    assert cache.evict("two").residents == []
    (resident,) = cache.tier.residents()
    assert {ref.key for ref in resident.refs} == {"one"}
    assert cache.evict("nobody").residents == []
    cache.give_back("lease")
    assert cache.evict("one").freed == MB
    assert names(cache) == []


async def test_what_is_only_a_removed_models_goes_and_what_is_leased_goes_with_its_lease(
    cache: Cache,
) -> None:
    await held(cache, "short", plan("a"), plan("shared", key="one"))
    await held(cache, "short", plan("shared", key="two"))
    await held(cache, "lease", plan("leased"))
    cache.give_back("short")
    for key in ("a", "one", "leased"):
        cache.model_removed(key)
    assert names(cache) == ["leased", "shared"]
    leased, shared = cache.tier.residents()
    assert (leased.is_orphan, shared.is_orphan) == (True, False)
    assert {ref.key for ref in shared.refs} == {"two"}
    assert cache.tier.known_keys() == {"two", "leased"}
    cache.give_back("lease")
    assert names(cache) == ["shared"]


async def test_a_model_that_is_there_again_is_not_removed_any_more(cache: Cache) -> None:
    await held(cache, "lease", plan("a"))
    cache.model_removed("a")
    await held(cache, "other", plan("a"))
    for lease in ("lease", "other"):
        cache.give_back(lease)
    assert names(cache) == ["a"]


async def test_what_is_being_loaded_when_its_model_is_removed_goes_when_nobody_waits_for_it(
    cache: Cache, kiln: Kiln
) -> None:
    kiln.gate.clear()
    task = asyncio.create_task(held(cache, "lease", plan("a")))
    await asyncio.sleep(0)
    cache.model_removed("a")
    kiln.gate.set()
    await task
    assert [(one.id, one.is_orphan) for one in cache.tier.residents()] == [("a", True)]
    cache.give_back("lease")
    assert names(cache) == []


async def test_what_an_eviction_would_do_is_told_and_not_done(cache: Cache) -> None:
    await held(cache, "lease", plan("a", 2 * MB))
    with pytest.raises(ModelInUseException):
        cache.evict("a", validate_only=True)
    cache.give_back("lease")
    told = cache.evict("a", validate_only=True)
    assert (told.freed, told.zombie, names(cache)) == (2 * MB, 0, ["a"])
    assert cache.evict("a").freed == 2 * MB
    assert names(cache) == []


async def test_a_request_that_is_cancelled_holds_nothing_and_the_build_goes_on(
    cache: Cache, kiln: Kiln
) -> None:
    kiln.gate.clear()
    task = asyncio.create_task(held(cache, "lease", plan("a")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    kiln.gate.set()
    await held(cache, "other", plan("a"))
    assert kiln.built == ["a"]
    (resident,) = cache.tier.residents()
    assert list(resident.leases) == ["other"]


async def test_a_request_that_is_cancelled_twice_in_any_two_moments_holds_nothing(kiln: Kiln) -> None:
    async def meet(cache: Cache, tell: Tell) -> None:
        await Loads(Drawer(), cache, Drain()).meet(want("lease", plan("a")), 0.0, tell)

    async def tell(news: News) -> None:
        await asyncio.sleep(0)

    for first, second in itertools.product(range(8), range(1, 4)):
        kiln.gate.clear()
        cache = ram_cache(kiln, budget_bytes=3 * MB)
        task = asyncio.create_task(meet(cache, tell))
        await asyncio.sleep(0.001)
        kiln.gate.set()
        for pause in (first, second):
            for _ in range(pause):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait({task})
        await asyncio.sleep(0.001)
        (resident,) = cache.tier.residents()
        # Whoever finished before the first cancel has what was asked for, and gives it back later.
        assert task.cancelled() != bool(resident.leases), (first, second)
        await cache.close()


async def test_only_so_many_wait_for_room(cache: Cache) -> None:
    await held(cache, "a", plan("a", 3 * MB))
    waits = [asyncio.ensure_future(held(cache, f"w{n}", plan("b"), wait=60)) for n in range(256)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFullException) as raised:
        await held(cache, "late", plan("b"), wait=60)
    assert raised.value.metadata["limit"] == "256"
    with pytest.raises(RamExhaustedException):  # who does not wait is told as ever
        await held(cache, "now", plan("b"))
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    assert cache.usage().waiting == 0


async def test_of_very_many_holders_some_are_named_and_all_are_counted(cache: Cache) -> None:
    for number in range(500):
        await held(cache, f"lease-{number:04}", plan("a", 3 * MB))
    named, count = cache.tier.holders()
    assert (named, count) == ([f"lease-{n:04}" for n in range(16)], 500)
    with pytest.raises(RamExhaustedException, match="and 484 more") as short:
        await held(cache, "b", plan("b"))
    with pytest.raises(ModelInUseException, match="and 484 more") as used:
        cache.evict("a")
    for raised in (short, used):
        assert raised.value.metadata["holders"].split(",") == named


async def test_failures_and_names_are_remembered_within_a_bound(
    cache: Cache, kiln: Kiln, clock: Clock
) -> None:
    kiln.broken = {f"x{n}" for n in range(1100)}
    for name in sorted(kiln.broken):
        with pytest.raises(InvalidModelException):
            await held(cache, "h", plan(name, 1))
        clock.now += 0.001
    cache.sweep()
    assert len(names(cache)) == 1000
    for number in range(400):
        await held(cache, f"l{number}", plan("a", key=f"k{number}"))
        if number:
            cache.give_back(f"l{number}")
    (resident,) = [r for r in cache.tier.residents() if r.stage is Stage.RESIDENT]
    assert len(resident.refs) == 256
    assert {"k0", "k399"} <= {ref.key for ref in resident.refs}, "a lease's, and the last"
