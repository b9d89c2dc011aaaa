"""The words of the loader: components, plans for them, residents, and what a build yields."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol, cast

from modelkeep.exceptions import (
    CancelledException,
    ForbiddenPathException,
    InvalidModelException,
    ModelkeepError,
    ModelNotFoundException,
)
from modelkeep.headers import Tensor
from modelkeep.worker.manifest import Kind, QuantisedWeight
from modelkeep_convert.checkpoints.parts import Part

#: Names of one component that are remembered.
_MOST_REFS: Final = 256
#: The device that stands for the host's own memory.
CPU: Final = "cpu"
#: What leaves the choice of a device to the loader.
AUTO: Final = "auto"


class Stage(enum.StrEnum):
    """Where a resident stands."""

    QUEUED = "queued"
    LOCALIZING = "localizing"
    READING = "reading"
    CONVERTING = "converting"
    PROMOTING = "promoting"
    RESIDENT = "resident"
    EVICTING = "evicting"
    FAILED = "failed"


_ON_THE_WAY: Final = frozenset(
    {Stage.QUEUED, Stage.LOCALIZING, Stage.READING, Stage.CONVERTING, Stage.PROMOTING}
)


@dataclass(frozen=True, slots=True)
class ComponentRef:
    """A component as a caller names it.

    Attributes:
        key: Key of the model.
        submodel: Which component of a main model ("vae"); "" for models that are one component.
        precision: "auto", "float32", "float16" or "bfloat16".
        weights: "auto", "stored", "dequantised" or "float8"; see :mod:`modelkeep_loader.domain.weights`.
        memory_format: "contiguous" or "channels_last"; see
            :func:`modelkeep_loader.domain.weights.memory_format`.
        device: "auto", "cpu", a kind of accelerator ("cuda"), or one ("cuda:1"); see
            :mod:`modelkeep_loader.domain.devices`.
    """

    key: str
    submodel: str = ""
    precision: str = "auto"
    weights: str = "auto"
    memory_format: str = "contiguous"
    device: str = "auto"


def signature_of(status: os.stat_result) -> str:
    """What tells that a file still is the one that was looked at, without reading it.

    Anybody can set the time of modification; that of the last change of the status only the kernel sets.
    """
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A weight file as it was when the plan was made; ``signature`` tells whether it still is.

    Attributes:
        path: Where it is, without links.
        model: Name of the model, for messages.
        size_bytes: Its size.
        signature: See :func:`signature_of`.
        change_time_ns: When its status last changed, in nanoseconds since 1970.
        is_ours: Whether nobody but this user and root can write it.
    """

    path: Path
    model: str
    size_bytes: int
    signature: str
    change_time_ns: int
    is_ours: bool
    #: Its name, where that of `path` says nothing.
    called: str = ""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.called or self.path.name

    @classmethod
    def of(cls, path: Path, model: str, status: os.stat_result) -> SourceFile:
        """The file as it is now."""
        is_ours = status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022
        return cls(path, model, status.st_size, signature_of(status), status.st_ctime_ns, is_ours)


class ChangedMeanwhileException(InvalidModelException):
    """A file is not the one that the plan was made from: another plan will do."""


def changed(file: SourceFile) -> ChangedMeanwhileException:
    """What is said of a file that is another one by now: its plan's id stands for other bytes."""
    return ChangedMeanwhileException(
        f"{file.name} of {file.model!r} was changed while it was being loaded.",
        metadata={"path": str(file.path), "detail": "changed while it was being loaded"},
        remedy="Ask again once nobody writes to the file any more.",
        retry_after=0.0,
    )


def refuse_changed(file: SourceFile, descriptor: int) -> None:
    """Compare an open file with the one that a plan was made from.

    Raises:
        ChangedMeanwhileException: It is another one, or was changed.
    """
    if signature_of(os.fstat(descriptor)) != file.signature:
        raise changed(file)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What callers are told about the model that a component belongs to."""

    name: str
    base: str
    type: str
    location: Path
    hash: str


@dataclass(frozen=True, slots=True)
class Identified:
    """What a file's bytes were, and when, in monotonic seconds, the last of them was read."""

    blake3: str
    read_at: float


