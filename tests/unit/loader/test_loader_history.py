"""The history of residents: what lists and watchers are told."""

from __future__ import annotations

import asyncio

from modelkeep.loader.v1 import resident_pb2
from modelkeep_loader.store import ResidentHistory, read_residents

LOADING, RESIDENT = resident_pb2.RESIDENT_STATE_CONVERTING, resident_pb2.RESIDENT_STATE_RESIDENT


def resident(key: str, state: resident_pb2.ResidentState, leases: int = 0) -> resident_pb2.Resident:
    return resident_pb2.Resident(id=key, state=state, lease_count=leases)


async def test_a_burst_is_noted_with_every_state_and_only_the_last_of_its_leases() -> None:
    history = ResidentHistory()
    history.flush()
    for state, leases in ((LOADING, 0), (RESIDENT, 0), (RESIDENT, 1), (RESIDENT, 2)):
        history.changed("a", resident("a", state, leases))
    history.changed("never noted", None)
    watching = history.hub.watch(snapshot=read_residents, resume_token=history.flush())
    assert history.revisions() == {"a": 2}
    history.changed("a", None)
    async with asyncio.timeout(20):
        while not (events := (await anext(watching)).events):
            pass
    assert [(event.revision, event.resource_id, event.removed) for event in events] == [(3, "a", True)]
    assert history.revisions() == {}
    watching.close()
    await history.hub.drain(0.1)


async def test_a_watch_begins_with_the_residents_as_they_are() -> None:
    history = ResidentHistory()
    history.changed("b", resident("b", RESIDENT, 3))
    history.changed("a", resident("a", LOADING))
    history.flush()
    watching = history.hub.watch(snapshot=read_residents)
    frame = await anext(watching)
    seen = [(event.resource_id, event.put and event.put.revision) for event in frame.events]
    assert (seen, frame.snapshot_complete) == ([("a", 2), ("b", 1)], True)
    watching.close()
    await history.hub.drain(0.1)
