"""The guarantees of modelkeep_common.watch, one test (or more) for each number."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modelkeep.exceptions import (
    ResumeTokenExpiredException,
    ResumeTokenForeignException,
    ServerDrainingException,
    WatcherTooSlowException,
)
from modelkeep_common.sqlite import Database
from modelkeep_common.watch import Event, WatchHub
from modelkeep_common.watch.log import ChangeLog, Position
from modelkeep_common.watch.memory_log import MemoryLog
from modelkeep_common.watch.sqlite_log import SqliteLog, append_change
from support.commonwatch import (
    MIGRATIONS,
    Item,
    Store,
    append,
    events,
    following,
    live,
    log_of,
    parse,
    put,
    remove,
    snapshot_of,
    trim,
    watch,
)

# 1


async def test_1_a_watch_begins_with_a_snapshot_in_several_frames_whose_last_says_so(
    store: Store, hub: WatchHub[Item]
) -> None:
    for number in range(7):
        await put(store, f"k{number}")
    frames = await snapshot_of(watch(hub))
    assert [len(frame.events) for frame in frames] == [3, 3, 1]
    assert {frame.phase for frame in frames} == {"SNAPSHOT"}
    assert [event.resource_id for frame in frames for event in frame.events] == [f"k{n}" for n in range(7)]
    assert all(event.revision == 0 for frame in frames for event in frame.events)


async def test_1_the_snapshot_of_nothing_is_one_empty_frame_that_says_so(hub: WatchHub[Item]) -> None:
    frames = await snapshot_of(watch(hub))
    assert [frame.events for frame in frames] == [[]]


async def test_1_a_snapshot_holds_only_what_matches_the_filter(store: Store, hub: WatchHub[Item]) -> None:
    await put(store, "a", size=1)
    await put(store, "b", size=2)
    (frame,) = await snapshot_of(watch(hub, matches=lambda item: item["size"] == 2))
    assert [event.resource_id for event in frame.events] == ["b"]


# 2, 3


async def test_2_live_events_come_in_order_each_once_and_none_is_lost(
    store: Store, hub: WatchHub[Item]
) -> None:
    watching = await live(watch(hub))
    revisions = await asyncio.gather(*(put(store, f"k{n % 5}", n=n) for n in range(200)))
    assert [event.revision for event in await events(watching, 200)] == sorted(revisions)


async def test_2_nothing_falls_between_snapshot_and_live(store: Store, hub: WatchHub[Item]) -> None:
    for number in range(9):
        await put(store, f"k{number}")
    watching = watch(hub)
    await following(watching)
    revision = await put(store, "late")
    rest = await snapshot_of(watching)
    assert "late" not in {event.resource_id for frame in rest for event in frame.events}
    assert (await events(watching, 1))[0].revision == revision


async def test_3_no_revision_is_in_two_frames_and_close_changes_share_one(
    store: Store, hub: WatchHub[Item]
) -> None:
    watching = await live(watch(hub))

    await append(store, *(f"k{number}" for number in range(10)))
    frame = await following(watching)
    assert len(frame.events) == 10


# 4, 5


async def test_4_every_frame_can_be_resumed_from(store: Store, hub: WatchHub[Item]) -> None:
    for number in range(7):
        await put(store, f"k{number}", v=0)
    watching = watch(hub)
    frames = await snapshot_of(watching)
    frames.append(await following(watching))
    for step in range(3):
        await put(store, f"k{step}", v=1)
        frames.append(await following(watching))
    whole = [(event.resource_id, event.put) for frame in frames for event in frame.events]
    state_at_end = dict(whole)
    for index, frame in enumerate(frames):
        state = {e.resource_id: e.put for sent in frames[: index + 1] for e in sent.events}
        resumed = watch(hub, frame.resume_token)
        seen: list[Event[Item]] = []
        while {**state, **{e.resource_id: e.put for e in seen}} != state_at_end or not hub.watchers:
            seen += (await following(resumed)).events
        if frame.phase == "LIVE":
            later = [e for after in frames[index + 1 :] for e in after.events]
            assert seen == later
        resumed.close()


async def test_4_an_interrupted_snapshot_does_not_send_again_what_did_not_change(
    store: Store, hub: WatchHub[Item]
) -> None:
    for number in range(9):
        await put(store, f"k{number}", v=0)
    first = await following(watch(hub))
    frames = await snapshot_of(watch(hub, first.resume_token))
    assert [e.resource_id for frame in frames for e in frame.events] == [f"k{n}" for n in range(3, 9)]


async def test_5_what_changed_during_an_interrupted_snapshot_repeats_and_never_goes_back(
    store: Store, hub: WatchHub[Item]
) -> None:
    for number in range(9):
        await put(store, f"k{number}", v=0)
    first = await following(watch(hub))  # k0, k1, k2
    await put(store, "k1", v=1)
    await put(store, "k1", v=2)
    await put(store, "k5", v=1)
    await remove(store, "k2")
    await remove(store, "k7")
    resumed = watch(hub, first.resume_token)
    frames = await snapshot_of(resumed)
    sent = [(e.resource_id, e.put["v"] if e.put else None) for frame in frames for e in frame.events]
    assert sent == [("k1", 2), ("k2", None), ("k3", 0), ("k4", 0), ("k5", 1), ("k6", 0), ("k8", 0)]
    # Interrupted once more, half-way through what it had missed or after it: still the same end.
    for frame in frames:
        if not frame.snapshot_complete:
            again = await snapshot_of(watch(hub, frame.resume_token))
            assert again[-1].events[-1].resource_id == "k8"
    # And nothing of it comes a second time when live.
    assert (await following(resumed)).events == []
    await put(store, "k3", v=9)
    assert [e.put for e in await events(resumed, 1)] == [{"id": "k3", "v": 9}]


# 6


async def test_6_leaving_the_filter_arrives_as_removed_and_staying_outside_not_at_all(
    store: Store, hub: WatchHub[Item]
) -> None:
    await put(store, "a", on=True)
    await put(store, "b", on=False)
    watching = await live(watch(hub, matches=lambda item: bool(item["on"])))
    await put(store, "b", on=False, again=1)
    leaves = await put(store, "a", on=False)
    enters = await put(store, "b", on=True)
    await put(store, "c", on=False)
    await remove(store, "c")
    gone = await remove(store, "b")
    seen = await events(watching, 3)
    assert [(e.revision, e.resource_id, e.removed) for e in seen] == [
        (leaves, "a", True),
        (enters, "b", False),
        (gone, "b", True),
    ]


async def test_6_also_when_the_state_before_has_left_the_history(store: Store, hub: WatchHub[Item]) -> None:
    await put(store, "a", on=True)
    await put(store, "b", on=False)
    for _ in range(20):
        await put(store, "z", on=False)
    await trim(store, keep_changes=5)
    watching = await live(watch(hub, matches=lambda item: bool(item["on"])))
    await put(store, "b", on=False)
    leaves = await put(store, "a", on=False)
    (event,) = await events(watching, 1)
    assert (event.revision, event.resource_id, event.removed) == (leaves, "a", True)


async def test_6_also_after_a_resume(store: Store, hub: WatchHub[Item]) -> None:
    await put(store, "a", on=True)
    await put(store, "b", on=False)
    matches: Callable[[Item], bool] = lambda item: bool(item["on"])  # noqa: E731
    token = (await snapshot_of(watch(hub, matches=matches)))[-1].resume_token
    await put(store, "a", on=False)
    await put(store, "b", on=False, x=1)
    (event,) = await events(watch(hub, token, matches=matches), 1)
    assert (event.resource_id, event.removed) == ("a", True)


# 7


async def test_7_a_silent_watch_gets_bookmarks_whose_token_goes_on(store: Store, hub: WatchHub[Item]) -> None:
    watching = await live(watch(hub, bookmark_interval_s=0.01))  # clamped to 1 s
    loop = asyncio.get_running_loop()
    before = loop.time()
    if isinstance(store, Database):
        await store.write(lambda conn: append_change(conn, "others", "x", b"{}"))
    frame = await following(watching)
    assert loop.time() - before >= 0.9
    assert (frame.phase, frame.events) == ("LIVE", [])
    revision = await put(store, "a")
    assert [e.revision for e in await events(watch(hub, frame.resume_token), 1)] == [revision]


async def test_7_a_bookmark_comes_also_when_the_filter_hides_every_change(
    store: Store, hub: WatchHub[Item]
) -> None:
    watching = await live(watch(hub, matches=lambda item: False, bookmark_interval_s=1))

    async def busy() -> None:
        while True:
            await put(store, "a")
            await asyncio.sleep(0.02)

    task = asyncio.ensure_future(busy())
    frame = await following(watching, 3)
    task.cancel()
    assert frame.events == []
    assert frame.resume_token != ""


async def test_7_without_a_snapshot_the_first_frame_is_a_live_bookmark(
    store: Store, hub: WatchHub[Item]
) -> None:
    await put(store, "a")
    frame = await following(watch(hub, skip_snapshot=True))
    assert (frame.phase, frame.events) == ("LIVE", [])


# 8


async def test_8_progress_is_the_latest_value_without_revision_at_most_four_times_a_second(
    store: Store, hub: WatchHub[Item]
) -> None:
    await put(store, "a")
    first, second = await live(watch(hub)), await live(watch(hub))
    for number in range(100):
        hub.progress("a", {"n": number})
    frame = await following(first)
    assert [(e.revision, e.progress, e.put) for e in frame.events] == [(0, True, {"n": 99})]
    assert await following(second) is frame
    resumed = watch(hub, frame.resume_token)
    assert (await following(resumed)).events == []
    assert [e.put for e in await events(resumed, 1)] == [{"n": 99}]


async def test_8_a_change_supersedes_the_progress_before_it(store: Store, hub: WatchHub[Item]) -> None:
    await put(store, "a")
    watching = await live(watch(hub))
    hub.progress("a", {"n": 1})
    revision = await put(store, "a", state="COMPLETED")
    assert [e.revision for e in await events(watching, 1)] == [revision]
    with pytest.raises(TimeoutError):
        await following(watching, 0.5)
    assert hub.latest_progress == {}


async def test_8_a_change_ends_the_progress_before_it_also_when_nobody_watches(
    store: Store, hub: WatchHub[Item]
) -> None:
    await put(store, "a")
    hub.progress("a", {"n": 1})
    hub.progress("b", {"n": 2})
    await put(store, "a", state="COMPLETED")
    assert hub.latest_progress == {"b": {"n": 2}}
    watching = await live(watch(hub))
    assert [e.resource_id for e in await events(watching, 1)] == ["b"]


async def test_8_progress_goes_through_the_filter(store: Store, hub: WatchHub[Item]) -> None:
    watching = await live(watch(hub, matches=lambda item: item.get("n") == 1))
    hub.progress("a", {"n": 0})
    hub.progress("b", {"n": 1})
    assert [e.resource_id for e in await events(watching, 1)] == ["b"]


# 9


async def test_9_a_token_older_than_the_history_is_expired(store: Store, hub: WatchHub[Item]) -> None:
    token = (await snapshot_of(watch(hub)))[-1].resume_token
    for _ in range(10):
        await put(store, "a")
    await trim(store, keep_changes=5)
    with pytest.raises(ResumeTokenExpiredException):
        await following(watch(hub, token))


async def test_9_time_ends_the_history_too(store: Store, hub: WatchHub[Item]) -> None:
    token = (await snapshot_of(watch(hub)))[-1].resume_token
    await append(store, "a", now=1000.0)
    await trim(store, now=1000.0 + 25 * 3600)
    with pytest.raises(ResumeTokenExpiredException):
        await following(watch(hub, token))


@pytest.mark.parametrize(
    "token", ["x", "AAAA", "W10", "ü", "eyJhIjoxfQ", "bnVsbA", "W1tdLDEsMiwzXQ", "=" * 10]
)
async def test_9_what_is_no_token_is_foreign(hub: WatchHub[Item], token: str) -> None:
    with pytest.raises(ResumeTokenForeignException):
        await following(watch(hub, token))


async def test_9_a_token_of_another_store_or_collection_is_foreign(
    store: Store, hub: WatchHub[Item], tmp_path: Path
) -> None:
    token = (await snapshot_of(watch(hub)))[-1].resume_token
    other = await Database.open(tmp_path / "other.db", MIGRATIONS, "test")
    logs: list[ChangeLog] = [SqliteLog(other, "items"), MemoryLog("items"), MemoryLog("others")]
    if isinstance(store, Database):
        logs.append(SqliteLog(store, "others"))
    for log in logs:
        with pytest.raises(ResumeTokenForeignException):
            await following(watch(WatchHub(log, parse=parse), token))
    await other.close()


async def test_9_a_token_of_a_revision_that_is_still_to_come_is_foreign(
    store: Store, hub: WatchHub[Item]
) -> None:
    await put(store, "a")
    epochs = await log_of(store).read(lambda view: view.epochs())
    ahead = epochs.token("items", Position(2))
    with pytest.raises(ResumeTokenForeignException):
        await following(watch(hub, ahead))


async def test_9_a_token_from_before_a_restore_is_foreign_even_after_new_changes_reached_its_number(
    tmp_path: Path,
) -> None:
    live_path, backup_path = tmp_path / "live.db", tmp_path / "backup.db"
    db = await Database.open(live_path, MIGRATIONS, "test")
    await put(db, "a")
    await db.read(lambda conn: conn.backup(sqlite3.connect(backup_path)))
    hub: WatchHub[Item] = WatchHub(SqliteLog(db, "items"), parse=parse)
    kept = (await snapshot_of(watch(hub)))[-1].resume_token
    await put(db, "b")
    lost = (await snapshot_of(watch(hub)))[-1].resume_token
    await hub.drain(0)
    await db.close()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{live_path}{suffix}").unlink(missing_ok=True)
    shutil.copy(backup_path, live_path)
    db = await Database.open(live_path, MIGRATIONS, "test")
    hub = WatchHub(SqliteLog(db, "items"), parse=parse)
    with pytest.raises(ResumeTokenForeignException):
        await following(watch(hub, lost))
    for _ in range(3):
        await put(db, "c")
    with pytest.raises(ResumeTokenForeignException):
        await following(watch(hub, lost))
    assert [e.resource_id for e in await events(watch(hub, kept), 3)] == ["c"] * 3
    await hub.drain(0)
    await db.close()


async def test_9_a_token_survives_restarts_of_the_service(tmp_path: Path) -> None:
    token, revisions = "", []
    for _ in range(3):
        db = await Database.open(tmp_path / "t.db", MIGRATIONS, "test")
        hub: WatchHub[Item] = WatchHub(SqliteLog(db, "items"), parse=parse)
        token = token or (await snapshot_of(watch(hub)))[-1].resume_token
        revisions.append(await put(db, "a"))
        assert [e.revision for e in await events(watch(hub, token), len(revisions))] == revisions
        await hub.drain(0)
        await db.close()


# 10


async def test_10_a_slow_reader_catches_up_from_the_log_with_a_bounded_queue(store: Store) -> None:
    hub: WatchHub[Item] = WatchHub(log_of(store), parse=parse, max_queued_events=20)
    slow, quick = await live(watch(hub)), await live(watch(hub))
    revisions = []
    for number in range(100):
        revisions.append(await put(store, "a", n=number))
        if number % 10 == 0:
            await asyncio.sleep(0.02)
    assert [e.revision for e in await events(quick, 100)] == revisions
    assert slow._queued_events <= 20
    assert [e.revision for e in await events(slow, 100)] == revisions
    later = await put(store, "a")
    assert [e.revision for e in await events(slow, 1)] == [later]
    await hub.drain(0.1)


async def test_10_a_reader_that_falls_out_of_the_history_is_ended_with_its_last_token(store: Store) -> None:
    hub: WatchHub[Item] = WatchHub(log_of(store), parse=parse, max_queued_events=5)
    slow = await live(watch(hub))
    token = slow.token
    for number in range(30):
        await put(store, "a", n=number)
    await asyncio.sleep(0.1)
    await trim(store, keep_changes=2)
    with pytest.raises(WatcherTooSlowException) as caught:
        await following(slow)
    assert caught.value.metadata["resume_token"] == token
    assert hub.watchers == 0


# 11


async def test_11_a_drain_ends_watches_with_their_last_token_and_refuses_new_ones(
    store: Store, hub: WatchHub[Item]
) -> None:
    watching = await live(watch(hub))
    ended = asyncio.ensure_future(following(watching))
    await asyncio.sleep(0.01)
    await hub.drain()
    with pytest.raises(ServerDrainingException) as caught:
        await ended
    assert caught.value.metadata["resume_token"] == watching.token
    with pytest.raises(ServerDrainingException):
        await following(watch(hub))
    assert hub.watchers == 0


# 12


async def test_12_changes_of_another_process_arrive(db: Database) -> None:
    hub: WatchHub[Item] = WatchHub(SqliteLog(db, "items"), parse=parse)
    watching = await live(watch(hub))
    script = (
        "import asyncio, sys; from pathlib import Path\n"
        "from modelkeep_common.sqlite import Database, Migration\n"
        "from modelkeep_common.watch.sqlite_log import append_change\n"
        f"M = [Migration(1, {MIGRATIONS[0].sql!r})]\n"
        "async def main():\n"
        "    db = await Database.open(Path(sys.argv[1]), M, 'test')\n"
        "    await db.write(lambda c: append_change(c, 'items', 'theirs', b'{}'))\n"
        "    await db.close()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(db.path), env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert await process.wait() == 0
    async with asyncio.timeout(20):
        assert [e.resource_id for e in await events(watching, 1)] == ["theirs"]
    mine = await put(db, "mine")
    assert [e.revision for e in await events(watching, 1)] == [mine]
    await hub.drain(0.1)
