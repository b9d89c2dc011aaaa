"""Runs the jobs: who is next, what its end means, when it tries again. Belongs to the event loop.

Rows, threads, files and time are ports (`ports.py`): nothing here waits for the world by itself.

What a job should do is in its row; calls change the row and then `poke` the scheduler, which makes the
world agree with it. A poke that comes late or twice is harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from modelkeep.backoff import wait_after
from modelkeep.exceptions import (
    DiskFullException,
    ModelkeepError,
    ServerDrainingException,
    UnknownJobIDException,
    UpstreamUnavailableException,
)
from modelkeep_common.urls import origin_of
from modelkeep_download.config import DownloadSettings
from modelkeep_download.domain.job import Failure, Job, JobState, Stage
from modelkeep_download.domain.queue import PriorityQueue
from modelkeep_download.domain.retry import (
    StartOver,
    TransientError,
    may_be_one_nodes,
    waits_for_somebody,
)
from modelkeep_download.domain.transitions import (
    cancelled,
    completed,
    ended,
    restored,
    started_over,
    stopped,
    to_cancel,
)
from modelkeep_download.engine import files
from modelkeep_download.engine.attempt import Attempt
from modelkeep_download.engine.ports import Clock, Jobs, Timer, Tries
from modelkeep_download.engine.transfer import Credentials
from modelkeep_download.engine.transport import Stopped, StopSignal

T = TypeVar("T")

_log = logging.getLogger(__name__)
_RECOVER_S = 5.0
_REACH_THE_SOURCE = "Check the address, and that its host can be reached from here; or try again later."


@dataclass
class _Run:
    """A job that has a slot."""

    stop: StopSignal = field(default_factory=StopSignal)
    #: The job's row, as it was last written by anybody.
    job: Job | None = None
    attempt: Attempt | None = None
    task: asyncio.Task[None] | None = None


class Scheduler:
    """Runs at most `max_parallel_downloads` jobs at once, by priority, then in the order they came.

    Args:
        on_progress: Called with a running job whose bytes moved on.
    """

    def __init__(
        self,
        jobs: Jobs,
        tries: Tries,
        clock: Clock,
        settings: DownloadSettings,
        on_progress: Callable[[Job], None],
    ) -> None:
        self._jobs, self._tries, self._clock, self._settings = jobs, tries, clock, settings
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._queue = PriorityQueue()
        self._runs: dict[int, _Run] = {}
        self._timers: dict[int, Timer] = {}
        #: By job id: tries in a row that gained nothing, and the most bytes that it ever had.
        self._failures: dict[int, tuple[int, int]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._draining = False
        #: Secrets by job id: in this process's memory only.
        self.credentials: dict[int, Credentials] = {}

    async def open(self) -> None:
        """Bring the jobs of an earlier process in order, and go on with them."""
        jobs = await self._jobs.unfinished()
        done = await self._tries.finished(jobs)
        await self._tries.sweep(await self._jobs.staging_folders())

        def restore(job: Job) -> Job:
            if job.id in done:
                return completed(job)
            return restored(job)

        unlike = [job.id for job in jobs if restore(job) != job]
        try:
            changed = await self._jobs.change_all(unlike, restore)
        except DiskFullException:  # jobs can be cancelled and pruned all the same, which makes room
            _log.exception("the jobs of an earlier process cannot be taken over yet: the disk is full")
            for job_id in unlike:
                self._recover_later(job_id)
            jobs, changed = [job for job in jobs if job.id not in set(unlike)], {}
        for job in jobs:
            self.poke(changed.get(job.id, job))

    async def drain(self) -> None:
        """Stop every transfer with its bytes durable; the rows stay as they are, for the next process."""
        self._draining = True
        for timer in self._timers.values():
            timer.cancel()
        for run in self._runs.values():
            run.stop.stop()
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._tries.close()

    async def carried_through(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work to its end also if the caller is cancelled: a row that changed must be poked."""
        return await asyncio.shield(self._spawn(work))

    def poke(self, job: Job) -> None:
        """Make the world agree with the job's row, as it was just written."""
        run = self._runs.get(job.id)
        if run is not None:
            run.job = job
        stopping = job.stage in (Stage.PAUSING, Stage.CANCELLING)
        if job.state is JobState.ENQUEUED and not stopping:
            self._queue.put(job.id, job.priority, job.enqueue_order)
        elif job.state is JobState.RUNNING and not stopping:
            if job.id in self._queue:
                self._queue.put(job.id, job.priority, job.enqueue_order)
        else:
            self._queue.discard(job.id)
            self._failures.pop(job.id, None)
            if (timer := self._timers.pop(job.id, None)) is not None:
                timer.cancel()
        if stopping:
            if run is not None:
                run.stop.stop()
            else:
                self._spawn(self._wind_up(job.id))
        if job.state.terminal:
            self.credentials.pop(job.id, None)
        self._pump()

    def live(self, job: Job) -> Job:
        """The job with the bytes that its transfer has written beyond the durable ones, and its rate.

        Any thread may call this.
        """
        run = self._runs.get(job.id)
        if run is None or run.attempt is None or job.state is not JobState.RUNNING:
            return job
        meter = run.attempt.meter
        in_flight = max(0, meter.bytes_done - job.have.size)
        return replace(job, in_flight=in_flight, bytes_per_second=meter.rate())

    async def make_room(self, job_id: int) -> None:
        """Remove a job's partial file before its row says so, for a cancel that finds the disk full.

        Raises:
            UnknownJobIDException, WrongStateException: There is nothing to cancel.
        """
        job = to_cancel(await self._jobs.get(job_id))
        if (run := self._runs.get(job_id)) is not None and run.task is not None:
            run.stop.stop()
            await asyncio.wait([run.task])
        if not job.state.terminal:
            await self._tries.discard(job.staging)

    async def _change(self, job_id: int, transition: Callable[[Job], Job], *, synced: bool = True) -> Job:
        job = await self._jobs.change(job_id, transition, synced=synced)
        if (run := self._runs.get(job_id)) is not None:
            run.job = job
        return job

    # Running.

    def _attempt(self, job: Job, run: _Run) -> Attempt:
        """A try of a job; what it records comes from its thread."""
        job_id, tries = job.id, self._tries

        def change(transition: Callable[[Job], Job], synced: bool) -> Job:
            return tries.on_loop(self._change(job_id, transition, synced=synced))

        def moved() -> None:
            self._loop.call_soon_threadsafe(self._tell_progress, run)

        return Attempt(
            job,
            self.credentials.get(job_id) or Credentials(job.spec.source),
            run.stop,
            change=change,
            checkpoint=lambda have: tries.on_loop(self._jobs.checkpoint(job_id, have)),
            moved=moved,
            others_to_come=lambda device: self._bytes_to_come(device, besides=job_id),
            reserve=self._settings.disk_reserve_bytes,
        )

    def _tell_progress(self, run: _Run) -> None:
        if run.job is not None and run.job.state is JobState.RUNNING:
            self._on_progress(self.live(run.job))

    def _bytes_to_come(self, device: int, *, besides: int) -> int:
        """Bytes that other running jobs will still write to a file system; any thread may ask."""
        total = 0
        for job_id, run in list(self._runs.items()):
            if job_id == besides or run.attempt is None:
                continue
            job, meter = run.attempt.job, run.attempt.meter
            found = files.inode_of(job.spec.root)
            if found is not None and found[0] == device and meter.total is not None:
                total += max(0, meter.total - meter.bytes_done)
        return total

    def _pump(self) -> None:
        while not self._draining and len(self._runs) < self._settings.max_parallel_downloads:
            job_id = self._queue.pop()
            if job_id is None:
                return
            if job_id not in self._runs:  # else its old run is just ending, and pokes again
                run = self._runs[job_id] = _Run()
                run.task = self._spawn(self._try(job_id, run))

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _try(self, job_id: int, run: _Run) -> None:
        try:
            job = await self._jobs.begin(job_id, has_secrets=job_id in self.credentials)
            if job.state is JobState.RUNNING and job.stage is Stage.CONNECTING:
                run.job = job
                run.attempt = self._attempt(job, run)
                job = await self._carry_through(run.attempt)
        except ServerDrainingException:
            return
        except Exception:
            _log.exception("download %s: its end could not be recorded", job_id)
            self._recover_later(job_id)
            self._loop.call_soon(self._pump)
            return
        finally:
            del self._runs[job_id]
        self.poke(job)

    def _recover_later(self, job_id: int) -> None:
        self._clock.call_later(_RECOVER_S, lambda: self._spawn(self._recover(job_id)))

    async def _recover(self, job_id: int) -> None:
        """Take up a job again whose row could not be written (a full disk), as a new process would."""
        if self._draining or job_id in self._runs:
            return
        has_secrets = job_id in self.credentials
        try:
            job = await self._jobs.get(job_id)
            if await self._tries.finished([job]):
                self.poke(await self._change(job_id, completed))
            else:
                self.poke(await self._change(job_id, lambda job: restored(job, has_secrets=has_secrets)))
        except (UnknownJobIDException, ServerDrainingException):
            return
        except Exception:
            _log.exception("download %s: its row still cannot be written", job_id)
            self._recover_later(job_id)

    async def _carry_through(self, attempt: Attempt) -> Job:
        """Run one try and record what came of it; returns the job afterwards."""
        job = attempt.job
        _log.info("download %s runs (try %s)", job.id, job.attempt, extra={"download_id": job.id})
        try:
            await self._tries.run(attempt)
        except (Stopped, ServerDrainingException):
            return attempt.job if self._draining else await self._stopped(job.id)
        except TransientError as error:
            return await self._retry(job.id, error, attempt)
        except StartOver as error:
            return await self._start_over(job.id, error, attempt)
        except ModelkeepError as error:
            if job.has_served and may_be_one_nodes(error):
                passing = TransientError(error.message, metadata=error.metadata, final=error)
                return await self._retry(job.id, passing, attempt)
            return await self._failed(job.id, error, waits=job.has_served and waits_for_somebody(error))
        except OSError as error:
            if (unusable := files.unusable_name(error)) is not None:
                return await self._failed(job.id, unusable)
            _log.exception("download %s: the file system fails", job.id)
            text = f"the file system fails: {error.strerror or type(error).__name__}"
            return await self._failed(job.id, ModelkeepError(text, metadata={"id": str(job.id)}))
        except Exception:
            _log.exception("download %s: unexpected error", job.id)
            return await self._failed(job.id, ModelkeepError("unexpected error; the log has it"))
        await self._tries.discard(attempt.job.staging)
        _log.info("download %s completed", job.id, extra={"download_id": job.id})
        return await self._change(job.id, completed)

    async def _retry(self, job_id: int, error: TransientError, attempt: Attempt) -> Job:
        """Wait and try again, unless too many tries in a row gained nothing."""
        failures, most = self._failures.get(job_id, (0, 0))
        # Bytes that it had before, lost by starting over, are no gain: a source may do that for ever.
        failures = 1 if attempt.reached > most else failures + 1
        self._failures[job_id] = (failures, max(most, attempt.reached))
        limits = self._settings
        tries = limits.max_attempts
        if error.tries is not None and not attempt.job.final_url:  # it has never answered
            tries = min(tries, error.tries)
        counts = {"attempts": str(failures), "max_attempts": str(tries)}
        problem = UpstreamUnavailableException(
            error.message,
            metadata={"remedy": _REACH_THE_SOURCE, "peer": _peer(attempt.job), **counts, **error.metadata},
        )
        if failures >= tries:
            # What is there is still good, as far as anybody knows: it may go on when the source is back.
            return await self._failed(job_id, error.final or problem, waits=attempt.job.has_served)
        asked = min(error.retry_after or 0.0, limits.max_retry_after_s)
        delay = wait_after(failures, limits.retry_base_s, limits.retry_cap_s, asked_s=asked)
        return await self._wait_for_retry(job_id, problem, delay)

    async def _start_over(self, job_id: int, error: StartOver, attempt: Attempt) -> Job:
        attempt.forget_bytes()
        try:
            await self._change(
                job_id, lambda job: job if job.state.terminal else started_over(job, changed=error.changed)
            )
        except ModelkeepError as twice:
            return await self._failed(job_id, twice)
        return await self._retry(job_id, TransientError(error.message), attempt)

    async def _wait_for_retry(self, job_id: int, problem: ModelkeepError, delay: float) -> Job:
        failure = Failure.of(problem, retry_time=self._clock.time() + delay)

        def wait(job: Job) -> Job:
            if job.state is not JobState.RUNNING or job.stage in (Stage.PAUSING, Stage.CANCELLING):
                return job
            return replace(job, stage=Stage.WAITING, failure=failure, bytes_per_second=0)

        job = await self._change(job_id, wait)
        if job.stage is Stage.WAITING and not self._draining:
            self._timers[job_id] = self._clock.call_later(delay, lambda: self._spawn(self._due(job_id)))
        return job

    async def _due(self, job_id: int) -> None:
        self._timers.pop(job_id, None)
        with contextlib.suppress(UnknownJobIDException, ServerDrainingException):
            job = await self._jobs.get(job_id)  # its priority may be new
            if job.state is JobState.RUNNING and job.stage is Stage.WAITING:
                self._queue.put(job_id, job.priority, job.enqueue_order)
                self._pump()

    async def _stopped(self, job_id: int) -> Job:
        """The thread has ended because it was told to: record the pause, or clean up and cancel."""
        return await self._cleaned_up(await self._change(job_id, stopped))

    async def _cleaned_up(self, job: Job) -> Job:
        """Cancel a job without a thread, if its row asks for that; returns it afterwards."""
        if job.stage is not Stage.CANCELLING:
            return job
        await self._tries.discard(job.staging)
        return await self._change(job.id, cancelled)

    async def _wind_up(self, job_id: int) -> None:
        if job_id in self._runs:
            return
        with contextlib.suppress(UnknownJobIDException, ServerDrainingException):
            # It may have been started again since: then there is nothing to do.
            job = await self._change(job_id, lambda job: stopped(job) if job.stage is Stage.PAUSING else job)
            self.poke(await self._cleaned_up(job))

    async def _failed(self, job_id: int, error: ModelkeepError, *, waits: bool = False) -> Job:
        """Record an error; `waits`: the job pauses in place of ending, if it has good bytes."""
        job = await self._jobs.get(job_id)
        failure = Failure.of(error)
        failure = replace(failure, metadata={"source": job.spec.source, **failure.metadata})
        # Nothing is wrong with what is there: keep it until there is room, or what is missing was brought.
        waits = job.resumable and (waits or isinstance(error, DiskFullException))
        quarantined = "quarantined_path" in error.metadata
        keep = waits or (job.preserve_partial and job.resumable) or quarantined
        if not keep:
            await self._tries.discard(job.staging)

        def fail(job: Job) -> Job:
            if job.stage is Stage.CANCELLING:
                return job
            if waits:
                return replace(job, state=JobState.PAUSED, stage=Stage.NONE, failure=failure)
            return replace(
                ended(job, JobState.ERROR, failure),
                staging=job.staging if keep else "",
                validator="" if quarantined else job.validator,
            )

        job = await self._change(job_id, fail)
        if job.state is JobState.ERROR:
            _log.info("download %s failed: %s", job_id, error.reason, extra={"download_id": job_id})
        return await self._cleaned_up(job)


def _peer(job: Job) -> str:
    return origin_of(job.spec.source).host or job.spec.source
