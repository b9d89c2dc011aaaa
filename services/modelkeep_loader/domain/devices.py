"""The accelerators of a host, and which of them a caller may mean.

A caller names a device ("cuda:1"), a kind of accelerator ("cuda"), the host's own memory ("cpu"), or leaves
it to the loader ("auto"). Names are those of :class:`modelkeep.devices.driver.DeviceFacts`.

A device's memory is not the loader's alone: other processes take of it, and workers for what they compute.
So its budget is what the setting allows, or what others leave, whichever is less; it is measured before room
is looked for, and about once a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from modelkeep.devices.driver import DeviceFacts, DeviceFailedError, DeviceGoneError
from modelkeep.devices.driver import DeviceMemory as DeviceBytes
from modelkeep.exceptions import DeviceUnavailableException, FieldInvalidException, FieldViolation
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.components import AUTO, CPU, Builder, Memory, Plan, Resident
from modelkeep_loader.domain.demand import Usage
from modelkeep_loader.domain.shortage import vram_exhausted
from modelkeep_loader.domain.straight import Straight
from modelkeep_loader.domain.tier import BUILDS, Tier, TierName

_log = logging.getLogger(__name__)

#: Seconds between two looks at how much is free.
_LOOK_S: Final = 1.0


class Measures(Protocol):
    """Knows how much of a device's memory is free."""

    async def memory(self, device: str) -> DeviceBytes:
        """See :meth:`modelkeep_loader.accelerators.Accelerators.memory`."""
        ...


def unavailable(device: str, why: str) -> DeviceUnavailableException:
    """A device that is there, and cannot be used."""
    return DeviceUnavailableException(
        f"The device {device} cannot be used: {why.rstrip('.')}.", metadata={"device": device, "why": why}
    )


class DeviceTier(Tier):
    """The tier of one accelerator, whose budget is what others leave of its memory.

    Args:
        facts: The device.
        budget_bytes: The most that may be taken of it.
        **how: As for Tier.
    """

    #: What others have is measured a little later than what is taken here, and may be this loader's own.
    _keeps_to_budget = False

    def __init__(self, facts: DeviceFacts, *, budget_bytes: int, **how: Any) -> None:
        super().__init__(TierName.VRAM, budget_bytes=budget_bytes, **how)
        self.facts = facts
        self._most_bytes = budget_bytes
        #: Allocations that this process keeps.
        self.made: set[Memory] = set()

    @property
    def most_bytes(self) -> int:
        """See Tier."""
        return self._most_bytes

    def measured(self, free_bytes: int) -> bool:
        """So much of the device is free now, all processes together; whether that changes the budget."""
        before, ours = self.budget_bytes, sum(memory.size_bytes for memory in self.made)
        others = self.facts.total_bytes - free_bytes - ours
        # What holders said that they need counts once: where they take it, or where they have not yet.
        promised = sum(taken for purpose, taken in self._reserved.items() if purpose != BUILDS)
        left = self.facts.total_bytes - max(0, others - promised)
        self.budget_bytes = max(0, min(self._most_bytes, left))
        return self.budget_bytes != before


class Device:
    """An accelerator, for as long as the loader runs.

    Args:
        facts: What its driver says of it.
        builder: Copies components there.
        tier: Holds them.
        on_progress: Called with a resident whose copying went on.
    """

    def __init__(
        self,
        facts: DeviceFacts,
        builder: Builder,
        tier: DeviceTier,
        on_progress: Callable[[Resident], None] = lambda resident: None,
    ) -> None:
        self.facts = facts
        self.tier = tier
        self.cache = Cache(
            builder,
            tier,
            on_progress=on_progress,
            explain=partial(vram_exhausted, facts.name, tier.most_bytes),
        )
        #: Why nothing can be lent on it, in words; "" if it can.
        self.refusal = facts.refusal
        self.free_bytes = 0
        #: What has come there since the start, by its way.
        self.from_ram_bytes = self.from_files_bytes = 0

    @property
    def name(self) -> str:
        """What callers know it by."""
        return self.facts.name

    @property
    def kind(self) -> str:
        """What its name begins with."""
        return self.name.partition(":")[0]


