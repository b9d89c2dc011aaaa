"""The jobs that run: begun, watched until they end, and found again when the store failed them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from modelkeep.backoff import Backoff
from modelkeep.exceptions import ModelkeepError

from .domain.jobs import Job, State
from .domain.ports import JobStore
from .run import Run, Tools
from .steps import install

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Between two tries of what a fault of the store or of a peer interrupted, in seconds.
_FIRST_RETRY_S, _LAST_RETRY_S = 0.2, 10.0
#: So long is what callers have begun waited for; after a drain the next start makes up for the rest.
CALLS_END_S = 5.0


class Calls:
    """What callers have begun, and what is done to its end although they go away."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Does work to its end, also when the caller goes away in its middle."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def end(self) -> None:
        """Waits for what has been begun by now, but not for ever."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=CALLS_END_S)


class Runs:
    """The runs under way, by the numbers of their jobs.

    Args:
        store: The jobs.
        tools: What runs work with.
        completed: Told after each job that has COMPLETED.
    """

    def __init__(self, store: JobStore, tools: Tools, completed: Callable[[], None]) -> None:
        self._store = store
        self._tools = tools
        self._completed = completed
        self._running: dict[int, tuple[asyncio.Task[None], Run]] = {}
        #: Address and token, with their secrets, of jobs that a caller paused; in memory only.
        self._secrets: dict[int, tuple[str, str]] = {}
        #: Set, and replaced, whenever a job begins or ends to run.
        self._changed = asyncio.Event()
        self._stopping = False

    def get(self, job_id: int) -> Run | None:
        """The run of a job; None if it does not run."""
        running = self._running.get(job_id)
        return None if running is None else running[1]

    def secrets(self, job_id: int) -> tuple[str, str]:
        """The (address, token), with their secrets, that a job's run has or left; empty texts without any."""
        run = self.get(job_id)
        return self._secrets.get(job_id, ("", "")) if run is None else (run.url, run.access_token)

    def launch(self, job: Job, *, url: str = "", access_token: str = "") -> None:
        """Lets a job run, with the secrets that are given, else with those that its last run left."""
        if self._stopping:
            return
        kept_url, kept_token = self._secrets.pop(job.id, ("", ""))
        run = Run(job, self._tools, url=url or kept_url, access_token=access_token or kept_token)
        task = asyncio.create_task(self._run(run), name=f"install-{job.id}")
        self._running[job.id] = (task, run)
        self.wake()

    async def stop(self) -> None:
        """Stops every run where it is; the next start goes on."""
        self._stopping = True
        tasks = [task for task, _ in self._running.values()]
        for task, run in list(self._running.values()):
            run.stopped.set()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        """Lets those who wait look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def forget(self, job_id: int) -> None:
        """Drops the secrets of a job that is gone."""
        self._secrets.pop(job_id, None)

    async def ended(self, job_id: int) -> None:
        """Waits until a job has ended, or all are stopped; UnknownJobIDException if it is not there."""
        while True:
            changed = self._changed
            job = await self._store.get(job_id)
            if job.state.final or self._stopping:
                return
            await changed.wait()

    async def idle(self, job_id: int, timeout_s: float) -> None:
        """Waits until a job does not run, or the time is over."""
        running = self._running.get(job_id)
        if running is not None:
            await asyncio.wait({running[0]}, timeout=timeout_s)

    async def _run(self, run: Run) -> None:
        job_id, waits = run.job.id, Backoff(_FIRST_RETRY_S, _LAST_RETRY_S)
        try:
            while not run.job.state.final:
                try:
                    await install(run)
                except Exception:
                    # not even its end could be noted, as when the disk is full: it must not hang for ever
                    _log.exception("install %s stopped; tried again soon", job_id)
                    await self._find_again(run, waits)
                else:
                    if run.is_held:
                        self._secrets[job_id] = (run.url, run.access_token)
                        break  # until a caller lets it go on
            if run.job.state is State.COMPLETED:
                self._completed()
        except ModelkeepError as error:
            _log.error("install %s is given up: %s", job_id, error)
        finally:
            self._running.pop(job_id, None)
            self.wake()

    async def _find_again(self, run: Run, waits: Backoff) -> None:
        """Waits until the store gives the job as it was stored last."""
        while True:
            await asyncio.sleep(waits.next())
            try:
                run.job = await self._store.get(run.job.id)
                return
            except ModelkeepError:
                raise
            except Exception as error:
                _log.info("the store does not give install %s yet: %s", run.job.id, error)
