"""Loads: what is asked for is worked out and made resident, and whoever asked hears how it goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.caches import Caches
from modelkeep_loader.domain.components import ComponentRef, Plan
from modelkeep_loader.domain.demand import NO_TERMS, Demand, Terms
from modelkeep_loader.domain.digests import Reading
from modelkeep_loader.domain.drain import Drain
from modelkeep_loader.domain.leases import LeaseTable
from modelkeep_loader.domain.placement import Placement
from modelkeep_loader.domain.requests import Identifying, Loading, News, Queued, Tell

#: Seconds that working out what to load may take before there is news of it.
_PLAN_S: Final = 0.15


class Plans(Protocol):
    """Makes plans of what callers name."""

    async def plan(self, refs: Sequence[ComponentRef], reading: Reading | None = None) -> list[Plan]:
        """See :meth:`modelkeep_loader.domain.plan.Planner.plan`."""
        ...

    async def outline(self, refs: Sequence[ComponentRef]) -> list[Plan]:
        """See :meth:`modelkeep_loader.domain.plan.Planner.outline`."""
        ...

    def distrust(self, plans: Sequence[Plan]) -> None:
        """See :meth:`modelkeep_loader.domain.plan.Planner.distrust`."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class Loads:
    """Works demands out, and meets them. Belongs to one event loop.

    Args:
        planner: Makes plans of what callers name.
        cache: Holds the components.
        drain: Ends what waits here.
        placement: Says which device a component goes to; without it none goes anywhere.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        planner: Plans,
        cache: Cache | Caches,
        drain: Drain,
        placement: Placement | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._placement = placement
        self._planner = planner
        self._cache = cache
        self._drain = drain
        self._clock = clock
        self._loads = 0

    def on(self, cache: Cache) -> Loads:
        """The same for another tier."""
        return Loads(self._planner, cache, self._drain, self._placement, self._clock)

    async def demand(
        self,
        refs: Sequence[ComponentRef],
        tell: Tell | None,
        *,
        is_lease: bool,
        terms: Terms = NO_TERMS,
        in_ram: bool = False,
    ) -> Demand:
        """Work out what is wanted, and tell of the reading that this takes. ``in_ram``: on no accelerator.

        Raises:
            FieldInvalidException, DeviceUnavailableException: It cannot be where it is wanted.
            ModelkeepError: See :meth:`modelkeep_loader.domain.plan.Planner.plan`.
        """
        if self._placement is not None:
            self._placement.check(refs, in_ram=in_ram)
        reading = Reading()
        work = asyncio.ensure_future(self._planner.plan(refs, reading))
        await self._drain.follow(work, tell, lambda: Identifying(refs, reading), patience_s=_PLAN_S)
        self._loads += 1
        holder = LeaseTable.new_id() if is_lease else f"load-{self._loads}"
        demand = Demand(work.result(), holder, is_lease=is_lease, terms=terms)
        if self._placement is not None and not in_ram:
            demand.wanted = demand.plans
            self._placement.place(demand)
        return demand

    async def again(self, demand: Demand, tell: Tell | None) -> Demand:
        """What is wanted, now that files have become others since it was worked out."""
        self._planner.distrust(demand.plans)
        refs = [plan.ref for plan in demand.plans]
        in_ram = self._placement is not None and not demand.wanted
        return await self.demand(refs, tell, is_lease=demand.is_lease, terms=demand.terms, in_ram=in_ram)

    async def meet(self, demand: Demand, max_wait_s: float, tell: Tell | None) -> None:
        """Make a demand's components resident, and tell of it while it takes time. Holds nothing if it
        raises.
        """
        if self._cache.take_now(demand) is not None:
            return
        done_before, when = 0, self._clock()

        def news() -> News:
            nonlocal done_before, when
            done, now = sum(r.bytes_done for r in demand.residents), self._clock()
            rate = int((done - done_before) / (now - when)) if now > when and done > done_before else 0
            done_before, when = done, now
            return Loading(demand, rate) if demand.residents else Queued(demand, *self._cache.holders(demand))

        work = asyncio.ensure_future(self._cache.acquire(demand, max_wait_s=max_wait_s))
        try:
            await self._drain.follow(work, tell, news)
            work.result()
        except BaseException:
            # Nobody else knows the holder of a lease that never was.
            self._cache.give_back(demand.holder)
            raise
