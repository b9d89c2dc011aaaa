"""What the watches of a collection share: a snapshot of it, and the changes that were read together."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from typing import Any, Generic, TypeVar

from .frames import Event, Frame
from .log import ChangeRow

M = TypeVar("M")

#: Reads the collection as (id, message) from the log's source, as a connection inside a read transaction;
#: waits for nothing else.
SnapshotReader = Callable[[Any], AsyncIterable[tuple[str, M]]]


class Snapshot(Generic[M]):
    """Every resource of a collection at one revision, sorted by id."""

    def __init__(self, reader: SnapshotReader[M], revision: int, items: list[tuple[str, M]]) -> None:
        self.reader = reader
        self.revision = revision
        self.items = items
        #: The frames that watchers without a filter share; made by the first of them.
        self.frames: list[Frame[M]] | None = None


class Change(Generic[M]):
    """A change in the log, parsed when somebody needs it and then for everybody."""

    __slots__ = ("_parse", "_previous", "_previous_parsed", "event")

    def __init__(self, row: ChangeRow, parse: Callable[[bytes], M]) -> None:
        put = None if row.payload is None else parse(row.payload)
        self.event: Event[M] = Event(row.revision, row.resource_id, put=put, removed=put is None)
        self._parse = parse
        self._previous = row.previous
        self._previous_parsed: M | None = None

    def seen_through(self, matches: Callable[[M], bool] | None) -> Event[M] | None:
        """The event as a watcher with this filter gets it; None if it does not concern it."""
        if matches is None:
            return self.event
        if self.event.put is not None and matches(self.event.put):
            return self.event
        if self._previous is None:
            return None
        if self._previous_parsed is None:
            self._previous_parsed = self._parse(self._previous)
        if not matches(self._previous_parsed):
            return None
        return Event(self.event.revision, self.event.resource_id, removed=True)


class Batch(Generic[M]):
    """Changes that were read together, and the frame of them that watchers without a filter share."""

    __slots__ = ("changes", "first", "frame", "revision")

    def __init__(self, changes: list[Change[M]], token: str) -> None:
        self.changes = changes
        self.first = changes[0].event.revision
        self.revision = changes[-1].event.revision
        self.frame: Frame[M] = Frame("LIVE", token, [change.event for change in changes], shared=True)

    @classmethod
    def of(cls, rows: list[ChangeRow], parse: Callable[[bytes], M], token: str) -> Batch[M]:
        """Parse ``rows``, once for all watchers; ``token`` is that of the last."""
        batch = cls([Change(row, parse) for row in rows], token)
        batch.frame.size_bytes = sum(row.size_bytes for row in rows)
        return batch
