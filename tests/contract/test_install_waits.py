"""InstallService with a real DownloadService: an install never waits in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from support.downloads import downloads_beside
from support.httpserver import HttpServer, Resource, Status
from support.installs import NOBODY, install_service
from support.modelshapes import write_safetensors


async def test_a_watch_tells_why_a_download_waits_and_when_it_tries_again(
    data_dir: Path, web: HttpServer, lora: bytes
) -> None:
    url = web.put("/style.safetensors", Resource(lora, faults=[Status(503), Status(503)]))
    async with (
        downloads_beside(data_dir, retry_base_s=0.2) as address,
        install_service(data_dir, download_address=address) as service,
    ):
        call = service.stub.WatchInstalls(pb.WatchInstallsRequest())
        frames = aiter(call)
        await anext(frames)
        job = await service.submit(url)
        told: list[install_pb2.Install] = []
        async for frame in frames:
            told += (event.put for event in frame.events if event.HasField("put"))
            if told and told[-1].ended:
                break
        call.cancel()
    # While the next try is under way the error of the last one stays, without a time.
    waits = [put for put in told if put.error.HasField("retry_time")]
    assert [(put.state, put.stage, put.download_attempt) for put in waits] == [
        (install_pb2.INSTALL_STATE_RUNNING, install_pb2.INSTALL_STAGE_DOWNLOADING, attempt)
        for attempt in (1, 2)
    ]
    for put in waits:
        assert "503" in put.error.message
        assert put.error.retry_time.ToNanoseconds() > job.create_time.ToNanoseconds()
    assert told[-1].state == install_pb2.INSTALL_STATE_COMPLETED, told[-1].error
    assert not told[-1].HasField("error")
    assert [put.ended for put in told] == [False] * (len(told) - 1) + [True]


async def test_a_full_queue_of_downloads_makes_installs_wait_for_their_turn(
    data_dir: Path, web: HttpServer, lora: bytes
) -> None:
    urls = [web.put(f"/{n}.safetensors", Resource(lora, rate=2 * len(lora))) for n in range(2)]
    async with (
        downloads_beside(data_dir, max_jobs=1) as address,
        install_service(data_dir, download_address=address) as service,
    ):
        first = await service.submit(urls[0])
        await service.until(first, lambda job: job.download_id > 0)
        second = await service.submit(urls[1])
        waiting = await service.until(second, lambda job: job.HasField("error"))
        assert (waiting.state, waiting.stage, waiting.error.reason) == (
            install_pb2.INSTALL_STATE_RUNNING,
            install_pb2.INSTALL_STAGE_WAITING_FOR_PEER,
            "QUEUE_FULL",
        )
        assert waiting.error.HasField("retry_time")
        for job in (first, second):
            done = await service.ended(job, timeout=30)
            assert done.state == install_pb2.INSTALL_STATE_COMPLETED, done.error


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("gone", "SOURCE_NOT_FOUND"),
        ("wrong hash", "CHECKSUM_MISMATCH"),
        ("no model", "INVALID_MODEL"),
        ("a page", "NOT_A_MODEL_FILE"),
        ("nobody there", "UPSTREAM_UNAVAILABLE"),
        ("pickle", "UNSAFE_FORMAT"),
    ],
)
async def test_an_install_that_fails_says_what_helps(
    data_dir: Path, web: HttpServer, lora: bytes, source: Path, what: str, reason: str
) -> None:
    odd = write_safetensors(source / "odd.safetensors", {"x": [1]})
    (source / "model.ckpt").write_bytes(b"\x80\x04cposix\nsystem\n")
    page = Resource(b"<!doctype html><html></html>", content_type="text/html")
    sources: dict[str, Path | str] = {
        "gone": web.url("/gone.safetensors"),
        "wrong hash": web.put("/style.safetensors", Resource(lora)),
        "no model": odd,
        "a page": web.put("/page.safetensors", page),
        "nobody there": f"http://{NOBODY}/x.safetensors",
        "pickle": source / "model.ckpt",
    }
    async with (
        downloads_beside(data_dir, max_attempts=2) as address,
        install_service(data_dir, download_address=address) as service,
    ):
        fields = {"expected_sha256": "0" * 64} if what == "wrong hash" else {}
        job = await service.install(sources[what], **fields)
    assert (job.state, job.error.reason) == (install_pb2.INSTALL_STATE_ERROR, reason), job.error
    assert job.error.metadata["remedy"].strip()
    assert not job.error.HasField("retry_time")
