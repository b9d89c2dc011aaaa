"""/livez and /readyz over HTTP, for probes that speak no TLS; nothing else is said here, whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Final

from modelkeep.defaults import EXIT_ADDRESS_TAKEN

from ..startup import StartupError

#: Connections at once. A probe's takes milliseconds, so that the oldest of more is none.
_MAX_CONNECTIONS: Final = 64
_PATIENCE_S: Final = 5.0
_MAX_HEAD: Final = 8192


class Probes:
    """Answers probes.

    ``/livez`` is 200 as long as the process answers at all, in a start and in a drain too; ``/readyz`` is 200
    while calls are welcome, else 503.
    """

    def __init__(self) -> None:
        #: Whether calls are welcome.
        self.ready: Callable[[], bool] = lambda: False
        #: The TCP port.
        self.port = 0
        self._open: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[None]:
        """Answer inside.

        Raises:
            StartupError: 98 if the address cannot be had.
        """
        try:
            server = await self._start(host.strip("[]"), port)
        except OSError as error:
            raise StartupError(
                EXIT_ADDRESS_TAKEN,
                f"cannot listen on {host}:{port} for probes: {error.strerror}; set another --metrics-port",
            ) from None
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for writer in self._open.values():
                writer.transport.abort()
            await asyncio.gather(*filter(None, self._open))

    async def _start(self, host: str, port: int) -> asyncio.Server:
        if host != "::":
            return await asyncio.start_server(self._serve, host, port, limit=_MAX_HEAD)
        # For IPv4 as well, as gRPC listens there.
        listener = socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
        return await asyncio.start_server(self._serve, sock=listener, limit=_MAX_HEAD)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._open[task] = writer
        if len(self._open) > _MAX_CONNECTIONS:
            # Those who say nothing shall not keep a probe away: a service that does not answer it is killed.
            self._open.pop(next(iter(self._open))).transport.abort()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head.split(b"\r\n", 1)[0]))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # it is no probe, or it has gone
        finally:
            self._open.pop(task, None)
            writer.close()

    def _answer(self, line: bytes) -> bytes:
        method, _, rest = line.partition(b" ")
        status, word = self._status(method, rest.partition(b" ")[0].partition(b"?")[0])
        body = b"" if method == b"HEAD" else word
        return (
            b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
            b"cache-control: no-store\r\nconnection: close\r\n\r\n%b" % (status, len(word), body)
        )

    def _status(self, method: bytes, path: bytes) -> tuple[bytes, bytes]:
        if path not in (b"/livez", b"/readyz"):
            return b"404 Not Found", b"not found\n"
        if method not in (b"GET", b"HEAD"):
            return b"405 Method Not Allowed", b"method not allowed\n"
        if path == b"/livez" or self.ready():
            return b"200 OK", b"ok\n"
        return b"503 Service Unavailable", b"not ready\n"
