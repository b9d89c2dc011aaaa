"""Leases that are asked back, and the journal of what happens to leases. Pure state, time by hand."""

from __future__ import annotations

import pytest

from modelkeep.exceptions import LeaseRevokedException
from modelkeep_loader.domain.lease import Lease, LeaseChange, LeaseEnd, LeaseState
from modelkeep_loader.domain.leases import LeaseTable


class World:
    """A lease table with its time, and every entry of the journal."""

    def __init__(self, grace: float = 5.0) -> None:
        self.now = 100.0
        self.told: list[LeaseChange] = []
        self.table = LeaseTable(
            on_end=lambda lease: None,
            on_change=lambda lease: self.told.append(lease.last_change),
            detach_grace_s=grace,
            clock=lambda: self.now,
            wall_clock=lambda: self.now + 1000.0,
        )

    def lease(self) -> Lease:
        return self.table.grant(LeaseTable.new_id(), [], [])

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.table.sweep()


def state(lease: Lease) -> LeaseState:
    return lease.state


@pytest.fixture
def world() -> World:
    return World()


def test_a_lease_that_is_asked_back_lives_until_the_deadline_and_says_why_it_ended(world: World) -> None:
    lease = world.lease()
    world.table.bind_stream(lease)
    world.table.revoke(lease.id, "the night shift needs it", grace_s=30)
    assert state(lease) is LeaseState.REVOKING
    assert lease.revocation is not None
    assert (lease.revocation.why, lease.revocation.deadline_time) == ("the night shift needs it", 1130.0)
    assert world.table.next_deadline() == 130.0
    world.pass_time(29.9)
    assert state(lease) is LeaseState.REVOKING
    world.pass_time(0.1)
    assert (state(lease), lease.end) == (LeaseState.ENDED, LeaseEnd.REVOKED)
    assert lease.end_message == "the night shift needs it"
    with pytest.raises(LeaseRevokedException, match="the night shift needs it"):
        world.table.authorise(lease.id, lease.secret)


def test_a_holder_that_gives_back_in_time_has_released_it(world: World) -> None:
    lease = world.lease()
    world.table.bind_stream(lease)
    world.table.revoke(lease.id, "", grace_s=30)
    world.table.release(lease)
    assert lease.end is LeaseEnd.RELEASED
    world.pass_time(60)
    assert lease.end is LeaseEnd.RELEASED


@pytest.mark.parametrize(
    ("first", "second", "deadline"), [(30.0, 10.0, 110.0), (10.0, 30.0, 110.0), (10.0, 10.0, 110.0)]
)
def test_of_two_deadlines_the_earlier_stands(
    world: World, first: float, second: float, deadline: float
) -> None:
    lease = world.lease()
    world.table.bind_ttl(lease, 1000)
    world.table.revoke(lease.id, "one", grace_s=first)
    world.table.revoke(lease.id, "", grace_s=second)
    assert lease.revocation is not None
    assert (lease.revocation.deadline, lease.revocation.why) == (deadline, "one")


def test_no_grace_ends_it_at_once_also_when_there_was_one_before(world: World) -> None:
    lease = world.lease()
    world.table.bind_stream(lease)
    world.table.revoke(lease.id, "soon", grace_s=30)
    world.table.revoke(lease.id, "")
    assert (lease.end, lease.end_message) == (LeaseEnd.REVOKED, "soon")


def test_renewal_and_new_bindings_move_no_deadline(world: World) -> None:
    lease = world.lease()
    world.table.bind_ttl(lease, 60)
    world.table.revoke(lease.id, "", grace_s=10)
    world.table.bind_ttl(lease, 3600)
    world.table.bind_connection(lease, 11, 0)
    world.table.bind_stream(lease)
    assert state(lease) is LeaseState.REVOKING
    world.pass_time(10)
    assert lease.end is LeaseEnd.REVOKED


def test_one_that_nobody_holds_gets_no_grace(world: World) -> None:
    detached, let_go = world.lease(), world.lease()
    world.table.unbind(detached, world.table.bind_stream(detached))
    assert state(detached) is LeaseState.DETACHED
    world.table.revoke(detached.id, "", grace_s=60)
    assert detached.end is LeaseEnd.REVOKED
    stream = world.table.bind_stream(let_go)
    world.table.revoke(let_go.id, "", grace_s=60)
    world.table.unbind(let_go, stream)
    assert let_go.end is LeaseEnd.REVOKED


def test_a_holder_that_dies_while_it_is_asked_has_died(world: World) -> None:
    lease = world.lease()
    world.table.bind_connection(lease, 11, 0)
    world.table.revoke(lease.id, "", grace_s=60)
    world.table.process_died(11)
    assert lease.end is LeaseEnd.HOLDER_DIED


def test_the_journal_has_every_grant_binding_state_and_end_in_order(world: World) -> None:
    lease = world.lease()
    stream = world.table.bind_stream(lease)
    connection = world.table.bind_connection(lease, 11, 0)
    world.table.unbind(lease, connection)
    world.table.unbind(lease, connection)  # known already: no entry
    world.table.unbind(lease, stream)
    world.table.take_up(lease, 12)
    world.table.bind_ttl(lease, 60)
    world.table.revoke(lease.id, "", grace_s=30)
    world.pass_time(30)
    assert [change.value for change in world.told] == [
        "granted",
        "stream_opened",
        "connected",
        "unbound",
        "detached",
        "taken_up",
        "renewed",
        "revoke_requested",
        "ended",
    ]


def test_the_death_of_a_process_is_an_entry_where_it_changes_something_only(world: World) -> None:
    lease = world.lease()
    world.table.bind_connection(lease, 11, 0)
    world.table.bind_ttl(lease, 60)
    before = len(world.told)
    world.table.process_died(12)
    assert len(world.told) == before
    world.table.process_died(11)
    assert [change.value for change in world.told[before:]] == ["unbound"]
    world.table.process_died(11)
    assert len(world.told) == before + 1
