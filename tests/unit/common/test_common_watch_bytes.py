"""What watchers leave unread is bounded in bytes, for each and for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from modelkeep.exceptions import WatcherTooSlowException
from modelkeep_common.limits import StoreLimits
from modelkeep_common.sqlite import Connection, Database
from modelkeep_common.watch import Frame, Watch, WatchHub
from modelkeep_common.watch.sqlite_log import SqliteLog, append_change
from support.commonwatch import MIGRATIONS
from support.waiting import until

KIB = 1024
LIMITS = StoreLimits(watch_queue_bytes=100 * KIB, watch_queues_bytes=1000 * KIB)
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "t.db", MIGRATIONS, "test", limits=LIMITS)
    yield database
    await database.close()


@pytest.fixture
async def hub(db: Database) -> AsyncIterator[WatchHub[StringValue]]:
    made: WatchHub[StringValue] = WatchHub(SqliteLog(db, "items"), parse=StringValue.FromString)
    yield made
    await made.drain(0.1)


async def read_all(conn: Connection) -> AsyncIterator[tuple[str, StringValue]]:
    for key, body in conn.execute("SELECT id, body FROM items"):
        yield key, StringValue(value=body)


async def put(db: Database, key: str, size: int) -> int:
    def work(conn: Connection) -> int:
        conn.execute("INSERT OR REPLACE INTO items VALUES (?, ?)", (key, "x" * size))
        return append_change(conn, "items", key, StringValue(value="x" * size).SerializeToString())

    return await db.write(work)


def everything(_: StringValue) -> bool:
    return True


async def opened(hub: WatchHub[StringValue], *, filtered: bool = False) -> Watch[StringValue]:
    """A watch whose first frame was read."""
    watch = hub.watch(snapshot=read_all, matches=everything if filtered else None)
    await anext(watch)
    return watch


async def live(hub: WatchHub[StringValue], *, filtered: bool = False) -> Watch[StringValue]:
    watch = await opened(hub, filtered=filtered)
    while (await anext(watch)).phase != "LIVE":
        pass
    return watch


async def frames(watch: Watch[StringValue], revision: int) -> list[Frame[StringValue]]:
    """All frames up to a revision."""
    found = [await anext(watch)]
    while not any(event.revision == revision for event in found[-1].events):
        found.append(await anext(watch))
    return found


@pytest.mark.parametrize("filtered", [False, True])
async def test_a_slow_reader_holds_few_bytes_and_misses_nothing(
    db: Database, hub: WatchHub[StringValue], filtered: bool
) -> None:
    slow, quick = await live(hub, filtered=filtered), await live(hub)
    revisions = []
    for number in range(60):
        revisions.append(await put(db, f"k{number}", 20 * KIB))
        await anext(quick)
        assert slow.waiting_bytes <= LIMITS.watch_queue_bytes
    got = await frames(slow, revisions[-1])
    assert [event.revision for frame in got for event in frame.events] == revisions
    later = await put(db, "k0", 1)
    await frames(slow, later)
    for watch in (slow, quick):
        watch.close()
    assert hub.budget.held_bytes == 0


async def test_frames_that_catch_up_fit_into_a_message(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "big.db", MIGRATIONS, "test")
    hub: WatchHub[StringValue] = WatchHub(SqliteLog(db, "items"), parse=StringValue.FromString)
    watch = hub.watch(snapshot=read_all, skip_snapshot=True)
    token = (await anext(watch)).resume_token
    watch.close()
    for number in range(30):
        last = await put(db, f"k{number}", 200 * KIB)
    late = hub.watch(snapshot=read_all, resume_token=token)
    got = await frames(late, last)
    assert sum(len(frame.events) for frame in got) == 30
    for frame in got:
        assert sum(event.put.ByteSize() for event in frame.events if event.put is not None) <= 512 * KIB
    late.close()
    await hub.drain(0.1)
    await db.close()


async def test_the_slowest_are_ended_when_all_together_leave_too_much_and_newcomers_are_served(
    db: Database, hub: WatchHub[StringValue]
) -> None:
    quick = await live(hub)
    for number in range(20):
        revision = await put(db, f"k{number}", 30 * KIB)
        await anext(quick)
    stalled = [await opened(hub, filtered=True) for _ in range(6)]  # 600 KiB each, all but a frame unread
    tokens = [watch.token for watch in stalled]
    assert hub.budget.held_bytes <= LIMITS.watch_queues_bytes + 6 * 256 * KIB, "what is on its way stays"
    ended = []
    for watch in stalled:
        try:
            await asyncio.wait_for(anext(watch), 10)
        except WatcherTooSlowException as error:
            ended.append(error.metadata["resume_token"])
    assert len(ended) >= 3
    assert set(ended) == set(tokens[: len(ended)]), "the first to stall are the first to go"
    again = hub.watch(snapshot=read_all, matches=everything, resume_token=ended[0])
    keys = {event.resource_id async for frame in _until_complete(again) for event in frame.events}
    assert keys == {f"k{number}" for number in range(20)} - _first_keys()
    assert (await put(db, "k0", 10)) > revision
    await anext(quick)
    for watch in (*stalled, quick, again):
        watch.close()
    await until(lambda: hub.budget.held_bytes == 0)


async def _until_complete(watch: Watch[StringValue]) -> AsyncIterator[Frame[StringValue]]:
    async for frame in watch:
        yield frame
        if frame.snapshot_complete:
            return


def _first_keys() -> set[str]:
    """What the first frame of the snapshot held: 256 KiB of keys in their order."""
    return set(sorted(f"k{number}" for number in range(20))[:8])


async def test_a_snapshot_larger_than_the_limit_is_possible_for_one(
    db: Database, hub: WatchHub[StringValue]
) -> None:
    for number in range(60):
        await put(db, f"k{number}", 30 * KIB)
    watch = hub.watch(snapshot=read_all, matches=everything)
    keys = [event.resource_id async for frame in _until_complete(watch) for event in frame.events]
    assert len(keys) == 60
    watch.close()
    assert hub.budget.held_bytes == 0


async def test_a_frame_that_many_share_counts_once(db: Database, hub: WatchHub[StringValue]) -> None:
    crowd = [await live(hub) for _ in range(100)]
    await put(db, "k", 50 * KIB)
    await until(lambda: all(watch.waiting_bytes for watch in crowd))
    assert hub.budget.held_bytes < 60 * KIB
    for watch in crowd:
        assert (await anext(watch)).events[0].resource_id == "k"
        watch.close()
    assert hub.budget.held_bytes == 0
