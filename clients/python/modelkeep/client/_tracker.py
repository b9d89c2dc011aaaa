"""Job objects that follow their jobs: one watch for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Set
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Generic, Protocol, TypeVar

from modelkeep.client._watch import WatchFrame
from modelkeep.exceptions import DeadlineExceededException

_log = logging.getLogger("modelkeep.client")


#: Whether this is a handler, or what one has called: it cannot wait for handlers to run.
in_handler: ContextVar[bool] = ContextVar("in_handler", default=False)


class EventThread:
    """A thread on which callers' handlers run, one after the other; started when first needed.

    It is not the thread of the event loop, so a handler may call the blocking client.
    """

    def __init__(self, name: str = "modelkeep-events") -> None:
        self._name = name
        self._executor: ThreadPoolExecutor | None = None

    async def run(self, handler: Callable[..., Any], *arguments: Any, quiet: bool = False) -> None:
        """Call a handler and wait for it; a coroutine function runs on the loop.

        What it raises is logged as an error, or, if `quiet`, as what only helps to find errors.
        """
        token = in_handler.set(True)
        try:
            if inspect.iscoroutinefunction(handler):
                await handler(*arguments)
                return
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix=self._name)
            call = functools.partial(contextvars.copy_context().run, handler, *arguments)
            await asyncio.get_running_loop().run_in_executor(self._executor, call)
        except Exception:
            level = logging.DEBUG if quiet else logging.ERROR
            _log.log(level, "An event handler failed: %r", handler, exc_info=True)
        finally:
            in_handler.reset(token)

    def close(self) -> None:
        """Let the thread end after the handler that runs now."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None


class _Message(Protocol):
    @property
    def id(self) -> int: ...
    @property
    def revision(self) -> int: ...


M = TypeVar("M", bound=_Message)
J = TypeVar("J", bound="TrackedJob[Any]")
M_contra = TypeVar("M_contra", bound=_Message, contravariant=True)


class TrackedJob(Protocol[M_contra]):
    """A job object that can be brought up to date."""

    @property
    def message(self) -> Any:
        """The message it was last brought up to date with."""
        ...

    def update(self, message: M_contra) -> None:
        """Take over what a message says."""
        ...


