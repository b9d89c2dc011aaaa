"""Lending: plans, cache, leases and tickets brought together. The service's methods call only this.

Everything here lives and dies with the process: leases are not written down, because memory that nobody
holds any more cannot be taken up again after a restart. Workers go on with what they have mapped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from modelkeep.exceptions import (
    FieldInvalidException,
    FieldViolation,
    ForbiddenTicketException,
    ModelkeepError,
    UnknownLeaseException,
    WrongHostException,
)
from modelkeep_loader.domain.cache import Demand, RamCache
from modelkeep_loader.domain.components import ComponentRef
from modelkeep_loader.domain.digests import Reading
from modelkeep_loader.domain.leases import Lease, LeaseEnd, LeaseTable
from modelkeep_loader.domain.plan import Planner
from modelkeep_loader.domain.tickets import TicketBook
from modelkeep_loader.processes import DeathWatch, Peer, open_process

#: Life of a lease by time, in seconds: default, shortest, longest.
DEFAULT_TTL_S, MIN_TTL_S, MAX_TTL_S = 60.0, 1.0, 24 * 3600.0
_SWEEP_S = 1.0


def host_boot_id() -> str:
    """The boot id of this host; another one after each boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


class Lending:
    """The core of the service. Belongs to one event loop.

    Args:
        planner: Makes plans of what callers name.
        cache: Holds the components; `Lending` tells it when a lease ends.
        boot_id: Of this host.
        detach_grace_s: Seconds that a lease without bindings can be taken up again.
        ticket_valid_s: Seconds that a ticket is good for.
        max_leases: Leases in all.
        max_per_principal: Leases of one caller.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        planner: Planner,
        cache: RamCache,
        *,
        boot_id: str,
        detach_grace_s: float = 5.0,
        ticket_valid_s: float = 10.0,
        max_leases: int = 4096,
        max_per_principal: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.planner = planner
        self.cache = cache
        self.boot_id = boot_id
        self.tickets = TicketBook(valid_s=ticket_valid_s, clock=clock)
        self.leases = LeaseTable(
            on_end=self._ended,
            on_deadline=self._nudge,
            detach_grace_s=detach_grace_s,
            max_leases=max_leases,
            max_per_principal=max_per_principal,
            clock=clock,
        )
        self._clock = clock
        self._deaths = DeathWatch(self.leases.process_died)
        self._woken = asyncio.Event()
        self._reaper: asyncio.Task[None] | None = None
        self._loads = 0

    async def open(self) -> None:
        """Begin to end what runs out."""
        self._reaper = asyncio.get_running_loop().create_task(self._reap(), name="lease reaper")

    async def close(self) -> None:
        """End every lease and let go of all memory."""
        if self._reaper is not None:
            self._reaper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reaper
        for lease in self.leases.alive():
            self.leases.release(lease, LeaseEnd.DRAINED)
        self._deaths.close()
        await self.cache.close()
        self.planner.close()

    # Requests.

    def check_host(self, boot_id: str) -> None:
        """Refuse a caller on another host.

        Raises:
            WrongHostException: The boot id is not this host's; an empty one is not checked.
        """
        if boot_id and boot_id != self.boot_id:
            raise WrongHostException(
                "Leases are given on the worker's own host only: ask the loader of that host.",
                metadata={"expected_boot_id": self.boot_id, "actual_boot_id": boot_id},
            )

    async def demand(
        self, refs: Sequence[ComponentRef], *, is_lease: bool, reading: Reading | None = None
    ) -> Demand:
        """What a request wants, worked out but not begun.

        Args:
            refs: The components.
            is_lease: Whether a lease is wanted.
            reading: Told how far files are read for it.

        Raises:
            ModelkeepError: See :meth:`modelkeep_loader.domain.plan.Planner.plan`.
        """
        plans = await self.planner.plan(refs, reading)
        if is_lease:
            return Demand(plans, LeaseTable.new_id())
        self._loads += 1
        return Demand(plans, f"load-{self._loads}", is_lease=False)

    def grant(self, demand: Demand, *, label: str, claimed_pid: int, principal: str) -> Lease:
        """Turn a demand that was met into a lease, inside of `leases.room_for`. Give it a binding at once."""
        lease = self.leases.grant(
            demand.holder,
            demand.plans,
            list(demand.residents),
            label=label,
            claimed_pid=claimed_pid,
            principal=principal,
        )
        self._watch_claimed(claimed_pid)
        return lease

    def take_up(self, lease: Lease, refs: Sequence[ComponentRef], *, claimed_pid: int) -> None:
        """Go on with a living lease, if its components are known. Give it a binding at once.

        Raises:
            FieldInvalidException: It is a lease on something else.
        """
        if list(refs) != lease.refs:
            raise FieldInvalidException(
                f"The lease {lease.id} is on other components.",
                violations=[FieldViolation("components", "must be the components of the lease")],
            )
        self.leases.take_up(lease, claimed_pid)
        self._watch_claimed(claimed_pid)

    def redeem(self, ticket: bytes, peer: Peer) -> HeldConnection:
        """See :class:`modelkeep_loader.fd_socket.Desk`."""
        try:
            lease = self.leases.get(self.tickets.redeem(ticket))
            if lease.ended.is_set():
                raise ForbiddenTicketException("The lease has ended meanwhile.")
            number = self.leases.bind_connection(lease, peer.pid, peer.uid)
        except ModelkeepError as error:
            if peer.pidfd >= 0:
                os.close(peer.pidfd)
            if isinstance(error, UnknownLeaseException):
                raise ForbiddenTicketException(error.message) from None
            raise
        if peer.pidfd >= 0:
            self._deaths.watch(peer.pid, peer.pidfd)
        return HeldConnection(self.leases, lease, number)

    def _watch_claimed(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if pid and (pidfd := open_process(pid)) >= 0:
                self._deaths.watch(pid, pidfd)

    # What runs out.

    def _ended(self, lease: Lease) -> None:
        self.tickets.forget(lease.id)
        self.cache.give_back(lease.id)

    def _nudge(self) -> None:
        self._woken.set()

    async def _reap(self) -> None:
        while True:
            deadline = self.leases.next_deadline()
            pause = _SWEEP_S if deadline is None else min(_SWEEP_S, max(0.0, deadline - self._clock()))
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause + 0.005):
                    await self._woken.wait()
            self.leases.sweep()
            self.cache.sweep()


class HeldConnection:
    """A connection of the descriptor socket, as a binding of its lease."""

    def __init__(self, leases: LeaseTable, lease: Lease, number: int) -> None:
        self._leases = leases
        self._lease = lease
        self._number = number

    def descriptors(self) -> list[int]:
        """New read-only descriptors, in the order of the components; the caller closes them."""
        opened: list[int] = []
        try:
            for resident in self._lease.residents:
                assert resident.built is not None, "a lease is granted on residents only"
                opened.append(resident.built.memory.open_for_holder())
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        return opened

    @property
    def ended(self) -> asyncio.Event:
        """Set when the lease has ended."""
        return self._lease.ended

    def closed(self) -> None:
        """The connection is gone."""
        self._leases.unbind(self._lease, self._number)
