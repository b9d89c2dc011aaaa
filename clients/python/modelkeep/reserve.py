"""Room that is kept for the way out of a full disk.

A file of some MiB lies beside what a process must be able to write. When the disk is full it is given up, a
slice at a time, so that whatever frees space, ends a job or starts a process still works; and it is made
again when there is room. A slice at a time, because others on the same disk may be waiting for every byte.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

#: Bytes of a reserve, unless told otherwise.
DEFAULT_BYTES: Final = 4 << 20
_NAME = "reserve"
_SLICES = 16
_RENEW_S = 1.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Reserve:
    """The reserve in one folder. Its methods block for a moment, and may be called from any thread.

    Args:
        folder: Where the file ``reserve`` is; it need not exist yet.
        size_bytes: How large it shall be; 0 is no reserve.
    """

    def __init__(self, folder: Path, size_bytes: int = DEFAULT_BYTES) -> None:
        self.path = folder / _NAME
        self.size_bytes = size_bytes
        self._lock = threading.Lock()
        self._is_whole = size_bytes == 0
        self._next_try = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether all of it is there, as far as this object knows."""
        return self._is_whole

    def renew(self) -> bool:
        """Make it whole if there is room for it twice; returns whether it is.

        A failed try is not repeated within a second.
        """
        with self._lock:
            if self._is_whole or time.monotonic() < self._next_try:
                return self._is_whole
            self._next_try = time.monotonic() + _RENEW_S
            try:
                self._is_whole = self._make()
            except OSError as error:
                # Where no such file can be at all there is nothing to wait for.
                self._is_whole = not is_full(error)
            return self._is_whole

    def has_room(self) -> bool:
        """Whether there is room for what only makes more: the reserve is whole, or as much is free."""
        if self._is_whole or self.renew():
            return True
        return has_room(self.path.parent, self.size_bytes)

    def give_up(self) -> bool:
        """Free one slice; False if there is none left."""
        with self._lock:
            self._is_whole = self.size_bytes == 0
            self._next_try = time.monotonic() + _RENEW_S
            try:
                left = self.path.stat().st_size - max(1, self.size_bytes // _SLICES)
                if left <= 0:
                    self.path.unlink()
                else:
                    os.truncate(self.path, left)
            except OSError:
                return False
            return True

    def run(self, work: Callable[[], T]) -> T:
        """Call `work`, again after each slice that is given up, as long as it says that the disk is full.

        Raises:
            OSError: What `work` raised, when nothing is left to give up.
        """
        while True:
            try:
                return work()
            except OSError as error:
                if not is_full(error) or not self.give_up():
                    raise

    def _make(self) -> bool:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            missing = self.size_bytes - os.fstat(fd).st_size
            if _free_bytes(os.fstatvfs(fd)) < max(0, missing) + self.size_bytes:
                return missing <= 0
            os.posix_fallocate(fd, 0, self.size_bytes)
            return True
        finally:
            os.close(fd)


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room on the disk, or none left of somebody's share."""
    return isinstance(error, OSError) and error.errno in _FULL


def has_room(folder: Path, size_bytes: int = 1 << 16) -> bool:
    """Whether that many bytes are free where a folder is; True if nobody can tell."""
    try:
        return _free_bytes(os.statvfs(folder)) >= size_bytes
    except OSError:
        return True


def _free_bytes(status: os.statvfs_result) -> int:
    return status.f_bavail * status.f_frsize
