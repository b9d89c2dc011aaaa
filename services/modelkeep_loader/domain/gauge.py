"""Tells how full the loader is to those who watch it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from modelkeep_loader.domain.drain import Drain

T = TypeVar("T")

#: Seconds after which is looked at what changes without an event: requests that wait, memory that is mapped.
_LOOK_S: Final = 1.0


class Gauge(Generic[T]):
    """A reading that can be watched. Belongs to one event loop.

    Args:
        read: Takes the reading; readings are compared.
        drain: Ends the watches when the loader shuts down.
        clock: Monotonic seconds.
    """

    def __init__(self, read: Callable[[], T], drain: Drain, clock: Callable[[], float]) -> None:
        self._read = read
        self._drain = drain
        self._clock = clock
        self._watchers: set[asyncio.Event] = set()

    def moved(self) -> None:
        """Something has changed that the reading may depend on."""
        for moved in self._watchers:
            moved.set()

    async def watch(
        self, tell: Callable[[T | None], Awaitable[None]], *, least_s: float, most_s: float
    ) -> None:
        """Tell the reading at once and whenever it has changed, until cancelled.

        Args:
            tell: Told the reading, or None after so much silence.
            least_s: Seconds between two readings that are told, at least.
            most_s: Seconds of silence, at most.

        Raises:
            ServerDrainingException: The loader shuts down.
        """
        moved, never = asyncio.Event(), asyncio.Event()
        self._watchers.add(moved)
        try:
            told = self._read()
            await tell(told)
            told_at = spoken_at = self._clock()
            while True:
                moved.clear()
                if (now := self._read()) != told and self._clock() - told_at >= least_s:
                    told = now
                    await tell(told)
                    told_at = spoken_at = self._clock()
                    continue
                silent_s = self._clock() - spoken_at
                if silent_s >= most_s:
                    await tell(None)
                    spoken_at = self._clock()
                    continue
                pause = min(_LOOK_S, most_s - silent_s)
                if now == told:
                    await self._drain.until(moved, pause)
                else:
                    # It is told when its time has come, whatever else moves before.
                    await self._drain.until(never, max(0.0, min(pause, told_at + least_s - self._clock())))
        finally:
            self._watchers.discard(moved)
