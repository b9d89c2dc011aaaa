"""What a scan is, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from modelkeep.exceptions import ModelkeepError

from ..domain.jobs import JobError

#: Label of the installs that a scan makes, and of the models that they make: the scan's number.
LABEL = "modelkeep.dev/scan"
#: Scans that have ended are kept up to this number, the newest.
MAX_KEPT = 20
#: Keys that a scan names itself; its findings have all.
MAX_KEYS = 1000


class ScanKind(StrEnum):
    """What a scan is for."""

    DIRECTORY = "directory"
    SYNC = "sync"


class ScanState(StrEnum):
    """Where a scan stands; the last three are final."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self not in (ScanState.WAITING, ScanState.RUNNING)


class FindingKind(StrEnum):
    """What was found at a path."""

    NEW = "new"
    KNOWN = "known"
    UNKNOWN = "unknown"
    UNREADABLE = "unreadable"
    MOVED = "moved"
    ORPHAN = "orphan"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a scan found; the fields of ``modelkeep.install.v1.ScanFinding``."""

    path: str
    kind: FindingKind
    key: str = ""
    error: JobError | None = None
    same_content: tuple[str, ...] = ()
    missing_content: tuple[str, ...] = ()
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """How much was looked at, and how many findings of each kind there are."""

    folders: int = 0
    files: int = 0
    removed: int = 0
    kinds: Mapping[FindingKind, int] = field(default_factory=dict)

    def plus(self, finding: Finding) -> Counts:
        """With one finding more."""
        kinds = {**self.kinds, finding.kind: self.kinds.get(finding.kind, 0) + 1}
        return replace(self, kinds=kinds, removed=self.removed + finding.removed)


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan, as it is stored; a restart begins it anew, and knows what it has registered.

    Attributes:
        by_owner: The owner of the suite asked for it, who may have anything read.
        keys: Of what it registered, once it has ended.
    """

    id: int
    kind: ScanKind
    create_time: float
    path: str = ""
    install: bool = False
    validate_only: bool = False
    remove_orphans: bool = False
    force: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    by_owner: bool = False
    at_start: bool = False
    state: ScanState = ScanState.WAITING
    cancel_requested: bool = False
    attempt: int = 0
    counts: Counts = field(default_factory=Counts)
    keys: tuple[str, ...] = ()
    error: JobError | None = None
    start_time: float | None = None
    end_time: float | None = None


#: What errors say of the path itself; any other is of the install.
_KINDS = {
    "INVALID_MODEL": FindingKind.UNKNOWN,
    "UNSAFE_FORMAT": FindingKind.UNKNOWN,
    "DUPLICATE_PATH": FindingKind.UNKNOWN,
    "FORBIDDEN_PATH": FindingKind.UNREADABLE,
    "SOURCE_NOT_FOUND": FindingKind.UNREADABLE,
}


def failure(path: str, error: ModelkeepError | JobError) -> Finding:
    """The finding of what cannot be registered."""
    told = error if isinstance(error, JobError) else JobError.of(error)
    return Finding(shown(path), _KINDS.get(told.reason, FindingKind.FAILED), error=told)


def shown(path: str) -> str:
    """A path as text that can be sent: bytes that are no UTF-8 are written out."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
