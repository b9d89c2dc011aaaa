"""What outlives a loader that is killed: named things that another process keeps, and the next loader takes.

A thing is a name, facts about it, and descriptors. Whoever keeps it knows neither models nor leases, and
reads no facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class KeptThing:
    """What an earlier loader left.

    Attributes:
        name: What it was put under.
        facts: What was said about it, as it was put.
        descriptors: Its descriptors, of the same open files, in the order in which they were put. Whoever
            takes it closes them.
    """

    name: str
    facts: bytes
    descriptors: tuple[int, ...] = ()


class Keeper(Protocol):
    """Keeps things for the next loader, for as long as it can; it makes no promise that it can."""

    def put(self, name: str, facts: bytes, descriptors: Sequence[int] = ()) -> None:
        """Keep a thing; what had the name is replaced. Returns at once and raises nothing.

        Args:
            name: At most 200 bytes of UTF-8.
            facts: What the next loader has to know about it.
            descriptors: Stay the caller's: the keeper has others of the same open files.
        """
        ...

    def drop(self, name: str) -> None:
        """Keep it no longer, if anything has the name. Returns at once and raises nothing."""
        ...

    async def taken(self) -> list[KeptThing]:
        """What an earlier loader left; called once, before the first ``put``.

        It stays kept under its name until it is dropped or replaced.
        """
        ...

    async def close(self, *, keep: bool) -> None:
        """The loader ends. What is kept waits for the next one (`keep`), or is given back."""
        ...


class NoKeeper:
    """A :class:`Keeper` that keeps nothing."""

    def put(self, name: str, facts: bytes, descriptors: Sequence[int] = ()) -> None:
        """See :class:`Keeper`."""

    def drop(self, name: str) -> None:
        """See :class:`Keeper`."""

    async def taken(self) -> list[KeptThing]:
        """See :class:`Keeper`."""
        return []

    async def close(self, *, keep: bool) -> None:
        """See :class:`Keeper`."""
