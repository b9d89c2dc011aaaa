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


class Connection(sqlite3.Connection):
    """A connection that knows what its transaction appended to the change log, and the store's limits."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: (collection, resource id) of each change.
        self.appended: Changed = []
        self.limits = StoreLimits()
        #: Bytes added since the history and the kept answers were last measured; at first unknown.
        self.history_added = self.limits.history_bytes
        self.answers_added = self.limits.answers_bytes


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
    while True:
        opened: list[Connection] = []
        try:
            writer = _connect(path, opened)
            writer.limits = limits
            writer.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            store_id, epoch = migrate(writer, path, migrations, application)
            for _ in range(readers):
                opened.append(open_reader(path))
            reserve.renew()
            return writer, opened[1:], store_id, epoch
        except sqlite3.OperationalError as error:
            _close_all(opened)
            full = is_full(error, path)
            if full and reserve.give_up():
                continue
            reason = f"{path.parent} is on a full disk: free some space" if full else str(error)
            raise StartupError(EXIT_NOT_WRITABLE, f"cannot write {path}: {reason}") from None
        except sqlite3.DatabaseError:
            _close_all(opened)
            raise StartupError(
                EXIT_DATA, f"{path} is not a SQLite database: move it away, or set another folder"
            ) from None
        except BaseException:
            _close_all(opened)
            raise


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
    checkpoint; where reads always overlap it is made to.
    """
    with contextlib.suppress(sqlite3.OperationalError, OSError):
        if writer.execute("PRAGMA freelist_count").fetchone()[0] > _FREE_PAGES:
            # Gives one page back a step: execute() would take only one.
            writer.executescript(f"PRAGMA incremental_vacuum({_GIVE_BACK_PAGES})")
        if os.stat(f"{path}-wal").st_size > _MAX_WAL_BYTES:
            writer.execute(f"PRAGMA busy_timeout = {_WAL_WAIT_MS}")
            try:
                writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                writer.execute(f"PRAGMA busy_timeout = {int(_BUSY_TIMEOUT_S * 1000)}")


def open_reader(path: Path) -> Connection:
    """One more connection to a file that is open already; it cannot write."""
    opened: list[Connection] = []
    reader = _connect(path, opened)
    reader.execute("PRAGMA query_only = ON")
    return reader


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


def reuse_log(writer: Connection) -> bool:
    """Have the next write begin at the log's start, which takes no room; False if it cannot yet."""
    try:
        (busy, _, _) = writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    except sqlite3.Error:
        return False
    return not busy
