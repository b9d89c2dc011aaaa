"""RecordService over a real channel: related models, in lists and watches, and across a restart."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelkeep.model.v1.model_pb2 import Model
from modelkeep.record.v1 import batch_delete_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from support.failures import fails
from support.records import RecordProcess, record_service, vae

A, B, C = (letter * 32 for letter in "abc")


@pytest.fixture
async def stub(data_dir: Path) -> AsyncIterator[Any]:
    async with record_service(data_dir) as service:
        for key in (A, B, C):
            await service.CreateModel(pb.CreateModelRequest(model=vae(key[:1], key=key)))
        yield service


async def relate(stub: Any, key: str, *others: str, **more: Any) -> pb.UpdateModelResponse:
    mask = FieldMask(paths=["related_keys"])
    request = pb.UpdateModelRequest(model=Model(key=key, related_keys=others), update_mask=mask, **more)
    answer: pb.UpdateModelResponse = await stub.UpdateModel(request)
    return answer


async def relations(stub: Any) -> dict[str, str]:
    listed = await stub.ListModels(pb.ListModelsRequest(view=pb.MODEL_VIEW_FULL))
    return {model.name: "".join(key[0] for key in model.related_keys) for model in listed.models}


async def related_to(stub: Any, key: str) -> str:
    answer = await stub.ListModels(pb.ListModelsRequest(filter=pb.ModelFilter(related_to=key)))
    assert not any(model.related_keys for model in answer.models), "the short view has no lists of others"
    return "".join(model.name for model in answer.models)


async def test_lists_find_the_models_that_are_related_to_one(stub: Any) -> None:
    await relate(stub, A, C, B)
    assert await relations(stub) == {"a": "bc", "b": "a", "c": "a"}
    assert [await related_to(stub, key) for key in (A, B, C, "d" * 32)] == ["bc", "a", "a", ""]
    await relate(stub, B)
    assert [await related_to(stub, key) for key in (A, B, C)] == ["c", "", "a"]
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["filter.related_to"]):
        await related_to(stub, "abc")
    for others in (["d" * 32], [A], [B, B]):
        with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["model.related_keys"]):
            await relate(stub, A, *others)


async def test_a_watch_tells_of_both_sides(stub: Any) -> None:
    request = pb.WatchModelsRequest(skip_snapshot=True)
    everything = stub.WatchModels(request)
    of_b = stub.WatchModels(pb.WatchModelsRequest(skip_snapshot=True, filter=pb.ModelFilter(related_to=B)))
    for call in (everything, of_b):
        await asyncio.wait_for(call.read(), 10)  # it has begun

    async def told(call: Any, revision: int) -> list[str]:
        changes = []
        while True:
            for event in (await asyncio.wait_for(call.read(), 10)).events:
                name = event.removed_key[:1] or event.put.name
                changes.append(("-" if event.removed_key else "+") + name)
                if event.revision == revision:
                    return changes

    answer = await relate(stub, A, B, C)
    assert await told(everything, answer.revision) == ["+b", "+c", "+a"]
    assert await told(of_b, answer.revision) == ["+a"]
    answer = await stub.DeleteModel(pb.DeleteModelRequest(key=B))
    assert await told(everything, answer.revision) == ["+a", "-b"]
    assert await told(of_b, answer.revision - 1) == ["-a"]


async def test_what_a_call_did_to_both_sides_is_kept(data_dir: Path) -> None:
    process = RecordProcess(data_dir)
    try:
        service = await process.start()
        for key, others in ((A, []), (B, [A]), (C, [A, B])):
            model = vae(key[:1], key=key, related_keys=others)
            await service.CreateModel(pb.CreateModelRequest(model=model))
        await process.stop(signal.SIGKILL)
        service = await process.start()
        assert await relations(service) == {"a": "bc", "b": "ac", "c": "ab"}
        keys = [C, "d" * 32, A]
        answer = await service.BatchDeleteModels(batch_delete_pb2.BatchDeleteModelsRequest(keys=keys))
        assert (list(answer.deleted_keys), list(answer.missing_keys)) == ([C, A], ["d" * 32])
        assert await relations(service) == {"b": ""}
    finally:
        await process.stop(signal.SIGKILL)
