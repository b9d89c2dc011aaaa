"""Grants: how a caller comes by a lease, a new one or one that goes on, and what it gives him."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from modelkeep.exceptions import FieldInvalidException, FieldViolation, WrongHostException
from modelkeep_loader.domain.caches import Caches
from modelkeep_loader.domain.components import ChangedMeanwhileException
from modelkeep_loader.domain.demand import Demand
from modelkeep_loader.domain.drain import Drain
from modelkeep_loader.domain.lease import Lease, ended
from modelkeep_loader.domain.leases import LeaseTable
from modelkeep_loader.domain.loads import Loads
from modelkeep_loader.domain.paths import Paths
from modelkeep_loader.domain.requests import Granted, Loading, Tell, Wish
from modelkeep_loader.domain.tickets import TicketBook

#: Seconds that files for a holder may take before there is news of them.
_FILES_S: Final = 0.15


class Grants:
    """Gives leases. Belongs to one event loop.

    Args:
        leases, tickets: What there is of both.
        caches: Hold the components.
        loads: Makes them resident.
        drain: Ends what waits, and refuses what is new.
        paths: Delivers by path; None: nobody does.
        boot_id: Of this host.
        watch_process: Called with a process id that a holder says is his.
    """

    def __init__(
        self,
        leases: LeaseTable,
        tickets: TicketBook,
        caches: Caches,
        loads: Loads,
        drain: Drain,
        *,
        paths: Paths | None,
        boot_id: str,
        watch_process: Callable[[int], None],
    ) -> None:
        self._leases = leases
        self._tickets = tickets
        self._caches = caches
        self._loads = loads
        self._drain = drain
        self._paths = paths
        self._boot_id = boot_id
        self._watch_process = watch_process

    def check(self, wish: Wish) -> None:
        """Refuse what cannot be given here.

        Raises:
            WrongHostException: The caller is on another host.
            FieldInvalidException: He wants it delivered as nobody does here.
        """
        if wish.boot_id and wish.boot_id != self._boot_id:
            raise WrongHostException(
                "The caller is on another host than this loader, and leases are given on the same host only.",
                metadata={"expected_boot_id": self._boot_id, "actual_boot_id": wish.boot_id},
            )
        if wish.with_paths and self._paths is None:
            raise FieldInvalidException(
                "This loader delivers nothing by path.",
                violations=[
                    FieldViolation("delivery", "must be another one, or path_dir of LoaderService set")
                ],
            )

    async def lend(self, wish: Wish, tell: Tell | None) -> tuple[Lease, Any]:
        """A new lease, and its brief. Bind it at once."""
        self._drain.check()
        with self._leases.room_for(wish.principal):
            # What is delivered by path is a copy of a file in RAM.
            demand = await self._loads.demand(
                wish.refs, tell, is_lease=True, terms=wish.terms, in_ram=wish.with_paths
            )
            try:
                await self._loads.meet(demand, wish.max_wait_s, tell)
            except ChangedMeanwhileException:
                demand = await self._loads.again(demand, tell)
                await self._loads.meet(demand, wish.max_wait_s, tell)
            try:
                brief = wish.brief(demand.plans, demand.residents)
            except BaseException:
                self._caches.give_back(demand.holder)
                raise
            lease = self._leases.grant(
                demand.holder,
                demand.plans,
                list(demand.residents),
                label=wish.label,
                labels=wish.labels,
                claimed_pid=wish.claimed_pid,
                principal=wish.principal,
                activation_bytes=wish.terms.activation_bytes,
                besides=self._caches.besides(demand),
            )
        self._watch(wish)
        return lease, brief

    def take_up(self, wish: Wish) -> tuple[Lease, Any]:
        """A living lease to go on with, and its brief. Bind it at once."""
        self._drain.check_running()
        lease = self._leases.authorise(wish.lease_id, wish.lease_secret)
        brief = wish.brief(lease.plans_now, lease.residents)
        if list(wish.refs) != lease.refs:
            raise FieldInvalidException(
                f"The lease {lease.id} is on other components.",
                violations=[FieldViolation("components", "must be the components of the lease")],
            )
        self._leases.take_up(lease, wish.claimed_pid)
        self._watch(wish)
        return lease, brief

    def _watch(self, wish: Wish) -> None:
        if wish.claimed_pid:
            self._watch_process(wish.claimed_pid)

    async def granted(self, wish: Wish, lease: Lease, brief: Any, tell: Tell | None) -> Granted:
        """What a lease gives, once it has its binding."""
        if self._paths is None or not wish.with_paths:
            return Granted(lease, brief, self._tickets.issue(lease.id) if wish.with_ticket else b"")
        demand = Demand(lease.plans, lease.id, residents=list(lease.residents))
        work = asyncio.ensure_future(self._paths.lend(lease.id, demand.residents))
        try:
            await self._drain.follow(work, tell, lambda: Loading(demand, 0), patience_s=_FILES_S)
            return Granted(lease, brief, b"", work.result())
        except Exception:
            if lease.ended.is_set():
                raise ended(lease) from None
            raise
        finally:
            if not wish.lease_id and (work.cancelled() or work.exception() is not None):
                self._leases.release(lease)  # nobody was told of it
