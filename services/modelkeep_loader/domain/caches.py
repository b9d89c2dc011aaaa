"""RAM and accelerators together: what a request wants of all of them it gets, or nothing.

A component on an accelerator comes straight from its files (:mod:`modelkeep_loader.domain.straight`), or is a
copy of one in RAM, which is there while it is copied. So a request for a copy is admitted where both have
room, and in both at once; while it waits for either it holds nothing, and no two requests can block each
other. What is copied is let go of in RAM once the copy is there; where only a part
of it is on the device, the lease keeps all of it in RAM as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from modelkeep.exceptions import ModelkeepError, VramExhaustedException
from modelkeep_loader.domain.cache import Cache, woken
from modelkeep_loader.domain.components import CPU, Plan, Resident, Stage
from modelkeep_loader.domain.demand import Demand, Terms
from modelkeep_loader.domain.devices import Device, Devices
from modelkeep_loader.domain.placement import Placement

#: Seconds after which a request looks again at devices that had less room than was known.
_AGAIN_S: Final = 0.5


class Part(NamedTuple):
    """What a demand wants of one of the caches. ``device`` is None for RAM."""

    cache: Cache
    demand: Demand
    device: Device | None


class Caches:
    """RAM and the accelerators. Belongs to one event loop.

    Args:
        ram: Holds components.
        devices: Hold copies of them.
    """

    def __init__(self, ram: Cache, devices: Devices) -> None:
        self.ram = ram
        self.devices = devices
        self.placement = Placement(devices, ram.tier)
        #: Called with a device that is short of so many bytes, why, and until when they are waited for.
        self.on_shortage: Callable[[Device, int, str, float], None] = lambda device, short, why, until: None

    @property
    def all(self) -> list[Cache]:
        """Every one of them, RAM first."""
        return [self.ram, *(device.cache for device in self.devices.all)]

    def leased_bytes(self) -> int:
        """Bytes that leases hold, in RAM and on accelerators."""
        return sum(cache.tier.usage().leased for cache in self.all)

    def of(self, plan: Plan) -> Cache:
        """The cache that a plan is for."""
        return self.ram if plan.placed is None else self.devices.named(plan.device).cache

    def get(self, plan: Plan) -> Resident | None:
        """The component that a plan is for, if there is one."""
        return self.of(plan).tier.get(plan.id)

    def besides(self, demand: Demand) -> list[Resident]:
        """What a demand keeps in RAM besides its components: those that are on a device in part."""
        parts = [plan.source for plan in demand.plans if plan.placed is not None and plan.placed.part_bytes]
        return [found for plan in parts if (found := self.get(plan)) is not None]

    def holders(self, demand: Demand) -> tuple[list[str], int]:
        """Leases that hold what a demand waits for: some, by name, and how many there are."""
        parts = self._parts(demand)
        short = next((part for part in parts if part.device and demand.bytes_short), parts[0])
        return short.cache.tier.holders()

    async def acquire(self, demand: Demand, *, max_wait_s: float = 0.0) -> list[Resident]:
        """As :meth:`Cache.acquire`, over RAM and all accelerators."""
        if not _is_on_devices(demand):
            return await self.ram.acquire(demand, max_wait_s=max_wait_s)
        until = self.ram.tier.clock() + max_wait_s
        try:
            return await self._acquire(demand, until)
        except ModelkeepError:
            found = zip(demand.plans, demand.residents, strict=False)
            if not any(resident.failed_elsewhere(plan) for plan, resident in found):
                raise
        # Another model's files were missing that have, or had, the same contents.
        return await self._acquire(demand, until)

    def take_now(self, demand: Demand) -> list[Resident] | None:
        """As :meth:`Cache.take_now`."""
        if not _is_on_devices(demand):
            return self.ram.take_now(demand)
        parts = self._parts(demand)
        if not all(part.cache.has(part.demand) for part in parts) or not _fit(parts):
            return None
        return self._admit(demand, parts)

    def hold_on(self, demand: Demand) -> None:
        """As :meth:`Cache.hold_on`, over RAM and all accelerators."""
        for part in self._parts(demand):
            part.cache.hold_on(part.demand)

    def give_back(self, holder: str) -> None:
        """Let go of everything that a lease or request holds."""
        for cache in self.all:
            cache.give_back(holder)

    async def close(self) -> None:
        """Stop loading and let go of all memory."""
        await self.devices.close()
        await self.ram.close()

    async def _acquire(self, demand: Demand, until: float) -> list[Resident]:
        while True:
            demand.residents = []
            parts = await self._admitted(demand, until)
            try:
                for part in parts:
                    await part.cache.arrive(part.demand)
            except VramExhaustedException:
                self.give_back(demand.holder)
                left = until - self.ram.tier.clock()
                if left <= 0:
                    raise
                # Others took of the device since it was measured, or have not let go of what was dropped.
                demand.residents = []
                await woken(demand, min(_AGAIN_S, left))
            except BaseException:
                self.give_back(demand.holder)
                raise
            else:
                for part in parts:
                    part.cache.let_pass(demand.holder, part.demand.passing)
                return demand.residents

    async def _admitted(self, demand: Demand, until: float) -> Sequence[Part]:
        with contextlib.ExitStack() as queues:
            is_waiting = False
            while True:
                await self.devices.measure()
                self.placement.place(demand)
                parts = self._parts(demand)
                if _fit(parts):
                    self._admit(demand, parts)
                    return parts
                left = until - self.ram.tier.clock()
                short = next(part for part in parts if part.demand.bytes_short)
                demand.bytes_short = short.demand.bytes_short
                if left <= 0:
                    raise short.cache.exhausted(short.demand)
                if short.device is not None:
                    why = f"a request for {demand.plans[0].display_name} waits for it"
                    self.on_shortage(short.device, short.demand.bytes_short, why, until)
                if not is_waiting:
                    is_waiting = True
                    for cache in self.all:
                        queues.enter_context(cache.waiting(demand))
                await woken(demand, left)

    def _admit(self, demand: Demand, parts: Sequence[Part]) -> list[Resident]:
        # RAM first: what accelerators let go of takes room there, where some is left.
        for part in parts:
            part.cache.admit(part.demand)
        found = [self.get(plan) for plan in demand.plans]
        demand.residents = [resident for resident in found if resident is not None]
        demand.bytes_short = 0
        return demand.residents

    def _parts(self, demand: Demand) -> list[Part]:
        """What a demand wants of each of the caches."""
        by_device: dict[str, list[Plan]] = {}
        for plan in demand.plans:
            by_device.setdefault(plan.device if plan.placed is not None else CPU, []).append(plan)
        in_ram = by_device.pop(CPU, [])
        kept = {plan.id for plan in in_ram}
        passing: set[str] = set()
        for plan in demand.plans:
            if plan.placed is None:
                continue
            if plan.placed.part_bytes:
                in_ram.append(plan.source)
                kept.add(plan.source.id)
            elif self._is_missing(plan) and not self.devices.goes_straight(plan):
                in_ram.append(plan.source)
                passing.add(plan.source.id)
        first = next(iter(by_device), CPU)
        parts = [Part(self.ram, _part(demand, in_ram, first == CPU, passing - kept), None)]
        for name, plans in by_device.items():
            device = self.devices.named(name)
            parts.append(Part(device.cache, _part(demand, plans, first == name), device))
        return parts

    def _is_missing(self, plan: Plan) -> bool:
        found = self.get(plan)
        return found is None or found.stage is Stage.FAILED


def _is_on_devices(demand: Demand) -> bool:
    return any(plan.placed is not None for plan in demand.plans)


def _fit(parts: Sequence[Part]) -> bool:
    """Whether all of them have room; each notes what it is short of."""
    found = [part.cache.fits(part.demand) for part in parts]
    return all(found)


def _part(
    demand: Demand, plans: Sequence[Plan], has_activations: bool, passing: set[str] | None = None
) -> Demand:
    terms = demand.terms
    return Demand(
        plans,
        demand.holder,
        is_lease=demand.is_lease,
        terms=Terms(terms.activation_bytes if has_activations else 0, terms.keep_alive_s),
        passing=frozenset(passing or ()),
    )
