"""Downloads on a disk that is small, or full: never filled up, given free again, with what is missing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.server.v1 import server_service_pb2, server_service_pb2_grpc
from modelkeep_download.engine import files
from support.downloads import DownloadClient, DownloadProcess, download_service
from support.httpserver import Hang, HttpServer, Resource, pattern
from support.smalldisk import fill, free_bytes, small_disk

MIB = 1 << 20
BIG = pattern(64 * MIB)
ERROR, PAUSED = download_pb2.DOWNLOAD_STATE_ERROR, download_pb2.DOWNLOAD_STATE_PAUSED
CANCELLED, COMPLETED = download_pb2.DOWNLOAD_STATE_CANCELLED, download_pb2.DOWNLOAD_STATE_COMPLETED

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(48) as folder:
        yield folder


def staged(client: DownloadClient) -> list[str]:
    """The names of the partial files' folders."""
    return [path.name for path in (client.folder / ".staging").glob("*")]


def check_disk_full(job: download_pb2.Download) -> None:
    assert job.error.reason == "DISK_FULL", job
    assert int(job.error.metadata["bytes_short"]) > 0
    assert job.error.metadata["remedy"] in job.error.message


@pytest.mark.parametrize("preserve", [False, True])
@pytest.mark.parametrize("reserve", [16 * MIB, 0])
async def test_a_body_without_a_length_leaves_the_reserve_and_no_partial_file(
    disk: Path, web: HttpServer, preserve: bool, reserve: int
) -> None:
    url = web.put("/endless", Resource(BIG, chunked=True, etag=None))
    async with download_service(disk / "data", disk_reserve_bytes=reserve) as client:
        job = await client.create(url, preserve_partial=preserve)
        least = free_bytes(disk)
        while not (now := await client.get(job)).HasField("end_time"):
            least = min(least, free_bytes(disk))
            await asyncio.sleep(0)
        assert now.state == ERROR, now
        check_disk_full(now)
        assert least >= reserve - 9 * MIB, "looked at every 8 MiB"
        assert staged(client) == []
        assert free_bytes(disk) > 25 * MIB
        small = web.put("/small", Resource(BIG[:MIB]))
        assert (await client.run(small)).state == download_pb2.DOWNLOAD_STATE_COMPLETED


async def test_a_body_without_a_length_has_a_most_that_the_server_info_names(
    disk: Path, web: HttpServer
) -> None:
    async with download_service(disk / "data", max_unsized_bytes=2 * MIB) as client:
        whole = await client.run(web.put("/most", Resource(BIG[: 2 * MIB], chunked=True)))
        assert whole.state == download_pb2.DOWNLOAD_STATE_COMPLETED, whole
        for resource in (Resource(BIG[: 3 * MIB], chunked=True), Resource(BIG[: 3 * MIB], lengthless=True)):
            job = await client.run(web.put("/endless", resource), preserve_partial=True)
            assert (job.state, job.error.reason) == (ERROR, "NOT_A_MODEL_FILE")
            assert job.error.metadata["setting"] == "max_unsized_bytes"
            assert staged(client) == []
        sized = await client.run(web.put("/sized", Resource(BIG[: 3 * MIB])))
        assert sized.state == download_pb2.DOWNLOAD_STATE_COMPLETED
        info = server_service_pb2_grpc.ServerServiceStub(client.channel)
        limits = (await info.GetServerInfo(server_service_pb2.GetServerInfoRequest())).limits
        assert limits["max_unsized_bytes"] == 2 * MIB
        assert "disk_reserve_bytes" in limits


async def test_what_does_not_fit_is_refused_before_a_byte_is_written(disk: Path, web: HttpServer) -> None:
    source = disk / "data" / "inbox"
    await asyncio.to_thread(source.mkdir, parents=True)
    await asyncio.to_thread((source / "a").write_bytes, BIG[: 30 * MIB])
    async with download_service(disk / "data2", import_roots=(source,)) as client:
        for job in (
            await client.run(web.put("/big", Resource(BIG))),
            await client.ended(await client.take(source, copy=True)),
            await client.ended(await client.take(source / "a", copy=True)),
        ):
            assert job.state == ERROR, job
            check_disk_full(job)
            assert job.progress.bytes_done == 0
        assert staged(client) == []


async def test_a_disk_that_others_fill_pauses_a_job_and_a_cancel_gives_the_room_back(
    disk: Path, web: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_fallocate", None)  # a file system that keeps no room
    url = web.put("/m.bin", Resource(BIG[: 30 * MIB], rate=10 * MIB))
    async with download_service(disk / "data", checkpoint_bytes=MIB) as client:
        job = await client.create(url)
        await client.until(job, lambda now: now.progress.bytes_done > 4 * MIB)
        await asyncio.to_thread(fill, disk)
        paused = await client.until(job, lambda now: now.state == PAUSED, timeout=30)
        check_disk_full(paused)
        assert paused.progress.bytes_done > 0
        await asyncio.to_thread(fill, disk)
        await client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))
        assert (await client.ended(job)).state == CANCELLED
        assert staged(client) == []
        assert free_bytes(disk) > 3 * MIB


async def test_a_job_has_the_room_for_all_of_its_bytes_before_the_first_of_them_comes(
    disk: Path, web: HttpServer
) -> None:
    url = web.put("/m.bin", Resource(BIG[: 20 * MIB], rate=10 * MIB))
    async with download_service(disk / "data", checkpoint_bytes=MIB) as client:
        job = await client.create(url)
        await client.until(job, lambda now: now.progress.bytes_done > 0)
        await asyncio.to_thread(fill, disk)
        done = await client.ended(job)
        assert (done.state, done.progress.bytes_done) == (COMPLETED, 20 * MIB), done


