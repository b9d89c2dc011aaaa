"""What an install job is, and which states may follow which."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator

from modelkeep.exceptions import ModelkeepError

from ..probe.result import Hints, ProbeResult
from .plans import Plan, Remote
from .traces import trace_of


class State(StrEnum):
    """Where a job stands; the last three are final."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in FINAL


FINAL = frozenset({State.COMPLETED, State.ERROR, State.CANCELLED})


class Stage(StrEnum):
    """What a RUNNING job does."""

    NONE = ""
    RESOLVING = "resolving"
    DOWNLOADING = "downloading"
    PROBING = "probing"
    HASHING = "hashing"
    MOVING = "moving"
    REGISTERING = "registering"
    WAITING_FOR_PEER = "waiting_for_peer"


class SourceKind(StrEnum):
    """Where a model comes from."""

    PATH = "path"
    URL = "url"
    HUB = "hub"


class Reuse(StrEnum):
    """What becomes of a job where the model is installed already."""

    SAME_SOURCE = "same_source"
    SAME_CONTENT = "same_content"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Source:
    """An absolute path, a URL without credentials, or what a hub has in its shortest spelling."""

    kind: SourceKind
    text: str


def _without_blanks(overrides: Any) -> Any:
    """As it is; of a job that was stored with every field, those that say something."""
    if not isinstance(overrides, dict) or "cleared" not in overrides:
        return overrides
    said = {name: value for name, value in overrides.items() if value not in (None, "", [])}
    cleared = said.pop("cleared", [])
    return said | dict.fromkeys(cleared, "")


#: What a caller wants in a record in place of what the probe finds: values by the names of ModelOverrides.
#: Only what he said is there; an empty text leaves the record's empty.
Overrides: TypeAlias = Annotated[Mapping[str, Any], BeforeValidator(_without_blanks)]


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed or waits; the fields of ``modelkeep.server.v1.JobError``."""

    code: str
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_time: float | None = None
    detail: str = ""

    @classmethod
    def of(cls, error: BaseException, *, retry_time: float | None = None) -> JobError:
        """What a job that waits says of an exception; an unexpected one keeps its text to itself."""
        if isinstance(error, ModelkeepError):
            return cls(
                code=error.code,
                reason=error.reason,
                message=error.message,
                metadata=error.facts,
                retry_time=retry_time,
            )
        message = "The install failed by a defect of the service; its log has the details."
        if isinstance(error, OSError) and error.strerror:
            message = (
                f"The file system failed: {error.strerror}. When that is mended, install again; "
                "the service's log has the details."
            )
        return cls(
            code="INTERNAL",
            reason="INTERNAL",
            message=message,
            metadata={"remedy": "Report what the service's log says of it."},
        )

    @classmethod
    def failure(cls, error: BaseException) -> JobError:
        """The error of a job that fails with an exception: as :meth:`of`, and where that happened."""
        return replace(cls.of(error), detail=trace_of(error))


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One file of a model: path relative to its folder (or its name), size, time of modification (s)."""

    path: str
    size_bytes: int
    modify_time: float


