"""What the end of a try means: the file is there, it goes on later, it waits for somebody, or it failed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from modelkeep.backoff import wait_after
from modelkeep.exceptions import (
    DiskFullException,
    ModelkeepError,
    ServerDrainingException,
    UpstreamUnavailableException,
)
from modelkeep_common.urls import origin_of
from modelkeep_download.config import DownloadSettings
from modelkeep_download.domain.job import Failure, Job, JobState, Stage
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
    keeps_partial,
    started_over,
    stopped,
)
from modelkeep_download.engine import files
from modelkeep_download.engine.attempt import Attempt
from modelkeep_download.engine.ports import Clock, Jobs, Tries
from modelkeep_download.engine.stops import Stopped

_log = logging.getLogger(__name__)
_REACH_THE_SOURCE = "Check the address, and that its host can be reached from here; or try again later."


class Change(Protocol):
    """Applies a transition to a job, in its row and wherever it is known; the job afterwards."""

    async def __call__(self, job_id: int, transition: Callable[[Job], Job], *, synced: bool = True) -> Job:
        """See `modelkeep_download.engine.ports.Jobs.change`."""


class Outcomes:
    """Records what comes of tries. Belongs to the event loop.

    Args:
        change: How a job changes.
    """

    def __init__(
        self, jobs: Jobs, tries: Tries, clock: Clock, settings: DownloadSettings, change: Change
    ) -> None:
        self._jobs, self._tries, self._clock, self._settings = jobs, tries, clock, settings
        self._change = change
        #: By job id: tries in a row that gained nothing, and the most bytes that it ever had.
        self._failures: dict[int, tuple[int, int]] = {}
        #: Whether tries that are told to stop leave their rows as they are, for the next process.
        self.draining = False

    def forget(self, job_id: int) -> None:
        """Whatever a job tries next, it tries for the first time."""
        self._failures.pop(job_id, None)

    async def carry_through(self, attempt: Attempt) -> Job:
        """Run one try and record what came of it; returns the job afterwards."""
        job = attempt.job
        _log.info("download %s runs (try %s)", job.id, job.attempt, extra={"download_id": job.id})
        try:
            await self._tries.run(attempt)
        except (Stopped, ServerDrainingException):
            return attempt.job if self.draining else await self._stopped(attempt)
        except TransientError as error:
            return await self._retry(attempt, error)
        except StartOver as error:
            return await self._start_over(attempt, error)
        except ModelkeepError as error:
            if job.has_served and may_be_one_nodes(error):
                passing = TransientError(error.message, metadata=error.metadata, final=error)
                return await self._retry(attempt, passing)
            return await self._failed(attempt, error, waits=job.has_served and waits_for_somebody(error))
        except OSError as error:
            if (unusable := files.unusable_name(error)) is not None:
                return await self._failed(attempt, unusable)
            _log.exception("download %s: the file system fails", job.id)
            text = f"the file system fails: {error.strerror or type(error).__name__}"
            return await self._failed(attempt, ModelkeepError(text, metadata={"id": str(job.id)}))
        except Exception:
            _log.exception("download %s: unexpected error", job.id)
            return await self._failed(attempt, ModelkeepError("unexpected error; the log has it"))
        await self._tries.discard(attempt.job.staging)
        _log.info("download %s completed", job.id, extra={"download_id": job.id})
        return await self._change(job.id, completed)

    async def _retry(self, attempt: Attempt, error: TransientError) -> Job:
        """Wait and try again, unless too many tries in a row gained nothing."""
        job_id = attempt.job.id
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
            return await self._failed(attempt, error.final or problem, waits=attempt.job.has_served)
        asked = min(error.retry_after or 0.0, limits.max_retry_after_s)
        delay = wait_after(failures, limits.retry_base_s, limits.retry_cap_s, asked_s=asked)
        return await self._wait_for_retry(attempt, problem, delay)

    async def _start_over(self, attempt: Attempt, error: StartOver) -> Job:
        attempt.forget_bytes()
        try:
            await self._change(
                attempt.job.id,
                lambda job: job if job.state.terminal else started_over(job, changed=error.changed),
            )
        except ModelkeepError as twice:
            return await self._failed(attempt, twice)
        return await self._retry(attempt, TransientError(error.message))

    async def _wait_for_retry(self, attempt: Attempt, problem: ModelkeepError, delay: float) -> Job:
        failure = Failure.of(problem, retry_time=self._clock.time() + delay)

        def wait(job: Job) -> Job:
            if job.state is not JobState.RUNNING or job.stage in (Stage.PAUSING, Stage.CANCELLING):
                return job
            job = attempt.noted(job)
            return replace(job, stage=Stage.WAITING, failure=failure, bytes_per_second=0)

        return await self._change(attempt.job.id, wait)

    async def _stopped(self, attempt: Attempt) -> Job:
        """The thread has ended because it was told to: record the pause, or clean up and cancel."""
        job_id = attempt.job.id
        return await self.cleaned_up(await self._change(job_id, lambda job: stopped(attempt.noted(job))))

    async def cleaned_up(self, job: Job) -> Job:
        """End a job without a thread, if its row asks for that; returns it afterwards."""
        if job.stage is not Stage.CANCELLING:
            return job
        if not keeps_partial(job):
            await self._tries.discard(job.staging)
        # Not synced: that it is to be cancelled outlives a power cut already.
        return await self._change(job.id, cancelled, synced=False)

    async def _failed(self, attempt: Attempt, error: ModelkeepError, *, waits: bool = False) -> Job:
        """Record an error; `waits`: the job pauses in place of ending, if it has good bytes."""
        job_id = attempt.job.id
        job = attempt.noted(await self._jobs.get(job_id))
        failure = Failure.of(error)
        failure = replace(failure, metadata={"source": job.spec.source, **failure.metadata})
        # Nothing is wrong with what is there: keep it until there is room, or what is missing was brought.
        waits = job.resumable and (waits or isinstance(error, DiskFullException))
        quarantined = "quarantined_path" in error.metadata
        keep = waits or keeps_partial(job) or quarantined
        if not keep:
            await self._tries.discard(job.staging)

        def fail(job: Job) -> Job:
            job = attempt.noted(job)
            if job.stage is Stage.CANCELLING:
                return job
            if waits and job.stage is Stage.PAUSING and isinstance(error, DiskFullException):
                return stopped(job)  # who paused it does not want it to go on when there is room
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
        return await self.cleaned_up(job)


def _peer(job: Job) -> str:
    return origin_of(job.spec.source).host or job.spec.source
