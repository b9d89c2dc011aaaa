"""How long to wait between tries of what a fault interrupted."""

from __future__ import annotations

import random


class Backoff:
    """Waits that double from try to try, up to a limit, and begin anew after a success.

    Args:
        first_s: The first wait, in seconds.
        last_s: The longest one.
    """

    #: A wait is up to so much shorter or longer: those who began to wait together do not try together.
    SPREAD = 0.2

    def __init__(self, first_s: float, last_s: float) -> None:
        self._first_s, self._last_s = first_s, last_s
        self._next_s = first_s

    def next(self) -> float:
        """The wait before the next try, in seconds."""
        wait, self._next_s = self._next_s, min(2 * self._next_s, self._last_s)
        return wait * random.uniform(1 - self.SPREAD, 1 + self.SPREAD)

    def reset(self) -> None:
        """A try succeeded."""
        self._next_s = self._first_s
