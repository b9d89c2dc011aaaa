"""One lease: the facts of it, what holds it, and how it ended."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from modelkeep.exceptions import LeaseRevokedException, UnknownLeaseException
from modelkeep_loader.domain.components import ComponentRef, Plan, Resident


class LeaseState(enum.StrEnum):
    """Where a lease stands."""

    ACTIVE = "active"
    DETACHED = "detached"
    ENDED = "ended"


class LeaseEnd(enum.StrEnum):
    """Why a lease has ended."""

    RELEASED = "released"
    EXPIRED = "expired"
    DETACHED = "detached"
    HOLDER_DIED = "holder_died"
    REVOKED = "revoked"
    DRAINED = "drained"


@dataclass(slots=True, eq=False)
class Lease:
    """One lease. Times are monotonic seconds but for ``create_time`` and ``expire_time`` (since 1970)."""

    id: str
    secret: bytes = field(repr=False)
    #: What was asked for, and the identities that it came to.
    refs: Sequence[ComponentRef]
    display_names: Sequence[str]
    resident_ids: Sequence[str]
    plans: Sequence[Plan]
    residents: Sequence[Resident]
    create_time: float
    principal: str = ""
    label: str = ""
    claimed_pid: int = 0
    uid: int | None = None
    state: LeaseState = LeaseState.ACTIVE
    #: Binding number of each open stream → the process it belongs to; 0 while not known.
    streams: dict[int, int] = field(default_factory=dict)
    #: Binding number of each descriptor connection → the process at its other end.
    connections: dict[int, int] = field(default_factory=dict)
    expires_at: float | None = None
    expire_time: float | None = None
    detached_until: float | None = None
    pids: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    end: LeaseEnd | None = None
    end_message: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

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
        return sum({r.id: r.size_bytes for r in self.residents}.values())


_HOW_ENDED: Final = {
    LeaseEnd.RELEASED: "its holder released it",
    LeaseEnd.EXPIRED: "its ttl ran out",
    LeaseEnd.DETACHED: "its holder went away, and nobody took it up",
    LeaseEnd.HOLDER_DIED: "its holder's process is dead",
    LeaseEnd.DRAINED: "the loader shut down",
}


def ended(lease: Lease) -> UnknownLeaseException:
    """What its holder is told about a lease that has ended."""
    facts = {"lease_id": lease.id}
    if lease.end is LeaseEnd.REVOKED:
        why = f": {lease.end_message.rstrip('.')}" if lease.end_message else ""
        return LeaseRevokedException(
            f"An operator has ended the lease {lease.id}{why}.", metadata={**facts, "why": lease.end_message}
        )
    how = _HOW_ENDED.get(lease.end, "it is gone") if lease.end is not None else "it is gone"
    return UnknownLeaseException(f"The lease {lease.id} has ended: {how}.", metadata=facts)
