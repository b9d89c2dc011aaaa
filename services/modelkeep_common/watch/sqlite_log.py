"""The change log in SQLite: a mutation appends its change in its own transaction.

Below the window's floor the log keeps one row per resource that still exists, its state at the floor, so
that the state before any change in the window is always known. See log.py.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from typing import TypeVar

from ..at_once import run_at_once
from ..sqlite.connections import Books, Changed, books_of
from ..sqlite.database import Database
from .log import HISTORY_CHANGES, HISTORY_SECONDS, ChangeRow, EpochTable, LogReader, Position

T = TypeVar("T")

_TRIM_EVERY = 64
#: Those without a filter share one read, so thousands may wait for it.
_MAX_WAITING_SNAPSHOTS, _SNAPSHOT_S = 4000, 60.0
#: The part of the allowed bytes that may be added before the window is measured again.
_MEASURE_AFTER = 1 / 16


def append_change(
    conn: sqlite3.Connection,
    collection: str,
    resource_id: str,
    payload: bytes | None,
    *,
    now: float | None = None,
    books: Books | None = None,
) -> int:
    """Append a change inside a write transaction.

    Args:
        conn: The connection of the write transaction.
        collection: What kind of resource, as ``models``.
        resource_id: Its key.
        payload: The serialised resource after the change; None when it was removed.
        now: Seconds since 1970, for tests.
        books: Those of the connection, if it is not one of this suite.

    Returns:
        The revision of the change.
    """
    cursor = conn.execute(
        "INSERT INTO changes (collection, resource_id, removed, payload, create_time) VALUES (?, ?, ?, ?, ?)",
        (collection, resource_id, payload is None, payload, time.time() if now is None else now),
    )
    revision = cursor.lastrowid
    assert revision is not None
    books = books_of(conn, books)
    books.appended.append((collection, resource_id))
    books.history_added += len(payload or b"")
    if revision % _TRIM_EVERY == 0 or _must_measure(books):
        trim_history(conn, now=now, books=books)
    return revision


def current_revision(conn: sqlite3.Connection) -> int:
    """The revision of the last change, 0 before the first. Never goes back, also when rows are trimmed."""
    row = conn.execute("SELECT seq FROM main.sqlite_sequence WHERE name = 'changes'").fetchone()
    return int(row[0]) if row else 0


def next_revision(conn: sqlite3.Connection) -> int:
    """The revision that the next :func:`append_change` of this write transaction will return."""
    return current_revision(conn) + 1


def history_floor(conn: sqlite3.Connection) -> int:
    """The oldest revision from which everything after it can be replayed."""
    row = conn.execute("SELECT value FROM meta WHERE key = 'history_floor'").fetchone()
    return int(row[0]) if row else 0


def trim_history(
    conn: sqlite3.Connection,
    *,
    now: float | None = None,
    keep_changes: int = HISTORY_CHANGES,
    keep_seconds: float = HISTORY_SECONDS,
    books: Books | None = None,
) -> int:
    """Move the floor of the history window up and drop the rows that nothing needs any more.

    Returns:
        The new floor.
    """
    books = books_of(conn, books)
    old_floor = history_floor(conn)
    floor = max(old_floor, current_revision(conn) - keep_changes)
    if _must_measure(books):
        # A part of it goes at once, so that the next change does not measure again.
        floor = _floor_by_bytes(conn, floor, int(books.limits.history_bytes * (1 - _MEASURE_AFTER)))
        books.history_added = 0
    oldest_kept = (time.time() if now is None else now) - keep_seconds
    for revision, create_time in conn.execute(
        "SELECT revision, create_time FROM changes WHERE revision > ? ORDER BY revision", (floor,)
    ):
        if create_time >= oldest_kept:
            break
        floor = revision
    if floor == old_floor:
        return floor
    # Only what the floor has just passed can have become superfluous: each such row replaces the
    # resource's older rows, and a removal replaces itself too.
    passed = conn.execute(
        "SELECT revision, collection, resource_id, removed FROM changes WHERE revision > ? AND revision <= ?",
        (old_floor, floor),
    ).fetchall()
    conn.executemany(
        "DELETE FROM changes WHERE collection = ? AND resource_id = ? AND revision < ?",
        [
            (collection, resource_id, revision + removed)
            for revision, collection, resource_id, removed in passed
        ],
    )
    conn.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('history_floor', ?)", (floor,))
    # Epochs that ended below the floor cannot be named by a valid token.
    conn.execute(
        "DELETE FROM epochs WHERE first_revision < "
        "(SELECT max(first_revision) FROM epochs WHERE first_revision <= ?)",
        (floor,),
    )
    return floor


def _must_measure(books: Books) -> bool:
    """Whether so much was added that the window may have more bytes than it should."""
    return books.history_added > books.limits.history_bytes * _MEASURE_AFTER


def _floor_by_bytes(conn: sqlite3.Connection, floor: int, keep_bytes: int) -> int:
    """The lowest floor above which the payloads have at most so many bytes; reads sizes, no payloads."""
    kept = 0
    for revision, size in conn.execute(
        "SELECT revision, coalesce(length(payload), 0) FROM changes WHERE revision > ? "
        "ORDER BY revision DESC",
        (floor,),
    ):
        kept += size
        if kept > keep_bytes:
            return int(revision)
    return floor


def read_changes(conn: sqlite3.Connection, collection: str, after: int) -> Iterator[ChangeRow]:
    """Changes of one collection after a revision, in order."""
    rows = conn.execute(
        """
        SELECT c.revision, c.resource_id, c.payload,
            (SELECT p.payload FROM changes p WHERE p.collection = c.collection
                AND p.resource_id = c.resource_id AND p.revision < c.revision
                ORDER BY p.revision DESC LIMIT 1)
        FROM changes c WHERE c.revision > ? AND c.collection = ? ORDER BY c.revision
        """,
        (after, collection),
    )
    return (ChangeRow(*row) for row in rows)


def read_epochs(conn: sqlite3.Connection) -> EpochTable:
    """The store's epochs, for :meth:`EpochTable.token`."""
    store_id = conn.execute("SELECT value FROM meta WHERE key = 'store_id'").fetchone()[0]
    starts = conn.execute(
        "SELECT first_revision, epoch FROM epochs ORDER BY first_revision, number"
    ).fetchall()
    return EpochTable(store_id, starts)


