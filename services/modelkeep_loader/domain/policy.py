"""Which component goes first when a tier needs room: cost-aware LRU.

GreedyDual-Size (Cao and Irani, "Cost-Aware WWW Proxy Caching Algorithms", USITS 1997, section 4). Each
component has a priority, ``age + reload seconds / bytes``, set anew whenever it is used; the lowest goes
first, and the age of the tier becomes the priority of what went. So what is cheap to load again for the
bytes that it takes goes before what is dear, and what nobody uses goes at last, however dear it is. Where
all cost the same for their bytes the order is that of plain LRU.

Nothing here looks at a clock, and nothing depends on one: the age grows with what is dropped.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Protocol

#: What loading is taken to cost until it was measured: to start at all, and seconds for each byte (0.5 GB/s).
_START_S: Final = 0.1
_SECONDS_PER_BYTE: Final = 2e-9


def reload_seconds(size_bytes: int, measured_s: float = 0.0) -> float:
    """Seconds that loading a component again would take: as it was measured, else by its size."""
    return measured_s if measured_s > 0 else _START_S + size_bytes * _SECONDS_PER_BYTE


class Policy(Protocol):
    """In which order components go. Knows them by name only; what may go at all is the tier's affair."""

    def use(self, name: str, size_bytes: int, reload_s: float) -> None:
        """A component came, or was used."""
        ...

    def order(self, names: Collection[str]) -> list[str]:
        """These, the first to go first. Names that were never used go before all others."""
        ...

    def forget(self, name: str, *, made_room: bool = False) -> None:
        """It is gone; ``made_room``: because it was the first in the order."""
        ...


@dataclass(frozen=True, slots=True)
class _Mark:
    """What a component's last use gave it. ``turn`` tells which of two of one priority was used first."""

    priority: float
    turn: int


_NEVER: Final = _Mark(-1.0, -1)


class GreedyDualSize:
    """See the module."""

    def __init__(self) -> None:
        self._age = 0.0
        self._turn = 0
        self._marks: dict[str, _Mark] = {}

    def use(self, name: str, size_bytes: int, reload_s: float) -> None:
        """See :class:`Policy`."""
        self._turn += 1
        self._marks[name] = _Mark(self._age + reload_s / max(1, size_bytes), self._turn)

    def order(self, names: Collection[str]) -> list[str]:
        """See :class:`Policy`."""
        return sorted(names, key=self._key)

    def forget(self, name: str, *, made_room: bool = False) -> None:
        """See :class:`Policy`."""
        mark = self._marks.pop(name, None)
        if made_room and mark is not None:
            self._age = max(self._age, mark.priority)

    def _key(self, name: str) -> tuple[float, int]:
        mark = self._marks.get(name, _NEVER)
        return mark.priority, mark.turn
