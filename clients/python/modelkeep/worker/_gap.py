"""A time in which a worker cannot hear the loader."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from modelkeep.backoff import Backoff

#: Pauses between tries to have the loader back, in seconds: the first at most, and the longest.
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.05, 1.0
#: Seconds for which the loader must be heard again before a new gap is another one.
_STEADY_S: Final = 1.0


class Gap:
    """How long the loader may be away, and when to try to have it back.

    Args:
        longest_s: Seconds after which it is given up; 0: at once.
        clock: Monotonic seconds.
    """

    def __init__(self, longest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.longest_s = longest_s
        self._clock = clock
        self._pauses = Backoff(_FIRST_PAUSE_S, _LAST_PAUSE_S)
        self._began = self._ended = clock() - _STEADY_S
        self._is_first = True

    def begin(self) -> bool:
        """It begins, or has not really ended; whether it is a new one."""
        now = self._clock()
        if now - self._ended < _STEADY_S:
            return False
        self._began, self._is_first = now, True
        self._pauses.reset()
        return True

    def pause(self, asked_s: float | None = None) -> float | None:
        """Seconds until the next try; None: there is no time for one. The first of a gap comes at once.

        Args:
            asked_s: How long the loader asks to wait.
        """
        left = self._began + self.longest_s - self._clock()
        if left <= 0:
            return None
        if self._is_first:
            self._is_first = False
            return 0.0
        return min(self._pauses.next(asked_s), left)

    def end(self) -> float:
        """The loader is heard again; how many seconds it was not."""
        self._ended = self._clock()
        return self._ended - self._began
