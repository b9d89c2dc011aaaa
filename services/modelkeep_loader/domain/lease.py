"""One lease: the facts of it, what holds it, and how it ended."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from modelkeep.exceptions import (
    DeviceUnavailableException,
    LeaseRevokedException,
    ModelkeepError,
    UnknownLeaseException,
)
from modelkeep_loader.domain.components import ComponentRef, Plan, Resident


class LeaseState(enum.StrEnum):
    """Where a lease stands."""

    ACTIVE = "active"
    DETACHED = "detached"
    REVOKING = "revoking"
    ENDED = "ended"


class LeaseEnd(enum.StrEnum):
    """Why a lease has ended."""

    RELEASED = "released"
    EXPIRED = "expired"
    DETACHED = "detached"
    HOLDER_DIED = "holder_died"
    REVOKED = "revoked"
    DRAINED = "drained"
    DEVICE_LOST = "device_lost"


class LeaseChange(enum.StrEnum):
    """What can happen to a lease: the entries of its journal."""

    GRANTED = "granted"
    STREAM_OPENED = "stream_opened"
    CONNECTED = "connected"
    RENEWED = "renewed"
    UNBOUND = "unbound"
    DETACHED = "detached"
    TAKEN_UP = "taken_up"
    REVOKE_REQUESTED = "revoke_requested"
    ENDED = "ended"
    READOPTED = "readopted"
    DEMOTED = "demoted"
    PROMOTED = "promoted"


@dataclass(frozen=True, slots=True)
class Revocation:
    """Somebody asked for a lease back: why, and until when it may live.

    ``deadline`` is in monotonic seconds, ``deadline_time`` in seconds since 1970.
    """

    why: str
    deadline: float
    deadline_time: float


@dataclass(frozen=True, slots=True)
class DemotionAsked:
    """Somebody waits for what a lease keeps on an accelerator: why, and until when.

    ``deadline`` is in monotonic seconds, ``deadline_time`` in seconds since 1970.
    """

    why: str
    deadline: float
    deadline_time: float


@dataclass(slots=True, eq=False, kw_only=True)
class LeaseFacts:
    """What there is to know of a lease apart from the memory and from whoever holds it: plain values, with
    which it could be begun anew. Times are seconds since 1970.
    """

    id: str
    secret: bytes = field(repr=False)
    #: What was asked for, and the identities that it came to.
    refs: Sequence[ComponentRef]
    display_names: Sequence[str]
    resident_ids: Sequence[str]
    create_time: float
    principal: str = ""
    label: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    claimed_pid: int = 0
    activation_bytes: int = 0
    uid: int | None = None
    state: LeaseState = LeaseState.ACTIVE
    expire_time: float | None = None
    end: LeaseEnd | None = None
    end_message: str = ""
    #: What happened to it last, and when.
    last_change: LeaseChange = LeaseChange.GRANTED
    last_change_time: float = 0.0


@dataclass(slots=True, eq=False, kw_only=True, weakref_slot=True)
class Lease(LeaseFacts):
    """One lease: its facts, the residents that it keeps, and what binds it. Times are monotonic seconds."""

    #: Where its components are to be, and what it keeps: the same but while it is demoted.
    plans: Sequence[Plan]
    residents: Sequence[Resident]
    #: What it keeps in RAM besides: components that are on an accelerator in part.
    besides: Sequence[Resident] = ()
    #: Whether its holder has let go of accelerators' memory.
    demoted: bool = False
    demotion: DemotionAsked | None = None
    #: Binding number of each open stream → the process it belongs to; 0 while not known.
    streams: dict[int, int] = field(default_factory=dict)
    #: Binding number of each descriptor connection → the process at its other end.
    connections: dict[int, int] = field(default_factory=dict)
    expires_at: float | None = None
    detached_until: float | None = None
    revocation: Revocation | None = None
    pids: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    ended: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    #: Set once something has happened that holders have to hear; whoever waits again takes the new one.
    stirred: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def is_bound(self) -> bool:
        """Whether anything keeps it alive."""
        return bool(self.streams or self.connections) or self.expires_at is not None

    @property
    def is_held(self) -> bool:
        """Whether more than a ttl keeps it alive: a stream, a connection, or the grace after these."""
        return bool(self.streams or self.connections) or self.state is LeaseState.DETACHED

    @property
    def holders_are_dead(self) -> bool:
        """Whether every process is dead that is known to hold it."""
        known = self.pids or ({self.claimed_pid} - {0})
        return bool(known) and known <= self.dead

    @property
    def pid(self) -> int:
        """The holder: as the kernel told it, else as the client did; 0 if neither did."""
        return min(self.pids - self.dead, default=min(self.pids, default=self.claimed_pid))

    def may_be(self, pid: int) -> bool:
        """Whether the process whose stream it is can be this one, by what the client said."""
        return self.claimed_pid in (0, pid)

    @property
    def size_bytes(self) -> int:
        """Bytes that it keeps in RAM."""
        kept = (*self.residents, *self.besides)
        return sum({r.id: r.size_bytes for r in kept if r.on_device is None}.values())

    @property
    def vram_bytes(self) -> int:
        """Bytes that it keeps on accelerators."""
        return sum({r.id: r.size_bytes for r in self.residents if r.on_device is not None}.values())

    @property
    def plans_now(self) -> Sequence[Plan]:
        """Where its components are."""
        return [plan.source for plan in self.plans] if self.demoted else self.plans

    def has_labels(self, labels: Mapping[str, str]) -> bool:
        """Whether it has all of these labels, each with exactly this value."""
        return labels.items() <= self.labels.items()

    def stir(self) -> None:
        """Wake whoever waits for something to tell its holders."""
        heard, self.stirred = self.stirred, asyncio.Event()
        heard.set()


_HOW_ENDED: Final = {
    LeaseEnd.RELEASED: "its holder released it",
    LeaseEnd.EXPIRED: "its ttl ran out",
    LeaseEnd.DETACHED: "its holder went away, and nobody took it up",
    LeaseEnd.HOLDER_DIED: "its holder's process is dead",
    LeaseEnd.DRAINED: "the loader shut down",
    LeaseEnd.DEVICE_LOST: "the accelerator that it was on is gone",
}


def ended(lease: Lease) -> ModelkeepError:
    """What its holder is told about a lease that has ended."""
    facts = {"lease_id": lease.id}
    if lease.end is LeaseEnd.DEVICE_LOST:
        # Of its name no colon has a space behind it; why it is gone may have several.
        device, _, why = lease.end_message.partition(": ")
        return DeviceUnavailableException(
            f"The lease {lease.id} has ended, since the device {device} is gone: {why.rstrip('.')}.",
            metadata={"device": device, "why": why},
        )
    if lease.end is LeaseEnd.REVOKED:
        why = f": {lease.end_message.rstrip('.')}" if lease.end_message else ""
        return LeaseRevokedException(
            f"An operator has ended the lease {lease.id}{why}.", metadata={**facts, "why": lease.end_message}
        )
    how = _HOW_ENDED.get(lease.end, "it is gone") if lease.end is not None else "it is gone"
    return UnknownLeaseException(f"The lease {lease.id} has ended: {how}.", metadata=facts)