@dataclass(frozen=True, slots=True)
class DeviceCapacity:
    """An accelerator as it is now.

    Attributes:
        free_bytes: What its driver counted last.
        from_ram_bytes, from_files_bytes: What has come there since the start, by its way.
    """

    facts: DeviceFacts
    usage: Usage
    free_bytes: int
    refusal: str
    from_ram_bytes: int = 0
    from_files_bytes: int = 0

    @classmethod
    def of(cls, device: Device) -> DeviceCapacity:
        """What there is of a device."""
        return cls(
            device.facts,
            device.cache.usage(),
            device.free_bytes,
            device.refusal,
            device.from_ram_bytes,
            device.from_files_bytes,
        )


class Devices:
    """The accelerators of a host. Belongs to one event loop.

    Args:
        devices: Those that there are, in the order of their numbers.
        default: What "auto" means: "auto" itself (an accelerator where there is one), or any other device.
        measures: Knows how much memory is free.
    """

    def __init__(
        self, devices: Sequence[Device] = (), default: str = AUTO, measures: Measures | None = None
    ) -> None:
        self.all = devices
        self._default = default
        self._measures = measures
        #: Which way components take to them; None: all by RAM.
        self.straight: Straight | None = None
        #: Called with a device that is gone, and why.
        self.on_lost: Callable[[Device, str], None] = lambda device, why: None
        self._watching: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to look at what others do to the devices."""
        if self.all:
            self._watching = asyncio.get_running_loop().create_task(self._watch(), name="devices")

    def goes_straight(self, plan: Plan) -> bool:
        """Whether a component that is not on its accelerator yet needs no place in RAM on its way there."""
        return self.straight is not None and self.straight.goes(plan)

    @property
    def usable(self) -> list[Device]:
        """Those that something can be lent on."""
        return [device for device in self.all if not device.refusal]

    def named(self, name: str) -> Device:
        """One of them, by its whole name."""
        return next(device for device in self.all if device.name == name)

    def candidates(self, asked: str) -> list[Device]:
        """Accelerators that may be meant by what a caller asked for; none: the host's own memory.

        Raises:
            FieldInvalidException: There is no such device.
            DeviceUnavailableException: There is, and it cannot be used.
        """
        wanted = self._default if asked == AUTO else asked
        if wanted == AUTO:
            return self.usable
        if wanted == CPU:
            return []
        meant = [device for device in self.all if wanted in (device.name, device.kind)]
        if not meant:
            raise self._unknown(asked, wanted)
        if found := [device for device in meant if not device.refusal]:
            return found
        raise unavailable(meant[0].name, meant[0].refusal)

    async def measure(self) -> None:
        """Learn how much of each device is free now; whoever waits for room hears of a change."""
        await asyncio.gather(*(self._measure(device) for device in self.usable))

    def lost(self, device: Device, why: str) -> None:
        """A device is gone: nothing is lent on it any more."""
        if device.refusal:
            return
        device.refusal = why or "it is gone"
        _log.warning("%s is gone, and nothing is lent on it any more: %s", device.name, why)
        self.on_lost(device, device.refusal)
        for resident in device.tier.residents():
            if not resident.is_loading:
                device.tier.drop(resident)
        device.cache.wake()

    async def close(self) -> None:
        """Stop copying, and let go of all memory."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        for device in self.all:
            await device.cache.close()

    async def _watch(self) -> None:
        while True:
            await self.measure()
            await asyncio.sleep(_LOOK_S)

    async def _measure(self, device: Device) -> None:
        if self._measures is None:
            return
        try:
            await device.tier.freed()
            found = await self._measures.memory(device.name)
        except DeviceGoneError as error:
            self.lost(device, str(error))
        except DeviceFailedError as error:
            _log.warning("the memory of %s cannot be told: %s", device.name, error)
        else:
            device.free_bytes = found.free_bytes
            if device.tier.measured(found.free_bytes):
                device.cache.wake()

    def _unknown(self, asked: str, wanted: str) -> FieldInvalidException:
        said = f"{wanted}, which the loader's setting `device` names" if asked != wanted else wanted
        there = ", ".join([CPU, *(device.name for device in self.all)])
        return FieldInvalidException(
            f"This host has no device {said}: it has {there}.",
            violations=[FieldViolation("components.device", f"must be {AUTO}, or one of {there}")],
        )
