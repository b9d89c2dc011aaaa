"""What a download job is, which states it has, and which calls each state allows. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from modelkeep.exceptions import (
    EtagMismatchException,
    ModelkeepError,
    SourceChangedException,
    TokenRequiredException,
    UnknownJobIDException,
    WrongStateException,
)
from modelkeep_common.urls import origin_of
from modelkeep_download.domain.ranges import ByteRanges


class JobState(StrEnum):
    """Where a job is in its life; the values are those of the original's DownloadJobStatus."""

    IDLE = "idle"
    ENQUEUED = "enqueued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether a job in this state never runs again."""
        return self in (JobState.COMPLETED, JobState.ERROR, JobState.CANCELLED)


class Stage(StrEnum):
    """What a job is busy with inside its state; NONE where the state says it all."""

    NONE = ""
    CONNECTING = "connecting"
    TRANSFERRING = "transferring"
    WAITING = "waiting"
    VERIFYING = "verifying"
    PAUSING = "pausing"
    CANCELLING = "cancelling"


class SourceKind(StrEnum):
    """What the source is."""

    URL = "url"
    PATH = "path"


class SecretKind(StrEnum):
    """What a job needs in memory, and loses with the process, before it can ask its source."""

    NONE = ""
    ACCESS_TOKEN = "access_token"
    SOURCE_URL = "source_url"
    BOTH = "source_url, access_token"

    @property
    def in_url(self) -> bool:
        """Whether the address is needed whole."""
        return self in (SecretKind.SOURCE_URL, SecretKind.BOTH)

    @classmethod
    def of(cls, *, url: bool, token: bool) -> SecretKind:
        """The kind for a URL that has secrets in it, a token, both or neither."""
        if url:
            return cls.BOTH if token else cls.SOURCE_URL
        return cls.ACCESS_TOKEN if token else cls.NONE


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed, waits, or pauses by itself; the same words as an RPC's error."""

    code: str
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: When the service tries again by itself, as a Unix time; None if it does not.
    retry_time: float | None = None

    @classmethod
    def of(cls, error: ModelkeepError, *, retry_time: float | None = None) -> Failure:
        """The failure that an exception of the tree stands for."""
        return cls(error.code, error.reason, error.message, dict(error.metadata), retry_time)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a caller asks for, checked and without secrets."""

    queue: str
    kind: SourceKind
    #: The URL without its secrets, or the absolute local path.
    source: str
    #: Absolute path of the file to make, or of the folder to put it in.
    destination: Path
    destination_is_folder: bool
    #: Name inside the folder; empty takes the source's own.
    filename: str
    #: The configured root that the destination lies beneath.
    root: Path
    priority: int
    preserve_partial: bool
    #: For a local path: copy it, where the default moves it.
    copy: bool
    #: Lowercase hexadecimal; empty where none is expected.
    expected_sha256: str
    start: bool
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """One download, as the store has it."""

    id: int
    spec: JobSpec
    state: JobState
    stage: Stage = Stage.NONE
    secret: SecretKind = SecretKind.NONE
    priority: int = 10
    preserve_partial: bool = False
    #: Bytes of the partial file that are durable.
    have: ByteRanges = field(default_factory=ByteRanges)
    #: How many bytes the running transfer has written besides; never stored.
    in_flight: int = 0
    #: None while unknown.
    bytes_total: int | None = None
    bytes_per_second: int = 0
    #: Folder for the partial file, beneath the root; empty before the first attempt.
    staging: str = ""
    #: Strong validator (ETag, or a safe Last-Modified) for If-Range; empty if the source gives none.
    validator: str = ""
    final_url: str = ""
    content_type: str = ""
    #: Name of the file to deliver, once known.
    name: str = ""
    #: (device, inode) of the staged file, from just before it is renamed.
    staged_inode: tuple[int, int] | None = None
    delivered_path: str = ""
    sha256: str = ""
    verified: bool = False
    attempt: int = 0
    #: How often the transfer began again at the first byte.
    restarts: int = 0
    #: How often the object was another one than before.
    changes: int = 0
    failure: Failure | None = None
    #: Order inside one priority; set anew each time that the job joins the queue.
    enqueue_order: int = 0
    job_sequence: int = 0
    create_time: float = 0.0
    start_time: float | None = None
    end_time: float | None = None
    update_time: float = 0.0
    version: int = 1
    #: Revision of the store that the last change of the job made.
    revision: int = 0

    @property
    def etag(self) -> str:
        """Quoted strong validator of this state of the job."""
        return f'"{self.id}-{self.version}"'

    @property
    def bytes_done(self) -> int:
        """How many bytes are there, durable or not."""
        return self.have.size + self.in_flight

    @property
    def complete(self) -> bool:
        """Whether all bytes are here, so that the source need not be asked again."""
        return self.bytes_total is not None and self.bytes_total > 0 and self.bytes_done >= self.bytes_total

    @property
    def target(self) -> Path:
        """Where the file goes; needs `name` where the destination is a folder."""
        if not self.spec.destination_is_folder:
            return self.spec.destination
        return self.spec.destination / (self.spec.filename or self.name)


def unknown_job(job_id: int) -> UnknownJobIDException:
    """The error for an id that no job has."""
    return UnknownJobIDException(f"there is no download with id {job_id}", metadata={"id": str(job_id)})


def check_etag(job: Job, etag: str) -> None:
    """Raise EtagMismatchException unless the etag is empty or the job's own."""
    if etag and etag != job.etag:
        raise EtagMismatchException(
            f"download {job.id} changed since it was read; read it again",
            metadata={"etag": job.etag},
        )


