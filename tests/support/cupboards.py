"""A keeper in this process that really duplicates descriptors, and loaders over it that can be killed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from modelkeep import sealed
from modelkeep.devices.driver import DeviceFacts
from modelkeep.headers import Tensor
from modelkeep.worker.manifest import METADATA_KEY, Manifest
from modelkeep_convert import weightfile
from modelkeep_loader.domain.adoption import Adoption
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.caches import Caches
from modelkeep_loader.domain.components import CPU, BuildProgress, Built, Plan, Resident, SourceFile, Stage
from modelkeep_loader.domain.demand import Demand, Terms
from modelkeep_loader.domain.devices import Device, Devices, DeviceTier
from modelkeep_loader.domain.digests import Known
from modelkeep_loader.domain.keeping import KeptThing
from modelkeep_loader.domain.kept import KeptResident
from modelkeep_loader.domain.lease import Lease, LeaseChange
from modelkeep_loader.domain.leases import LeaseTable
from modelkeep_loader.domain.ledger import Ledger
from modelkeep_loader.domain.pins import Pins
from modelkeep_loader.domain.tier import Tier, TierName
from modelkeep_loader.tiers.ram import described, take_kept, take_memory, take_zombie
from support.kiln import Clock, plan
from support.lendingcore import free_at_once

#: Bytes of the tensor of each component that an oven makes, and of its memory.
TENSOR = 1 << 16
SIZE = TENSOR + weightfile.HEADER_ALIGNMENT


def memory(name: str) -> int:
    """Sealed memory that is a safetensors file of one tensor, filled with the component's name."""
    manifest = Manifest("diffusers", "AutoencoderKL", {"of": name}, "float32", {}, (), ())
    layout = weightfile.lay_out(
        [Tensor("weight", "U8", (TENSOR,), 0, TENSOR)], {METADATA_KEY: manifest.to_json()}
    )
    fd = sealed.create(f"modelkeep:test:{name}", layout.size_bytes)
    sealed.write(fd, 0, layout.head)
    sealed.write(fd, layout.size_bytes - TENSOR, name.encode().ljust(TENSOR, b"."))
    sealed.seal(fd)
    return fd


class Oven:
    """Builds such memory; a ``Builder``."""

    def __init__(self) -> None:
        self.built: list[str] = []

    async def build(self, plan: Plan, progress: BuildProgress) -> Built:
        progress(Stage.CONVERTING, 0)
        self.built.append(plan.id)
        fd = memory(plan.id)
        try:
            return take_memory(fd)
        finally:
            os.close(fd)


@dataclass
class Cupboard:
    """What outlives the loaders; a ``Keeper`` of each of them."""

    things: dict[str, KeptThing] = field(default_factory=dict)
    #: Every message, with descriptors that stay open until it is cleared.
    log: list[tuple[str, KeptThing | None]] = field(default_factory=list)
    logs: bool = False

    def put(self, name: str, facts: bytes, descriptors: Sequence[int] = ()) -> None:
        thing = KeptThing(name, facts, tuple(map(os.dup, descriptors)))
        self.drop(name, quietly=True)
        self.things[name] = thing
        if self.logs:
            self.log.append((name, KeptThing(name, facts, tuple(map(os.dup, descriptors)))))

    def drop(self, name: str, *, quietly: bool = False) -> None:
        if (thing := self.things.pop(name, None)) is not None:
            close(thing)
        if self.logs and not quietly:
            self.log.append((name, None))

    async def taken(self) -> list[KeptThing]:
        return [
            KeptThing(thing.name, thing.facts, tuple(map(os.dup, thing.descriptors)))
            for thing in self.things.values()
        ]

    async def close(self, *, keep: bool) -> None:
        if not keep:
            for name in list(self.things):
                self.drop(name)

    def after(self, count: int) -> Cupboard:
        """One as it was after so many messages."""
        then = Cupboard()
        for name, thing in self.log[:count]:
            if thing is None:
                then.drop(name)
            else:
                then.put(name, thing.facts, thing.descriptors)
        return then

    def forget(self) -> None:
        """Clear the log."""
        for _, thing in self.log:
            if thing is not None:
                close(thing)
        self.log.clear()


def close(thing: KeptThing) -> None:
    for descriptor in thing.descriptors:
        os.close(descriptor)


class OnShelf:
    """Memory on a device that is none: the file, and a second descriptor; a ``DeviceMemory``."""

    def __init__(self, file: int, allocation: int, file_bytes: int, device_bytes: int) -> None:
        self.file, self.allocation = file, allocation
        self.file_bytes, self.size_bytes, self.device_bytes = file_bytes, device_bytes, device_bytes
        self.uuid = "uuid of sim:0"

    @property
    def descriptors(self) -> tuple[int, ...]:
        return self.file, self.allocation

    def open_for_holder(self) -> int:
        return os.dup(self.file)

    def open_on_device(self) -> int:
        return os.dup(self.allocation)

    def in_use(self) -> bool:
        return False

    def close(self) -> None:
        os.close(self.file)
        os.close(self.allocation)


def _taken(kept: KeptResident, descriptors: Sequence[int]) -> Built:
    if (place := kept.on_device) is None:
        return take_kept(descriptors)
    file, allocation = descriptors
    return described(file, lambda: OnShelf(file, allocation, place.file_bytes, place.device_bytes))


