"""The log behind the watches, what watchers share, and random traffic."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from modelkeep.exceptions import (
    ModelkeepError,
    ResumeTokenExpiredException,
)
from modelkeep_common.limits import StoreLimits
from modelkeep_common.sqlite import Database
from modelkeep_common.watch import Frame, WatchHub
from modelkeep_common.watch.log import LogView, position_of
from modelkeep_common.watch.memory_log import MemoryLog
from modelkeep_common.watch.sqlite_log import current_revision, trim_history
from support.commonwatch import (
    Item,
    Store,
    following,
    live,
    log_of,
    put,
    read_all,
    remove,
    snapshot_of,
    watch,
)


async def test_watchers_without_a_filter_share_one_frame_and_its_bytes(
    store: Store, hub: WatchHub[Item]
) -> None:
    for number in range(4):
        await put(store, f"k{number}")
    watchers = [watch(hub) for _ in range(5)]
    snapshots = [await following(watching) for watching in watchers]
    assert all(frame is snapshots[0] for frame in snapshots)
    built = []

    class Response:
        def SerializeToString(self) -> bytes:
            return b"bytes"

    def build(frame: Frame[Item]) -> Response:
        built.append(frame)
        return Response()

    assert [frame.encoded(build) for frame in snapshots] == [b"bytes"] * 5
    for watching in watchers:
        await snapshot_of(watching)
        await following(watching)
    await put(store, "k9")
    frames = [await following(watching) for watching in watchers]
    assert all(frame is frames[0] for frame in frames)
    assert [frame.encoded(build) for frame in frames] == [b"bytes"] * 5
    assert len(built) == 2


async def test_a_forgotten_watch_is_not_kept(hub: WatchHub[Item]) -> None:
    watching = await live(watch(hub))
    assert hub.watchers == 1
    del watching
    for _ in range(1000):
        if not hub.watchers:
            break
        await asyncio.sleep(0.01)  # the reader's thread lets go of it a moment after its answer
    assert hub.watchers == 0


async def test_the_log_keeps_one_row_for_each_resource_below_its_floor(db: Database) -> None:
    for number in range(30):
        await put(db, f"k{number % 3}", n=number)
    await remove(db, "k0")
    await put(db, "z")
    await put(db, "z")
    floor = await db.write(lambda conn: trim_history(conn, keep_changes=1))
    rows = await db.read(
        lambda conn: conn.execute("SELECT revision, resource_id FROM changes ORDER BY revision").fetchall()
    )
    assert rows == [(29, "k1"), (30, "k2"), (32, "z"), (33, "z")]
    assert floor == 32
    assert await db.read(current_revision) == 33


async def test_revisions_never_come_twice_even_when_the_whole_log_was_trimmed(db: Database) -> None:
    await put(db, "a")
    last = await remove(db, "a")
    await db.write(lambda conn: trim_history(conn, keep_changes=0))
    assert await db.read(lambda conn: conn.execute("SELECT count(*) FROM changes").fetchone()[0]) == 0
    assert await put(db, "a") == last + 1


async def test_random_traffic_and_reconnects_always_end_in_the_true_state(
    store: Store, hub: WatchHub[Item]
) -> None:
    import random

    chance = random.Random(7)
    stop = asyncio.Event()

    async def write() -> None:
        for number in range(300):
            key = f"k{chance.randrange(12)}"
            if chance.random() < 0.3:
                await remove(store, key)
            else:
                await put(store, key, n=number, on=chance.random() < 0.5)
            if number % 7 == 0:
                await asyncio.sleep(0.001)
        stop.set()

    async def follow(matches: Callable[[Item], bool] | None, seed: int) -> dict[str, Item]:
        local = random.Random(seed)
        token, state = "", dict[str, Item]()
        last_revision = 0
        named: set[str] = set()
        while True:
            watching = watch(hub, token, matches=matches)
            with contextlib.suppress(TimeoutError):
                for _ in range(local.randrange(1, 12)):
                    frame = await following(watching, 0.3)
                    for event in frame.events:
                        if event.put is not None:
                            state[event.resource_id] = event.put
                            named.add(event.resource_id)
                        else:
                            state.pop(event.resource_id, None)
                        if event.revision:
                            assert event.revision > last_revision
                            last_revision = event.revision
                    if frame.snapshot_complete:
                        state = {key: item for key, item in state.items() if key in named}
                    token = frame.resume_token
                    done = stop.is_set() and frame.phase == "LIVE" and not frame.events
                    if done and watching.revision == await log_of(store).read(lambda view: view.revision()):
                        watching.close()
                        return state
            watching.close()

    on: Callable[[Item], bool] = lambda item: bool(item["on"])  # noqa: E731
    _, *states = await asyncio.gather(write(), follow(None, 1), follow(None, 2), follow(on, 3), follow(on, 4))

    async def everything(view: LogView) -> Item:
        return {key: item async for key, item in read_all(view.source)}

    truth = await log_of(store).read(everything)
    matching = {key: item for key, item in truth.items() if item["on"]}
    assert states == [truth, truth, matching, matching]


async def test_every_error_of_a_watch_is_one_of_the_suite(hub: WatchHub[Item]) -> None:
    with pytest.raises(ModelkeepError):
        await following(watch(hub, "nonsense"))


async def test_a_log_in_memory_keeps_so_many_bytes_and_every_resource() -> None:
    log = MemoryLog("items", StoreLimits(history_bytes=10_000))
    first = log.token()
    for number in range(100):
        log.append(f"k{number}", b"x" * 1000)
    assert sum([row.size_bytes async for row in log.changes(await log.floor())]) <= 10_000
    assert await log.floor() == 90
    assert len(log.resources) == 100
    with pytest.raises(ResumeTokenExpiredException):
        await position_of(log, "items", first)
    assert (await position_of(log, "items", log.token())).revision == 100
