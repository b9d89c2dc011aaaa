"""Reads of one moment that take as many steps as their caller needs: each step a hop to a thread.

What a caller reads at his own pace must all be of one moment, and must not lie in memory until he takes it.
So such a read has a connection of its own, whose transaction stays open from step to step. While one is open
the write-ahead log cannot be emptied; therefore there are only so many at once, and each has only so long.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from ..gates import closed, too_long, too_many
from .connections import Connection, open_reader

T = TypeVar("T")

#: So many steps of SQLite's machine take well below a millisecond.
_STEPS = 5000


class LongRead:
    """One such read; made by :meth:`LongReads.open`. One step at a time."""

    def __init__(self, path: Path, translate: Callable[[BaseException], BaseException]) -> None:
        self._path = path
        self._translate = translate
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        # Held by the thread of a step, so that the connection is closed after it.
        self._lock = threading.Lock()
        #: Why there are no more steps.
        self._ended: BaseException | None = None

    async def run(self, step: Callable[[Connection], T]) -> T:
        """Run a step in the read's transaction and return what it returns.

        Raises:
            DeadlineExceededException: The read had its time.
            ServerDrainingException: The database is closed.
        """
        return cast(T, await self._loop.run_in_executor(None, self._run, step))

    def end(self, reason: BaseException) -> asyncio.Future[None]:
        """Interrupt a step that is under way, close the connection, and refuse further steps."""
        if self._ended is None:
            self._ended = reason
        return self._loop.run_in_executor(None, self._close)

    # On a thread.

    def _run(self, step: Callable[[Connection], Any]) -> Any:
        with self._lock:
            self._check()
            try:
                if self._connection is None:
                    self._connection = open_reader(self._path)
                    # An interrupt between two statements is lost on SQLite: the next one asks by itself.
                    self._connection.set_progress_handler(lambda: self._ended is not None, _STEPS)
                    self._connection.execute("BEGIN")
                return step(self._connection)
            except sqlite3.OperationalError as error:
                self._check()  # it may be that which was interrupted
                raise self._translate(error) from error

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended from None

    def _close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


class LongReads:
    """The long reads of one database. Belongs to an event loop.

    Args:
        path: The database file, open already.
        translate: Makes an error of the suite of one of SQLite's.
        kind: What the reads are called in errors, as ``export``.
        at_once: How many there may be at once.
        limit_s: How many seconds one may take.
        remedy: What makes one shorter, for the error when its time is over.
    """

    def __init__(
        self,
        path: Path,
        translate: Callable[[BaseException], BaseException],
        kind: str,
        *,
        at_once: int,
        limit_s: float,
        remedy: str,
    ) -> None:
        self._path = path
        self._translate = translate
        self._kind = kind
        self._at_once = at_once
        self._limit_s = limit_s
        self._remedy = remedy
        self._open: set[LongRead] = set()
        self._closed = False

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[LongRead]:
        """A read whose moment is that of its first step.

        Raises:
            ServerBusyException: There are as many as may be.
            ServerDrainingException: The database is closed.
        """
        if self._closed:
            raise closed()
        if len(self._open) >= self._at_once:
            raise too_many(self._kind, self._at_once)
        read = LongRead(self._path, self._translate)
        self._open.add(read)
        timer = asyncio.get_running_loop().call_later(
            self._limit_s, read.end, too_long(self._kind, self._limit_s, self._remedy)
        )
        try:
            yield read
        finally:
            timer.cancel()
            try:
                await asyncio.shield(read.end(closed()))
            finally:
                self._open.discard(read)

    async def close(self) -> None:
        """End every read. May be called twice."""
        self._closed = True
        for read in list(self._open):
            await read.end(closed())
