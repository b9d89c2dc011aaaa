"""The history of residents: what lists and watchers are told."""

from __future__ import annotations

import asyncio

from modelkeep.loader.v1 import resident_pb2
from modelkeep_loader.store import ResidentHistory, read_residents

LOADING, RESIDENT = resident_pb2.RESIDENT_STATE_CONVERTING, resident_pb2.RESIDENT_STATE_RESIDENT


def resident(key: str, state: resident_pb2.ResidentState, leases: int = 0) -> resident_pb2.Resident:
    return resident_pb2.Resident(id=key, state=state, lease_count=leases)


def note(history: ResidentHistory, message: resident_pb2.Resident) -> None:
    history.changed(message.id, message.state, lambda: message)


def gone(history: ResidentHistory, key: str) -> None:
    history.changed(key, None, resident_pb2.Resident)


async def test_a_burst_is_noted_with_every_state_and_only_the_last_of_its_leases() -> None:
    history = ResidentHistory()
    history.flush()
    for state, leases in ((LOADING, 0), (RESIDENT, 0), (RESIDENT, 1), (RESIDENT, 2)):
        note(history, resident("a", state, leases))
    gone(history, "never noted")
    watching = history.hub.watch(snapshot=read_residents, resume_token=history.flush())
    assert history.revisions() == {"a": 2}
    gone(history, "a")
    async with asyncio.timeout(20):
        while not (events := (await anext(watching)).events):
            pass
    assert [(event.revision, event.resource_id, event.removed) for event in events] == [(3, "a", True)]
    assert history.revisions() == {}
    watching.close()
    await history.hub.drain(0.1)


async def test_a_watch_begins_with_the_residents_as_they_are() -> None:
    history = ResidentHistory()
    note(history, resident("b", RESIDENT, 3))
    note(history, resident("a", LOADING))
    history.flush()
    watching = history.hub.watch(snapshot=read_residents)
    frame = await anext(watching)
    seen = [(event.resource_id, event.put and event.put.revision) for event in frame.events]
    assert (seen, frame.snapshot_complete) == ([("a", 2), ("b", 1)], True)
    watching.close()
    await history.hub.drain(0.1)


async def test_what_only_leases_changed_is_found_out_when_it_is_noted_and_a_new_state_at_once() -> None:
    history = ResidentHistory()
    made: list[int] = []

    def change(state: resident_pb2.ResidentState, leases: int) -> None:
        def make() -> resident_pb2.Resident:
            made.append(leases)
            return resident("a", state, leases)

        history.changed("a", state, make)

    change(LOADING, 0)
    change(RESIDENT, 1)
    assert made == [0, 1]
    for leases in (2, 3, 4):
        change(RESIDENT, leases)
    assert made == [0, 1]
    history.flush()
    assert made == [0, 1, 4]
    assert history.revisions() == {"a": 2}
    change(RESIDENT, 5)
    change(LOADING, 6)
    assert made == [0, 1, 4, 6]
    history.flush()
    assert (made, history.revisions()) == ([0, 1, 4, 6], {"a": 3})
    change(RESIDENT, 7)
    change(RESIDENT, 8)
    change(LOADING, 9)  # that it was resident is noted all the same
    history.flush()
    assert (made, history.revisions()) == ([0, 1, 4, 6, 7, 9], {"a": 5})
    await history.hub.drain(0.1)
