"""One SQLite file: a thread that writes, a few that read, and one hop to either per unit of work.

A unit of work is a plain function of a connection. ``read`` runs it inside one read transaction, so
that everything it sees belongs to one moment; ``write`` runs it between BEGIN IMMEDIATE and COMMIT.
Because the whole unit runs on its thread without an await in between, a cancelled RPC can never leave
a transaction open: a write that was asked for is carried through, whoever still waits for it, and its
outcome is forgotten if nobody does.

Most of a write's time is the wait for the disk. So the writes that wait while one is under way then
share a transaction and its COMMIT, each inside a savepoint of its own: one that raises undoes itself and
not its neighbours, and none is answered before the COMMIT.

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
import errno
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from modelkeep.exceptions import DiskFullException, ServerBusyException, ServerDrainingException
from modelkeep.reserve import DEFAULT_BYTES, Reserve

from .migrations import Migration, migrate
from .startup import EXIT_DATA, EXIT_NOT_WRITABLE, StartupError

T = TypeVar("T")

_BUSY_TIMEOUT_S = 10.0
_FULL_BELOW_BYTES = 1 << 20
#: How often an incomplete reserve is looked after when nothing is written.
_RENEW_S = 10.0
#: A transaction takes no further write in after this long, so that the first is not kept waiting.
_GROUP_S = 0.01

__all__ = ["Connection", "Database", "Migration"]


class Connection(sqlite3.Connection):
    """A connection that knows what its transaction appended to the change log."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: (collection, resource id) of each change.
        self.appended: Changed = []


#: What a commit changed: (collection, resource id) of each row that it appended to the change log.
Changed = list[tuple[str, str]]
_Work = Callable[[sqlite3.Connection], Any]