@dataclass(frozen=True, slots=True)
class Placed:
    """Which component of RAM one on an accelerator is a copy of, and how much of it.

    Attributes:
        source_id, source_bytes, source_build_bytes: Of that component's plan.
        part_bytes: The most of its first bytes that go there; 0: all of them.
    """

    source_id: str
    source_bytes: int
    source_build_bytes: int
    part_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """How to make one component, and what it is.

    Attributes:
        ref: As the caller named it.
        id: Identity: contents, class, configuration, precision and layout. Equal ids, equal bytes.
        content_addressed: Whether `id` rests on the contents alone, so that models share it.
        library, class_name: The module class.
        config: The class's configuration; None if it has to be inferred (single-file VAE).
        overrides: Entries of the configuration that the record changes.
        precision: Never "auto"; empty for an object.
        files: The weight files; of an object, what it is made of.
        digests: BLAKE3 of each, in hexadecimal, and when it was read; of what is too large to be read: none.
        scaling_factor: What the record says; for a single-file VAE.
        size_bytes: Estimate of the memory it will take.
        model: For callers.
        build_bytes: Estimate of the memory that a build takes besides.
        device: What it is for.
        kind: What it is to its worker.
        cast: Whether floating-point tensors are brought to `precision`; otherwise each stays what it is.
        names: Of the files, as the model has them.
        texts: Further files of an object: name → contents.
        weights: Their form, never "auto".
        quantisation: How the files are quantised; "" if they are not.
        dequantised_bytes: What `size_bytes` would be, were it lent dequantised.
        part: Which part of its file it is, if that holds a whole main model.
        memory_format: "channels_last" only where that makes it another component than "contiguous".
        placed: What it is a copy of, if `device` is an accelerator.
        in_files: Whether its bytes lie in its files as they are lent, as far as the files' headers say; all
            but few of them.
    """

    ref: ComponentRef
    id: str
    content_addressed: bool
    library: str
    class_name: str
    config: Mapping[str, Any] | None
    overrides: Mapping[str, Any]
    precision: str
    files: tuple[SourceFile, ...]
    digests: tuple[Identified, ...]
    scaling_factor: float | None
    size_bytes: int
    model: ModelFacts
    device: str = CPU
    build_bytes: int = 0
    kind: Kind = Kind.MODULE
    cast: bool = True
    names: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    weights: str = "dequantised"
    quantisation: str = ""
    dequantised_bytes: int = 0
    part: Part | None = None
    memory_format: str = "contiguous"
    placed: Placed | None = None
    in_files: bool = False

    @property
    def source(self) -> Plan:
        """The plan of the same component in RAM."""
        if self.placed is None:
            return self
        return replace(
            self,
            ref=replace(self.ref, device=CPU),
            id=self.placed.source_id,
            size_bytes=self.placed.source_bytes,
            build_bytes=self.placed.source_build_bytes,
            device=CPU,
            placed=None,
        )

    @property
    def display_name(self) -> str:
        """What people know it by: "tiny-sd/vae"."""
        return f"{self.model.name}/{self.ref.submodel}" if self.ref.submodel else self.model.name


