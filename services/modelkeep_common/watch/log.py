"""What a watch asks of a change log, and the resume tokens that point into one.

A mutation appends what the resource looks like afterwards, and gets the *revision* of that change: one
number line per store. Changes inside the *history window* (the last 10,000, none older than 24 h, together
at most so many bytes as the store is told to keep) can be replayed; *floor* is the oldest revision from
which everything after it can be. Each change comes with the state of the resource before it, also when that
lies below the floor: that is how a watch sees that a change takes a resource out of its filter.

**Resume tokens** name the store, the *epoch*, the collection and a revision; inside a snapshot also the
last resource sent. An epoch is one opening of the store and begins at the first revision written in it.
A revision that a restored back-up lacks was written in an epoch that the back-up does not know, or lies
beyond the end of the one it does, so a token from before the restore is told from the restored store's
own even after new changes have reached the same numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from modelkeep.exceptions import ResumeTokenExpiredException, ResumeTokenForeignException

from .. import tokens

T = TypeVar("T")

#: How many changes can be replayed, and for how long (seconds).
HISTORY_CHANGES = 10_000
HISTORY_SECONDS = 24 * 3600.0
#: How much of the log is read at once.
PAGE_BYTES = 4 << 20
#: Kinds of a resume token's fields: store, epoch, collection, revision.
_FIELDS: Sequence[type[tokens.Field]] = (str, str, str, int)


class ChangeRow(NamedTuple):
    """One change: the resource after it (None: removed) and before it (None: it did not exist)."""

    revision: int
    resource_id: str
    payload: bytes | None
    previous: bytes | None

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.payload or b"") + len(self.previous or b"")


class ChangePage(NamedTuple):
    """Changes in order, and the revision up to which there are no more of the collection."""

    rows: list[ChangeRow]
    revision: int


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


class LogView(Protocol):
    """The log of one collection at one moment."""

    async def revision(self) -> int:
        """That of the store's last change, of whatever collection; 0 before the first."""
        ...

    async def floor(self) -> int:
        """The oldest revision from which everything after it can be replayed."""
        ...

    async def epochs(self) -> EpochTable:
        """The store's epochs."""
        ...

    @property
    def source(self) -> Any:
        """What a snapshot reads the resources from, at the same moment."""
        ...

    def changes(self, after: int) -> AsyncGenerator[ChangeRow, None]:
        """The collection's changes after a revision, in order."""
        ...


#: Reads a log, and waits for nothing but the view of it. May be run on any thread.
LogReader = Callable[[LogView], Coroutine[Any, Any, T]]


class ChangeLog(Protocol):
    """The changes of one collection; belongs to an event loop."""

    #: Name of the collection, as ``models``.
    collection: str
    #: Bytes that one watcher may leave unread, and all of them together.
    watch_queue_bytes: int
    watch_queues_bytes: int

    async def read(self, reader: LogReader[T]) -> T:
        """What ``reader`` makes of the log as it is now; perhaps on another thread."""
        ...

    async def read_all(self, reader: LogReader[T]) -> T:
        """As :meth:`read`, where ``reader`` reads every resource: one at a time, beside all other reads."""
        ...

    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        """Call ``listener`` on the event loop after each commit, with the ids of what changed.

        Nothing may have changed in this collection. Changes that other processes made are not told.
        """
        ...


async def page_of(view: LogView, after: int, *, limit: int, max_bytes: int = PAGE_BYTES) -> ChangePage:
    """Changes after a revision, at most ``limit`` and about ``max_bytes``, at least one."""
    revision = await view.revision()
    rows: list[ChangeRow] = []
    size = 0
    if revision <= after:
        return ChangePage(rows, revision)
    async with contextlib.aclosing(view.changes(after)) as changes:
        async for row in changes:
            rows.append(row)
            size += row.size_bytes
            if len(rows) >= limit or size > max_bytes:
                return ChangePage(rows, row.revision)
    return ChangePage(rows, revision)


def revision_in(token: str) -> int:
    """The revision of a token that this process made."""
    fields = tokens.decode(token)
    assert fields is not None
    assert isinstance(fields[3], int)
    return fields[3]


async def position_of(view: LogView, collection: str, token: str) -> Position:
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
    epochs = await view.epochs()
    if (
        store != epochs.store_id[:8]
        or of_collection != collection
        or not 0 <= revision <= await view.revision()
    ):
        raise foreign
    floor = await view.floor()
    if revision < floor:
        raise ResumeTokenExpiredException(
            f"The resume token's revision {revision} is older than the history that is kept (from {floor}): "
            "watch without a token to get a snapshot.",
            metadata={"revision": str(revision), "oldest_revision": str(floor)},
        )
    if epochs.of(revision) != epoch:
        raise foreign
    return Position(revision, str(rest[0]) if rest else None)
