"""What is written down of residents, leases and pins, for the loader that follows one that was killed.

It is kept in memory beside the descriptors that it is about (:mod:`modelkeep_loader.domain.keeping`), and
goes into no file and no log: of a lease it has the secret. Another version's is not read, for what it says of
memory that workers map must not be guessed.

Seconds are those of the monotonic clock, which all processes of a host have in common until it is booted
anew, and which nobody sets; where a name says `time` they are seconds since 1970, for people.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from modelkeep_loader.domain.components import ComponentRef, ModelFacts, Placed, Plan, Resident
from modelkeep_loader.domain.digests import Known
from modelkeep_loader.domain.lease import Lease, LeaseFacts, Revocation
from modelkeep_loader.domain.plan import LAYOUT_VERSION

#: Changes with the meaning of what is written here. Fields of the dataclasses in it are compared by name.
KEPT_VERSION: Final = 1


class UnreadableError(Exception):
    """What an earlier loader left cannot be used; the text says why."""


class _Version(BaseModel):
    """The part that every version has."""

    version: str


class _Kept(BaseModel, abc.ABC):
    """What stands under one name. Bytes that are no text are base64."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        ser_json_bytes="base64",
        val_json_bytes="base64",
        ser_json_inf_nan="constants",
    )
    #: What its names begin with.
    PREFIX: ClassVar[str]
    VERSION: ClassVar[str] = f"{KEPT_VERSION}, {LAYOUT_VERSION}"

    version: str = VERSION

    @property
    @abc.abstractmethod
    def id(self) -> str:
        """Of what it is."""

    @classmethod
    def name_of(cls, what: str) -> str:
        """What the one of this id is kept under."""
        return cls.PREFIX + what

    def write(self) -> bytes:
        """For a keeper.

        Raises:
            ValueError: It has what cannot be written, such as the name of a file that is no text.
        """
        return self.model_dump_json().encode()

    @classmethod
    def read(cls, name: str, facts: bytes) -> Self:
        """What :meth:`write` wrote, and is kept under this name.

        Raises:
            UnreadableError: It is another version's, or another's, or broken.
        """
        try:
            found = _Version.model_validate_json(facts)
            if found.version != cls.VERSION:
                raise UnreadableError(f"version {found.version!r} wrote it, and this is {cls.VERSION!r}")
            kept = cls.model_validate_json(facts)
            if name != cls.name_of(kept.id):
                raise UnreadableError(f"what is written of it is of {kept.id!r}")
            return kept
        except ValidationError as error:
            # Where, and not what: that may be a secret.
            first, *_ = error.errors(include_input=False, include_url=False)
            place = ".".join(map(str, first["loc"]))
            broken = f"what is written of it is broken: {place or 'all'}: {first['type']}"
            raise UnreadableError(broken) from None


@dataclass(frozen=True, slots=True)
class OnDevice:
    """How a component lies on an accelerator.

    Attributes:
        uuid, file_bytes, device_bytes: See :class:`modelkeep_loader.domain.components.DeviceMemory`.
    """

    uuid: str
    file_bytes: int
    device_bytes: int


class KeptResident(_Kept):
    """A component that is resident; its memory is kept with it.

    Attributes:
        digests: Of the plan's files, as far as they have been read: the next loader need not read them again.
        on_device: How it lies on the accelerator that its plan names; None: it is in RAM.
        last_use, use_time: When it was used last, as far as was written; None while somebody used what is to
            be kept for a time.
    """

    PREFIX: ClassVar[str] = "resident/"

    plan: Plan
    digests: list[Known | None]
    size_bytes: int
    on_device: OnDevice | None
    refs: list[tuple[ComponentRef, str]]
    removed: frozenset[str]
    load_seconds: float
    load_time: float
    keep_alive_s: float | None
    last_use: float | None
    use_time: float | None

    @property
    def id(self) -> str:
        """The resident's."""
        return self.plan.id

    @classmethod
    def of(cls, resident: Resident, digests: Sequence[Known | None]) -> KeptResident:
        """A resident as it is now; ``digests``: of its plan's files."""
        there = resident.on_device
        is_in_use = resident.wanted and resident.keep_alive_s is not None
        return cls.model_construct(
            plan=resident.plan,
            digests=list(digests),
            size_bytes=resident.size_bytes,
            on_device=OnDevice(there.uuid, there.file_bytes, there.device_bytes) if there else None,
            refs=list(resident.refs.items()),
            removed=frozenset(resident.removed),
            load_seconds=resident.load_seconds,
            load_time=resident.load_time,
            keep_alive_s=resident.keep_alive_s,
            last_use=None if is_in_use else resident.last_use,
            use_time=None if is_in_use else resident.use_time,
        )


