"""This host and its processes: who is at the other end of a socket, and when somebody dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

#: SO_PEERPIDFD of Linux 6.5; the standard library has no name for it.
_SO_PEERPIDFD: Final = 77
_UCRED = struct.Struct("3i")


class Peer(NamedTuple):
    """The process at the other end of a UNIX socket, as the kernel knows it.

    ``pidfd`` refers to that very process, whatever becomes of its number; -1 if none could be had, or if
    the process has no number here (``pid`` is 0): it is in a container of its own.
    """

    pid: int
    uid: int
    pidfd: int


def peer_of(connection: socket.socket) -> Peer:
    """Who connected. The caller closes ``pidfd``.

    SO_PEERPIDFD gives a descriptor of the process that connected. Older kernels tell only its number
    (SO_PEERCRED), which could in theory be another process's by the time it is opened.

    Raises:
        ProcessLookupError: It is dead.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _gid = _UCRED.unpack(raw)
    if pid == 0:
        return Peer(pid, uid, -1)
    try:
        return Peer(pid, uid, connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
    except OSError:
        return Peer(pid, uid, open_process(pid))


def open_process(pid: int) -> int:
    """A descriptor that becomes readable when the process dies; -1 if none can be had.

    Raises:
        ProcessLookupError: There is no such process.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return -1  # out of descriptors, or a system without them: that says nothing about the process


def process_mark(pid: int) -> str:
    """Tells a process from a later one of the same number: when it was started, as the kernel counts it. ""
    where there is no such process.
    """
    try:
        # Not a file that is read from a disk: nothing is waited for.
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        text = os.read(descriptor, 4096).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    # The name before it, in brackets, may be anything. Of what follows this is field 22, and the first is 3.
    return text.rpartition(")")[2].split()[19]


def host_boot_id() -> str:
    """The boot id of this host; another one after each boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


class DeathWatch:
    """Calls back once for each watched process that dies.

    Args:
        on_death: Called on the event loop with the process id.
    """

    def __init__(self, on_death: Callable[[int], None]) -> None:
        self._on_death = on_death
        self._descriptors: dict[int, int] = {}

    def watch(self, pid: int, pidfd: int) -> None:
        """Begin to watch a process; takes ``pidfd`` over. One already watched is not watched twice."""
        if pid in self._descriptors:
            os.close(pidfd)
        else:
            self._descriptors[pid] = pidfd
            asyncio.get_running_loop().add_reader(pidfd, self._died, pid)

    def watch_number(self, pid: int) -> None:
        """Begin to watch the process that has a number now, if one has and can be watched."""
        with contextlib.suppress(ProcessLookupError):
            if (pidfd := open_process(pid)) >= 0:
                self.watch(pid, pidfd)

    def close(self) -> None:
        """Stop watching all of them."""
        for pid in list(self._descriptors):
            self._forget(pid)

    def _died(self, pid: int) -> None:
        self._forget(pid)
        self._on_death(pid)

    def _forget(self, pid: int) -> None:
        descriptor = self._descriptors.pop(pid, -1)
        if descriptor >= 0:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
