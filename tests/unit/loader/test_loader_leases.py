"""Leases: which bindings keep them, and when they end. Pure state, time by hand."""

from __future__ import annotations

import pytest

from modelkeep.exceptions import (
    ForbiddenTicketException,
    LeaseRevokedException,
    LeasesExhaustedException,
    ServerBusyException,
    UnknownLeaseException,
)
from modelkeep_loader.domain.lease import Lease, LeaseEnd, LeaseState
from modelkeep_loader.domain.leases import LeaseTable
from modelkeep_loader.domain.tickets import TicketBook


class World:
    """A lease table with its time and what it reported."""

    def __init__(self, grace: float = 5.0) -> None:
        self.now = 100.0
        self.ended: list[str] = []
        self.table = LeaseTable(
            on_end=lambda lease: self.ended.append(lease.id),
            detach_grace_s=grace,
            max_leases=5,
            max_per_principal=3,
            clock=lambda: self.now,
        )

    def lease(self, claimed_pid: int = 0, principal: str = "") -> Lease:
        with self.table.room_for(principal):
            return self.table.grant(LeaseTable.new_id(), [], [], claimed_pid=claimed_pid, principal=principal)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.table.sweep()


def state(lease: Lease) -> LeaseState:
    return lease.state


@pytest.fixture
def world() -> World:
    return World()


def test_a_lease_lives_while_one_binding_does(world: World) -> None:
    lease = world.lease()
    stream = world.table.bind_stream(lease)
    connection = world.table.bind_connection(lease, 11, 0)
    world.table.bind_ttl(lease, 30)
    world.table.unbind(lease, stream)
    world.table.unbind(lease, connection)
    assert state(lease) is LeaseState.ACTIVE
    world.pass_time(29)
    assert not world.ended
    world.pass_time(1)
    assert world.ended == [lease.id]
    assert lease.end is LeaseEnd.EXPIRED


def test_without_bindings_it_is_detached_for_the_grace_and_can_be_taken_up(world: World) -> None:
    lease = world.lease()
    world.table.unbind(lease, world.table.bind_stream(lease))
    assert state(lease) is LeaseState.DETACHED
    assert world.table.next_deadline() == 105.0
    world.pass_time(4.9)
    world.table.bind_stream(world.table.authorise(lease.id, lease.secret))
    assert state(lease) is LeaseState.ACTIVE
    assert world.table.next_deadline() is None
    world.pass_time(1000)
    assert not world.ended
    world.table.unbind(lease, next(iter(lease.streams)))
    world.pass_time(5)
    assert world.ended == [lease.id]


@pytest.mark.parametrize("first", ["stream", "death"])
def test_with_its_process_dead_it_ends_at_once_in_whichever_order_the_news_comes(
    world: World, first: str
) -> None:
    lease = world.lease()
    stream = world.table.bind_stream(lease)
    connection = world.table.bind_connection(lease, 11, 0)
    if first == "stream":
        world.table.unbind(lease, stream)
        world.table.unbind(lease, connection)
        assert state(lease) is LeaseState.DETACHED
    world.table.process_died(11)
    assert world.ended == [lease.id]
    assert lease.end is LeaseEnd.HOLDER_DIED
    world.table.unbind(lease, stream)
    assert world.ended == [lease.id]


def test_the_holders_death_counts_though_a_child_keeps_its_sockets_open(world: World) -> None:
    lease = world.lease()
    world.table.bind_stream(lease)
    world.table.bind_connection(lease, 11, 0)
    world.table.process_died(11)
    assert state(lease) is LeaseState.ENDED


def test_a_second_process_keeps_the_lease_when_the_first_dies(world: World) -> None:
    lease = world.lease()
    world.table.bind_connection(lease, 11, 0)
    other = world.table.bind_connection(lease, 12, 0)
    world.table.process_died(11)
    assert state(lease) is LeaseState.ACTIVE
    assert lease.pid == 12
    world.table.unbind(lease, other)
    assert state(lease) is LeaseState.DETACHED


def test_a_claimed_pid_only_shortens_the_grace(world: World) -> None:
    lease = world.lease(claimed_pid=11)
    stream = world.table.bind_stream(lease)
    world.table.process_died(11)
    assert state(lease) is LeaseState.ACTIVE, "what the client says of itself ends no open stream"
    world.table.unbind(lease, stream)
    assert world.ended == [lease.id]


def test_a_worker_that_another_process_gave_its_ticket_to_ends_only_its_own_binding(world: World) -> None:
    lease = world.lease(claimed_pid=11)
    world.table.bind_stream(lease)
    world.table.bind_connection(lease, 12, 0)
    again = world.table.bind_stream(lease)
    world.table.process_died(12)
    assert state(lease) is LeaseState.ACTIVE, "the streams are those of process 11"
    assert again in lease.streams
    world.table.bind_connection(lease, 11, 0)
    world.table.process_died(11)
    assert world.ended == [lease.id]


def test_who_takes_a_lease_up_is_not_taken_for_the_dead_one_who_had_it(world: World) -> None:
    lease = world.lease(claimed_pid=11)
    world.table.bind_connection(lease, 11, 0)
    world.table.bind_ttl(lease, 10)
    world.table.process_died(11)
    world.table.take_up(lease, 12)
    stream = world.table.bind_stream(lease)
    world.pass_time(10)
    world.table.unbind(lease, stream)
    assert state(lease) is LeaseState.DETACHED, "process 12 lives, and may come again"
    world.table.process_died(12)
    assert world.ended == [lease.id]


