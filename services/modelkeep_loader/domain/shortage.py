"""What is said when something does not fit into a tier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from modelkeep.exceptions import ModelkeepError, RamExhaustedException, VramExhaustedException
from modelkeep_loader.domain.components import Resident
from modelkeep_loader.domain.demand import Demand, Usage
from modelkeep_loader.domain.holders import some_leases


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a demand does not fit.

    Attributes:
        demand: What was asked for.
        usage: The tier's.
        holders: Some of the ``holder_count`` leases that hold something there.
    """

    demand: Demand
    usage: Usage
    holders: Sequence[str]
    holder_count: int


#: Makes the error of a tier.
Explain: TypeAlias = Callable[[Shortage], ModelkeepError]


def ram_exhausted(shortage: Shortage) -> RamExhaustedException:
    """There is no room in RAM."""
    demand, usage = shortage.demand, shortage.usage
    pinned = f", and {usage.pinned:,} bytes are pinned" if usage.pinned else ""
    is_short = f"{demand.bytes_short:,} bytes of {usage.budget:,} are missing"
    if demand.size_bytes > usage.budget:
        is_short = f"{demand.size_bytes:,} bytes are asked for"
        why = f"the whole budget is {usage.budget:,}"
        remedy = "Raise ram_budget_bytes of LoaderService, or ask for less: fewer components, float16."
    elif shortage.holders:
        why = f"the rest is held by {some_leases(shortage.holders, shortage.holder_count)}{pinned}"
        remedy = "Wait with max_wait, end leases (RevokeLease ends any), or raise ram_budget_bytes."
    elif pinned:
        why = f"the rest is being loaded for others, or still mapped by processes without a lease{pinned}"
        remedy = "Take pins back (UnpinModel, `modelkeep cache unpin`), or raise ram_budget_bytes."
    else:
        why = "the rest is being loaded for others, or still mapped by processes without a lease"
        remedy = "Wait with max_wait, end the processes that map it, or raise ram_budget_bytes."
    return RamExhaustedException(
        f"There is no room: {is_short}; {why}.",
        metadata={
            "bytes_short": str(demand.bytes_short),
            "budget_bytes": str(usage.budget),
            "holders": ",".join(shortage.holders),
        },
        retry_after=1.0,
        remedy=remedy,
    )


def vram_exhausted(device: str, most_bytes: int, shortage: Shortage) -> VramExhaustedException:
    """There is no room on an accelerator.

    Args:
        device: Which.
        most_bytes: What the loader may take there by its settings; ``shortage.usage.budget`` is what of it
            other processes leave.
        shortage: What is short.
    """
    demand, usage = shortage.demand, shortage.usage
    is_short = f"{demand.bytes_short:,} bytes of {usage.budget:,} are missing"
    if demand.size_bytes > most_bytes:
        is_short = f"{demand.size_bytes:,} bytes are asked for"
        why = f"all that may be used there is {most_bytes:,}"
        remedy = 'Ask for less (float16, max_vram_bytes), for the device "cpu", or raise vram_budget_bytes.'
    elif demand.size_bytes > usage.budget:
        is_short = f"{demand.size_bytes:,} bytes are asked for"
        why = f"other processes leave {usage.budget:,} of the {most_bytes:,} that may be used there"
        remedy = (
            "Wait with max_wait, end what uses its memory (workers have what they map after their leases, "
            'too), or ask for less (float16, max_vram_bytes), or for the device "cpu".'
        )
    elif shortage.holders:
        why = f"the rest is held by {some_leases(shortage.holders, shortage.holder_count)}"
        remedy = 'Wait with max_wait, end leases (RevokeLease ends any), or ask for the device "cpu".'
    else:
        why = "the rest is being loaded for others, or pinned"
        remedy = 'Wait with max_wait, take pins back (UnpinModel), or ask for the device "cpu".'
    return VramExhaustedException(
        f"There is no room on {device}: {is_short}; {why}.",
        metadata={
            "device": device,
            "bytes_short": str(demand.bytes_short),
            "budget_bytes": str(usage.budget),
            "holders": ",".join(shortage.holders),
        },
        retry_after=1.0,
        remedy=remedy,
    )


def build_outgrown(resident: Resident, besides: int, usage: Usage) -> RamExhaustedException:
    """A build takes more memory than there is room for beside what must stay."""
    return RamExhaustedException(
        f"Building it takes {besides:,} bytes of RAM besides its own {resident.size_bytes:,}, and there is "
        f"no room for them within the budget of {usage.budget:,}, so it was ended.",
        metadata={
            "bytes_short": str(usage.taken - usage.budget),
            "budget_bytes": str(usage.budget),
            "holders": "",
        },
        retry_after=5.0,
        remedy="Try again when leases have ended, or raise ram_budget_bytes of LoaderService.",
    )
