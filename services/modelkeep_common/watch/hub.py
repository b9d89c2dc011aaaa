"""What all watches of one collection share: reading its log, handing changes out. See ``__init__.py``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import weakref
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from ..sqlite import Database
from .batches import Batch, Snapshot, SnapshotReader
from .budget import WatchBudget
from .frames import Event, Frame, chunked, message_size
from .sqlite_log import (
    ChangePage,
    ChangeRow,
    EpochTable,
    Position,
    current_revision,
    history_floor,
    read_epochs,
    read_page,
)
from .watch import Watch

M = TypeVar("M")

MIN_BOOKMARK_S, DEFAULT_BOOKMARK_S, MAX_BOOKMARK_S = 1.0, 15.0, 30.0

_POLL_S = 1.0
_PROGRESS_S = 0.25
_FANOUT_S_PER_WATCHER = 100e-6
_MAX_FANOUT_PAUSE_S = 0.25
_BATCH_EVENTS = 200
_BATCH_BYTES = 256 * 1024
_READ_ROWS = 1000
#: Those without a filter share one read, so thousands may wait for it.
_MAX_WAITING_SNAPSHOTS, _SNAPSHOT_S = 4000, 60.0

_log = logging.getLogger(__name__)


class _News(NamedTuple):
    page: ChangePage
    #: That of the whole store, at which the page may end.
    revision: int
    floor: int
    epochs: EpochTable


class WatchHub(Generic[M]):
    """The watches of one collection in this process.

    Args:
        db: The store; its change log feeds the hub.
        collection: The name that the service gives to ``append_change``.
        parse: Turns a change's payload into the message that events carry.
        stall_s: Seconds without progress of a write after which a reader counts as stalled.
    """

    def __init__(
        self,
        db: Database,
        *,
        collection: str,
        parse: Callable[[bytes], M],
        stall_s: float = 20.0,
        poll_s: float = _POLL_S,
        max_queued_events: int = 1000,
        chunk_events: int = _BATCH_EVENTS,
    ) -> None:
        self.db = db
        self.collection = collection
        self.parse = parse
        self.stall_s = stall_s
        self.poll_s = poll_s
        self.max_queued_events = max_queued_events
        self.max_queued_bytes = db.limits.watch_queue_bytes
        self.budget = WatchBudget(db.limits.watch_queues_bytes)
        self.chunk_events = chunk_events
        #: Every change up to here has been queued for every attached watcher.
        self.revision = 0
        #: Snapshots are read one at a time, off the threads that the log is read on.
        self.snapshots = db.lane(
            "snapshot",
            at_once=1,
            waiting=_MAX_WAITING_SNAPSHOTS,
            limit_s=_SNAPSHOT_S,
            remedy="watch later, or go on from a resume token",
        )
        self.draining = False
        self.latest_progress: dict[str, M] = {}
        self._pending_progress: dict[str, M] = {}
        self._progress_timer: asyncio.TimerHandle | None = None
        self._attached: weakref.WeakSet[Watch[M]] = weakref.WeakSet()
        self._open: weakref.WeakSet[Watch[M]] = weakref.WeakSet()
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._closed_one = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._next_fanout = 0.0
        self.epochs: EpochTable | None = None
        self._snapshot: Snapshot[M] | None = None
        db.add_commit_listener(self._committed)

    @property
    def watchers(self) -> int:
        """How many watches are open."""
        return len(self._open)

    def notify(self) -> None:
        """There may be new changes. Called by itself after every commit of this process."""
        if self._attached:
            self._wake.set()

    def _committed(self, changed: Iterable[tuple[str, str]]) -> None:
        # Also with nobody watching: who comes later must not be told of a past that a change has ended.
        if self.latest_progress:
            for collection, resource_id in changed:
                if collection == self.collection:
                    self.forget_progress(resource_id)
        self.notify()

    def progress(self, resource_id: str, message: M) -> None:
        """Report how far a resource is, without a revision; see guarantee 8."""
        self.latest_progress[resource_id] = message
        if not self._attached:
            return
        self._pending_progress[resource_id] = message
        if self._progress_timer is None:
            self._progress_timer = self._loop.call_later(_PROGRESS_S, self._send_progress)

    def forget_progress(self, resource_id: str) -> None:
        """Drop a resource's progress: it is over. A change of the resource does this by itself."""
        self.latest_progress.pop(resource_id, None)
        self._pending_progress.pop(resource_id, None)

    def watch(
        self,
        *,
        resume_token: str = "",
        matches: Callable[[M], bool] | None = None,
        snapshot: SnapshotReader[M],
        skip_snapshot: bool = False,
        bookmark_interval_s: float = 0,
    ) -> Watch[M]:
        """Open a watch: an asynchronous iterator of frames. Close it when done.

        Args:
            resume_token: Go on from here; "" starts with a snapshot.
            matches: The filter, called on any thread; None watches everything, and is much cheaper.
            snapshot: Reads every resource of the collection (or those that match) as (id, message), in
                any order. Use a function or method that compares equal from call to call: watchers
                that come together then share one read.
            skip_snapshot: Without a token, start with the next change.
            bookmark_interval_s: Seconds between bookmarks; 0 is the default of 15, clamped to 1-30.

        Raises (from the iterator):
            ResumeTokenExpiredException, ResumeTokenForeignException: The token cannot be used.
            WatcherTooSlowException: The reader fell out of the history window.
            ServerDrainingException: The server is shutting down.
        """
        interval = bookmark_interval_s or DEFAULT_BOOKMARK_S
        watch = Watch(
            self,
            resume_token=resume_token,
            matches=matches,
            snapshot=snapshot,
            skip_snapshot=skip_snapshot,
            bookmark_interval_s=min(max(interval, MIN_BOOKMARK_S), MAX_BOOKMARK_S),
        )
        self._open.add(watch)
        return watch

    async def drain(self, timeout_s: float = 2.0) -> None:
        """End every watch with SERVER_DRAINING and its last token, and wait until they are gone.

        Those whose reader stalls cannot be told; they are not waited for longer than ``timeout_s``.
        """
        self.draining = True
        if self._progress_timer is not None:
            self._progress_timer.cancel()
        for watch in list(self._open):
            watch.wake()
        if self._task is not None:
            self._task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._open:
                    self._closed_one.clear()
                    await self._closed_one.wait()

    # For Watch.

    def attach(self, watch: Watch[M]) -> bool:
        """Let ``watch`` have the changes after its revision; False if it must read the log further."""
        if not self._attached:
            self.revision = max(self.revision, watch.revision)
        if watch.revision < self.revision:
            return False
        self.epochs = watch.epochs
        self._attached.add(watch)
        if self._task is None:
            self._task = self._loop.create_task(self._run(), name=f"watch-{self.collection}")
        # Something may have been committed since the watch last read, with nobody attached to be told.
        self._wake.set()
        return True

    def detach(self, watch: Watch[M]) -> None:
        """Stop queueing changes for ``watch``; it goes on by reading the log, or is being closed."""
        self._attached.discard(watch)

    def shed(self) -> None:
        """Bring what all watches hold below the limit."""
        self.budget.shed(self._open)

    def forget(self, watch: Watch[M]) -> None:
        """``watch`` is closed."""
        self._attached.discard(watch)
        self._open.discard(watch)
        self._closed_one.set()

    def read_snapshot(
        self,
        conn: sqlite3.Connection,
        reader: SnapshotReader[M],
        matches: Callable[[M], bool] | None,
        after: str,
    ) -> Snapshot[M]:
        """Read what a watch must see, or take the whole that another has just read. On a reader thread.

        With a filter only what passes it is kept, and only resources after ``after``.
        """
        revision = current_revision(conn)
        if matches is not None:
            items = [(key, message) for key, message in reader(conn) if key > after and matches(message)]
            return Snapshot(reader, revision, sorted(items, key=lambda item: item[0]))
        kept = self._snapshot
        if kept is not None and kept.revision == revision and kept.reader == reader:
            return kept
        snapshot = Snapshot(reader, revision, sorted(reader(conn), key=lambda item: item[0]))
        self._snapshot = snapshot
        self._loop.call_soon_threadsafe(self._loop.call_later, 5.0, self._drop_snapshot, snapshot)
        return snapshot

    def _drop_snapshot(self, snapshot: Snapshot[M]) -> None:
        if self._snapshot is snapshot:
            self._snapshot = None

    # The task that reads the log.

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.poll_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            if not self._attached:
                self._wake.clear()
                continue
            pause = self._next_fanout - self._loop.time()
            if pause > 0:
                await asyncio.sleep(pause)
            self._wake.clear()
            try:
                await self._refresh()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # The log is still there: the next poll tries again.
                _log.warning(
                    "watch of %s cannot read the change log: %s", self.collection, type(error).__name__
                )
                await asyncio.sleep(self.poll_s)

    async def _refresh(self) -> None:
        while True:
            after = self.revision
            news = await self.db.read(lambda conn, after=after: self._read_news(conn, after))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            self.epochs = news.epochs
            if after < news.floor:
                # Changes went out of the history before they could be read: each watcher is told so when
                # it reads the log itself.
                for watch in list(self._attached):
                    watch.fall_back()
            elif news.page.rows:
                self._fan_out(news)
            self.revision = max(self.revision, news.page.revision)
            if news.page.revision >= news.revision:
                return

    def _read_news(self, conn: sqlite3.Connection, after: int) -> _News:
        page = read_page(conn, self.collection, after, limit=_READ_ROWS)
        return _News(page, current_revision(conn), history_floor(conn), read_epochs(conn))

    def _fan_out(self, news: _News) -> None:
        started = self._loop.time()
        batches = [Batch.of(self, rows, news.epochs) for rows in self.log_chunks(news.page.rows)]
        changed = {row.resource_id for row in news.page.rows}
        for resource_id in changed:
            self.forget_progress(resource_id)
        watchers = list(self._attached)
        for watch in watchers:
            watch.enqueue(batches, changed)
        self.shed()
        self._next_fanout = started + min(len(watchers) * _FANOUT_S_PER_WATCHER, _MAX_FANOUT_PAUSE_S)

    def _send_progress(self) -> None:
        self._progress_timer = None
        pending, self._pending_progress = self._pending_progress, {}
        if not pending or self.epochs is None:
            return
        frame = Frame(
            "LIVE",
            self.token(self.revision, self.epochs),
            [Event(0, resource_id, put=message, progress=True) for resource_id, message in pending.items()],
            shared=True,
        )
        for watch in list(self._attached):
            watch.enqueue_progress(pending, frame, self.revision)

    def token(self, revision: int, epochs: EpochTable, after: str | None = None) -> str:
        """The resume token of a position in this collection."""
        return epochs.token(self.collection, Position(revision, after))

    def log_chunks(self, rows: Iterable[ChangeRow]) -> list[list[ChangeRow]]:
        """The changes of one frame each."""
        return chunked(rows, lambda row: len(row.payload or b""), _BATCH_EVENTS, _BATCH_BYTES)

    def snapshot_chunks(self, items: Iterable[tuple[str, M]]) -> list[list[tuple[str, M]]]:
        """The frames' contents of a snapshot."""
        return chunked(list(items), lambda item: message_size(item[1]), self.chunk_events, _BATCH_BYTES)
