"""RecordService over a real channel: records that come from another store."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import exports_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from support.failures import fails
from support.records import KEY, record_service, vae
from support.recordstores import Kind

FAIL, REPLACE, SKIP = (
    exports_pb2.IMPORT_CONFLICT_FAIL,
    exports_pb2.IMPORT_CONFLICT_REPLACE,
    exports_pb2.IMPORT_CONFLICT_SKIP,
)
CREATED, UNCHANGED, REFUSED = (
    exports_pb2.IMPORT_OUTCOME_CREATED,
    exports_pb2.IMPORT_OUTCOME_UNCHANGED,
    exports_pb2.IMPORT_OUTCOME_REFUSED,
)


@pytest.fixture
async def stub(data_dir: Path, kind: Kind) -> AsyncIterator[Any]:
    async with record_service(data_dir, kind) as service:
        yield service


def exported(number: int = 0, *files: model_pb2.ModelFile, **fields: Any) -> exports_pb2.ExportedModel:
    model = vae(**{"name": f"m{number}", "key": f"{number:032x}", **fields})
    model.create_time.FromSeconds(1000 + number)
    model.update_time.FromSeconds(2000 + number)
    return exports_pb2.ExportedModel(model=model, files=files)


async def brought(stub: Any, *models: exports_pb2.ExportedModel, on_conflict: Any = SKIP, **more: Any) -> Any:
    request = exports_pb2.ImportModelsRequest(models=models, on_conflict=on_conflict, **more)
    return await stub.ImportModels(request)


def outcomes(answer: Any) -> list[int]:
    return [result.outcome for result in answer.results]


async def records(stub: Any) -> list[model_pb2.Model]:
    return list((await stub.ListModels(pb.ListModelsRequest(view=pb.MODEL_VIEW_FULL, page_size=1000))).models)


async def test_records_come_with_their_files_in_one_transaction_and_the_same_again_changes_nothing(
    stub: Any,
) -> None:
    file = model_pb2.ModelFile(path="a", size_bytes=1, sha256="ab" * 32)
    models = [exported(number, file) for number in range(100)]
    answer = await brought(stub, *models, on_conflict=FAIL)
    assert outcomes(answer) == [CREATED] * 100
    stored = await records(stub)
    assert answer.revision == max(model.revision for model in stored) == 100
    assert [(model.key, model.create_time.seconds) for model in sorted(stored, key=lambda one: one.key)] == [
        (f"{number:032x}", 1000 + number) for number in range(100)
    ]
    files = await stub.ListModelFiles(pb.ListModelFilesRequest(key=f"{7:032x}"))
    assert list(files.files) == [file]
    again = await brought(stub, *models, on_conflict=REPLACE)
    assert (outcomes(again), again.revision) == ([UNCHANGED] * 100, 100)


async def test_one_bad_record_is_told_and_keeps_no_other_back_unless_all_is_to_fail(stub: Any) -> None:
    models = [exported(1), exported(2, base="BAD base"), exported(3)]
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["models[1].model.base"]):
        await brought(stub, *models, on_conflict=FAIL)
    assert await records(stub) == []
    answer = await brought(stub, *models)
    assert outcomes(answer) == [CREATED, REFUSED, CREATED]
    refused = answer.results[1]
    assert (refused.key, refused.reason) == (f"{2:032x}", "FIELD_INVALID")
    assert refused.message.startswith("base must be of a-z and 0-9")


async def test_values_of_a_newer_version_are_stored_though_no_other_call_takes_them(stub: Any) -> None:
    newer = exported(1, model_pb2.ModelFile(path="a"), type=999)
    newer.model.MergeFromString(b"\xc2\xbb\x01\x03new")
    newer.files[0].digest_state = 77  # type: ignore[assignment]  # open enum
    answer = await brought(stub, newer)
    assert [(result.outcome, result.reason) for result in answer.results] == [
        (CREATED, "INVALID_MODEL_CONFIG")
    ]
    (stored,) = await records(stub)
    assert b"\xc2\xbb\x01\x03new" in stored.SerializeToString()
    assert stored.type == 999
    assert (await stub.GetStoreInfo(pb.GetStoreInfoRequest())).unreadable_count == 1
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID"):
        await stub.CreateModel(pb.CreateModelRequest(model=newer.model))


async def test_a_dry_run_tells_what_the_import_does_and_changes_nothing(stub: Any) -> None:
    models = [exported(1), exported(2, path="/models/m1"), exported(3, name="")]
    dry = await brought(stub, *models, validate_only=True)
    assert (await records(stub), dry.revision) == ([], 0)
    assert (await brought(stub, *models)).results == dry.results
    with fails(code="ALREADY_EXISTS", reason="DUPLICATE_MODEL"):
        await brought(stub, exported(1, name="other"), on_conflict=FAIL, validate_only=True)


async def test_what_becomes_of_what_is_there_must_be_said_and_there_are_bounds(stub: Any) -> None:
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["on_conflict"]):
        await brought(stub, exported(), on_conflict=0)
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["models"]):
        await brought(stub)
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["models"]):
        await brought(stub, *map(exported, range(101)))
    large = [exported(number, description="x" * 65_000) for number in range(50)]
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["models"]):
        await brought(stub, *large)
    assert outcomes(await brought(stub, *large[:40])) == [CREATED] * 40


async def test_a_record_of_twenty_thousand_files_comes_in_parts(stub: Any) -> None:
    files = [model_pb2.ModelFile(path=f"{number:05}", sha256="ab" * 32) for number in range(20_001)]
    first = exported(1, *files[:12_000])
    first.is_continued = True

    def part(*more: model_pb2.ModelFile) -> exports_pb2.ExportedModel:
        return exports_pb2.ExportedModel(model={"key": first.model.key}, files=more, is_continuation=True)

    assert outcomes(await brought(stub, first)) == [CREATED]
    await brought(stub, part(*files[12_000:20_000]), on_conflict=FAIL)
    assert outcomes(await brought(stub, first)) == [UNCHANGED]
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["models[0].files"]):
        await brought(stub, part(files[20_000]), on_conflict=FAIL)
    page = await stub.ListModelFiles(pb.ListModelFilesRequest(key=first.model.key, page_size=1000))
    assert [file.path for file in page.files][:2] == ["00000", "00001"]


async def test_a_repeat_answers_with_the_first_result(stub: Any) -> None:
    request_id = str(uuid.uuid4())
    first = await brought(stub, exported(1), request_id=request_id)
    assert outcomes(first) == [CREATED]
    assert await brought(stub, exported(1), request_id=request_id) == first
    with fails(code="INVALID_ARGUMENT", reason="REQUEST_ID_REUSED"):
        await brought(stub, exported(2), request_id=request_id)


async def test_a_watch_tells_of_what_came(stub: Any) -> None:
    watch = stub.WatchModels(pb.WatchModelsRequest(skip_snapshot=True))
    await watch.read()
    await brought(stub, exported(1, key=KEY), exported(2))
    frame = await watch.read()
    assert [event.put.key for event in frame.events] == [KEY, f"{2:032x}"]
    watch.cancel()
