"""Room on a file system: asked for before and while something large is written, with a floor kept free."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from modelkeep.exceptions import DiskFullException

_REMEDY = "Make room there (prune or cancel downloads and installs, uninstall models), then try again."


def free_bytes(folder: Path) -> int:
    """Bytes that this process's user may still write to the file system that a folder is, or will be, on."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def check_room(folder: Path, needed: int, reserve: int) -> None:
    """Raise DiskFullException unless the folder's file system has room for so many bytes and the reserve."""
    free = free_bytes(folder)
    if needed > 0 and free < needed + reserve:
        raise disk_full(folder, needed=needed, free=free, reserve=reserve)


def disk_full(
    folder: Path, *, needed: int, free: int, reserve: int = 0, remedy: str = _REMEDY
) -> DiskFullException:
    """The error for a file system without room for so many bytes besides a reserve."""
    missing = max(1, needed + reserve - free)
    return DiskFullException(
        f"The file system of {folder} has no room for the file: {missing} bytes are missing. {remedy}",
        metadata={
            "path": str(folder),
            "needed_bytes": str(needed),
            "free_bytes": str(free),
            "bytes_short": str(missing),
            "remedy": remedy,
        },
    )


class Room:
    """What writers at the same time fill of one file system: none is promised what another has claimed.

    Args:
        folder: Where they write; it need not exist yet.
        reserve: Bytes that stay free.
    """

    def __init__(self, folder: Path, reserve: int) -> None:
        self._folder = folder
        self._reserve = reserve
        self._lock = threading.Lock()
        self._claims: dict[Claim, int] = {}

    @contextlib.contextmanager
    def claim(self) -> Iterator[Claim]:
        """A writer's claim, of nothing at first, which ends with the block."""
        claim = Claim(self)
        try:
            yield claim
        finally:
            with self._lock:
                self._claims.pop(claim, None)

    def want(self, claim: Claim, needed: int) -> None:
        """See :meth:`Claim.want`."""
        with self._lock:
            others = sum(bytes_ for other, bytes_ in self._claims.items() if other is not claim)
            check_room(self._folder, needed, self._reserve + others)
            self._claims[claim] = needed


class Claim:
    """What one writer still has to write."""

    def __init__(self, room: Room) -> None:
        self._room = room

    def want(self, needed: int) -> None:
        """Says how many bytes are still to be written.

        Raises:
            DiskFullException: There is no room for them beside the reserve and what others have claimed.
        """
        self._room.want(self, needed)
