"""Leases and memory together, in any order: random calls against a small model of the rules."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkeep.exceptions import (
    LeaseRevokedException,
    LeasesExhaustedException,
    ModelInUseException,
    RamExhaustedException,
    UnknownLeaseException,
)
from modelkeep_loader.domain.components import Stage
from modelkeep_loader.domain.lease import Lease, LeaseEnd
from modelkeep_loader.domain.leases import LeaseTable
from support.kiln import Clock, Kiln, plan, ram_cache, want

PAGE = 4096
#: Components by name, and their pages; the budget is ten.
SIZES = {"a": 1, "b": 2, "c": 3, "d": 5, "e": 8}
BUDGET, PER_PRINCIPAL, IN_ALL, GRACE = 10, 3, 5, 5.0

_WHICH = st.integers(0, 20)
_ACQUIRE = st.tuples(
    st.just("acquire"), st.sampled_from("pqr"), st.sets(st.sampled_from("abcde"), min_size=1, max_size=2)
)
STEPS = st.one_of(
    *[_ACQUIRE] * 6,  # most of what happens, or there would be little to hold
    st.tuples(st.just("renew"), _WHICH, st.integers(1, 30)),
    st.tuples(st.just("release"), _WHICH, st.none()),
    st.tuples(st.just("revoke"), _WHICH, st.integers(0, 20)),
    st.tuples(st.just("evict"), st.sampled_from("abcde"), st.none()),
    st.tuples(st.just("load"), st.sampled_from("abcde"), st.none()),
    st.tuples(st.just("wait"), st.integers(0, 20), st.none()),
    st.tuples(st.just("disconnect"), _WHICH, st.none()),
)


@dataclass
class Expected:
    """What the model knows of a lease."""

    principal: str
    names: frozenset[str]
    until: float
    asked_back: float | None = None
    end: LeaseEnd | None = None


class House:
    """The table and the tier as the service has them, and beside them what is expected."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cache = ram_cache(Kiln(), budget_bytes=BUDGET * PAGE, clock=self.clock)
        self.table = LeaseTable(
            on_end=lambda lease: self.cache.give_back(lease.id),
            detach_grace_s=GRACE,
            max_leases=IN_ALL,
            max_per_principal=PER_PRINCIPAL,
            clock=self.clock,
        )
        self.leases: list[Lease] = []
        self.expected: dict[str, Expected] = {}

    def alive(self) -> list[Expected]:
        return [one for one in self.expected.values() if one.end is None]

    async def acquire(self, principal: str, names: set[str]) -> None:
        plans = [plan(name, SIZES[name] * PAGE) for name in sorted(names)]
        mine = sum(one.principal == principal for one in self.alive())
        full = mine >= PER_PRINCIPAL or len(self.alive()) >= IN_ALL
        held = {name for one in self.alive() for name in one.names}
        fits = sum(SIZES[name] for name in held | names) <= BUDGET
        try:
            with self.table.room_for(principal):
                demand = want(self.table.new_id(), *plans)
                await self.cache.acquire(demand)
                lease = self.table.grant(demand.holder, plans, list(demand.residents), principal=principal)
                self.table.bind_ttl(lease, 10)
        except LeasesExhaustedException:
            assert full
        except RamExhaustedException:
            assert not full
            assert not fits
        else:
            assert not full
            assert fits
            self.leases.append(lease)
            self.expected[lease.id] = Expected(principal, frozenset(names), self.clock() + 10)

    async def renew(self, lease: Lease, ttl: int) -> None:
        one = self.expected[lease.id]
        try:
            self.table.bind_ttl(self.table.authorise(lease.id, lease.secret), ttl)
        except LeaseRevokedException:
            assert one.end is LeaseEnd.REVOKED
        except UnknownLeaseException:
            assert one.end not in (None, LeaseEnd.REVOKED)
        else:
            assert one.end is None
            one.until = self.clock() + ttl

    async def release(self, lease: Lease, _nothing: None) -> None:
        one = self.expected[lease.id]
        self.table.release(lease)
        one.end = one.end or LeaseEnd.RELEASED

    async def revoke(self, lease: Lease, grace: int) -> None:
        one = self.expected[lease.id]
        try:
            self.table.revoke(lease.id, "why", grace)
        except UnknownLeaseException:
            assert one.end is not None
        else:
            assert one.end is None
            if grace:
                one.asked_back = min(one.asked_back or math.inf, self.clock() + grace)
            else:
                one.end = LeaseEnd.REVOKED

    async def disconnect(self, lease: Lease, _nothing: None) -> None:
        if self.expected[lease.id].end is None:  # a connection that comes and goes changes nothing
            self.table.unbind(lease, self.table.bind_connection(lease, 0, 0))

    async def evict(self, name: str, _nothing: None) -> None:
        held = any(name in one.names for one in self.alive())
        try:
            self.cache.evict(name)
        except ModelInUseException:
            assert held
        else:
            assert not held

    async def load(self, name: str, _nothing: None) -> None:
        held = {used for one in self.alive() for used in one.names}
        try:
            await self.cache.acquire(want("load", plan(name, SIZES[name] * PAGE), lease=False))
        except RamExhaustedException:
            assert sum(SIZES[used] for used in held | {name}) > BUDGET
        finally:
            self.cache.give_back("load")

    async def wait(self, seconds: int, _nothing: None) -> None:
        self.clock.now += seconds
        self.table.sweep()
        self.cache.sweep()
        for one in self.alive():
            if one.asked_back is not None and one.asked_back <= self.clock():
                one.end = LeaseEnd.REVOKED
            elif one.until <= self.clock():
                one.end = LeaseEnd.EXPIRED

    def check(self) -> None:
        alive = {key for key, one in self.expected.items() if one.end is None}
        assert {lease.id for lease in self.table.alive()} == alive
        assert {lease.id: lease.end for lease in self.leases} == {k: e.end for k, e in self.expected.items()}
        there = {resident.id: resident for resident in self.cache.tier.residents()}
        for key in alive:
            for name in self.expected[key].names:
                assert there[name].stage is Stage.RESIDENT, "what a lease holds is there"
                assert key in there[name].leases
        assert {key for resident in there.values() for key in resident.leases} <= alive
        usage = self.cache.usage()
        assert usage.used + usage.zombie <= usage.budget
        assert usage.leased == sum(SIZES[n] for n in {n for e in self.alive() for n in e.names}) * PAGE
        assert not self.table._asked
        assert sum(self.table._held.values()) == len(alive)


async def _live(steps: list[tuple[str, object, object]]) -> None:
    house = House()
    try:
        for name, first, second in steps:
            subject = first
            if isinstance(first, int) and name != "wait":
                if not house.leases:
                    continue
                subject = house.leases[first % len(house.leases)]
            await getattr(house, name)(subject, second)
            house.check()
    finally:
        await house.cache.close()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, min_size=25, max_size=50))
def test_never_over_a_limit_and_nothing_leased_is_evicted(steps: list[tuple[str, object, object]]) -> None:
    asyncio.run(_live(steps))
