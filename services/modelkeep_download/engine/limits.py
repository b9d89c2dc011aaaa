"""How many bytes a second may pass: of all downloads together, and of one. Changed live, from any thread.

Each level is a bucket that fills at its rate and whose bytes go to those who wait in the order in which they
came. What nobody takes is lost after a moment, so that a quiet time is not made up for by a burst.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

#: Most bytes to read at once.
_CHUNK_MOST = 1 << 20
#: Fewest, where a chunk is no longer time than this share of a second.
_CHUNK_LEAST = 16 << 10
_CHUNKS_A_SECOND = 20
_CHUNK_EVER = 1 << 10
#: Seconds of its rate that a bucket holds for who comes next.
_BURST_S = 0.1
#: Longest sleep before a look at whether the rate has changed.
_LOOK_S = 0.05


class Stop(Protocol):
    """What `modelkeep_download.engine.stops.StopSignal` is here."""

    def wait(self, seconds: float) -> None:
        """Sleep, or raise as soon as the thread is told to stop."""


class Bandwidth:
    """A rate that threads share.

    Args:
        rate: Bytes a second; 0 for no limit.
        clock: Seconds, never going back.
    """

    def __init__(self, rate: int = 0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._lock = threading.Lock()
        #: Bytes that may pass now, as of `_at`.
        self._level, self._at = 0.0, clock()
        #: Bytes that each waiting thread wants, in the order in which they came.
        self._waiting: dict[object, int] = {}

    @property
    def rate(self) -> int:
        """Bytes a second; 0 for no limit. Threads that wait heed a new one within 50 ms."""
        return self._rate

    @rate.setter
    def rate(self, rate: int) -> None:
        with self._lock:
            self._fill()
            self._rate = rate
            self._fill()  # what the old rate had left for a burst may be more than the new one allows

    def take(self, count: int, stop: Stop) -> float:
        """Wait until so many bytes may pass; returns the seconds that it took.

        Raises:
            Stopped: The thread is told to stop; the bytes are left to others.
        """
        if not self._rate:
            return 0.0
        began, ticket = self._clock(), object()
        with self._lock:
            self._waiting[ticket] = count
        try:
            while (delay := self._delay(ticket)) > 0:
                stop.wait(min(delay, _LOOK_S))
        finally:
            with self._lock:
                self._waiting.pop(ticket, None)
        return self._clock() - began

    def chunk(self) -> int:
        """How many bytes to read at once, at most, so that they pass evenly."""
        if not self._rate:
            return _CHUNK_MOST
        share = self._rate // _CHUNKS_A_SECOND
        among = share // max(1, len(self._waiting))
        return max(_CHUNK_EVER, min(share, max(among, _CHUNK_LEAST), _CHUNK_MOST))

    def _delay(self, ticket: object) -> float:
        """Seconds until a ticket's turn, as it looks now; 0 when it has come, and its bytes are taken."""
        with self._lock:
            self._fill()
            if not self._rate:
                return 0.0
            missing = -self._level
            for other, count in self._waiting.items():
                missing += count
                if other is ticket:
                    break
            if missing < 1:  # less than a byte is the rounding of time
                self._level -= self._waiting.pop(ticket)
                return 0.0
            return missing / self._rate

    def _fill(self) -> None:
        now = self._clock()
        # Who waits gets what has come in however late the machine wakes him; only beyond that a burst ends.
        most = self._rate * _BURST_S + sum(self._waiting.values())
        self._level = min(self._level + (now - self._at) * self._rate, most)
        self._at = now


class JobBandwidth:
    """What the threads of one job pass their bytes through: the job's own rate and that of the service.

    Args:
        service: Of all jobs together; None: none.
        rate: The job's own, in bytes a second; 0 for no limit.
    """

    def __init__(self, service: Bandwidth | None = None, rate: int = 0) -> None:
        self._levels = (Bandwidth(rate), service or Bandwidth())

    @property
    def rate(self) -> int:
        """The job's own bytes a second; 0 for no limit. Any thread may set it."""
        return self._levels[0].rate

    @rate.setter
    def rate(self, rate: int) -> None:
        self._levels[0].rate = rate

    def take(self, count: int, stop: Stop) -> float:
        """Wait until so many bytes may pass at each level; returns the seconds that it took.

        Raises:
            Stopped: The thread is told to stop.
        """
        own, service = self._levels
        return own.take(count, stop) + service.take(count, stop)

    def chunk(self) -> int:
        """How many bytes to read at once, at most, so that they pass evenly."""
        own, service = self._levels
        return min(own.chunk(), service.chunk())
