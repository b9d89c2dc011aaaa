"""One SQLite file: a thread that writes, a few that read, and one hop to either per unit of work.

A unit of work is a plain function of a connection. ``read`` runs it inside one read transaction, so
that everything it sees belongs to one moment; ``write`` runs it between BEGIN IMMEDIATE and COMMIT.
Because the whole unit runs on its thread without an await in between, a cancelled RPC can never leave
a transaction open: a write that was asked for is carried through, whoever still waits for it, and its
outcome is forgotten if nobody does.

Most of a write's time is the wait for the disk. So the writes that wait while one is under way then
share a transaction and its COMMIT, and none is answered before that. One that raises undoes itself and not
its neighbours: each has a savepoint of its own, or, where all of them may be run again, the transaction is
begun anew with savepoints once one has raised after it wrote something, which is rare.

WAL mode, ``synchronous=FULL`` (a committed write survives a power cut), foreign keys on, and a busy
time-out, so that two processes on one file are both correct. The threads are daemons: they never keep
a process from exiting.

On a full disk the folder's reserve is given up for what is written, except for what only makes more
(``grows``): that is refused as long as the reserve is not whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from modelkeep.exceptions import ServerDrainingException
from modelkeep.reserve import DEFAULT_BYTES, Reserve

from ..limits import StoreLimits
from .connections import (
    Changed,
    Connection,
    is_full,
    keep_small,
    no_room,
    open_connections,
    reuse_log,
    translated,
)
from .long_reads import LongReads
from .migrations import Migration
from .searches import SearchLane

T = TypeVar("T")

#: How often an incomplete reserve is looked after when nothing is written.
_RENEW_S = 10.0
#: A transaction takes no further write in after this long, so that the first is not kept waiting.
_GROUP_S = 0.01

_Work = Callable[[Connection], Any]


class _Job(NamedTuple):
    """A unit of work, who waits for it, and how it is to be run; see :meth:`Database.write`."""

    work: _Work
    future: asyncio.Future[Any]
    synced: bool = True
    grows: bool = False
    repeatable: bool = False


class _Outcome(NamedTuple):
    """What became of a unit of work."""

    result: Any = None
    error: BaseException | None = None


class Database:
    """One SQLite file, opened by :meth:`open`. Belongs to the event loop that opened it."""

    def __init__(
        self,
        path: Path,
        store_id: str,
        epoch: str,
        writer: Connection,
        readers: list[Connection],
        reserve: Reserve,
    ) -> None:
        """``readers``: the first serves :meth:`read_by_key`, the others :meth:`read`."""
        self.path = path
        #: Room for the way out of a full disk; its ``run`` is for files in the same folder.
        self.reserve = reserve
        self.limits = writer.books.limits
        #: UUID of this store, for as long as the file lives; a copy of the file has the same one.
        self.store_id = store_id
        #: Random id of this opening of the file; see ``watch/sqlite_log.py``.
        self.epoch = epoch
        self._loop = asyncio.get_running_loop()
        self._writes: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        #: Writes that were asked for in this turn of the event loop.
        self._asked: list[_Job] = []
        self._reads: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._key_reads: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._done: deque[tuple[asyncio.Future[Any], _Outcome]] = deque()
        self._waking = False
        self._closed = False
        self._lanes: list[SearchLane | LongReads] = []
        self._commit_listeners: list[Callable[[Changed], None]] = []
        self._threads = [
            threading.Thread(
                target=self._write_loop, args=(writer,), daemon=True, name=f"{path.stem}-writer"
            ),
            *(
                threading.Thread(
                    target=self._read_loop,
                    args=(reader, self._reads if number else self._key_reads),
                    daemon=True,
                    name=f"{path.stem}-reader-{number}",
                )
                for number, reader in enumerate(readers)
            ),
        ]
        for thread in self._threads:
            thread.start()

    @classmethod
    async def open(
        cls,
        path: Path,
        migrations: Sequence[Migration],
        application: str,
        *,
        readers: int = 2,
        reserve_bytes: int = DEFAULT_BYTES,
        limits: StoreLimits | None = None,
    ) -> Database:
        """Open ``path``, making and migrating it as needed.

        Args:
            path: The database file; its folder is made if need be.
            migrations: The service's own, versions ascending from 1. The tables that all services
                share (change log, request ids) come by themselves.
            application: The marker of this kind of store, as ``record``.
            readers: How many reads may run at once, those by key apart.
            reserve_bytes: Room that is kept beside the file for when the disk is full.
            limits: How much history and how many kept answers there may be; None: the defaults.

        Raises:
            StartupError: 65 for a newer schema or a file of another kind, 73 if it cannot be written.
        """
        reserve = Reserve(path.parent, reserve_bytes)
        writer, read, store_id, epoch = await asyncio.to_thread(
            open_connections, path, migrations, application, readers + 1, reserve, limits or StoreLimits()
        )
        return cls(path, store_id, epoch, writer, read, reserve)

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run ``fn`` in one read transaction and return what it returns."""
        return cast(T, await self._submit(self._reads, _Job(fn, self._loop.create_future())))

    async def read_by_key(self, fn: Callable[[Connection], T]) -> T:
        """As :meth:`read`, on a thread that only such reads use: for few rows, found by an index."""
        return cast(T, await self._submit(self._key_reads, _Job(fn, self._loop.create_future())))

    def lane(self, kind: str, *, at_once: int, waiting: int, limit_s: float, remedy: str) -> SearchLane:
        """Threads of their own for reads that may be dear; closed with the database."""
        lane = SearchLane(
            self.path,
            self._translate,
            kind,
            at_once=at_once,
            waiting=waiting,
            limit_s=limit_s,
            remedy=remedy,
        )
        self._lanes.append(lane)
        return lane

    def long_reads(self, kind: str, *, at_once: int, limit_s: float, remedy: str) -> LongReads:
        """Reads of one moment in as many steps as it takes; closed with the database."""
        reads = LongReads(self.path, self._translate, kind, at_once=at_once, limit_s=limit_s, remedy=remedy)
        self._lanes.append(reads)
        return reads

    async def write(
        self,
        fn: Callable[[Connection], T],
        *,
        synced: bool = True,
        grows: bool = False,
        repeatable: bool = False,
    ) -> T:
        """Run ``fn`` in a write transaction: committed when it returns, rolled back when it raises.

        Others' units of work may share the transaction, before and after this one. Cancelling the caller
        does not stop the unit of work.

        Args:
            fn: The unit of work. It is run again when the first try found the disk full.
            synced: False saves the wait for the disk: the commit survives the end of the process at
                any moment, but a power cut only from the next synced one on. For what can be done anew.
            grows: True for what only makes more, as a new record: it must not use up the room that is
                kept for what ends jobs and frees space.
            repeatable: True for what leaves nothing but what it wrote: it may be run again because of a
                neighbour's error, and needs no savepoint.

        Raises:
            DiskFullException: There is no room.
        """
        # The unit of work sees the call that it is done for, as replay_or_run does.
        context = contextvars.copy_context()

        def work(connection: Connection) -> Any:
            return context.run(fn, connection)

        return cast(
            T,
            await self._submit_write(_Job(work, self._loop.create_future(), synced, grows, repeatable)),
        )

    def add_commit_listener(self, listener: Callable[[Changed], None]) -> None:
        """Call ``listener`` on the event loop after each commit that appended to the change log.

        It is called before the one who waits for the write goes on.
        """
        self._commit_listeners.append(listener)

    async def close(self) -> None:
        """Finish what was asked for, then close every connection. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._hand_over()
        self._key_reads.put(None)
        for _ in self._threads[2:]:
            self._reads.put(None)
        for lane in self._lanes:
            await lane.close()
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        writer, *readers = self._threads
        for thread in readers:
            thread.join()
        # The last that closes empties the log into the file; two at the same time would both leave it.
        self._writes.put(None)
        writer.join()

    def _submit_write(self, job: _Job) -> asyncio.Future[Any]:
        """Hand over a write at the end of this turn of the event loop, with all others of the turn.

        So they share a commit, and the writer does not take turns with the loop while that is busy.
        """
        if self._closed:
            raise _draining()
        if not self._asked:
            self._loop.call_soon(self._hand_over)
        self._asked.append(job)
        return job.future

    def _hand_over(self) -> None:
        asked, self._asked = self._asked, []
        for job in asked:
            self._writes.put(job)

    def _submit(self, lane: queue.SimpleQueue[_Job | None], job: _Job) -> asyncio.Future[Any]:
        if self._closed:
            raise _draining()
        lane.put(job)
        return job.future

    # On the worker threads.

    def _read_loop(self, connection: Connection, lane: queue.SimpleQueue[_Job | None]) -> None:
        while self._read_next(connection, lane):
            pass
        connection.close()

    def _write_loop(self, connection: Connection) -> None:
        while self._write_next(connection):
            pass
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA optimize")
        connection.close()

    # Functions of their own, so that nothing of a job is kept alive while waiting for the next.

    def _read_next(self, connection: Connection, lane: queue.SimpleQueue[_Job | None]) -> bool:
        job = lane.get()
        if job is None:
            return False
        if not job.future.cancelled():
            try:
                outcome = _Outcome(self._read_on(connection, job.work))
            except BaseException as error:
                outcome = _Outcome(error=error)
            self._finish(job, outcome)
        return True

    @staticmethod
    def _read_on(connection: Connection, work: _Work) -> Any:
        connection.execute("BEGIN")
        try:
            return work(connection)
        finally:
            connection.rollback()

    def _write_next(self, connection: Connection) -> bool:
        waiting: deque[_Job] = deque()
        try:
            job = self._writes.get(timeout=None if self.reserve.is_whole else _RENEW_S)
        except queue.Empty:
            self.reserve.renew()
            return True
        while job is not None:
            waiting.append(job)
            if self._writes.empty():
                break
            job = self._writes.get()
        while waiting:
            self._write_together(connection, waiting)
            keep_small(connection, self.path)
        return job is not None

    def _write_together(self, connection: Connection, waiting: deque[_Job]) -> None:
        """Take units of work off ``waiting``, as many as the time allows, and commit them together."""
        jobs: list[_Job] = []
        outcomes = self._commit(connection, waiting, jobs)
        if any(self._is_full(outcome.error) for outcome in outcomes):
            outcomes = self._commit_on_full_disk(connection, jobs, outcomes)
        ended = [(job.future, self._translated(end)) for job, end in zip(jobs, outcomes, strict=True)]
        self._call_soon(self._committed, connection.books.appended, ended)

    def _commit(self, connection: Connection, waiting: deque[_Job], jobs: list[_Job]) -> list[_Outcome]:
        """Move units of work from ``waiting`` to ``jobs``, run and commit them; what became of each."""
        level = "FULL" if any(job.synced for job in waiting) else "NORMAL"
        savepoints = not all(job.repeatable for job in waiting)
        connection.books.appended = []
        outcomes: list[_Outcome] = []
        jobs.append(waiting.popleft())
        try:
            connection.sync(level)
            connection.execute("BEGIN IMMEDIATE")
            until = time.monotonic() + _GROUP_S
            while True:
                outcome = self._run_job(connection, jobs[-1], savepoint=savepoints)
                if outcome is None:
                    savepoints = True
                    outcomes = self._begin_anew(connection, jobs)
                else:
                    outcomes.append(outcome)
                if not waiting or time.monotonic() >= until:
                    break
                jobs.append(waiting.popleft())
            connection.execute("COMMIT" if any(o.error is None for o in outcomes) else "ROLLBACK")
        except BaseException as error:
            # The transaction is lost, and with it whatever had gone well inside. This thread must go on.
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            connection.books.appended = []
            lost = _Outcome(error=error)
            outcomes = [lost if outcome.error is None else outcome for outcome in outcomes]
            outcomes += [lost] * (len(jobs) - len(outcomes))
        return outcomes

    def _commit_on_full_disk(
        self, connection: Connection, jobs: list[_Job], outcomes: list[_Outcome]
    ) -> list[_Outcome]:
        """Run what the disk had no room for again, each alone, with what room there is for it."""
        appended = connection.books.appended
        final: list[_Outcome] = []
        for job, first in zip(jobs, outcomes, strict=True):
            outcome, rooms = first, self._rooms(connection, job)
            while self._is_full(outcome.error) and next(rooms, False):
                (outcome,) = self._commit(connection, deque([job]), [])
                appended = appended + connection.books.appended
            final.append(outcome)
        connection.books.appended = appended
        return final

    def _rooms(self, connection: Connection, job: _Job) -> Iterator[bool]:
        """Tries that a unit of work has on a full disk, each with more room than the one before."""
        yield True  # alone it may fit
        if job.grows:
            return
        if reuse_log(connection):
            yield True
        while self.reserve.give_up():
            # What the log holds may need room in the database itself before the log can begin anew.
            reuse_log(connection)
            yield True

    def _begin_anew(self, connection: Connection, jobs: list[_Job]) -> list[_Outcome]:
        """Run units of work again, so that the last one, which left something behind, leaves nothing."""
        connection.execute("ROLLBACK")
        connection.books.appended = []
        connection.execute("BEGIN IMMEDIATE")
        outcomes = (self._run_job(connection, job, savepoint=True) for job in jobs)
        return [outcome for outcome in outcomes if outcome is not None]

    def _run_job(self, connection: Connection, job: _Job, *, savepoint: bool) -> _Outcome | None:
        """Run a unit of work; raises only if the whole transaction is lost.

        Returns:
            What became of it; None, without a savepoint, if it raised and what it wrote is still there.
        """
        if job.grows and not self.reserve.has_room():
            return _Outcome(error=no_room(self.path))
        if savepoint:
            return self._run_within_savepoint(connection, job.work)
        changes = connection.total_changes
        try:
            return _Outcome(job.work(connection))
        except BaseException as error:
            # A full disk makes SQLite roll back all by itself.
            if not connection.in_transaction:
                raise
            return _Outcome(error=error) if connection.total_changes == changes else None

    @staticmethod
    def _run_within_savepoint(connection: Connection, work: _Work) -> _Outcome:
        before = len(connection.books.appended)
        connection.execute("SAVEPOINT unit")
        try:
            outcome = _Outcome(work(connection))
        except BaseException as error:
            # After a full disk there is no savepoint left.
            if not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO unit")
            del connection.books.appended[before:]
            outcome = _Outcome(error=error)
        connection.execute("RELEASE unit")
        return outcome

    def _finish(self, job: _Job, outcome: _Outcome) -> None:
        self._done.append((job.future, self._translated(outcome)))
        # One wake-up of the loop delivers everything that finished meanwhile.
        if not self._waking:
            self._waking = True
            self._call_soon(self._deliver)

    def _translated(self, outcome: _Outcome) -> _Outcome:
        return outcome if outcome.error is None else _Outcome(error=self._translate(outcome.error))

    def _call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        # The loop may be gone when a daemon thread finishes after an abrupt end.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def _translate(self, error: BaseException) -> BaseException:
        return translated(error, self.path) if isinstance(error, sqlite3.OperationalError) else error

    def _is_full(self, error: BaseException | None) -> bool:
        return isinstance(error, sqlite3.OperationalError) and is_full(error, self.path)

    # On the event loop.

    def _deliver(self) -> None:
        self._waking = False
        while self._done:
            self._end(*self._done.popleft())

    def _committed(self, changed: Changed, ended: list[tuple[asyncio.Future[Any], _Outcome]]) -> None:
        """Tell of a commit first, and then those who wait for it."""
        if changed:
            for listener in self._commit_listeners:
                listener(changed)
        for future, outcome in ended:
            self._end(future, outcome)

    @staticmethod
    def _end(future: asyncio.Future[Any], outcome: _Outcome) -> None:
        if future.cancelled():
            return
        if outcome.error is None:
            future.set_result(outcome.result)
        else:
            future.set_exception(outcome.error)


def _draining() -> ServerDrainingException:
    return ServerDrainingException("The store is closed: the server is shutting down.")
