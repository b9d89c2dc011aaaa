"""Leases: who holds which components, and for how long.

A lease lives while one of its *bindings* does: an open HoldModel stream, an unexpired ttl, or a
connection on the descriptor socket. When the last one goes it is DETACHED for a short grace, in which its
id and secret take it up again; where every process known to hold it is dead, it ends at once, and so does
one that somebody has asked back. The kernel
tells the process behind a descriptor connection, and that process's death ends its bindings even when a
forked child has inherited the sockets. A process id that a client merely states only shortens the grace.

Nothing here looks at a clock or a process by itself: the caller passes the time and reports deaths.
"""

from __future__ import annotations

import contextlib
import hmac
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from modelkeep.exceptions import (
    ForbiddenTicketException,
    LeasesExhaustedException,
    ServerBusyException,
    UnknownLeaseException,
)
from modelkeep_loader.domain.components import Plan, Resident
from modelkeep_loader.domain.lease import (
    Lease,
    LeaseChange,
    LeaseEnd,
    LeaseState,
    Revocation,
    ended,
)
from modelkeep_loader.domain.tickets import SECRET_BYTES

#: Ended leases that are remembered, so that GetLease can still answer why.
_REMEMBERED: Final = 1024
#: Connections of the descriptor socket that one lease may have.
_CONNECTIONS: Final = 16
#: When to ask again, in seconds.
_RETRY_S: Final = 1.0


