"""What a download job is, and which states it has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from modelkeep.exceptions import (
    AddressExpiredException,
    DestinationExistsException,
    DiskFullException,
    EtagMismatchException,
    ModelkeepError,
    TokenRequiredException,
    UnknownJobIDException,
)
from modelkeep.source_tokens import HostPattern
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
    #: Being ended by a caller: as CANCELLED, or, with a verdict, as ERROR.
    CANCELLING = "cancelling"


class SourceKind(StrEnum):
    """What the source is."""

    URL = "url"
    PATH = "path"
    #: Several addresses, whose files make up one folder.
    FILES = "files"


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
class RemoteSpec:
    """What a hub was asked for, as it was found when the job was made."""

    #: In its shortest spelling, without secrets.
    source: str
    #: The one that was chosen; may be empty.
    variant: str = ""
    #: Which the files are of.
    revision: str = ""


@dataclass(frozen=True, slots=True)
class FileSpec:
    """One file of several that make up one download."""

    #: The URL, which has no secrets.
    source: str
    #: Where it goes beneath the destination: safe components with "/" between them.
    path: str
    #: Lowercase hexadecimal; empty where none is expected.
    expected_sha256: str = ""
    #: Bytes that it must have; None where the caller does not say.
    size: int | None = None
    #: A file of this host that may have what is expected: absolute; empty for none.
    local_copy: str = ""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What has turned out about one file of several."""

    #: None while unknown.
    bytes_total: int | None = None
    #: Of the delivered file; empty before.
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class FileStanding:
    """How far one file of several is."""

    path: str
    bytes_done: int
    #: None while unknown.
    bytes_total: int | None = None


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a caller asks for, checked and without secrets."""

    queue: str
    kind: SourceKind
    #: The URL without its secrets, or the absolute local path; of several files, the first one's URL.
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
    #: Of SourceKind.FILES, all of them; of the other kinds none.
    files: tuple[FileSpec, ...] = ()
    #: Whether a plain file at the destination gives way to the one that is brought.
    replace_existing: bool = False
    #: Bytes a second at first; 0 for no limit of its own.
    max_bytes_per_second: int = 0
    #: Of what a hub was asked for; `kind`, `source` and `files` are what that came to.
    remote: RemoteSpec | None = None
    #: Of one file: bytes that it must have; None where nobody says.
    size: int | None = None
    #: Of one file: as in `FileSpec`.
    local_copy: str = ""


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
    #: 0 for no limit of its own.
    max_bytes_per_second: int = 0
    #: Bytes of the partial file that are durable; while a try is under way, those that it began with.
    have: ByteRanges = field(default_factory=ByteRanges)
    #: Which run of the machine `have` is true in, where some of it is not on the disk yet; "": it all is.
    boot: str = ""
    #: How many bytes the running transfer has written besides; never stored.
    in_flight: int = 0
    #: Of several files those that are under way, the first of them; never stored.
    standing: tuple[FileStanding, ...] = ()
    #: All of `spec.files`, in their order, where that was asked for; never stored.
    every_standing: tuple[FileStanding, ...] = ()
    #: None while unknown.
    bytes_total: int | None = None
    bytes_per_second: int = 0
    #: Folder for the partial file, beneath the root; empty before the first attempt.
    staging: str = ""
    #: Tells this object from another that was fetched into the same partial file before; "" at first.
    object_id: str = ""
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
    #: How many files there are in `spec.files`, told also where these are not.
    file_count: int = 0
    #: Of `spec.files`, in their order; empty before anything is known.
    file_facts: tuple[FileFacts, ...] = ()
    attempt: int = 0
    #: How often the transfer began again at the first byte.
    restarts: int = 0
    #: How often the object was another one than before.
    changes: int = 0
    failure: Failure | None = None
    #: At stage CANCELLING: what a caller has failed it with, so that it ends as ERROR.
    verdict: Failure | None = None
    #: The job that this one is a retry of; 0 for none.
    retry_of: int = 0
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
        told_beside = self.spec.kind is SourceKind.FILES  # of each file
        return self.bytes_done > 0 and (bool(self.validator) or hash_decides or told_beside)

    @property
    def has_served(self) -> bool:
        """Whether its address has served this very job bytes that are still good."""
        return self.resumable and bool(self.final_url)

    @property
    def awaits_address(self) -> bool:
        """Whether its address ran out, and it, or a retry of it, takes any other."""
        reason = self.failure.reason if self.failure is not None else ""
        return self.state in (JobState.PAUSED, JobState.ERROR) and reason == AddressExpiredException.reason

    @property
    def awaits_room(self) -> bool:
        """Whether it is paused since its disk was full, and goes on by itself when there is room."""
        reason = self.failure.reason if self.failure is not None else ""
        return self.state is JobState.PAUSED and reason == DiskFullException.reason

    @property
    def known_target(self) -> Path | None:
        """Where the file goes, as soon as its name is known; of several files, their folder."""
        named = self.name or self.spec.filename or not self.spec.destination_is_folder
        return self.target if named or self.spec.kind is SourceKind.FILES else None

    @property
    def target(self) -> Path:
        """Where the file goes, which needs `name` where the destination is a folder; else their folder."""
        if not self.spec.destination_is_folder or self.spec.kind is SourceKind.FILES:
            return self.spec.destination
        return self.spec.destination / (self.spec.filename or self.name)

    @property
    def targets(self) -> tuple[Path, ...]:
        """Where each file goes, as far as its name is known."""
        if self.spec.kind is SourceKind.FILES:
            return tuple(self.spec.destination / file.path for file in self.spec.files)
        return () if self.known_target is None else (self.known_target,)


def destination_promised(job: Job, wanted: Collection[str]) -> DestinationExistsException:
    """The error for destinations of which another job, which has not ended, is to bring one."""
    path = next(text for text in map(str, job.targets) if text in wanted)
    way = "Start" if job.state is JobState.PAUSED else "Wait for"
    return DestinationExistsException(
        f"download {job.id}, which is {job.state.value}, is to bring a file to {path} already",
        metadata={"path": path, "id": str(job.id)},
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
    when, what = ("it ended", "Retry") if job.state.terminal else ("the service restarted", "Start")
    remedy, host = f"{what} the download with {job.secret.value}.", str(HostPattern.of_url(job.spec.source))
    if not job.secret.in_url:
        remedy = f"{remedy} Or keep a token for its host, and {what.lower()} it: modelkeep auth login {host}."
    return TokenRequiredException(
        f"download {job.id} lost its secrets when {when}; {what.lower()} it with {job.secret.value}",
        metadata={
            "id": str(job.id),
            "host": origin_of(job.spec.source).host,
            "needs": job.secret.value,
            "kept_under": host,
            "remedy": remedy,
        },
    )
