"""Getting components into a tier and holding them there: who is served, who waits, and what is built.

What may be dropped to make room is the tier's affair (:mod:`modelkeep_loader.domain.tier`). Rules here:

* A request for several components gets all or none, what it wants reserved besides included; while it waits
  for room it holds nothing, so two requests cannot block each other.
* Each component is built once, however many ask for it at the same time.
* A build that failed is not tried again for a while, which grows with each failure; until then the same
  error answers, and says when.
* Waiting requests are looked at in the order they came, and each that fits goes on; one that does not
  fit does not hold up those behind it. Its own ``max_wait`` bounds how long it can be passed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from modelkeep.backoff import doubled
from modelkeep.exceptions import CancelledException, ModelkeepError, QueueFullException
from modelkeep_loader.domain.components import Builder, Built, ComponentRef, Plan, Resident, Stage
from modelkeep_loader.domain.demand import Demand, Eviction, Usage
from modelkeep_loader.domain.shortage import Explain, Shortage, build_outgrown, ram_exhausted
from modelkeep_loader.domain.tier import BUILDS, Tier
from modelkeep_loader.domain.unreadable import busy, is_short

_log = logging.getLogger(__name__)

_FIRST_COOLDOWN_S: Final = 2.0
_LONGEST_COOLDOWN_S: Final = 60.0
_FORGET_FAILED_S: Final = 600.0
#: Failures that are remembered, and requests that wait.
_MOST_FAILED, _MOST_WAITING = 1000, 256


class Cache:
    """A tier that is filled by builds. Belongs to one event loop; nothing in it blocks.

    Args:
        builder: Makes components.
        tier: Holds them.
        on_progress: Called with a resident whose build went on.
        explain: What is said to whom nothing more fits.
    """

    def __init__(
        self,
        builder: Builder,
        tier: Tier,
        *,
        on_progress: Callable[[Resident], None] = lambda resident: None,
        explain: Explain = ram_exhausted,
    ) -> None:
        self.tier = tier
        self._builder = builder
        self._on_progress = on_progress
        self._explain = explain
        self._builds: dict[str, asyncio.Task[None]] = {}
        #: What each build takes besides its component, in bytes, as far as is known.
        self._besides: dict[str, int] = {}
        self._waiting: list[Demand] = []

    def usage(self) -> Usage:
        """The bytes of the tier as they are now, and how many wait."""
        return replace(self.tier.usage(), waiting=len(self._waiting))

    # Getting and giving back.

    async def acquire(self, demand: Demand, *, max_wait_s: float = 0.0) -> list[Resident]:
        """Make every component of a demand resident and hold it for ``demand.holder``; all or none.

        Returns:
            The residents, in the order of the plans.

        Raises:
            RamExhaustedException: There is no room, and none came within `max_wait_s`; of another tier what
                that says.
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
            await self.arrive(demand)
        except BaseException:
            self.give_back(demand.holder)
            raise
        return demand.residents

    async def arrive(self, demand: Demand) -> None:
        """Wait until everything of a demand that was admitted is there.

        Raises:
            ModelkeepError: What the build of one of them raised.
        """
        if demand.terms.activation_bytes:
            await self.tier.freed()
        for plan, resident in zip(demand.plans, demand.residents, strict=True):
            # Shielded: others may wait for the same build.
            if (build := self._builds.get(resident.id)) is not None:
                await asyncio.shield(build)
            if resident.stage is not Stage.RESIDENT:
                raise self._failure(resident, plan)

    def take_now(self, demand: Demand) -> list[Resident] | None:
        """As :meth:`acquire`, if everything is resident already; otherwise None, and nothing happens."""
        return demand.residents if self.has(demand) and self._admit(demand) else None

    def has(self, demand: Demand) -> bool:
        """Whether every component of a demand is resident."""
        found = [self.tier.get(plan.id) for plan in demand.plans]
        return all(r is not None and r.stage is Stage.RESIDENT for r in found)

    def holders(self, demand: Demand) -> tuple[list[str], int]:
        """Leases that hold what a demand waits for: some, by name, and how many there are."""
        return self.tier.holders()

    def hold_on(self, demand: Demand) -> None:
        """A lease of an earlier loader holds on to what it held, all of which is here: it was let in then."""
        self.tier.reserve(demand.holder, demand.terms.activation_bytes)
        for resident_id, keys in _keys_by_id(demand.plans).items():
            resident = self.tier.get(resident_id)
            assert resident is not None, "it is resident"
            resident.leases[demand.holder] = keys
            self.tier.on_change(resident, False)

    def give_back(self, holder: str) -> None:
        """Let go of everything that a lease or request holds."""
        self.tier.reserve(holder, 0)
        for resident in self.tier.residents():
            if resident.leases.pop(holder, None) is None and holder not in resident.loads:
                continue
            resident.loads.discard(holder)
            self.tier.touch(resident)
            self.tier.on_change(resident, False)
            self.tier.drop_orphan(resident)
        self.tier.drop_expired()
        self.wake()

    def let_pass(self, holder: str, ids: Collection[str]) -> None:
        """Let go of some of what a lease or request holds."""
        for resident in filter(None, map(self.tier.get, ids)):
            if resident.leases.pop(holder, None) is None and holder not in resident.loads:
                continue
            resident.loads.discard(holder)
            self.tier.touch(resident)
            self.tier.on_change(resident, False)
            self.tier.drop_orphan(resident)
        self.tier.drop_expired()
        self.wake()

    def evict(self, key: str, submodel: str = "", *, validate_only: bool = False) -> Eviction:
        """See :meth:`Tier.evict`."""
        done = self.tier.evict(key, submodel, validate_only=validate_only)
        self.wake()
        return done

    def evict_idle(self, *, validate_only: bool = False) -> Eviction:
        """See :meth:`Tier.evict_idle`."""
        done = self.tier.evict_idle(validate_only=validate_only)
        self.wake()
        return done

    def model_removed(self, key: str) -> None:
        """See :meth:`Tier.model_removed`."""
        self.tier.model_removed(key)
        self.wake()

    def pin(self, plans: Sequence[Plan]) -> list[ComponentRef]:
        """See :meth:`Tier.pin`."""
        return self.tier.pin(plans)

    def unpin(self, refs: Iterable[ComponentRef], *, exactly: bool = False) -> list[ComponentRef]:
        """See :meth:`Tier.unpin`."""
        found = self.tier.unpin(refs, exactly=exactly)
        self.wake()
        return found

    def sweep(self) -> None:
        """Notice what changes without an event: memory that nobody maps any more, old failures."""
        self.tier.sweep()
        now = self.tier.clock()
        failed = [r for r in self.tier.residents() if r.stage is Stage.FAILED]
        surplus = len(failed) - _MOST_FAILED
        for place, resident in enumerate(sorted(failed, key=lambda r: r.retry_at)):
            if place < surplus or now > resident.retry_at + _FORGET_FAILED_S:
                self.tier.drop(resident)
        self.wake()

    async def close(self) -> None:
        """Stop building and let go of all memory; mapped memory lives on in its processes."""
        for task in list(self._builds.values()):
            task.cancel()
        await asyncio.gather(*self._builds.values(), return_exceptions=True)
        self.tier.close()

    # Admission.

    @contextlib.contextmanager
    def waiting(self, demand: Demand) -> Iterator[None]:
        """While inside, a demand is woken whenever it may fit by now.

        Raises:
            QueueFullException: So many wait already that it may not.
        """
        if len(self._waiting) >= _MOST_WAITING:
            raise QueueFullException(
                f"{_MOST_WAITING} requests wait for room in memory already, as many as may.",
                metadata={"limit": str(_MOST_WAITING)},
                retry_after=1.0,
                remedy="Try again when some leases have ended.",
            )
        self._waiting.append(demand)
        try:
            yield
        finally:
            self._waiting.remove(demand)

    async def _admit_or_wait(self, demand: Demand, max_wait_s: float) -> None:
        if self._admit(demand):
            return
        if max_wait_s > 0:
            deadline = self.tier.clock() + max_wait_s
            with self.waiting(demand):
                while await woken(demand, deadline - self.tier.clock()):
                    if self._admit(demand):
                        return
        raise self.exhausted(demand)

    def _admit(self, demand: Demand) -> bool:
        if not self.fits(demand):
            return False
        self.admit(demand)
        return True

    def fits(self, demand: Demand, keep: Collection[str] = ()) -> bool:
        """Whether there is room for a demand; notes what it is short of, and changes nothing else.

        Args:
            demand: What is wanted.
            keep: Residents that must stay, besides its own.

        Raises:
            ModelkeepError: One of them failed a short while ago, or there never is as much room.
        """
        plans = {plan.id: plan for plan in demand.plans}
        need = self._need(demand, self._missing(plans.values()))
        demand.bytes_short = self.tier.room_for(need, {*plans, *keep}).bytes_short
        if not demand.bytes_short:
            return True
        there = (r for r in map(self.tier.get, plans) if r is not None and r.stage is not Stage.FAILED)
        if need + sum(r.size_bytes for r in there) > self.tier.most_bytes:
            raise self.exhausted(demand)
        return False

    def _need(self, demand: Demand, missing: Collection[Plan]) -> int:
        size = sum(plan.size_bytes for plan in missing)
        return size + self.tier.besides(missing) + demand.terms.activation_bytes

    def admit(self, demand: Demand, keep: Collection[str] = ()) -> None:
        """Hold what is there of a demand that fits, as :meth:`fits` says, and begin the rest."""
        plans = {plan.id: plan for plan in demand.plans}
        missing = self._missing(plans.values())
        short = self.tier.make_room(self._need(demand, missing), {*plans, *keep})
        assert not short, "it fits"
        keys = _keys_by_id(demand.plans)
        there = [r for r in map(self.tier.get, plans) if r is not None and r.stage is Stage.RESIDENT]
        self.tier.count(hits=len(there), misses=len(plans) - len(there))
        for plan in missing:
            self._start(plan)
        self.tier.reserve(demand.holder, demand.terms.activation_bytes)
        found = [(plan, self.tier.get(plan.id)) for plan in demand.plans]
        demand.residents = []
        for plan, resident in found:
            assert resident is not None, "it was there, or was begun"
            self.tier.ask_for(resident, plan, demand.terms.keep_alive_s)
            if demand.is_lease and plan.id not in demand.passing:
                resident.leases[demand.holder] = keys[plan.id]
            else:
                resident.loads.add(demand.holder)
            self.tier.on_change(resident, False)
            demand.residents.append(resident)
        demand.bytes_short = 0

    def _missing(self, plans: Collection[Plan]) -> list[Plan]:
        """What has to be built.

        Raises:
            ModelkeepError: One of them failed a short while ago.
        """
        missing: list[Plan] = []
        for plan in plans:
            resident = self.tier.get(plan.id)
            if resident is None:
                missing.append(plan)
            elif resident.stage is Stage.FAILED:
                if self.tier.clock() < resident.retry_at and not resident.failed_elsewhere(plan):
                    raise self._failure(resident, plan)
                missing.append(plan)
        return missing

    def exhausted(self, demand: Demand) -> ModelkeepError:
        """What is said to whom there is no room for."""
        return self._explain(Shortage(demand, self.usage(), *self.tier.holders()))

    # Building.

    def _start(self, plan: Plan) -> None:
        resident = self.tier.place(plan)
        self._count_besides(resident, plan.build_bytes)
        task = asyncio.get_running_loop().create_task(self._build(resident), name=f"build {plan.id}")
        self._builds[plan.id] = task

    async def _build(self, resident: Resident) -> None:
        started = self.tier.clock()
        outgrown: ModelkeepError | None = None

        def progress(stage: Stage, done: int, private_bytes: int = 0) -> None:
            nonlocal outgrown
            if resident.stage is not stage:
                # The bytes that promoting is done with are others than those that were read.
                resident.bytes_done = done if stage is Stage.PROMOTING else resident.bytes_done
                resident.stage = stage
                self.tier.on_change(resident, False)
            resident.bytes_done = max(resident.bytes_done, done)
            self._on_progress(resident)
            # What is not there yet of the component may be in the build's own memory.
            besides = private_bytes - (resident.size_bytes - resident.bytes_done)
            if besides > self._besides.get(resident.id, besides):
                self._count_besides(resident, besides)
                self.tier.fit()
                if (usage := self.tier.usage()).taken > usage.budget:
                    outgrown = build_outgrown(resident, besides, usage)
                    work.cancel()

        async def build() -> Built:
            await self.tier.freed()
            return await self._builder.build(resident.plan, progress)

        work = asyncio.ensure_future(build())
        try:
            built = await work
        except asyncio.CancelledError:
            if outgrown is not None:
                self._failed(resident, outgrown)
            else:
                resident.error = CancelledException("The loader is shutting down.")
                resident.stage = Stage.FAILED
                raise
        except Exception as error:  # whatever a build raises is the answer to those who wait for it
            self._failed(resident, error)
        else:
            self.tier.settle(resident, built, self.tier.clock() - started)
        finally:
            self._builds.pop(resident.id, None)
            self._besides.pop(resident.id, None)
            self.tier.reserve(BUILDS, max(self._besides.values(), default=0))
        self._settled(resident)

    def _settled(self, resident: Resident) -> None:
        """A build has ended."""
        self.tier.on_change(resident, False)
        self.tier.drop_orphan(resident)
        # It may have become larger than was estimated.
        self.tier.fit()
        self.wake()

    def _count_besides(self, resident: Resident, besides: int) -> None:
        self._besides[resident.id] = besides
        # They are built one by one.
        self.tier.reserve(BUILDS, max(self._besides.values()))

    def _failed(self, resident: Resident, error: Exception) -> None:
        resident.failures += 1
        pause = doubled(resident.failures, _FIRST_COOLDOWN_S, _LONGEST_COOLDOWN_S)
        if isinstance(error, ModelkeepError) and error.retry_after == 0:
            pause = 0.0  # the next try is another one
        resident.retry_at = self.tier.clock() + pause
        if isinstance(error, OSError) and is_short(error):
            error = busy(error)
        if not isinstance(error, ModelkeepError):  # of this host or this code, not of the files
            _log.error("building %s failed", resident.id, exc_info=error)
            said = error.strerror if isinstance(error, OSError) else type(error).__name__
            error = ModelkeepError(f"The component cannot be built here: {said}.")
        resident.error = error
        resident.stage = Stage.FAILED

    def _failure(self, resident: Resident, plan: Plan) -> ModelkeepError:
        wait = max(0.0, resident.retry_at - self.tier.clock())
        return resident.failure(plan, round(wait, 3) or None)

    def wake(self) -> None:
        """Let those who wait look whether they fit by now."""
        for demand in self._waiting:
            demand.wake.set()


def _keys_by_id(plans: Iterable[Plan]) -> dict[str, frozenset[str]]:
    """Components → keys of the models that they are asked for by."""
    found: dict[str, set[str]] = {}
    for plan in plans:
        found.setdefault(plan.id, set()).add(plan.ref.key)
    return {resident_id: frozenset(keys) for resident_id, keys in found.items()}


async def woken(demand: Demand, within_s: float) -> bool:
    """Wait until a demand may fit by now; False if that takes longer than so many seconds."""
    if within_s <= 0:
        return False
    demand.wake.clear()
    try:
        async with asyncio.timeout(within_s):
            await demand.wake.wait()
    except TimeoutError:
        return False
    return True
