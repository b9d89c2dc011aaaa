"""Leases: who holds which components, and for how long.

A lease lives while one of its *bindings* does: an open HoldModel stream, an unexpired ttl, or a
connection on the descriptor socket. When the last one goes it is DETACHED for a short grace, in which its
id and secret take it up again; where every process known to hold it is dead, it ends at once. The kernel
tells the process behind a descriptor connection, and that process's death ends its bindings even when a
forked child has inherited the sockets. A process id that a client merely states only shortens the grace.

Nothing here looks at a clock or a process by itself: the caller passes the time and reports deaths.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from modelkeep.exceptions import ForbiddenTicketException, UnknownLeaseException
from modelkeep_loader.domain import ComponentRef, Plan, Resident

#: Bytes of a ticket and of a lease's secret.
SECRET_BYTES: Final = 32
#: Ended leases that are remembered, so that GetLease can still answer why.
_REMEMBERED = 256


class LeaseState(enum.StrEnum):
    """Where a lease stands."""

    ACTIVE = "active"
    DETACHED = "detached"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Lease:
    """One lease. Times are monotonic seconds but for ``create_time`` and ``expire_time`` (since 1970)."""

    id: str
    secret: bytes = field(repr=False)
    plans: Sequence[Plan]
    residents: Sequence[Resident]
    create_time: float
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
    end_reason: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def refs(self) -> list[ComponentRef]:
        """What was asked for."""
        return [plan.ref for plan in self.plans]

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


class LeaseTable:
    """All leases of the process.

    Args:
        on_end: Called once with each lease that ended.
        detach_grace_s: Seconds that a lease without bindings can be taken up again.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        on_end: Callable[[Lease], None],
        on_deadline: Callable[[], None] = lambda: None,
        detach_grace_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_end = on_end
        self._on_deadline = on_deadline
        self._grace = detach_grace_s
        self._clock = clock
        self._leases: dict[str, Lease] = {}
        self._ended: dict[str, Lease] = {}
        self._next_binding = 0

    @staticmethod
    def new_id() -> str:
        """A name for a lease to be."""
        return f"lease-{secrets.token_hex(8)}"

    def alive(self) -> list[Lease]:
        """Leases that have not ended, in the order they were granted."""
        return list(self._leases.values())

    def get(self, lease_id: str) -> Lease:
        """One lease, also one that ended lately.

        Raises:
            UnknownLeaseException: There is none of this name.
        """
        lease = self._leases.get(lease_id) or self._ended.get(lease_id)
        if lease is None:
            raise _unknown(lease_id)
        return lease

    def authorise(self, lease_id: str, secret: bytes) -> Lease:
        """A living lease, for one who knows its secret.

        Raises:
            UnknownLeaseException: There is none, or it has ended.
            ForbiddenTicketException: The secret is another one.
        """
        lease = self._leases.get(lease_id)
        if lease is None:
            raise _unknown(lease_id)
        if not hmac.compare_digest(lease.secret, secret):
            raise ForbiddenTicketException("The lease's secret is another one.")
        return lease

    # Its life.

    def grant(
        self,
        lease_id: str,
        plans: Sequence[Plan],
        residents: Sequence[Resident],
        *,
        label: str = "",
        claimed_pid: int = 0,
    ) -> Lease:
        """Begin a lease. It has no binding yet: give it one before the loop runs on."""
        lease = Lease(
            lease_id,
            secrets.token_bytes(SECRET_BYTES),
            plans,
            residents,
            time.time(),
            label=label,
            claimed_pid=claimed_pid,
        )
        self._leases[lease_id] = lease
        return lease

    def bind_stream(self, lease: Lease) -> int:
        """A stream is open; returns the binding's number."""
        # If the lease is known to be one process's, the stream is that process's too.
        number, living = self._number(), lease.pids - lease.dead
        owner = min(living) if len(living) == 1 else 0
        lease.streams[number] = owner if lease.may_be(owner) else 0
        self._settle(lease)
        return number

    def bind_connection(self, lease: Lease, pid: int, uid: int) -> int:
        """A process holds a connection of the descriptor socket; returns the binding's number.

        ``pid`` is 0 for one that has no number here, in a container of its own: its connection alone counts.
        """
        number = self._number()
        lease.connections[number] = pid
        lease.uid = uid
        if pid:
            lease.pids.add(pid)
            lease.dead.discard(pid)  # the number of a dead process may come again
        if lease.may_be(pid):
            for stream, owner in lease.streams.items():
                lease.streams[stream] = owner or pid
        self._settle(lease)
        return number

    def take_up(self, lease: Lease, claimed_pid: int) -> None:
        """Somebody who knows the secret goes on with it; the dead who held it before count no more."""
        lease.claimed_pid = claimed_pid
        lease.pids -= lease.dead
        lease.dead.clear()

    def bind_ttl(self, lease: Lease, ttl_s: float) -> None:
        """The lease lives for so many seconds from now on, whatever else happens."""
        lease.expires_at = self._clock() + ttl_s
        lease.expire_time = time.time() + ttl_s
        self._settle(lease)
        self._on_deadline()

    def unbind(self, lease: Lease, number: int) -> None:
        """A stream or connection has closed."""
        lease.streams.pop(number, None)
        lease.connections.pop(number, None)
        self._settle(lease)

    def process_died(self, pid: int) -> None:
        """A process that holds, or claims to hold, leases is dead."""
        for lease in self.alive():
            if pid == lease.claimed_pid or pid in lease.pids:
                lease.dead.add(pid)
                for bindings in (lease.streams, lease.connections):
                    for number in [n for n, owner in bindings.items() if owner == pid]:
                        del bindings[number]
                self._settle(lease)

    def release(self, lease: Lease, reason: str = "RELEASED") -> None:
        """End a lease now."""
        if lease.state is LeaseState.ENDED:
            return
        lease.state, lease.end_reason = LeaseState.ENDED, reason
        lease.streams.clear()
        lease.connections.clear()
        lease.residents = ()  # it keeps them no more, nor anything of them
        del self._leases[lease.id]
        self._ended[lease.id] = lease
        while len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]
        lease.ended.set()
        self._on_end(lease)

    def sweep(self) -> None:
        """End what has run out."""
        now = self._clock()
        for lease in self.alive():
            if lease.expires_at is not None and lease.expires_at <= now:
                lease.expires_at = None
                self._settle(lease, "EXPIRED")
            elif lease.detached_until is not None and lease.detached_until <= now:
                self.release(lease, "DETACHED")

    def next_deadline(self) -> float | None:
        """When :meth:`sweep` next has something to do; None if never."""
        times = [
            t for lease in self.alive() for t in (lease.expires_at, lease.detached_until) if t is not None
        ]
        return min(times, default=None)

    def _settle(self, lease: Lease, reason: str = "HOLDER_DIED") -> None:
        if lease.state is LeaseState.ENDED:
            return
        if lease.streams or lease.connections or lease.expires_at is not None:
            lease.state, lease.detached_until = LeaseState.ACTIVE, None
            return
        known = lease.pids or ({lease.claimed_pid} - {0})
        if reason == "EXPIRED" or self._grace <= 0 or (known and known <= lease.dead):
            self.release(lease, reason)
            return
        if lease.state is not LeaseState.DETACHED:
            lease.state, lease.detached_until = LeaseState.DETACHED, self._clock() + self._grace
            self._on_deadline()

    def _number(self) -> int:
        self._next_binding += 1
        return self._next_binding


