"""The tiers of a host together: what is in any of them, and what goes from which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.caches import Caches
from modelkeep_loader.domain.components import ComponentRef, Plan, Resident
from modelkeep_loader.domain.demand import Demand, Eviction
from modelkeep_loader.domain.loads import Loads
from modelkeep_loader.domain.requests import Loaded, Planned, Tell
from modelkeep_loader.domain.tier import TierName


class Disk(Protocol):
    """Copies of files on a disk."""

    cache: Cache

    def has(self, plan: Plan) -> bool:
        """Whether it has copies of all files of a component."""
        ...

    def demand_for(self, plans: Sequence[Plan]) -> Demand:
        """What brings all files of some components there."""
        ...


class Tiers:
    """The tiers that there are. Belongs to one event loop.

    Args:
        caches: Hold components.
        disk: Holds copies of their files, if there is such a tier.
    """

    def __init__(self, caches: Caches, disk: Disk | None = None) -> None:
        self._caches = caches
        self.disk = disk
        self._all = [*caches.all, *([] if disk is None else [disk.cache])]

    def evict(
        self,
        key: str,
        submodel: str = "",
        *,
        validate_only: bool = False,
        tier: TierName = TierName.RAM,
        device: str = "",
    ) -> Eviction:
        """See :meth:`modelkeep_loader.domain.tier.Tier.evict`.

        Raises:
            FieldInvalidException: There is no such tier, or device.
        """
        found = self._of(tier, device)
        would = [cache.evict(key, submodel, validate_only=True) for cache in found]
        if not validate_only:
            would = [cache.evict(key, submodel) for cache in found]
        return _together(would)

    def evict_idle(
        self, *, validate_only: bool = False, tier: TierName = TierName.RAM, device: str = ""
    ) -> Eviction:
        """See :meth:`modelkeep_loader.domain.tier.Tier.evict_idle`.

        Raises:
            FieldInvalidException: There is no such tier, or device.
        """
        found = self._of(tier, device)
        return _together([cache.evict_idle(validate_only=validate_only) for cache in found])

    def pin(self, plans: Sequence[Plan]) -> list[ComponentRef]:
        """See :meth:`modelkeep_loader.domain.tier.Tier.pin`: each in the tier that it is for."""
        return [ref for plan in plans for ref in self._caches.of(plan).pin([plan])]

    def unpin(self, refs: Sequence[ComponentRef], *, exactly: bool = False) -> list[ComponentRef]:
        """See :meth:`modelkeep_loader.domain.tier.Tier.unpin`."""
        return [ref for cache in self._caches.all for ref in cache.unpin(refs, exactly=exactly)]

    def model_removed(self, key: str) -> None:
        """See :meth:`modelkeep_loader.domain.tier.Tier.model_removed`."""
        for cache in self._all:
            cache.model_removed(key)

    def known_keys(self) -> set[str]:
        """Keys of the models that residents were asked for by."""
        return {key for cache in self._all for key in cache.tier.known_keys()}

    def find_residents(self, key: str, after: str) -> list[Resident]:
        """Residents by id, of a model ("": of all), and only those after an id."""
        found = [
            resident
            for cache in self._all
            for resident in cache.tier.residents()
            if resident.id > after and (not key or any(ref.key == key for ref in resident.refs))
        ]
        return sorted(found, key=lambda resident: resident.id)

    def sweep(self) -> None:
        """See :meth:`modelkeep_loader.domain.cache.Cache.sweep`."""
        for cache in self._all:
            cache.sweep()

    async def load_to_disk(
        self, refs: Sequence[ComponentRef], max_wait_s: float, tell: Tell, loads: Loads
    ) -> None:
        """Copy the files of components to the disk.

        Args:
            refs: The components.
            max_wait_s: Seconds to wait for room.
            tell: Hears how it goes.
            loads: Works out what is wanted.

        Raises:
            FieldInvalidException: There is no such tier.
            DiskFullException: There is no room.
            ModelkeepError: See :meth:`modelkeep_loader.domain.lending.Lending.load`.
        """
        (cache,), disk = self._of(TierName.DISK), self.disk
        assert disk is not None, "there is a cache of it"
        wanted = await loads.demand(refs, tell, is_lease=False)
        await tell(Planned(wanted))
        demand = disk.demand_for(wanted.plans)
        try:
            await loads.on(cache).meet(demand, max_wait_s, tell)
            last = len(demand.residents) - 1
            for place, resident in enumerate(demand.residents):
                await tell(Loaded(resident, place == last))
        finally:
            cache.give_back(demand.holder)

    def _of(self, name: TierName, device: str = "") -> list[Cache]:
        there = ["TIER_RAM"]
        if self.disk is not None:
            there.append("TIER_DISK")
        devices = self._caches.devices.all
        if devices:
            there.append("TIER_VRAM")
        if name is TierName.VRAM and devices:
            if found := [one.cache for one in devices if device in ("", one.name)]:
                return found
            names = ", ".join(one.name for one in devices)
            raise FieldInvalidException(
                f"This host has no device {device}.",
                violations=[FieldViolation("device", f"must be one of {names}")],
            )
        if device:
            raise FieldInvalidException(
                "A device has its part of TIER_VRAM only.",
                violations=[FieldViolation("device", "must be unset with other tiers")],
            )
        if name is TierName.RAM:
            return [self._caches.ram]
        if name is TierName.DISK and self.disk is not None:
            return [self.disk.cache]
        raise FieldInvalidException(
            "This host has no such tier.",
            violations=[FieldViolation("tier", f"must be {' or '.join(there)} here")],
        )


def _together(done: Sequence[Eviction]) -> Eviction:
    """What several evictions did."""
    dropped = [resident for one in done for resident in one.residents]
    return Eviction(dropped, sum(one.freed for one in done), sum(one.zombie for one in done))
