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
from dataclasses import fields, replace

from modelkeep.exceptions import ModelkeepError
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.components import Built, Plan, Resident, SourceFile, Stage
from modelkeep_loader.domain.digests import Known
from modelkeep_loader.domain.keeping import Keeper, KeptThing
from modelkeep_loader.domain.kept import KeptLease, KeptPins, KeptResident, UnreadableError
from modelkeep_loader.domain.lease import Lease, LeaseFacts
from modelkeep_loader.domain.leases import LeaseTable
from modelkeep_loader.domain.pins import Pins

_log = logging.getLogger(__name__)


class Adoption:
    """Takes over what is kept, once. Belongs to one event loop.

    Args:
        keeper: Has it.
        cache: Gets the residents.
        pins: Of that cache.
        leases: Gets the leases.
        read: Makes of a resident's descriptors its memory and what stands in it, and takes them over unless
            it raises. Called in a thread.
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
        cache: Cache,
        pins: Pins,
        leases: LeaseTable,
        *,
        read: Callable[[Sequence[int]], Built],
        mark_of: Callable[[int], str],
        learn: Callable[[SourceFile, Known], None] = lambda file, known: None,
        watch_process: Callable[[int], None] = lambda pid: None,
        grace_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._keeper = keeper
        self._cache = cache
        self._pins = pins
        self._leases = leases
        self._read = read
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
            for resident in residents:
                await self._adopt_resident(resident, left)
        finally:
            for thing in left.values():
                for descriptor in thing.descriptors:
                    os.close(descriptor)
        for lease in leases:
            self._adopt_lease(lease)
        self._cache.tier.fit()
        if things:
            counts = len(self._cache.tier.residents()), len(self._leases.alive())
            _log.info("%d residents and %d leases of an earlier loader go on", *counts)

    def _sort(self, left: dict[str, KeptThing]) -> tuple[list[KeptResident], list[KeptLease]]:
        """What can be read: residents, the longest idle first, and leases, the oldest first."""
        residents: list[KeptResident] = []
        leases: list[KeptLease] = []
        for thing in left.values():
            try:
                kept = _read(thing)
            except UnreadableError as error:
                self._give_up(thing.name, error)
                continue
            if isinstance(kept, KeptResident):
                residents.append(kept)
            elif isinstance(kept, KeptLease):
                leases.append(kept)
            else:
                self._pins.restore(dict(kept.pins))
        now = self._clock()
        residents.sort(key=lambda kept: now if kept.last_use is None else kept.last_use)
        return residents, sorted(leases, key=lambda kept: (kept.facts.create_time, kept.id))

    def _give_up(self, name: str, why: Exception) -> None:
        _log.warning("%s of an earlier loader does not go on: %s", name, why)
        self._keeper.drop(name)

    # Residents.

    async def _adopt_resident(self, kept: KeptResident, left: dict[str, KeptThing]) -> None:
        name = kept.name_of(kept.id)
        try:
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
            tier=self._cache.tier.name,
            keep_alive_s=kept.keep_alive_s,
            load_seconds=kept.load_seconds,
            load_time=kept.load_time,
            use_time=self._wall_clock() if kept.use_time is None else kept.use_time,
        )
        self._cache.tier.adopt(resident)
        for file, known in zip(kept.plan.files, kept.digests, strict=False):
            if known is not None:
                self._learn(file, known)

    async def _memory_of(self, kept: KeptResident, name: str, left: dict[str, KeptThing]) -> Built:
        try:
            built = await asyncio.to_thread(self._read, left[name].descriptors)
        except (ModelkeepError, OSError, ValueError) as error:
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
            residents=self._cache.hold_on(kept.id, plans, kept.facts.activation_bytes),
            expires_at=None if self._has_expired(kept) else kept.expires_at,
            revocation=kept.revocation,
            pids=set(kept.pids),
            dead=self._find_dead(kept) | kept.dead,
        )
        self._leases.readopt(lease, self._grace_s)

    def _plans_of(self, kept: KeptLease) -> list[Plan]:
        """What the lease is on, by its own names."""
        facts = kept.facts
        if self._has_expired(kept) and not kept.was_held:
            raise UnreadableError("its ttl has run out")
        if not len(facts.refs) == len(facts.resident_ids) == len(kept.models):
            raise UnreadableError("its components are not as many as their names")
        plans: list[Plan] = []
        for resident_id, ref, model in zip(facts.resident_ids, facts.refs, kept.models, strict=True):
            resident = self._cache.tier.get(resident_id)
            if resident is None:
                raise UnreadableError(f"the component {resident_id} is not there any more")
            plans.append(replace(resident.plan, ref=ref, model=model))
        return plans

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


def _read(thing: KeptThing) -> KeptResident | KeptLease | KeptPins:
    for kind in (KeptResident, KeptLease, KeptPins):
        if thing.name.startswith(kind.PREFIX):
            return kind.read(thing.name, thing.facts)
    raise UnreadableError("nothing of such a name is kept by this version")
