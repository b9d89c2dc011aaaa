"""How long to wait between tries of what a fault interrupted."""

from __future__ import annotations

import math
import random


class Backoff:
    """Waits that double from try to try, up to a limit, and begin anew after a success.

    Args:
        first_s: The first wait, in seconds.
        last_s: The longest one.
        spread: By what part a wait is shorter or longer at most: those who began to wait together must not
            come back at once.
    """

    def __init__(self, first_s: float, last_s: float = math.inf, *, spread: float = 0.2) -> None:
        self._first_s, self._last_s, self._spread = first_s, last_s, spread
        self._next_s = first_s

    def next(self) -> float:
        """The wait before the next try, in seconds."""
        wait, self._next_s = self._next_s, min(2 * self._next_s, self._last_s)
        return wait * random.uniform(1 - self._spread, 1 + self._spread)

    def reset(self) -> None:
        """A try succeeded."""
        self._next_s = self._first_s
