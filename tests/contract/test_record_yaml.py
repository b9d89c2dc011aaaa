"""RecordService on a YAML file: what a person changes while it runs, kills, two on one file, a full disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.server.v1 import server_service_pb2, server_service_pb2_grpc
from support.failures import fails, failure_of
from support.recordkills import check_kills, everything
from support.records import RecordProcess, record_service, vae
from support.smalldisk import fill, small_disk

MINE = """
my-vae:
  name: mine  # by hand
  path: /mine
  model_type: vae
  model_format: diffusers
  base_model: sd-1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models.yaml"


@pytest.fixture
async def stub(data_dir: Path, file: Path) -> AsyncIterator[Any]:
    async with record_service(data_dir, model_config_db=file) as service:
        yield service


def process(data_dir: Path, file: Path) -> RecordProcess:
    return RecordProcess(data_dir, f"--model-config-db={file}")


async def create(stub: Any, model: model_pb2.Model) -> model_pb2.Model:
    answer: pb.CreateModelResponse = await stub.CreateModel(pb.CreateModelRequest(model=model))
    return answer.model


async def names(stub: Any) -> set[str]:
    return {model.name for model in (await everything(stub)).values()}


class Watcher:
    """What a watch has told."""

    def __init__(self, stub: Any, token: str = "") -> None:
        request = pb.WatchModelsRequest(resume_token=token, bookmark_interval=Duration(seconds=1))
        self.call = stub.WatchModels(request)
        self.token = token
        self.events: list[pb.ModelEvent] = []

    async def until(self, count: int) -> list[pb.ModelEvent]:
        """The events, at least so many."""
        async with asyncio.timeout(20):
            while len(self.events) < count:
                await self._read()
        return self.events

    async def snapshot(self) -> None:
        while not (await self._read()).snapshot_complete:
            pass

    async def _read(self) -> pb.WatchModelsResponse:
        frame: pb.WatchModelsResponse = await asyncio.wait_for(self.call.read(), 20)
        self.token = frame.resume_token
        self.events += frame.events
        return frame


async def test_the_service_says_what_it_keeps_its_records_in(stub: Any, data_dir: Path, file: Path) -> None:
    assert (await stub.GetStoreInfo(pb.GetStoreInfoRequest())).backend == "yaml"
    assert file.exists()
    assert not (data_dir / "record" / "record.db").exists()


async def test_an_edit_by_hand_reaches_watchers_and_lists_by_itself(stub: Any, file: Path) -> None:
    one, two = await create(stub, vae("one")), await create(stub, vae("two"))
    watcher = Watcher(stub)
    await watcher.snapshot()
    watcher.events.clear()
    text = file.read_text().replace("name: one", "name: other  # better")
    file.write_text(text[: text.index(two.key)] + MINE)
    gone, other, mine = await watcher.until(3)
    assert (gone.removed_key, gone.revision) == (two.key, 3)
    assert (other.put.key, other.put.name, other.revision, other.put.revision) == (one.key, "other", 4, 4)
    assert (mine.put.name, mine.revision) == ("mine", 5)
    found = await everything(stub)
    assert found == {one.key: other.put, mine.put.key: mine.put}
    # The etag that was read before is stale now.
    with fails(code="ABORTED", reason="ETAG_MISMATCH"):
        change = model_pb2.Model(key=one.key, etag=one.etag, name="late")
        await stub.UpdateModel(pb.UpdateModelRequest(model=change))
    await stub.UpdateModel(pb.UpdateModelRequest(model=model_pb2.Model(key=one.key, description="d")))
    assert "name: other  # better\n" in file.read_text()
    assert "name: mine  # by hand\n" in file.read_text()


