"""Reads of single records that come at the same time, done in one hop to the database.

A hop to a thread and back costs more than the read itself. So the keys that are asked for while one
read is under way wait for it, and are then read together: one at a time when it is quiet, dozens when
it is not. A key is always read after it was asked for, so every caller sees its own earlier writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence


class Gatherer:
    """Turns single gets into reads of many.

    Args:
        read_many: Reads the records of those keys that have one.
        lanes: How many reads may be under way at once.
    """

    def __init__(
        self, read_many: Callable[[Sequence[str]], Awaitable[Mapping[str, bytes]]], *, lanes: int = 1
    ) -> None:
        self._read_many = read_many
        self._free = lanes
        self._waiting: dict[str, list[asyncio.Future[bytes | None]]] = {}
        self._loop = asyncio.get_running_loop()
        self._reads: set[asyncio.Task[None]] = set()

    async def get(self, key: str) -> bytes | None:
        """The record of a key."""
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        self._waiting.setdefault(key, []).append(future)
        if self._free:
            self._free -= 1
            self._loop.call_soon(self._start)
        return await future

    def _start(self) -> None:
        task = self._loop.create_task(self._read())
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)

    async def _read(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, {}
            try:
                found = await self._read_many(list(waiting))
            except Exception as error:
                for future in (f for futures in waiting.values() for f in futures if not f.done()):
                    future.set_exception(error)
            else:
                for key, futures in waiting.items():
                    for future in futures:
                        if not future.done():
                            future.set_result(found.get(key))
        self._free += 1
