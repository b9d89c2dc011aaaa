"""Reads that may be dear: threads of their own, so many at once, each for so long.

What walks through a whole table must neither keep cheap reads waiting nor run for ever. So such a read
takes one of a few threads, waits a while for it if they are all taken, and is interrupted when its time
is over or when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..gates import closed, too_long, too_many
from .connections import Connection, open_reader

T = TypeVar("T")

#: So many steps of SQLite's machine take well below a millisecond.
_STEPS = 5000


class _Search:
    """One read: before, while and after it runs."""

    def __init__(self, work: Callable[[Connection], Any], future: asyncio.Future[Any]) -> None:
        self.work = work
        self.future = future
        #: Whether a thread has taken it.
        self.begun = False
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._stopped = False

    def stop(self) -> None:
        """Interrupt it, or keep it from beginning. From any thread, at any time."""
        with self._lock:
            self._stopped = True
            if self._connection is not None:
                self._connection.interrupt()

    def run(self, connection: Connection) -> Any:
        """Run it in a read transaction; what :meth:`stop` ends raises sqlite3.OperationalError."""
        with self._lock:
            if self._stopped:
                raise sqlite3.OperationalError("interrupted")
            self._connection = connection
            self.begun = True
        try:
            # An interrupt between two statements is lost on SQLite: the next one asks by itself.
            connection.set_progress_handler(self._is_stopped, _STEPS)
            connection.execute("BEGIN")
            return self.work(connection)
        finally:
            with self._lock:
                self._connection = None
            connection.set_progress_handler(None, _STEPS)
            connection.rollback()

    def _is_stopped(self) -> bool:
        return self._stopped


class SearchLane:
    """The threads for one class of dear reads. Belongs to an event loop.

    Args:
        path: The database file, open already.
        translate: Makes an error of the suite of one of SQLite's.
        kind: What the reads are called in errors, as ``search``.
        at_once: How many run at once; a thread is made when there is first work for it.
        waiting: How many may wait for one that ends.
        limit_s: How many seconds one may take, waiting included.
        remedy: What makes one cheaper, for the error when its time is over.
    """

    def __init__(
        self,
        path: Path,
        translate: Callable[[BaseException], BaseException],
        kind: str,
        *,
        at_once: int,
        waiting: int,
        limit_s: float,
        remedy: str,
    ) -> None:
        self._path = path
        self._translate = translate
        self._kind = kind
        self._at_once = at_once
        self._waiting = waiting
        self._limit_s = limit_s
        self._remedy = remedy
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Search | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._searches: set[_Search] = set()
        self._closed = False

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one read transaction and return what it returns.

        Raises:
            ServerBusyException: As many run and wait as may, or none ended in time.
            DeadlineExceededException: It took too long, and was interrupted.
            ServerDrainingException: The lane is closed.
        """
        if self._closed:
            raise closed()
        if len(self._searches) >= self._at_once + self._waiting:
            raise too_many(self._kind, self._at_once)
        search = _Search(work, self._loop.create_future())
        self._searches.add(search)
        if len(self._threads) < min(self._at_once, len(self._searches)):
            self._add_thread()
        self._queue.put(search)
        try:
            async with asyncio.timeout(self._limit_s):
                result: T = await search.future
                return result
        except TimeoutError:
            if not search.begun:
                raise too_many(self._kind, self._at_once) from None
            raise too_long(self._kind, self._limit_s, self._remedy) from None
        finally:
            search.stop()

    async def close(self) -> None:
        """Interrupt what runs and end the threads. May be called twice."""
        self._closed = True
        for search in self._searches:
            search.stop()
        threads, self._threads = self._threads, []
        for _ in threads:
            self._queue.put(None)
        if threads:
            await asyncio.to_thread(_join, threads)

    def _add_thread(self) -> None:
        name = f"{self._path.stem}-{self._kind}-{len(self._threads)}"
        thread = threading.Thread(target=self._serve, daemon=True, name=name)
        self._threads.append(thread)
        thread.start()

    # On the threads.

    def _serve(self) -> None:
        connection: Connection | None = None
        while (search := self._queue.get()) is not None:
            result, error = None, None
            try:
                if connection is None:
                    connection = open_reader(self._path)
                result = search.run(connection)
            except BaseException as failed:
                error = failed
            # The loop may be gone when a daemon thread finishes after an abrupt end.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._finish, search, result, error)
            del search, result, error
        if connection is not None:
            connection.close()

    # On the event loop.

    def _finish(self, search: _Search, result: Any, error: BaseException | None) -> None:
        # Only now is its thread free: until then it counts.
        self._searches.discard(search)
        if search.future.done():
            return
        if error is None:
            search.future.set_result(result)
        elif self._closed:
            search.future.set_exception(closed())
        else:
            search.future.set_exception(self._translate(error))


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join()