class _Job(NamedTuple):
    """A unit of work, who waits for it, whether its commit waits for the disk, and whether it only adds."""

    work: _Work
    future: asyncio.Future[Any]
    synced: bool = True
    grows: bool = False


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
        self.path = path
        #: Room for the way out of a full disk; its ``run`` is for files in the same folder.
        self.reserve = reserve
        #: UUID of this store, for as long as the file lives; a copy of the file has the same one.
        self.store_id = store_id
        #: Random id of this opening of the file; see ``changes.py``.
        self.epoch = epoch
        self._loop = asyncio.get_running_loop()
        self._writes: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._done: deque[tuple[asyncio.Future[Any], _Outcome]] = deque()
        self._waking = False
        self._closed = False
        self._commit_listeners: list[Callable[[Changed], None]] = []
        self._threads = [
            threading.Thread(
                target=self._write_loop, args=(writer,), daemon=True, name=f"{path.stem}-writer"
            ),
            *(
                threading.Thread(
                    target=self._read_loop, args=(r,), daemon=True, name=f"{path.stem}-reader-{i}"
                )
                for i, r in enumerate(readers)
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
    ) -> Database:
        """Open ``path``, making and migrating it as needed.

        Args:
            path: The database file; its folder is made if need be.
            migrations: The service's own, versions ascending from 1. The tables that all services
                share (change log, request ids) come by themselves.
            application: The marker of this kind of store, as ``record``.
            readers: How many reads may run at once.
            reserve_bytes: Room that is kept beside the file for when the disk is full.

        Raises:
            StartupError: 65 for a newer schema or a file of another kind, 73 if it cannot be written.
        """
        reserve = Reserve(path.parent, reserve_bytes)
        writer, read, store_id, epoch = await asyncio.to_thread(
            _open_connections, path, migrations, application, readers, reserve
        )
        return cls(path, store_id, epoch, writer, read, reserve)

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``fn`` in one read transaction and return what it returns."""
        return cast(T, await self._submit(self._reads, _Job(fn, self._loop.create_future())))

    async def write(
        self, fn: Callable[[sqlite3.Connection], T], *, synced: bool = True, grows: bool = False
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

        Raises:
            DiskFullException: There is no room.
        """
        # The unit of work sees the call that it is done for, as replay_or_run does.
        context = contextvars.copy_context()

        def work(connection: sqlite3.Connection) -> Any:
            return context.run(fn, connection)

        return cast(
            T, await self._submit(self._writes, _Job(work, self._loop.create_future(), synced, grows))
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
        self._writes.put(None)
        for _ in self._threads[1:]:
            self._reads.put(None)
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _submit(self, lane: queue.SimpleQueue[_Job | None], job: _Job) -> asyncio.Future[Any]:
        if self._closed:
            raise ServerDrainingException("The store is closed: the server is shutting down.")
        lane.put(job)
        return job.future

    # On the worker threads.

    def _read_loop(self, connection: Connection) -> None:
        while self._read_next(connection):
            pass
        connection.close()

    def _write_loop(self, connection: Connection) -> None:
        while self._write_next(connection):
            pass
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA optimize")
        connection.close()

    # Functions of their own, so that nothing of a job is kept alive while waiting for the next.

    def _read_next(self, connection: Connection) -> bool:
        job = self._reads.get()
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
        return job is not None

    def _write_together(self, connection: Connection, waiting: deque[_Job]) -> None:
        """Take units of work off ``waiting``, as many as the time allows, and commit them together."""
        jobs: list[_Job] = []
        outcomes = self._commit(connection, waiting, jobs)
        if any(self._is_full(outcome.error) for outcome in outcomes):
            outcomes = self._commit_on_full_disk(connection, jobs, outcomes)
        if connection.appended:
            self._call_soon(self._committed, connection.appended)
        for job, outcome in zip(jobs, outcomes, strict=True):
            self._finish(job, outcome)

    def _commit(self, connection: Connection, waiting: deque[_Job], jobs: list[_Job]) -> list[_Outcome]:
        """Move units of work from ``waiting`` to ``jobs``, run and commit them; what became of each."""
        level = "FULL" if any(job.synced for job in waiting) else "NORMAL"
        connection.appended = []
        jobs.append(waiting.popleft())
        outcomes: list[_Outcome] = []
        try:
            connection.execute(f"PRAGMA synchronous = {level}")
            connection.execute("BEGIN IMMEDIATE")
            until = time.monotonic() + _GROUP_S
            outcomes.append(self._run_job(connection, jobs[0]))
            while waiting and time.monotonic() < until:
                jobs.append(waiting.popleft())
                outcomes.append(self._run_job(connection, jobs[-1]))
            connection.execute("COMMIT" if any(o.error is None for o in outcomes) else "ROLLBACK")
        except BaseException as error:
            # The transaction is lost, and with it whatever had gone well inside. This thread must go on.
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            connection.appended = []
            lost = _Outcome(error=error)
            outcomes = [lost if outcome.error is None else outcome for outcome in outcomes]
            outcomes += [lost] * (len(jobs) - len(outcomes))
        return outcomes

    def _commit_on_full_disk(
        self, connection: Connection, jobs: list[_Job], outcomes: list[_Outcome]
    ) -> list[_Outcome]:
        """Run what the disk had no room for again, each alone, with slices of the reserve if it may."""
        appended = connection.appended
        final: list[_Outcome] = []
        for job, first in zip(jobs, outcomes, strict=True):
            outcome, tried = first, False
            while self._is_full(outcome.error) and (not tried or self._may_free(job)):
                tried = True
                (outcome,) = self._commit(connection, deque([job]), [])
                appended = appended + connection.appended
            final.append(outcome)
        connection.appended = appended
        return final

    def _may_free(self, job: _Job) -> bool:
        return not job.grows and self.reserve.give_up()

    def _run_job(self, connection: Connection, job: _Job) -> _Outcome:
        if job.grows and not self.reserve.has_room():
            return _Outcome(error=self._no_room())
        return self._run_unit(connection, job.work)

    @staticmethod
    def _run_unit(connection: Connection, work: _Work) -> _Outcome:
        """Run a unit of work inside a savepoint; raises only if the whole transaction is lost."""
        before = len(connection.appended)
        connection.execute("SAVEPOINT unit")
        try:
            outcome = _Outcome(work(connection))
        except BaseException as error:
            # A full disk makes SQLite roll back all by itself; then there is no savepoint left.
            if not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO unit")
            del connection.appended[before:]
            outcome = _Outcome(error=error)
        connection.execute("RELEASE unit")
        return outcome

    def _finish(self, job: _Job, outcome: _Outcome) -> None:
        if outcome.error is not None:
            outcome = _Outcome(error=self._translate(outcome.error))
        self._done.append((job.future, outcome))
        # One wake-up of the loop delivers everything that finished meanwhile.
        if not self._waking:
            self._waking = True
            self._call_soon(self._deliver)

    def _call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        # The loop may be gone when a daemon thread finishes after an abrupt end.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def _translate(self, error: BaseException) -> BaseException:
        if not isinstance(error, sqlite3.OperationalError):
            return error
        if self._is_full(error):
            return self._no_room()
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return ServerBusyException(
                "Another process holds the database: try again.",
                metadata={"class": "database", "limit": "1"},
                retry_after=1,
            )
        return error

    def _is_full(self, error: BaseException | None) -> bool:
        return isinstance(error, sqlite3.OperationalError) and _is_full(error, self.path)

    def _no_room(self) -> DiskFullException:
        return DiskFullException(
            f"The file system of {self.path.parent} has no room for the database: free some space.",
            metadata={"path": str(self.path.parent), "bytes_short": str(_FULL_BELOW_BYTES)},
            retry_after=30,
        )

    # On the event loop.

    def _deliver(self) -> None:
        self._waking = False
        while self._done:
            future, outcome = self._done.popleft()
            if future.cancelled():
                continue
            if outcome.error is None:
                future.set_result(outcome.result)
            else:
                future.set_exception(outcome.error)

    def _committed(self, changed: Changed) -> None:
        for listener in self._commit_listeners:
            listener(changed)


def _open_connections(
    path: Path, migrations: Sequence[Migration], application: str, readers: int, reserve: Reserve
) -> tuple[Connection, list[Connection], str, str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            EXIT_NOT_WRITABLE, f"cannot make the folder {path.parent}: {error.strerror}"
        ) from None
    if not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise StartupError(EXIT_NOT_WRITABLE, f"cannot write {path}: check who owns the folder {path.parent}")
    while True:
        opened: list[Connection] = []
        try:
            writer = _connect(path, opened)
            store_id, epoch = migrate(writer, path, migrations, application)
            for _ in range(readers):
                reader = _connect(path, opened)
                reader.execute("PRAGMA query_only = ON")
            reserve.renew()
            return writer, opened[1:], store_id, epoch
        except sqlite3.OperationalError as error:
            _close_all(opened)
            is_full = _is_full(error, path)
            if is_full and reserve.give_up():
                continue
            reason = f"{path.parent} is on a full disk: free some space" if is_full else str(error)
            raise StartupError(EXIT_NOT_WRITABLE, f"cannot write {path}: {reason}") from None
        except sqlite3.DatabaseError:
            _close_all(opened)
            raise StartupError(
                EXIT_DATA, f"{path} is not a SQLite database: move it away, or set another folder"
            ) from None
        except BaseException:
            _close_all(opened)
            raise


def _is_full(error: sqlite3.OperationalError, path: Path) -> bool:
    """Whether SQLite failed for want of room; for the files beside the database it has no clear word."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return True
    if code not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return False
    try:
        status = os.statvfs(path.parent)
    except OSError as why:
        return why.errno == errno.ENOSPC
    return status.f_bavail * status.f_frsize < _FULL_BELOW_BYTES


def _connect(path: Path, opened: list[Connection]) -> Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, factory=Connection
    )
    opened.append(connection)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -8192")
    return connection


def _close_all(connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()