def token_required(job: Job) -> TokenRequiredException:
    """The error for a job whose secrets were lost with the process that had them."""
    return TokenRequiredException(
        f"download {job.id} lost its secrets when the service restarted; start it with {job.secret.value}",
        metadata={
            "id": str(job.id),
            "host": origin_of(job.spec.source).host,
            "needs": job.secret.value,
            "remedy": f"start the download with {job.secret.value}",
        },
    )


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

    Raises:
        WrongStateException: The job has ended, or is on its way to CANCELLED.
    """
    if job.state.terminal or job.stage is Stage.CANCELLING:
        raise _wrong_state(job, "paused")
    if job.state is JobState.RUNNING:
        return job if job.stage is Stage.PAUSING else replace(job, stage=Stage.PAUSING)
    if job.state in (JobState.PAUSED, JobState.IDLE):
        return job
    return replace(job, state=JobState.PAUSED, stage=Stage.NONE)


def to_update(job: Job, *, priority: int | None, preserve_partial: bool | None) -> Job:
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
        failure=None,
    )


def stopped(job: Job) -> Job:
    """The job whose try ended because it was told to stop; a cancel has yet to clean up."""
    if job.state is not JobState.RUNNING or job.stage is Stage.CANCELLING:
        return job
    if job.stage is Stage.PAUSING:
        return replace(job, state=JobState.PAUSED, stage=Stage.NONE, failure=None)
    # Paused and started again, and the stop of that pause has only now reached a later try.
    return replace(job, state=JobState.ENQUEUED, stage=Stage.NONE)


def cancelled(job: Job) -> Job:
    """The job that was to be cancelled, now that nothing of it is left."""
    if job.stage is not Stage.CANCELLING:
        return job
    return replace(ended(job, JobState.CANCELLED), staging="")


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
        validator="",
        restarts=job.restarts + 1,
        changes=job.changes + (1 if changed else 0),
    )
    if job.changes > 1:
        raise SourceChangedException(
            f"the object behind {job.spec.source} changed {job.changes} times while it was fetched",
            metadata={"source": job.spec.source, "changes": str(job.changes)},
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