class Loader:
    """The parts of a loader that keep and adopt, over a cupboard."""

    def __init__(
        self,
        cupboard: Cupboard,
        clock: Clock,
        *,
        budget: int = 8 * SIZE,
        marks: dict[int, str] | None = None,
        devices: Sequence[str] = (),
    ) -> None:
        self.cupboard = cupboard
        self.clock = clock
        self.oven = Oven()
        #: Processes that live, and those that were asked for.
        self.marks = marks if marks is not None else {}
        self.watched: list[int] = []
        #: What is known of files.
        self.digests: dict[SourceFile, Known] = {}
        self.journal: list[tuple[str, LeaseChange]] = []
        self.ledger = Ledger(cupboard, self.mark_of, self.digests.get)
        self.tier = Tier(
            TierName.RAM,
            budget_bytes=budget,
            on_change=self.ledger.resident,
            on_zombie=self.ledger.zombie,
            pins=Pins(partial(self.ledger.pins, CPU)),
            free=free_at_once,
            clock=clock,
            wall_clock=lambda: clock() + 1e9,
        )
        self.cache = Cache(self.oven, self.tier)
        self.caches = Caches(self.cache, Devices([self._device(name) for name in devices]))
        self.leases = LeaseTable(
            on_end=lambda lease: self.caches.give_back(lease.id),
            on_change=self._changed,
            clock=clock,
            wall_clock=lambda: clock() + 1e9,
        )

    def _device(self, name: str) -> Device:
        facts = DeviceFacts(name, "of a test", f"uuid of {name}", 8 * SIZE, 1)
        how: dict[str, Any] = {"on_change": self.ledger.resident, "free": free_at_once, "clock": self.clock}
        pins = Pins(partial(self.ledger.pins, name))
        return Device(facts, self.oven, DeviceTier(facts, budget_bytes=8 * SIZE, pins=pins, **how))

    def put_on_device(self, plan: Plan) -> Resident:
        """What is for a device is there, at once."""
        tier, placed = self.caches.of(plan).tier, plan.placed
        assert placed is not None
        fd = memory(placed.source_id)
        resident = tier.place(plan)
        size = placed.part_bytes or placed.source_bytes
        built = take_memory(fd)
        built.memory.close()
        built = replace(built, memory=OnShelf(sealed.open_readonly(fd), os.dup(fd), SIZE, size))
        os.close(fd)
        tier.settle(resident, built, 1.0)
        tier.ask_for(resident, plan, None)
        tier.on_change(resident, False)
        return resident

    def mark_of(self, pid: int) -> str:
        return self.marks.get(pid, "")

    def _changed(self, lease: Lease) -> None:
        self.journal.append((lease.id, lease.last_change))
        self.ledger.lease(lease)

    async def adopt(self, grace_s: float = 10.0) -> Loader:
        await Adoption(
            self.cupboard,
            self.caches,
            self.leases,
            read=_taken,
            read_zombie=take_zombie,
            mark_of=self.mark_of,
            learn=self.digests.__setitem__,
            watch_process=self.watched.append,
            grace_s=grace_s,
            clock=self.clock,
            wall_clock=lambda: self.clock() + 1e9,
        ).run()
        return self

    async def load(self, *names: str, keep_alive_s: float | None = None) -> None:
        demand = Demand(
            [plan(name, SIZE) for name in names],
            "load",
            is_lease=False,
            terms=Terms(keep_alive_s=keep_alive_s),
        )
        await self.cache.acquire(demand)
        self.cache.give_back("load")

    async def grant(
        self,
        *names: str,
        ttl_s: float | None = None,
        pid: int = 0,
        claimed_pid: int = 0,
        activation_bytes: int = 0,
        keep_alive_s: float | None = None,
    ) -> Lease:
        """A lease that a stream binds, or a ttl; and a connection of a process, if one is named."""
        plans = [plan(name, SIZE) for name in names]
        holder = LeaseTable.new_id()
        residents = await self.cache.acquire(
            Demand(plans, holder, terms=Terms(activation_bytes, keep_alive_s))
        )
        lease = self.leases.grant(
            holder,
            plans,
            residents,
            label="worker",
            labels={"job": "7"},
            claimed_pid=claimed_pid,
            principal="ann",
            activation_bytes=activation_bytes,
        )
        if ttl_s is None:
            self.leases.bind_stream(lease)
        else:
            self.leases.bind_ttl(lease, ttl_s)
        if pid:
            self.leases.bind_connection(lease, pid, 1000)
        return lease

    def die(self) -> None:
        """As by SIGKILL: what the process had open is closed, and nobody is told of anything."""
        for cache in self.caches.all:
            for resident in cache.tier.residents():
                if resident.built is not None:
                    resident.built.memory.close()
            for memory in cache.tier._zombies:
                memory.close()

    def changes(self, lease_id: str) -> list[str]:
        """What has happened to a lease here."""
        return [change.value for name, change in self.journal if name == lease_id]

    @property
    def names(self) -> list[str]:
        """What is resident."""
        return [r.id for r in self.tier.residents() if r.stage is Stage.RESIDENT]


def contents(loader: Loader, name: str) -> str:
    """What stands in the memory of a resident, as who has it lent reads it."""
    resident = loader.tier.get(name)
    assert resident is not None
    fd = loader.tier.export(resident)
    try:
        return os.pread(fd, TENSOR, SIZE - TENSOR).decode().rstrip(".")
    finally:
        os.close(fd)
