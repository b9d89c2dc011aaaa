"""RecordService as processes: kills, two on one file, stores that cannot be opened."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep_record.app import RecordApplication
from modelkeep_record.config import RecordSettings
from modelkeep_record.stores.sqlite.schema import MIGRATIONS
from support.failures import failure_of
from support.recordkills import check_kills, everything
from support.records import RecordProcess, vae


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_a_kill_during_writes_loses_nothing_that_was_acknowledged(data_dir: Path) -> None:
    await check_kills(RecordProcess(data_dir), seed=20260801, rounds=2)
    check = sqlite3.connect(data_dir / "record" / "record.db")
    assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    check.execute("INSERT INTO models_text (models_text, rank) VALUES ('integrity-check', 1)")
    check.close()


async def attempt(call: Callable[[], Awaitable[Any]]) -> str:
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        return failure_of(error).reason
    return "OK"


async def test_two_processes_on_one_file_are_both_correct(data_dir: Path) -> None:
    one, two = RecordProcess(data_dir), RecordProcess(data_dir)
    stubs = await asyncio.gather(one.start(), two.start())
    outcomes = await asyncio.gather(
        *(
            attempt(
                lambda n=n, stub=stub: stub.CreateModel(  # type: ignore[misc]  # a lambda with defaults
                    pb.CreateModelRequest(model=vae(f"v{n}", path=f"/models/{n % 20}"))
                )
            )
            for n in range(40)
            for stub in stubs
        )
    )
    assert sorted(outcomes) == ["DUPLICATE_PATH"] * 60 + ["OK"] * 20
    seen = [await everything(stub) for stub in stubs]
    assert seen[0] == seen[1]
    assert sorted(model.revision for model in seen[0].values()) == list(range(1, 21))
    key, model = next(iter(seen[0].items()))
    outcomes = await asyncio.gather(
        *(
            attempt(
                lambda stub=stub, n=n: stub.UpdateModel(  # type: ignore[misc]  # a lambda with defaults
                    pb.UpdateModelRequest(model=model_pb2.Model(key=key, etag=model.etag, name=f"n{n}"))
                )
            )
            for n, stub in enumerate(stubs)
        )
    )
    assert sorted(outcomes) == ["ETAG_MISMATCH", "OK"]
    await asyncio.gather(one.stop(), two.stop())


async def test_a_database_of_a_newer_schema_is_refused_and_left_alone(data_dir: Path) -> None:
    process = RecordProcess(data_dir)
    await process.start()
    assert await process.stop() == 0
    path = data_dir / "record" / "record.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    before = path.read_bytes()
    code, errors = await RecordProcess(data_dir).end()
    assert code == 65
    assert "newer" in errors
    assert path.read_bytes() == before


async def test_a_folder_that_cannot_be_written_is_refused(data_dir: Path) -> None:
    if os.geteuid():
        (data_dir / "record").mkdir(mode=0o500)
    else:
        # The superuser may write any folder of a disk, but not a folder of the kernel's.
        (data_dir / "record").symlink_to("/proc/self/task")
    code, errors = await RecordProcess(data_dir).end()
    assert code == 73
    assert "record" in errors


async def test_a_data_folder_that_is_a_file_is_refused(data_dir: Path) -> None:
    (data_dir / "record").write_text("in the way")
    code, errors = await RecordProcess(data_dir).end()
    assert code == 73
    assert str(data_dir) in errors


async def test_a_record_of_a_newer_version_is_counted_and_keeps_what_is_not_known_here(
    data_dir: Path,
) -> None:
    settings = RecordSettings.for_test(data_dir)
    async with RecordApplication(settings).open():
        pass
    model = vae("future", key="f" * 32, revision=1)
    model.type = 999  # type: ignore[assignment]  # as a newer version may have it
    model.MergeFromString(b"\xc2\xbb\x01\x03new")
    connection = sqlite3.connect(settings.database)
    columns = "key, message, name, type, format, base, path, root_id, size_bytes, original_hash, current_hash"
    connection.execute(
        f"INSERT INTO models ({columns}, source, create_time_us, update_time_us, search) "
        "VALUES (?, ?, 'future', 999, 1, 'sd-1', '/models/future', '', 0, '', '', '', 0, 0, 'future')",
        (model.key, model.SerializeToString()),
    )
    connection.commit()
    connection.close()
    process = RecordProcess(data_dir)
    stub = await process.start()
    info = await stub.GetStoreInfo(pb.GetStoreInfoRequest())
    assert (info.model_count, info.unreadable_count) == (1, 1)
    change = model_pb2.Model(key=model.key, description="changed", type=taxonomy_pb2.MODEL_TYPE_UNSPECIFIED)
    now = (await stub.UpdateModel(pb.UpdateModelRequest(model=change))).model
    assert (now.type, now.description) == (999, "changed")
    got = (await stub.GetModel(pb.GetModelRequest(key=model.key))).model
    assert b"\xc2\xbb\x01\x03new" in got.SerializeToString()
    await process.stop()
