"""What loading components would take, worked out beforehand. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from modelkeep.exceptions import ModelkeepError
from modelkeep_loader.domain.caches import Caches
from modelkeep_loader.domain.components import Plan, Resident, Stage
from modelkeep_loader.domain.demand import Room, build_bytes
from modelkeep_loader.domain.policy import reload_seconds
from modelkeep_loader.domain.tier import Tier

#: What copying to an accelerator is taken to cost (10 GB/s).
_COPY_SECONDS_PER_BYTE: Final = 1e-10


@dataclass(frozen=True, slots=True)
class ComponentEstimate:
    """What one component would take.

    Attributes:
        plan: How it would be made, and where; its id is empty where its files have not been read yet.
        resident: It, if it is there, on its way, or failed a short while ago.
        size_bytes: Bytes that it takes in RAM, or would.
        load_seconds: Seconds until it were there; 0 if it is.
        error: Why it failed, if it is not tried again yet.
        is_on_disk: Whether the disk tier has copies of all its files.
        retry_in_s: Seconds until it may be.
    """

    plan: Plan
    resident: Resident | None
    size_bytes: int
    load_seconds: float
    error: ModelkeepError | None = None
    is_on_disk: bool = False
    retry_in_s: float = 0.0

    @property
    def vram_bytes(self) -> int:
        """Bytes that it takes on an accelerator, or would."""
        if self.plan.placed is None:
            return 0
        is_there = self.resident is not None and self.resident.stage is Stage.RESIDENT
        return self.resident.size_bytes if self.resident is not None and is_there else self.plan.size_bytes


@dataclass(frozen=True, slots=True)
class DeviceEstimate:
    """What a demand would take of one accelerator; bytes."""

    device: str
    needed_bytes: int
    bytes_short: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a demand would take.

    Attributes:
        components: In the order of the request.
        needed_bytes: Bytes that would have to be found in RAM: of what is not there, of what building it
            takes besides, and of what is reserved.
        victims: What would be dropped for that, and on accelerators, the first to go first.
        bytes_short: Bytes of RAM that would be missing all the same.
        fits_at_all: Whether the whole demand is within the budgets.
        load_seconds: Seconds until all were there, if there is room; they are built one after the other.
        devices: What it would take of accelerators.
    """

    components: Sequence[ComponentEstimate]
    needed_bytes: int
    victims: Sequence[Resident]
    bytes_short: int
    fits_at_all: bool
    load_seconds: float
    devices: Sequence[DeviceEstimate] = ()

    @property
    def fits_now(self) -> bool:
        """Whether there is room for it, or could be made."""
        return not self.bytes_short and not any(one.bytes_short for one in self.devices)


def estimate(
    plans: Sequence[Plan],
    caches: Caches,
    activation_bytes: int,
    is_on_disk: Callable[[Plan], bool] = lambda plan: False,
) -> Estimate:
    """What a demand for these would take.

    Args:
        plans: What is wanted, and where; an id may be empty.
        caches: RAM and the accelerators.
        activation_bytes: Bytes that are to be reserved besides.
        is_on_disk: Whether the disk tier has copies of all files of a plan.
    """
    ram = caches.ram.tier
    found: list[ComponentEstimate] = []
    # What is the same component takes its room, and its time, once.
    in_ram: dict[object, ComponentEstimate] = {}
    on_devices: dict[str, dict[object, ComponentEstimate]] = {}
    for plan in plans:
        one = source = _of(plan.source, ram.get(plan.source.id) if plan.id else None, ram.clock())
        if plan.placed is not None:
            one = _copied(plan, source, caches)
            on_devices.setdefault(plan.device, {}).setdefault(plan.id or _likeness(plan), one)
        by_ram = _is_missing(one.resident) and not caches.devices.goes_straight(plan)
        if plan.placed is None or plan.placed.part_bytes or by_ram:
            in_ram.setdefault(source.plan.id or _likeness(plan), source)
        found.append(replace(one, is_on_disk=is_on_disk(plan)))
    needs = [_need(in_ram.values(), ram, 0 if on_devices else activation_bytes)]
    names = list(on_devices)
    for name in names:
        tier = caches.devices.named(name).tier
        needs.append(_need(on_devices[name].values(), tier, activation_bytes if name == names[0] else 0))
    short = any(need.room.bytes_short for need in needs)
    return Estimate(
        found,
        needs[0].bytes,
        () if short else [resident for need in needs for resident in need.room.victims],
        needs[0].room.bytes_short,
        all(need.fits_at_all for need in needs),
        sum(
            {
                plan.id or _likeness(plan): one.load_seconds for plan, one in zip(plans, found, strict=True)
            }.values()
        ),
        [
            DeviceEstimate(name, need.bytes, need.room.bytes_short)
            for name, need in zip(names, needs[1:], strict=True)
        ],
    )


class _Need(NamedTuple):
    """What is wanted of one tier."""

    bytes: int
    room: Room
    fits_at_all: bool


def _need(wanted: Collection[ComponentEstimate], tier: Tier, activation_bytes: int) -> _Need:
    """What some components, each named once, would take of a tier."""

    def size(one: ComponentEstimate) -> int:
        return one.vram_bytes if one.plan.placed is not None else one.size_bytes

    missing = [one for one in wanted if _is_missing(one.resident)]
    needed = sum(map(size, missing)) + activation_bytes + tier.besides(one.plan for one in missing)
    whole = sum(map(size, wanted)) + activation_bytes + build_bytes(one.plan for one in missing)
    room = tier.room_for(needed, [one.plan.id for one in wanted])
    return _Need(needed, room, whole <= tier.most_bytes)


def _copied(plan: Plan, source: ComponentEstimate, caches: Caches) -> ComponentEstimate:
    """What a copy on an accelerator would take, from what its component in RAM does."""
    tier = caches.of(plan).tier
    one = _of(plan, tier.get(plan.id) if plan.id else None, tier.clock())
    one = replace(one, size_bytes=source.size_bytes)
    if one.resident is not None and one.resident.stage is Stage.RESIDENT:
        return one
    seconds = source.load_seconds + plan.size_bytes * _COPY_SECONDS_PER_BYTE
    return replace(
        one,
        load_seconds=seconds,
        error=one.error or source.error,
        retry_in_s=max(one.retry_in_s, source.retry_in_s),
    )


def _likeness(plan: Plan) -> object:
    """What two plans of one component have in common where no identity tells it yet."""
    return (
        plan.files,
        plan.class_name,
        plan.part,
        plan.precision,
        plan.weights,
        plan.memory_format,
        plan.device,
    )


def _of(plan: Plan, resident: Resident | None, now: float) -> ComponentEstimate:
    if resident is not None and resident.stage is Stage.RESIDENT:
        return ComponentEstimate(plan, resident, resident.size_bytes, 0.0)
    seconds = reload_seconds(plan.size_bytes)
    if resident is not None and resident.is_loading:
        seconds *= 1 - min(1.0, resident.bytes_done / max(1, resident.size_bytes))
    if not plan.id:
        # Its files are read once more, to know what they are.
        seconds += reload_seconds(sum(file.size_bytes for file in plan.files))
    one = ComponentEstimate(plan, resident, plan.size_bytes, seconds)
    if resident is None or resident.stage is not Stage.FAILED or resident.failed_elsewhere(plan):
        return one
    wait = resident.retry_at - now
    return replace(one, error=resident.failure(plan), retry_in_s=wait) if wait > 0 else one


def _is_missing(resident: Resident | None) -> bool:
    return resident is None or resident.stage is Stage.FAILED