@dataclass(frozen=True, slots=True)
class KeptComponent:
    """What a lease has of its own in the plan of a component, besides its name and its identity."""

    model: ModelFacts
    device: str
    size_bytes: int
    build_bytes: int
    placed: Placed | None

    @classmethod
    def of(cls, plan: Plan) -> KeptComponent:
        """A lease's plan."""
        return cls(plan.model, plan.device, plan.size_bytes, plan.build_bytes, plan.placed)

    def plan(self, ref: ComponentRef, resident_id: str, like: Plan) -> Plan:
        """The lease's plan again: in all else it is as that of the component that it came to."""
        return replace(
            like,
            ref=ref,
            id=resident_id,
            model=self.model,
            device=self.device,
            size_bytes=self.size_bytes,
            build_bytes=self.build_bytes,
            placed=self.placed,
        )


class KeptLease(_Kept):
    """A lease that lives.

    Attributes:
        components: In the order of its names.
        demoted: Whether its holder has let go of accelerators' memory.
        expires_at: When its ttl runs out; None: it has none.
        was_held: Whether more than a ttl kept it: a stream, a connection, or the grace after these.
        pids: The processes that the kernel told of, each with its mark
            (:func:`modelkeep_loader.processes.process_mark`).
        dead: Those of them that are known to be dead.
        claimed_mark: The mark of the process that its holder claims to be; "" if there is none.
    """

    PREFIX: ClassVar[str] = "lease/"

    facts: LeaseFacts
    components: list[KeptComponent]
    demoted: bool
    expires_at: float | None
    was_held: bool
    revocation: Revocation | None
    pids: dict[int, str]
    dead: frozenset[int]
    claimed_mark: str

    @property
    def id(self) -> str:
        """The lease's."""
        return self.facts.id

    @classmethod
    def of(cls, lease: Lease, marks: Mapping[int, str]) -> KeptLease:
        """A lease as it is now; ``marks``: of its processes that live."""
        return cls.model_construct(
            facts=lease,
            components=[KeptComponent.of(plan) for plan in lease.plans],
            demoted=lease.demoted,
            expires_at=lease.expires_at,
            was_held=lease.is_held,
            revocation=lease.revocation,
            pids={pid: marks.get(pid, "") for pid in lease.pids},
            dead=frozenset(lease.dead),
            claimed_mark=marks.get(lease.claimed_pid, ""),
        )


class KeptZombie(_Kept):
    """Memory that was dropped and is still mapped; it is kept with it.

    Attributes:
        inode: Of the memory: nothing else has its number while it is there.
    """

    PREFIX: ClassVar[str] = "zombie/"

    inode: int

    @property
    def id(self) -> str:
        """What tells it from others."""
        return str(self.inode)


class KeptPins(_Kept):
    """All that is pinned on a device, or in RAM, each with the identity that it had last."""

    PREFIX: ClassVar[str] = "pins/"

    device: str
    pins: list[tuple[ComponentRef, str]]

    @property
    def id(self) -> str:
        """The device's name."""
        return self.device

    @classmethod
    def of(cls, device: str, ids: Mapping[ComponentRef, str]) -> KeptPins:
        """The pins as they are now."""
        return cls.model_construct(device=device, pins=list(ids.items()))