def test_of_a_process_without_a_number_here_the_connection_alone_counts(world: World) -> None:
    lease = world.lease(claimed_pid=11)
    connection = world.table.bind_connection(lease, 0, 0)
    assert lease.pid == 11
    world.table.process_died(11)
    assert state(lease) is LeaseState.ACTIVE
    world.table.unbind(lease, connection)
    assert world.ended == [lease.id]


def test_a_ttl_outlives_the_process_that_asked_for_it(world: World) -> None:
    lease = world.lease(claimed_pid=11)
    world.table.bind_ttl(lease, 10)
    world.table.process_died(11)
    assert state(lease) is LeaseState.ACTIVE
    world.pass_time(10)
    assert world.ended == [lease.id]


def test_without_a_grace_it_ends_with_its_last_binding() -> None:
    world = World(grace=0)
    lease = world.lease()
    world.table.unbind(lease, world.table.bind_stream(lease))
    assert world.ended == [lease.id]


def test_released_is_released_once_and_remembered(world: World) -> None:
    lease = world.lease()
    world.table.bind_stream(lease)
    world.table.release(lease)
    world.table.release(lease)
    assert world.ended == [lease.id]
    assert lease.ended.is_set()
    assert world.table.get(lease.id).end is LeaseEnd.RELEASED
    assert not lease.residents, "their memory is not kept by a lease that only is remembered"
    assert world.table.alive() == []
    with pytest.raises(UnknownLeaseException):
        world.table.authorise(lease.id, lease.secret)


def test_another_secret_opens_nothing(world: World) -> None:
    lease = world.lease()
    with pytest.raises(ForbiddenTicketException):
        world.table.authorise(lease.id, b"")
    with pytest.raises(UnknownLeaseException):
        world.table.get("lease-of-nobody")
    assert lease.secret.hex() not in repr(lease)


def test_ended_leases_are_not_kept_for_ever(world: World) -> None:
    first = world.lease()
    world.table.release(first)
    for _ in range(1100):
        world.table.release(world.lease())
    with pytest.raises(UnknownLeaseException):
        world.table.get(first.id)


def test_a_ticket_is_good_once_and_for_ten_seconds() -> None:
    now = 0.0
    book = TicketBook(clock=lambda: now)
    used, old = book.issue("lease-1"), book.issue("lease-2")
    assert len(used) == 32
    now = 9.9
    assert book.redeem(used) == "lease-1"
    for ticket in (used, b"x" * 32, b""):
        with pytest.raises(ForbiddenTicketException):
            book.redeem(ticket)
    now = 10.0
    with pytest.raises(ForbiddenTicketException):
        book.redeem(old)


def test_of_one_leases_tickets_the_last_four_are_good_and_none_after_its_end() -> None:
    book = TicketBook()
    other = book.issue("lease-2")
    tickets = [book.issue("lease-1") for _ in range(1000)]
    assert len(book._tickets) == 5
    with pytest.raises(ForbiddenTicketException):
        book.redeem(tickets[-5])
    assert book.redeem(tickets[-4]) == "lease-1"
    book.forget("lease-1")
    for ticket in tickets[-3:]:
        with pytest.raises(ForbiddenTicketException):
            book.redeem(ticket)
    assert book.redeem(other) == "lease-2"


def test_one_caller_cannot_take_all_leases_and_all_cannot_take_more_than_there_are(world: World) -> None:
    mine = [world.lease(principal="a") for _ in range(3)]
    with pytest.raises(LeasesExhaustedException) as raised:
        world.lease(principal="a")
    said = {"limit": "3", "setting": "max_leases_per_principal", "principal": "a"}
    assert raised.value.metadata.items() >= said.items()
    assert "raise max_leases_per_principal" in raised.value.remedy
    assert raised.value.retry_after
    for _ in range(2):
        world.lease(principal="b")
    with pytest.raises(LeasesExhaustedException) as raised:
        world.lease(principal="c")
    assert raised.value.metadata.items() >= {"limit": "5", "setting": "max_leases"}.items()
    world.table.release(mine[0])
    world.lease(principal="a")


def test_those_that_are_loaded_for_count_as_well(world: World) -> None:
    with world.table.room_for("a"), world.table.room_for("a"), world.table.room_for("a"):
        with pytest.raises(LeasesExhaustedException):
            world.lease(principal="a")
        world.lease(principal="b")
    world.lease(principal="a")
    assert not world.table._asked


def test_a_revoked_lease_ends_at_once_and_says_so_to_whoever_held_it(world: World) -> None:
    lease = world.lease()
    world.table.bind_ttl(lease, 60)
    assert world.table.revoke(lease.id, "the night shift needs it.") is lease
    assert (lease.end, lease.ended.is_set()) == (LeaseEnd.REVOKED, True)
    with pytest.raises(LeaseRevokedException, match=r"needs it\. Ask") as raised:
        world.table.authorise(lease.id, lease.secret)
    assert raised.value.metadata["why"] == "the night shift needs it."
    with pytest.raises(UnknownLeaseException):
        world.table.revoke(lease.id, "")


def test_a_lease_has_so_many_connections_and_no_more(world: World) -> None:
    lease = world.lease()
    numbers = [world.table.bind_connection(lease, 7, 0) for _ in range(16)]
    with pytest.raises(ServerBusyException):
        world.table.bind_connection(lease, 7, 0)
    world.table.unbind(lease, numbers[0])
    world.table.bind_connection(lease, 7, 0)
