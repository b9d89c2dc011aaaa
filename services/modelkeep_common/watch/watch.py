"""One watch: snapshot, then the log up to now, then what the hub hands over. See hub.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

from modelkeep.exceptions import ServerDrainingException, WatcherTooSlowException

from .batches import Batch, Change, Snapshot, SnapshotReader
from .frames import Event, Frame, message_size
from .log import ChangePage, ChangeRow, EpochTable, LogView, Position, page_of, position_of
from .shared import Shared

M = TypeVar("M")

_LOG_ROWS = 500


class _Start(NamedTuple):
    position: Position
    snapshot: Snapshot[object] | None
    #: Changes since the token of what an interrupted snapshot had sent already.
    missed: list[ChangeRow]
    epochs: EpochTable


class _LogPage(NamedTuple):
    page: ChangePage
    is_last: bool
    floor: int
    epochs: EpochTable


class Watch(AsyncIterator[Frame[M]]):
    """An open watch. Iterate over its frames; :meth:`close` it when leaving early."""

    # There may be thousands.
    __slots__ = (
        *("__weakref__", "_attached", "_closed", "_gave_up", "_hub", "_interval", "_loop"),
        *("_matches", "_out", "_progress", "_progress_frame", "_queue", "_queued_events", "_ready"),
        *("_said_live", "_skip_snapshot", "_snapshot_reader", "_started", "_waiter", "epochs", "revision"),
        *("last_taken", "token", "waiting_bytes"),
    )

    def __init__(
        self,
        hub: Shared[M],
        *,
        resume_token: str,
        matches: Callable[[M], bool] | None,
        snapshot: SnapshotReader[M],
        skip_snapshot: bool,
        bookmark_interval_s: float,
    ) -> None:
        self._hub = hub
        self._matches = matches
        self._snapshot_reader = snapshot
        self._skip_snapshot = skip_snapshot
        self._interval = bookmark_interval_s
        #: Token of the last frame that was handed out.
        self.token = resume_token
        #: Every change up to here was handed out, is queued, or does not concern this watch.
        self.revision = 0
        self._started = False
        self._attached = False
        self._said_live = False
        self._closed = False
        # Short, and mostly empty: a deque would take ten times the memory.
        self._ready: list[Frame[M]] = []
        self._queue: list[Batch[M]] = []
        self._queued_events = 0
        #: Bytes of what is ready or queued.
        self.waiting_bytes = 0
        #: The frame that was handed out last, and is perhaps still on its way.
        self._out: Frame[M] | None = None
        self._gave_up = False
        self._progress: Mapping[str, M] = {}
        self._progress_frame: tuple[int, Frame[M]] | None = None
        #: As read together with ``revision``.
        self.epochs: EpochTable | None = None
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        #: When the reader took a frame, on the loop's clock; at first, when it came.
        self.last_taken = self._loop.time()

    @property
    def stall_s(self) -> float:
        """Seconds after which a write that makes no headway ends the watch."""
        return self._hub.stall_s

    async def __anext__(self) -> Frame[M]:
        self._arrived()
        frame = await self._next()
        self.token = frame.resume_token
        self.last_taken = self._loop.time()
        return frame

    def close(self) -> None:
        """Give everything back. May be called at any time, and again."""
        self._closed = True
        self._hub.forget(self)
        self._drop_waiting()
        self._arrived()
        self.wake()

    async def aclose(self) -> None:
        """As :meth:`close`, for ``contextlib.aclosing``."""
        self.close()

    async def _next(self) -> Frame[M]:
        while True:
            if self._closed:
                raise StopAsyncIteration
            if self._hub.draining:
                self.close()
                raise ServerDrainingException(
                    "The server is shutting down: connect again with the resume token.",
                    metadata={"resume_token": self.token},
                    retry_after=1,
                )
            if self._gave_up:
                self.close()
                raise WatcherTooSlowException(
                    "All watchers together have left too much unread, and this one was the slowest: read "
                    "faster, or go on from the resume token.",
                    metadata={"resume_token": self.token},
                    retry_after=1,
                )
            if self._ready:
                frame = self._ready.pop(0)
                self._hand_out(frame)
                return frame
            if not self._started:
                await self._start()
            elif not self._attached:
                await self._follow_log()
            elif (queued := self._queued_frame()) is not None:
                return queued
            else:
                await self._wait()

    # Called by the hub.

    def enqueue(self, batches: list[Batch[M]], changed: Collection[str]) -> None:
        """Take new changes; ``changed`` are the ids in them."""
        if self._progress and not self._progress.keys().isdisjoint(changed):
            self._progress = {key: value for key, value in self._progress.items() if key not in changed}
            self._progress_frame = None
        for batch in batches:
            self._queue.append(batch)
            self._queued_events += len(batch.changes)
            self._hold(batch.frame)
        too_much = self.waiting_bytes > self._hub.max_queued_bytes and len(self._queue) > 1
        if too_much or self._queued_events > self._hub.max_queued_events:
            self.fall_back()
        self.wake()

    def fall_back(self) -> None:
        """Drop what is queued. It is not lost: the log has it, and is read at this reader's own pace."""
        self._drop_queue()
        self._attached = False
        self._hub.detach(self)
        self.wake()

    def give_up(self) -> None:
        """Let go of everything that waits: it is too much for the server."""
        if self._queue:
            self.fall_back()
        if self._ready:
            self._gave_up = True
            self._drop_waiting()
        self.wake()

    def enqueue_progress(self, latest: Mapping[str, M], frame: Frame[M], revision: int) -> None:
        """Take new progress; ``frame`` says the same at ``revision`` to those without a filter."""
        if self._progress:
            self._progress = {**self._progress, **latest}
            self._progress_frame = None
        else:
            self._progress = latest
            self._progress_frame = (revision, frame) if self._matches is None else None
        self.wake()

    def wake(self) -> None:
        """Look again at what there is to do."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What it holds.

    def _hold(self, frame: Frame[M]) -> None:
        self.waiting_bytes += frame.size_bytes
        self._hub.budget.take(frame)

    def _let_go(self, frame: Frame[M]) -> None:
        self.waiting_bytes -= frame.size_bytes
        self._hub.budget.give(frame)

    def _hand_out(self, frame: Frame[M]) -> None:
        """A frame that waited goes to the reader now."""
        self.waiting_bytes -= frame.size_bytes
        self._out = frame

    def _arrived(self) -> None:
        """What was handed out last is no longer held."""
        if self._out is not None:
            self._hub.budget.give(self._out)
            self._out = None

    def _make_ready(self, frames: Iterable[Frame[M]]) -> None:
        for frame in frames:
            self._ready.append(frame)
            self._hold(frame)
        self._hub.shed()

    def _drop_queue(self) -> None:
        for batch in self._queue:
            self._let_go(batch.frame)
        self._queue.clear()
        self._queued_events = 0

    def _drop_waiting(self) -> None:
        self._drop_queue()
        for frame in self._ready:
            self._let_go(frame)
        self._ready.clear()

    # Stages.

    async def _start(self) -> None:
        token = self.token
        start = await self._hub.log.read(partial(self._read_position, token))
        if start.position.snapshot_after is not None:
            start = await self._hub.log.read_all(partial(self._read_start, token))
        self._started = True
        self.epochs = start.epochs
        self.revision = start.position.revision
        if start.snapshot is not None:
            self.revision = start.snapshot.revision
            self._make_ready(self._snapshot_frames(start))

    async def _read_position(self, token: str, view: LogView) -> _Start:
        if not token:
            position = Position(await view.revision(), None if self._skip_snapshot else "")
        else:
            position = await position_of(view, self._hub.log.collection, token)
        return _Start(position, None, [], await view.epochs())

    async def _read_start(self, token: str, view: LogView) -> _Start:
        position, _, _, epochs = await self._read_position(token, view)
        after = position.snapshot_after or ""
        snapshot = await self._hub.read_snapshot(view, self._snapshot_reader, self._matches, after)
        missed: list[ChangeRow] = []
        if after:
            missed = [row async for row in view.changes(position.revision) if row.resource_id <= after]
        return _Start(position, snapshot, missed, epochs)  # type: ignore[arg-type]  # a NamedTuple inside a generic class's module cannot be generic in 3.11

    def _snapshot_frames(self, start: _Start) -> Iterable[Frame[M]]:
        snapshot: Snapshot[M] = start.snapshot  # type: ignore[assignment]  # see _read_start
        after = start.position.snapshot_after or ""
        if self._matches is None and not after:
            if snapshot.frames is None:
                snapshot.frames = self._cut(snapshot.items, snapshot.revision, start.epochs, shared=True)
            return snapshot.frames
        frames: list[Frame[M]] = []
        # Of each resource that was sent already, only its latest change, so that none goes back.
        latest = {row.resource_id: row for row in start.missed}
        events = []
        for row in sorted(latest.values(), key=lambda row: row.revision):
            put = None if row.payload is None else self._hub.parse(row.payload)
            visible = put is not None and (self._matches is None or self._matches(put))
            events.append(Event(0, row.resource_id, put=put if visible else None, removed=not visible))
        size = self._hub.chunk_events
        pieces = [events[at : at + size] for at in range(0, len(events), size)]
        for number, piece in enumerate(pieces, 1):
            # Until all of it is said, a new watch must begin at the old revision again.
            revision = snapshot.revision if number == len(pieces) else start.position.revision
            frames.append(Frame("SNAPSHOT", self._hub.token(revision, start.epochs, after), piece))
        rest = [(key, message) for key, message in snapshot.items if key > after]
        frames += self._cut(rest, snapshot.revision, start.epochs, shared=False)
        return frames

    def _cut(
        self, items: list[tuple[str, M]], revision: int, epochs: EpochTable, *, shared: bool
    ) -> list[Frame[M]]:
        frames = [
            Frame(
                "SNAPSHOT",
                self._hub.token(revision, epochs, chunk[-1][0]),
                [Event(0, key, put=message) for key, message in chunk],
                shared=shared,
                size_bytes=sum(message_size(message) for _, message in chunk),
            )
            for chunk in self._hub.snapshot_chunks(items)
        ]
        if not frames:
            frames = [Frame("SNAPSHOT", "", [], shared=shared)]
        frames[-1].snapshot_complete = True
        frames[-1].resume_token = self._hub.token(revision, epochs)
        return frames

    async def _follow_log(self) -> None:
        after = self.revision
        read = await self._hub.log.read(partial(self._read_log, after))
        self.epochs = read.epochs
        if after < read.floor:
            token = self.token
            self.close()
            raise WatcherTooSlowException(
                "The watch fell behind the history that is kept: watch without a token to get a snapshot.",
                metadata={"resume_token": token},
            )
        if frames := self._log_frames(read.page, read.epochs):
            self._said_live = True
            self._make_ready(frames)
        self.revision = read.page.revision
        if read.is_last and self._hub.attach(self, self.revision, read.epochs):
            self._attached = True
            self._progress = dict(self._hub.latest_progress)
            self._progress_frame = None
            if not self._said_live:
                self._said_live = True
                self._make_ready([Frame("LIVE", self._hub.token(self.revision, read.epochs))])

    def _log_frames(self, page: ChangePage, epochs: EpochTable) -> list[Frame[M]]:
        frames: list[Frame[M]] = []
        for rows in self._hub.log_chunks(page.rows):
            changes = (Change(row, self._hub.parse) for row in rows)
            events = [
                event for change in changes if (event := change.seen_through(self._matches)) is not None
            ]
            if events:
                token = self._hub.token(rows[-1].revision, epochs)
                frames.append(Frame("LIVE", token, events, size_bytes=sum(row.size_bytes for row in rows)))
        if frames:
            frames[-1].resume_token = self._hub.token(page.revision, epochs)
        return frames

    async def _read_log(self, after: int, view: LogView) -> _LogPage:
        page = await page_of(view, after, limit=_LOG_ROWS, max_bytes=self._hub.max_queued_bytes)
        is_last = page.revision >= await view.revision()
        return _LogPage(page, is_last, await view.floor(), await view.epochs())

    def _queued_frame(self) -> Frame[M] | None:
        while self._queue:
            batch = self._queue.pop(0)
            self._queued_events -= len(batch.changes)
            before, self.revision = self.revision, max(self.revision, batch.revision)
            if batch.revision <= before:
                self._let_go(batch.frame)
                continue
            if self._matches is None and batch.first > before:
                self._hand_out(batch.frame)
                return batch.frame
            events = [
                event
                for change in batch.changes
                if change.event.revision > before
                and (event := change.seen_through(self._matches)) is not None
            ]
            if events:
                self._hand_out(batch.frame)
                return Frame("LIVE", batch.frame.resume_token, events)
            self._let_go(batch.frame)
        if self._progress:
            return self._progress_now()
        return None

    def _progress_now(self) -> Frame[M] | None:
        latest, shared = self._progress, self._progress_frame
        self._progress, self._progress_frame = {}, None
        if shared is not None and shared[0] == self.revision:
            return shared[1]
        events = [
            Event(0, key, put=message, progress=True)
            for key, message in latest.items()
            if self._matches is None or self._matches(message)
        ]
        return Frame("LIVE", self._here(), events) if events else None

    def _here(self) -> str:
        assert self.epochs is not None
        return self._hub.token(self.revision, self._hub.epochs or self.epochs)

    async def _wait(self) -> None:
        """Until there is something to do; queues a bookmark if there is nothing for too long."""
        due = self.last_taken + self._interval
        if self._loop.time() >= due:
            # Whatever the hub has read without a change for this watch, it need not read again.
            self.revision = max(self.revision, self._hub.revision)
            self._make_ready([Frame("LIVE", self._here())])
            return
        self._waiter = self._loop.create_future()
        timer = self._loop.call_at(due, self.wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None
