"""RecordService over a real channel: records leave as of one moment, and come into another store."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from modelkeep.configs.wire import is_readable, kind_violations
from modelkeep.model.v1.model_pb2 import ModelFile
from modelkeep.record.v1 import covers_pb2, exports_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.record.v1.exports_pb2 import ExportedModel
from modelkeep_common.watch import WatchHub
from support import randomrecords
from support.failures import fails
from support.pictures import png
from support.records import record_service, vae
from support.recordstores import KINDS, Kind

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
async def stub(data_dir: Path, kind: Kind) -> AsyncIterator[Any]:
    async with record_service(data_dir, kind) as service:
        yield service


async def frames(stub: Any, **filter: Any) -> list[exports_pb2.ExportModelsResponse]:
    return [frame async for frame in stub.ExportModels(pb.ExportModelsRequest(filter=filter))]


async def all_of(stub: Any, *, with_covers: bool = True, **filter: Any) -> list[ExportedModel]:
    request = pb.ExportModelsRequest(filter=filter, with_covers=with_covers)
    return [model async for frame in stub.ExportModels(request) for model in frame.models]


async def bring(stub: Any, models: Iterable[ExportedModel]) -> list[int]:
    """Import them; what became of each."""
    outcomes: list[int] = []
    left = list(models)
    while left:
        some, left = left[:100], left[100:]
        request = exports_pb2.ImportModelsRequest(models=some, on_conflict=exports_pb2.IMPORT_CONFLICT_FAIL)
        outcomes += [result.outcome for result in (await stub.ImportModels(request)).results]
    return outcomes


def told(models: Sequence[ExportedModel]) -> list[bytes]:
    """What an export says, but for what each store makes itself."""
    plain = []
    for one in models:
        copy = ExportedModel.FromString(one.SerializeToString())
        copy.model.ClearField("etag")
        copy.model.ClearField("revision")
        plain.append(copy.SerializeToString(deterministic=True))
    return plain


def named(number: int, *files: ModelFile, **fields: Any) -> ExportedModel:
    return ExportedModel(model=vae(f"m{number}", key=f"{number:032x}", **fields), files=files)


def kept_by(kind: Kind, records: Iterable[ExportedModel]) -> list[ExportedModel]:
    """What a kind of store keeps: in a YAML file for people, what this version knows."""
    return [one for one in records if kind.name != "yaml" or is_said_in_yaml(one)]


def is_said_in_yaml(record: ExportedModel) -> bool:
    newer = b"\xbb\x01" in record.SerializeToString()
    return not newer and is_readable(record.model) and not kind_violations(record.model)


async def test_an_export_by_a_filter_that_no_index_answers_has_all_that_fit(stub: Any) -> None:
    await bring(stub, [named(number) for number in range(3)])
    assert [one.model.name for one in await all_of(stub, missing=False)] == ["m0", "m1", "m2"]
    assert [one.model.name for one in await all_of(stub, text="1")] == ["m1"]


@pytest.mark.long
async def test_two_thousand_records_of_every_kind_come_out_of_the_next_store_as_they_went_in(
    stub: Any, kind: Kind, tmp_path: Path
) -> None:
    records = kept_by(kind, randomrecords.exported(2000, seed=12))
    assert set(await bring(stub, records)) == {exports_pb2.IMPORT_OUTCOME_CREATED}
    first = await all_of(stub)
    assert told(first) == sorted(told(records), key=lambda data: ExportedModel.FromString(data).model.key)
    async with record_service(tmp_path / "other") as other:
        await bring(other, first)
        again = await all_of(other)
        assert told(again) == told(first)
        assert set(await bring(other, first)) == {exports_pb2.IMPORT_OUTCOME_UNCHANGED}
    async with record_service(tmp_path / "yaml", KINDS["yaml"]) as other:
        readable = [one for one in first if is_said_in_yaml(one)]
        await bring(other, readable)
        assert told(await all_of(other)) == told(readable)


async def test_all_frames_are_of_one_moment_though_writes_go_on(stub: Any) -> None:
    await bring(stub, (named(number, description="x" * 60_000) for number in range(40)))
    call = aiter(stub.ExportModels(pb.ExportModelsRequest()))
    got = [await anext(call)]
    revision = got[0].revision
    for number in range(40):
        await stub.UpdateModel(pb.UpdateModelRequest(model={"key": f"{number:032x}", "name": "changed"}))
    await stub.DeleteModel(pb.DeleteModelRequest(key=f"{39:032x}"))
    await bring(stub, [named(77)])
    async for frame in call:
        got.append(frame)
    assert len(got) > 1
    assert {frame.revision for frame in got} == {revision} == {40}
    models = [part.model for frame in got for part in frame.models]
    assert [model.name for model in models] == [f"m{number}" for number in range(40)]
    assert all(frame.ByteSize() < 1.1 * (1 << 20) for frame in got)


async def test_an_empty_store_and_a_filter_that_leaves_nothing_tell_their_revision(stub: Any) -> None:
    (frame,) = await frames(stub)
    assert (len(frame.models), frame.revision) == (0, 0)
    await bring(stub, [named(1), named(2, tags=["a"])])
    (frame,) = await frames(stub, tags=["b"])
    assert (len(frame.models), frame.revision) == (0, 2)
    assert [one.model.name for one in await all_of(stub, tags=["a"])] == ["m2"]
    assert [one.model.name for one in await all_of(stub, text="m1")] == ["m1"]


async def test_pictures_come_along_if_that_is_asked_for_and_otherwise_each_keeps_its_own(stub: Any) -> None:
    await bring(stub, [named(1), named(2)])
    image = png(7)
    await stub.SetCoverImage(covers_pb2.SetCoverImageRequest(key=f"{1:032x}", image=image))
    assert [one.cover_image for one in await all_of(stub)] == [image, b""]
    plain = await all_of(stub, with_covers=False)
    assert [one.cover_image for one in plain] == [b"", b""]
    assert [one.model.cover_image.size_bytes for one in plain] == [len(image), 0]
    assert set(await bring(stub, plain)) == {exports_pb2.IMPORT_OUTCOME_UNCHANGED}
    assert set(await bring(stub, await all_of(stub))) == {exports_pb2.IMPORT_OUTCOME_UNCHANGED}


@pytest.mark.long
async def test_a_record_that_is_larger_than_a_message_comes_in_parts_and_is_whole_after_an_import(
    stub: Any, tmp_path: Path
) -> None:
    first = named(1, *(ModelFile(path=f"{n:05}" + "p" * 100, sha256="ab" * 32) for n in range(10_000)))
    first.is_continued = True
    rest = ExportedModel(model={"key": first.model.key}, is_continuation=True)
    rest.files.extend(ModelFile(path=f"{n:05}" + "p" * 100, sha256="ab" * 32) for n in range(10_000, 20_000))
    large = named(2, ModelFile(path="a"), extra_fields={f"f{n}": f'"{"x" * 65_000}"' for n in range(16)})
    await bring(stub, [first])
    await bring(stub, [rest])
    await bring(stub, [large])
    parts = await all_of(stub)
    assert [part.model.key for part in parts] == sorted(part.model.key for part in parts)
    assert len(parts) > 4
    assert all(part.ByteSize() < 1.1 * (1 << 20) for part in parts)
    async with record_service(tmp_path / "other") as other:
        for part in parts:
            await bring(other, [part])
        assert told(await all_of(other)) == told(parts)
        revision = (await other.GetStoreInfo(pb.GetStoreInfoRequest())).revision
        for part in parts:
            assert await bring(other, [part]) == [exports_pb2.IMPORT_OUTCOME_UNCHANGED]
        assert (await other.GetStoreInfo(pb.GetStoreInfoRequest())).revision == revision


async def bring_much(stub: Any) -> None:
    """More than lies in the buffers between a service and its client."""
    text = {f"f{n}": f'"{"x" * 60_000}"' for n in range(16)}
    for number in range(40):
        await bring(stub, [named(number, extra_fields=text)])


async def test_there_are_so_many_at_once_and_others_go_on_meanwhile(data_dir: Path) -> None:
    async with record_service(data_dir, max_exports=1) as stub:
        await bring_much(stub)
        call = stub.ExportModels(pb.ExportModelsRequest())
        await call.read()  # and no more
        with fails(code="RESOURCE_EXHAUSTED", reason="SERVER_BUSY") as found:
            await frames(stub)
        assert found[0].metadata["class"] == "export"
        await stub.UpdateModel(pb.UpdateModelRequest(model={"key": f"{1:032x}", "name": "changed"}))
        call.cancel()
        while True:  # until its end has reached the service
            with contextlib.suppress(grpc.aio.AioRpcError):
                assert len(await all_of(stub, keys=[f"{1:032x}"])) == 1
                break


async def test_a_reader_that_takes_nothing_is_ended(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelkeep_record.app.WatchHub", partial(WatchHub, stall_s=0.3))
    async with record_service(data_dir, max_exports=1) as stub:
        await bring_much(stub)
        call = aiter(stub.ExportModels(pb.ExportModelsRequest()))
        await anext(call)
        while True:  # the next may begin only once this one has ended
            with contextlib.suppress(grpc.aio.AioRpcError):
                await all_of(stub, keys=[f"{1:032x}"])
                break
        with fails(code="RESOURCE_EXHAUSTED", reason="WATCHER_TOO_SLOW") as found:
            async for _ in call:
                pass
        assert found[0].metadata["remedy"] == "Export again, and read faster."


async def test_an_export_has_its_time(data_dir: Path) -> None:
    async with record_service(data_dir, export_seconds=0.001) as stub:
        await bring_much(stub)
        with fails(code="DEADLINE_EXCEEDED", reason="DEADLINE_EXCEEDED") as found:
            await frames(stub)
        assert "by type" in found[0].metadata["remedy"]
