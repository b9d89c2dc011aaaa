"""The world of the download scheduler in memory: rows, tries and time that move only when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from modelkeep.exceptions import DiskFullException
from modelkeep_download.config import DownloadSettings
from modelkeep_download.domain.job import Job, JobSpec, JobState, SourceKind, unknown_job
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.transitions import (
    begun,
    stamped,
)
from modelkeep_download.engine.attempt import Attempt
from modelkeep_download.engine.scheduler import Scheduler
from modelkeep_download.engine.stops import Stopped

T = TypeVar("T")


@dataclass
class Timer:
    """What a clock will call."""

    due: float
    callback: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        """See `Timer` of the ports."""
        self.cancelled = True


@dataclass
class FakeClock:
    """A clock that stands still until `pass_`."""

    now: float = 1_000_000.0
    timers: list[Timer] = field(default_factory=list)

    def time(self) -> float:
        """See `Clock`."""
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """See `Clock`."""
        timer = Timer(self.now + seconds, callback)
        self.timers.append(timer)
        return timer

    @property
    def waits(self) -> list[float]:
        """Seconds until each timer that is to come."""
        return sorted(timer.due - self.now for timer in self.timers if not timer.cancelled)

    def pass_(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now += seconds
        due = [timer for timer in self.timers if timer.due <= self.now and not timer.cancelled]
        self.timers = [timer for timer in self.timers if timer.due > self.now]
        for timer in sorted(due, key=lambda timer: timer.due):
            timer.callback()


@dataclass
class MemoryJobs:
    """Rows in a dict; `full` refuses what is written, as a full disk does."""

    clock: FakeClock
    rows: dict[int, Job] = field(default_factory=dict)
    full: bool = False
    sequence: int = 0

    async def get(self, job_id: int) -> Job:
        """See `Jobs`."""
        if job_id not in self.rows:
            raise unknown_job(job_id)
        return self.rows[job_id]

    async def unfinished(self) -> list[Job]:
        """See `Jobs`."""
        return [job for job in self.rows.values() if not job.state.terminal]

    async def staging_folders(self) -> set[str]:
        """See `Jobs`."""
        return {job.staging for job in self.rows.values() if job.staging}

    async def change(self, job_id: int, transition: Callable[[Job], Job], *, synced: bool = True) -> Job:
        """See `Jobs`."""
        before = await self.get(job_id)
        after = transition(before)
        if after != before:
            if self.full:
                raise DiskFullException("no room for the row")
            self.rows[job_id] = stamped(after, before, self.clock.now, before.revision + 1)
        return self.rows[job_id]

    async def change_all(self, ids: Sequence[int], transition: Callable[[Job], Job]) -> dict[int, Job]:
        """See `Jobs`."""
        return {job_id: await self.change(job_id, transition) for job_id in ids}

    async def begin(self, job_id: int, *, has_secrets: bool) -> Job:
        """See `Jobs`."""
        self.sequence += 1
        number = self.sequence
        return await self.change(job_id, lambda job: begun(job, number, has_secrets=has_secrets))


@dataclass
class ScriptedTries:
    """Tries that end when a test ends them, and a file system that only takes note."""

    #: Ids in the order in which their tries began.
    began: list[int] = field(default_factory=list)
    running: dict[int, Attempt] = field(default_factory=dict)
    discarded: list[str] = field(default_factory=list)
    swept: list[set[str]] = field(default_factory=list)
    #: Ids of jobs whose file is at its destination.
    delivered: set[int] = field(default_factory=set)
    closed: bool = False
    #: Bytes that are free on the only file system.
    free: int = 0
    _ends: dict[int, asyncio.Future[None]] = field(default_factory=dict)

    async def run(self, attempt: Attempt) -> None:
        """See `Tries`."""
        job_id = attempt.job.id
        self.began.append(job_id)
        self.running[job_id] = attempt
        self._ends[job_id] = asyncio.get_running_loop().create_future()
        try:
            await self._ends[job_id]
        finally:
            del self.running[job_id], self._ends[job_id]

    def end(self, job_id: int, error: BaseException | None = None) -> None:
        """End a try, with its file delivered or with an error."""
        if error is None:
            self._ends[job_id].set_result(None)
        else:
            self._ends[job_id].set_exception(error)

    def obey(self) -> list[int]:
        """End those that were told to stop, as their threads would; returns their ids."""
        told = [job_id for job_id, attempt in self.running.items() if attempt.stop.is_set]
        for job_id in told:
            self.end(job_id, Stopped())
        return told

    def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """See `Tries`: nothing in memory ever waits."""
        try:
            work.send(None)
        except StopIteration as done:
            result: T = done.value
            return result
        raise AssertionError("it waits for something")

    async def finished(self, jobs: Sequence[Job]) -> set[int]:
        """See `Tries`."""
        return {job.id for job in jobs} & self.delivered

    async def recalled(self, jobs: Sequence[Job]) -> dict[int, ByteRanges]:
        """See `Tries`: nothing but the rows tells of bytes."""
        return {}

    async def discard(self, staging: str) -> None:
        """See `Tries`."""
        if staging:
            self.discarded.append(staging)

    async def sweep(self, known: Collection[str]) -> None:
        """See `Tries`."""
        self.swept.append(set(known))

    async def with_room(
        self, jobs: Sequence[Job], reserve: int, to_come: Callable[[int], int]
    ) -> Sequence[int]:
        """See `Tries`."""
        found, left = [], self.free - reserve
        for job in jobs:
            needed = (job.bytes_total or 0) - job.bytes_done
            if needed <= left:
                left -= needed
                found.append(job.id)
        return found

    def close(self) -> None:
        """See `Tries`."""
        self.closed = True


class World:
    """A scheduler in a world of its own; made on an event loop.

    Args:
        folder: Where files would be.
        settings: As of DownloadSettings.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.jobs = MemoryJobs(self.clock)
        self.tries = ScriptedTries()
        self.progress: list[Job] = []
        values = {"retry_base_s": 10.0, "retry_cap_s": 60.0, "disk_reserve_bytes": 0, **settings}
        self.scheduler = Scheduler(
            self.jobs,
            self.tries,
            self.clock,
            DownloadSettings.for_test(folder, **values),
            self.progress.append,
        )

    def row(self, job_id: int, state: JobState = JobState.ENQUEUED, **fields: Any) -> Job:
        """Put a job's row there, and nothing else."""
        spec = JobSpec(
            queue="",
            kind=SourceKind.URL,
            source="http://h/m.bin",
            destination=self.folder,
            destination_is_folder=True,
            filename=f"{job_id}.bin",
            root=self.folder,
            priority=10,
            preserve_partial=False,
            copy=False,
            expected_sha256="",
            start=True,
        )
        job = Job(id=job_id, spec=spec, state=state, enqueue_order=job_id, name=f"{job_id}.bin")
        self.jobs.rows[job_id] = replace(job, **fields)
        return self.jobs.rows[job_id]

    async def add(self, *job_ids: int, **fields: Any) -> None:
        """Enqueue jobs, and let the scheduler see to them."""
        for job_id in job_ids:
            self.scheduler.poke(self.row(job_id, **fields))
        await self.settle()

    async def call(self, job_id: int, transition: Callable[[Job], Job]) -> Job:
        """Do what a call of the service does to a job; returns it when everything has come to rest."""
        self.scheduler.poke(await self.jobs.change(job_id, transition))
        await self.settle()
        return self.jobs.rows[job_id]

    async def end(self, job_id: int, error: BaseException | None = None) -> Job:
        """End a job's try; returns the job when everything has come to rest."""
        self.tries.end(job_id, error)
        await self.settle()
        return self.jobs.rows[job_id]

    async def wait(self, seconds: float) -> None:
        """Let time pass, and everything come to rest."""
        self.clock.pass_(seconds)
        await self.settle()

    @staticmethod
    async def settle() -> None:
        """Until everything waits for the test: without threads and sockets, a few turns of the loop."""
        for _ in range(50):
            await asyncio.sleep(0)
