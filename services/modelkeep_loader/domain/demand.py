"""What is asked of a tier, and what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from modelkeep_loader.domain.components import Plan, Resident


@dataclass(slots=True, eq=False)
class Demand:
    """One request for components, as it can be watched while it is served.

    Attributes:
        plans: What is wanted.
        holder: Id of the lease to be, or of the request that only loads.
        is_lease: Whether `holder` is a lease.
        residents: What was found or is being built, in the order of `plans`; empty while it waits.
        bytes_short: Bytes that are missing while it waits for room.
    """

    plans: Sequence[Plan]
    holder: str
    is_lease: bool = True
    residents: list[Resident] = field(default_factory=list)
    bytes_short: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of the tier. ``used`` counts residents and those being built."""

    budget: int
    used: int
    leased: int
    zombie: int
    residents: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Eviction:
    """What an eviction did. ``freed`` and ``zombie`` are bytes."""

    residents: list[Resident]
    freed: int
    zombie: int
