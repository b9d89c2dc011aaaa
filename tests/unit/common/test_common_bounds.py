"""What a store keeps for clients that come back is bounded by bytes, and so are its files."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep.exceptions import ResumeTokenExpiredException, WatcherTooSlowException
from modelkeep_common.idempotency import replay_or_run
from modelkeep_common.limits import StoreLimits
from modelkeep_common.sqlite import Connection, Database
from modelkeep_common.watch import WatchHub
from modelkeep_common.watch.log import position_of
from modelkeep_common.watch.sqlite_log import (
    SqliteLog,
    append_change,
    history_floor,
    resume_token,
)
from support.commonwatch import MIGRATIONS, Item, events, live, parse, put, watch

MIB = 1 << 20
LIMITS = StoreLimits(history_bytes=4 * MIB, answers_bytes=2 * MIB)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "t.db", MIGRATIONS, "test", limits=LIMITS)
    yield database
    await database.close()


async def history_bytes(db: Database) -> int:
    def read(conn: Connection) -> int:
        found = conn.execute(
            "SELECT coalesce(sum(length(payload)), 0) FROM changes WHERE revision > ?", (history_floor(conn),)
        )
        return int(found.fetchone()[0])

    return await db.read(read)


def files_bytes(db: Database) -> int:
    return sum(os.path.getsize(f"{db.path}{end}") for end in ("", "-wal"))


async def test_the_history_is_bounded_by_bytes(db: Database) -> None:
    before = await db.read(lambda conn: resume_token(conn, "items"))
    for n in range(60):
        await put(db, f"item{n % 3}", text=f"{n}" + "x" * 200_000)
        assert await history_bytes(db) <= LIMITS.history_bytes * 1.2
    with pytest.raises(ResumeTokenExpiredException):
        await SqliteLog(db, "items").read(lambda view: position_of(view, "items", before))
    latest = await db.read(lambda conn: resume_token(conn, "items"))
    await put(db, "item0", text="y" * 200_000)
    assert (await SqliteLog(db, "items").read(lambda view: position_of(view, "items", latest))).revision == 60


async def test_small_changes_are_bounded_by_their_number_alone(db: Database) -> None:
    first = await db.read(lambda conn: resume_token(conn, "items"))
    for n in range(200):
        await put(db, f"item{n % 3}", text="x")
    assert (await SqliteLog(db, "items").read(lambda view: position_of(view, "items", first))).revision == 0


async def test_the_files_stay_bounded_however_many_updates_come(db: Database) -> None:
    for n in range(300):
        await put(db, f"item{n % 3}", text=f"{n}" + "x" * 400_000)
    # The history, the items, what is below the history's floor, and the write-ahead log.
    assert files_bytes(db) < 40 * MIB


async def test_what_was_deleted_is_given_back(db: Database) -> None:
    def fill(conn: Connection) -> None:
        conn.execute("CREATE TABLE ballast (x BLOB)")
        conn.executemany("INSERT INTO ballast VALUES (zeroblob(1048576))", [()] * 60)

    await db.write(fill)
    await db.write(lambda conn: conn.execute("DROP TABLE ballast") and None)
    for n in range(20):
        await put(db, "item", text=str(n))
    await db.close()
    assert db.path.stat().st_size < 30 * MIB
    assert not db.path.with_name(f"{db.path.name}-wal").exists()


async def answers(db: Database, principal: str = "") -> list[str]:
    def read(conn: Connection) -> list[str]:
        rows = conn.execute(
            "SELECT request_id FROM requests WHERE principal = ? ORDER BY create_time", (principal,)
        )
        return [request_id for (request_id,) in rows]

    return await db.read(read)


async def ask(db: Database, principal: str, size: int) -> str:
    request_id = str(uuid.uuid4())

    def work(conn: Connection) -> bytes:
        return replay_or_run(conn, request_id, b"f", lambda: bytes(size), method="M", principal=principal)[0]

    await db.write(work)
    return request_id


async def test_kept_answers_are_bounded_by_bytes_and_the_newest_stay(db: Database) -> None:
    ids = [await ask(db, "", 100_000) for _ in range(60)]
    kept = await answers(db)
    assert len(kept) * 100_000 <= LIMITS.answers_bytes
    assert len(kept) >= 15
    assert kept == ids[-len(kept) :]


async def test_a_caller_with_large_answers_pushes_out_his_own_and_not_those_of_others(db: Database) -> None:
    others = [await ask(db, "quiet", 200) for _ in range(20)]
    for _ in range(60):
        await ask(db, "loud", 100_000)
    assert await answers(db, "quiet") == others


async def test_a_watch_that_lost_changes_to_the_bound_is_told_so(db: Database) -> None:
    hub: WatchHub[Item] = WatchHub(SqliteLog(db, "items"), parse=parse)
    watching = await live(watch(hub))
    await put(db, "item", text="seen")
    assert [event.resource_id for event in await events(watching, 1)] == ["item"]

    def burst(conn: Connection) -> None:
        # In one transaction, so that the hub cannot read in between.
        for n in range(40):
            append_change(conn, "items", f"item{n % 2}", b'{"id": "item", "text": "%s"}' % (b"x" * 300_000))
        append_change(conn, "items", "item", None)

    await db.write(burst)
    with pytest.raises(WatcherTooSlowException):
        await events(watching, 1000)
    await hub.drain(0.1)
