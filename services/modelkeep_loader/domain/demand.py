"""What is asked of a tier, and what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from modelkeep_loader.domain.components import Plan, Resident


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms somebody wants components.

    Attributes:
        activation_bytes: Bytes that are to be reserved besides, for as long as he holds them.
        keep_alive_s: Seconds that the components are kept once nobody uses them; below 0: for as long as
            there is room; None: as the tier does.
        max_vram_bytes: The most that they may take on accelerators, together; 0: no bound.
    """

    activation_bytes: int = 0
    keep_alive_s: float | None = None
    max_vram_bytes: int = 0


NO_TERMS: Final = Terms()


@dataclass(slots=True, eq=False)
class Demand:
    """One request for components, as it can be watched while it is served.

    Attributes:
        plans: What is wanted.
        holder: Id of the lease to be, or of the request that only loads.
        is_lease: Whether `holder` is a lease.
        terms: What is wanted besides, and for how long.
        residents: What was found or is being built, in the order of `plans`; empty while it waits.
        bytes_short: Bytes that are missing while it waits for room.
        wanted: Plans in RAM of what is wanted, from which `plans` are made where accelerators have room;
            empty where `plans` stand.
        passing: Ids of what is only held until the rest is there.
    """

    plans: Sequence[Plan]
    holder: str
    is_lease: bool = True
    terms: Terms = NO_TERMS
    residents: list[Resident] = field(default_factory=list)
    bytes_short: int = 0
    wanted: Sequence[Plan] = ()
    passing: frozenset[str] = frozenset()
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def size_bytes(self) -> int:
        """Bytes that it takes if nothing of it is there, with what building it takes besides."""
        components = sum({plan.id: plan.size_bytes for plan in self.plans}.values())
        return components + build_bytes(self.plans) + self.terms.activation_bytes


def build_bytes(plans: Iterable[Plan]) -> int:
    """Bytes that building these takes besides them: they are built one by one."""
    return max((plan.build_bytes for plan in plans), default=0)


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of a tier, and what it has counted since its start.

    Attributes:
        budget: What may be taken.
        used: Of residents and those being built.
        leased, pinned: Parts of `used`.
        zombie: Of what was dropped and is still mapped.
        reserved: Promised to leases and builds besides.
        residents: Number of residents.
        waiting: Requests that wait for room.
        high_watermark: The most that was taken at once.
        hits, misses: Components that were asked for and resident, or not.
        evictions: Residents that were dropped.
    """

    budget: int
    used: int
    leased: int
    pinned: int
    zombie: int
    reserved: int
    residents: int
    waiting: int = 0
    high_watermark: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0

    @property
    def taken(self) -> int:
        """Bytes that count against the budget."""
        return self.used + self.zombie + self.reserved


@dataclass(frozen=True, slots=True)
class Room:
    """What has to go so that something fits, the first to go first, and the bytes that are missing then."""

    victims: list[Resident]
    bytes_short: int


@dataclass(frozen=True, slots=True)
class Eviction:
    """What an eviction did. ``freed`` and ``zombie`` are bytes."""

    residents: list[Resident]
    freed: int
    zombie: int
