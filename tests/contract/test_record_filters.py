"""RecordService over a real channel: what lists choose by, files that are gone, tags, dry runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import batch_delete_pb2, marks_pb2, tags_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from support.failures import fails
from support.records import record_service, vae
from support.recordstores import Kind

KEYS = ["abcd" + "0" * 28, "abce" + "1" * 28, "12345" + "2" * 27]
NAMES = ["Größe", "grösse", "other"]


@pytest.fixture
async def stub(data_dir: Path, kind: Kind) -> AsyncIterator[Any]:
    async with record_service(data_dir, kind) as service:
        for number, (key, name) in enumerate(zip(KEYS, NAMES, strict=True)):
            model = vae(name, key=key, size_bytes=number * 100, path=f"/models/{number}", tags=["all", name])
            files = [model_pb2.ModelFile(path=f"unet/{part}.safetensors") for part in ("a", "b")]
            await service.CreateModel(pb.CreateModelRequest(model=model, files=files))
        yield service


async def names(stub: Any, **filter: Any) -> list[str]:
    answer = await stub.ListModels(pb.ListModelsRequest(filter=pb.ModelFilter(**filter)))
    return [model.name for model in answer.models]


async def missing(stub: Any, key: str, *, gone: bool = True, path: str = "") -> marks_pb2.MarkModelsResponse:
    mark = marks_pb2.ModelMark(key=key, missing=gone, path=path)
    answer: marks_pb2.MarkModelsResponse = await stub.MarkModels(marks_pb2.MarkModelsRequest(marks=[mark]))
    return answer


async def test_models_are_found_by_keys_and_by_the_beginning_of_one(stub: Any) -> None:
    assert await names(stub, keys=[KEYS[2], KEYS[0], "f" * 32]) == ["Größe", "other"]
    assert await names(stub, key_prefix="abc" + "e") == ["grösse"]
    assert await names(stub, key_prefix=KEYS[2]) == ["other"]
    assert await names(stub, key_prefix="ffff") == []
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["filter.key_prefix"]):
        await names(stub, key_prefix="abc")


async def test_a_name_is_found_without_regard_to_case(stub: Any) -> None:
    assert await names(stub, name_caseless="GRÖSSE") == ["Größe", "grösse"]
    assert await names(stub, name_caseless="grösse", name="grösse") == ["grösse"]
    assert await names(stub, name_caseless="OTH") == []


async def test_sizes_are_bounded_on_both_sides(stub: Any) -> None:
    assert await names(stub, min_size_bytes=100) == ["grösse", "other"]
    assert await names(stub, max_size_bytes=0) == ["Größe"]
    assert await names(stub, min_size_bytes=1, max_size_bytes=199) == ["grösse"]


async def test_times_are_bounded_on_both_sides(stub: Any) -> None:
    (first, second, _) = (
        await stub.ListModels(pb.ListModelsRequest(order=pb.MODEL_ORDER_CREATE_TIME))
    ).models
    assert await names(stub, create_time_before=first.create_time) == []
    assert second.name in await names(stub, create_time_from=second.create_time)
    assert first.name not in await names(stub, update_time_from=second.update_time)
    for extreme in (Timestamp(seconds=1 << 62), Timestamp(seconds=-(1 << 62))):
        assert len(await names(stub, update_time_before=extreme)) in (0, 3)
        assert len(await names(stub, create_time_from=extreme)) in (0, 3)


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("/models/1/unet/a.safetensors", ["grösse"]),
        ("/models/1/unet/c.safetensors", []),
        ("/models/1/unet", []),
        ("/models/1", []),
        ("unet/a.safetensors", []),
        ("/" + "x/" * 4000, []),
    ],
)
async def test_the_record_that_lists_a_file_is_found_by_its_path(
    stub: Any, file: str, found: list[str]
) -> None:
    assert await names(stub, files=[file, "/nowhere"]) == found


async def test_a_file_inside_models_dir_is_found_by_the_relative_path_and_its_root(stub: Any) -> None:
    one = model_pb2.ModelFile(path="one.safetensors")
    model = vae("single", path="lora/one.safetensors", root_id="root")
    await stub.CreateModel(pb.CreateModelRequest(model=model, files=[one]))
    assert await names(stub, files=["lora/one.safetensors"], root_id="root") == ["single"]
    assert await names(stub, files=["lora/one.safetensors"], root_id="other") == []
    assert await names(stub, files=["/models/0/unet/a.safetensors"], root_id="root") == ["Größe"]


async def test_a_model_whose_files_are_gone_is_missing_in_record_list_filter_and_count(stub: Any) -> None:
    before = (await stub.GetModel(pb.GetModelRequest(key=KEYS[0]))).model
    answer = await missing(stub, KEYS[0], path=before.path)
    assert answer.changed_count == 1
    assert await names(stub, missing=True) == ["Größe"]
    assert await names(stub, missing=False) == ["grösse", "other"]
    assert len(await names(stub)) == 3
    now = (await stub.GetModel(pb.GetModelRequest(key=KEYS[0]))).model
    assert abs(now.missing_time.seconds - time.time()) < 60
    assert (now.update_time, now.revision) == (before.update_time, answer.revision)
    listed = (await stub.ListModels(pb.ListModelsRequest(filter={"missing": True}))).models
    assert listed[0].HasField("missing_time")
    assert (await stub.GetStoreInfo(pb.GetStoreInfoRequest())).missing_count == 1
    assert (await missing(stub, KEYS[0], path="/elsewhere", gone=False)).changed_count == 0
    assert (await missing(stub, KEYS[0], gone=False)).changed_count == 1
    assert (await stub.GetStoreInfo(pb.GetStoreInfoRequest())).missing_count == 0


async def test_a_watch_hears_that_files_went_and_came_back(stub: Any) -> None:
    watch = stub.WatchModels(pb.WatchModelsRequest(filter={"missing": True}))

    async def event() -> pb.ModelEvent:
        while True:
            frame = await asyncio.wait_for(watch.read(), 10)
            for found in frame.events:
                return found  # type: ignore[no-any-return]  # the stub is untyped

    while not (await asyncio.wait_for(watch.read(), 10)).snapshot_complete:
        pass
    await missing(stub, KEYS[1])
    assert (await event()).put.key == KEYS[1]
    await missing(stub, KEYS[1], gone=False)
    assert (await event()).removed_key == KEYS[1]
    watch.cancel()


async def test_tags_are_listed_with_the_number_of_their_records(stub: Any) -> None:
    found: list[tuple[str, int]] = []
    token = ""
    while True:
        page = await stub.ListTags(tags_pb2.ListTagsRequest(page_size=2, page_token=token))
        found += [(tag.tag, tag.count) for tag in page.tags]
        token = page.next_page_token
        if not token:
            break
    assert found == [("Größe", 1), ("all", 3), ("grösse", 1), ("other", 1)]
    begins = await stub.ListTags(tags_pb2.ListTagsRequest(prefix="gr"))
    assert [tag.tag for tag in begins.tags] == ["grösse"]
    assert not (await stub.ListTags(tags_pb2.ListTagsRequest(prefix="gr\0"))).tags


async def test_a_dry_run_of_an_update_says_what_would_be_lost_and_changes_nothing(stub: Any) -> None:
    change = model_pb2.Model(key=KEYS[0], type="MODEL_TYPE_LORA", format="MODEL_FORMAT_DIFFUSERS")
    scaled = model_pb2.Model(key=KEYS[0], vae={"scaling_factor": 0.5})
    before = (await stub.UpdateModel(pb.UpdateModelRequest(model=scaled))).model
    answer = await stub.UpdateModel(pb.UpdateModelRequest(model=change, validate_only=True))
    assert (answer.model.type, list(answer.lost_fields)) == (change.type, ["vae.scaling_factor"])
    assert (await stub.GetModel(pb.GetModelRequest(key=KEYS[0]))).model == before
    done = await stub.UpdateModel(pb.UpdateModelRequest(model=change))
    assert (done.model.type, list(done.lost_fields)) == (change.type, ["vae.scaling_factor"])
    with fails(code="NOT_FOUND", reason="UNKNOWN_MODEL"):
        nobody = model_pb2.Model(key="f" * 32, name="x")
        await stub.UpdateModel(pb.UpdateModelRequest(model=nobody, validate_only=True))


async def test_several_records_are_deleted_in_one_call_and_a_repeat_answers_as_the_first(stub: Any) -> None:
    request = batch_delete_pb2.BatchDeleteModelsRequest(
        keys=[KEYS[1], "f" * 32, KEYS[0]], request_id="00000000-0000-4000-8000-000000000001"
    )
    answer = await stub.BatchDeleteModels(request)
    assert (list(answer.deleted_keys), list(answer.missing_keys)) == ([KEYS[1], KEYS[0]], ["f" * 32])
    assert await names(stub) == ["other"]
    assert answer.revision == (await stub.GetStoreInfo(pb.GetStoreInfoRequest())).revision
    assert await stub.BatchDeleteModels(request) == answer
    again = await stub.BatchDeleteModels(batch_delete_pb2.BatchDeleteModelsRequest(keys=request.keys))
    assert (len(again.deleted_keys), again.revision) == (0, answer.revision)
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["keys"]):
        await stub.BatchDeleteModels(batch_delete_pb2.BatchDeleteModelsRequest())
