"""Leases that let go of an accelerator's memory, and get it back.

A holder that has unmapped what it has on accelerators says so. Its lease goes on, and keeps the same
components in RAM; their copies may be dropped then. When the holder wants to compute again the lease goes
back to the same devices. Nothing is ever taken from under a mapping: where room is needed holders are asked,
and one that does not answer is still a holder.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from modelkeep_loader.domain.caches import Caches
from modelkeep_loader.domain.components import Plan, Resident
from modelkeep_loader.domain.demand import Demand, Terms
from modelkeep_loader.domain.devices import Device
from modelkeep_loader.domain.lease import DemotionAsked, Lease, LeaseEnd
from modelkeep_loader.domain.leases import LeaseTable


class Offers(Protocol):
    """Knows what of an accelerator RAM may read back."""

    def offer(self, resident: Resident) -> None:
        """The next build in RAM of what this is a copy of may read it back."""
        ...

    def withdraw(self, resident: Resident) -> None:
        """It may do so no more."""
        ...


class Demotions:
    """Demotes and promotes leases. Belongs to one event loop.

    Args:
        leases: All of them.
        caches: What they hold.
        offers: Told of copies that RAM may need.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970.
    """

    def __init__(
        self,
        leases: LeaseTable,
        caches: Caches,
        offers: Offers | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._leases = leases
        self._caches = caches
        self._offers = offers
        self._clock = clock
        self._wall_clock = wall_clock
        caches.on_shortage = self.ask
        caches.devices.on_lost = self._lost

    async def demote(self, lease: Lease) -> None:
        """Keep in RAM what a lease has on accelerators, and there no more.

        Raises:
            RamExhaustedException: RAM has no room for what is no longer in it; the lease stays as it is.
            ModelkeepError: What building that raised.
        """
        copies = [plan for plan in lease.plans if plan.placed is not None]
        if lease.demoted or not copies:
            return
        ram, passing = self._caches.ram, f"{lease.id} demoting"
        sources = list({plan.source.id: plan.source for plan in copies}.values())
        offered = [r for r in lease.residents if r.on_device is not None]
        for resident in offered:
            if self._offers is not None:
                self._offers.offer(resident)
        try:
            await ram.acquire(Demand(sources, passing, is_lease=False))
            if lease.demoted or lease.ended.is_set():
                return
            ram.admit(Demand(sources, lease.id))
        finally:
            for resident in offered:
                if self._offers is not None:
                    self._offers.withdraw(resident)
            ram.give_back(passing)
        for device in self._caches.devices.all:
            device.cache.give_back(lease.id)
        lease.residents = [
            there for plan in lease.plans if (there := self._caches.ram.tier.get(plan.source.id)) is not None
        ]
        self._leases.demoted(lease)

    async def promote(self, lease: Lease, max_wait_s: float) -> None:
        """Bring a demoted lease back to its accelerators.

        Raises:
            VramExhaustedException, RamExhaustedException: There is no room, and none came within
                `max_wait_s`.
            DeviceUnavailableException: A device is gone.
            ModelkeepError: What copying raised.
        """
        if not lease.demoted:
            return
        copies = [plan for plan in lease.plans if plan.placed is not None]
        for plan in copies:
            self._caches.devices.candidates(plan.device)
        terms = Terms(activation_bytes=lease.activation_bytes)
        passing = Demand(copies, f"{lease.id} promoting", is_lease=False, terms=terms)
        await self._caches.acquire(passing, max_wait_s=max_wait_s)
        try:
            if not lease.demoted or lease.ended.is_set():
                return
            self._hold(lease, copies)
        finally:
            self._caches.give_back(passing.holder)
        if lease.activation_bytes:
            self._caches.of(copies[0]).tier.reserve(lease.id, lease.activation_bytes)
        self._leases.promoted(lease)

    def _hold(self, lease: Lease, copies: list[Plan]) -> None:
        """The lease holds what is on the devices, and of RAM only what it held before it was demoted."""
        by_device: dict[str, list[Plan]] = {}
        for plan in copies:
            by_device.setdefault(plan.device, []).append(plan)
        for plans in by_device.values():
            self._caches.of(plans[0]).admit(Demand(plans, lease.id))
        found = [self._caches.get(plan) for plan in lease.plans]
        lease.residents = [resident for resident in found if resident is not None]
        kept = {resident.id for resident in (*lease.residents, *lease.besides)}
        self._caches.ram.let_pass(lease.id, {plan.source.id for plan in copies} - kept)

    def ask(self, device: Device, bytes_short: int, why: str, until: float) -> None:
        """Ask holders for memory that somebody waits for, those first whose components would go first.

        Args:
            device: Where it is short.
            bytes_short: How much.
            why: Said to the holders.
            until: For how long somebody waits, in monotonic seconds.
        """
        now, named = self._clock(), {lease.id: lease for lease in self._leases.alive()}
        for resident in device.tier.leased_in_order():
            if bytes_short <= 0:
                return
            holders = [named[name] for name in resident.leases if name in named]
            if not _may_let_go(holders, resident):
                continue
            bytes_short -= resident.size_bytes
            for lease in holders:
                asked = lease.demotion
                if asked is None or asked.deadline <= now:
                    lease.demotion = DemotionAsked(why, until, self._wall_clock() + until - now)
                    lease.stir()

    def _lost(self, device: Device, why: str) -> None:
        for lease in self._leases.alive():
            if any(r.plan.placed is not None and r.plan.device == device.name for r in lease.residents):
                self._leases.release(lease, LeaseEnd.DEVICE_LOST, f"{device.name}: {why}")


def _may_let_go(holders: list[Lease], resident: Resident) -> bool:
    """Whether all who hold a component would hear that they are asked for it."""
    everybody = len(holders) == len(resident.leases) and not resident.loads
    return everybody and all(lease.streams for lease in holders)
