"""The memory of accelerators: an allocation for each component, and the file's beginning beside it in RAM."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from modelkeep import sealed
from modelkeep.devices.driver import DeviceFacts, DeviceFailedError, DeviceGoneError
from modelkeep_loader.accelerators import Accelerators
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.components import Built, ComponentRef, DeviceMemory, Memory, Resident
from modelkeep_loader.domain.devices import Device, Devices, DeviceTier
from modelkeep_loader.domain.kept import KeptResident, UnreadableError
from modelkeep_loader.domain.pins import Pins
from modelkeep_loader.domain.promote import Promoter, Salvage
from modelkeep_loader.domain.straight import Fetches, Straight
from modelkeep_loader.tiers.ram import SealedMemory, described, take_kept

_log = logging.getLogger(__name__)


class Allocation:
    """An allocation that the loader keeps; a ``domain.components.DeviceMemory``.

    Whether a worker still maps it no driver tells. The loader counts what the device says is free instead:
    memory that is mapped is not.

    Args:
        accelerators: Opens descriptors of it.
        descriptor: Of the allocation.
        size_bytes: What it takes.
        file_bytes, device_bytes, uuid: As DeviceMemory.
        made: Allocations that are counted as the loader's; this is one of them until it is closed.
    """

    def __init__(
        self,
        accelerators: Accelerators,
        descriptor: int,
        size_bytes: int,
        *,
        file_bytes: int,
        device_bytes: int,
        uuid: str,
        made: set[Memory],
    ) -> None:
        self._accelerators = accelerators
        self.descriptor = descriptor
        self.size_bytes = size_bytes
        #: The component's file in RAM: its beginning, or all of it; none until the allocation is filled.
        self.file: SealedMemory | None = None
        self.file_bytes = file_bytes
        self.device_bytes = device_bytes
        self.uuid = uuid
        self._made = made
        made.add(self)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """See :class:`modelkeep_loader.domain.components.Memory`: the file's, and the allocation's."""
        assert self.file is not None, "it is filled"
        return (*self.file.descriptors, self.descriptor)

    def open_for_holder(self) -> int:
        """A new read-only descriptor of the file in RAM; the caller closes it."""
        assert self.file is not None, "it is filled"
        return self.file.open_for_holder()

    def open_on_device(self) -> int:
        """See :class:`modelkeep_loader.domain.components.DeviceMemory`."""
        return self._accelerators.reader(self.descriptor)

    def in_use(self) -> bool:
        """False: see the class."""
        return False

    def close(self) -> None:
        """See :class:`modelkeep_loader.domain.components.Memory`."""
        if self.descriptor >= 0:
            if self.file is not None:
                self.file.close()
            os.close(self.descriptor)
            self.descriptor = -1
            self._made.discard(self)


class DeviceCopies:
    """Copies components to one accelerator, and back; a ``domain.promote.Copies``.

    Args:
        accelerators: Makes allocations, and fills them.
        device: Where.
        made: Allocations that are counted as the loader's.
        registered: Ids of components of RAM that copiers keep registered.
    """

    def __init__(
        self, accelerators: Accelerators, device: DeviceFacts, made: set[Memory], registered: set[str]
    ) -> None:
        self._accelerators = accelerators
        self._device = device
        self._made = made
        self._registered = registered

    async def put(
        self, built: Built, part_bytes: int, keep: str, on_progress: Callable[[int], None]
    ) -> DeviceMemory:
        """See Copies."""
        file_bytes = built.memory.size_bytes
        first = min((tensor.begin for tensor in built.tensors), default=file_bytes)
        device_bytes = file_bytes
        if part_bytes:
            whole = (t.begin + t.size_bytes for t in built.tensors if t.begin + t.size_bytes <= part_bytes)
            device_bytes = max(whole, default=min(first, part_bytes))
        size = self._device.rounded(device_bytes)
        source = built.memory.open_for_holder()
        made: Allocation | None = None
        try:
            made = Allocation(
                self._accelerators,
                await self._accelerators.create(self._device.name, size),
                size,
                file_bytes=file_bytes,
                device_bytes=device_bytes,
                uuid=self._device.uuid,
                made=self._made,
            )
            self._registered |= {keep} - {""}
            await self._accelerators.fill(
                self._device.name, made.descriptor, source, device_bytes, on_progress, keep=keep
            )
            if device_bytes < file_bytes:
                made.file, source = SealedMemory(source), -1
            else:
                made.file = SealedMemory(await asyncio.to_thread(_beginning, source, first))
        except BaseException:
            if made is not None:
                made.close()
            raise
        finally:
            if source >= 0:
                os.close(source)
        return made

    async def take_back(self, memory: DeviceMemory) -> Memory:
        """See Copies."""
        assert isinstance(memory, Allocation)
        target = sealed.create("modelkeep:component", memory.file_bytes)
        source = os.dup(memory.descriptor)  # it may be let go of meanwhile
        try:
            await self._accelerators.read_back(self._device.name, source, target, memory.file_bytes)
            sealed.seal(target)
            return SealedMemory(sealed.open_readonly(target))
        finally:
            os.close(source)
            os.close(target)


def _beginning(source: int, size_bytes: int) -> int:
    """In a thread: a sealed file of the first bytes of another; a descriptor for reading."""
    copy = sealed.create("modelkeep:header", size_bytes)
    try:
        position = 0
        while position < size_bytes:
            data = os.pread(source, min(1 << 20, size_bytes - position), position)
            sealed.write(copy, position, data)
            position += len(data)
        sealed.seal(copy)
        return sealed.open_readonly(copy)
    finally:
        os.close(copy)


class DeviceTiers:
    """The accelerators of a loader, each with its tier.

    Args:
        accelerators: Opened.
        ram: Holds what is copied there.
        salvage: Builds for it.
        budget_bytes: The most that may be taken of each device; 0: nine tenths of it.
        default: What callers get who leave the choice to the loader; see Devices.
        fetches: Makes what brings components straight from their files to a device, whose allocations are
            counted with these; None: nothing comes so.
        on_pins: Called with a device's name and all that is pinned there whenever that is something else.
        **how: As for Tier; `on_progress` as for Cache.
    """

    def __init__(
        self,
        accelerators: Accelerators,
        ram: Cache,
        salvage: Salvage,
        *,
        budget_bytes: int,
        default: str,
        fetches: Callable[[DeviceFacts, set[Memory]], Fetches] | None = None,
        on_pins: Callable[[str, Mapping[ComponentRef, str]], None] = lambda device, ids: None,
        on_progress: Callable[[Resident], None],
        **how: Any,
    ) -> None:
        self._accelerators = accelerators
        self._salvage = salvage
        self._registered: set[str] = set()
        self._forgetting: set[asyncio.Task[None]] = set()
        self.devices = Devices((), default, accelerators)
        self.devices.straight = Straight(ram.tier) if fetches is not None else None
        self._copies: dict[str, DeviceCopies] = {}
        made: list[Device] = []
        for facts in accelerators.devices:
            tier = DeviceTier(
                facts,
                budget_bytes=min(budget_bytes or facts.total_bytes * 9 // 10, facts.total_bytes),
                demote=partial(self._demote, ram, salvage),
                free=salvage.free,
                pins=Pins(partial(on_pins, facts.name)),
                **how,
            )
            copies = DeviceCopies(accelerators, facts, tier.made, self._registered)
            self._copies[facts.name] = copies
            fetch = fetches(facts, tier.made) if fetches is not None else None
            promoter = Promoter(ram, copies, self.devices, facts.name, fetch)
            made.append(Device(facts, promoter, tier, on_progress))
        self.devices.all = made

    def take_kept(self, kept: KeptResident, descriptors: Sequence[int]) -> Built:
        """What was kept of a component, on an accelerator or in RAM, taken over unless this raises.

        Blocks: called in a thread.

        Raises:
            UnreadableError: The accelerator is another one by now.
            ModelkeepError: It is no memory that may be lent.
            OSError: It cannot be read.
            ValueError: There are other descriptors than there should be.
        """
        if (place := kept.on_device) is None:
            return take_kept(descriptors)
        tier = self.devices.named(kept.plan.device).tier
        if tier.facts.uuid != place.uuid:
            raise UnreadableError(f"{tier.facts.name} is another device than it was")
        file, descriptor = descriptors

        def taken() -> Memory:
            memory = Allocation(
                self._accelerators,
                descriptor,
                kept.size_bytes,
                file_bytes=place.file_bytes,
                device_bytes=place.device_bytes,
                uuid=place.uuid,
                made=tier.made,
            )
            memory.file = SealedMemory(file)
            return memory

        return described(file, taken, place.file_bytes)

    def offer(self, resident: Resident) -> None:
        """See :class:`modelkeep_loader.domain.demotion.Offers`."""
        self._salvage.offer(resident, self._copies[resident.plan.device])

    def withdraw(self, resident: Resident) -> None:
        """See :class:`modelkeep_loader.domain.demotion.Offers`."""
        self._salvage.withdraw(resident)

    def ram_changed(self, resident: Resident, gone: bool) -> None:
        """A component of RAM may go now: copiers must not keep it."""
        if resident.id in self._registered and (gone or not (resident.leases or resident.pins)):
            self._registered.discard(resident.id)
            task = asyncio.get_running_loop().create_task(self._forget(resident.id))
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)

    async def _forget(self, name: str) -> None:
        try:
            await self._accelerators.forget(name)
        except (DeviceFailedError, DeviceGoneError) as error:
            _log.warning("a component cannot be let go of by a copier: %s", error)

    def _demote(self, ram: Cache, salvage: Salvage, resident: Resident) -> None:
        if (copies := self._copies.get(resident.plan.device)) is not None:
            salvage.demote(ram, resident, copies)
