"""What all watches of one collection share: its log, its limits, what was read together."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from .batches import Snapshot, SnapshotReader
from .budget import WatchBudget
from .frames import chunked, message_size
from .log import ChangeLog, ChangeRow, EpochTable, LogView, Position

M = TypeVar("M")

_BATCH_EVENTS = 200
_BATCH_BYTES = 256 * 1024
_KEEP_S = 5.0


class Shared(Generic[M]):
    """The part of a :class:`WatchHub` that its watches know."""

    def __init__(
        self,
        log: ChangeLog,
        parse: Callable[[bytes], M],
        stall_s: float,
        max_queued_events: int,
        chunk_events: int,
    ) -> None:
        self.log = log
        self.parse = parse
        self.stall_s = stall_s
        self.max_queued_events = max_queued_events
        self.max_queued_bytes = log.watch_queue_bytes
        self.budget = WatchBudget(log.watch_queues_bytes)
        self.chunk_events = chunk_events
        #: Every change up to here has been queued for every attached watcher.
        self.revision = 0
        self.epochs: EpochTable | None = None
        self.draining = False
        self.latest_progress: dict[str, M] = {}
        #: Those for which changes are queued, and all that are open.
        self._attached: weakref.WeakSet[Any] = weakref.WeakSet()
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._closed_one = asyncio.Event()
        self._snapshot: Snapshot[M] | None = None

    def attach(self, watch: object, revision: int, epochs: EpochTable) -> bool:
        """Let ``watch`` have the changes after its revision; False if it must read the log further."""
        if not self._attached:
            self.revision = max(self.revision, revision)
        if revision < self.revision:
            return False
        self.epochs = epochs
        self._attached.add(watch)
        # Something may have been committed since the watch last read, with nobody attached to be told.
        self._wake.set()
        return True

    def detach(self, watch: object) -> None:
        """Stop queueing changes for ``watch``; it goes on by reading the log, or is being closed."""
        self._attached.discard(watch)

    def shed(self) -> None:
        """Bring what all watches hold below the limit."""
        self.budget.shed(self._open)

    def forget(self, watch: object) -> None:
        """``watch`` is closed."""
        self._attached.discard(watch)
        self._open.discard(watch)
        self._closed_one.set()

    async def read_snapshot(
        self,
        view: LogView,
        reader: SnapshotReader[M],
        matches: Callable[[M], bool] | None,
        after: str,
    ) -> Snapshot[M]:
        """Read what a watch must see, or take the whole that another has just read. On any thread.

        With a filter only what passes it is kept, and only resources after ``after``.
        """
        revision = await view.revision()
        if matches is not None:
            items = [
                (key, message)
                async for key, message in reader(view.source)
                if key > after and matches(message)
            ]
            return Snapshot(reader, revision, sorted(items, key=_key))
        kept = self._snapshot
        if kept is not None and kept.revision == revision and kept.reader == reader:
            return kept
        snapshot = Snapshot(reader, revision, sorted([item async for item in reader(view.source)], key=_key))
        self._snapshot = snapshot
        self._loop.call_soon_threadsafe(self._loop.call_later, _KEEP_S, self._drop_snapshot, snapshot)
        return snapshot

    def _drop_snapshot(self, snapshot: Snapshot[M]) -> None:
        if self._snapshot is snapshot:
            self._snapshot = None

    def token(self, revision: int, epochs: EpochTable, after: str | None = None) -> str:
        """The resume token of a position in this collection."""
        return epochs.token(self.log.collection, Position(revision, after))

    def log_chunks(self, rows: Iterable[ChangeRow]) -> list[list[ChangeRow]]:
        """The changes of one frame each."""
        return chunked(rows, lambda row: len(row.payload or b""), _BATCH_EVENTS, _BATCH_BYTES)

    def snapshot_chunks(self, items: Iterable[tuple[str, M]]) -> list[list[tuple[str, M]]]:
        """The frames' contents of a snapshot."""
        return chunked(list(items), lambda item: message_size(item[1]), self.chunk_events, _BATCH_BYTES)


def _key(item: tuple[str, object]) -> str:
    return item[0]
