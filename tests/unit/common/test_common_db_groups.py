"""modelkeep_common.sqlite: writes that wait at the same time share a transaction and its COMMIT."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import DiskFullException
from modelkeep_common.sqlite import Connection, Database, Migration, database
from modelkeep_common.watch.sqlite_log import append_change, current_revision

ITEMS = Migration(
    1,
    """
    CREATE TABLE items (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
    CREATE TABLE parts (item INTEGER NOT NULL REFERENCES items (id) DEFERRABLE INITIALLY DEFERRED);
    """,
)


@pytest.fixture
async def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    # A busy machine must not cut a group short, except where a test wants that.
    monkeypatch.setattr(database, "_GROUP_S", 60.0)
    opened = await Database.open(tmp_path / "t.db", [ITEMS], "test")
    yield opened
    await opened.close()


def add(name: str) -> Callable[[Connection], int]:
    def work(conn: Connection) -> int:
        conn.execute("INSERT INTO items (name) VALUES (?)", (name,))
        return append_change(conn, "items", name, name.encode())

    return work


def names(conn: Connection) -> list[str]:
    return [row[0] for row in conn.execute("SELECT name FROM items ORDER BY id")]


class Blocked:
    """Keeps the writer busy, so that what is asked for meanwhile waits; then lets it go on."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._running, self._go_on = threading.Event(), threading.Event()

    async def __aenter__(self) -> Blocked:
        def work(conn: Connection) -> None:
            self._running.set()
            self._go_on.wait(30)

        self._write = asyncio.ensure_future(self._db.write(work))
        await asyncio.to_thread(self._running.wait, 30)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._go_on.set()
        await self._write


async def asked(*writes: Any) -> list[asyncio.Future[Any]]:
    """The writes, asked for in this order and not waited for."""
    futures = [asyncio.ensure_future(write) for write in writes]
    await asyncio.sleep(0)
    return futures


async def commits(db: Database) -> Callable[[], int]:
    """A count of the COMMITs from now on."""
    seen: list[str] = []
    await db.write(lambda conn: conn.set_trace_callback(seen.append))
    seen.clear()
    return lambda: seen.count("COMMIT")


async def test_writes_that_wait_at_the_same_time_share_a_commit(db: Database) -> None:
    count = await commits(db)
    async with Blocked(db):
        writes = await asked(*(db.write(add(str(n))) for n in range(20)))
    assert await asyncio.gather(*writes) == list(range(1, 21))
    assert await db.read(names) == [str(n) for n in range(20)]
    # Two at most: the one that kept the writer busy changed nothing, and has one of its own.
    assert count() == 2


async def test_a_write_that_fails_does_not_undo_its_neighbours(db: Database) -> None:
    heard: list[tuple[str, str]] = []
    db.add_commit_listener(heard.extend)

    def fails(conn: Connection) -> None:
        add("bad")(conn)
        raise ZeroDivisionError

    async with Blocked(db):
        first, bad, twice, last = await asked(
            db.write(add("a")), db.write(fails), db.write(add("a")), db.write(add("b"))
        )
    with pytest.raises(ZeroDivisionError):
        await bad
    with pytest.raises(sqlite3.IntegrityError):
        await twice
    # Revisions have no hole either: those of the two that failed were never given to anybody.
    assert (await first, await last) == (1, 2)
    assert await db.read(names) == ["a", "b"]
    assert await db.read(current_revision) == 2
    assert heard == [("items", "a"), ("items", "b")]


async def test_where_all_may_be_run_again_one_that_fails_costs_no_savepoint_until_it_has_written(
    db: Database,
) -> None:
    heard: list[tuple[str, str]] = []
    db.add_commit_listener(heard.extend)
    runs: list[str] = []
    seen: list[str] = []
    await db.write(lambda conn: conn.set_trace_callback(seen.append))

    def noted(name: str) -> Callable[[Connection], int]:
        def work(conn: Connection) -> int:
            runs.append(name)
            return add(name)(conn)

        return work

    def refuses(conn: Connection) -> None:
        names(conn)
        raise LookupError

    def fails(conn: Connection) -> None:
        noted("bad")(conn)
        raise ZeroDivisionError

    async with Blocked(db):
        writes = await asked(*(db.write(work, repeatable=True) for work in (noted("a"), refuses, noted("b"))))
    with pytest.raises(LookupError):
        await writes[1]
    assert (await writes[0], await writes[2], runs) == (1, 2, ["a", "b"])
    assert seen.count("SAVEPOINT unit") == 1  # that of the write that kept the writer busy
    async with Blocked(db):
        works = (noted("c"), refuses, fails, noted("a"), noted("d"))
        writes = await asked(*(db.write(work, repeatable=True) for work in works))
    errors = (LookupError, ZeroDivisionError, sqlite3.IntegrityError)
    for write, error in zip(writes[1:4], errors, strict=True):
        with pytest.raises(error):
            await write
    assert (await writes[0], await writes[4]) == (3, 4)
    assert runs == ["a", "b", "c", "bad", "c", "bad", "a", "d"]
    assert await db.read(names) == ["a", "b", "c", "d"]
    assert heard == [("items", name) for name in "abcd"]


async def test_no_write_is_answered_before_the_commit(db: Database) -> None:
    running, go_on = threading.Event(), threading.Event()

    def slow(conn: Connection) -> None:
        running.set()
        go_on.wait(30)

    async with Blocked(db):
        first, second = await asked(db.write(add("a")), db.write(slow))
    await asyncio.to_thread(running.wait, 30)
    await asyncio.sleep(0.05)
    assert not first.done()
    assert await db.read(names) == []
    go_on.set()
    assert await first == 1
    assert await db.read(names) == ["a"]
    await second


async def test_a_cancelled_write_among_others_is_carried_through(db: Database) -> None:
    async with Blocked(db):
        first, cancelled, last = await asked(*(db.write(add(name)) for name in "abc"))
        cancelled.cancel()
    await asyncio.gather(first, last)
    assert await db.read(names) == ["a", "b", "c"]


async def test_when_its_time_is_over_a_transaction_takes_no_further_write_in(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_GROUP_S", 0.0)
    count = await commits(db)
    async with Blocked(db):
        writes = await asked(*(db.write(add(str(n))) for n in range(5)))
    await asyncio.gather(*writes)
    assert count() == 6


async def test_one_write_that_needs_the_disk_makes_its_neighbours_wait_for_it(db: Database) -> None:
    def level(conn: Connection) -> int:
        return int(conn.execute("PRAGMA synchronous").fetchone()[0])

    async with Blocked(db):
        mixed = await asked(db.write(level, synced=False), db.write(level))
    assert await asyncio.gather(*mixed) == [2, 2]  # FULL
    async with Blocked(db):
        unsynced = await asked(db.write(level, synced=False), db.write(level, synced=False))
    assert await asyncio.gather(*unsynced) == [1, 1]  # NORMAL


async def test_what_finds_no_room_is_refused_and_its_neighbours_are_written(db: Database) -> None:
    heard: list[tuple[str, str]] = []
    db.add_commit_listener(heard.extend)

    def fill(conn: Connection) -> None:
        pages = conn.execute("PRAGMA page_count").fetchone()[0]
        conn.execute(f"PRAGMA max_page_count = {pages + 2}")
        try:
            for n in range(100):
                add(f"{n}" + "x" * 4000)(conn)
        finally:
            conn.execute("PRAGMA max_page_count = 1000000")

    async with Blocked(db):
        first, full, last = await asked(db.write(add("a")), db.write(fill), db.write(add("b")))
    with pytest.raises(DiskFullException):
        await full
    # SQLite rolls the whole transaction back; who shared it is written in another one.
    assert sorted([await first, await last]) == [1, 2]
    assert sorted(await db.read(names)) == ["a", "b"]
    assert sorted(heard) == [("items", "a"), ("items", "b")]


async def test_a_commit_that_fails_acknowledges_nothing_and_leaves_nothing(db: Database) -> None:
    def orphan(conn: Connection) -> None:
        conn.execute("INSERT INTO parts (item) VALUES (4711)")  # found out only by COMMIT

    async with Blocked(db):
        writes = await asked(db.write(add("a")), db.write(orphan))
    for lost in writes:
        with pytest.raises(sqlite3.IntegrityError):
            await lost
    assert await db.read(names) == []
    assert await db.write(add("b")) == 1


@pytest.mark.parametrize("statement", ["PRAGMA synchronous", "BEGIN", "COMMIT"])
async def test_a_broken_disk_is_told_to_who_waits_and_the_store_goes_on_afterwards(
    db: Database, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    def broken(connection: Connection, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql.startswith((statement, "ROLLBACK")):
            raise sqlite3.OperationalError("disk I/O error")
        return sqlite3.Connection.execute(connection, sql, *values)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "execute", broken)
        for write in await asked(*(db.write(add(name), synced=False) for name in "ab")):
            with pytest.raises(sqlite3.OperationalError, match="disk"):
                await write
    if statement == "COMMIT":  # a transaction that cannot even be rolled back refuses what comes after it
        with pytest.raises(sqlite3.OperationalError, match="inside a transaction"):
            await db.write(add("c"))
    assert await db.write(add("d")) == 1
    assert await db.read(names) == ["d"]


async def test_what_waits_when_the_store_is_closed_is_still_carried_out(db: Database) -> None:
    async with Blocked(db):
        writes = await asked(db.write(add("a")), db.write(add("b")))
        closing = asyncio.ensure_future(db.close())
        await asyncio.sleep(0)
    await closing
    assert await asyncio.gather(*writes) == [1, 2]


def test_a_kill_loses_no_write_that_was_acknowledged(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys; from pathlib import Path\n"
        "from modelkeep_common.sqlite import Database, Migration\n"
        f"M = Migration(1, {ITEMS.sql!r})\n"
        "async def writer(db, name):\n"
        "    n = 0\n"
        "    while True:\n"
        "        text = f'{name}-{n}'\n"
        "        await db.write(lambda c: c.execute('INSERT INTO items (name) VALUES (?)', (text,)))\n"
        "        print(text, flush=True)\n"
        "        n += 1\n"
        "async def main():\n"
        "    db = await Database.open(Path(sys.argv[1]), [M], 'test')\n"
        "    await asyncio.gather(*(writer(db, name) for name in range(16)))\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "t.db"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        env={"PYTHONPATH": ":".join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(300)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read().split()
    assert len(acknowledged) >= 300
    connection = sqlite3.connect(path)
    stored = {row[0] for row in connection.execute("SELECT name FROM items")}
    connection.close()
    assert set(acknowledged) <= stored
