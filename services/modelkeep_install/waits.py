"""What all steps of a job share: storing it, waiting for peers, and heeding a cancel."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar, cast

from modelkeep.exceptions import (
    DeadlineExceededException,
    ModelkeepError,
    ServerBusyException,
    UnavailableException,
)

from .domain.jobs import Job, JobError, Stage, State, moved
from .domain.ports import DigestWork, JobStore

T = TypeVar("T")

#: Back-off of calls to a peer that does not answer, in seconds.
FIRST_RETRY_S, LAST_RETRY_S = 0.1, 5.0
#: What a peer's silence raises: the same call may be made again.
TRY_AGAIN = (UnavailableException, ServerBusyException, DeadlineExceededException)


class Cancelled(Exception):
    """The job was asked to end, and may."""


@dataclass(slots=True)
class Control:
    """What can be said to a running job from outside."""

    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    #: Read by worker threads between blocks.
    stop: threading.Event = field(default_factory=threading.Event)
    #: A caller brought a token.
    token: asyncio.Event = field(default_factory=asyncio.Event)
    #: URL and token with their secrets; in memory only, and only until they are handed over.
    url: str = ""
    access_token: str = ""

    def bring(self, url: str, access_token: str) -> None:
        """Brings secrets, in place of what was brought before of their kind."""
        self.url = url or self.url
        self.access_token = access_token or self.access_token
        self.token.set()

    def request_cancel(self) -> None:
        self.cancel.set()
        self.stop.set()


class Steps:
    """Base of those that take a job through its steps."""

    def __init__(
        self, store: JobStore, *, saved: Callable[[Job], None], progressed: Callable[[Job], None]
    ) -> None:
        self._store = store
        self._saved = saved
        self._progressed = progressed

    async def _save(self, job: Job, *, record: bytes = b"", digests: DigestWork | None = None) -> Job:
        job = await self._store.save(job, record=record, digests=digests)
        self._saved(job)
        return job

    async def _stage(self, job: Job, stage: Stage) -> Job:
        return await self._save(moved(job, State.RUNNING, stage))

    @staticmethod
    def _check(control: Control) -> None:
        if control.cancel.is_set():
            raise Cancelled
        if control.stop.is_set():
            raise asyncio.CancelledError

    async def _with_peer(
        self,
        job: Job,
        control: Control,
        call: Callable[[], Awaitable[T]],
    ) -> tuple[T, Job]:
        """Calls until the peer answers or the job is cancelled; the job says meanwhile that it waits."""
        stage = job.stage
        delay = FIRST_RETRY_S
        while True:
            self._check(control)
            try:
                answer = await call()
            except TRY_AGAIN as error:
                job = await self._wait_for_peer(job, error, delay)
                await or_cancel(asyncio.sleep(delay * random.uniform(0.8, 1.2)), control)
                delay = min(2 * delay, LAST_RETRY_S)
                continue
            if job.stage is Stage.WAITING_FOR_PEER:
                job = await self._stage(job, stage)
            return answer, job

    async def _wait_for_peer(self, job: Job, error: ModelkeepError, delay: float) -> Job:
        """Notes once that the job waits for a peer; the retries are not stored each."""
        if job.stage is Stage.WAITING_FOR_PEER or job.state not in (State.RUNNING, State.PAUSED):
            return job
        waiting = JobError.of(error, retry_time=time.time() + delay)
        return await self._save(moved(job, State.RUNNING, Stage.WAITING_FOR_PEER, error=waiting))


async def or_cancel(
    awaitable: Awaitable[T], control: Control, *, wake: asyncio.Event | None = None
) -> T | None:
    """The result, Cancelled if that comes first, or None if ``wake`` does."""
    work = asyncio.ensure_future(awaitable)
    events = [asyncio.ensure_future(event.wait()) for event in (control.cancel, *([wake] if wake else []))]
    try:
        await asyncio.wait({work, *events}, return_when=asyncio.FIRST_COMPLETED)
        if control.cancel.is_set():
            raise Cancelled
        if not work.done():
            return None
        return work.result()
    finally:
        for task in (work, *events):
            if not task.done():
                task.cancel()
        await asyncio.gather(work, *events, return_exceptions=True)


async def in_thread(pool: ThreadPoolExecutor, work: Callable[[], T], control: Control) -> T:
    """Work that heeds ``Control.stop``; what has begun has ended when this does, also if it is cancelled.

    Raises:
        Cancelled: The job was asked to end, also while the work still waited for a thread.
    """
    submitted = pool.submit(work)
    ended = asyncio.wrap_future(submitted)
    try:
        return cast(T, await or_cancel(asyncio.shield(ended), control))
    except (Cancelled, asyncio.CancelledError):
        if not submitted.cancel():  # it has begun
            with contextlib.suppress(Exception):
                await ended
        raise


class KeyedLocks:
    """A lock for each text, made when it is first wanted and dropped when nobody waits."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @contextlib.asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Holds the lock of ``key``."""
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)
