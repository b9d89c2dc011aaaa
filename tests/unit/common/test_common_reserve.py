"""The room that is kept for the way out of a full disk, and the database that uses it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import DiskFullException
from modelkeep.reserve import Reserve, is_full
from modelkeep_common import logs
from modelkeep_common.sqlite import Database, Migration
from modelkeep_common.startup import StartupError
from support.smalldisk import fill, free_bytes, small_disk

ITEMS = Migration(1, "CREATE TABLE items (id INTEGER PRIMARY KEY, text BLOB);")
MIB = 1 << 20
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(24) as folder:
        yield folder


@pytest.fixture
async def db(disk: Path) -> AsyncIterator[Database]:
    opened = await Database.open(disk / "t" / "t.db", [ITEMS], "test")
    yield opened
    await opened.close()


def insert(size: int) -> Any:
    return lambda conn: conn.execute("INSERT INTO items (text) VALUES (?)", (os.urandom(size),)).lastrowid


def count(conn: sqlite3.Connection) -> int:
    return int(conn.execute("SELECT count(*) FROM items").fetchone()[0])


# -- the file -------------------------------------------------------------------------------------------


def test_a_reserve_takes_its_room_and_gives_it_back_in_slices(disk: Path) -> None:
    reserve, before = Reserve(disk, 4 * MIB), free_bytes(disk)
    assert reserve.renew()
    assert before - free_bytes(disk) == 4 * MIB
    slices = 0
    while reserve.give_up():
        slices += 1
        assert not reserve.is_whole
    assert slices == 16
    assert free_bytes(disk) == before
    assert not reserve.path.exists()


def test_a_reserve_is_made_again_only_when_that_leaves_room(disk: Path) -> None:
    reserve = Reserve(disk, 4 * MIB)
    ballast = fill(disk)
    assert not reserve.renew()
    assert not reserve.has_room()
    os.truncate(ballast, ballast.stat().st_size - 6 * MIB)
    again = Reserve(disk, 4 * MIB)
    assert not again.renew(), "6 MiB are too few to take 4 of them"
    assert again.has_room()
    ballast.unlink()
    assert Reserve(disk, 4 * MIB).renew()


def test_work_that_finds_no_room_is_done_with_the_reserve(disk: Path) -> None:
    reserve = Reserve(disk, MIB)
    reserve.renew()
    fill(disk)
    file = disk / "needed"
    reserve.run(lambda: file.write_bytes(b"x" * 200_000))
    assert file.stat().st_size == 200_000
    with pytest.raises(OSError, match="No space left") as refused:
        reserve.run(lambda: file.write_bytes(b"x" * 2 * MIB))
    assert is_full(refused.value)


def test_other_errors_do_not_cost_the_reserve(disk: Path) -> None:
    reserve = Reserve(disk, MIB)
    reserve.renew()

    def fail() -> None:
        raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"):
        reserve.run(fail)
    assert reserve.path.stat().st_size == MIB


def test_where_no_reserve_can_be_made_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "reserve").symlink_to("/nowhere")
    reserve = Reserve(tmp_path)
    assert reserve.renew()
    assert reserve.has_room()
    assert not Path("/nowhere").exists()
    assert Reserve(tmp_path, 0).has_room()


@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_a_file_of_that_name_that_holds_something_is_left_alone(disk: Path, size: int) -> None:
    theirs = disk / "reserve"
    theirs.write_bytes(b"\1" * size)
    reserve = Reserve(disk, MIB)
    assert reserve.renew()
    fill(disk)
    assert not reserve.give_up()
    assert not Reserve(disk, MIB).give_up()
    assert theirs.read_bytes() == b"\1" * size


# -- the database ---------------------------------------------------------------------------------------


async def until_refused(db: Database) -> DiskFullException:
    for _ in range(400):
        try:
            await db.write(insert(20_000), grows=True)
        except DiskFullException as refused:
            return refused
    raise AssertionError("a full disk took 8 MB")


async def test_on_a_full_disk_what_ends_and_frees_is_written_and_what_only_adds_is_refused(
    disk: Path, db: Database
) -> None:
    for _ in range(20):
        await db.write(insert(20_000), grows=True)
    ballast = fill(disk)
    refused = await until_refused(db)
    assert refused.metadata["path"] == str(db.path.parent)
    fill(disk)  # whatever is given up, others take it
    for _ in range(300):
        await db.write(lambda conn: conn.execute("UPDATE items SET text = zeroblob(20000)") and None)
    await db.write(lambda conn: conn.execute("DELETE FROM items") and None)
    assert await db.read(count) == 0
    with pytest.raises(DiskFullException):
        await db.write(insert(20_000), grows=True)
    ballast.unlink()
    await db.write(insert(20_000), grows=True)
    while not db.reserve.is_whole:  # at most a second after it was given up
        await asyncio.sleep(0.05)
        await db.write(insert(1), grows=True)
    assert db.reserve.path.stat().st_size == db.reserve.size_bytes


async def test_a_unit_of_work_that_is_run_again_counts_once(disk: Path, db: Database) -> None:
    fill(disk)
    ids = [await db.write(insert(100_000)) for _ in range(10)]
    assert ids == sorted(set(ids))
    assert await db.read(count) == 10


async def test_a_database_opens_on_a_full_disk_with_its_reserve(disk: Path) -> None:
    path = disk / "t" / "t.db"
    first = await Database.open(path, [ITEMS], "test")
    await first.write(insert(1000))
    await first.close()
    fill(disk)
    second = await Database.open(path, [ITEMS], "test")
    assert await second.read(count) == 1
    await second.write(insert(1000))
    await second.close()


async def test_a_new_database_on_a_full_disk_is_refused_with_what_to_do(disk: Path) -> None:
    fill(disk)
    with pytest.raises(StartupError, match="is on a full disk: free some space") as refused:
        await Database.open(disk / "t.db", [ITEMS], "test")
    assert refused.value.exit_code == 73


# -- the log --------------------------------------------------------------------------------------------


def test_a_log_on_a_full_disk_loses_lines_and_says_how_many(disk: Path) -> None:
    path = disk / "x.jsonl"
    logs.configure("record", file=path)
    try:
        ballast = fill(disk)
        for number in range(100):
            logging.getLogger("t").info("line %d", number)
        logs.shutdown()
        assert path.read_text() == ""
        logs.configure("record", file=path)
        writer = logs.writer()
        assert writer is not None
        writer._write(["too much"])
        ballast.unlink()
        writer._write(["fits"])
    finally:
        logs.shutdown()
    lost, fits = path.read_text().splitlines()
    assert '"lost":1' in lost
    assert fits == "fits"


def test_a_log_that_nobody_reads_holds_a_bounded_amount_and_blocks_nobody() -> None:
    reader, pipe = os.pipe()
    writer = logs.LineWriter(fd=pipe)
    try:
        for _ in range(3000):
            writer.put("x" * 10_000)
        assert writer._held < 17 * MIB
        drained = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reader, 1 << 20), b"")])
        drained.start()
        writer.close()
    finally:
        os.close(pipe)
    drained.join(10)
    os.close(reader)
