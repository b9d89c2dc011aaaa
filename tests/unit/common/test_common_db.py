"""modelkeep_common.sqlite and migrations: one file, units of work, whose file it is."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep.exceptions import DiskFullException, ServerBusyException, ServerDrainingException
from modelkeep_common.sqlite import Database, Migration
from modelkeep_common.sqlite.migrations import split_statements
from modelkeep_common.startup import StartupError

ITEMS = Migration(1, "CREATE TABLE items (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL);")


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "t" / "t.db", [ITEMS], "test")
    yield database
    await database.close()


def add(name: str):  # type: ignore[no-untyped-def]  # a closure for the tests
    return lambda conn: conn.execute("INSERT INTO items (name) VALUES (?)", (name,)).lastrowid


def names(conn: sqlite3.Connection) -> list[str]:
    return [row[0] for row in conn.execute("SELECT name FROM items ORDER BY id")]


async def test_a_write_is_there_for_the_next_read(db: Database) -> None:
    assert await db.write(add("a")) == 1
    assert await db.read(names) == ["a"]


async def test_a_write_that_raises_leaves_nothing_behind(db: Database) -> None:
    def work(conn: sqlite3.Connection) -> None:
        add("a")(conn)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await db.write(work)
    assert await db.read(names) == []
    await db.write(add("b"))
    assert await db.read(names) == ["b"]


async def test_a_read_sees_one_moment_and_cannot_write(db: Database) -> None:
    with pytest.raises(sqlite3.OperationalError):
        await db.read(add("a"))


async def test_a_cancelled_write_is_carried_through_and_leaves_no_transaction_open(db: Database) -> None:
    import threading

    started, go_on = threading.Event(), threading.Event()

    def slow(conn: sqlite3.Connection) -> None:
        add("a")(conn)
        started.set()
        go_on.wait(5)

    task = asyncio.ensure_future(db.write(slow))
    await asyncio.to_thread(started.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await db.write(add("b"))
    assert await db.read(names) == ["a", "b"]


async def test_many_units_of_work_at_once_all_finish(db: Database) -> None:
    await asyncio.gather(*(db.write(add(str(i))) for i in range(50)), *(db.read(names) for _ in range(200)))
    assert len(await db.read(names)) == 50


async def test_reopening_keeps_the_store_id_and_begins_a_new_epoch(tmp_path: Path) -> None:
    first = await Database.open(tmp_path / "t.db", [ITEMS], "test")
    await first.close()
    second = await Database.open(tmp_path / "t.db", [ITEMS], "test")
    await second.close()
    assert first.store_id == second.store_id
    assert first.epoch != second.epoch


async def test_later_migrations_run_on_an_older_file_once(tmp_path: Path) -> None:
    old = await Database.open(tmp_path / "t.db", [ITEMS], "test")
    await old.write(add("a"))
    await old.close()
    more = [
        ITEMS,
        Migration(2, "ALTER TABLE items ADD COLUMN size INTEGER DEFAULT 7; CREATE INDEX i ON items (size);"),
    ]
    for _ in range(2):
        new = await Database.open(tmp_path / "t.db", more, "test")
        assert await new.read(lambda c: c.execute("SELECT name, size FROM items").fetchall()) == [("a", 7)]
        assert await new.read(lambda c: c.execute("PRAGMA user_version").fetchone()[0]) == 2
        await new.close()


async def test_a_failing_migration_changes_nothing(tmp_path: Path) -> None:
    await (await Database.open(tmp_path / "t.db", [ITEMS], "test")).close()
    broken = [ITEMS, Migration(2, "CREATE TABLE extra (x); CREATE TABLE items (x);")]
    with pytest.raises(StartupError):
        await Database.open(tmp_path / "t.db", broken, "test")
    again = await Database.open(tmp_path / "t.db", [ITEMS], "test")
    tables = await again.read(lambda c: [r[0] for r in c.execute("SELECT name FROM sqlite_master")])
    assert "extra" not in tables
    await again.close()


async def test_a_newer_schema_refuses_with_65(tmp_path: Path) -> None:
    more = [ITEMS, Migration(2, "CREATE TABLE extra (x);")]
    await (await Database.open(tmp_path / "t.db", more, "test")).close()
    with pytest.raises(StartupError, match="newer") as caught:
        await Database.open(tmp_path / "t.db", [ITEMS], "test")
    assert caught.value.exit_code == 65


async def test_another_services_file_is_refused_with_65(tmp_path: Path) -> None:
    await (await Database.open(tmp_path / "t.db", [ITEMS], "record")).close()
    with pytest.raises(StartupError, match="belongs to the record service") as caught:
        await Database.open(tmp_path / "t.db", [ITEMS], "download")
    assert caught.value.exit_code == 65


@pytest.mark.parametrize("kind", ["text", "foreign"])
async def test_what_is_not_our_database_is_refused_with_65_and_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t.db"
    if kind == "text":
        path.write_text("this is not a database, but it is long enough to be looked at as if it were one")
    else:
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE theirs (x)")
        other.commit()
        other.close()
    before = path.read_bytes()
    with pytest.raises(StartupError) as caught:
        await Database.open(path, [ITEMS], "test")
    assert caught.value.exit_code == 65
    assert path.read_bytes()[100:] == before[100:] if kind == "foreign" else path.read_bytes() == before


async def test_a_folder_that_cannot_be_made_refuses_with_73(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError) as caught:
        await Database.open(tmp_path / "file" / "t.db", [ITEMS], "test")
    assert caught.value.exit_code == 73


async def test_a_full_disk_is_told_as_such_and_the_store_goes_on_afterwards(db: Database) -> None:
    def fill(conn: sqlite3.Connection) -> None:
        pages = conn.execute("PRAGMA page_count").fetchone()[0]
        conn.execute(f"PRAGMA max_page_count = {pages + 2}")
        for _ in range(100):
            conn.execute("INSERT INTO items (name) VALUES (?)", ("x" * 4000,))

    with pytest.raises(DiskFullException) as caught:
        await db.write(fill)
    assert caught.value.retry_after is not None
    await db.write(lambda conn: conn.execute("PRAGMA max_page_count = 1000000").fetchone())
    await db.write(add("a"))
    assert await db.read(names) == ["a"]


async def test_a_file_locked_for_long_by_another_process_is_busy(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await db.write(lambda conn: conn.execute("SELECT 1").fetchone())
    other = sqlite3.connect(db.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    # The writer's own time-out is 10 s: shorten it for this test.
    set_timeout = asyncio.ensure_future(db.write(lambda conn: None))
    await asyncio.sleep(0.05)
    other.execute("ROLLBACK")
    await set_timeout
    await db.write(lambda conn: conn.execute("PRAGMA busy_timeout = 50").fetchone())
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ServerBusyException):
        await db.write(add("a"))
    other.execute("ROLLBACK")
    other.close()
    await db.write(add("b"))
    assert await db.read(names) == ["b"]


async def test_two_processes_on_one_file_are_both_correct(db: Database) -> None:
    script = (
        "import asyncio, sys; from pathlib import Path\n"
        "from modelkeep_common.sqlite import Database, Migration\n"
        f"M = Migration(1, {ITEMS.sql!r})\n"
        "async def main():\n"
        "    db = await Database.open(Path(sys.argv[1]), [M], 'test')\n"
        "    for i in range(100):\n"
        "        await db.write(lambda c: c.execute('INSERT INTO items (name) VALUES (?)', ('other',)))\n"
        "    await db.close()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(db.path), env={"PYTHONPATH": ":".join(sys.path)}
    )
    for _ in range(100):
        await db.write(add("mine"))
    assert await process.wait() == 0
    assert sorted(await db.read(names)) == ["mine"] * 100 + ["other"] * 100


async def test_a_new_file_may_be_opened_by_several_at_once(tmp_path: Path) -> None:
    for n in range(40):
        path = tmp_path / str(n) / "t.db"
        opened = await asyncio.gather(*(Database.open(path, [ITEMS], "test") for _ in range(4)))
        assert len({one.store_id for one in opened}) == 1
        assert len({one.epoch for one in opened}) == 4
        await asyncio.gather(*(one.close() for one in opened))


async def test_a_closed_store_refuses_further_work(db: Database) -> None:
    await db.close()
    await db.close()
    with pytest.raises(ServerDrainingException):
        await db.read(names)


def test_an_unclosed_store_does_not_keep_the_process_from_exiting(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys; from pathlib import Path\n"
        "from modelkeep_common.sqlite import Database\n"
        "asyncio.run(Database.open(Path(sys.argv[1]), [], 'test'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "t.db")],
        env={"PYTHONPATH": ":".join(sys.path)},
        timeout=20,
        check=False,
    )
    assert done.returncode == 0


def test_a_script_is_split_at_its_statements_only() -> None:
    script = """
    CREATE TABLE a (x TEXT DEFAULT ';'); -- a comment; with a semicolon
    CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE a SET x = ';'; SELECT 1; END;
    """
    assert len(list(split_statements(script))) == 2


async def test_a_write_that_need_not_be_synced_is_there_at_once_and_changes_no_other(db: Database) -> None:
    levels: list[int] = []

    def level(conn: sqlite3.Connection) -> None:
        add("a")(conn)
        levels.append(conn.execute("PRAGMA synchronous").fetchone()[0])

    await db.write(level, synced=False)
    await db.write(level)
    with pytest.raises(ZeroDivisionError):
        await db.write(lambda conn: 1 // 0, synced=False)
    await db.write(level)
    assert levels == [1, 2, 2]  # NORMAL, FULL, FULL
    assert await db.read(names) == ["a", "a", "a"]
