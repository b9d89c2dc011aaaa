"""RecordService over a real channel: copies of its store, made while it goes on and put back later."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiosqlite
import grpc.aio
import pytest

from modelkeep.record.v1 import backups_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from support.failures import fails
from support.records import RecordProcess, record_service, vae
from support.recordstores import KINDS, Kind
from support.smalldisk import fill, small_disk
from support.waiting import until

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
async def stub(data_dir: Path, kind: Kind) -> AsyncIterator[Any]:
    async with record_service(data_dir, kind) as service:
        yield service


@pytest.fixture
async def on_sqlite(data_dir: Path) -> AsyncIterator[Any]:
    async with record_service(data_dir) as service:
        yield service


async def back_up(stub: Any, name: str = "") -> backups_pb2.BackUpStoreResponse:
    response = await stub.BackUpStore(backups_pb2.BackUpStoreRequest(name=name))
    assert isinstance(response, backups_pb2.BackUpStoreResponse)
    return response


async def back_up_as_soon_as_may_be(stub: Any, name: str) -> Path:
    """Once the copy that nobody waits for any more has ended."""
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            return Path((await back_up(stub, name)).path)


async def create(stub: Any, number: int, **fields: Any) -> int:
    """Make a record; its revision."""
    model = vae(**{"name": f"m{number}", "key": f"{number:032x}", **fields})
    return int((await stub.CreateModel(pb.CreateModelRequest(model=model))).revision)


async def names(stub: Any) -> list[str]:
    page = await stub.ListModels(pb.ListModelsRequest(page_size=1000))
    return [model.name for model in page.models]


async def test_a_copy_is_a_file_of_the_services_own_user_and_takes_no_others_name(stub: Any) -> None:
    await create(stub, 1)
    made = await back_up(stub, "before-the-move_2.0")
    path = Path(made.path)
    assert path.stem == "before-the-move_2.0"
    assert (made.revision, path.stat().st_size) == (1, made.size_bytes)
    assert [at.stat().st_mode & 0o777 for at in (path, path.parent)] == [0o600, 0o700]
    assert (made.create_time.seconds, list(path.parent.iterdir())) != (0, [])
    before = path.read_bytes()
    await create(stub, 2)
    with fails(code="ALREADY_EXISTS", reason="DESTINATION_EXISTS") as found:
        await back_up(stub, "before-the-move_2.0")
    assert found[0].metadata["path"] == str(path)
    with fails(code="ALREADY_EXISTS", reason="DESTINATION_EXISTS"):
        await back_up(stub, path.name)  # with its suffix it is the same name
    assert (path.read_bytes(), list(path.parent.iterdir())) == (before, [path])


async def test_without_a_name_it_has_that_of_the_moment(stub: Any) -> None:
    path = Path((await back_up(stub)).path)
    assert len(path.stem) == len("20261127T214305Z")
    assert path.stem.endswith("Z")


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b", "x" * 65, "a b", "ä"])
async def test_a_name_leads_to_no_other_folder(stub: Any, name: str) -> None:
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["name"]):
        await back_up(stub, name)


async def test_a_disk_without_room_for_it_is_told_and_nothing_is_left(
    stub: Any, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(stub, 1)
    real = os.fsync

    def full(descriptor: int) -> None:
        if "backups" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("modelkeep_common.backups.os.fsync", full)
    with fails(code="RESOURCE_EXHAUSTED", reason="DISK_FULL") as found:
        await back_up(stub, "a")
    assert found[0].metadata["path"].endswith("backups")
    assert int(found[0].metadata["bytes_short"]) > 0
    monkeypatch.undo()
    (folder,) = data_dir.rglob("backups")
    assert list(folder.iterdir()) == []
    await back_up(stub, "a")


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(64) as folder:
        yield folder


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("is_foreseen", [True, False])
async def test_a_disk_that_is_full_now_or_in_the_middle_of_it_keeps_the_store_as_it_is(
    disk: Path, is_foreseen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with record_service(disk / "data", reserve_bytes=0) as stub:
        for number in range(60):
            await create(stub, number, description="x" * 60_000)
        ballast = await asyncio.to_thread(fill, disk)
        await asyncio.to_thread(os.truncate, ballast, ballast.stat().st_size - (3 << 19))
        if not is_foreseen:
            monkeypatch.setattr("modelkeep_common.sqlite.backup._size", lambda path: 1)
        with fails(code="RESOURCE_EXHAUSTED", reason="DISK_FULL"):
            await back_up(stub, "a")
        folder = disk / "data" / "record" / "backups"
        assert list(folder.iterdir()) == []
        assert (await stub.GetStoreInfo(pb.GetStoreInfoRequest())).model_count == 60
        monkeypatch.undo()
        await asyncio.to_thread(ballast.unlink)
        assert Path((await back_up(stub, "a")).path).parent == folder


async def test_what_a_killed_process_has_left_goes_with_the_next_copy(stub: Any) -> None:
    folder = Path((await back_up(stub, "a")).path).parent
    same, old, new = (folder / f".{name}.part" for name in ("b.db", "old.db", "new.db"))
    for left in (same, old, new):
        await asyncio.to_thread(left.write_bytes, b"half a copy")
    await asyncio.to_thread(os.utime, old, (0, 0))
    made = Path((await back_up(stub, "b")).path)
    assert made.read_bytes() != b"half a copy"
    assert not old.exists()
    assert new.exists()


def test_the_room_is_looked_at_before_a_byte_is_written() -> None:
    from modelkeep_common.backups import full_disk

    error = full_disk(Path("/"), 1 << 60)
    assert int(error.metadata["bytes_short"]) > 1 << 59


async def test_one_is_made_at_a_time_and_one_that_nobody_waits_for_leaves_nothing(
    on_sqlite: Any, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(on_sqlite, 1)
    begun, real = asyncio.Event(), aiosqlite.Connection.backup

    async def slow(self: aiosqlite.Connection, *arguments: Any, **options: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(aiosqlite.Connection, "backup", slow)
    first = on_sqlite.BackUpStore(backups_pb2.BackUpStoreRequest(name="a"))
    await begun.wait()
    with fails(code="RESOURCE_EXHAUSTED", reason="SERVER_BUSY") as found:
        await back_up(on_sqlite, "b")
    assert found[0].metadata["class"] == "backup"
    first.cancel()
    monkeypatch.setattr(aiosqlite.Connection, "backup", real)
    made = await back_up_as_soon_as_may_be(on_sqlite, "a")
    assert list(made.parent.iterdir()) == [made]


async def test_a_copy_that_is_cut_off_in_the_middle_ends_soon(
    on_sqlite: Any, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(on_sqlite, 1, description="x" * 65_000)
    monkeypatch.setattr("modelkeep_common.sqlite.backup._STEP_PAGES", 1)
    with pytest.raises(grpc.aio.AioRpcError):
        await on_sqlite.BackUpStore(backups_pb2.BackUpStoreRequest(name="a"), timeout=0.001)
    assert len(await names(on_sqlite)) == 1
    made = await back_up_as_soon_as_may_be(on_sqlite, "b")
    assert {path.name for path in made.parent.iterdir()} <= {made.name, "a.db"}


async def test_a_file_for_people_is_copied_and_put_back(data_dir: Path) -> None:
    async with record_service(data_dir, KINDS["yaml"]) as stub:
        await create(stub, 1)
        copy = Path((await back_up(stub, "good")).path)
        await create(stub, 2)
        assert await names(stub) == ["m1", "m2"]
    (file,) = data_dir.glob("*.yaml")
    await asyncio.to_thread(shutil.copy2, copy, file)
    async with record_service(data_dir, KINDS["yaml"]) as stub:
        assert await names(stub) == ["m1"]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path)
    try:
        yield connection
    finally:
        connection.close()


async def test_a_copy_that_was_made_while_others_wrote_is_put_in_place_of_the_store(data_dir: Path) -> None:
    """As docs/operations.md says it, step by step."""
    process = RecordProcess(data_dir)
    stub = await process.start()
    made: dict[int, int] = {}

    async def write(first: int) -> None:
        number = first
        while True:
            made[await create(stub, number, description="x" * 5000)] = number
            number += 4

    writers = [asyncio.ensure_future(write(first)) for first in range(1, 5)]
    await until(lambda: len(made) >= 40)
    early = (await stub.ListModels(pb.ListModelsRequest(page_size=1))).resume_token
    count = len(made)
    await until(lambda: len(made) >= count + 4)
    copy = await back_up(stub, "good")
    count = len(made)
    await until(lambda: len(made) >= count + 40)
    late = (await stub.ListModels(pb.ListModelsRequest(page_size=1))).resume_token
    store_id = (await stub.GetStoreInfo(pb.GetStoreInfoRequest())).store_id
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    await process.stop(signal.SIGKILL)

    folder = data_dir / "record"
    for path in folder.glob("record.db*"):
        path.rename(path.with_name(f"bad-{path.name}"))
    await asyncio.to_thread(shutil.copy2, folder / "backups" / "good.db", folder / "record.db")

    def check() -> str:
        with opened(folder / "record.db") as connection:
            return str(connection.execute("PRAGMA integrity_check").fetchone()[0])

    assert await asyncio.to_thread(check) == "ok"
    stub = await process.start()
    info = await stub.GetStoreInfo(pb.GetStoreInfoRequest())
    assert (info.store_id, info.revision) == (store_id, copy.revision)
    then = {f"m{number}" for revision, number in made.items() if revision <= copy.revision}
    assert set(await names(stub)) == then
    assert len(then) < len(made)

    watch = stub.WatchModels(pb.WatchModelsRequest(resume_token=early))
    seen: set[str] = set()
    async for frame in watch:
        seen |= {event.put.name for event in frame.events}
        if f"m{made[copy.revision]}" in seen:
            break
    assert seen < then
    with fails(code="INVALID_ARGUMENT", reason="RESUME_TOKEN_FOREIGN"):
        async for _ in stub.WatchModels(pb.WatchModelsRequest(resume_token=late)):
            pass
    for number in range(10_000, 10_100):
        assert await create(stub, number) == copy.revision + number - 9_999
    with fails(code="INVALID_ARGUMENT", reason="RESUME_TOKEN_FOREIGN"):
        async for _ in stub.WatchModels(pb.WatchModelsRequest(resume_token=late)):
            pass
    assert await process.stop() == 0
