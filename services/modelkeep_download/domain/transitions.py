"""How a job goes from state to state: what each call does to it, and what each step of its run. Pure."""

from __future__ import annotations

from dataclasses import replace

from modelkeep.exceptions import SourceChangedException, WrongStateException
from modelkeep_download.domain.job import Failure, Job, JobState, SecretKind, Stage, token_required
from modelkeep_download.domain.ranges import ByteRanges


def _wrong_state(job: Job, verb: str, *, also: tuple[JobState, ...] = ()) -> WrongStateException:
    allowed = (*(state for state in JobState if not state.terminal), *also)
    return WrongStateException(
        f"download {job.id} is {job.state.value} and cannot be {verb}",
        metadata={
            "id": str(job.id),
            "state": job.state.value.upper(),
            "allowed": ",".join(state.value.upper() for state in allowed),
        },
    )


def to_start(job: Job, order: int) -> Job:
    """StartDownload: IDLE and PAUSED join the queue; ENQUEUED and RUNNING stay as they are.

    Raises:
        WrongStateException: The job has ended, or is on its way to CANCELLED.
    """
    if job.state.terminal or job.stage is Stage.CANCELLING:
        raise _wrong_state(job, "started; create a new one")
    if job.state in (JobState.ENQUEUED, JobState.RUNNING) and job.stage is not Stage.PAUSING:
        return job
    return replace(
        job, state=JobState.ENQUEUED, stage=Stage.NONE, failure=None, enqueue_order=order, attempt=0
    )


def to_pause(job: Job) -> Job:
    """PauseDownload: RUNNING stops soon (stage PAUSING), ENQUEUED is PAUSED at once, IDLE stays IDLE.

    One that is PAUSED for want of room does not go on by itself any more.

    Raises:
        WrongStateException: The job has ended, or is on its way to CANCELLED.
    """
    if job.state.terminal or job.stage is Stage.CANCELLING:
        raise _wrong_state(job, "paused")
    if job.state is JobState.RUNNING:
        return job if job.stage is Stage.PAUSING else replace(job, stage=Stage.PAUSING)
    if job.awaits_room:
        return replace(job, failure=None)
    if job.state in (JobState.PAUSED, JobState.IDLE):
        return job
    return replace(job, state=JobState.PAUSED, stage=Stage.NONE)


def with_room(job: Job) -> Job:
    """The job that paused for want of room, in the queue again, at the place that it had."""
    if not job.awaits_room:
        return job
    return replace(job, state=JobState.ENQUEUED, stage=Stage.NONE, failure=None)


def to_update(
    job: Job,
    *,
    priority: int | None = None,
    preserve_partial: bool | None = None,
    max_bytes_per_second: int | None = None,
) -> Job:
    """UpdateDownload: new values for what is not None.

    Raises:
        WrongStateException: The job has ended.
    """
    if job.state.terminal:
        raise _wrong_state(job, "updated")
    return replace(
        job,
        priority=job.priority if priority is None else priority,
        preserve_partial=job.preserve_partial if preserve_partial is None else preserve_partial,
        max_bytes_per_second=job.max_bytes_per_second
        if max_bytes_per_second is None
        else max_bytes_per_second,
    )


def to_cancel(job: Job) -> Job:
    """CancelDownload: what has no files and no thread ends at once, the rest goes through CANCELLING.

    Raises:
        WrongStateException: The job is COMPLETED or ERROR.
    """
    if job.state is JobState.CANCELLED or job.stage is Stage.CANCELLING:
        return job
    if job.state.terminal:
        raise _wrong_state(job, "cancelled", also=(JobState.CANCELLED,))
    if job.state is JobState.RUNNING or job.staging:
        return replace(job, stage=Stage.CANCELLING)
    return ended(job, JobState.CANCELLED)


def to_fail(job: Job, verdict: Failure) -> Job:
    """FailDownload: as a cancel, though the job ends as ERROR.

    Raises:
        WrongStateException: The job is COMPLETED or CANCELLED, or has another error.
    """
    failed_so = job.failure is not None and job.failure.reason == verdict.reason
    if job.stage is Stage.CANCELLING or (job.state is JobState.ERROR and failed_so):
        return job
    if job.state.terminal:
        raise _wrong_state(job, "failed")
    if job.state is JobState.RUNNING or job.staging:
        return replace(job, stage=Stage.CANCELLING, verdict=verdict)
    return ended(job, JobState.ERROR, verdict)


def check_retry(job: Job) -> None:
    """Make sure that a job can be made anew.

    Raises:
        WrongStateException: It has not ended, or is COMPLETED.
    """
    retried = (JobState.ERROR, JobState.CANCELLED)
    if job.state not in retried:
        raise WrongStateException(
            f"download {job.id} is {job.state.value} and cannot be made anew",
            metadata={
                "id": str(job.id),
                "state": job.state.value.upper(),
                "allowed": ",".join(state.value.upper() for state in retried),
            },
        )


def check_over(job: Job) -> None:
    """Make sure that a job can be forgotten.

    Raises:
        WrongStateException: It has not ended.
    """
    if not job.state.terminal:
        raise WrongStateException(
            f"download {job.id} is {job.state.value} and cannot be forgotten; cancel it first",
            metadata={
                "id": str(job.id),
                "state": job.state.value.upper(),
                "allowed": ",".join(state.value.upper() for state in JobState if state.terminal),
            },
        )