class JobTracker(Generic[J, M]):
    """The job objects of one queue, kept up to date by one watch.

    One task reads the watch; another takes in what it read and calls the handlers, so that a slow
    handler delays the news of this client and nothing else. No lock is held while handlers run: they
    may call the client.

    Args:
        watch: Opens the watch.
        make: Makes a job object of a message.
        on_change: Called for each change, in order, with the job, its message before (None if the job is
            new), the message now, and whether it is of the past: part of the first snapshot, and unknown.
        side_by_side: Whether a slow handler delays the news of its own job alone. Of the progress that comes
            meanwhile the latest is told.
    """

    def __init__(
        self,
        watch: Callable[[], AsyncGenerator[WatchFrame[M]]],
        make: Callable[[M], J],
        on_change: Callable[[J, M | None, M, bool], Awaitable[None]],
        *,
        side_by_side: bool = False,
    ) -> None:
        self._watch = watch
        self._make = make
        self._on_change = on_change
        self._lanes: Lanes[M] | None = Lanes(self._next_in_lane, self._wake) if side_by_side else None
        self._jobs: dict[int, J] = {}
        self._told: dict[int, M] = {}
        self._named: set[int] = set()
        self._creating = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._began = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None

    @property
    def jobs(self) -> dict[int, J]:
        """The jobs that are known, by number."""
        return self._jobs

    def told(self, id: int) -> M | None:
        """The present message of a job if its handlers have all run; None if there is news to tell."""
        message, job = self._told.get(id), self._jobs.get(id)
        if self._lanes is not None and id in self._lanes.busy:
            return None
        if message is None or (job is not None and job.message.revision > message.revision):
            return None
        return message

    async def start(self) -> None:
        """Begin to follow, unless begun; returns when the present state is known.

        Raises:
            ModelkeepError: The service cannot be watched.
        """
        if self._task is None or self._task.done():
            self._failure = None
            self._began.clear()
            self._task = asyncio.create_task(self._run(), name="modelkeep-job-tracker")
        await self._began.wait()
        if self._failure is not None:
            raise self._failure

    @contextlib.asynccontextmanager
    async def creating(self) -> AsyncIterator[None]:
        """Make a job inside: its first event waits until it has its own object."""
        async with self._creating:
            yield

    def adopt(self, message: M, job: J) -> J:
        """The object of a job that an answer names: `job`, or the one that there is already."""
        known = self._jobs.setdefault(message.id, job)
        refresh(known, message)
        return known

    async def until(self, done: Callable[[], bool], timeout: float | None, what: str) -> None:
        """Wait until the jobs are as wanted.

        Raises:
            DeadlineExceededException: They are not, after `timeout` seconds.
            ModelkeepError: The service was away for too long.
            RuntimeError: The client was closed.
        """
        await self.start()
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: done() or self._failure is not None)
        except TimeoutError:
            raise DeadlineExceededException(f"After {timeout:g} s there still are {what}.") from None
        if self._failure is not None and not done():
            raise self._failure

    async def reached(self, id: int, revision: int, timeout: float) -> None:
        """Wait until the handlers have heard what a job was at a revision, if that comes soon.

        Does not wait in a handler, nor where nothing is followed.
        """
        if in_handler.get() or self._task is None:
            return

        def has_told() -> bool:
            message = self._told.get(id)
            return id not in self._jobs or (message is not None and message.revision >= revision)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: has_told() or self._failure is not None)

    async def close(self) -> None:
        """Stop following; whoever waits for jobs is told."""
        if self._task is not None:
            self._failure = RuntimeError("This client is closed.")
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task
            self._task = None
        if self._lanes is not None:
            await self._lanes.close()

    async def _run(self) -> None:
        frames: asyncio.Queue[WatchFrame[M] | None] = asyncio.Queue()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(frames))
                while (frame := await frames.get()) is not None:
                    await self._take_in(frame)
                    async with self._changed:
                        self._changed.notify_all()
        except BaseException as error:
            # Nothing else would ever wake those that wait.
            self._failure = self._failure or error
            raise
        finally:
            self._began.set()
            async with self._changed:
                self._changed.notify_all()

    async def _read(self, frames: asyncio.Queue[WatchFrame[M] | None]) -> None:
        try:
            async with contextlib.aclosing(self._watch()) as watch:
                async for frame in watch:
                    frames.put_nowait(frame)
        except Exception as error:
            self._failure = error
        finally:
            frames.put_nowait(None)

    async def _take_in(self, frame: WatchFrame[M]) -> None:
        first = not self._began.is_set()
        if frame.restarted:
            self._named.clear()
        for event in frame.events:
            if event.put is None:
                await self._soon(event.id, None)
                continue
            if frame.phase == "snapshot":
                self._named.add(event.id)
            await self._take_in_job(event.put, first)
        if frame.snapshot_complete:
            known = set(self._told) | (set(self._lanes.busy) if self._lanes is not None else set())
            for gone in known - self._named:
                await self._soon(gone, None)
            self._named.clear()
        # A watch that begins without a snapshot is live at once.
        if frame.snapshot_complete or frame.phase == "live":
            self._began.set()

    async def _take_in_job(self, message: M, first: bool) -> None:
        async with self._creating:
            # What there was before this client is no news; what became of jobs that it knows is.
            past = first and message.id not in self._jobs
            if message.id not in self._jobs:
                self._jobs[message.id] = self._make(message)
        if past:
            await self._tell(message, past=True)
        else:
            await self._soon(message.id, message)

    async def _soon(self, id: int, message: M | None) -> None:
        """Tell of a job, or forget it, in its turn."""
        if self._lanes is None:
            await self._next(id, message)
        else:
            self._lanes.put(id, message)

    async def _next(self, id: int, message: M | None) -> None:
        if message is not None:
            await self._tell(message)
        else:
            self._jobs.pop(id, None)
            self._told.pop(id, None)

    async def _next_in_lane(self, id: int, message: M | None) -> None:
        try:
            await self._next(id, message)
        except Exception as error:
            self._failure = self._failure or error  # nothing else would ever wake those that wait

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _tell(self, message: M, *, past: bool = False) -> None:
        job = self._jobs.get(message.id)
        if job is None:  # it was gone, and is back
            job = self._jobs[message.id] = self._make(message)
        before = self._told.get(message.id)
        if before is not None and message.revision < before.revision:
            return
        known = job.message
        job.update(message)  # as of the event, also where the answer to a call of a handler has told more
        await self._on_change(job, before, message, past)
        if known.revision > job.message.revision:
            job.update(known)
        self._told[message.id] = message


class Lanes(Generic[M]):
    """News of jobs that go on side by side: in order for each job, and a slow one holds up no other.

    Args:
        step: Takes the next news of a job: its message, or None when it is gone.
        told: Called after each, when `busy` is right again.
    """

    def __init__(
        self, step: Callable[[int, M | None], Awaitable[None]], told: Callable[[], Awaitable[None]]
    ) -> None:
        self._step = step
        self._told = told
        self._waiting: dict[int, list[M | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> Set[int]:
        """The jobs of which there is news that was not told yet."""
        return self._waiting.keys()

    def put(self, id: int, message: M | None) -> None:
        """Tell this after what waits already; progress takes the place of earlier progress that waits."""
        waiting = self._waiting.get(id)
        if waiting is None:
            self._waiting[id] = [message]
            task = asyncio.create_task(self._go(id), name="modelkeep-job-news")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        last = waiting[-1] if waiting else None
        if last is not None and message is not None and last.revision == message.revision:
            waiting.pop()
        waiting.append(message)

    async def _go(self, id: int) -> None:
        in_handler.set(True)  # in this task
        waiting = self._waiting[id]
        while waiting:
            await self._step(id, waiting.pop(0))
            if not waiting:
                del self._waiting[id]
            await self._told()

    async def close(self) -> None:
        """Tell no more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._waiting.clear()


def refresh(job: TrackedJob[M], message: M) -> None:
    """Bring a job up to date, unless it knows something newer."""
    if message.revision >= job.message.revision:
        job.update(message)