async def test_while_the_file_is_broken_reads_go_on_and_changes_wait_for_it_to_be_mended(
    stub: Any, file: Path
) -> None:
    one = await create(stub, vae("one"))
    good = file.read_text()
    file.write_text(good + MINE.replace("sd-1", "[sd-1"))
    with fails(code="FAILED_PRECONDITION", reason="STORE_FILE_BROKEN") as found:
        await create(stub, vae("two"))
    line = good.count("\n") + 7
    assert {**found[0].metadata, "remedy": ""} == {
        "path": str(file),
        "line": str(line),
        "column": "15",
        "remedy": "",
    }
    assert str(file) in found[0].metadata["remedy"]
    change = pb.UpdateModelRequest(model=model_pb2.Model(key=one.key, name="never"))
    with fails(code="FAILED_PRECONDITION", reason="STORE_FILE_BROKEN"):
        await stub.UpdateModel(change)
    assert await everything(stub) == {one.key: one}
    assert (await stub.GetModel(pb.GetModelRequest(key=one.key))).model == one
    watcher = Watcher(stub)
    await watcher.snapshot()
    file.write_text(good + MINE)
    assert (await watcher.until(2))[-1].put.name == "mine"
    await create(stub, vae("two"))
    assert await names(stub) == {"one", "mine", "two"}


async def test_a_broken_file_keeps_the_service_from_starting_and_is_left_alone(
    data_dir: Path, file: Path
) -> None:
    broken = f"__metadata__:\n  version: 3.2.0\n{MINE}  tags: no list\n"
    file.write_text(broken)
    code, errors = await process(data_dir, file).end()
    assert code == 65
    assert f"{file}, line 10, column 9: tags must be a list" in errors
    assert file.read_text() == broken


async def test_a_file_whose_kind_its_name_does_not_tell_is_a_bad_setting(
    data_dir: Path, tmp_path: Path
) -> None:
    code, errors = await process(data_dir, tmp_path / "models.json").end()
    assert code == 78
    assert "--model-config-db" in errors
    assert "must end in .db, .yaml or .yml" in errors


