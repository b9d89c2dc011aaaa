"""Locks between processes: files that the system lets go of when their holder ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

#: How long to wait before a lock is tried again.
_WAIT_S: Final = 0.005


class LockedError(Exception):
    """Another process holds the lock; ``holder`` is its pid as a text, or empty."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is locked by another process")
        self.holder = holder


def take_lock(path: Path) -> int:
    """Lock a file, which is made if need be.

    Returns:
        The descriptor that holds the lock: for as long as it is open here or in a process that got it.

    Raises:
        LockedError: Another process holds it.
        OSError: The file cannot be made, or is a link.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise LockedError(path, holder) from None
        except OSError:
            os.close(descriptor)
            raise
        if _is_at(path, descriptor):
            break
        os.close(descriptor)  # the one before took the file away between our opening and our lock
    sign_lock(descriptor)
    return descriptor


def sign_lock(descriptor: int, pid: int = 0) -> None:
    """Write who holds a lock, by its process id, into it; 0: this process, which got it from another."""
    # Who holds it is for people; a full disk must not keep anybody from starting.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(pid or os.getpid()).encode(), 0)


def wait_for_lock(path: Path, seconds: float) -> int:
    """:func:`take_lock`, waiting for other processes for so many seconds.

    Raises:
        LockedError: One still holds it.
        OSError: The file cannot be made, or is a link.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return take_lock(path)
        except LockedError:
            if time.monotonic() >= until:
                raise
        time.sleep(_WAIT_S)


def remove_lock(path: Path, descriptor: int) -> None:
    """Take a locked file away, and let go of it: nothing stays behind, and nobody else's lock goes."""
    with contextlib.suppress(OSError):
        if _is_at(path, descriptor):
            path.unlink()
    os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
