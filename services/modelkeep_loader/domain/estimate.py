"""What loading components would take, worked out beforehand. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from modelkeep.exceptions import ModelkeepError
from modelkeep_loader.domain.components import Plan, Resident, Stage
from modelkeep_loader.domain.demand import build_bytes
from modelkeep_loader.domain.policy import reload_seconds
from modelkeep_loader.domain.tier import Tier


@dataclass(frozen=True, slots=True)
class ComponentEstimate:
    """What one component would take.

    Attributes:
        plan: How it would be made; its id is empty where its files have not been read yet.
        resident: It, if it is there, on its way, or failed a short while ago.
        size_bytes: Bytes that it takes in memory, or would.
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


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a demand would take.

    Attributes:
        components: In the order of the request.
        needed_bytes: Bytes that would have to be found: of what is not there, of what building it takes
            besides, and of what is reserved.
        victims: What would be dropped for that, the first to go first.
        bytes_short: Bytes that would be missing all the same.
        fits_at_all: Whether the whole demand is within the budget.
        load_seconds: Seconds until all were there, if there is room; they are built one after the other.
    """

    components: Sequence[ComponentEstimate]
    needed_bytes: int
    victims: Sequence[Resident]
    bytes_short: int
    fits_at_all: bool
    load_seconds: float


def estimate(
    plans: Sequence[Plan],
    tier: Tier,
    activation_bytes: int,
    is_on_disk: Callable[[Plan], bool] = lambda plan: False,
) -> Estimate:
    """What a demand for these would take of a tier.

    Args:
        plans: What is wanted; an id may be empty.
        tier: Where it is wanted.
        activation_bytes: Bytes that are to be reserved besides.
        is_on_disk: Whether the disk tier has copies of all files of a plan.
    """
    found: list[ComponentEstimate] = []
    # What is the same component takes its room, and its time, once.
    different: dict[object, ComponentEstimate] = {}
    for plan in plans:
        one = _of(plan, tier.get(plan.id) if plan.id else None, tier.clock())
        one = replace(one, is_on_disk=is_on_disk(plan))
        found.append(one)
        different.setdefault(plan.id or _likeness(plan), one)
    missing = [one for one in different.values() if _is_missing(one.resident)]
    needed = sum(one.size_bytes for one in missing) + activation_bytes
    needed += tier.besides(one.plan for one in missing)
    room = tier.room_for(needed, [plan.id for plan in plans])
    whole = sum(one.size_bytes for one in different.values()) + activation_bytes
    whole += build_bytes(one.plan for one in missing)
    return Estimate(
        found,
        needed,
        room.victims if not room.bytes_short else (),
        room.bytes_short,
        whole <= tier.budget_bytes,
        sum(one.load_seconds for one in different.values()),
    )


def _likeness(plan: Plan) -> object:
    """What two plans of one component have in common where no identity tells it yet."""
    return plan.files, plan.class_name, plan.part, plan.precision, plan.weights, plan.memory_format


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
