"""Adoption: a loader goes on with what the one before it held when it was killed.

Residents come first, then the leases on them, before anybody is served. What cannot be used is dropped, with
a line in the log that says why: nothing is lent of which it is not certain what it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import fields

from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.caches import Caches
from modelkeep_loader.domain.components import (
    CPU,
    Built,
    ComponentRef,
    Memory,
    Plan,
    Resident,
    SourceFile,
    Stage,
)
from modelkeep_loader.domain.demand import Demand, Terms
from modelkeep_loader.domain.digests import Known
from modelkeep_loader.domain.keeping import Keeper, KeptThing
from modelkeep_loader.domain.kept import (
    KeptComponent,
    KeptLease,
    KeptPins,
    KeptResident,
    KeptZombie,
    UnreadableError,
)
from modelkeep_loader.domain.lease import Lease, LeaseFacts
from modelkeep_loader.domain.leases import LeaseTable

_log = logging.getLogger(__name__)


class Adoption:
    """Takes over what is kept, once. Belongs to one event loop.

    Args:
        keeper: Has it.
        caches: Get residents and pins.
        leases: Gets the leases.
        read: Makes of a resident's descriptors its memory and what stands in it, and takes them over unless
            it raises. Called in a thread.
        read_zombie: Makes memory of the descriptors of what was dropped and still mapped, and takes them over
            unless it raises.
        mark_of: Tells a process that lives from a later one with the same number; "" if there is none.
        learn: Told the digests of files that the loader before had read.
        watch_process: Begins to watch a process that holds a lease.
        grace_s: Seconds in which the holder of a lease can take it up again.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970.
    """

    def __init__(
        self,
        keeper: Keeper,
        caches: Caches,
        leases: LeaseTable,
        *,
        read: Callable[[KeptResident, Sequence[int]], Built],
        read_zombie: Callable[[Sequence[int]], Memory],
        mark_of: Callable[[int], str],
        learn: Callable[[SourceFile, Known], None] = lambda file, known: None,
        watch_process: Callable[[int], None] = lambda pid: None,
        grace_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._keeper = keeper
        self._caches = caches
        self._leases = leases
        self._read = read
        self._read_zombie = read_zombie
        self._mark_of = mark_of
        self._learn = learn
        self._watch_process = watch_process
        self._grace_s = grace_s
        self._clock = clock
        self._wall_clock = wall_clock

    async def run(self) -> None:
        """Take it over, and drop what is idle and does not fit any more."""
        things = await self._keeper.taken()
        #: What still has its descriptors here.
        left = {thing.name: thing for thing in things}
        try:
            residents, leases = self._sort(left)
            for name in [name for name in left if name.startswith(KeptZombie.PREFIX)]:
                self._adopt_zombie(name, left)
            for resident in residents:
                await self._adopt_resident(resident, left)
        finally:
            for thing in left.values():
                for descriptor in thing.descriptors:
                    os.close(descriptor)
        for lease in leases:
            self._adopt_lease(lease)
        for cache in self._caches.all:
            cache.tier.fit()
        if things:
            residents_now = [resident for cache in self._caches.all for resident in cache.tier.residents()]
            counts = len(residents_now), len(self._leases.alive())
            _log.info("%d residents and %d leases of an earlier loader go on", *counts)

    def _sort(self, left: dict[str, KeptThing]) -> tuple[list[KeptResident], list[KeptLease]]:
        """What can be read: residents, the longest idle first, and leases, the oldest first."""
        residents: list[KeptResident] = []
        leases: list[KeptLease] = []
        for thing in left.values():
            try:
                kept = _read(thing)
                if isinstance(kept, KeptResident):
                    residents.append(kept)
                elif isinstance(kept, KeptLease):
                    leases.append(kept)
                elif isinstance(kept, KeptPins):
                    self._cache_on(kept.device).tier.pins.restore(dict(kept.pins))
            except UnreadableError as error:
                self._give_up(thing.name, error)
        now = self._clock()
        residents.sort(key=lambda kept: now if kept.last_use is None else kept.last_use)
        return residents, sorted(leases, key=lambda kept: (kept.facts.create_time, kept.id))

    def _give_up(self, name: str, why: Exception) -> None:
        _log.warning("%s of an earlier loader does not go on: %s", name, why)
        self._keeper.drop(name)

    # Residents.

    def _adopt_zombie(self, name: str, left: dict[str, KeptThing]) -> None:
        try:
            memory = self._read_zombie(left[name].descriptors)
        except (ValueError, OSError) as error:
            self._give_up(name, error)
            return
        del left[name]
        self._caches.ram.tier.adopt_zombie(memory)

    async def _adopt_resident(self, kept: KeptResident, left: dict[str, KeptThing]) -> None:
        name = kept.name_of(kept.id)
        try:
            tier = self._cache_on(kept.plan.device).tier
            built = await self._memory_of(kept, name, left)
        except UnreadableError as error:
            self._give_up(name, error)
            return
        resident = Resident(
            kept.plan,
            Stage.RESIDENT,
            kept.size_bytes,
            self._clock() if kept.last_use is None else kept.last_use,
            bytes_done=kept.size_bytes,
            built=built,
            refs=dict(kept.refs),
            removed=set(kept.removed),
            tier=tier.name,
            keep_alive_s=kept.keep_alive_s,
            load_seconds=kept.load_seconds,
            load_time=kept.load_time,
            use_time=self._wall_clock() if kept.use_time is None else kept.use_time,
        )
        tier.adopt(resident)
        for file, known in zip(kept.plan.files, kept.digests, strict=False):
            if known is not None:
                self._learn(file, known)

    async def _memory_of(self, kept: KeptResident, name: str, left: dict[str, KeptThing]) -> Built:
        try:
            built = await asyncio.to_thread(self._read, kept, left[name].descriptors)
        except Exception as error:  # whatever is the matter with it, the loader has to start without it
            raise UnreadableError(f"its memory cannot be used: {error}") from error
        del left[name]
        if built.memory.size_bytes != kept.size_bytes:
            found = built.memory.size_bytes
            built.memory.close()
            raise UnreadableError(f"its memory has {found:,} bytes, and {kept.size_bytes:,} are written down")
        return built

    # Leases.

    def _adopt_lease(self, kept: KeptLease) -> None:
        try:
            plans = self._plans_of(kept)
        except UnreadableError as error:
            self._give_up(kept.name_of(kept.id), error)
            return
        facts = {field.name: getattr(kept.facts, field.name) for field in fields(LeaseFacts)}
        lease = Lease(
            **facts,
            plans=plans,
            residents=(),
            besides=self._caches.besides(Demand(plans, kept.id)),
            demoted=kept.demoted,
            expires_at=None if self._has_expired(kept) else kept.expires_at,
            revocation=kept.revocation,
            pids=set(kept.pids),
            dead=self._find_dead(kept) | kept.dead,
        )
        # What is reserved is for the device, and comes with it.
        terms = Terms(0 if kept.demoted else lease.activation_bytes)
        self._caches.hold_on(Demand(lease.plans_now, lease.id, terms=terms))
        found = [self._caches.get(plan) for plan in lease.plans_now]
        lease.residents = [resident for resident in found if resident is not None]
        self._leases.readopt(lease, self._grace_s)

    def _plans_of(self, kept: KeptLease) -> list[Plan]:
        """What the lease is on, by its own names."""
        facts = kept.facts
        if self._has_expired(kept) and not kept.was_held:
            raise UnreadableError("its ttl has run out")
        if not len(facts.refs) == len(facts.resident_ids) == len(kept.components):
            raise UnreadableError("its components are not as many as their names")
        named = zip(facts.refs, facts.resident_ids, kept.components, strict=True)
        return [self._plan_of(ref, name, one, demoted=kept.demoted) for ref, name, one in named]

    def _plan_of(self, ref: ComponentRef, name: str, one: KeptComponent, *, demoted: bool) -> Plan:
        ram, placed = self._caches.ram.tier, one.placed
        if placed is None:
            found = [ram.get(name)]
        elif demoted:
            found = [ram.get(placed.source_id)]
        else:
            # Of what is on a device in part the rest is in RAM.
            rest = [ram.get(placed.source_id)] if placed.part_bytes else []
            found = [self._cache_on(one.device).tier.get(name), *rest]
        there = [resident for resident in found if resident is not None]
        if len(there) < len(found):
            raise UnreadableError(f"the component {name} is not there any more")
        return one.plan(ref, name, there[0].plan)

    def _cache_on(self, device: str) -> Cache:
        """The cache of a device, or of RAM.

        Raises:
            UnreadableError: There is no such device, or nothing can be lent on it.
        """
        if device == CPU:
            return self._caches.ram
        for one in self._caches.devices.usable:
            if one.name == device:
                return one.cache
        raise UnreadableError(f"the device {device} is not there any more")

    def _has_expired(self, kept: KeptLease) -> bool:
        return kept.expires_at is not None and kept.expires_at <= self._clock()

    def _find_dead(self, kept: KeptLease) -> set[int]:
        """Processes that held it and are dead by now; the others are watched."""
        marks = {kept.facts.claimed_pid: kept.claimed_mark} if kept.claimed_mark else {}
        dead: set[int] = set()
        for pid, mark in (marks | kept.pids).items():
            if pid in kept.dead:
                continue
            # Watched first: so it is either seen here that it is dead, or heard of later.
            self._watch_process(pid)
            if self._mark_of(pid) != mark:
                dead.add(pid)
        return dead


def _read(thing: KeptThing) -> KeptResident | KeptLease | KeptPins | KeptZombie:
    for kind in (KeptResident, KeptLease, KeptPins, KeptZombie):
        if thing.name.startswith(kind.PREFIX):
            return kind.read(thing.name, thing.facts)
    raise UnreadableError("nothing of such a name is kept by this version")