async def test_a_paused_job_keeps_its_room_and_goes_on_in_it_on_a_disk_that_is_full_besides(
    disk: Path, web: HttpServer
) -> None:
    url = web.put("/m.bin", Resource(BIG[: 20 * MIB], rate=10 * MIB))
    async with download_service(disk / "data", checkpoint_bytes=MIB) as client:
        job = await client.create(url)
        await client.until(job, lambda now: now.progress.bytes_done > MIB)
        await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))
        ballast = await asyncio.to_thread(fill, disk)
        with ballast.open("r+b") as file:  # the rows need some
            await asyncio.to_thread(file.truncate, ballast.stat().st_size - 2 * MIB)
        await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
        done = await client.ended(job)
        assert (done.state, done.progress.bytes_done) == (COMPLETED, 20 * MIB), done


async def test_a_job_that_paused_for_a_full_disk_goes_on_by_itself_when_there_is_room(
    disk: Path, web: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_fallocate", None)  # a file system that keeps no room
    url = web.put("/m.bin", Resource(BIG[: 20 * MIB], rate=10 * MIB))
    # One connection, so that the offset of a request tells what there is.
    async with download_service(disk / "data", checkpoint_bytes=MIB, max_connections_per_file=1) as client:
        job = await client.create(url)
        await client.until(job, lambda now: now.progress.bytes_done > 4 * MIB)
        ballast = await asyncio.to_thread(fill, disk)
        paused = await client.until(job, lambda now: now.state == PAUSED, timeout=30)
        check_disk_full(paused)
        await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))  # in vain: it pauses again
        await client.until(job, lambda now: now.sequence == 2 and now.state == PAUSED, timeout=30)
        await asyncio.to_thread(ballast.unlink)
        done = await client.ended(job)
        assert (done.state, done.progress.bytes_done) == (COMPLETED, 20 * MIB)
        assert web.requests[-1].offset >= paused.progress.bytes_done > 0


async def test_a_full_disk_keeps_no_service_from_starting_and_no_job_from_being_pruned(
    disk: Path, web: HttpServer
) -> None:
    data = disk / "data"
    await asyncio.to_thread(data.mkdir)
    # One connection: what several have put together is fetched anew once before its source is blamed.
    one = {"max_attempts": 1, "max_connections_per_file": 1, "checkpoint_bytes": 64 << 10}
    service = DownloadProcess(data, **one)
    await asyncio.to_thread(service.start)
    url = web.put("/m.bin", Resource(BIG[: 10 * MIB]))
    slow = web.put("/slow.bin", Resource(BIG[: 20 * MIB], rate=MIB))
    async with service.client() as client:
        failed = await client.run(url, expected_sha256="0" * 64)
        assert failed.state == ERROR
        assert staged(client) == [f"download-{failed.id}"]
        running = await client.create(slow)
        await client.until(running, lambda now: now.progress.bytes_done > MIB)
    await asyncio.to_thread(service.kill)
    await asyncio.to_thread(fill, disk)
    await asyncio.to_thread(service.start)
    try:
        async with service.client() as client:
            # It has its room, and goes on; or it could not be taken over yet.
            assert (await client.get(running)).state not in (ERROR, CANCELLED)
            await client.stub.CancelDownload(pb.CancelDownloadRequest(id=running.id))
            assert (await client.ended(running)).state == CANCELLED
            await client.stub.PruneDownloads(pb.PruneDownloadsRequest())
            assert staged(client) == []
            assert free_bytes(disk) > 9 * MIB
    finally:
        await asyncio.to_thread(service.stop)


async def test_several_files_that_have_their_room_go_on_on_a_disk_that_is_full_besides(
    disk: Path, web: HttpServer
) -> None:
    source = download_pb2.DownloadSource()
    for name in "abc":
        url = web.put(f"/{name}.bin", Resource(BIG[: 8 * MIB], rate=8 * MIB))
        source.files.files.add(url=url, path=f"{name}.bin")
    async with download_service(disk / "data", disk_reserve_bytes=MIB) as client:
        folder = f"{client.folder}/set"
        job = await client.create(source=source, destination=folder, max_bytes_per_second=12 * MIB)
        await client.until(job, lambda now: now.progress.bytes_done > 6 * MIB)
        await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))
        ballast = fill(disk)
        os.truncate(ballast, ballast.stat().st_size - 4 * MIB)
        await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
        job = await client.ended(job)
        assert (job.state, job.progress.bytes_done) == (COMPLETED, 24 * MIB), job


async def test_the_room_that_several_files_have_is_not_taken_from_others_twice(
    disk: Path, web: HttpServer
) -> None:
    source = download_pb2.DownloadSource()
    for name in "ab":
        url = web.put(f"/{name}.bin", Resource(BIG[: 12 * MIB], faults=[Hang(MIB)]))
        source.files.files.add(url=url, path=f"{name}.bin")
    web.put("/other.bin", Resource(BIG[: 16 * MIB]))
    async with download_service(
        disk / "data", disk_reserve_bytes=0, stall_timeout_s=60, max_connections_per_file=1
    ) as client:
        several = await client.create(source=source, destination=f"{client.folder}/set")
        await client.until(several, lambda now: now.progress.bytes_done == 2 * MIB)
        other = await client.run(web.url("/other.bin"))
        assert other.state == COMPLETED, other
        await client.stub.CancelDownload(pb.CancelDownloadRequest(id=several.id))
        await client.ended(several)