@dataclass(frozen=True, slots=True)
class FileProgress:
    """Bytes of one file of a download; a total of None is not known."""

    path: str
    bytes_done: int = 0
    bytes_total: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes of the download or copy; a total of None is not known."""

    bytes_done: int = 0
    bytes_total: int | None = None
    bytes_per_second: int = 0
    files: tuple[FileProgress, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """One install, as it is stored after every step; a restart goes on from here."""

    id: int
    #: Random; the request ids of the job's calls to its peers are made of it.
    uid: str
    source: Source
    inplace: bool
    overrides: Overrides
    #: Key of the model, chosen when the job is made, so that every step can be repeated.
    key: str
    create_time: float
    expected_sha256: str = ""
    #: The source goes once the model is registered.
    move: bool = False
    #: What is asked of a hub; of that kind alone.
    remote: Remote | None = None
    #: What the hub's source came to.
    plan: Plan | None = None
    priority: int | None = None
    reuse: Reuse = Reuse.SAME_SOURCE
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Number of the job that it is made anew of; 0 for none.
    retry_of_id: int = 0
    #: Number of the job whose staging folder it has; 0: its own.
    staging_id: int = 0
    #: The source needs a secret that is held in memory only.
    has_secret: bool = False
    #: What that is, by the names of the fields of a request, with commas between.
    needs: str = ""
    state: State = State.WAITING
    stage: Stage = Stage.NONE
    cancel_requested: bool = False
    #: A caller wants it to stand still.
    pause_requested: bool = False
    attempt: int = 0
    download_id: int = 0
    #: The download was asked for: only DownloadService knows whether it is there.
    ordering: bool = False
    #: Tries of the download since it was last started.
    download_attempt: int = 0
    #: Counts downloads made for this job: DownloadService may have forgotten one.
    download_generation: int = 0
    #: SHA-256 of what was downloaded, where that is one file.
    sha256: str = ""
    #: SHA-256 of each file of a download of several, by its path in the model.
    digests: Mapping[str, str] = field(default_factory=dict)
    #: Key of the model that was there already: the job ends with that.
    known_key: str = ""
    #: Keys of other models with the same content.
    same_content: tuple[str, ...] = ()
    #: Keys of models with the same content whose files are gone.
    missing_content: tuple[str, ...] = ()
    #: Where the downloaded or copied files are before they get their final name.
    staged_path: str = ""
    #: Where the model is now.
    local_path: str = ""
    probe: ProbeResult | None = None
    hash: str = ""
    #: The record was asked for: only RecordService knows whether it is there.
    registering: bool = False
    files: tuple[FileFacts, ...] = ()
    #: The source's files as they were when they were staged to be moved.
    moved: tuple[FileFacts, ...] = ()
    progress: Progress = field(default_factory=Progress)
    #: Why the job fails: noted before anything is cancelled or removed, so that a restart goes on with that.
    failure: JobError | None = None
    error: JobError | None = None
    start_time: float | None = None
    end_time: float | None = None
    revision: int = 0

    def request_id(self, step: str) -> str:
        """The request id of one step: the same at every repetition, another for every job and step."""
        return str(uuid.uuid5(uuid.UUID(self.uid), step))

    @property
    def staging(self) -> int:
        """The number of its staging folder."""
        return self.staging_id or self.id

    @property
    def hints(self) -> Hints:
        """What the caller knows of the model, for the probe."""
        return Hints.of(self.overrides)

    @property
    def is_held(self) -> bool:
        """Whether it stands still since a caller wants that."""
        return self.pause_requested and self.state is State.PAUSED and not self.cancel_requested

    @property
    def awaits_secrets(self) -> bool:
        """Whether nobody was asked for the source yet, which takes a secret."""
        asked = self.download_id or self.ordering or self.staged_path
        return self.has_secret and not asked

    def arguments(self) -> tuple[object, ...]:
        """What must be equal for a second import of the source to be this job."""
        variant = self.remote.variant if self.remote is not None else ""
        return (
            *(self.inplace, self.move, self.overrides, self.expected_sha256, self.reuse),
            *(dict(self.labels), variant),
        )

    @property
    def record_source(self) -> str:
        """What the record names as the source."""
        return self.plan.source if self.plan is not None else self.source.text

    @property
    def one_sha256(self) -> str:
        """SHA-256 that a single downloaded file must have: what the caller says, or else the hub."""
        planned = self.plan.files[0].sha256 if self.plan is not None and not self.plan.is_folder else ""
        return self.expected_sha256 or planned


def needs_of(url: str, access_token: str) -> str:
    """The names of what has a secret, of an address and a token."""
    return ",".join(["access_token"] * bool(access_token) + ["source_url"] * bool(url))


#: state -> the states that may follow it.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.WAITING: frozenset({State.RUNNING, State.CANCELLED, State.ERROR}),
    State.RUNNING: frozenset({State.RUNNING, State.PAUSED, *FINAL}),
    State.PAUSED: frozenset({State.PAUSED, State.RUNNING, *FINAL}),
    State.COMPLETED: frozenset(),
    State.ERROR: frozenset(),
    State.CANCELLED: frozenset(),
}
