"""The RAM tier: components by identity, within a budget, least recently used first out.

Rules:

* A component that a lease holds, or that a request waits for, is never dropped.
* A request for several components gets all or none; while it waits for room it holds nothing, so two
  requests cannot block each other.
* Each component is built once, however many ask for it at the same time.
* Memory that some process still maps is not free, whether or not a lease names it. Such a component is
  not dropped to make room, for nothing would be gained; dropped by request, its bytes are *zombie* bytes
  until the last mapping goes, and count against the budget.
* A build that failed is not tried again for a while, which grows with each failure; until then the same
  error answers, and says when.
* Waiting requests are looked at in the order they came, and each that fits goes on; one that does not
  fit does not hold up those behind it. Its own ``max_wait`` bounds how long it can be passed over.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Collection, Sequence

from modelkeep.backoff import doubled
from modelkeep.exceptions import (
    CancelledException,
    ModelInUseException,
    ModelkeepError,
    QueueFullException,
    RamExhaustedException,
)
from modelkeep_loader.domain.components import Builder, ComponentRef, Memory, Plan, Resident, Stage
from modelkeep_loader.domain.demand import Demand, Eviction, Usage

_log = logging.getLogger(__name__)

_FIRST_COOLDOWN_S = 2.0
_LONGEST_COOLDOWN_S = 60.0
_FORGET_FAILED_S = 600.0
#: Failures that are remembered, and requests that wait.
_MOST_FAILED, _MOST_WAITING = 1000, 256
#: Of the leases that hold something, as many are named.
MOST_NAMED = 16


class RamCache:
    """The tier. Belongs to one event loop; nothing in it blocks.

    Args:
        builder: Makes components.
        budget_bytes: What residents, builds and zombies may take together.
        on_change: Called with a resident whose stage or leases changed, and whether it is gone.
        on_progress: Called with a resident whose build went on.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970.
    """

    def __init__(
        self,
        builder: Builder,
        *,
        budget_bytes: int,
        on_change: Callable[[Resident, bool], None] = lambda resident, gone: None,
        on_progress: Callable[[Resident], None] = lambda resident: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.budget_bytes = budget_bytes
        self._builder = builder
        self._on_change = on_change
        self._on_progress = on_progress
        self._clock = clock
        self._wall_clock = wall_clock
        self._residents: dict[str, Resident] = {}
        self._builds: dict[str, asyncio.Task[None]] = {}
        self._zombies: list[Memory] = []
        self._waiting: list[Demand] = []

    # What there is.

    def residents(self) -> list[Resident]:
        """All of them, ordered by id."""
        return [self._residents[key] for key in sorted(self._residents)]

    def usage(self) -> Usage:
        """The bytes as they are now."""
        alive = [r for r in self._residents.values() if r.stage is not Stage.FAILED]
        return Usage(
            budget=self.budget_bytes,
            used=sum(r.size_bytes for r in alive),
            leased=sum(r.size_bytes for r in alive if r.leases),
            zombie=sum(memory.size_bytes for memory in self._zombies),
            residents=sum(r.stage is Stage.RESIDENT for r in alive),
            waiting=len(self._waiting),
        )

    # Getting and giving back.

    async def acquire(self, demand: Demand, *, max_wait_s: float = 0.0) -> list[Resident]:
        """Make every component of a demand resident and hold it for ``demand.holder``; all or none.

        Returns:
            The residents, in the order of the plans.

        Raises:
            RamExhaustedException: There is no room, and none came within `max_wait_s`.
            QueueFullException: So many wait for room already that it may not.
            ModelkeepError: What the build of one of them raised, now or a short while ago.
        """
        try:
            return await self._acquire(demand, max_wait_s)
        except ModelkeepError:
            found = zip(demand.plans, demand.residents, strict=False)
            if not any(resident.failed_elsewhere(plan) for plan, resident in found):
                raise
        # Another model's files were missing that have, or had, the same contents.
        return await self._acquire(demand, max_wait_s)

    async def _acquire(self, demand: Demand, max_wait_s: float) -> list[Resident]:
        await self._admit_or_wait(demand, max_wait_s)
        try:
            for plan, resident in zip(demand.plans, demand.residents, strict=True):
                # Shielded: others may wait for the same build.
                if (build := self._builds.get(resident.id)) is not None:
                    await asyncio.shield(build)
                if resident.stage is not Stage.RESIDENT:
                    raise self._failure(resident, plan)
        except BaseException:
            self.give_back(demand.holder)
            raise
        return demand.residents

    def take_now(self, demand: Demand) -> list[Resident] | None:
        """As :meth:`acquire`, if everything is resident already; otherwise None, and nothing happens."""
        found = [self._residents.get(plan.id) for plan in demand.plans]
        if not all(r is not None and r.stage is Stage.RESIDENT for r in found):
            return None
        self._admit(demand)
        return demand.residents

    def give_back(self, holder: str) -> None:
        """Let go of everything that a lease or request holds."""
        now, wall = self._clock(), self._wall_clock()
        for resident in list(self._residents.values()):
            if resident.leases.pop(holder, None) is not None:
                resident.last_use, resident.use_time = now, wall
                self._on_change(resident, False)
            resident.pins.discard(holder)
            self._drop_orphan(resident)
        self._wake()

    def evict(self, key: str, submodel: str = "", *, validate_only: bool = False) -> Eviction:
        """Drop a model's components, or one of them; or only say what that would do.

        A component that only other models' leases hold stays, and no longer counts as this model's.

        Raises:
            ModelInUseException: A lease of this model holds one, or one is being loaded; nothing was
                dropped.
        """
        mine = {
            r: {ref for ref in r.refs if ref.key == key and submodel in ("", ref.submodel)}
            for r in self._residents.values()
        }
        mine = {r: refs for r, refs in mine.items() if refs}
        holders = {lease for r in mine for lease, keys in r.leases.items() if key in keys}
        loading = [r for r in mine if r.pins or r.id in self._builds]
        if holders or loading:
            named = heapq.nsmallest(MOST_NAMED, holders)
            what = f"It is held by {_some(named, len(holders))}" if holders else "It is being loaded"
            raise ModelInUseException(
                f"The model {key} is in use. {what}.",
                metadata={"key": key, "holders": ",".join(named)},
                remedy="" if holders else "Try again when it is loaded.",
            )
        dropped = [r for r in mine if not r.leases]
        held = {r: r.size_bytes for r in dropped if r.built is not None}
        zombie = sum(size for r, size in held.items() if r.built is not None and r.built.memory.in_use())
        if not validate_only:
            for resident, refs in mine.items():
                self._forget(resident, refs)
            self._wake()
        return Eviction(dropped, sum(held.values()) - zombie, zombie)

    def model_removed(self, key: str) -> None:
        """A model is no more. What is only its own goes: now, or with the last lease on it."""
        for resident in list(self._residents.values()):
            refs = [ref for ref in resident.refs if ref.key == key]
            if not refs:
                continue
            resident.removed.add(key)
            if not resident.is_orphan and not resident.wanted:
                for ref in refs:
                    del resident.refs[ref]
                resident.removed.discard(key)
            self._on_change(resident, False)
            self._drop_orphan(resident)
        self._wake()

    def known_keys(self) -> set[str]:
        """Keys of the models that residents were asked for by."""
        return {ref.key for resident in self._residents.values() for ref in resident.refs}

    def sweep(self) -> None:
        """Notice what changes without an event: memory that nobody maps any more, old failures."""
        still: list[Memory] = []
        for memory in self._zombies:
            if memory.in_use():
                still.append(memory)
            else:
                _let_go(memory)
        self._zombies = still
        now = self._clock()
        failed = [r for r in self._residents.values() if r.stage is Stage.FAILED]
        surplus = len(failed) - _MOST_FAILED
        for place, resident in enumerate(sorted(failed, key=lambda r: r.retry_at)):
            if place < surplus or now > resident.retry_at + _FORGET_FAILED_S:
                self._drop(resident)
        self._wake()

    async def close(self) -> None:
        """Stop building and let go of all memory; mapped memory lives on in its processes."""
        for task in list(self._builds.values()):
            task.cancel()
        await asyncio.gather(*self._builds.values(), return_exceptions=True)
        for resident in self._residents.values():
            if resident.built is not None:
                resident.built.memory.close()
        for memory in self._zombies:
            memory.close()
        self._residents.clear()
        self._zombies.clear()

    # Admission.

    async def _admit_or_wait(self, demand: Demand, max_wait_s: float) -> None:
        if self._admit(demand):
            return
        if max_wait_s > 0 and len(self._waiting) >= _MOST_WAITING:
            raise QueueFullException(
                f"{_MOST_WAITING} requests wait for room in memory already, as many as may.",
                metadata={"limit": str(_MOST_WAITING)},
                retry_after=1.0,
                remedy="Try again when some leases have ended.",
            )
        deadline = self._clock() + max_wait_s
        self._waiting.append(demand)
        try:
            while (left := deadline - self._clock()) > 0:
                demand.wake.clear()
                try:
                    async with asyncio.timeout(left):
                        await demand.wake.wait()
                except TimeoutError:
                    break
                if self._admit(demand):
                    return
        finally:
            self._waiting.remove(demand)
        raise self._exhausted(demand)

    def _admit(self, demand: Demand) -> bool:
        now = self._clock()
        plans = {plan.id: plan for plan in demand.plans}
        missing: list[Plan] = []
        for plan in plans.values():
            resident = self._residents.get(plan.id)
            if resident is None:
                missing.append(plan)
            elif resident.stage is Stage.FAILED:
                if now < resident.retry_at and not resident.failed_elsewhere(plan):
                    raise self._failure(resident, plan)
                missing.append(plan)
        need = sum(plan.size_bytes for plan in missing)
        if not self._make_room(need, plans.keys(), demand):
            return False
        keys = {
            plan.id: frozenset(p.ref.key for p in demand.plans if p.id == plan.id) for plan in plans.values()
        }
        for plan in missing:
            self._start(plan, now)
        for plan in demand.plans:
            resident = self._residents[plan.id]
            resident.remember(plan)
            resident.last_use, resident.use_time = now, self._wall_clock()
            if demand.is_lease:
                resident.leases[demand.holder] = keys[plan.id]
            else:
                resident.pins.add(demand.holder)
            self._on_change(resident, False)
        demand.residents = [self._residents[plan.id] for plan in demand.plans]
        demand.bytes_short = 0
        return True

    def _make_room(self, need: int, keep: Collection[str], demand: Demand) -> bool:
        short = need - self._free_bytes()
        if need == 0 or short <= 0:
            return True
        victims = self._idle(short, keep)
        short -= sum(resident.size_bytes for resident in victims)
        if short > 0:
            demand.bytes_short = short
            there = (r for r in self._residents.values() if r.id in keep and r.stage is not Stage.FAILED)
            if need + sum(r.size_bytes for r in there) > self.budget_bytes:
                raise self._exhausted(demand)
            return False
        for resident in victims:
            self._drop(resident)
        return True

    def _free_bytes(self) -> int:
        usage = self.usage()
        return usage.budget - usage.used - usage.zombie

    def _idle(self, wanted: int, keep: Collection[str] = ()) -> list[Resident]:
        """What can be dropped, the least recently used first, until it comes to so many bytes."""
        found: list[Resident] = []
        for resident in sorted(self._residents.values(), key=lambda r: r.last_use):
            if wanted <= 0:
                break
            built = resident.built
            if resident.wanted or resident.id in keep or built is None or built.memory.in_use():
                continue
            found.append(resident)
            wanted -= resident.size_bytes
        return found

    def holders(self) -> tuple[list[str], int]:
        """Leases that hold memory: some, by name, and how many there are."""
        found = {lease for r in self._residents.values() for lease in r.leases}
        return heapq.nsmallest(MOST_NAMED, found), len(found)

    def _exhausted(self, demand: Demand) -> RamExhaustedException:
        usage, (holders, count) = self.usage(), self.holders()
        if sum({plan.id: plan.size_bytes for plan in demand.plans}.values()) > self.budget_bytes:
            why = "the whole budget is smaller than what was asked for"
            remedy = "Raise ram_budget_bytes of LoaderService, or ask for less: fewer components, float16."
        elif holders:
            why = f"the rest is held by {_some(holders, count)}"
            remedy = "Wait with max_wait, end leases (RevokeLease ends any), or raise ram_budget_bytes."
        else:
            why = "the rest is being loaded for others, or still mapped by processes without a lease"
            remedy = "Wait with max_wait, end the processes that map it, or raise ram_budget_bytes."
        return RamExhaustedException(
            f"There is no room: {demand.bytes_short:,} bytes of {usage.budget:,} are missing; {why}.",
            metadata={
                "bytes_short": str(demand.bytes_short),
                "budget_bytes": str(usage.budget),
                "holders": ",".join(holders),
            },
            retry_after=1.0,
            remedy=remedy,
        )

    # Building and dropping.

    def _start(self, plan: Plan, now: float) -> None:
        before = self._residents.get(plan.id)
        resident = Resident(
            plan, Stage.QUEUED, plan.size_bytes, now, failures=before.failures if before is not None else 0
        )
        self._residents[plan.id] = resident
        task = asyncio.get_running_loop().create_task(self._build(resident), name=f"build {plan.id}")
        self._builds[plan.id] = task

    async def _build(self, resident: Resident) -> None:
        started = self._clock()

        def progress(stage: Stage, done: int) -> None:
            if resident.stage is not stage:
                resident.stage = stage
                self._on_change(resident, False)
            resident.bytes_done = max(resident.bytes_done, done)
            self._on_progress(resident)

        try:
            built = await self._builder.build(resident.plan, progress)
        except asyncio.CancelledError:
            resident.error = CancelledException("The loader is shutting down.")
            resident.stage = Stage.FAILED
            raise
        except Exception as error:  # whatever a build raises is the answer to those who wait for it
            resident.failures += 1
            pause = doubled(resident.failures, _FIRST_COOLDOWN_S, _LONGEST_COOLDOWN_S)
            if isinstance(error, ModelkeepError) and error.retry_after == 0:
                pause = 0.0  # the next try is another one
            resident.retry_at = self._clock() + pause
            if not isinstance(error, ModelkeepError):  # of this host or this code, not of the files
                _log.exception("building %s failed", resident.id)
                said = error.strerror if isinstance(error, OSError) else type(error).__name__
                error = ModelkeepError(f"The component cannot be built here: {said}.")
            resident.error = error
            resident.stage = Stage.FAILED
        else:
            resident.built = built
            resident.size_bytes = resident.bytes_done = built.memory.size_bytes
            resident.load_seconds = self._clock() - started
            resident.load_time = self._wall_clock()
            resident.error, resident.failures = None, 0
            resident.stage = Stage.RESIDENT
        finally:
            self._builds.pop(resident.id, None)
        self._on_change(resident, False)
        self._drop_orphan(resident)
        # It may have become larger than was estimated.
        for victim in self._idle(-self._free_bytes()):
            self._drop(victim)
        self._wake()

    def _failure(self, resident: Resident, plan: Plan) -> ModelkeepError:
        wait = max(0.0, resident.retry_at - self._clock())
        return resident.failure(plan, round(wait, 3) or None)

    def _forget(self, resident: Resident, refs: Collection[ComponentRef]) -> None:
        """It no longer counts as these; dropped, unless a lease of another model holds it."""
        if resident.leases:
            for ref in refs:
                resident.refs.pop(ref, None)
            self._on_change(resident, False)
        else:
            self._drop(resident)

    def _drop_orphan(self, resident: Resident) -> None:
        if resident.is_orphan and not resident.wanted and resident.id not in self._builds:
            self._drop(resident)

    def _drop(self, resident: Resident) -> None:
        if resident.stage is not Stage.FAILED:
            resident.stage = Stage.EVICTING
        self._residents.pop(resident.id, None)
        if resident.built is not None:
            memory = resident.built.memory
            if memory.in_use():
                self._zombies.append(memory)
            else:
                _let_go(memory)
        self._on_change(resident, True)

    def _wake(self) -> None:
        for demand in self._waiting:
            demand.wake.set()


def _some(names: Sequence[str], count: int) -> str:
    shown = f"the lease{'s' if count > 1 else ''} {', '.join(names)}"
    return shown if count == len(names) else f"{shown} and {count - len(names)} more"


def _let_go(memory: Memory) -> None:
    """Close it in a thread: the kernel takes some 45 ms a GB to free it, and no grant need wait for that."""
    asyncio.get_running_loop().run_in_executor(None, memory.close)
