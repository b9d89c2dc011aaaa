"""How many bytes the watches of a collection hold in frames that their readers have not taken yet.

What several watchers hold together is in memory once, and counts once. When all of it is too much, those
give up first who have taken nothing for the longest: their changes are in the log, and are read again at
their own pace; what was read from there, or is a snapshot, ends its watch when it is given up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from .frames import Frame


class Holder(Protocol):
    """A watch, as far as this module cares."""

    #: Bytes of what waits for its reader.
    waiting_bytes: int
    #: When the reader took a frame.
    last_taken: float

    def give_up(self) -> None:
        """Let go of everything that waits."""
        ...


class WatchBudget:
    """Counts for all watches of a hub.

    Args:
        limit_bytes: What they may hold together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        #: What they hold now.
        self.held_bytes = 0

    def take(self, frame: Frame[Any]) -> None:
        """One more watcher holds the frame."""
        if frame.holders == 0:
            self.held_bytes += frame.size_bytes
        frame.holders += 1

    def give(self, frame: Frame[Any]) -> None:
        """One watcher less does."""
        frame.holders -= 1
        if frame.holders == 0:
            self.held_bytes -= frame.size_bytes

    def shed(self, watches: Iterable[Holder]) -> None:
        """Make the watches that have taken nothing for the longest give up, until the limit holds.

        One is always left alone, since a snapshot must be possible that is larger than the limit.
        """
        if self.held_bytes <= self.limit_bytes:
            return
        waiting = (watch for watch in watches if watch.waiting_bytes)
        holding = sorted(waiting, key=lambda watch: watch.last_taken, reverse=True)
        while len(holding) > 1 and self.held_bytes > self.limit_bytes:
            holding.pop().give_up()
