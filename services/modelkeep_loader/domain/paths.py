"""Delivery by path: files of residents, for sandboxes that cannot be given descriptors.

Such a file is a copy of the sealed memory, made when the first lease asks for it and gone with the last. Its
bytes are reserved in the tier, and what a process still maps after that counts until it lets go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from modelkeep.exceptions import RamExhaustedException
from modelkeep_loader.domain.components import Resident
from modelkeep_loader.domain.tier import Tier


class Copy(Protocol):
    """A file with the contents of a resident."""

    path: str
    size_bytes: int

    def is_intact(self) -> bool:
        """Whether nobody has written, replaced or removed it. Does not block."""
        ...

    def remove(self) -> None:
        """Take its name away; whoever has it open or mapped keeps it. Blocks."""
        ...

    def in_use(self) -> bool:
        """Whether any process besides the loader has it open or mapped. Does not block."""
        ...

    def close(self) -> None:
        """Let go of it. Blocks."""
        ...


class Shelf(Protocol):
    """Where such files lie."""

    async def put(self, descriptor: int, size_bytes: int) -> Copy:
        """Copy a file that is open for reading, and close it. Does not block the event loop.

        Raises:
            DiskFullException: There is no room where they lie.
        """
        ...

    def close(self) -> None:
        """Leave nothing behind. Blocks."""
        ...


@dataclass(slots=True)
class _Making:
    """The making of a resident's file.

    Attributes:
        turn: Whoever makes it, or looks whether it is there.
        waiting: How many have it or wait for it.
    """

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class Paths:
    """Who has which files. Belongs to one event loop.

    Args:
        shelf: Where they lie.
        tier: Where their bytes are reserved.
    """

    def __init__(self, shelf: Shelf, tier: Tier) -> None:
        self._shelf = shelf
        self._tier = tier
        self._copies: dict[str, Copy] = {}
        self._holders: dict[str, set[str]] = {}
        #: What is being made: one at a time of a resident, for all who wait for it.
        self._making: dict[str, _Making] = {}
        #: What has no lease any more, by what its bytes are reserved for, and the taking away of its name.
        self._removed: dict[str, tuple[Copy, asyncio.Future[None]]] = {}
        self._count = 0

    async def lend(self, holder: str, residents: Sequence[Resident]) -> list[str]:
        """The files of residents, for a lease that holds them; they stay until it gives them back.

        Raises:
            RamExhaustedException: There is no room for a copy within the budget.
            DiskFullException: There is none where the files lie.
        """
        for resident in residents:
            self._holders.setdefault(resident.id, set()).add(holder)
        try:
            return [await self._file_of(resident) for resident in residents]
        except BaseException:
            self.give_back(holder)
            raise

    def give_back(self, holder: str) -> None:
        """A lease has ended: what it alone has goes."""
        for resident_id in [name for name, holders in self._holders.items() if holder in holders]:
            self._holders[resident_id].discard(holder)
            self._tidy(resident_id)

    def sweep(self) -> None:
        """Notice files that nobody maps any more."""
        loop = asyncio.get_running_loop()
        for purpose, (copy, removal) in list(self._removed.items()):
            if removal.done() and not copy.in_use():
                del self._removed[purpose]
                loop.run_in_executor(None, copy.close)  # as of other memory: freeing takes its time
                self._tier.reserve(purpose, 0)

    async def close(self) -> None:
        """Take all files away; what is mapped lives on."""
        for resident_id in list(self._copies):
            self._remove(resident_id)
        removed, self._removed = self._removed, {}
        await asyncio.gather(*(removal for _, removal in removed.values()), return_exceptions=True)

        def end() -> None:
            for copy, _ in removed.values():
                copy.close()
            self._shelf.close()

        await asyncio.to_thread(end)

    async def _file_of(self, resident: Resident) -> str:
        making = self._making.setdefault(resident.id, _Making())
        making.waiting += 1
        try:
            async with making.turn:
                kept = self._copies.get(resident.id)
                if kept is None or not kept.is_intact():
                    self._remove(resident.id)
                    kept = self._copies[resident.id] = await self._copy(resident)
                return kept.path
        finally:
            making.waiting -= 1
            self._tidy(resident.id)  # whoever asked may have gone meanwhile

    async def _copy(self, resident: Resident) -> Copy:
        if short := self._tier.make_room(resident.size_bytes, [resident.id]):
            raise RamExhaustedException(
                f"There is no room for a copy of {resident.display_name}, which DELIVERY_PATH takes: "
                f"{short:,} bytes are missing.",
                metadata={"bytes_short": str(short), "budget_bytes": str(self._tier.budget_bytes)},
                retry_after=1.0,
                remedy="Ask for DELIVERY_FD, which takes none, end leases, or raise ram_budget_bytes.",
            )
        purpose = _purpose(resident.id)
        self._tier.reserve(purpose, resident.size_bytes)
        try:
            return await self._shelf.put(self._tier.export(resident), resident.size_bytes)
        except BaseException:
            self._tier.reserve(purpose, 0)
            raise

    def _tidy(self, resident_id: str) -> None:
        if self._holders.get(resident_id):
            return
        self._holders.pop(resident_id, None)
        # Whoever waits for his turn has the lock still: another one would let two make the same file.
        if not (making := self._making.get(resident_id)) or not making.waiting:
            self._making.pop(resident_id, None)
            self._remove(resident_id)

    def _remove(self, resident_id: str) -> None:
        copy = self._copies.pop(resident_id, None)
        if copy is None:
            return
        self._count += 1
        purpose = f"{_purpose(resident_id)}, removed ({self._count})"
        self._tier.reserve(_purpose(resident_id), 0)
        self._tier.reserve(purpose, copy.size_bytes)
        removal = asyncio.get_running_loop().run_in_executor(None, copy.remove)
        self._removed[purpose] = copy, removal
        removal.add_done_callback(lambda _: self.sweep())


def _purpose(resident_id: str) -> str:
    return f"file of {resident_id}"
