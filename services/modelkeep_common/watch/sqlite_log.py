"""The change log that every service's watch is fed from, and the resume tokens that point into it.

A mutation appends what the resource looks like afterwards, in its own transaction, and gets the
*revision* of that change: one number line per store. Rows inside the *history window* (the last 10,000
changes, none older than 24 h, together at most so many bytes as the store is told to keep) can be
replayed. Below the window's floor the log keeps one row per resource that still exists, its state at
the floor, so that the state before any change in the window is always known: that is how a watch sees
that a change takes a resource out of its filter.

**Resume tokens** name the store, the *epoch*, the collection and a revision; inside a snapshot also the
last resource sent. An epoch is one opening of the file and begins at the first revision written in it.
A revision that a restored back-up lacks was written in an epoch that the back-up does not know, or lies
beyond the end of the one it does, so a token from before the restore is told from the restored store's
own even after new changes have reached the same numbers.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from modelkeep.exceptions import ResumeTokenExpiredException, ResumeTokenForeignException

from .. import tokens
from ..sqlite import Connection

#: How many changes can be replayed, and for how long (seconds).
HISTORY_CHANGES = 10_000
HISTORY_SECONDS = 24 * 3600.0
_TRIM_EVERY = 64
#: The part of the allowed bytes that may be added before the window is measured again.
_MEASURE_AFTER = 1 / 16
#: How much of the log is read at once.
_PAGE_BYTES = 4 << 20
#: Kinds of a resume token's fields: store, epoch, collection, revision.
_FIELDS: Sequence[type[tokens.Field]] = (str, str, str, int)


class ChangeRow(NamedTuple):
    """One change: the resource after it (None: removed) and before it (None: it did not exist)."""

    revision: int
    resource_id: str
    payload: bytes | None
    previous: bytes | None


def append_change(
    conn: sqlite3.Connection,
    collection: str,
    resource_id: str,
    payload: bytes | None,
    *,
    now: float | None = None,
) -> int:
    """Append a change inside a write transaction.

    Args:
        conn: The connection of the write transaction.
        collection: What kind of resource, as ``models``.
        resource_id: Its key.
        payload: The serialised resource after the change; None when it was removed.
        now: Seconds since 1970, for tests.

    Returns:
        The revision of the change.
    """
    cursor = conn.execute(
        "INSERT INTO changes (collection, resource_id, removed, payload, create_time) VALUES (?, ?, ?, ?, ?)",
        (collection, resource_id, payload is None, payload, time.time() if now is None else now),
    )
    revision = cursor.lastrowid
    assert revision is not None
    due = revision % _TRIM_EVERY == 0
    if isinstance(conn, Connection):
        conn.appended.append((collection, resource_id))
        conn.history_added += len(payload or b"")
        due = due or conn.history_added > conn.limits.history_bytes * _MEASURE_AFTER
    if due:
        trim_history(conn, now=now)
    return revision


def current_revision(conn: sqlite3.Connection) -> int:
    """The revision of the last change, 0 before the first. Never goes back, also when rows are trimmed."""
    row = conn.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()
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
) -> int:
    """Move the floor of the history window up and drop the rows that nothing needs any more.

    Returns:
        The new floor.
    """
    old_floor = history_floor(conn)
    floor = max(old_floor, current_revision(conn) - keep_changes)
    if isinstance(conn, Connection) and conn.history_added > conn.limits.history_bytes * _MEASURE_AFTER:
        # A part of it goes at once, so that the next change does not measure again.
        floor = _floor_by_bytes(conn, floor, int(conn.limits.history_bytes * (1 - _MEASURE_AFTER)))
        conn.history_added = 0
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


class ChangePage(NamedTuple):
    """Changes in order, and the revision up to which there are no more of the collection."""

    rows: list[ChangeRow]
    revision: int


def read_page(
    conn: sqlite3.Connection, collection: str, after: int, *, limit: int, max_bytes: int = _PAGE_BYTES
) -> ChangePage:
    """Changes of one collection after a revision, at most ``limit`` and about ``max_bytes``, at least one."""
    revision = current_revision(conn)
    rows: list[ChangeRow] = []
    size = 0
    for row in read_changes(conn, collection, after, until=revision) if revision > after else ():
        rows.append(row)
        size += len(row.payload or b"") + len(row.previous or b"")
        if len(rows) >= limit or size > max_bytes:
            return ChangePage(rows, row.revision)
    return ChangePage(rows, revision)


def read_changes(
    conn: sqlite3.Connection, collection: str, after: int, *, until: int | None = None
) -> Iterator[ChangeRow]:
    """Changes of one collection after a revision, in order."""
    rows = conn.execute(
        """
        SELECT c.revision, c.resource_id, c.payload,
            (SELECT p.payload FROM changes p WHERE p.collection = c.collection
                AND p.resource_id = c.resource_id AND p.revision < c.revision
                ORDER BY p.revision DESC LIMIT 1)
        FROM changes c WHERE c.revision > ? AND c.revision <= ? AND c.collection = ?
        ORDER BY c.revision
        """,
        (after, current_revision(conn) if until is None else until, collection),
    )
    return (ChangeRow(*row) for row in rows)


class Position(NamedTuple):
    """Where a watch is: the revision, and during a snapshot the last resource sent ("" before one)."""

    revision: int
    snapshot_after: str | None = None


class EpochTable(NamedTuple):
    """Which opening of the store each revision belongs to."""

    store_id: str
    starts: Sequence[tuple[int, str]]  # (first revision, epoch), ascending

    def of(self, revision: int) -> str:
        """The epoch that ``revision`` was written in; "" before the first."""
        found = ""
        for first, epoch in self.starts:
            if first > revision:
                break
            found = epoch
        return found

    def token(self, collection: str, position: Position) -> str:
        """The resume token of a position."""
        fields: list[tokens.Field] = [
            self.store_id[:8],
            self.of(position.revision),
            collection,
            position.revision,
        ]
        if position.snapshot_after is not None:
            fields.append(position.snapshot_after)
        return tokens.encode(fields)


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


def parse_resume_token(conn: sqlite3.Connection, collection: str, token: str) -> Position:
    """The position that ``token`` names.

    Raises:
        ResumeTokenForeignException: It is of another store, collection or history, or no token.
        ResumeTokenExpiredException: Its position lies before the history window.
    """
    foreign = ResumeTokenForeignException(
        "The resume token is not one of this store: watch without a token to get a snapshot.",
        metadata={"collection": collection},
    )
    fields = tokens.decode(token)
    if fields is None or not (tokens.is_of(fields, _FIELDS) or tokens.is_of(fields, (*_FIELDS, str))):
        raise foreign
    store, epoch, of_collection, revision, *rest = fields
    assert isinstance(revision, int)
    epochs = read_epochs(conn)
    if (
        store != epochs.store_id[:8]
        or of_collection != collection
        or not 0 <= revision <= current_revision(conn)
    ):
        raise foreign
    floor = history_floor(conn)
    if revision < floor:
        raise ResumeTokenExpiredException(
            f"The resume token's revision {revision} is older than the history that is kept (from {floor}): "
            "watch without a token to get a snapshot.",
            metadata={"revision": str(revision), "oldest_revision": str(floor)},
        )
    if epochs.of(revision) != epoch:
        raise foreign
    return Position(revision, str(rest[0]) if rest else None)
