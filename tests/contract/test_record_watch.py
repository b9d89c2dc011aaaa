"""RecordService over a real channel: watches, also across a restart of the service."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.record.v1 import record_service_pb2_grpc as rpc
from modelkeep.server.v1 import watch_pb2
from modelkeep_common.serving import start_server
from modelkeep_record.app import RecordApplication
from modelkeep_record.config import RecordSettings
from support.failures import fails
from support.records import RecordProcess, record_service, vae
from support.recordstores import Kind

SNAPSHOT, LIVE = watch_pb2.WATCH_PHASE_SNAPSHOT, watch_pb2.WATCH_PHASE_LIVE


@pytest.fixture
async def stub(data_dir: Path, kind: Kind) -> AsyncIterator[Any]:
    async with record_service(data_dir, kind) as service:
        yield service


class Watcher:
    """A watch that keeps what a client would: the records by key, and the last token."""

    def __init__(self, stub: Any, token: str = "", **fields: Any) -> None:
        fields.setdefault("bookmark_interval", Duration(seconds=1))
        self.call = stub.WatchModels(pb.WatchModelsRequest(resume_token=token, **fields))
        self.token = token
        self.models: dict[str, model_pb2.Model] = {}
        self.revisions: list[int] = []
        self.phases: list[int] = []

    async def read(self) -> pb.WatchModelsResponse:
        frame: pb.WatchModelsResponse = await asyncio.wait_for(self.call.read(), 10)
        self.token = frame.resume_token
        self.phases.append(frame.phase)
        for event in frame.events:
            if event.revision:
                self.revisions.append(event.revision)
            if event.HasField("put"):
                self.models[event.put.key] = event.put
            else:
                self.models.pop(event.removed_key, None)
        return frame

    async def snapshot(self) -> None:
        while not (await self.read()).snapshot_complete:
            pass

    async def until(self, revision: int) -> None:
        while not self.revisions or self.revisions[-1] < revision:
            await self.read()


async def create(stub: Any, model: model_pb2.Model) -> pb.CreateModelResponse:
    response: pb.CreateModelResponse = await stub.CreateModel(pb.CreateModelRequest(model=model))
    return response


async def test_a_watch_brings_a_snapshot_and_then_every_change(stub: Any) -> None:
    first = await create(stub, vae("a"))
    watcher = Watcher(stub)
    await watcher.snapshot()
    assert list(watcher.models.values()) == [first.model]
    second = await create(stub, vae("b"))
    changed = await stub.UpdateModel(
        pb.UpdateModelRequest(model=model_pb2.Model(key=first.model.key, name="c"))
    )
    gone = await stub.DeleteModel(pb.DeleteModelRequest(key=second.model.key))
    await watcher.until(gone.revision)
    assert watcher.models == {first.model.key: changed.model}
    assert watcher.revisions == [second.revision, changed.revision, gone.revision]
    assert set(watcher.phases) == {SNAPSHOT, LIVE}


async def test_a_watch_sees_each_change_of_many_clients_once_and_in_order(stub: Any) -> None:
    watcher = Watcher(stub)
    await watcher.snapshot()
    made = [answer.model for answer in await asyncio.gather(*(create(stub, vae(f"m{n}")) for n in range(20)))]

    async def work(model: model_pb2.Model) -> pb.UpdateModelResponse:
        for number in range(5):
            change = model_pb2.Model(key=model.key, description=f"{number}")
            answer: pb.UpdateModelResponse = await stub.UpdateModel(pb.UpdateModelRequest(model=change))
        return answer

    last = await asyncio.gather(*(work(model) for model in made))
    await watcher.until(120)
    assert watcher.revisions == list(range(1, 121))
    assert watcher.models == {answer.model.key: answer.model for answer in last}


async def test_a_watch_from_a_list_misses_nothing(stub: Any) -> None:
    await create(stub, vae("a"))
    page = await stub.ListModels(pb.ListModelsRequest())
    second = await create(stub, vae("b"))
    watcher = Watcher(stub, page.resume_token)
    await watcher.until(second.revision)
    assert list(watcher.models.values()) == [second.model]
    assert set(watcher.phases) == {LIVE}


async def test_the_token_of_the_first_page_brings_what_changed_between_the_pages(stub: Any) -> None:
    for name in "abc":
        await create(stub, vae(name))
    first = await stub.ListModels(pb.ListModelsRequest(page_size=2))
    late = await create(stub, vae("A"))  # would be on the page that was read already
    rest = await stub.ListModels(pb.ListModelsRequest(page_size=2, page_token=first.next_page_token))
    assert [model.name for model in (*first.models, *rest.models)] == ["a", "b", "c"]
    assert (first.resume_token != "", rest.resume_token) == (True, "")
    watcher = Watcher(stub, first.resume_token)
    await watcher.until(late.revision)
    assert list(watcher.models.values()) == [late.model]


async def test_a_watch_without_snapshot_brings_only_what_comes(stub: Any) -> None:
    await create(stub, vae("a"))
    watcher = Watcher(stub, skip_snapshot=True)
    await watcher.read()
    second = await create(stub, vae("b"))
    await watcher.until(second.revision)
    assert list(watcher.models.values()) == [second.model]


async def test_a_record_that_leaves_the_filter_is_removed_and_others_do_not_appear(stub: Any) -> None:
    tagged = await create(stub, vae("a", tags=["t"]))
    watcher = Watcher(stub, filter=pb.ModelFilter(tags=["t"], bases=["sd-1"], text="A"))
    await watcher.snapshot()
    assert list(watcher.models) == [tagged.model.key]
    await create(stub, vae("other"))
    entering = await create(stub, vae("cat", tags=["t"], base="any"))
    update = pb.UpdateModelRequest(model=model_pb2.Model(key=tagged.model.key, base="sdxl"))
    left = await stub.UpdateModel(update)
    await watcher.until(left.revision)
    assert list(watcher.models.values()) == [entering.model]
    assert watcher.revisions == [entering.revision, left.revision]


async def test_a_bad_token_is_refused(stub: Any, data_dir: Path) -> None:
    watcher = Watcher(stub, "nonsense")
    with fails(code="INVALID_ARGUMENT", reason="RESUME_TOKEN_FOREIGN"):
        await watcher.read()
    async with record_service(data_dir / "other") as other:
        foreign = await other.ListModels(pb.ListModelsRequest())
    watcher = Watcher(stub, foreign.resume_token)
    with fails(code="INVALID_ARGUMENT", reason="RESUME_TOKEN_FOREIGN"):
        await watcher.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_watch_goes_on_after_a_restart_of_the_service(data_dir: Path, number: signal.Signals) -> None:
    process = RecordProcess(data_dir)
    stub = await process.start()
    first = await create(stub, vae("a"))
    watcher = Watcher(stub)
    await watcher.snapshot()
    second = await create(stub, vae("b"))
    await watcher.until(second.revision)
    third = await create(stub, vae("c"))
    assert await process.stop(number) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    stub = await process.start()
    fourth = await create(stub, vae("d"))
    resumed = Watcher(stub, watcher.token)
    await resumed.until(fourth.revision)
    assert resumed.revisions == [third.revision, fourth.revision]
    assert list(watcher.models) == [first.model.key, second.model.key]
    await process.stop()


async def test_a_drain_ends_a_watch_with_its_token(data_dir: Path) -> None:
    settings = RecordSettings.for_test(data_dir)
    server = await start_server(RecordApplication(settings), settings)
    async with grpc.aio.insecure_channel(server.address) as channel:
        watcher = Watcher(rpc.RecordServiceStub(channel))
        await watcher.snapshot()
        reading = asyncio.ensure_future(read_to_the_end(watcher))
        await server.stop()
        with fails(code="UNAVAILABLE", reason="SERVER_DRAINING") as found:
            await reading
    async with record_service(data_dir) as stub:
        again = Watcher(stub, found[0].metadata["resume_token"])
        made = await create(stub, vae("a"))
        await again.until(made.revision)


async def read_to_the_end(watcher: Watcher) -> None:
    while True:
        await watcher.read()


async def test_writes_of_another_process_on_the_same_file_arrive(data_dir: Path) -> None:
    async with record_service(data_dir) as one, record_service(data_dir) as two:
        watcher = Watcher(one)
        await watcher.snapshot()
        made = await create(two, vae("a"))
        await watcher.until(made.revision)
        assert list(watcher.models.values()) == [made.model]
