"""A loader out of service: what is still held, told until nothing is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from modelkeep_loader.domain.drain import Drain
from modelkeep_loader.domain.lease import Lease

#: Leases that are named.
_NAMED: Final = 16
#: Seconds between two frames: at least, and at most.
_LEAST_S, _MOST_S = 0.2, 15.0


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is still held.

    Attributes:
        lease_count: Leases that have not ended.
        lease_ids: Some of them, the oldest first.
        leased_bytes: Bytes that they hold.
        done: Whether that is the last word.
    """

    lease_count: int
    lease_ids: Sequence[str]
    leased_bytes: int
    done: bool


async def remaining(
    alive: Callable[[], Sequence[Lease]],
    leased_bytes: Callable[[], int],
    drain: Drain,
    timeout_s: float,
    clock: Callable[[], float],
) -> AsyncGenerator[Remaining]:
    """Tell what is still held, at once and whenever it changes, until nothing is or the time is over.

    Raises:
        ServerDrainingException: The loader shuts down meanwhile.
    """
    deadline, told, told_at = clock() + timeout_s, -1, 0.0
    while True:
        leases = alive()
        done = not leases or clock() >= deadline
        if done or len(leases) != told or clock() - told_at >= _MOST_S:
            told, told_at = len(leases), clock()
            yield Remaining(told, [lease.id for lease in leases[:_NAMED]], leased_bytes(), done)
        if done:
            return
        await drain.until(asyncio.Event(), min(_LEAST_S, max(deadline - clock(), 0.001)))
