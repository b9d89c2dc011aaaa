"""HTTP/2 by hand, for what no gRPC client would do: frames as one likes, and nobody who heeds the answers."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS = 0, 1, 3, 4
_END_STREAM, _END_HEADERS = 1, 4
_HEAD_BYTES = 9
_CANCEL = struct.pack(">I", 8)
#: An empty message, as gRPC frames it.
_EMPTY = b"\0" * 5


class Connection:
    """A plaintext connection to a gRPC server, whose answers are only counted, or not read at all."""

    def __init__(self, address: str, method: str, *, token: str = "", reads: bool = True) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0))
        headers = {":path": f"/{method}", ":authority": "x", "te": "trailers"}
        headers |= {"content-type": "application/grpc"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        # Indexed fields 3 and 6 are POST and http; the rest is spelled out.
        self._headers = b"\x83\x86" + b"".join(
            b"\0" + _text(name) + _text(value) for name, value in headers.items()
        )
        self._stream = -1
        self._ended = set[int]()
        self._drain = threading.Thread(target=self._count, daemon=True)
        if reads:
            self._drain.start()

    def call(
        self, count: int, *, reset: bool = False, message: bytes | None = _EMPTY, end: bool = True
    ) -> None:
        """Begin so many calls.

        Args:
            count: How many.
            reset: Whether each is given up in the same breath.
            message: What each sends, with gRPC's frame around it; None sends nothing.
            end: Whether nothing more is to come of it.
        """
        parts = []
        for _ in range(count):
            self._stream += 2
            ends = _END_STREAM if end else 0
            flags = _END_HEADERS | (ends if message is None else 0)
            parts.append(_frame(_HEADERS, flags, self._stream, self._headers))
            if message is not None:
                parts.append(_frame(_DATA, ends, self._stream, message))
            if reset:
                parts.append(_frame(_RESET, 0, self._stream, _CANCEL))
        self._socket.sendall(b"".join(parts))

    @property
    def ended(self) -> int:
        """Calls that the server has ended."""
        return len(self._ended)

    @property
    def closed(self) -> bool:
        """Whether the server has closed the connection."""
        return not self._drain.is_alive()

    def close(self) -> None:
        """Leave."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._drain.is_alive():
            self._drain.join(10)

    def break_off(self) -> None:
        """Vanish, as a process that is killed with answers on the way to it."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def _count(self) -> None:
        with contextlib.suppress(OSError), self._socket.makefile("rb") as answers:
            while len(head := answers.read(_HEAD_BYTES)) == _HEAD_BYTES:
                kind, flags = head[3:5]
                answers.read(int.from_bytes(head[:3], "big"))
                if kind == _RESET or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
                    self._ended.add(int.from_bytes(head[5:], "big"))


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _text(value: str) -> bytes:
    data = value.encode()
    assert len(data) < 127
    return bytes((len(data),)) + data