def resume_token(conn: sqlite3.Connection, collection: str, revision: int | None = None) -> str:
    """A token for a watch of ``collection`` from ``revision`` (None: now); what a List answers with.

    Read it in the transaction that reads the list, so that no change falls between the two.
    """
    position = Position(current_revision(conn) if revision is None else revision)
    return read_epochs(conn).token(collection, position)


class _View:
    """See :class:`LogView`. Lives as long as the read transaction of its connection."""

    def __init__(self, conn: sqlite3.Connection, collection: str) -> None:
        self.source = conn
        self._collection = collection

    async def revision(self) -> int:
        return current_revision(self.source)

    async def floor(self) -> int:
        return history_floor(self.source)

    async def epochs(self) -> EpochTable:
        return read_epochs(self.source)

    async def changes(self, after: int) -> AsyncGenerator[ChangeRow, None]:
        for row in read_changes(self.source, self._collection, after):
            yield row


class SqliteLog:
    """See :class:`ChangeLog`: the changes of one collection that are appended to a database.

    A snapshot's source is the connection.
    """

    def __init__(self, db: Database, collection: str) -> None:
        self.collection = collection
        self.watch_queue_bytes = db.limits.watch_queue_bytes
        self.watch_queues_bytes = db.limits.watch_queues_bytes
        self._db = db
        #: Snapshots are read one at a time, off the threads that the log is read on.
        self._snapshots = db.lane(
            "snapshot",
            at_once=1,
            waiting=_MAX_WAITING_SNAPSHOTS,
            limit_s=_SNAPSHOT_S,
            remedy="watch later, or go on from a resume token",
        )

    async def read(self, reader: LogReader[T]) -> T:
        """See :class:`ChangeLog`."""
        return await self._db.read(lambda conn: run_at_once(reader(_View(conn, self.collection))))

    async def read_all(self, reader: LogReader[T]) -> T:
        """See :class:`ChangeLog`."""
        return await self._snapshots.run(lambda conn: run_at_once(reader(_View(conn, self.collection))))

    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        """See :class:`ChangeLog`."""

        def committed(changed: Changed) -> None:
            listener([resource_id for collection, resource_id in changed if collection == self.collection])

        self._db.add_commit_listener(committed)
