"""The things that a keeper keeps: descriptors under names."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from typing import Final

from modelkeep_keeper.messages import MAX_DESCRIPTORS, close_all

#: Beside those of things: a whole message's that is being looked at, sockets, the log.
_SPARE: Final = MAX_DESCRIPTORS + 47


class Shelf:
    """Things by name, in the order in which their names came.

    Args:
        limit: Descriptors that this process may have, and which are never all given to things.
    """

    def __init__(self, limit: int) -> None:
        self._most = max(limit - _SPARE, limit // 2)
        self._things: dict[str, tuple[int, ...]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._things)

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    @property
    def descriptors(self) -> int:
        """How many there are."""
        return self._count

    def get(self, name: str) -> tuple[int, ...]:
        """What is kept under a name; nothing where nothing is."""
        return self._things.get(name, ())

    def put(self, name: str, descriptors: tuple[int, ...]) -> bool:
        """Keep them, instead of what had the name; takes them over.

        Returns:
            False if there is no room: then they are closed, and the name has nothing.
        """
        old = self._things.get(name, ())
        if self._count - len(old) + len(descriptors) > self._most:
            self.drop(name)
            close_all(descriptors)
            return False
        self._things[name] = descriptors
        self._count += len(descriptors) - len(old)
        close_all(old)
        return True

    def drop(self, name: str) -> None:
        """Give back what has the name, if anything has."""
        old = self._things.pop(name, ())
        self._count -= len(old)
        close_all(old)

    def clear(self) -> None:
        """Give everything back."""
        for name in list(self._things):
            self.drop(name)


def raise_descriptor_limit() -> int:
    """Let this process have as many descriptors as it may be given; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20
