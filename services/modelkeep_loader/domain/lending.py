"""The core of LoaderService: plans, room, leases and tickets brought together, one method for each wish.

Everything here lives in memory. What the next loader needs to go on with residents and leases is written down
where they change (:mod:`modelkeep_loader.domain.ledger`), and taken over before it serves
(:mod:`modelkeep_loader.domain.adoption`). Workers go on with what they have mapped meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from modelkeep.exceptions import (
    FieldInvalidException,
    FieldViolation,
    ForbiddenTicketException,
    UnknownLeaseException,
)
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.caches import Caches
from modelkeep_loader.domain.components import ChangedMeanwhileException, ComponentRef, Plan, Resident
from modelkeep_loader.domain.connection import HeldConnection
from modelkeep_loader.domain.demand import NO_TERMS, Terms, Usage
from modelkeep_loader.domain.demotion import Demotions, Offers
from modelkeep_loader.domain.devices import DeviceCapacity, Devices
from modelkeep_loader.domain.drain import Drain
from modelkeep_loader.domain.estimate import Estimate, estimate
from modelkeep_loader.domain.gauge import Gauge
from modelkeep_loader.domain.grants import Grants
from modelkeep_loader.domain.lease import Lease, LeaseEnd, ended
from modelkeep_loader.domain.leases import LeaseTable
from modelkeep_loader.domain.loads import Loads, Plans
from modelkeep_loader.domain.outage import Remaining, remaining
from modelkeep_loader.domain.paths import Paths
from modelkeep_loader.domain.requests import (
    Alive,
    DemoteRequested,
    Granted,
    Loaded,
    Lost,
    News,
    Planned,
    RevokeRequested,
    Tell,
    Wish,
)
from modelkeep_loader.domain.tickets import TicketBook
from modelkeep_loader.domain.tiers import Disk, Tiers

_log = logging.getLogger(__name__)

#: Life of a lease by time, in seconds: default, shortest, longest.
_DEFAULT_TTL_S, _MIN_TTL_S, _MAX_TTL_S = 60.0, 1.0, 24 * 3600.0
#: Seconds between two looks at what changes without an event.
_SWEEP_S: Final = 1.0
#: Seconds between two signs of life of a held lease.
_ALIVE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """What there is on this host."""

    usage: Usage
    boot_id: str
    lease_count: int
    #: What the operator said who took it out of service; None: it is in service.
    out_of_service: str | None = None
    disk: Usage | None = None
    devices: Sequence[DeviceCapacity] = ()


class Lending:
    """The core of the service. Belongs to one event loop.

    Args:
        planner: Makes plans of what callers name.
        cache: Holds the components; `Lending` tells it when a lease ends.
        disk: Holds copies of their files, if there is such a tier.
        devices: The host's accelerators; none by default.
        offers: Told of copies on accelerators that RAM may need; None: nobody is.
        boot_id: Of this host.
        on_lease: Called with a lease whenever something has happened to it.
        paths: Delivers by path; None: nobody does.
        watch_process: Called with a process id that a holder says is his; whoever sees it die calls
            ``leases.process_died``.
        detach_grace_s: Seconds that a lease without bindings can be taken up again.
        ticket_valid_s: Seconds that a ticket is good for.
        max_leases: Leases in all.
        max_per_principal: Leases of one caller.
        keeps: Whether leases are left to the next loader when this one shuts down.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970.
    """

    def __init__(
        self,
        planner: Plans,
        cache: Cache,
        *,
        disk: Disk | None = None,
        devices: Devices | None = None,
        offers: Offers | None = None,
        boot_id: str,
        on_lease: Callable[[Lease], None] = lambda lease: None,
        paths: Paths | None = None,
        watch_process: Callable[[int], None] = lambda pid: None,
        detach_grace_s: float = 5.0,
        ticket_valid_s: float = 10.0,
        max_leases: int = 4096,
        max_per_principal: int = 64,
        keeps: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.leases = LeaseTable(
            on_end=self._ended,
            on_change=on_lease,
            on_deadline=self._nudge,
            detach_grace_s=detach_grace_s,
            max_leases=max_leases,
            max_per_principal=max_per_principal,
            clock=clock,
            wall_clock=wall_clock,
        )
        self.planner = planner
        self.cache = cache
        self.devices = devices if devices is not None else Devices()
        self.caches = Caches(cache, self.devices)
        self.tiers = Tiers(self.caches, disk)
        self._boot_id = boot_id
        self._paths = paths
        self.tickets = TicketBook(valid_s=ticket_valid_s, clock=clock)
        self._keeps = keeps
        self._clock = clock
        self._drain = Drain()
        self.gauge = Gauge(self.capacity, self._drain, clock)
        self._loads = Loads(planner, self.caches, self._drain, self.caches.placement, clock)
        self._grants = Grants(
            self.leases,
            self.tickets,
            self.caches,
            self._loads,
            self._drain,
            paths=paths,
            boot_id=boot_id,
            watch_process=watch_process,
        )
        self._demotions = Demotions(self.leases, self.caches, offers, clock=clock, wall_clock=wall_clock)
        self._woken = asyncio.Event()
        self._reaper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to end what runs out."""
        self._reaper = asyncio.get_running_loop().create_task(self._reap(), name="lease reaper")
        self.devices.open()

    def drain(self) -> None:
        """End what waits and what holds by :meth:`hold` with SERVER_DRAINING."""
        if self._keeps:
            self.leases.leave_detached()
        self._drain.begin()

    async def close(self) -> None:
        """Let go of all memory, and end every lease that is not left to the next loader."""
        if self._reaper is not None:
            self._reaper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reaper
        for lease in [] if self._keeps else self.leases.alive():
            self.leases.release(lease, LeaseEnd.DRAINED)
        if self._paths is not None:
            await self._paths.close()
        await self.caches.close()
        self.planner.close()

    # Leases.

    async def hold(self, wish: Wish, tell: Tell) -> None:
        """Load components, lease them, and keep the lease alive until it ends or the caller is cancelled.

        Args:
            wish: What is wanted.
            tell: Hears how it goes; the lease is told as Granted.

        Raises:
            WrongHostException: The caller is on another host.
            LeasesExhaustedException: There are as many leases as there may be.
            ServerDrainingException: The loader shuts down.
            ModelkeepError: What :meth:`modelkeep_loader.domain.plan.Planner.plan` and
                :meth:`modelkeep_loader.domain.cache.Cache.acquire` raise, or the wish's ``brief``.
        """
        self._grants.check(wish)
        lease, brief = self._grants.take_up(wish) if wish.lease_id else await self._grants.lend(wish, tell)
        binding = self.leases.bind_stream(lease)
        try:
            await tell(await self._grants.granted(wish, lease, brief, tell))
            await self._follow(lease, tell)
            if lease.end is not LeaseEnd.RELEASED:
                await tell(Lost(ended(lease)))
        finally:
            self.leases.unbind(lease, binding)

    async def acquire(self, wish: Wish, ttl_s: float | None) -> Granted:
        """Load components and lease them for some seconds; None: for the default.

        Raises:
            FieldInvalidException: The ttl is shorter or longer than allowed.
            ModelkeepError: See :meth:`hold`.
        """
        self._grants.check(wish)
        ttl_s = _checked(ttl_s)
        lease, brief = await self._grants.lend(wish, None)
        self.leases.bind_ttl(lease, ttl_s)
        return await self._grants.granted(wish, lease, brief, None)

    def renew(self, lease_id: str, secret: bytes, ttl_s: float | None) -> tuple[Lease, bytes]:
        """Let a lease live for so many seconds from now on; a new ticket comes with it.

        Raises:
            FieldInvalidException: The ttl is shorter or longer than allowed.
            UnknownLeaseException, ForbiddenTicketException: See :meth:`LeaseTable.authorise`.
        """
        lease = self.leases.authorise(lease_id, secret)
        self.leases.bind_ttl(lease, _checked(ttl_s))
        return lease, self.tickets.issue(lease.id)

    def release(self, lease_id: str, secret: bytes) -> Lease:
        """End a lease, as its holder.

        Raises:
            UnknownLeaseException, ForbiddenTicketException: See :meth:`LeaseTable.authorise`.
        """
        lease = self.leases.authorise(lease_id, secret)
        self.leases.release(lease)
        return lease

    async def demote(self, lease_id: str, secret: bytes) -> Lease:
        """A holder has let go of accelerators' memory; what it holds it keeps in RAM.

        Raises:
            UnknownLeaseException, ForbiddenTicketException: See :meth:`LeaseTable.authorise`.
            ModelkeepError: See :meth:`Demotions.demote`.
        """
        lease = self.leases.authorise(lease_id, secret)
        await self._demotions.demote(lease)
        return self.leases.authorise(lease_id, secret)

    async def promote(self, wish: Wish) -> Granted:
        """Bring the components of a demoted lease back to their accelerators.

        Raises:
            UnknownLeaseException, ForbiddenTicketException: See :meth:`LeaseTable.authorise`.
            ModelkeepError: See :meth:`Demotions.promote`.
        """
        lease = self.leases.authorise(wish.lease_id, wish.lease_secret)
        await self._demotions.promote(lease, wish.max_wait_s)
        lease = self.leases.authorise(wish.lease_id, wish.lease_secret)
        return await self._grants.granted(wish, lease, wish.brief(lease.plans_now, lease.residents), None)

    def revoke(self, lease_id: str, why: str, by: str, grace_s: float = 0.0) -> Lease:
        """End somebody's lease, now or when a grace is over.

        Raises:
            UnknownLeaseException: There is none, or it has ended.
        """
        lease = self.leases.revoke(lease_id, why, grace_s)
        _log.warning("%s revoked the lease %s; grace: %g s", by or "a caller", lease.id, grace_s)
        return lease

    async def take_out(
        self, why: str, by: str, *, timeout_s: float, revoke: bool
    ) -> AsyncGenerator[Remaining]:
        """Give no new leases from now on, and tell how many are left until none is or the time is over.

        Args:
            why: For those who are refused, and for holders.
            by: Who asks, for the log.
            timeout_s: Longest wait.
            revoke: Ask all leases back, with that time as grace.

        Raises:
            ServerDrainingException: The loader shuts down meanwhile.
        """
        self._drain.close(why)
        self.gauge.moved()
        _log.warning("%s took the loader out of service", by or "a caller")
        if revoke:
            for lease in self.leases.alive():
                self.leases.revoke(lease.id, why, timeout_s)
        async for left in remaining(
            self._living,
            self.caches.leased_bytes,
            self._drain,
            timeout_s,
            self._clock,
        ):
            yield left

    def put_back(self, by: str) -> bool:
        """Give leases again; whether :meth:`take_out` had ended that."""
        was_out = self._drain.reopen()
        if was_out:
            self.gauge.moved()
            _log.warning("%s put the loader into service again", by or "a caller")
        return was_out

    def find_leases(
        self, key: str, labels: Mapping[str, str] | None = None, after: tuple[Any, ...] = ()
    ) -> list[Lease]:
        """Living leases, the oldest first.

        Args:
            key: Of a model that they are on; "" for all.
            labels: Only those that have all of these.
            after: Time and id of a lease: only those that come after it.
        """
        found = sorted(self.leases.alive(), key=lambda lease: (lease.create_time, lease.id))
        return [
            lease
            for lease in found
            if (not key or any(ref.key == key for ref in lease.refs))
            and lease.has_labels(labels or {})
            and (lease.create_time, lease.id) > after
        ]

    def redeem(self, ticket: bytes, pid: int, uid: int) -> HeldConnection:
        """See :class:`modelkeep_loader.fd_socket.Desk`."""
        try:
            lease = self.leases.get(self.tickets.redeem(ticket))
        except UnknownLeaseException as error:
            raise ForbiddenTicketException(error.message, remedy=error.remedy) from None
        if lease.ended.is_set():
            raise ForbiddenTicketException(
                f"The lease {lease.id} has ended meanwhile.",
                remedy="Ask for a new lease: AcquireLease or HoldModel.",
            )
        return HeldConnection(self.leases, lease, self.leases.bind_connection(lease, pid, uid))

    # Components.

    async def load(
        self,
        refs: Sequence[ComponentRef],
        max_wait_s: float,
        tell: Tell,
        terms: Terms = NO_TERMS,
        *,
        on_devices: bool = False,
    ) -> None:
        """Make components resident, and leave them to whoever wants them.

        Args:
            refs: The components.
            max_wait_s: Seconds to wait for room.
            tell: Hears how it goes.
            terms: For how long they are kept.
            on_devices: Whether all that can be on an accelerator has to be.

        Raises:
            FieldInvalidException: There is no accelerator for it.
            ServerDrainingException, ModelkeepError: See :meth:`hold`.
        """
        self._drain.check()
        demand = await self._loads.demand(refs, tell, is_lease=False, terms=terms)
        if on_devices:
            self.caches.placement.refuse_ram(demand.plans)
        await tell(Planned(demand))
        try:
            try:
                await self._loads.meet(demand, max_wait_s, tell)
            except ChangedMeanwhileException:
                demand = await self._loads.again(demand, tell)
                await tell(Planned(demand))
                await self._loads.meet(demand, max_wait_s, tell)
            last = len(demand.residents) - 1
            for place, resident in enumerate(demand.residents):
                await tell(Loaded(resident, place == last))
        finally:
            self.caches.give_back(demand.holder)

    async def pin(
        self, refs: Sequence[ComponentRef], *, load: bool = False, max_wait_s: float = 0.0
    ) -> list[tuple[Plan, Resident | None]]:
        """Keep components in memory whatever else needs room, once they are there.

        Args:
            refs: The components.
            load: Whether to bring them there, too; if that fails nothing is pinned that was not before.
            max_wait_s: Seconds to wait for room.

        Returns:
            What the components are now, and what there is of each.

        Raises:
            ServerDrainingException, ModelkeepError: See :meth:`hold`.
        """
        demand = await self._loads.demand(refs, None, is_lease=False)
        new = self.tiers.pin(demand.plans)
        if load:
            try:
                await self.load(refs, max_wait_s, _no_news)
                demand = await self._loads.demand(refs, None, is_lease=False)  # files may have changed
            except BaseException:
                self.tiers.unpin(new, exactly=True)
                raise
        return [(plan, self.caches.get(plan)) for plan in demand.plans]

    def unpin(self, refs: Sequence[ComponentRef]) -> list[ComponentRef]:
        """See :meth:`modelkeep_loader.domain.tier.Tier.unpin`."""
        return self.tiers.unpin(refs)

    async def load_to_disk(self, refs: Sequence[ComponentRef], max_wait_s: float, tell: Tell) -> None:
        """See :meth:`modelkeep_loader.domain.tiers.Tiers.load_to_disk`."""
        self._drain.check()
        await self.tiers.load_to_disk(refs, max_wait_s, tell, self._loads)

    async def estimate(self, refs: Sequence[ComponentRef], terms: Terms) -> Estimate:
        """What loading components on some terms would take. Changes nothing.

        Raises:
            ModelkeepError: See :meth:`modelkeep_loader.domain.plan.Planner.outline`.
            FieldInvalidException, DeviceUnavailableException: See :meth:`Devices.candidates`.
        """
        self.caches.placement.check(refs)
        disk = self.tiers.disk
        has_copies = disk.has if disk is not None else lambda plan: False
        plans = await self.planner.outline(refs)
        await self.devices.measure()
        plans = self.caches.placement.placed(plans, terms)
        return estimate(plans, self.caches, terms.activation_bytes, has_copies)

    def capacity(self) -> Capacity:
        """The host and its memory as they are now."""
        disk = self.tiers.disk.cache.usage() if self.tiers.disk is not None else None
        devices = [DeviceCapacity.of(device) for device in self.devices.all]
        leases = len(self.leases.alive())
        return Capacity(self.cache.usage(), self._boot_id, leases, self._drain.why, disk, devices)

    async def _follow(self, lease: Lease, tell: Tell) -> None:
        """Tell a holder what becomes of its lease, until it ends."""
        asked, waited_for = None, None
        while not lease.ended.is_set():
            if lease.demotion is not waited_for:
                waited_for = lease.demotion
                if waited_for is not None:
                    await tell(DemoteRequested(waited_for))
            elif lease.revocation is not asked and lease.revocation is not None:
                asked = lease.revocation
                await tell(RevokeRequested(asked))
            elif not await self._drain.until(lease.stirred, _ALIVE_S):
                await tell(Alive())

    # What runs out.

    def _living(self) -> list[Lease]:
        """The leases that go on now: those that run out in this moment do not."""
        self.leases.sweep()
        return self.leases.alive()

    def _ended(self, lease: Lease) -> None:
        self.tickets.forget(lease.id)
        if self._paths is not None:
            self._paths.give_back(lease.id)  # before the cache, which wakes those who wait for room
        self.caches.give_back(lease.id)

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
            if self._paths is not None:
                self._paths.sweep()
            self.tiers.sweep()


def _checked(ttl_s: float | None) -> float:
    if ttl_s is None:
        return _DEFAULT_TTL_S
    if not _MIN_TTL_S <= ttl_s <= _MAX_TTL_S:
        raise FieldInvalidException(
            "The ttl is out of range.", violations=[FieldViolation("ttl", "must be between 1 s and 24 h")]
        )
    return ttl_s


async def _no_news(news: News) -> None:
    """Nobody listens."""