class Memory(Protocol):
    """Memory that holds a component, and whoever has it mapped keeps."""

    size_bytes: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Open files that keep it, and could do so beyond this process; none where it stays by itself."""
        ...

    def open_for_holder(self) -> int:
        """A new read-only descriptor to hand out; the caller closes it."""
        ...

    def in_use(self) -> bool:
        """Whether any process besides the loader still has it open or mapped."""
        ...

    def close(self) -> None:
        """Let go of it; it is freed with its last mapping."""
        ...


class DeviceMemory(Memory, Protocol):
    """Memory on an accelerator, with the file's beginning, or all of it, in RAM.

    Attributes:
        size_bytes: What it takes on the device.
        file_bytes: Size of the component's file.
        device_bytes: How many of the file's first bytes are on the device.
        uuid: The device's own name.
    """

    file_bytes: int
    device_bytes: int
    uuid: str

    def open_on_device(self) -> int:
        """A new descriptor of the allocation to hand out; the caller closes it."""
        ...


@dataclass(frozen=True, slots=True)
class Built:
    """What a build yields: the memory and what stands in it."""

    memory: Memory
    tensors: tuple[Tensor, ...]
    config: Mapping[str, Any]
    aliases: Mapping[str, str]
    buffers: frozenset[str]
    quantised: Mapping[str, QuantisedWeight] = field(default_factory=dict)
    #: Names of tensors that lie in channels last; their shapes in `tensors` are those of the bytes.
    channels_last: frozenset[str] = frozenset()


class BuildProgress(Protocol):
    """Told while a build runs."""

    def __call__(self, stage: Stage, done: int, private_bytes: int = 0) -> None:
        """How far it is.

        Args:
            stage: What is being done.
            done: Bytes of the component that are there.
            private_bytes: Memory that the build takes besides those.
        """
        ...


class Builder(Protocol):
    """Makes components."""

    async def build(self, plan: Plan, progress: BuildProgress) -> Built:
        """Make one; several calls may wait for each other.

        Raises:
            ModelNotFoundException, ForbiddenPathException, InvalidModelException,
            RamExhaustedException: As the names say.
        """
        ...


#: What is wrong with these files and not with what they hold.
_OF_THE_PLACE: Final = (ModelNotFoundException, ForbiddenPathException, ChangedMeanwhileException)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Resident:
    """A component in a tier, on its way there, or one that failed to get there. On the disk: one file."""

    plan: Plan
    stage: Stage
    size_bytes: int
    last_use: float
    bytes_done: int = 0
    built: Built | None = None
    #: What it was asked for as, in that order → display name.
    refs: dict[ComponentRef, str] = field(default_factory=dict)
    #: Keys of models that it was asked for by and that are no more.
    removed: set[str] = field(default_factory=set)
    #: Lease → keys of the models that the lease names this component by.
    leases: dict[str, frozenset[str]] = field(default_factory=dict)
    #: Requests without a lease that are loading it right now.
    loads: set[str] = field(default_factory=set)
    #: The tier that it is in.
    tier: str = "ram"
    #: Keys of the models by whose names it is pinned.
    pins: frozenset[str] = frozenset()
    #: Seconds that it is kept once nobody uses it; None: for as long as there is room.
    keep_alive_s: float | None = None
    load_seconds: float = 0.0
    load_time: float = 0.0
    use_time: float = 0.0
    error: ModelkeepError | None = None
    failures: int = 0
    retry_at: float = 0.0

    def failure(self, plan: Plan, retry_after: float | None = None) -> ModelkeepError:
        """Why it could not be built, for one who asked for it by this plan: by the names that he knows.

        Args:
            plan: His; another model's than the one that it was to be built from, perhaps.
            retry_after: Seconds until it may be tried again.
        """
        error = self.error
        if error is None:
            return CancelledException(
                f"{plan.display_name} was dropped while it was being loaded: ask again."
            )
        facts = {**error.metadata, "component": plan.display_name}
        message = f"{plan.display_name}: {error.message}"
        if plan.model.location != self.plan.model.location:
            message = (
                f"{plan.display_name} is the same component as {self.plan.display_name}, whose build failed: "
                f"{error.message}"
            )
            facts |= {"path": str(plan.model.location)} if "path" in facts else {}
        return type(error)(message, metadata=facts, violations=error.violations, retry_after=retry_after)

    def failed_elsewhere(self, plan: Plan) -> bool:
        """Whether it failed for where its files were, and this plan has others of the same contents."""
        paths = [file.path for file in self.plan.files]
        return isinstance(self.error, _OF_THE_PLACE) and paths != [file.path for file in plan.files]

    @property
    def id(self) -> str:
        """Identity of the component."""
        return self.plan.id

    @property
    def display_name(self) -> str:
        """What people know it by: its name in the model that asked for it first."""
        return next(iter(self.refs.values()), self.plan.display_name)

    @property
    def weights(self) -> str:
        """Form of its weights: as planned, unless none of them could be lent as it is stored."""
        if self.plan.weights == "stored" and self.built is not None and not self.built.quantised:
            return "dequantised"
        return self.plan.weights

    def remember(self, plan: Plan) -> None:
        """Note by what name it was asked for; of very many that no lease uses, one is forgotten."""
        if plan.ref not in self.refs and len(self.refs) >= _MOST_REFS:
            used = {key for keys in self.leases.values() for key in keys}
            if (stale := next((ref for ref in self.refs if ref.key not in used), None)) is not None:
                del self.refs[stale]
        self.refs[plan.ref] = plan.display_name
        self.removed.discard(plan.ref.key)

    @property
    def is_orphan(self) -> bool:
        """Whether every model that it was asked for by is no more."""
        return bool(self.refs) and all(ref.key in self.removed for ref in self.refs)

    @property
    def on_device(self) -> DeviceMemory | None:
        """Its memory on an accelerator, if it is there."""
        if self.plan.placed is None or self.built is None:
            return None
        return cast("DeviceMemory", self.built.memory)

    @property
    def wanted(self) -> bool:
        """Whether a lease holds it or a request waits for it."""
        return bool(self.leases or self.loads)

    @property
    def is_loading(self) -> bool:
        """Whether it is on its way."""
        return self.stage in _ON_THE_WAY

    @property
    def may_go(self) -> bool:
        """Whether it is there and nobody needs it to stay."""
        return self.stage is Stage.RESIDENT and not self.wanted and not self.pins

    def has_expired(self, now: float) -> bool:
        """Whether nobody has used it for as long as it was to be kept. ``now``: monotonic seconds."""
        return self.may_go and self.keep_alive_s is not None and now >= self.last_use + self.keep_alive_s

    @property
    def keep_until(self) -> float | None:
        """When it goes if nobody uses it again, in seconds since 1970; None: not by itself."""
        return self.use_time + self.keep_alive_s if self.may_go and self.keep_alive_s is not None else None