def begun(job: Job, sequence: int, *, has_secrets: bool = True) -> Job:
    """The job with a slot, about to ask its source; unchanged if it is not its turn any more.

    Args:
        sequence: Its number if it comes off the queue.
        has_secrets: Whether this process knows the job's secrets; without, it waits for them.
    """
    enqueued = job.state is JobState.ENQUEUED and job.stage is Stage.NONE
    waiting = job.state is JobState.RUNNING and job.stage is Stage.WAITING
    if not enqueued and not waiting:
        return job
    if job.secret is not SecretKind.NONE and not has_secrets and not job.complete:
        return paused_for_token(job)
    return replace(
        job,
        state=JobState.RUNNING,
        stage=Stage.CONNECTING,
        attempt=job.attempt + 1,
        job_sequence=sequence if enqueued else job.job_sequence,
        # Of a job that tries again the last failure stays told until its source answers.
        failure=replace(job.failure, retry_time=None) if waiting and job.failure is not None else None,
    )


def stopped(job: Job) -> Job:
    """The job whose try ended because it was told to stop; a cancel has yet to clean up."""
    if job.state is not JobState.RUNNING or job.stage is Stage.CANCELLING:
        return job
    if job.stage is Stage.PAUSING:
        return replace(job, state=JobState.PAUSED, stage=Stage.NONE, failure=None)
    # It made room for another; or it was paused and started again, and the stop reached a later try.
    return replace(job, state=JobState.ENQUEUED, stage=Stage.NONE)


def keeps_partial(job: Job) -> bool:
    """Whether the partial file of a job stays when the job ends now."""
    return job.preserve_partial and job.resumable and (job.stage is not Stage.CANCELLING or bool(job.verdict))


def cancelled(job: Job) -> Job:
    """The job that a caller ends, now that nothing of it is left but what is to stay."""
    if job.stage is not Stage.CANCELLING:
        return job
    state = JobState.CANCELLED if job.verdict is None else JobState.ERROR
    staging = job.staging if keeps_partial(job) else ""
    return replace(ended(job, state, job.verdict), staging=staging, verdict=None)


def paused_for_token(job: Job) -> Job:
    """The job, waiting until StartDownload brings its secrets anew."""
    return replace(job, state=JobState.PAUSED, stage=Stage.NONE, failure=Failure.of(token_required(job)))


def restored(job: Job, *, has_secrets: bool = False) -> Job:
    """A job that has not ended, as a new process takes it over: without threads and (as a rule) secrets."""
    if job.stage is Stage.CANCELLING:
        return job
    if job.stage is Stage.PAUSING:
        return replace(job, state=JobState.PAUSED, stage=Stage.NONE, failure=None)
    if job.state not in (JobState.RUNNING, JobState.ENQUEUED):
        return job
    if job.secret is not SecretKind.NONE and not has_secrets and not job.complete:
        return paused_for_token(job)
    return replace(job, state=JobState.ENQUEUED, stage=Stage.NONE, failure=None)


def completed(job: Job) -> Job:
    """The job with its file at its destination."""
    path = str(job.target)
    return replace(ended(job, JobState.COMPLETED), delivered_path=path, staging="", staged_inode=None)


def at_stage(job: Job, stage: Stage) -> Job:
    """The job at a stage of its run; a pause or cancel that was asked for meanwhile stays asked for."""
    if job.state is not JobState.RUNNING or job.stage in (Stage.PAUSING, Stage.CANCELLING):
        return job
    return replace(job, stage=stage)


def started_over(job: Job, *, changed: bool) -> Job:
    """The job with nothing fetched, since what it had cannot be gone on with.

    Raises:
        SourceChangedException: The object changed for the second time.
    """
    job = replace(
        job,
        have=ByteRanges(),
        boot="",
        object_id="",
        validator="",
        restarts=job.restarts + 1,
        changes=job.changes + (1 if changed else 0),
    )
    if job.changes > 1:
        raise SourceChangedException(
            f"the object behind {job.spec.source} changed {job.changes} times while it was fetched",
            metadata={"source": job.spec.source, "changes": str(job.changes)},
            remedy="Try again later; where expected_sha256 is given, that alone decides.",
        )
    return job


def adopted(job: Job, leftover: Job) -> Job:
    """A new job that goes on from the partial file that a failed one left.

    At least the last byte is fetched again: the source must give this job the same object, too, which
    it may refuse to one without the token of the other.
    """
    most = (leftover.bytes_total or 0) - 1
    return replace(
        job,
        staging=leftover.staging,
        have=leftover.have.below(most),
        boot=leftover.boot,
        bytes_total=leftover.bytes_total,
        validator=leftover.validator,
    )


def ended(job: Job, state: JobState, failure: Failure | None = None) -> Job:
    """The job at its end."""
    return replace(job, state=state, stage=Stage.NONE, failure=failure, bytes_per_second=0)


def stamped(job: Job, before: Job, now: float, revision: int) -> Job:
    """The job as changed now, from what it was before."""
    begins = job.state is JobState.RUNNING and job.start_time is None
    ends = job.state.terminal and not before.state.terminal
    return replace(
        job,
        start_time=now if begins else job.start_time,
        end_time=now if ends else job.end_time,
        update_time=now,
        version=before.version + 1,
        revision=revision,
    )
