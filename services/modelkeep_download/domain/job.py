"""What a download job is, and which states it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from modelkeep.exceptions import (
    AddressExpiredException,
    DestinationExistsException,
    EtagMismatchException,
    ModelkeepError,
    TokenRequiredException,
    UnknownJobIDException,
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
        return cls(error.code, error.reason, error.message, error.facts, retry_time)


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
    def resumable(self) -> bool:
        """Whether there are bytes that a later try can go on from."""
        hash_decides = bool(self.spec.expected_sha256) and not self.restarts and self.bytes_total is not None
        return self.bytes_done > 0 and (bool(self.validator) or hash_decides)

    @property
    def has_served(self) -> bool:
        """Whether its address has served this very job bytes that are still good."""
        return self.resumable and bool(self.final_url)

    @property
    def awaits_address(self) -> bool:
        """Whether it is paused since its address ran out, and takes any other."""
        reason = self.failure.reason if self.failure is not None else ""
        return self.state is JobState.PAUSED and reason == AddressExpiredException.reason

    @property
    def known_target(self) -> Path | None:
        """Where the file goes, as soon as its name is known."""
        return self.target if self.name or self.spec.filename or not self.spec.destination_is_folder else None

    @property
    def target(self) -> Path:
        """Where the file goes; needs `name` where the destination is a folder."""
        if not self.spec.destination_is_folder:
            return self.spec.destination
        return self.spec.destination / (self.spec.filename or self.name)


def destination_promised(job: Job) -> DestinationExistsException:
    """The error for a destination that another job, which has not ended, is to bring a file to."""
    way = "Start" if job.state is JobState.PAUSED else "Wait for"
    return DestinationExistsException(
        f"download {job.id}, which is {job.state.value}, is to bring a file to {job.target} already",
        metadata={"path": str(job.target), "id": str(job.id)},
        remedy=f"{way} download {job.id}, or cancel it, or choose another destination.",
    )


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
            "remedy": f"Start the download with {job.secret.value}.",
        },
    )
