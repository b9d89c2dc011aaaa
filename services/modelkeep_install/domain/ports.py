"""What the installer needs of its peers and its store, in its own words; ``peers.py`` speaks gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from modelkeep.exceptions import (
    DeadlineExceededException,
    EarlyAccessException,
    LicenseNotAcceptedException,
    PurchaseRequiredException,
    QueueFullException,
    ServerBusyException,
    TokenRejectedException,
    TokenRequiredException,
    UnavailableException,
)
from modelkeep.model.v1.model_pb2 import Model
from modelkeep.taxonomy import DigestState

from .jobs import Job, JobError, Progress, State
from .plans import Plan, Remote
from .requests import JobFilter

#: What a peer's silence or a full queue raises: the same call may be made again.
TRY_AGAIN = (UnavailableException, ServerBusyException, DeadlineExceededException, QueueFullException)
#: What a hub refuses for want of something that somebody can bring, or do there.
OF_SOMEBODY = (
    *(TokenRequiredException, TokenRejectedException, LicenseNotAcceptedException),
    *(PurchaseRequiredException, EarlyAccessException),
)


@dataclass(frozen=True, slots=True)
class RecordFile:
    """One file in a record."""

    path: str
    size_bytes: int
    modify_time: float
    sha256: str = ""
    blake3: str = ""
    state: DigestState = DigestState.Pending


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A record as RecordService answered it. ``message`` is opaque here: the serialised resource."""

    key: str
    etag: str
    path: str
    root_id: str
    message: bytes
    revision: int = 0
    source: str = ""
    #: The sampled hash of what was installed.
    original_hash: str = ""
    current_hash: str = ""
    size_bytes: int = 0


class RecordPort(Protocol):
    """RecordService. Every method may raise one of TRY_AGAIN."""

    async def create(self, model: Model, files: Sequence[RecordFile], request_id: str) -> StoredModel:
        """Stores a record; the same request_id answers with the same record."""

    async def get(self, key: str) -> StoredModel:
        """One record; UnknownModelException if there is none."""

    async def find(
        self, *, paths: Sequence[str] = (), root_id: str = "", source: str = "", hash: str = ""
    ) -> list[StoredModel]:
        """The records, at most 16, that have one of these paths, this source, or this hash or digest."""

    async def all(self) -> list[StoredModel]:
        """Every record, as far as where it lies; ``message`` is empty."""

    async def files(self, key: str) -> list[RecordFile]:
        """All files of a record; none if it has gone."""

    async def replace_files(self, key: str, files: Sequence[RecordFile], request_id: str) -> None:
        """Puts a complete list of files in place of a record's."""

    async def relink(
        self, model: StoredModel, path: str, root_id: str, files: Sequence[RecordFile]
    ) -> StoredModel:
        """Puts another place, and the files there, into the record; EtagMismatchException if that changed."""

    async def delete(self, key: str, etag: str, request_id: str) -> int:
        """Deletes a record; answers with the revision that this made."""


class Place(NamedTuple):
    """Where a record says that its model is, and whether it is noted there that the files are gone."""

    path: str
    root_id: str
    missing: bool


class RecordNews(NamedTuple):
    """What changed in the records, and the place after that in their history."""

    resume_token: str
    #: Whether all records have been told by now.
    complete: bool
    places: Mapping[str, Place]
    removed: Sequence[str]


class Mark(NamedTuple):
    """What was seen of a model's files, and where."""

    key: str
    path: str
    root_id: str
    missing: bool


class FollowedRecords(Protocol):
    """RecordService, as far as it tells where models are."""

    def follow(self, resume_token: str) -> AsyncIterator[RecordNews]:
        """Where the models are, then what changes; from a place on if one is given."""

    async def mark(self, marks: Sequence[Mark]) -> int:
        """Notes whose files are gone or there again, at most 1,000; answers with how many that changed."""


@dataclass(frozen=True, slots=True)
class LeaseHeld:
    """A lease on a model: its name, and who has it, for people."""

    id: str
    holder: str


class LeasePort(Protocol):
    """LoaderService, as far as it is asked who uses a model."""

    async def leases(self, key: str) -> list[LeaseHeld] | None:
        """The leases that hold a model; None if nobody can tell."""


class DownloadState(StrEnum):
    """Where a download stands."""

    IDLE = "idle"
    ENQUEUED = "enqueued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class DownloadStatus:
    """A download as DownloadService reports it."""

    id: int
    state: DownloadState
    path: str = ""
    progress: Progress = field(default_factory=Progress)
    error: JobError | None = None
    attempt: int = 0
    #: Of the delivered file.
    sha256: str = ""
    #: SHA-256 of each of several files by its path; told of a download that is asked for by its id.
    digests: Mapping[str, str] = field(default_factory=dict)
    #: What the order was labelled with.
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OrderedFile:
    """One file of a download of several; ``path`` is beneath its folder."""

    url: str
    path: str
    size_bytes: int | None = None
    sha256: str = ""
    local_copy: str = ""


