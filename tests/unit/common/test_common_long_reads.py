"""modelkeep_common.sqlite.long_reads: one moment over many steps, and nobody's log held for ever."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep.exceptions import DeadlineExceededException, ServerBusyException, ServerDrainingException
from modelkeep_common.sqlite import Connection, Database, LongReads, connections
from support.commonwatch import MIGRATIONS
from support.waiting import until

#: Counts for hours.
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "t.db", MIGRATIONS, "test")
    yield database
    await database.close()


def long_reads(db: Database, limit_s: float = 30, at_once: int = 2) -> LongReads:
    return db.long_reads("export", at_once=at_once, limit_s=limit_s, remedy="ask for less")


def count(conn: sqlite3.Connection) -> int:
    return int(conn.execute("SELECT count(*) FROM requests").fetchone()[0])


def add(conn: sqlite3.Connection, size: int = 10) -> None:
    conn.execute("INSERT INTO requests VALUES ('p', 'm', hex(randomblob(16)), x'', zeroblob(?), 0)", (size,))


async def test_all_steps_see_the_moment_of_the_first(db: Database) -> None:
    async with long_reads(db).open() as read:
        assert await read.run(count) == 0
        await db.write(add)
        assert await db.read(count) == 1
        assert await read.run(count) == 0


async def test_one_that_is_over_holds_the_log_no_longer(db: Database) -> None:
    def can_be_emptied() -> bool:
        with contextlib.closing(sqlite3.connect(db.path, timeout=0)) as other:
            return not other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]

    async with long_reads(db).open() as read:
        await read.run(count)
        await db.write(add)
        assert not await asyncio.to_thread(can_be_emptied)
    assert await asyncio.to_thread(can_be_emptied)


async def test_its_time_ends_it_also_between_two_steps_and_says_what_helps(db: Database) -> None:
    reads = long_reads(db, limit_s=0.2)
    async with reads.open() as read:
        await read.run(count)
        await until(lambda: read._connection is None)
        with pytest.raises(DeadlineExceededException, match="ask for less"):
            await read.run(count)
    async with reads.open() as read:
        with pytest.raises(DeadlineExceededException):
            await read.run(lambda conn: conn.execute(ENDLESS).fetchall())


async def test_there_are_so_many_at_once_and_room_again_when_one_ended(db: Database) -> None:
    reads = long_reads(db, at_once=1)
    async with reads.open():
        with pytest.raises(ServerBusyException) as caught:
            async with reads.open():
                pass
        assert caught.value.metadata == {"class": "export", "limit": "1"}
    async with reads.open() as read:
        assert await read.run(count) == 0


async def test_a_caller_that_leaves_in_the_middle_of_a_step_leaves_nothing_behind(db: Database) -> None:
    reads, begun = long_reads(db, at_once=1), threading.Event()

    def endless(conn: Connection) -> None:
        begun.set()
        conn.execute(ENDLESS).fetchall()

    async def run() -> None:
        async with reads.open() as read:
            await read.run(endless)

    task = asyncio.ensure_future(run())
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with reads.open() as read:
        assert await read.run(count) == 0


async def test_closing_the_database_ends_them(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "t.db", MIGRATIONS, "test")
    reads = long_reads(database)
    async with reads.open() as read:
        await read.run(count)
        await database.close()
        with pytest.raises(ServerDrainingException):
            await read.run(count)
    with pytest.raises(ServerDrainingException):
        async with reads.open():
            pass


async def test_writes_do_not_wait_again_and_again_for_a_log_that_a_read_holds(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_MAX_WAL_BYTES", 1 << 16)
    monkeypatch.setattr(connections, "_WAL_BYTES", 1 << 20)
    monkeypatch.setattr(connections, "_WAL_WAIT_MS", 1)
    tries: list[str] = []

    def note(conn: Connection) -> None:
        conn.set_trace_callback(lambda sql: tries.append(sql) if "checkpoint" in sql else None)

    await db.write(note)
    async with long_reads(db).open() as read:
        await read.run(count)
        for _ in range(12):
            await db.write(lambda conn: add(conn, 200_000))
        assert 1 <= len(tries) <= 4  # 2.4 MB in all, tried once for each of them
    await db.write(add)
    await db.write(lambda conn: add(conn, 1_200_000))
    assert await db.write(lambda conn: conn.log_held_at) == 0
    assert (db.path.parent / f"{db.path.name}-wal").stat().st_size < 1 << 21