class LeaseTable:
    """All leases of the process.

    Args:
        on_end: Called once with each lease that ended.
        on_change: Called with a lease whenever something has happened to it, as its ``last_change`` says.
        on_deadline: Called when something runs out sooner than was known.
        detach_grace_s: Seconds that a lease without bindings can be taken up again.
        max_leases: Leases in all.
        max_per_principal: Leases of one caller.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970.
    """

    def __init__(
        self,
        *,
        on_end: Callable[[Lease], None],
        on_change: Callable[[Lease], None] = lambda lease: None,
        on_deadline: Callable[[], None] = lambda: None,
        detach_grace_s: float = 5.0,
        max_leases: int = 4096,
        max_per_principal: int = 64,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._on_end = on_end
        self._on_change = on_change
        self._on_deadline = on_deadline
        self._grace = detach_grace_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._max_leases = max_leases
        self._max_per_principal = max_per_principal
        self._leases: dict[str, Lease] = {}
        self._asked: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
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
            UnknownLeaseException: There is none, or it has ended; LeaseRevokedException if it was revoked.
            ForbiddenTicketException: The secret is another one.
        """
        lease = self.get(lease_id)
        if lease.state is LeaseState.ENDED:
            raise ended(lease)
        if not hmac.compare_digest(lease.secret, secret):
            raise ForbiddenTicketException(
                f"The secret is not that of the lease {lease_id}.",
                remedy="Use the lease_secret that came with the grant. Operators end a lease by RevokeLease.",
            )
        return lease

    # Its life.

    @contextlib.contextmanager
    def room_for(self, principal: str) -> Iterator[None]:
        """A place for one more lease, kept for a caller while its components are loaded.

        Raises:
            LeasesExhaustedException: There is none.
        """
        mine = self._held[principal] + self._asked[principal]
        if mine >= self._max_per_principal:
            raise LeasesExhaustedException(
                f"{principal or 'The caller'} holds {mine} leases, as many as one caller may.",
                metadata={
                    "limit": str(self._max_per_principal),
                    "setting": "max_leases_per_principal",
                    "principal": principal,
                },
                retry_after=_RETRY_S,
                remedy="Release leases that are not used any more, or raise max_leases_per_principal.",
            )
        if len(self._leases) + self._asked.total() >= self._max_leases:
            raise LeasesExhaustedException(
                f"{self._max_leases} leases are held, as many as the loader gives.",
                metadata={"limit": str(self._max_leases), "setting": "max_leases"},
                retry_after=_RETRY_S,
                remedy="Release leases that are not used any more, or raise max_leases.",
            )
        self._asked[principal] += 1
        try:
            yield
        finally:
            _count_down(self._asked, principal)

    def grant(
        self,
        lease_id: str,
        plans: Sequence[Plan],
        residents: Sequence[Resident],
        *,
        label: str = "",
        labels: Mapping[str, str] | None = None,
        claimed_pid: int = 0,
        principal: str = "",
        activation_bytes: int = 0,
        besides: Sequence[Resident] = (),
    ) -> Lease:
        """Begin a lease, for which there is room. It has no binding yet: give it one at once."""
        lease = Lease(
            id=lease_id,
            secret=secrets.token_bytes(SECRET_BYTES),
            refs=[plan.ref for plan in plans],
            display_names=[plan.display_name for plan in plans],
            resident_ids=[plan.id for plan in plans],
            plans=plans,
            residents=residents,
            create_time=self._wall_clock(),
            principal=principal,
            label=label,
            labels=dict(labels or {}),
            claimed_pid=claimed_pid,
            activation_bytes=activation_bytes,
            besides=besides,
        )
        self._leases[lease_id] = lease
        self._held[principal] += 1
        self._note(lease, LeaseChange.GRANTED)
        return lease

    def readopt(self, lease: Lease, grace_s: float) -> None:
        """Go on with a lease of an earlier loader. Its streams and connections went with that one, so it is
        DETACHED for a grace, unless its ttl binds it; it ends at once if its holders are dead.
        """
        self._leases[lease.id] = lease
        self._held[lease.principal] += 1
        lease.state = LeaseState.ACTIVE if lease.revocation is None else LeaseState.REVOKING
        if not lease.is_bound:
            lease.state, lease.detached_until = LeaseState.DETACHED, self._clock() + grace_s
        self._note(lease, LeaseChange.READOPTED)
        if not lease.is_bound and lease.holders_are_dead:
            self.release(lease, LeaseEnd.HOLDER_DIED)
        self._on_deadline()

    def leave_detached(self) -> None:
        """What loses its last binding from now on waits for the next loader, for however long that takes."""
        self._grace = math.inf

    def bind_stream(self, lease: Lease) -> int:
        """A stream is open; returns the binding's number."""
        # If the lease is known to be one process's, the stream is that process's too.
        number, living = self._number(), lease.pids - lease.dead
        owner = min(living) if len(living) == 1 else 0
        lease.streams[number] = owner if lease.may_be(owner) else 0
        self._bound(lease, LeaseChange.STREAM_OPENED)
        return number

    def bind_connection(self, lease: Lease, pid: int, uid: int) -> int:
        """A process holds a connection of the descriptor socket; returns the binding's number.

        ``pid`` is 0 for one that has no number here, in a container of its own: its connection alone counts.

        Raises:
            ServerBusyException: The lease has as many connections as it may.
        """
        if len(lease.connections) >= _CONNECTIONS:
            raise ServerBusyException(
                f"The lease has {_CONNECTIONS} connections on the descriptor socket, as many as one may.",
                metadata={"class": "descriptor connections", "limit": str(_CONNECTIONS)},
                remedy="Close one of them, or take a lease of its own for each process.",
            )
        number = self._number()
        lease.connections[number] = pid
        lease.uid = uid
        if pid:
            lease.pids.add(pid)
            lease.dead.discard(pid)  # the number of a dead process may come again
        if lease.may_be(pid):
            for stream, owner in lease.streams.items():
                lease.streams[stream] = owner or pid
        self._bound(lease, LeaseChange.CONNECTED)
        return number

    def take_up(self, lease: Lease, claimed_pid: int) -> None:
        """Somebody who knows the secret goes on with it; the dead who held it before count no more."""
        lease.claimed_pid = claimed_pid
        lease.pids -= lease.dead
        lease.dead.clear()
        self._note(lease, LeaseChange.TAKEN_UP)

    def bind_ttl(self, lease: Lease, ttl_s: float) -> None:
        """The lease lives for so many seconds from now on, whatever else happens."""
        lease.expires_at = self._clock() + ttl_s
        lease.expire_time = self._wall_clock() + ttl_s
        self._bound(lease, LeaseChange.RENEWED)
        self._on_deadline()

    def unbind(self, lease: Lease, number: int) -> None:
        """A stream or connection has closed."""
        was_there = lease.streams.pop(number, None) is not None
        was_there |= lease.connections.pop(number, None) is not None
        if was_there:
            self._unbound(lease)

    def process_died(self, pid: int) -> None:
        """A process that holds, or claims to hold, leases is dead."""
        for lease in self.alive():
            if pid == lease.claimed_pid or pid in lease.pids:
                lease.dead.add(pid)
                was_bound = False
                for bindings in (lease.streams, lease.connections):
                    for number in [n for n, owner in bindings.items() if owner == pid]:
                        del bindings[number]
                        was_bound = True
                if was_bound or not lease.is_bound:
                    self._unbound(lease)

    def release(self, lease: Lease, reason: LeaseEnd = LeaseEnd.RELEASED, message: str = "") -> None:
        """End a lease now."""
        if lease.state is LeaseState.ENDED:
            return
        lease.state, lease.end, lease.end_message = LeaseState.ENDED, reason, message
        lease.streams.clear()
        lease.connections.clear()
        lease.plans = lease.residents = lease.besides = ()  # it keeps them no more, nor anything of them
        _count_down(self._held, lease.principal)
        del self._leases[lease.id]
        self._ended[lease.id] = lease
        while len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]
        lease.ended.set()
        lease.stir()
        self._on_end(lease)
        self._note(lease, LeaseChange.ENDED)

    def revoke(self, lease_id: str, why: str, grace_s: float = 0.0) -> Lease:
        """End somebody's lease: now, or when a grace is over, of which its holders hear.

        Of several deadlines the earliest stands. A lease that nobody holds has no grace.

        Raises:
            UnknownLeaseException: There is none, or it has ended.
        """
        lease = self._leases.get(lease_id)
        if lease is None:
            raise _unknown(lease_id)
        before = lease.revocation
        deadline = self._clock() + grace_s
        if before is not None and before.deadline <= deadline and grace_s > 0:
            return lease
        why = why or (before.why if before is not None else "")
        if grace_s <= 0 or not lease.is_bound:
            self.release(lease, LeaseEnd.REVOKED, why)
            return lease
        lease.revocation = Revocation(why, deadline, self._wall_clock() + grace_s)
        self._bound(lease, LeaseChange.REVOKE_REQUESTED)
        lease.stir()
        self._on_deadline()
        return lease

    def demoted(self, lease: Lease) -> None:
        """Its holder has let go of accelerators' memory."""
        lease.demoted, lease.demotion = True, None
        self._note(lease, LeaseChange.DEMOTED)

    def promoted(self, lease: Lease) -> None:
        """Its components are on their accelerators again."""
        lease.demoted = False
        self._note(lease, LeaseChange.PROMOTED)

    def sweep(self) -> None:
        """End what has run out."""
        now = self._clock()
        for lease in self.alive():
            revocation = lease.revocation
            if revocation is not None and revocation.deadline <= now:
                self.release(lease, LeaseEnd.REVOKED, revocation.why)
            elif lease.expires_at is not None and lease.expires_at <= now:
                lease.expires_at = None
                self._unbound(lease, LeaseEnd.EXPIRED)
            elif lease.detached_until is not None and lease.detached_until <= now:
                self.release(lease, LeaseEnd.DETACHED)

    def next_deadline(self) -> float | None:
        """When :meth:`sweep` next has something to do; None if never."""
        times = [
            at
            for lease in self.alive()
            for at in (
                lease.expires_at,
                lease.detached_until,
                lease.revocation.deadline if lease.revocation is not None else None,
            )
            if at is not None
        ]
        return min(times, default=None)

    def _bound(self, lease: Lease, change: LeaseChange) -> None:
        """Something binds it: it is held."""
        if lease.state is LeaseState.ENDED:
            return
        lease.state = LeaseState.ACTIVE if lease.revocation is None else LeaseState.REVOKING
        lease.detached_until = None
        self._note(lease, change)

    def _unbound(self, lease: Lease, reason: LeaseEnd = LeaseEnd.HOLDER_DIED) -> None:
        """Something binds it no more: it goes on, waits to be taken up, or ends."""
        if lease.state is LeaseState.ENDED:
            return
        if lease.is_bound:
            self._note(lease, LeaseChange.UNBOUND)
            return
        if reason is LeaseEnd.EXPIRED or self._grace <= 0 or lease.holders_are_dead:
            self.release(lease, reason)
        elif lease.revocation is not None:
            self.release(lease, LeaseEnd.REVOKED, lease.revocation.why)
        elif lease.state is not LeaseState.DETACHED:
            lease.state, lease.detached_until = LeaseState.DETACHED, self._clock() + self._grace
            self._note(lease, LeaseChange.DETACHED)
            self._on_deadline()

    def _note(self, lease: Lease, change: LeaseChange) -> None:
        lease.last_change, lease.last_change_time = change, self._wall_clock()
        self._on_change(lease)

    def _number(self) -> int:
        self._next_binding += 1
        return self._next_binding


def _count_down(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]


def _unknown(lease_id: str) -> UnknownLeaseException:
    return UnknownLeaseException(f"No lease {lease_id} is alive.", metadata={"lease_id": lease_id})
