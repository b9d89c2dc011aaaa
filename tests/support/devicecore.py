"""Accelerators on fake ports, for tests of the loader's core: copies are counted, and take their time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from modelkeep.devices.driver import DeviceFacts, DeviceGoneError, DeviceMemory, DeviceOutOfMemoryError
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.components import Built, Memory, Resident
from modelkeep_loader.domain.devices import Device, Devices, DeviceTier
from modelkeep_loader.domain.lending import Lending
from modelkeep_loader.domain.promote import Promoter, Salvage
from support.faketime import now
from support.kiln import MB, ram_cache
from support.lendingcore import HERE, Core, Drawer, Forge, Slab, free_at_once

GRANULARITY = 1024


@dataclass(eq=False)
class Chip:
    """The memory of a fake accelerator, and all that was copied to it and back."""

    total_bytes: int
    strangers: int = 0
    lost: str = ""
    takes_s: float = 0.0
    made: set[Memory] = field(default_factory=set)
    came: list[str] = field(default_factory=list)
    went_back: int = 0

    @property
    def free(self) -> int:
        return self.total_bytes - self.strangers - sum(slab.size_bytes for slab in self.made)

    async def put(
        self, built: Built, part_bytes: int, keep: str, on_progress: Callable[[int], None]
    ) -> OnChip:
        if self.lost:
            raise DeviceGoneError(self.lost)
        file_bytes = built.memory.size_bytes
        size = min(part_bytes, file_bytes) if part_bytes else file_bytes
        size = -(-size // GRANULARITY) * GRANULARITY
        if size > self.free:
            raise DeviceOutOfMemoryError(f"{self.free:,} bytes are free.")
        slab = OnChip(self, size, file_bytes, part_bytes or file_bytes)
        for step in range(4):
            await asyncio.sleep(self.takes_s / 4)
            on_progress(size * step // 4)
        self.came.append(keep)
        return slab

    async def take_back(self, memory: Any) -> Memory:
        self.went_back += 1
        return Slab(memory.file_bytes)


class OnChip:
    """Memory on a fake accelerator."""

    def __init__(self, chip: Chip, size_bytes: int, file_bytes: int, device_bytes: int) -> None:
        self._chip = chip
        self.size_bytes = size_bytes
        self.file_bytes = file_bytes
        self.device_bytes = device_bytes
        self.uuid = "uuid"
        chip.made.add(self)

    @property
    def descriptors(self) -> tuple[int, ...]:
        return ()

    def open_for_holder(self) -> int:
        raise OSError("there is no file behind it")

    open_on_device = open_for_holder

    def in_use(self) -> bool:
        return False

    def close(self) -> None:
        self._chip.made.discard(self)


@dataclass
class DeviceCore(Core):
    """The core, with accelerators."""

    chips: dict[str, Chip] = field(default_factory=dict)
    salvage: Salvage | None = None

    def on(self, name: str) -> list[str]:
        """Ids of what is on an accelerator, without its name."""
        residents = self.lending.devices.named(name).tier.residents()
        return [resident.id.partition("@")[0] for resident in residents]

    @property
    def in_ram(self) -> list[str]:
        return [resident.id for resident in self.cache.tier.residents()]


class _Offers:
    def __init__(self, salvage: Salvage, chips: dict[str, Chip]) -> None:
        self._salvage = salvage
        self._chips = chips

    def offer(self, resident: Resident) -> None:
        self._salvage.offer(resident, self._chips[resident.plan.device])

    def withdraw(self, resident: Resident) -> None:
        self._salvage.withdraw(resident)


class _Measures:
    def __init__(self, chips: dict[str, Chip]) -> None:
        self._chips = chips

    async def memory(self, device: str) -> DeviceMemory:
        chip = self._chips[device]
        if chip.lost:
            raise DeviceGoneError(chip.lost)
        return DeviceMemory(chip.total_bytes, chip.free)


@asynccontextmanager
async def device_core(
    sizes: Sequence[int] = (4 * MB, 4 * MB), budget: int = 8 * MB, **settings: Any
) -> AsyncIterator[DeviceCore]:
    """A core whose accelerators are "sim:0", "sim:1" and so on, of these sizes."""
    drawer, forge, watched = Drawer(), Forge(), list[int]()
    salvage = Salvage(forge, free_at_once)
    cache: Cache = ram_cache(salvage, budget_bytes=budget, free=free_at_once, clock=now)
    chips = {f"sim:{number}": Chip(size) for number, size in enumerate(sizes)}
    devices = Devices((), "auto", _Measures(chips))
    made: list[Device] = []
    for name, chip in chips.items():

        def demote(resident: Resident, chip: Chip = chip) -> None:
            salvage.demote(cache, resident, chip)

        facts = DeviceFacts(name, "fake", "uuid", chip.total_bytes, GRANULARITY)
        tier = DeviceTier(facts, budget_bytes=chip.total_bytes, demote=demote, free=salvage.free, clock=now)
        tier.made = chip.made
        made.append(Device(facts, Promoter(cache, chip, devices, name), tier))
    devices.all = made
    lending = Lending(
        drawer,
        cache,
        devices=devices,
        offers=_Offers(salvage, chips),
        boot_id=HERE,
        watch_process=watched.append,
        clock=now,
        **settings,
    )
    await lending.open()
    try:
        yield DeviceCore(lending, drawer, forge, cache, watched, chips, salvage)
    finally:
        await lending.close()
