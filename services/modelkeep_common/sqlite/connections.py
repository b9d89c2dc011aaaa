"""Opening one SQLite file: the connection that writes, those that read, and what bounds their store."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelkeep.defaults import EXIT_DATA, EXIT_NOT_WRITABLE
from modelkeep.exceptions import DiskFullException, ServerBusyException
from modelkeep.reserve import Reserve

from ..limits import StoreLimits
from ..startup import StartupError
from .migrations import Migration, migrate

#: A file system with less room than this counts as full.
FULL_BELOW_BYTES = 1 << 20
_BUSY_TIMEOUT_S = 10.0
#: The write-ahead log is cut to the first number whenever it starts anew, and made to from the second on.
_WAL_BYTES, _MAX_WAL_BYTES = 16 << 20, 64 << 20
#: How long readers may keep it from that.
_WAL_WAIT_MS = 500
#: Free pages that the file keeps for what comes next, and how many are given back at a time.
_FREE_PAGES, _GIVE_BACK_PAGES = 4096, 1024


#: What a commit changed: (collection, resource id) of each row that it appended to the change log.
Changed = list[tuple[str, str]]


class Books:
    """What the transactions of a connection that writes have added, and what its store may hold."""

    def __init__(self, limits: StoreLimits | None = None) -> None:
        self.limits = limits or StoreLimits()
        #: (collection, resource id) of each change that the transaction appended to the change log.
        self.appended: Changed = []
        #: Bytes added since the history and the kept answers were last measured; at first unknown.
        self.history_added = self.limits.history_bytes
        self.answers_added = self.limits.answers_bytes
        #: Requests with an id so far.
        self.requests = 0


class Connection(sqlite3.Connection):
    """A connection with its books."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.books = Books()
        #: Bytes of the write-ahead log when a read kept it from being emptied; 0: none did.
        self.log_held_at = 0
        self._synchronous = ""

    def sync(self, level: str) -> None:
        """What a commit waits for from now on: ``FULL``, the disk; ``NORMAL``, nothing."""
        if level != self._synchronous:
            self._synchronous = ""  # it may fail
            self.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level


def books_of(conn: sqlite3.Connection, books: Books | None = None) -> Books:
    """Those that were given, or the connection's own."""
    if books is not None:
        return books
    assert isinstance(conn, Connection), "a connection of somebody else has no books: give some"
    return conn.books


def open_connections(
    path: Path,
    migrations: Sequence[Migration],
    application: str,
    readers: int,
    reserve: Reserve,
    limits: StoreLimits,
) -> tuple[Connection, list[Connection], str, str]:
    """Open a file, making and migrating it as needed; on a full disk the reserve is given up for it.

    Returns:
        The writer, the readers, the store's id and that of this opening.

    Raises:
        StartupError: 65 for a newer schema or a file of another kind, 73 if it cannot be written.
    """
    make_file(path)
    while True:
        opened: list[Connection] = []
        try:
            writer = connect(path, opened)
            writer.books = Books(limits)
            writer.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            store_id, epoch = migrate(writer, path, migrations, application)
            for _ in range(readers):
                opened.append(open_reader(path))
            reserve.renew()
            return writer, opened[1:], store_id, epoch
        except sqlite3.OperationalError as error:
            _close_all(opened)
            if is_full(error, path) and reserve.give_up():
                continue
            raise not_opened(error, path) from None
        except sqlite3.DatabaseError as error:
            _close_all(opened)
            raise not_opened(error, path) from None
        except BaseException:
            _close_all(opened)
            raise


def make_file(path: Path) -> None:
    """Make a database file and its folder, for this user alone, unless they are there.

    Raises:
        StartupError: 73 if it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            EXIT_NOT_WRITABLE, f"cannot make the folder {path.parent}: {error.strerror}"
        ) from None
    if not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise StartupError(EXIT_NOT_WRITABLE, f"cannot write {path}: check who owns the folder {path.parent}")
    with contextlib.suppress(OSError):
        # SQLite gives its side files the mode of this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def not_opened(error: sqlite3.DatabaseError, path: Path) -> StartupError:
    """Why a file could not be opened, for an operator."""
    if not isinstance(error, sqlite3.OperationalError):
        return StartupError(
            EXIT_DATA, f"{path} is not a SQLite database: move it away, or set another folder"
        )
    reason = f"{path.parent} is on a full disk: free some space" if is_full(error, path) else str(error)
    return StartupError(EXIT_NOT_WRITABLE, f"cannot write {path}: {reason}")


def translated(error: sqlite3.OperationalError, path: Path) -> Exception:
    """What went wrong in a transaction, as an exception of the suite where it has one."""
    if is_full(error, path):
        return no_room(path)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ServerBusyException(
            "Another process holds the database: try again.",
            metadata={"class": "database", "limit": "1"},
            retry_after=1,
        )
    return error


def no_room(path: Path) -> DiskFullException:
    """The error for a full disk."""
    remedy = "Free some space there."
    return DiskFullException(
        f"The file system of {path.parent} has no room for the database. {remedy}",
        remedy=remedy,
        metadata={"path": str(path.parent), "bytes_short": str(FULL_BELOW_BYTES)},
        retry_after=30,
    )


def is_full(error: sqlite3.OperationalError, path: Path) -> bool:
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
    return status.f_bavail * status.f_frsize < FULL_BELOW_BYTES


def keep_small(writer: Connection, path: Path) -> None:
    """Give back what the files hold for nothing; between two transactions, and quick if there is none.

    What was deleted leaves free pages. Those of a file that was made before they could be given back are
    used again. The write-ahead log starts anew by itself when no read is under way at the end of a
    checkpoint; where reads always overlap it is made to. A long read may keep it from that: it is tried again
    only when the log has grown, since each try makes writes wait.
    """
    with contextlib.suppress(sqlite3.OperationalError, OSError):
        if writer.execute("PRAGMA freelist_count").fetchone()[0] > _FREE_PAGES:
            # Gives one page back a step: execute() would take only one.
            writer.executescript(f"PRAGMA incremental_vacuum({_GIVE_BACK_PAGES})")
        log_bytes = os.stat(f"{path}-wal").st_size
        if log_bytes > max(_MAX_WAL_BYTES, writer.log_held_at + _WAL_BYTES if writer.log_held_at else 0):
            writer.execute(f"PRAGMA busy_timeout = {_WAL_WAIT_MS}")
            try:
                (busy, _, _) = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                writer.log_held_at = log_bytes if busy else 0
            finally:
                writer.execute(f"PRAGMA busy_timeout = {int(_BUSY_TIMEOUT_S * 1000)}")


def open_reader(path: Path) -> Connection:
    """One more connection to a file that is open already; it cannot write."""
    opened: list[Connection] = []
    reader = connect(path, opened)
    reader.execute("PRAGMA query_only = ON")
    return reader


def connect(path: Path, opened: list[Connection]) -> Connection:
    """A connection of this suite; added to what is to be closed if what follows fails."""
    connection = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, factory=Connection
    )
    opened.append(connection)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.sync("FULL")
    connection.execute("PRAGMA cache_size = -8192")
    return connection


def _close_all(connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()


def reuse_log(writer: Connection) -> bool:
    """Have the next write begin at the log's start, which takes no room; False if it cannot yet."""
    try:
        (busy, _, _) = writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    except sqlite3.Error:
        return False
    return not busy
