"""Pause, start, cancel and update at random moments of jobs that fail at random: none gets stuck or leaks."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import grpc
import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from support.downloads import DownloadClient, download_service
from support.httpserver import Cut, Fault, HttpServer, Resource, Status, pattern

BODY = pattern(60_000)
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
CANCELLED = download_pb2.DOWNLOAD_STATE_CANCELLED
_FAULTS: tuple[Fault, ...] = (
    *(Cut(at) for at in range(0, 60_000, 6_000)),
    *([Status(503)] * 10),
    *([Fault()] * 20),
)


async def pester(client: DownloadClient, job: download_pb2.Download, luck: random.Random) -> None:
    """Send calls about the job without waiting for what they do, and start it at last."""
    stub, job_id = client.stub, job.id
    for _ in range(40):
        call = luck.choices(("start", "pause", "update", "cancel"), (30, 20, 9, 1))[0]
        update = download_pb2.Download(id=job_id, priority=luck.randrange(1, 20))
        try:
            if call == "start":
                await stub.StartDownload(pb.StartDownloadRequest(id=job_id), timeout=20)
            elif call == "pause":
                await stub.PauseDownload(pb.PauseDownloadRequest(id=job_id), timeout=20)
            elif call == "update":
                await stub.UpdateDownload(pb.UpdateDownloadRequest(download=update), timeout=20)
            else:
                await stub.CancelDownload(pb.CancelDownloadRequest(id=job_id), timeout=20)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:  # that is: it has ended
                raise
            return
        await asyncio.sleep(luck.choice((0, 0, 0.001, 0.01, 0.03)))
    # What nobody cancels must arrive; what is cancelled just as it comes off the queue must go.
    last = [stub.PauseDownload(pb.PauseDownloadRequest(id=job_id))]
    await asyncio.gather(*last, return_exceptions=True)
    last = [stub.StartDownload(pb.StartDownloadRequest(id=job_id))]
    if luck.random() < 0.5:
        last.append(stub.CancelDownload(pb.CancelDownloadRequest(id=job_id)))
    for outcome in await asyncio.gather(*last, return_exceptions=True):
        if isinstance(outcome, grpc.aio.AioRpcError):
            assert outcome.code() is grpc.StatusCode.FAILED_PRECONDITION, outcome


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))])
async def test_calls_at_any_moment_leave_no_job_stuck_and_no_file_behind(
    data_dir: Path, web: HttpServer, seed: int
) -> None:
    luck = random.Random(seed)
    async with download_service(
        data_dir, max_parallel_downloads=3, retry_base_s=0.005, max_attempts=30
    ) as client:
        jobs = []
        for number in range(30):
            resource = Resource(BODY, rate=300_000, faults=luck.choices(_FAULTS, k=30))
            url = web.put(f"/{number}.bin", resource)
            jobs.append(await client.create(url, access_token="secret" if number % 2 else ""))
        await asyncio.gather(*(pester(client, job, random.Random(seed + job.id)) for job in jobs))
        ended = [await client.ended(job, 60) for job in jobs]
        assert {job.state for job in ended} <= {COMPLETED, CANCELLED}, ended
        for job in ended:
            assert (Path(job.path).read_bytes() == BODY) if job.state == COMPLETED else not job.sha256
        assert [path.name for path in (client.folder / ".staging").iterdir()] == []
