"""A change log in memory, for resources that live in memory too and end with the process. See log.py."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple, TypeVar

from ..limits import StoreLimits
from .log import HISTORY_CHANGES, HISTORY_SECONDS, ChangeRow, EpochTable, LogView, Position

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
        self.revision = 0
        self.floor = 0
        self.epochs = EpochTable(self.store_id, [(1, uuid.uuid4().hex[:8])])
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

    def append(self, resource_id: str, payload: bytes | None, *, now: float | None = None) -> int:
        """Append a change.

        Args:
            resource_id: The resource's key.
            payload: The serialised resource after the change; None when it was removed.
            now: Seconds since 1970, for tests.

        Returns:
            The revision of the change.
        """
        self.revision += 1
        before = self._resources.pop(resource_id, None)
        if payload is not None:
            self._resources[resource_id] = Kept(self.revision, payload)
        row = ChangeRow(self.revision, resource_id, payload, before.payload if before else None)
        now = time.time() if now is None else now
        self._window.append(_Entry(row, now))
        self._kept_bytes += len(payload or b"")
        self.trim(now=now)
        for listener in self._listeners:
            listener([resource_id])
        return self.revision

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
            self.floor = row.revision
        return self.floor

    def token(self) -> str:
        """A token for a watch from now on."""
        return self.epochs.token(self.collection, Position(self.revision))

    def changes(self, after: int) -> Iterator[ChangeRow]:
        """See :class:`LogView`."""
        # From the end, where those are whom most ask for.
        found: list[ChangeRow] = []
        for entry in reversed(self._window):
            if entry.row.revision <= after:
                break
            found.append(entry.row)
        return reversed(found)

    async def read(self, fn: Callable[[LogView], T]) -> T:
        """See :class:`ChangeLog`."""
        return fn(self)

    async def read_all(self, fn: Callable[[LogView], T]) -> T:
        """See :class:`ChangeLog`."""
        return fn(self)

    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        """See :class:`ChangeLog`."""
        self._listeners.append(listener)
