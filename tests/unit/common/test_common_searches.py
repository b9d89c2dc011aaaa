"""modelkeep_common.sqlite.searches: dear reads are few, short, and in nobody's way."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep.exceptions import DeadlineExceededException, ServerBusyException, ServerDrainingException
from modelkeep_common.sqlite import Database, SearchLane
from support.commonwatch import MIGRATIONS

#: Counts for hours.
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def endless(conn: sqlite3.Connection) -> None:
    conn.execute(ENDLESS).fetchall()


def one(conn: sqlite3.Connection) -> int:
    return int(conn.execute("SELECT 1").fetchone()[0])


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "t.db", MIGRATIONS, "test")
    yield database
    await database.close()


def lane(db: Database, limit_s: float = 30, at_once: int = 2, waiting: int = 0) -> SearchLane:
    return db.lane("search", at_once=at_once, waiting=waiting, limit_s=limit_s, remedy="ask for less")


async def begun(db: Database, lane: SearchLane, count: int) -> list[asyncio.Task[None]]:
    """So many endless searches under way."""
    running = threading.Semaphore(0)

    def work(conn: sqlite3.Connection) -> None:
        running.release()
        endless(conn)

    tasks = [asyncio.ensure_future(lane.run(work)) for _ in range(count)]
    for _ in tasks:
        await asyncio.to_thread(running.acquire)
    return tasks


async def ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_search_is_interrupted_when_its_time_is_over_and_says_what_helps(db: Database) -> None:
    searches = lane(db, limit_s=0.2)
    with pytest.raises(DeadlineExceededException) as raised:
        await searches.run(endless)
    assert "ask for less" in raised.value.message
    assert raised.value.metadata["remedy"] == "ask for less"
    searches._limit_s = 30
    assert await searches.run(one) == 1


async def test_more_searches_than_allowed_are_told_that_the_server_is_busy(db: Database) -> None:
    searches = lane(db)
    tasks = await begun(db, searches, 2)
    with pytest.raises(ServerBusyException) as raised:
        await searches.run(one)
    assert (raised.value.metadata["class"], raised.value.metadata["limit"]) == ("search", "2")
    assert raised.value.retry_after
    await ended(tasks)


async def test_one_that_waited_in_vain_is_told_so_too(db: Database) -> None:
    searches = lane(db, at_once=1, waiting=1)
    tasks = await begun(db, searches, 1)
    searches._limit_s = 0.2
    with pytest.raises(ServerBusyException):
        await searches.run(one)
    await ended(tasks)


async def test_a_search_that_nobody_waits_for_gives_its_place_to_the_next(db: Database) -> None:
    searches = lane(db, at_once=1, waiting=1)
    tasks = await begun(db, searches, 1)
    waiting = asyncio.ensure_future(searches.run(one))
    await asyncio.sleep(0)
    await ended(tasks)
    assert await waiting == 1


async def test_reads_go_on_while_every_search_is_taken(db: Database) -> None:
    tasks = await begun(db, lane(db), 2)
    blocked = [asyncio.ensure_future(db.read(lambda conn: threading.Event().wait(0.5))) for _ in range(2)]
    assert await db.read_by_key(one) == 1
    assert not any(task.done() for task in blocked)
    await asyncio.gather(*blocked)
    await ended(tasks)


async def test_a_search_cannot_write(db: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await lane(db).run(lambda conn: conn.execute("INSERT INTO items VALUES ('a', 'b')"))


async def test_closing_interrupts_searches(db: Database) -> None:
    searches = lane(db)
    (task,) = await begun(db, searches, 1)
    await db.close()
    with pytest.raises(ServerDrainingException):
        await task
    with pytest.raises(ServerDrainingException):
        await searches.run(one)