class TicketBook:
    """One-time tickets for the descriptor socket.

    Args:
        valid_s: Seconds that a ticket is good for.
        clock: Monotonic seconds.
    """

    def __init__(self, *, valid_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._valid = valid_s
        self._clock = clock
        self._tickets: dict[bytes, tuple[float, str]] = {}

    def issue(self, lease_id: str) -> bytes:
        """A new ticket for a lease."""
        now = self._clock()
        self._tickets = {k: v for k, v in self._tickets.items() if v[0] > now}
        ticket = secrets.token_bytes(SECRET_BYTES)
        self._tickets[hashlib.sha256(ticket).digest()] = (now + self._valid, lease_id)
        return ticket

    def redeem(self, ticket: bytes) -> str:
        """The lease that a ticket is for; the ticket is then used up.

        Raises:
            ForbiddenTicketException: Wrong, used, or too old.
        """
        until, lease_id = self._tickets.pop(hashlib.sha256(ticket).digest(), (0.0, ""))
        if not lease_id or until <= self._clock():
            raise ForbiddenTicketException(
                "The ticket is wrong, was used before, or is too old: ask for another."
            )
        return lease_id


def _unknown(lease_id: str) -> UnknownLeaseException:
    return UnknownLeaseException(f"No lease {lease_id} is alive.", metadata={"lease_id": lease_id})
