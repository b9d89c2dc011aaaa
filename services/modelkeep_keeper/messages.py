"""What a loader and its keeper say to each other: messages over a UNIX socket, SOCK_SEQPACKET.

A message is one step, whole or not there: whoever is killed leaves no half of one. It is one byte, which
says what it is, and a name in UTF-8 where it has one; descriptors travel beside it (SCM_RIGHTS).

==== ======== =========== ====================================================================
byte from     with        what it says
==== ======== =========== ====================================================================
P    loader   name, 1-253 keep these descriptors under the name, instead of what had it
D    loader   name        keep nothing under the name
L    loader               tell what you keep
E    loader               give everything back, and end
T    keeper   name, 1-253 this is kept; the answer to L, one for each name
A    keeper               that was all
==== ======== =========== ====================================================================

What the descriptors are is the loader's affair. Messages that change their meaning get another socket's name.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple

#: Bytes of UTF-8 that a name may have.
MAX_NAME_BYTES: Final = 200
#: Descriptors that the kernel lets travel with one message (SCM_MAX_FD).
MAX_DESCRIPTORS: Final = 253


class Kind(Enum):
    """What a message is."""

    PUT = b"P"
    DROP = b"D"
    LIST = b"L"
    END = b"E"
    THING = b"T"
    ALL = b"A"


_UCRED: Final = struct.Struct("3i")
_NAMED: Final = (Kind.PUT, Kind.DROP, Kind.THING)
_WITH_DESCRIPTORS: Final = (Kind.PUT, Kind.THING)


class GarbageError(Exception):
    """What came is no message; the text says why."""


class Message(NamedTuple):
    """One message.

    Attributes:
        kind: What it is.
        name: What it is about; empty where it is about nothing.
        descriptors: What came with it, closed on exec; the receiver's to close.
        is_cut: Descriptors are missing, since this process may have no more.
    """

    kind: Kind
    name: str = ""
    descriptors: tuple[int, ...] = ()
    is_cut: bool = False


def send(sock: socket.socket, kind: Kind, name: str = "", descriptors: Sequence[int] = ()) -> None:
    """Send one message.

    Raises:
        BlockingIOError: The peer reads too slowly, and the socket does not wait.
        OSError: The peer is gone, or too many descriptors are under way (ETOOMANYREFS).
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sock.sendmsg([kind.value + name.encode()], rights, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> Message | None:
    """Receive one message; None when the peer has gone.

    Raises:
        BlockingIOError: There is none, and the socket does not wait.
        GarbageError: It is none of those above.
    """
    try:
        data, descriptors, flags = _receive(sock)
    except ConnectionResetError:
        # It went with messages to it unread. What it said before is still there, and is said once.
        data, descriptors, flags = _receive(sock)
    if not data:
        close_all(descriptors)
        return None
    try:
        return _understood(data, tuple(descriptors), flags)
    except GarbageError:
        close_all(descriptors)
        raise


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Process and user id of whoever connected, or of whoever listened where this side connected."""
    pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def close_all(descriptors: Sequence[int]) -> None:
    """Close them, whatever is the matter with one of them."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _receive(sock: socket.socket) -> tuple[bytes, list[int], int]:
    data, descriptors, flags, _ = socket.recv_fds(
        sock, 1 + MAX_NAME_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    return data, descriptors, flags


def _understood(data: bytes, descriptors: tuple[int, ...], flags: int) -> Message:
    is_cut = bool(flags & socket.MSG_CTRUNC)
    if flags & socket.MSG_TRUNC:
        raise GarbageError(f"it has more than {1 + MAX_NAME_BYTES} bytes")
    try:
        kind, name = Kind(data[:1]), data[1:].decode()
    except ValueError:
        raise GarbageError(f"it begins with {data[:16]!r}") from None
    if bool(name) != (kind in _NAMED):
        raise GarbageError(f"{kind.name} {'with' if name else 'without'} a name")
    if bool(descriptors or is_cut) != (kind in _WITH_DESCRIPTORS):
        raise GarbageError(f"{kind.name} with {len(descriptors)} descriptors")
    return Message(kind, name, descriptors, is_cut)
