"""One install under way: its job, and how that is stored, stopped and made to wait.

:mod:`.steps` tells what is done, and in which order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar, cast

from modelkeep.backoff import Backoff
from modelkeep.exceptions import ModelkeepError, QueueFullException
from modelkeep_common.room import Room

from .domain.jobs import TRANSITIONS, Job, JobError, Progress, SourceKind, Stage, State
from .domain.ports import TRY_AGAIN, DigestWork, DownloadPort, JobStore, RecordPort, Removal, StoredModel
from .domain.roots import ModelRoots
from .follow import DownloadFollower
from .locks import KeyedLocks

T = TypeVar("T")

#: Between two calls of a peer that does not answer, in seconds.
FIRST_RETRY_S, LAST_RETRY_S = 0.1, 5.0
#: What a caller brings is taken at once; a source that wants more leaves the job paused.
_GOES_ON_S = 2.0


class Cancelled(Exception):
    """The job was asked to end, and may."""


class Held(Exception):
    """The job was asked to stand still, and may."""


class Failed(Exception):
    """The job fails for a reason that is known as one already."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


class InstalledAlready(Exception):
    """The job ends with a model that is there.

    Attributes:
        model: The record.
        digests: Its files, where they have other times by now than the record says.
    """

    def __init__(self, model: StoredModel, digests: DigestWork | None = None) -> None:
        super().__init__(model.key)
        self.model, self.digests = model, digests


@dataclass(frozen=True, slots=True)
class Tools:
    """What all runs work with.

    Attributes:
        news: Told of a job whose progress has changed since it was stored.
        spare: A removal without the files that other records list, which it names.
        quick, copies: Two pools: a copy of many gigabytes must not keep a probe waiting.
        sources: Two jobs of one local source take turns.
    """

    store: JobStore
    records: RecordPort
    downloads: DownloadPort
    follower: DownloadFollower
    roots: ModelRoots
    room: Room
    news: Callable[[Job], None]
    spare: Callable[[Removal], Awaitable[Removal]]
    quick: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "install"))
    copies: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "copy"))
    sources: KeyedLocks = field(default_factory=KeyedLocks)
    now: Callable[[], float] = time.time