@dataclass(frozen=True, slots=True)
class DownloadOrder:
    """A download to make: of one address, or of several files.

    ``url`` and ``access_token`` may hold secrets: they are never stored here.
    """

    url: str
    folder: str
    access_token: str
    expected_sha256: str
    priority: int | None
    request_id: str
    #: Name of the file in the folder; empty for the one that its source gives.
    filename: str = ""
    files: tuple[OrderedFile, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DownloadNews:
    """One frame of the watch over the installer's downloads."""

    resume_token: str
    statuses: tuple[DownloadStatus, ...] = ()
    removed: tuple[int, ...] = ()


class DownloadPort(Protocol):
    """DownloadService. Every method may raise one of TRY_AGAIN."""

    async def resolve(self, remote: Remote, access_token: str) -> Plan:
        """What a source at a hub comes to; raises what the hub says against it."""

    async def create(self, order: DownloadOrder) -> DownloadStatus:
        """Makes a download; the same request_id answers with the same one."""

    async def get(self, download_id: int) -> DownloadStatus:
        """One download; UnknownJobIDException if there is none."""

    async def start(self, download_id: int, access_token: str, source_url: str) -> DownloadStatus:
        """Goes on with a paused download, with a new token or the URL with its secrets anew."""

    async def pause(self, download_id: int) -> None:
        """Pauses a download, which keeps its bytes.

        UnknownJobIDException if there is none; WrongStateException if it has ended.
        """

    async def cancel(self, download_id: int) -> None:
        """Cancels a download; fine if it has ended or is not known."""

    async def prune(self) -> None:
        """Forgets the installer's downloads that have ended, with what failed ones left."""

    def watch(self, resume_token: str) -> AsyncIterator[DownloadNews]:
        """Every change of the installer's downloads, from a token or from a snapshot."""


@dataclass(frozen=True, slots=True)
class DigestWork:
    """A model whose files are to be hashed: where it is, and its files with what is known of them."""

    key: str
    uid: str
    location: str
    is_folder: bool
    expected_sha256: str
    files: tuple[RecordFile, ...]
    #: Paths of those whose SHA-256 is known, and what the source published.
    verified: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Removal:
    """An uninstall under way: written before the record goes, so that a kill cannot leave its files."""

    key: str
    #: Emptied folders go as well, but not this one nor what is above it.
    top: str
    paths: tuple[str, ...]
    #: Files that stay, and the keys of the records that list them as well.
    shared: tuple[tuple[str, tuple[str, ...]], ...] = ()


class JobStore(Protocol):
    """The installer's durable state. Writes are durable when they return."""

    async def create(
        self,
        job: Job,
        mark: bytes,
        *,
        request_id: str,
        fingerprint: bytes,
        principal: str,
        method: str,
        takes_over: int = 0,
    ) -> tuple[Job, bool]:
        """Stores a new job, or answers with the one under way (True) for the same source and arguments.

        ``mark`` tells apart sources that are shown alike, and is kept in memory only. A new job gets what the
        job numbered ``takes_over`` has downloaded and kept, in the same write.
        """

    async def get(self, job_id: int) -> Job:
        """One job; UnknownJobIDException if there is none."""

    async def get_with_record(self, job_id: int) -> tuple[Job, bytes]:
        """A job with its record, serialised; UnknownJobIDException if there is none."""

    async def page(
        self, wanted: JobFilter, *, before: int | None, limit: int
    ) -> tuple[list[tuple[Job, bytes]], str]:
        """At most ``limit`` jobs with their records, newest first, and a token for a watch."""

    async def present(self, ids: Sequence[int]) -> list[tuple[Job, bytes]]:
        """Those of the jobs that are there, with their records, in the order of the ids."""

    async def save(self, job: Job, *, record: bytes = b"", digests: DigestWork | None = None) -> Job:
        """Stores a changed job, with its finished record and the digests to compute; gives its revision."""

    async def request_cancel(self, job_id: int) -> Job:
        """Notes in one step that a job shall end; WrongStateException if it has."""

    async def request_pause(self, job_id: int) -> Job:
        """Notes in one step that a job shall stand still; WrongStateException if it has ended or is to."""

    async def request_resume(self, job_id: int, mark: bytes | None) -> Job:
        """Notes in one step that a job shall go on, and what tells the source that was brought from its like.

        WrongStateException if it has ended or is to.
        """

    async def unfinished(self) -> list[Job]:
        """The jobs that have not ended, oldest first."""

    async def kept(self, ids: Sequence[int] | None = None) -> list[int]:
        """The staging folders with what jobs that ended in ERROR have downloaded and keep: all, or these."""

    async def failed(self) -> list[Job]:
        """The jobs that ended in ERROR and were not made anew, oldest first."""

    async def ended(
        self, *, ids: Sequence[int] = (), states: Collection[State] = (), before: float | None = None
    ) -> list[int]:
        """The ids of jobs that have ended: of these ids, in one of these states, by a time, where given.

        UnknownJobIDException or WrongStateException of an id.
        """

    async def prune(self, ids: Sequence[int]) -> int:
        """Forgets jobs that have ended, with their claim to staged files; gives how many there were."""

    async def any_left(self) -> bool:
        """Whether there is any job."""

    async def pending_digest(self, *, oldest: bool) -> tuple[DigestWork, RecordFile] | None:
        """A file to hash, the smallest or one of the oldest model, and its model without its files."""

    async def order_digests(self, work: DigestWork) -> None:
        """Notes that a model's files are to be hashed, in place of what was noted before."""

    async def save_digest(self, key: str, file: RecordFile) -> None:
        """Stores the digests of one file."""

    async def digested(self) -> list[DigestWork]:
        """Models whose files are all hashed, and whose record does not have it yet."""

    async def drop_digests(self, key: str) -> None:
        """The record has the digests, or is gone."""

    async def add_removal(self, removal: Removal) -> None:
        """Notes an uninstall before the record goes."""

    async def removals(self) -> list[Removal]:
        """Uninstalls that a kill interrupted."""

    async def drop_removal(self, key: str) -> None:
        """The uninstall is done, or was not to be."""
