"""RecordService over a real channel: pictures that stand for models."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.model.v1.model_pb2 import Model
from modelkeep.record.v1 import covers_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from support.failures import fails
from support.pictures import JPEG, png
from support.records import KEY, RecordProcess, record_service, vae


@pytest.fixture
async def stub(data_dir: Path) -> AsyncIterator[Any]:
    async with record_service(data_dir) as service:
        await service.CreateModel(pb.CreateModelRequest(model=vae(key=KEY)))
        yield service


async def set_cover(stub: Any, image: bytes, **more: Any) -> covers_pb2.SetCoverImageResponse:
    answer: covers_pb2.SetCoverImageResponse = await stub.SetCoverImage(
        covers_pb2.SetCoverImageRequest(key=KEY, image=image, **more)
    )
    return answer


async def get_cover(stub: Any, key: str = KEY) -> covers_pb2.GetCoverImageResponse:
    answer: covers_pb2.GetCoverImageResponse = await stub.GetCoverImage(
        covers_pb2.GetCoverImageRequest(key=key)
    )
    return answer


async def test_a_picture_is_set_fetched_and_taken_away(stub: Any) -> None:
    watch = stub.WatchModels(pb.WatchModelsRequest(skip_snapshot=True))
    await asyncio.wait_for(watch.read(), 10)
    large = png(extra_bytes=1_000_000)
    made = await set_cover(stub, large)
    assert (made.model.cover_image.media_type, made.model.cover_image.size_bytes) == ("image/png", len(large))
    got = await get_cover(stub)
    assert (got.image, got.cover_image) == (large, made.model.cover_image)
    listed = await stub.ListModels(pb.ListModelsRequest())
    assert [model.cover_image for model in listed.models] == [made.model.cover_image]
    assert listed.ByteSize() < 2000
    again = await set_cover(stub, large, etag='"older"')
    assert (again.model, again.revision) == (made.model, made.revision)
    replaced = await set_cover(stub, JPEG, etag=made.model.etag)
    assert replaced.model.cover_image.media_type == "image/jpeg"
    assert (await get_cover(stub)).image == JPEG
    gone = await stub.DeleteCoverImage(covers_pb2.DeleteCoverImageRequest(key=KEY))
    assert not gone.model.HasField("cover_image")
    with fails(code="NOT_FOUND", reason="UNKNOWN_COVER_IMAGE"):
        await get_cover(stub)
    told: list[tuple[int, str]] = []
    while not told or told[-1][0] < gone.revision:
        for event in (await asyncio.wait_for(watch.read(), 10)).events:
            told.append((event.revision, event.put.cover_image.media_type))
    first = made.revision
    assert told == [(first, "image/png"), (first + 1, "image/jpeg"), (first + 2, "")]


async def test_what_is_no_picture_or_too_large_or_of_no_model_is_refused(stub: Any) -> None:
    await set_cover(stub, png())
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
    for image in (svg, b"<html></html>", b"", png(extra_bytes=1 << 20)):
        with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["image"]):
            await set_cover(stub, image)
    with fails(code="ABORTED", reason="ETAG_MISMATCH"):
        await set_cover(stub, JPEG, etag='"older"')
    for call, request in (
        (stub.SetCoverImage, covers_pb2.SetCoverImageRequest(key="f" * 32, image=JPEG)),
        (stub.GetCoverImage, covers_pb2.GetCoverImageRequest(key="f" * 32)),
        (stub.DeleteCoverImage, covers_pb2.DeleteCoverImageRequest(key="f" * 32)),
    ):
        with fails(code="NOT_FOUND", reason="UNKNOWN_MODEL"):
            await call(request)
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["model.cover_image"]):
        await stub.UpdateModel(
            pb.UpdateModelRequest(
                model=Model(key=KEY, cover_image={"media_type": "image/gif"}),
                update_mask={"paths": ["cover_image"]},
            )
        )
    assert (await get_cover(stub)).image == png()


async def test_a_repeated_call_answers_as_the_first_did(stub: Any) -> None:
    id = str(uuid.uuid4())
    first = await set_cover(stub, png(), request_id=id)
    await set_cover(stub, JPEG)
    assert await set_cover(stub, png(), request_id=id) == first
    assert (await get_cover(stub)).image == JPEG
    with fails(code="INVALID_ARGUMENT", reason="REQUEST_ID_REUSED"):
        await set_cover(stub, JPEG, request_id=id)


async def test_a_picture_survives_a_kill_and_goes_with_its_record(data_dir: Path) -> None:
    process = RecordProcess(data_dir)
    try:
        service = await process.start()
        await service.CreateModel(pb.CreateModelRequest(model=vae(key=KEY)))
        made = await set_cover(service, png(7))
        await process.stop(signal.SIGKILL)
        service = await process.start()
        assert await get_cover(service) == covers_pb2.GetCoverImageResponse(
            cover_image=made.model.cover_image, image=png(7)
        )
        await service.DeleteModel(pb.DeleteModelRequest(key=KEY))
        with fails(code="NOT_FOUND", reason="UNKNOWN_MODEL"):
            await get_cover(service)
        made = await service.CreateModel(pb.CreateModelRequest(model=made.model))
        assert not made.model.HasField("cover_image")
        with fails(code="NOT_FOUND", reason="UNKNOWN_COVER_IMAGE"):
            await get_cover(service)
    finally:
        await process.stop(signal.SIGKILL)
