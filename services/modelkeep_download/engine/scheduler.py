"""Runs the jobs: who is next, who makes room, when one tries again. Belongs to the event loop.

Rows, threads, files and time are ports (`ports.py`): nothing here waits for the world by itself. Who is next
is for `domain/queue.py` to say, and what the end of a try means for `outcomes.py`.

What a job should do is in its row; calls change the row and then `poke` the scheduler, which makes the
world agree with it. A poke that comes late or twice is harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from modelkeep.exceptions import DiskFullException, ServerDrainingException, UnknownJobIDException
from modelkeep_download.config import DownloadSettings
from modelkeep_download.domain.job import FileStanding, Job, JobState, Stage
from modelkeep_download.domain.limits import Limits
from modelkeep_download.domain.queue import RunQueue
from modelkeep_download.domain.transitions import completed, restored, stopped, to_cancel, with_room
from modelkeep_download.engine import files, piece_map
from modelkeep_download.engine.attempt import Attempt
from modelkeep_download.engine.full_disk import FullDisk
from modelkeep_download.engine.limits import Bandwidth, JobBandwidth
from modelkeep_download.engine.outcomes import Outcomes
from modelkeep_download.engine.ports import Clock, Jobs, Timer, Tries
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transfer import Credentials

T = TypeVar("T")

_log = logging.getLogger(__name__)
_RECOVER_S = 5.0
_MOST_LEFT = 1000
#: Files under way of one job that are told of: what tells them is sent often.
_MOST_TOLD = 16


@dataclass
class _Run:
    """A job that has a slot."""

    stop: StopSignal = field(default_factory=StopSignal)
    #: The job's row, as it was last written by anybody.
    job: Job | None = None
    #: Revision of the row that is being written, or was last: none that is older is told any more.
    revision: int = 0
    attempt: Attempt | None = None
    task: asyncio.Task[None] | None = None

    def know(self, job: Job) -> None:
        """The row was written so; what was written later may be known already."""
        if self.job is None or job.revision >= self.job.revision:
            self.job = job


class Scheduler:
    """Runs the jobs that should run, as many at once as the limits say.

    Args:
        on_progress: Called with a running job whose bytes moved on.
        on_limits: Called with the limits that count from then on.
    """

    def __init__(
        self,
        jobs: Jobs,
        tries: Tries,
        clock: Clock,
        settings: DownloadSettings,
        on_progress: Callable[[Job], None],
        on_limits: Callable[[Limits], None] = lambda limits: None,
    ) -> None:
        self._jobs, self._tries, self._clock, self._settings = jobs, tries, clock, settings
        self._on_progress, self._on_limits = on_progress, on_limits
        self._loop = asyncio.get_running_loop()
        self._queue = RunQueue(settings.max_parallel_downloads)
        self._bandwidth = Bandwidth(settings.max_bytes_per_second)
        self._outcomes = Outcomes(jobs, tries, clock, settings, self._change)
        self._full_disk = FullDisk(tries, clock, settings, self._bytes_to_come, self._go_on, self._spawn)
        self._runs: dict[int, _Run] = {}
        #: The jobs whose tries ended last, as these have left them.
        self._left: dict[int, Job] = {}
        self._timers: dict[int, Timer] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._draining = False
        #: Those that count now.
        self.limits = settings.limits
        #: Secrets by job id: in this process's memory only.
        self.credentials: dict[int, Credentials] = {}

    async def open(self, limits: Limits | None = None) -> None:
        """Bring the jobs of an earlier process in order, and go on with them within the limits."""
        jobs = await self._jobs.unfinished()
        done, there = await self._tries.finished(jobs), await self._tries.recalled(jobs)
        await self._tries.sweep(await self._jobs.staging_folders())

        def restore(job: Job) -> Job:
            if job.id in done:
                return completed(job)
            have = there.get(job.id, job.have)
            boot = job.boot if have == job.have else piece_map.boot_id()
            return restored(replace(job, have=have, boot=boot))

        unlike = [job.id for job in jobs if restore(job) != job]
        try:
            changed = await self._jobs.change_all(unlike, restore)
        except DiskFullException:  # jobs can be cancelled and pruned all the same, which makes room
            _log.exception("the jobs of an earlier process cannot be taken over yet: the disk is full")
            for job_id in unlike:
                self._recover_later(job_id)
            jobs, changed = [job for job in jobs if job.id not in set(unlike)], {}
        for job in jobs:
            self._heed(changed.get(job.id, job))
        self.limit(limits or Limits())

    def limit(self, limits: Limits) -> None:
        """Let these limits count from now on: the worst jobs beyond them go back into the queue."""
        self.limits = limits.over(self._settings.limits)
        self._queue.slots = self.limits.max_parallel_downloads or self._settings.max_parallel_downloads
        self._queue.by_queue = limits.queues
        self._bandwidth.rate = self.limits.max_bytes_per_second or 0
        self._on_limits(self.limits)
        self._pump()

    async def drain(self) -> None:
        """Stop every transfer with its bytes durable; the rows stay as they are, for the next process."""
        self._draining = self._outcomes.draining = True
        self._full_disk.close()
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
        self._heed(job)
        self._pump()

    def poke_all(self, jobs: Iterable[Job]) -> None:
        """As `poke`, of many."""
        for job in jobs:
            self._heed(job)
        self._pump()

    def _heed(self, job: Job) -> None:
        run = self._runs.get(job.id)
        if run is not None:
            run.know(job)
            if run.attempt is not None and run.attempt.bandwidth.rate != job.max_bytes_per_second:
                run.attempt.bandwidth.rate = job.max_bytes_per_second
        stopping = job.stage in (Stage.PAUSING, Stage.CANCELLING)
        if job.state is JobState.ENQUEUED and not stopping:
            self._put(job)
        elif job.state is JobState.RUNNING and not stopping:
            if run is not None or job.id in self._queue:
                self._put(job)
            elif job.stage is Stage.WAITING and job.id not in self._timers:
                self._wait(job)
        else:
            self._queue.discard(job.id)
            self._outcomes.forget(job.id)
            if (timer := self._timers.pop(job.id, None)) is not None:
                timer.cancel()
        if stopping:
            if run is not None:
                run.stop.stop()
            else:
                self._spawn(self._wind_up(job.id))
        if job.state.terminal:
            self.credentials.pop(job.id, None)
        self._full_disk.heed(job)

    def stop_early(self, job_id: int) -> bool:
        """Stop a job that runs before its row says so: a busy database need not be waited for.

        The change of the row must be asked for at once, so that it is written before that of the try's
        end. If it comes to nothing, the job goes back into the queue.

        Returns:
            Whether it runs.
        """
        if (run := self._runs.get(job_id)) is not None:
            run.stop.stop()
        return run is not None

    def live(self, job: Job) -> Job:
        """The job with the bytes that its transfer has written beyond the durable ones, and its rate.

        Any thread may call this.
        """
        left = self._left.get(job.id)
        if left is not None and left.version > job.version:
            return left  # its row was read while its try ended, and does not tell yet what that brought
        run = self._runs.get(job.id)
        if run is None or run.attempt is None or job.state is not JobState.RUNNING:
            return job
        meter = run.attempt.meter
        in_flight = max(0, meter.bytes_done - job.have.size)
        standing = run.attempt.standing(_MOST_TOLD)
        return replace(job, in_flight=in_flight, bytes_per_second=meter.rate(), standing=standing)

    def standing(self, job_id: int) -> tuple[FileStanding, ...]:
        """How far each of the files of a job that runs is; none before it has begun with them."""
        run = self._runs.get(job_id)
        return () if run is None or run.attempt is None else run.attempt.standing(None)

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
        try:
            job = await self._jobs.change(job_id, transition, synced=synced)
        except BaseException:
            self.not_written(job_id)
            raise
        if (run := self._runs.get(job_id)) is not None:
            run.know(job)
            if job.stage is Stage.VERIFYING:  # all that is left is to deliver it
                self._queue.keep(job_id)
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
            moved=moved,
            others_to_come=lambda device: self._bytes_to_come(device, besides=job_id),
            reserve=self._settings.disk_reserve_bytes,
            bandwidth=JobBandwidth(self._bandwidth, job.max_bytes_per_second),
        )

    def writes(self, job: Job) -> bool:
        """A job's row is being written so: no older progress is told from now on. Any thread may call this.

        Returns:
            Whether there may be older progress, since the job runs.
        """
        if (run := self._runs.get(job.id)) is not None:
            run.revision = job.revision
        return run is not None

    def not_written(self, job_id: int) -> None:
        """What `writes` said has come to nothing."""
        if (run := self._runs.get(job_id)) is not None and run.job is not None:
            run.revision = run.job.revision

    def _tell_progress(self, run: _Run) -> None:
        job = run.job
        if job is not None and job.state is JobState.RUNNING and job.revision >= run.revision:
            self._on_progress(self.live(job))

    def _bytes_to_come(self, device: int, *, besides: int = 0) -> int:
        """Bytes that other running jobs will still write to a file system; any thread may ask."""
        total = 0
        for job_id, run in list(self._runs.items()):
            if job_id == besides or run.attempt is None or not (to_come := run.attempt.to_come):
                continue
            found = files.inode_of(run.attempt.job.spec.root)
            if found is not None and found[0] == device:
                total += to_come
        return total

    def _pump(self) -> None:
        """Begin with those who should run and find a slot, and stop those who must make room for them."""
        if self._draining:
            return
        plan = self._queue.plan()
        for job_id in plan.stop:
            _log.info("download %s makes room", job_id, extra={"download_id": job_id})
            self._runs[job_id].stop.stop()
        for job_id in plan.start:
            run = self._runs[job_id] = _Run()
            run.task = self._spawn(self._try(job_id, run))

    def _put(self, job: Job) -> None:
        self._queue.put(job.id, job.spec.queue, job.priority, job.enqueue_order)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _try(self, job_id: int, run: _Run) -> None:
        try:
            job = await self._jobs.begin(job_id, has_secrets=job_id in self.credentials)
            if job.state is JobState.RUNNING and job.stage is Stage.CONNECTING:
                run.know(job)
                run.attempt = self._attempt(job, run)
                job = await self._outcomes.carry_through(run.attempt)
                self._left[job_id] = job
                if len(self._left) > _MOST_LEFT:
                    del self._left[next(iter(self._left))]
        except ServerDrainingException:
            return
        except Exception:
            _log.exception("download %s: its end could not be recorded", job_id)
            self._recover_later(job_id)
            self._loop.call_soon(self._pump)
            return
        finally:
            del self._runs[job_id]
            self._queue.release(job_id)
        self.poke(job)

    # Later.

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

    def _wait(self, job: Job) -> None:
        """Let a job's next try come at its time."""
        due = None if job.failure is None else job.failure.retry_time
        if due is not None and not self._draining:
            delay = max(0.0, due - self._clock.time())
            self._timers[job.id] = self._clock.call_later(delay, lambda: self._spawn(self._due(job.id)))

    async def _due(self, job_id: int) -> None:
        self._timers.pop(job_id, None)
        with contextlib.suppress(UnknownJobIDException, ServerDrainingException):
            job = await self._jobs.get(job_id)  # its priority may be new
            if job.state is JobState.RUNNING and job.stage is Stage.WAITING:
                self._put(job)
                self._pump()

    async def _go_on(self, job_id: int) -> None:
        """There is room for a job again that paused for want of it."""
        with contextlib.suppress(UnknownJobIDException, ServerDrainingException, DiskFullException):
            self.poke(await self._change(job_id, with_room))

    async def _wind_up(self, job_id: int) -> None:
        if job_id in self._runs:
            return
        with contextlib.suppress(UnknownJobIDException, ServerDrainingException):
            # It may have been started again since: then there is nothing to do.
            job = await self._change(job_id, lambda job: stopped(job) if job.stage is Stage.PAUSING else job)
            self.poke(await self._outcomes.cleaned_up(job))
