"""How often a job's progress is told, and how fast it is."""

from __future__ import annotations

import time
from collections import deque

_WINDOW_S = 3.0


class ProgressMeter:
    """Decides when a step is worth telling, and keeps the rate over the last seconds.

    A step is told when it is 1 % of the total (any step while the total is unknown) and 100 ms after the
    last one, so at most ten times a second. Bytes never go back.
    """

    def __init__(self, bytes_done: int, total: int | None, *, now: float | None = None) -> None:
        now = time.monotonic() if now is None else now
        self.bytes_done = bytes_done
        self.total = total
        self._told_bytes, self._told_time = bytes_done, now
        self._samples: deque[tuple[float, int]] = deque([(now, bytes_done)])

    def advance(self, bytes_done: int, *, now: float | None = None) -> bool:
        """Take note of so many bytes; True if that should be told now."""
        now = time.monotonic() if now is None else now
        self.bytes_done = max(self.bytes_done, bytes_done)
        if now - self._samples[-1][0] >= 0.1:
            self._samples.append((now, self.bytes_done))
            while len(self._samples) > 2 and now - self._samples[1][0] > _WINDOW_S:
                self._samples.popleft()
        if now - self._told_time < 0.1:
            return False
        if (self.bytes_done - self._told_bytes) * 100 < (self.total or 1):
            return False
        self._told_bytes, self._told_time = self.bytes_done, now
        return True

    def rate(self, *, now: float | None = None) -> int:
        """Bytes a second over the last three seconds; 0 if nothing came in them."""
        now = time.monotonic() if now is None else now
        if now - self._samples[-1][0] > _WINDOW_S:
            return 0
        then, before = self._samples[0]
        return int((self.bytes_done - before) / (now - then)) if now > then else 0