class Run:
    """One install under way.

    Attributes:
        job: What is true of it: as it was stored last, with what its present step has found since.
        url, access_token: With their secrets; in memory only, and only until they are handed over.
        token: Set when a caller brought a secret.
        held: Set while a caller wants the job to stand still.
        stopped: Set by a cancel and by a drain; read by worker threads, as :attr:`must_stop`.
    """

    def __init__(self, job: Job, tools: Tools, *, url: str = "", access_token: str = "") -> None:
        self.job = job
        self.tools = tools
        self.url, self.access_token = url, access_token
        self.token = asyncio.Event()
        self._moves = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.held = asyncio.Event()
        self.stopped = threading.Event()
        self._loop = asyncio.get_running_loop()
        if job.cancel_requested:
            self.request_cancel()
        if job.pause_requested:
            self.held.set()

    @property
    def is_paused(self) -> bool:
        """Whether it waits for a caller, by somebody's wish or for want of something."""
        return self.job.state is State.PAUSED

    @property
    def is_held(self) -> bool:
        """Whether it stands still, and its run may end."""
        return self.job.is_held and self.held.is_set()

    @property
    def must_stop(self) -> bool:
        """Read by worker threads between blocks: whether their work shall end."""
        return self.stopped.is_set() or self.held.is_set()

    # ---- said from outside ---------------------------------------------------------------------------
    def bring(self, url: str, access_token: str) -> None:
        """Brings secrets, in place of what was brought before of their kind."""
        self.url = url or self.url
        self.access_token = access_token or self.access_token
        self.token.set()

    async def went_on(self) -> None:
        """Waits until a paused job goes on with what was brought; for a moment only, if it does not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOES_ON_S):
                while self.is_paused:
                    self._moves.clear()
                    await self._moves.wait()

    def request_cancel(self) -> None:
        """The job shall end, and leave nothing."""
        self.cancelled.set()
        self.stopped.set()

    def hold(self) -> None:
        """The job shall stand still, and keep what it has."""
        self.held.set()

    def go_on(self, url: str, access_token: str) -> None:
        """It shall not stand still any more, with secrets in place of those before."""
        self.url, self.access_token = url or self.url, access_token or self.access_token
        self.held.clear()

    # ---- its steps -----------------------------------------------------------------------------------
    async def through(self, steps: Sequence[Step]) -> None:
        """Takes the steps in their order; what one found and the stage of the next are one write.

        Raises:
            Cancelled, Failed, ModelkeepError: The job shall end so.
            Held: It shall stand still.
            CancelledError: It stops where it is, for the next start.
        """
        begun = self.job.start_time or self.tools.now()
        self.job = replace(self.job, attempt=self.job.attempt + 1, start_time=begun)
        await self.enter(State.RUNNING)
        if self.job.failure is not None:
            raise Failed(self.job.failure)
        async with self.tools.sources.hold(await self._turn()):
            for step in steps:
                if not step.fills or not getattr(self.job, step.fills):
                    if step.stage:
                        await self.enter(State.RUNNING, step.stage)
                    self.check()
                    await step.do(self)

    async def _turn(self) -> str:
        """What jobs of one local source, by whatever path, have in common."""
        if self.job.source.kind is not SourceKind.PATH:
            return self.job.uid
        return await self.in_thread(self.tools.quick, partial(os.path.realpath, self.job.source.text))

    async def enter(
        self,
        state: State,
        stage: Stage = Stage.NONE,
        *,
        error: JobError | None = None,
        record: bytes = b"",
        digests: DigestWork | None = None,
    ) -> None:
        """Stores the job, with all that was found, in another state.

        Raises:
            ValueError: That state may not follow.
        """
        if state not in TRANSITIONS[self.job.state]:
            raise ValueError(f"a job cannot go from {self.job.state} to {state}")
        moved = replace(self.job, state=state, stage=stage, error=error)
        self.job = await self.tools.store.save(moved, record=record, digests=digests)
        self._moves.set()

    async def save(self) -> None:
        """Stores the job, with all that was found, in the state that it is in."""
        self.job = await self.tools.store.save(self.job)

    def progressed(self, progress: Progress) -> None:
        """Tells, from any thread, how far the present step is; that is stored with what it finds."""
        self.job = replace(self.job, progress=progress)
        self._loop.call_soon_threadsafe(self.tools.news, self.job)

    # ---- waiting -------------------------------------------------------------------------------------
    def check(self) -> None:
        """Cancelled, CancelledError of a drain, or Held, if that was asked for."""
        if self.cancelled.is_set():
            raise Cancelled
        if self.stopped.is_set():
            raise asyncio.CancelledError
        if self.held.is_set():
            raise Held

    async def ask(self, call: Callable[[], Awaitable[T]], *, ending: bool = False) -> T:
        """Calls a peer until it answers; the job says meanwhile that it waits.

        Args:
            call: The call, which may be repeated.
            ending: The job cannot end without the answer: no cancel and no error of the peer ends the wait.
        """
        stage, waits = self.job.stage, backoff()
        silence = (ModelkeepError,) if ending else TRY_AGAIN
        while True:
            if not ending:
                self.check()
            try:
                answer = await call()
            except silence as error:
                await self.wait_for_peer(error, waits, ending=ending)
                continue
            if self.job.stage is Stage.WAITING_FOR_PEER and not ending:
                await self.enter(State.RUNNING, stage)
            return answer

    async def wait_for_peer(self, error: ModelkeepError, waits: Backoff, *, ending: bool = False) -> None:
        """Waits until a peer may be asked again; noted once, the later tries are not stored each."""
        asked = error.retry_after
        if isinstance(error, QueueFullException):
            asked = min(asked or LAST_RETRY_S, LAST_RETRY_S)  # any of our downloads may end, and make room
        wait = waits.next(asked)
        if self.job.stage is not Stage.WAITING_FOR_PEER:
            waiting = JobError.of(error, retry_time=self.tools.now() + wait)
            await self.enter(State.RUNNING, Stage.WAITING_FOR_PEER, error=waiting)
        over = asyncio.sleep(wait)
        await (over if ending else self.unless_cancelled(over))

    async def unless_cancelled(
        self, awaitable: Awaitable[T], *, wake: asyncio.Event | None = None
    ) -> T | None:
        """The result; Cancelled or Held if one of these comes first, or None if ``wake`` does."""
        work = asyncio.ensure_future(awaitable)
        events = [asyncio.ensure_future(event.wait()) for event in (self.cancelled, self.held, wake) if event]
        try:
            await asyncio.wait({work, *events}, return_when=asyncio.FIRST_COMPLETED)
            if self.cancelled.is_set():
                raise Cancelled
            if self.held.is_set():
                raise Held
            return work.result() if work.done() else None
        finally:
            for task in (work, *events):
                task.cancel()
            await asyncio.gather(work, *events, return_exceptions=True)

    async def in_thread(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        """Work that heeds ``stopped``; what has begun has ended when this does, also if it is cancelled.

        Raises:
            Cancelled, Held: The job was asked to end or to stand still, also while the work still waited for
                a thread.
        """
        submitted = pool.submit(work)
        ended = asyncio.wrap_future(submitted)
        try:
            return cast(T, await self.unless_cancelled(asyncio.shield(ended)))
        except (Cancelled, Held, asyncio.CancelledError):
            if not submitted.cancel():  # it has begun
                with contextlib.suppress(Exception):
                    await ended
            raise


class Rehearsal(Run):
    """A run that stores nothing, and waits for nobody."""

    async def ask(self, call: Callable[[], Awaitable[T]], *, ending: bool = False) -> T:
        return await call()


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an install; every one may be repeated.

    Attributes:
        stage: What the job says meanwhile; none for a look that takes no time.
        do: Does it, and leaves what it found in ``run.job``.
        fills: Field of the job: where it is filled, the step is done, and a restart leaves it out.
    """

    stage: Stage
    do: Callable[[Run], Awaitable[None]]
    fills: str = ""


def blocking(work: Callable[[Run], None], *, copies: bool = False) -> Callable[[Run], Awaitable[None]]:
    """A step's work on a thread; of the pool for copies, if it may take long."""

    async def do(run: Run) -> None:
        await run.in_thread(run.tools.copies if copies else run.tools.quick, partial(work, run))

    return do


def backoff() -> Backoff:
    """The waits between tries of a call to a peer."""
    return Backoff(FIRST_RETRY_S, LAST_RETRY_S)
