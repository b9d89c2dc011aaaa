"""RecordService over a real channel: labels, as they are stored, changed, listed and watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from support.failures import fails
from support.records import record_service, vae
from support.recordstores import Kind

RED = {"project": "red", "owner/team": "a"}
BLUE = {"project": "blue", "owner/team": "a", "empty": ""}


@pytest.fixture
async def stub(data_dir: Path, kind: Kind) -> AsyncIterator[Any]:
    async with record_service(data_dir, kind) as service:
        yield service


async def make(stub: Any, name: str, labels: Mapping[str, str]) -> model_pb2.Model:
    answer = await stub.CreateModel(pb.CreateModelRequest(model=vae(name, labels=labels)))
    return answer.model  # type: ignore[no-any-return]  # the stub is untyped


async def names(stub: Any, labels: Mapping[str, str]) -> list[str]:
    answer = await stub.ListModels(pb.ListModelsRequest(filter=pb.ModelFilter(labels=labels)))
    return [model.name for model in answer.models]


async def test_a_filter_by_labels_finds_the_records_that_have_all_of_the_pairs(stub: Any) -> None:
    await make(stub, "red", RED)
    await make(stub, "blue", BLUE)
    await make(stub, "bare", {})
    assert await names(stub, {"owner/team": "a"}) == ["blue", "red"]
    assert await names(stub, RED) == ["red"]
    assert await names(stub, {"empty": ""}) == ["blue"]
    assert await names(stub, {"project": "re"}) == []
    assert await names(stub, {"red": "project"}) == []


async def test_the_short_view_shows_labels(stub: Any) -> None:
    await make(stub, "red", RED)
    (model,) = (await stub.ListModels(pb.ListModelsRequest())).models
    assert dict(model.labels) == RED


@pytest.mark.parametrize("mask", [FieldMask(paths=["labels"]), None], ids=["mask", "no mask"])
async def test_an_update_replaces_all_labels(stub: Any, mask: FieldMask | None) -> None:
    model = await make(stub, "one", RED)
    changed = model_pb2.Model(key=model.key, labels={"project": "green"})
    answer = await stub.UpdateModel(pb.UpdateModelRequest(model=changed, update_mask=mask))
    assert dict(answer.model.labels) == {"project": "green"}
    assert (await names(stub, RED), await names(stub, {"project": "green"})) == ([], ["one"])


async def test_labels_are_cleared_by_naming_them_and_kept_by_not_naming_them(stub: Any) -> None:
    model = await make(stub, "one", RED)
    for mask, left in ((["description"], ["one"]), (["labels"], [])):
        update = pb.UpdateModelRequest(
            model=model_pb2.Model(key=model.key, description="new"), update_mask=FieldMask(paths=mask)
        )
        await stub.UpdateModel(update)
        assert await names(stub, RED) == left


async def test_the_labels_of_a_deleted_record_find_nothing(stub: Any) -> None:
    model = await make(stub, "one", RED)
    await stub.DeleteModel(pb.DeleteModelRequest(key=model.key))
    assert await names(stub, RED) == []
    await make(stub, "two", BLUE)
    assert await names(stub, {"owner/team": "a"}) == ["two"]


async def test_a_watch_by_labels_hears_of_records_that_come_into_it_and_leave_it(stub: Any) -> None:
    model = await make(stub, "one", {})
    watch = stub.WatchModels(pb.WatchModelsRequest(filter=pb.ModelFilter(labels=RED)))

    async def event() -> pb.ModelEvent:
        while True:
            frame = await asyncio.wait_for(watch.read(), 10)
            if frame.events:
                (only,) = frame.events
                return only  # type: ignore[no-any-return]  # the stub is untyped

    while not (await asyncio.wait_for(watch.read(), 10)).snapshot_complete:
        pass
    for labels in (RED, {}):
        changed = model_pb2.Model(key=model.key, labels=labels)
        request = pb.UpdateModelRequest(model=changed, update_mask=FieldMask(paths=["labels"]))
        await stub.UpdateModel(request)
    assert dict((await event()).put.labels) == RED
    assert (await event()).removed_key == model.key
    watch.cancel()


@pytest.mark.parametrize(
    "labels",
    [{"A": ""}, {"": ""}, {"a b": ""}, {"k" * 64: ""}, {"a": "ü" * 129}, {f"k{n}": "" for n in range(33)}],
    ids=["upper case", "no key", "a blank", "a long key", "a long value", "too many"],
)
async def test_labels_beyond_the_bounds_are_refused(stub: Any, labels: dict[str, str]) -> None:
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID") as failures:
        await make(stub, "one", labels)
    assert all(field.startswith("model.labels") for field in failures[0].fields)
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID"):
        await names(stub, labels)


async def test_labels_at_the_bounds_are_taken(stub: Any) -> None:
    labels = {f"{n:02}{'k' * 61}": "ü" * 128 for n in range(32)}
    assert dict((await make(stub, "one", labels)).labels) == labels
    assert await names(stub, labels) == ["one"]