async def test_a_database_may_lie_elsewhere_too(data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "models.db"
    async with record_service(data_dir, model_config_db=file) as stub:
        assert (await stub.GetStoreInfo(pb.GetStoreInfoRequest())).backend == "sqlite"
        await create(stub, vae("one"))
    assert file.exists()
    assert not (data_dir / "record" / "record.db").exists()


async def test_tokens_and_request_ids_end_with_the_process_and_records_do_not(
    data_dir: Path, file: Path
) -> None:
    running = process(data_dir, file)
    stub = await running.start()
    request = pb.CreateModelRequest(model=vae("one"), request_id="00000000-0000-4000-8000-000000000001")
    made = (await stub.CreateModel(request)).model
    assert (await stub.CreateModel(request)).model == made
    watcher = Watcher(stub)
    await watcher.snapshot()
    store_id = (await stub.GetStoreInfo(pb.GetStoreInfoRequest())).store_id
    assert await running.stop() == 0
    stub = await running.start()
    info = await stub.GetStoreInfo(pb.GetStoreInfoRequest())
    assert info.store_id != store_id
    assert (info.revision, info.oldest_revision, info.model_count) == (1, 1, 1)
    assert await everything(stub) == {made.key: made}
    with fails(code="INVALID_ARGUMENT", reason="RESUME_TOKEN_FOREIGN"):
        await Watcher(stub, watcher.token).until(1)
    with fails(code="ALREADY_EXISTS", reason="DUPLICATE_PATH"):
        await stub.CreateModel(request)
    server = server_service_pb2_grpc.ServerServiceStub(grpc.aio.insecure_channel(f"127.0.0.1:{running.port}"))
    assert "yaml" in (await server.GetServerInfo(server_service_pb2.GetServerInfoRequest())).features
    await running.stop()


async def test_a_record_of_a_newer_version_is_counted_and_keeps_what_is_not_known_here(
    data_dir: Path, file: Path
) -> None:
    file.write_text(
        f"__metadata__:\n  version: 3.2.0\n{'f' * 32}:\n  name: future\n  path: /future\n"
        "  model_type: 999\n  model_format: diffusers\n  base_model: sd-1\n  revision: 7\n"
        "  new_field: [1, two]\n  unknown_fields: c2bb01036e6577\n"
    )
    async with record_service(data_dir, model_config_db=file) as stub:
        info = await stub.GetStoreInfo(pb.GetStoreInfoRequest())
        assert (info.model_count, info.unreadable_count, info.revision) == (1, 1, 7)
        change = model_pb2.Model(key="f" * 32, description="changed")
        now = (await stub.UpdateModel(pb.UpdateModelRequest(model=change))).model
        assert (now.type, now.description, now.revision) == (999, "changed", 8)
        assert b"\xc2\xbb\x01\x03new" in now.SerializeToString()
        assert dict(now.extra_fields) == {"new_field": '[1, "two"]'}
    text = file.read_text()
    assert "  model_type: 999\n" in text
    assert "  new_field: [1, two]\n  unknown_fields: c2bb01036e6577\n" in text


@pytest.mark.long
@pytest.mark.timeout(90)
async def test_a_kill_during_writes_loses_nothing_that_was_acknowledged(data_dir: Path, file: Path) -> None:
    await check_kills(process(data_dir, file), seed=20261127, rounds=3)
    assert [path for path in file.parent.glob(f".{file.name}.*.tmp") if path.exists()] == []


@pytest.mark.timeout(90)
async def test_two_processes_on_one_file_are_both_correct(data_dir: Path, file: Path) -> None:
    one, two = process(data_dir, file), process(data_dir, file)
    stubs = await asyncio.gather(one.start(), two.start())
    watchers = [Watcher(stub) for stub in stubs]
    for watcher in watchers:
        await watcher.snapshot()

    async def attempt(stub: Any, number: int) -> str:
        try:
            await create(stub, vae(f"v{number}", path=f"/models/{number % 10}"))
        except grpc.aio.AioRpcError as error:
            return failure_of(error).reason
        return "OK"

    outcomes = await asyncio.gather(*(attempt(stub, number) for number in range(20) for stub in stubs))
    assert sorted(outcomes) == ["DUPLICATE_PATH"] * 30 + ["OK"] * 10
    for watcher in watchers:
        events = await watcher.until(10)
        assert [event.revision for event in events] == list(range(1, 11))
    assert watchers[0].events == watchers[1].events
    seen = [await everything(stub) for stub in stubs]
    assert seen[0] == seen[1]
    key, model = next(iter(seen[0].items()))
    changes = [model_pb2.Model(key=key, etag=model.etag, name=f"n{number}") for number in range(2)]
    answers = await asyncio.gather(
        *(
            stub.UpdateModel(pb.UpdateModelRequest(model=change))
            for stub, change in zip(stubs, changes, strict=True)
        ),
        return_exceptions=True,
    )
    (refused,) = (answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError))
    assert failure_of(refused).reason == "ETAG_MISMATCH"
    await asyncio.gather(one.stop(), two.stop())


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(8) as folder:
        yield folder


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_a_full_disk_refuses_changes_and_reads_go_on(disk: Path, data_dir: Path) -> None:
    file = disk / "models.yaml"
    async with record_service(data_dir, model_config_db=file, reserve_bytes=1 << 20) as stub:
        made = [await create(stub, vae(f"m{number}", description="x" * 10_000)) for number in range(30)]
        ballast = fill(disk)
        before = file.read_bytes()
        with fails(code="RESOURCE_EXHAUSTED", reason="DISK_FULL") as found:
            await create(stub, vae("more", description="x" * 60_000))
        assert found[0].metadata["path"] == str(disk)
        assert file.read_bytes() == before
        assert len(await everything(stub)) == 30
        # What makes room has the reserve.
        await stub.DeleteModel(pb.DeleteModelRequest(key=made[0].key))
        assert len(await everything(stub)) == 29
        assert not list(disk.glob(".models.yaml.*.tmp"))
        ballast.unlink()
        await create(stub, vae("more"))
    assert file.stat().st_size < len(before)


async def test_the_type_of_a_record_by_hand_says_which_settings_it_has(stub: Any, file: Path) -> None:
    await create(stub, vae("one"))
    with file.open("a") as editor:
        editor.write(
            MINE.replace("my-vae", "my-main").replace("type: vae", "type: main") + "  variant: inpaint\n"
        )
    watcher = Watcher(stub)
    await watcher.snapshot()
    main = (await watcher.until(2))[-1].put
    assert (main.type, main.main.variant) == (
        taxonomy_pb2.MODEL_TYPE_MAIN,
        taxonomy_pb2.MODEL_VARIANT_INPAINT,
    )
