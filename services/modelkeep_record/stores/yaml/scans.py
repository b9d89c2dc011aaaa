"""Reads that look at many records: on threads of their own, so many at once, each for so long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from modelkeep_common.gates import closed, too_long, too_many

T = TypeVar("T")


class _GivenUp(Exception):
    """Nobody waits for the read any more."""


class Scans:
    """The threads for one class of such reads. Belongs to an event loop.

    Args:
        kind: What the reads are called in errors, as ``search``.
        at_once: How many run at once.
        waiting: How many may wait for one that ends.
        limit_s: How many seconds one may take, waiting included.
        remedy: What makes one cheaper, for the error when its time is over.
    """

    def __init__(self, kind: str, *, at_once: int, waiting: int, limit_s: float, remedy: str) -> None:
        self._kind = kind
        self._at_once = at_once
        self._most = at_once + waiting
        self._limit_s = limit_s
        self._remedy = remedy
        self._under_way = 0
        self._closed = False
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix=f"yaml-{kind}")

    async def run(self, work: Callable[[Callable[[], None]], T]) -> T:
        """What ``work`` returns; it asks now and then whether to go on.

        Raises:
            ServerBusyException: As many run and wait as may.
            DeadlineExceededException: It took too long.
            ServerDrainingException: The store is closed.
        """
        if self._closed:
            raise closed()
        if self._under_way >= self._most:
            raise too_many(self._kind, self._at_once)
        stopped, begun = threading.Event(), threading.Event()

        def go_on() -> None:
            if stopped.is_set() or self._closed:
                raise _GivenUp

        def scan() -> T:
            begun.set()
            go_on()
            return work(go_on)

        self._under_way += 1
        running = asyncio.get_running_loop().run_in_executor(self._threads, scan)
        running.add_done_callback(self._finish)
        try:
            async with asyncio.timeout(self._limit_s):
                return await asyncio.shield(running)
        except TimeoutError:
            if not begun.is_set():
                raise too_many(self._kind, self._at_once) from None
            raise too_long(self._kind, self._limit_s, self._remedy) from None
        except _GivenUp:
            raise closed() from None
        finally:
            stopped.set()

    async def close(self) -> None:
        """Give up what runs, and end the threads."""
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)

    def _finish(self, running: asyncio.Future[T]) -> None:
        # Only now is its thread free: until then it counts.
        self._under_way -= 1
        if not running.cancelled():
            running.exception()  # nobody else may have looked at it
