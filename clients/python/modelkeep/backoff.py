"""How long to wait between tries of what a fault interrupted."""

from __future__ import annotations

import math
import random


def doubled(failures: int, first_s: float, last_s: float) -> float:
    """Seconds after so many failures in a row, from 1: the first wait, doubled each time up to the last."""
    return min(last_s, first_s * 2.0 ** min(failures - 1, 60))


def wait_after(failures: int, first_s: float, last_s: float, *, asked_s: float | None = None) -> float:
    """As :func:`doubled`, and up to half of it less: those who began to wait together do not try together.

    Args:
        failures: How many tries failed since the last success, from 1.
        first_s: The first wait, at most.
        last_s: The longest one.
        asked_s: How long the other side asks to wait; it wins where it is longer.
    """
    return max(doubled(failures, first_s, last_s) * random.uniform(0.5, 1.0), asked_s or 0.0)


class Backoff:
    """Waits that double from try to try, up to a limit, and begin anew after a success.

    Args:
        first_s: The first wait, in seconds, at most.
        last_s: The longest one.
    """

    def __init__(self, first_s: float, last_s: float = math.inf) -> None:
        self._first_s, self._last_s = first_s, last_s
        self._failures = 0

    def next(self, asked_s: float | None = None) -> float:
        """The wait before the next try, in seconds; see :func:`wait_after`."""
        self._failures += 1
        return wait_after(self._failures, self._first_s, self._last_s, asked_s=asked_s)

    def reset(self) -> None:
        """A try succeeded."""
        self._failures = 0
