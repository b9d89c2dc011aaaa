"""Several files as one download: fetched side by side, checked one by one, delivered together."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from support.downloads import DownloadClient, DownloadProcess, alter_job, download_service
from support.httpserver import Cut, Hang, HttpServer, Resource, Status, pattern
from support.waiting import until

COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR
PAUSED = download_pb2.DOWNLOAD_STATE_PAUSED
CANCELLED = download_pb2.DOWNLOAD_STATE_CANCELLED

FILES = {
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.bin": pattern(3_000_000, seed=1),
    "unet/diffusion_pytorch_model.bin": pattern(9_000_000, seed=2),
    "unet/empty.txt": b"",
}


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir) as service:
        yield service


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def several(web: HttpServer, *, hashes: bool = True, sizes: bool = True, **served: Any) -> Any:
    """A source of all FILES; `served`: how each is, by its path with "/" as "__"."""
    files = download_pb2.FileSet()
    for path, body in FILES.items():
        resource = served.get(path.rpartition("/")[2].partition(".")[0]) or Resource(body)
        files.files.add(
            url=web.put(f"/{path}", resource),
            path=path,
            expected_sha256=sha256(body) if hashes else "",
            size_bytes=len(body) if sizes else None,
        )
    return download_pb2.DownloadSource(files=files)


def check_there(folder: Path) -> None:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == FILES


@pytest.mark.parametrize("hashes", [True, False])
@pytest.mark.parametrize("sizes", [True, False])
async def test_all_files_arrive_in_their_folders(
    client: DownloadClient, web: HttpServer, *, hashes: bool, sizes: bool
) -> None:
    job = await client.run(
        source=several(web, hashes=hashes, sizes=sizes), destination=f"{client.folder}/pipeline"
    )
    assert (job.state, job.verified, job.file_count) == (COMPLETED, hashes, len(FILES)), job
    assert job.progress.bytes_done == job.progress.bytes_total == sum(map(len, FILES.values()))
    check_there(client.folder / "pipeline")
    whole = await client.get(job)
    assert {file.path: file.sha256 for file in whole.files} == {
        path: sha256(body) for path, body in FILES.items()
    }
    assert list((client.folder / ".staging").iterdir()) == []


async def test_a_file_that_fails_for_now_costs_the_others_nothing(data_dir: Path, web: HttpServer) -> None:
    flaky = Resource(FILES["vae/diffusion_pytorch_model.bin"], faults=[Status(503), Cut(1_000_000)])
    source = several(web)
    web.put("/vae/diffusion_pytorch_model.bin", flaky)
    # One connection for each, since what is on its way when another takes over is sent twice.
    async with download_service(data_dir, max_connections_per_file=1) as client:
        job = await client.run(source=source, destination=f"{client.folder}/p")
        assert (job.state, job.restarts) == (COMPLETED, 0)
        check_there(client.folder / "p")
    for path, body in FILES.items():
        assert len(body) <= web.bytes_served(f"/{path}") <= len(body) + 200_000, path


async def test_a_wrong_file_ends_the_job_and_nothing_is_delivered(
    client: DownloadClient, web: HttpServer
) -> None:
    source = several(web, sizes=False)
    web.put("/vae/diffusion_pytorch_model.bin", Resource(pattern(3_000_000, seed=9)))
    job = await client.run(source=source, destination=f"{client.folder}/p")
    assert (job.state, job.error.reason) == (ERROR, "CHECKSUM_MISMATCH")
    assert "vae/diffusion_pytorch_model.bin" in job.error.message
    assert Path(job.error.metadata["quarantined_path"]).is_file()
    assert not (client.folder / "p").exists()


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        (Resource(b"<!doctype html><title>log in</title>", content_type="text/html"), "NOT_A_MODEL_FILE"),
        (Resource(pattern(5_000)), "SOURCE_CHANGED"),
        (Resource(b"", faults=[Status(404)] * 9), "SOURCE_NOT_FOUND"),
    ],
)
async def test_what_is_not_the_file_is_named(
    client: DownloadClient, web: HttpServer, resource: Resource, reason: str
) -> None:
    source = several(web, hashes=False, sizes=reason == "SOURCE_CHANGED")
    url = web.put("/unet/diffusion_pytorch_model.bin", resource)
    job = await client.run(source=source, destination=f"{client.folder}/p")
    assert (job.state, job.error.reason, job.error.metadata["source"]) == (ERROR, reason, url)
    assert job.error.message.startswith("unet/diffusion_pytorch_model.bin: ")
    assert list((client.folder / ".staging").iterdir()) == []


async def test_a_file_that_is_there_is_not_replaced(client: DownloadClient, web: HttpServer) -> None:
    source = several(web)
    web.put(
        "/unet/diffusion_pytorch_model.bin",
        Resource(FILES["unet/diffusion_pytorch_model.bin"], rate=3_000_000),
    )
    job = await client.create(source=source, destination=f"{client.folder}/p")
    await client.until(job, lambda now: now.progress.bytes_done > 0)
    (client.folder / "p" / "vae").mkdir(parents=True)
    (client.folder / "p" / "vae" / "config.json").write_text("mine")
    ended = await client.ended(job)
    assert (ended.state, ended.error.reason) == (ERROR, "DESTINATION_EXISTS")
    assert (client.folder / "p" / "vae" / "config.json").read_text() == "mine"


async def test_it_is_paused_goes_on_and_is_cancelled(client: DownloadClient, web: HttpServer) -> None:
    source = several(web)
    slow = Resource(FILES["unet/diffusion_pytorch_model.bin"], rate=1_000_000)
    web.put("/unet/diffusion_pytorch_model.bin", slow)
    jobs = [await client.create(source=source, destination=f"{client.folder}/{name}") for name in ("p", "q")]
    for job in jobs:
        await client.until(job, lambda now: now.progress.bytes_done > 4_000_000)
        paused = (await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))).download
        assert paused.state == PAUSED
        assert paused.progress.bytes_done > 3_000_000
    slow.rate = None
    served = web.bytes_served("/vae/diffusion_pytorch_model.bin")
    await client.stub.StartDownload(pb.StartDownloadRequest(id=jobs[0].id))
    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=jobs[1].id))
    assert [(await client.ended(job)).state for job in jobs] == [COMPLETED, CANCELLED]
    check_there(client.folder / "p")
    assert web.bytes_served("/vae/diffusion_pytorch_model.bin") == served
    assert not (client.folder / "q").exists()
    assert list((client.folder / ".staging").iterdir()) == []


@pytest.mark.timeout(60)
@pytest.mark.may_block  # starts processes and reads files
async def test_killed_it_goes_on_with_the_files_that_are_there(data_dir: Path, web: HttpServer) -> None:
    service = DownloadProcess(data_dir, checkpoint_s=0.1)
    source = several(web)
    body = FILES["unet/diffusion_pytorch_model.bin"]
    web.put("/unet/diffusion_pytorch_model.bin", Resource(body, faults=[Hang(2_000_000)] * 9))
    try:
        service.start()
        async with service.client() as client:
            job = await client.create(source=source, destination=f"{client.folder}/p")
            await client.until(job, lambda now: now.progress.bytes_done >= 5_000_000)
            staged = client.folder / ".staging" / f"download-{job.id}"
            whole, pieces = staged / "whole", staged / "3.data.pieces"
            await until(lambda: pieces.exists() and ", 2, " in whole.read_text())
        service.kill()
        web.put("/unet/diffusion_pytorch_model.bin", Resource(body))
        vae = web.bytes_served("/vae/diffusion_pytorch_model.bin")
        service.start()
        async with service.client() as client:
            done = await client.ended(job)
            assert (done.state, done.verified) == (COMPLETED, True), done
            check_there(client.folder / "p")
        assert web.bytes_served("/vae/diffusion_pytorch_model.bin") == vae
    finally:
        service.kill()


@pytest.mark.may_block  # looks into the database
async def test_killed_when_all_is_delivered_and_its_end_not_recorded_it_has_ended(
    data_dir: Path, web: HttpServer
) -> None:
    async with download_service(data_dir) as client:
        folder = client.folder / "pipeline"
        job = await client.run(source=several(web), destination=str(folder))
        asked = len(web.requests)
    inode = folder.stat()
    # As a kill leaves it that comes when the staging folder is gone already.
    alter_job(
        data_dir / "download" / "download.db",
        job.id,
        state="running",
        stage="verifying",
        delivered_path="",
        end_time=None,
        staged_inode=(inode.st_dev, inode.st_ino),
    )
    async with download_service(data_dir) as client:
        assert (await client.get(job)).state == COMPLETED
    assert len(web.requests) == asked
    check_there(folder)
