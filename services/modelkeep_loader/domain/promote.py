"""Between RAM and accelerators: components are copied there, and back before they are dropped.

The builder of an accelerator's tier is a :class:`Promoter`: it has a component made in RAM, or finds it
there, holds it while it is copied, and lets go of it; what needs no place in RAM it has fetched from its
files (:mod:`modelkeep_loader.domain.straight`). The other way a :class:`Salvage` stands before the builder of
RAM: what an accelerator drops, and RAM has no longer and has room for, is read back from there in place of
being built anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, Protocol

from modelkeep.devices.driver import DeviceFailedError, DeviceGoneError, DeviceOutOfMemoryError
from modelkeep.exceptions import ModelkeepError, VramExhaustedException
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.components import (
    CPU,
    Builder,
    BuildProgress,
    Built,
    DeviceMemory,
    Memory,
    Plan,
    Resident,
    Stage,
)
from modelkeep_loader.domain.demand import Demand
from modelkeep_loader.domain.devices import Device, Devices, unavailable
from modelkeep_loader.domain.straight import Fetches, NotInFilesError
from modelkeep_loader.domain.tier import free_in_thread

#: Seconds that a component may wait for room in RAM which was there when its copy was admitted.
_RAM_WAIT_S: Final = 10.0
#: Seconds between two looks at how far a component is in RAM.
_LOOK_S: Final = 0.1
#: Tries of a copy, for the processes that copy may die.
_TRIES: Final = 2
#: Looks at a device that is full, and seconds between them: the keeper lets go of what was dropped for this
#: copy a moment after the loader.
_LOOKS_WHEN_FULL: Final = 40
_FULL_S: Final = 0.025


class Copies(Protocol):
    """Copies components to one accelerator, and back."""

    async def put(
        self, built: Built, part_bytes: int, keep: str, on_progress: Callable[[int], None]
    ) -> DeviceMemory:
        """Copy a component there.

        Args:
            built: It, in RAM.
            part_bytes: The most of its first bytes that are copied; 0: all.
            keep: What its memory in RAM stays registered as; "": it does not.
            on_progress: Told how many bytes are there.

        Raises:
            DeviceOutOfMemoryError, DeviceGoneError, DeviceFailedError: As the driver says.
        """
        ...

    async def take_back(self, memory: DeviceMemory) -> Memory:
        """Copy a whole component to new memory in RAM.

        Raises:
            DeviceGoneError, DeviceFailedError: As the driver says.
        """
        ...


class Promoter:
    """Makes the residents of one accelerator.

    Args:
        ram: Holds what is copied.
        copies: Copies it.
        devices: All accelerators.
        name: The one that it is for.
        fetches: Brings there what needs no place in RAM; None: nothing comes so.
    """

    def __init__(
        self, ram: Cache, copies: Copies, devices: Devices, name: str, fetches: Fetches | None = None
    ) -> None:
        self._ram = ram
        self._copies = copies
        self._devices = devices
        self._name = name
        self._fetches = fetches

    async def build(self, plan: Plan, progress: BuildProgress) -> Built:
        """See :class:`modelkeep_loader.domain.components.Builder`."""
        straight = self._devices.straight
        if self._fetches is not None and straight is not None and straight.goes(plan):
            try:
                return await self._fetched(self._fetches, plan, progress)
            except NotInFilesError:
                straight.refuse(plan)
        demand = Demand([plan.source], f"promote {plan.id}", is_lease=False)
        try:
            resident = await self._in_ram(demand, progress)
            return await self._copied(plan, resident, progress)
        finally:
            self._ram.give_back(demand.holder)

    async def _in_ram(self, demand: Demand, progress: BuildProgress) -> Resident:
        work = asyncio.ensure_future(self._ram.acquire(demand, max_wait_s=_RAM_WAIT_S))
        try:
            while not (await asyncio.wait({work}, timeout=_LOOK_S))[0]:
                for resident in demand.residents:
                    progress(resident.stage if resident.is_loading else Stage.QUEUED, resident.bytes_done)
            return work.result()[0]
        except ModelkeepError as error:
            # As it is, without the names that RAM has put before it.
            failed = self._ram.tier.get(demand.plans[0].id)
            raise (failed.error if failed is not None and failed.error is not None else error) from None
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError, ModelkeepError):
                await work

    async def _copied(self, plan: Plan, resident: Resident, progress: BuildProgress) -> Built:
        assert resident.built is not None, "it is resident"
        assert plan.placed is not None, "it is for an accelerator"
        built, part_bytes = resident.built, plan.placed.part_bytes
        # What stays in RAM beside the copy may as well stay registered there.
        keep = resident.id if part_bytes or resident.pins else ""

        async def copy() -> Built:
            progress(Stage.PROMOTING, 0)
            memory = await self._copies.put(
                built, part_bytes, keep, lambda done: progress(Stage.PROMOTING, done)
            )
            return replace(built, memory=memory)

        made = await self._tried(plan, copy)
        self._devices.named(self._name).from_ram_bytes += _on_device(made).device_bytes
        return made

    async def _fetched(self, fetches: Fetches, plan: Plan, progress: BuildProgress) -> Built:
        progress(Stage.READING, 0)
        # Files, digests and build are those of the component, wherever it goes.
        made = await self._tried(plan, lambda: fetches.fetch(plan, progress))
        self._devices.named(self._name).from_files_bytes += _on_device(made).device_bytes
        return made

    async def _tried(self, plan: Plan, bring: Callable[[], Awaitable[Built]]) -> Built:
        """Bring a component to the device: again after what another try may not meet."""
        device, tries, looks = self._devices.named(self._name), 0, 0
        while True:
            if device.refusal:
                raise unavailable(device.name, device.refusal)
            try:
                return await bring()
            except DeviceOutOfMemoryError as error:
                looks += 1
                if looks >= _LOOKS_WHEN_FULL:
                    raise _no_room(device, plan, error) from None
                await asyncio.sleep(_FULL_S)
            except DeviceGoneError as error:
                self._devices.lost(device, str(error))
            except DeviceFailedError as error:
                tries += 1
                if tries >= _TRIES:
                    raise ModelkeepError(f"It cannot be copied to {device.name}: {error}") from None


class Salvage:
    """Builds components in RAM: from what an accelerator has of them, or else as ever.

    Args:
        builder: Builds them as ever.
        free: Lets go of memory; see Tier.
    """

    def __init__(
        self, builder: Builder, free: Callable[[Memory], asyncio.Future[None]] = free_in_thread
    ) -> None:
        self._builder = builder
        self._free = free
        self._offers: dict[str, tuple[Built, Copies]] = {}
        self._reading: dict[Any, asyncio.Task[None]] = {}

    async def build(self, plan: Plan, progress: BuildProgress) -> Built:
        """See :class:`modelkeep_loader.domain.components.Builder`."""
        if (offer := self._offers.pop(plan.id, None)) is None:
            return await self._builder.build(plan, progress)
        built, copies = offer
        progress(Stage.READING, 0)
        try:
            memory = await copies.take_back(_on_device(built))
        except (DeviceGoneError, DeviceFailedError):
            return await self._builder.build(plan, progress)
        return replace(built, memory=memory)

    def offer(self, resident: Resident, copies: Copies) -> None:
        """The next build of what this is a copy of may read it back, until :meth:`withdraw`."""
        assert resident.built is not None, "it is there"
        if resident.plan.placed is not None and not resident.plan.placed.part_bytes:
            self._offers[resident.plan.placed.source_id] = (resident.built, copies)

    def withdraw(self, resident: Resident) -> None:
        """It may go."""
        if resident.plan.placed is not None:
            self._offers.pop(resident.plan.placed.source_id, None)

    def demote(self, ram: Cache, resident: Resident, copies: Copies) -> None:
        """A copy is about to be dropped: RAM takes it, if it has it no longer and has room to spare."""
        placed = resident.plan.placed
        if placed is None or placed.part_bytes or resident.built is None:
            return
        there = ram.tier.get(placed.source_id)
        room = ram.tier.room_for(placed.source_bytes)
        if (there is not None and there.stage is not Stage.FAILED) or room.victims or room.bytes_short:
            return
        demand = Demand(
            [replace(resident.plan.source, build_bytes=0)], f"demote {resident.id}", is_lease=False
        )
        if not ram.fits(demand):
            return
        self.offer(resident, copies)
        ram.admit(demand)
        (taken,) = demand.residents
        taken.refs |= {replace(ref, device=CPU): name for ref, name in resident.refs.items()}
        task = asyncio.get_running_loop().create_task(_arrived(ram, demand), name=f"demote {resident.id}")
        self._reading[resident.built.memory] = task

    def free(self, memory: Memory) -> asyncio.Future[None]:
        """Let go of memory once it has been read back; see Tier."""
        task = self._reading.pop(memory, None)
        if task is None:
            return self._free(memory)

        async def later() -> None:
            await asyncio.wait({task})
            await self._free(memory)

        return asyncio.ensure_future(later())


async def _arrived(ram: Cache, demand: Demand) -> None:
    try:
        with contextlib.suppress(ModelkeepError):  # it is built anew when somebody asks for it
            await ram.arrive(demand)
    finally:
        ram.give_back(demand.holder)


def _on_device(built: Built) -> DeviceMemory:
    memory: Any = built.memory
    return memory  # type: ignore[no-any-return]  # an accelerator's tier has no other


def _no_room(device: Device, plan: Plan, error: Exception) -> VramExhaustedException:
    return VramExhaustedException(
        f"{device.name} has no room any more: {error}",
        metadata={
            "device": device.name,
            "bytes_short": str(plan.size_bytes),
            "budget_bytes": str(device.tier.budget_bytes),
            "holders": "",
        },
        retry_after=0.0,
        remedy='Wait with max_wait, end what else uses the device, or ask for the device "cpu".',
    )
