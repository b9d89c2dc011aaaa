"""Room that is kept for the way out of a full disk.

A file of some MiB lies beside what a process must be able to write. When the disk is full it is given up, a
slice at a time, so that whatever frees space, ends a job or starts a process still works; and it is made
again when there is room. A slice at a time, because others on the same disk may be waiting for every byte.
A file of its name that holds something is somebody else's: it is left alone, and there is no reserve then.
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
#: What a reserve is called.
NAME: Final = "reserve"
_SLICES = 16
#: A reserve begins with so many zeros, as it goes on.
_BEGINNING: Final = 1 << 16
_RENEW_S = 1.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Reserve:
    """The reserve in one folder. Its methods block for a moment, and may be called from any thread.

    Args:
        folder: Where the file is; it need not exist yet.
        size_bytes: How large it shall be; 0 is no reserve.
        name: What the file is called.
    """

    def __init__(self, folder: Path, size_bytes: int = DEFAULT_BYTES, name: str = NAME) -> None:
        self.path = folder / name
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
        if self.size_bytes == 0:
            return False
        with self._lock:
            self._is_whole = self.size_bytes == 0
            self._next_try = time.monotonic() + _RENEW_S
            try:
                fd = self._open(os.O_RDWR)
                try:
                    left = os.fstat(fd).st_size - max(1, self.size_bytes // _SLICES)
                    if left <= 0:
                        self.path.unlink()
                    else:
                        os.truncate(fd, left)
                finally:
                    os.close(fd)
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
        fd = self._open(os.O_RDWR | os.O_CREAT)
        try:
            missing = self.size_bytes - os.fstat(fd).st_size
            if _free_bytes(os.fstatvfs(fd)) < max(0, missing) + self.size_bytes:
                return missing <= 0
            os.posix_fallocate(fd, 0, self.size_bytes)
            return True
        finally:
            os.close(fd)

    def _open(self, flags: int) -> int:
        fd = os.open(self.path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            if any(os.pread(fd, _BEGINNING, 0)):
                raise FileExistsError(errno.EEXIST, "somebody else's file", str(self.path))
        except BaseException:
            os.close(fd)
            raise
        return fd


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
