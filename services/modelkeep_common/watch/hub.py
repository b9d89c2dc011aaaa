"""Reading the log of a collection for all of its watches, and handing changes out. See ``__init__.py``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple, TypeVar

from .batches import Batch, SnapshotReader
from .frames import Event, Frame
from .log import ChangeLog, ChangePage, EpochTable, LogView, page_of
from .shared import Shared
from .watch import Watch

M = TypeVar("M")

MIN_BOOKMARK_S, DEFAULT_BOOKMARK_S, MAX_BOOKMARK_S = 1.0, 15.0, 30.0

_POLL_S = 1.0
_PROGRESS_S = 0.25
_FANOUT_S_PER_WATCHER = 100e-6
_MAX_FANOUT_PAUSE_S = 0.25
_READ_ROWS = 1000

_log = logging.getLogger(__name__)


class _News(NamedTuple):
    page: ChangePage
    #: That of the whole store, at which the page may end.
    revision: int
    floor: int
    epochs: EpochTable


async def _read_news(after: int, view: LogView) -> _News:
    page = await page_of(view, after, limit=_READ_ROWS)
    return _News(page, await view.revision(), await view.floor(), await view.epochs())


class WatchHub(Shared[M]):
    """The watches of one collection in this process.

    Args:
        log: The changes of the collection.
        parse: Turns a change's payload into the message that events carry.
        stall_s: Seconds without progress of a write after which a reader counts as stalled.
    """

    def __init__(
        self,
        log: ChangeLog,
        *,
        parse: Callable[[bytes], M],
        stall_s: float = 20.0,
        poll_s: float = _POLL_S,
        max_queued_events: int = 1000,
        chunk_events: int = 200,
    ) -> None:
        super().__init__(log, parse, stall_s, max_queued_events, chunk_events)
        self.poll_s = poll_s
        self._pending_progress: dict[str, M] = {}
        self._progress_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._next_fanout = 0.0
        log.listen(self._committed)

    @property
    def watchers(self) -> int:
        """How many watches are open."""
        return len(self._open)

    def notify(self) -> None:
        """There may be new changes. Called by itself after every commit of this process."""
        if self._attached:
            self._wake.set()

    def _committed(self, changed: Collection[str]) -> None:
        # Also with nobody watching: who comes later must not be told of a past that a change has ended.
        if self.latest_progress:
            for resource_id in changed:
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

    def supersede(self, resource_id: str) -> None:
        """A resource is about to change: what was reported so far is of the past. Any thread may call this.

        A reader may see the change before this process has been told of the commit. Called inside the
        transaction, this keeps it from being told older progress after the change; whoever reports progress
        must do his part, and report no older one from now on.
        """
        with contextlib.suppress(RuntimeError):  # the loop is gone after an abrupt end
            self._loop.call_soon_threadsafe(self.forget_progress, resource_id)

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
        if self._task is None:
            self._task = self._loop.create_task(self._run(), name=f"watch-{self.log.collection}")
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
                    "watch of %s cannot read the change log: %s", self.log.collection, type(error).__name__
                )
                await asyncio.sleep(self.poll_s)

    async def _refresh(self) -> None:
        while True:
            after = self.revision
            news = await self.log.read(partial(_read_news, after))
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

    def _fan_out(self, news: _News) -> None:
        started = self._loop.time()
        batches = [
            Batch.of(rows, self.parse, self.token(rows[-1].revision, news.epochs))
            for rows in self.log_chunks(news.page.rows)
        ]
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
