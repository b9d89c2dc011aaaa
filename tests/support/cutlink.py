"""A link between a client and a service that can be cut, and mended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class CutLink:
    """A TCP relay on loopback in this process.

    Args:
        to: Where it leads.
        delay_s: Seconds that whatever is sent takes, in each direction.

    Attributes:
        address: Of its near end.
    """

    def __init__(self, to: str, delay_s: float = 0) -> None:
        self._delay_s = delay_s
        self._host, _, port = to.rpartition(":")
        self._to = int(port)
        self._port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.address = ""

    async def mend(self) -> None:
        """Let connections through, at the same address as before."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"

    async def cut(self) -> None:
        """End every connection, and let no other through."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._open:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._host, self._to)
        ends = {writer, there[1]}
        self._open |= ends
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass_on(reader, there[1], self._delay_s))
                both.create_task(_pass_on(there[0], writer, self._delay_s))
        finally:
            self._open -= ends
            for end in ends:
                end.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            await asyncio.sleep(delay_s)
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


@contextlib.asynccontextmanager
async def cut_link(to: str) -> AsyncIterator[CutLink]:
    """A link to a service at ``host:port``; it is there, and cut in the end."""
    link = CutLink(to)
    await link.mend()
    try:
        yield link
    finally:
        await link.cut()
