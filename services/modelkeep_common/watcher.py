"""One watch: snapshot, then the log up to now, then what the hub hands over. See watch.py."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from modelkeep.exceptions import ServerDrainingException, WatcherTooSlowException

from .changes import (
    ChangeRow,
    EpochTable,
    Position,
    current_revision,
    history_floor,
    parse_resume_token,
    read_changes,
    read_epochs,
    read_page,
)
from .frames import Event, Frame

if TYPE_CHECKING:
    from .watch import WatchHub

M = TypeVar("M")

#: Reads the collection inside a read transaction, as (id, message).
SnapshotReader = Callable[[sqlite3.Connection], Iterable[tuple[str, M]]]

_LOG_ROWS = 500


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
    def of(cls, hub: WatchHub[M], rows: list[ChangeRow], epochs: EpochTable) -> Batch[M]:
        """Parse ``rows``, once for all watchers."""
        return cls([Change(row, hub.parse) for row in rows], hub.token(rows[-1].revision, epochs))


class _Start(NamedTuple):
    position: Position
    snapshot: Snapshot[object] | None
    #: Changes since the token of what an interrupted snapshot had sent already.
    missed: list[ChangeRow]
    epochs: EpochTable


class _LogPage(NamedTuple):
    rows: list[ChangeRow]
    revision: int
    is_last: bool
    floor: int
    epochs: EpochTable


class Watch(AsyncIterator[Frame[M]]):
    """An open watch. Iterate over its frames; :meth:`close` it when leaving early."""

    # There may be thousands.
    __slots__ = (
        *("__weakref__", "_attached", "_closed", "_hub", "_interval", "_last_frame", "_loop", "_matches"),
        *("_progress", "_progress_frame", "_queue", "_queued_events", "_ready", "_said_live"),
        *("_skip_snapshot", "_snapshot_reader", "_started", "_waiter", "epochs", "revision", "token"),
    )

    def __init__(
        self,
        hub: WatchHub[M],
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
        self._progress: Mapping[str, M] = {}
        self._progress_frame: tuple[int, Frame[M]] | None = None
        #: As read together with ``revision``.
        self.epochs: EpochTable | None = None
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._last_frame = self._loop.time()

    @property
    def stall_s(self) -> float:
        """Seconds after which a write that makes no headway ends the watch."""
        return self._hub.stall_s

    async def __anext__(self) -> Frame[M]:
        frame = await self._next()
        self.token = frame.resume_token
        self._last_frame = self._loop.time()
        return frame

    def close(self) -> None:
        """Give everything back. May be called at any time, and again."""
        self._closed = True
        self._hub.forget(self)
        self._queue.clear()
        self._ready.clear()
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
            if self._ready:
                return self._ready.pop(0)
            if not self._started:
                await self._start()
            elif not self._attached:
                await self._follow_log()
            elif (frame := self._queued_frame()) is not None:
                return frame
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
        if self._queued_events > self._hub.max_queued_events:
            self.fall_back()
        self.wake()

    def fall_back(self) -> None:
        """Drop what is queued. It is not lost: the log has it, and is read at this reader's own pace."""
        self._queue.clear()
        self._queued_events = 0
        self._attached = False
        self._hub.detach(self)
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

    # Stages.

    async def _start(self) -> None:
        token = self.token
        start = await self._hub.db.read(lambda conn: self._read_position(conn, token))
        if start.position.snapshot_after is not None:
            start = await self._hub.snapshots.run(lambda conn: self._read_start(conn, token))
        self._started = True
        self.epochs = start.epochs
        self.revision = start.position.revision
        if start.snapshot is not None:
            self.revision = start.snapshot.revision
            self._ready.extend(self._snapshot_frames(start))

    def _read_position(self, conn: sqlite3.Connection, token: str) -> _Start:
        if not token:
            position = Position(current_revision(conn), None if self._skip_snapshot else "")
        else:
            position = parse_resume_token(conn, self._hub.collection, token)
        return _Start(position, None, [], read_epochs(conn))

    def _read_start(self, conn: sqlite3.Connection, token: str) -> _Start:
        position, _, _, epochs = self._read_position(conn, token)
        snapshot = self._hub.read_snapshot(
            conn, self._snapshot_reader, self._matches, position.snapshot_after or ""
        )
        missed: list[ChangeRow] = []
        if position.snapshot_after:
            for row in read_changes(conn, self._hub.collection, position.revision):
                if row.resource_id <= position.snapshot_after:
                    missed.append(row)
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
        page = await self._hub.db.read(lambda conn: self._read_log(conn, after))
        self.epochs = page.epochs
        if after < page.floor:
            token = self.token
            self.close()
            raise WatcherTooSlowException(
                "The watch fell behind the history that is kept: watch without a token to get a snapshot.",
                metadata={"resume_token": token},
            )
        if page.rows:
            events = [
                event
                for row in page.rows
                if (event := Change(row, self._hub.parse).seen_through(self._matches)) is not None
            ]
            if events:
                self._ready.append(Frame("LIVE", self._hub.token(page.revision, page.epochs), events))
                self._said_live = True
        self.revision = page.revision
        if page.is_last and self._hub.attach(self):
            self._attached = True
            self._progress = dict(self._hub.latest_progress)
            self._progress_frame = None
            if not self._said_live:
                self._said_live = True
                self._ready.append(Frame("LIVE", self._hub.token(self.revision, page.epochs)))

    def _read_log(self, conn: sqlite3.Connection, after: int) -> _LogPage:
        page = read_page(conn, self._hub.collection, after, limit=_LOG_ROWS)
        is_last = page.revision >= current_revision(conn)
        return _LogPage(page.rows, page.revision, is_last, history_floor(conn), read_epochs(conn))

    def _queued_frame(self) -> Frame[M] | None:
        while self._queue:
            batch = self._queue.pop(0)
            self._queued_events -= len(batch.changes)
            before, self.revision = self.revision, max(self.revision, batch.revision)
            if batch.revision <= before:
                continue
            if self._matches is None and batch.first > before:
                return batch.frame
            events = [
                event
                for change in batch.changes
                if change.event.revision > before
                and (event := change.seen_through(self._matches)) is not None
            ]
            if events:
                return Frame("LIVE", batch.frame.resume_token, events)
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
        due = self._last_frame + self._interval
        if self._loop.time() >= due:
            # Whatever the hub has read without a change for this watch, it need not read again.
            self.revision = max(self.revision, self._hub.revision)
            self._ready.append(Frame("LIVE", self._here()))
            return
        self._waiter = self._loop.create_future()
        timer = self._loop.call_at(due, self.wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None
