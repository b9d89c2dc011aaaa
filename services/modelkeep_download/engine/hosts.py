"""How many connections a file and a host may have, over all transfers. Safe to share between threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

_REFUSED_S = 60.0


class Hosts:
    """Counts the connections of transfers, of which each may have one in any case.

    Args:
        most_per_host: Connections to one host, at most.
        most: Connections in all, at most.
        most_per_file: Connections of one transfer, at most.
    """

    def __init__(
        self,
        most_per_host: int = 32,
        most: int = 64,
        most_per_file: int = 32,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_per_host, self._most, self._clock = most_per_host, most, clock
        #: Connections of one transfer, at most.
        self.most_per_file = most_per_file
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        #: Those of them that are not the first of a transfer.
        self._extra: Counter[str] = Counter()
        #: Connections that a host bore when it refused one more, and until when that counts.
        self._bears: dict[str, tuple[int, float]] = {}

    def limit(self, most_per_host: int, most: int, most_per_file: int) -> None:
        """Let these limits count from now on; transfers that have more connections give some up."""
        with self._lock:
            self._most_per_host, self._most, self.most_per_file = most_per_host, most, most_per_file

    def has_too_many(self, host: str) -> bool:
        """Whether a transfer of the host shall give one up, since a limit was lowered."""
        with self._lock:
            # The first of each is counted when another is asked for, and not against those that are there.
            extra = self._extra[host]
            return extra > self._most_per_host or (extra > 0 and self._extra.total() > self._most)

    def enter(self, host: str, *, extra: bool) -> bool:
        """Count one more connection; False if it would be one too many, which a transfer's first never is."""
        with self._lock:
            bears, until = self._bears.get(host, (self._most_per_host, 0.0))
            if until <= self._clock():
                self._bears.pop(host, None)
                bears = self._most_per_host
            bears = min(bears, self._most_per_host)
            if extra and (self._open[host] >= bears or self._open.total() >= self._most):
                return False
            self._open[host] += 1
            self._extra[host] += extra
            return True

    def leave(self, host: str, *, extra: bool) -> None:
        """One connection fewer; `extra` as it was entered."""
        with self._lock:
            self._open[host] -= 1
            self._extra[host] -= extra
            for counted in (self._open, self._extra):
                if not counted[host]:
                    del counted[host]

    def refused(self, host: str) -> None:
        """The host refused a connection that is counted still: it bears what it has besides, for a while."""
        with self._lock:
            self._bears[host] = (max(1, self._open[host] - 1), self._clock() + _REFUSED_S)
            if len(self._bears) > 1000:  # hosts that nobody asks any more
                now = self._clock()
                self._bears = {name: told for name, told in self._bears.items() if told[1] > now}
