"""A forward proxy that does what a test wants: the good one knows names that nobody else does.

In a test::

    with ProxyServer(hosts={"models.example": web.port}) as proxy:
        ... fetch http://models.example/m.bin through proxy.url ...
        assert proxy.lines == ["GET http://models.example/m.bin HTTP/1.1"]
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from types import TracebackType


class ProxyServer:
    """Forwards requests, and tunnels on CONNECT.

    Args:
        hosts: Ports of loopback, by the names that lead there; other names are connected to as they are.
        answer: What every request is answered with in place of that; then the connection ends.

    Attributes:
        lines: The request lines that came.
        headers: Their header fields, names in lower case.
    """

    def __init__(self, *, hosts: Mapping[str, int] | None = None, answer: bytes | None = None) -> None:
        self._hosts, self._answer = dict(hosts or {}), answer
        self.lines: list[str] = []
        self.headers: list[dict[str, str]] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.url = f"http://{self.address}"
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> ProxyServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._socket, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while head := self._head(client):
                first, *rest = head.decode("latin-1").split("\r\n")
                self.lines.append(first)
                fields = (line.partition(":") for line in rest if line)
                self.headers.append({name.lower(): text.strip() for name, _, text in fields})
                if self._answer is not None:
                    client.sendall(self._answer)
                    return
                self._forward(client, first, rest)

    def _head(self, client: socket.socket) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (piece := client.recv(1)):
                return b""
            head += piece
        return head

    def _forward(self, client: socket.socket, first: str, rest: list[str]) -> None:
        method, target, version = first.split(" ")
        authority, _, path = target.removeprefix("http://").partition("/")
        name, _, port = authority.partition(":")
        known = self._hosts.get(name)
        where = ("127.0.0.1", known) if known else (name, int(port or 80))
        with socket.create_connection(where, 10) as server:
            self._open.append(server)
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                kept = [line for line in rest if not line.lower().startswith("proxy-")]
                server.sendall("\r\n".join([f"{method} /{path} {version}", *kept]).encode("latin-1"))
            tunnel = method == "CONNECT"
            back = threading.Thread(target=_pour, args=(server, client), kwargs={"end": tunnel}, daemon=True)
            back.start()
            if tunnel:
                _pour(client, server, end=True)
            else:
                client.recv(1, socket.MSG_PEEK)  # the next request, or the end
                with contextlib.suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)
            back.join(10)


def _pour(source: socket.socket, target: socket.socket, *, end: bool) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
        if end:
            target.shutdown(socket.SHUT_WR)
