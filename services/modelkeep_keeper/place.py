"""Where a keeper listens: a UNIX socket, and a lock beside it that says whether its keeper lives."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Final, NamedTuple

from modelkeep.locks import remove_lock, sign_lock, wait_for_lock

#: Loaders that may wait to be heard; one is, at a time.
_BACKLOG: Final = 16


def lock_of(socket_path: Path) -> Path:
    """The lock of a keeper that listens there."""
    return socket_path.with_suffix(".lock")


class Place(NamedTuple):
    """A place that is taken.

    Attributes:
        path: Where the socket is.
        listener: It listens.
        lock: The descriptor of the lock.
    """

    path: Path
    listener: socket.socket
    lock: int

    @classmethod
    def take(cls, path: Path, wait_s: float = 0.0) -> Place:
        """Listen there; a socket that a dead keeper left is replaced, and one that ends is waited for.

        Raises:
            modelkeep.locks.LockedError: A keeper listens there.
            OSError: It cannot be done.
        """
        lock = wait_for_lock(lock_of(path), wait_s)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            remove_lock(lock_of(path), lock)
            raise
        return cls(path, listener, lock)

    @classmethod
    def inherited(cls, path: Path, listener: int, lock: int) -> Place:
        """One that the process which started this one took; from now on its lock names this one."""
        for descriptor in (listener, lock):
            os.set_inheritable(descriptor, False)
        sign_lock(lock)
        return cls(path, socket.socket(fileno=listener), lock)

    @property
    def descriptors(self) -> tuple[int, int]:
        """What a process must inherit to have it."""
        return self.listener.fileno(), self.lock

    def hand_over(self, pid: int) -> None:
        """Another process has it now, and its lock names that one."""
        sign_lock(self.lock, pid)
        self.listener.close()
        os.close(self.lock)

    def leave(self) -> None:
        """Take socket and lock away. Not from a folder that somebody else has emptied before."""
        self.listener.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
        remove_lock(lock_of(self.path), self.lock)
