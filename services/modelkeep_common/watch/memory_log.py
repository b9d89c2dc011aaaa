"""A change log in memory, for resources that live in memory too and end with the process. See log.py."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from typing import NamedTuple, TypeVar

from ..limits import StoreLimits
from .log import HISTORY_CHANGES, HISTORY_SECONDS, ChangeRow, EpochTable, LogReader, Position

T = TypeVar("T")


class Kept(NamedTuple):
    """A resource as it is now, and the revision that made it so."""

    revision: int
    payload: bytes


class _Entry(NamedTuple):
    row: ChangeRow
    create_time: float


class MemoryLog:
    """See :class:`ChangeLog`: the resources of one collection, and their changes.

    A snapshot's source is :attr:`resources`. Every method runs on the event loop, and at once: for some
    thousand resources, not for millions.

    Args:
        collection: What kind of resource, as ``residents``.
        limits: How many bytes of history there may be, and what watchers may leave unread.
    """

    def __init__(self, collection: str, limits: StoreLimits | None = None) -> None:
        limits = limits or StoreLimits()
        self.collection = collection
        self.watch_queue_bytes = limits.watch_queue_bytes
        self.watch_queues_bytes = limits.watch_queues_bytes
        #: UUID of this history; another one has another.
        self.store_id = str(uuid.uuid4())
        #: That of the last change, 0 before the first.
        self.last_revision = 0
        self._floor = 0
        self._epochs = EpochTable(self.store_id, [(1, uuid.uuid4().hex[:8])])
        self._history_bytes = limits.history_bytes
        self._kept_bytes = 0
        self._window: deque[_Entry] = deque()
        self._resources: dict[str, Kept] = {}
        self._listeners: list[Callable[[Collection[str]], None]] = []

    @property
    def resources(self) -> Mapping[str, Kept]:
        """Every resource that there is."""
        return self._resources

    @property
    def source(self) -> Mapping[str, Kept]:
        """See :class:`LogView`."""
        return self._resources

    def begin(self, resources: Mapping[str, bytes], revision: int) -> None:
        """Take over resources that were there before this log: none of their changes can be replayed."""
        self._resources = {name: Kept(revision, payload) for name, payload in resources.items()}
        self.last_revision = self._floor = revision

    def append(
        self, resource_id: str, payload: bytes | None, *, revision: int = 0, now: float | None = None
    ) -> int:
        """Append a change.

        Args:
            resource_id: The resource's key.
            payload: The serialised resource after the change; None when it was removed.
            revision: That of the change, above the last; 0: the next.
            now: Seconds since 1970, for tests.

        Returns:
            The revision of the change.
        """
        self.last_revision = max(revision, self.last_revision + 1)
        before = self._resources.pop(resource_id, None)
        if payload is not None:
            self._resources[resource_id] = Kept(self.last_revision, payload)
        row = ChangeRow(self.last_revision, resource_id, payload, before.payload if before else None)
        now = time.time() if now is None else now
        self._window.append(_Entry(row, now))
        self._kept_bytes += len(payload or b"")
        self.trim(now=now)
        for listener in self._listeners:
            listener([resource_id])
        return self.last_revision

    def trim(
        self,
        *,
        now: float | None = None,
        keep_changes: int = HISTORY_CHANGES,
        keep_seconds: float = HISTORY_SECONDS,
    ) -> int:
        """Move the floor of the history window up.

        Returns:
            The new floor.
        """
        oldest = (time.time() if now is None else now) - keep_seconds
        window = self._window
        while window and (
            len(window) > keep_changes
            or window[0].create_time < oldest
            or self._kept_bytes > self._history_bytes
        ):
            row = window.popleft().row
            self._kept_bytes -= len(row.payload or b"")
            self._floor = row.revision
        return self._floor

    def token(self) -> str:
        """A token for a watch from now on."""
        return self._epochs.token(self.collection, Position(self.last_revision))

    async def revision(self) -> int:
        """See :class:`LogView`."""
        return self.last_revision

    async def floor(self) -> int:
        """See :class:`LogView`."""
        return self._floor

    async def epochs(self) -> EpochTable:
        """See :class:`LogView`."""
        return self._epochs

    async def changes(self, after: int) -> AsyncGenerator[ChangeRow, None]:
        """See :class:`LogView`."""
        # From the end, where those are whom most ask for.
        found: list[ChangeRow] = []
        for entry in reversed(self._window):
            if entry.row.revision <= after:
                break
            found.append(entry.row)
        for row in reversed(found):
            yield row

    async def read(self, reader: LogReader[T]) -> T:
        """See :class:`ChangeLog`."""
        return await reader(self)

    async def read_all(self, reader: LogReader[T]) -> T:
        """See :class:`ChangeLog`."""
        return await reader(self)

    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        """See :class:`ChangeLog`."""
        self._listeners.append(listener)
