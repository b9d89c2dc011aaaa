"""How a service and its helper processes talk: frames over a socket pair, with descriptors.

A frame is 4 bytes (big-endian length) and that many bytes of JSON. Descriptors travel as ancillary
data with the first bytes of their frame. Used on both sides.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

#: Most descriptors that the kernel passes with one message.
MAX_DESCRIPTORS: Final = 253
_MAX_FRAME: Final = 64 << 20


def send_frame(sock: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one frame; blocks until the peer takes it."""
    body = json.dumps(message).encode()
    data = memoryview(len(body).to_bytes(4, "big") + body)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sent = sock.sendmsg([data], ancillary)
    if sent < len(data):
        sock.sendall(data[sent:])


def receive_frame(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Receive one frame and its descriptors, closed on exec; None when the peer has closed."""
    descriptors: list[int] = []
    try:
        head = _receive(sock, 4, descriptors)
        if head is None:
            return None
        length = int.from_bytes(head, "big")
        if length > _MAX_FRAME:
            raise OSError(f"frame of {length} bytes")
        body = _receive(sock, length, descriptors)
        if body is None:
            raise OSError("the peer has closed in the middle of a frame")
        return json.loads(body), descriptors
    except BaseException:
        for fd in descriptors:
            os.close(fd)
        raise


def _receive(sock: socket.socket, length: int, descriptors: list[int]) -> bytes | None:
    parts = bytearray()
    while len(parts) < length:
        data, fds, _flags, _address = socket.recv_fds(
            sock, min(length - len(parts), 1 << 20), MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        descriptors += fds
        if not data:
            return None
        parts += data
    return bytes(parts)
