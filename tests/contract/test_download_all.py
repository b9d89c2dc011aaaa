"""StartAllDownloads, PauseAllDownloads, CancelAllDownloads: one call for all jobs of a queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelkeep.download.v1 import all_downloads_pb2 as all_pb
from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep_common.sqlite import Connection, Database
from modelkeep_download.domain.job import JobSpec, JobState, SecretKind, SourceKind
from modelkeep_download.domain.transitions import to_pause
from modelkeep_download.migrations import MIGRATIONS
from modelkeep_download.store import JobStore
from support.downloads import DownloadClient, DownloadProcess, download_service
from support.httpserver import Hang, HttpServer, Resource, pattern

BODY = pattern(300_000)
IDLE = download_pb2.DOWNLOAD_STATE_IDLE
ENQUEUED = download_pb2.DOWNLOAD_STATE_ENQUEUED
RUNNING = download_pb2.DOWNLOAD_STATE_RUNNING
PAUSED = download_pb2.DOWNLOAD_STATE_PAUSED
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
CANCELLED = download_pb2.DOWNLOAD_STATE_CANCELLED


@pytest.fixture
async def client(data_dir: Path, web: HttpServer) -> AsyncIterator[DownloadClient]:
    web.put("/m.bin", Resource(BODY))
    for n in range(4):  # each of its own address: equal ones would be fetched once
        web.put(f"/slow{n}.bin", Resource(BODY, fault_of=lambda request: Hang(100_000)))
    async with download_service(data_dir, max_parallel_downloads=2, stall_timeout_s=60) as service:
        yield service


async def start_all(client: DownloadClient, **fields: Any) -> all_pb.StartAllDownloadsResponse:
    found: all_pb.StartAllDownloadsResponse = await client.stub.StartAllDownloads(
        all_pb.StartAllDownloadsRequest(**fields)
    )
    return found


async def pause_all(client: DownloadClient, **fields: Any) -> int:
    answer = await client.stub.PauseAllDownloads(all_pb.PauseAllDownloadsRequest(**fields))
    return int(answer.paused_count)


async def cancel_all(client: DownloadClient, **fields: Any) -> int:
    answer = await client.stub.CancelAllDownloads(all_pb.CancelAllDownloadsRequest(**fields))
    return int(answer.cancelled_count)


async def states(client: DownloadClient) -> list[int]:
    answer = await client.stub.ListDownloads(pb.ListDownloadsRequest(all_queues=True))
    return [job.state for job in answer.downloads]


async def test_all_idle_and_paused_jobs_start_in_their_order(client: DownloadClient, web: HttpServer) -> None:
    jobs = [await client.create(web.url("/m.bin"), filename=str(n), start=False) for n in range(4)]
    answer = await start_all(client)
    assert (answer.started_count, answer.token_required_count) == (4, 0)
    done = [await client.ended(job) for job in jobs]
    assert [job.state for job in done] == [COMPLETED] * 4
    assert [job.sequence for job in done] == [1, 2, 3, 4]
    assert (await start_all(client)).started_count == 0


async def test_when_a_pause_of_all_answers_nothing_runs_any_more(
    client: DownloadClient, web: HttpServer
) -> None:
    jobs = [await client.create(web.url(f"/slow{n}.bin"), filename=str(n)) for n in range(4)]
    idle = await client.create(web.url("/m.bin"), filename="idle", start=False)
    for job in jobs[:2]:
        await client.until(job, lambda job: job.progress.bytes_done >= 100_000)
    assert await pause_all(client) == 4
    assert await states(client) == [PAUSED] * 4 + [IDLE]
    assert all(not open_ for open_ in [(await client.get(job)).stage for job in jobs])
    assert await pause_all(client) == 0
    for n in range(4):
        web.put(f"/slow{n}.bin", Resource(BODY))
    assert (await start_all(client)).started_count == 5
    for job in (*jobs, idle):
        done = await client.ended(job)
        assert (done.state, done.restarts) == (COMPLETED, 0)


async def test_a_cancel_of_all_leaves_no_temporary_file(client: DownloadClient, web: HttpServer) -> None:
    jobs = [await client.create(web.url(f"/slow{n}.bin"), filename=str(n)) for n in range(4)]
    for job in jobs[:2]:
        await client.until(job, lambda job: job.progress.bytes_done >= 100_000)
    paused = await client.create(web.url("/m.bin"), filename="paused", start=False)
    assert await cancel_all(client) == 5
    for job in (*jobs, paused):
        assert (await client.ended(job)).state == CANCELLED
    assert list(client.folder.glob(".staging/*")) == []
    assert await cancel_all(client) == 0


async def test_only_the_jobs_of_the_queue_and_with_the_labels_are_meant(
    client: DownloadClient, web: HttpServer
) -> None:
    url = web.url("/m.bin")
    for name, more in [
        ("1", {"queue": "a", "labels": {"run": "7"}}),
        ("2", {"queue": "a", "labels": {"run": "8"}}),
        ("3", {"queue": "b", "labels": {"run": "7"}}),
        ("4", {}),
    ]:
        await client.create(url, filename=name, start=False, **more)
    assert await cancel_all(client, queue="a", labels={"run": "7"}) == 1
    assert await states(client) == [CANCELLED, IDLE, IDLE, IDLE]
    assert await cancel_all(client) == 1
    assert await states(client) == [CANCELLED, IDLE, IDLE, CANCELLED]
    assert await cancel_all(client, all_queues=True, labels={"run": "7"}) == 1
    assert await cancel_all(client, all_queues=True) == 1
    assert await states(client) == [CANCELLED] * 4


async def test_jobs_that_lost_their_secrets_are_counted_and_stay(data_dir: Path, web: HttpServer) -> None:
    url = web.put("/m.bin", Resource(BODY))
    async with download_service(data_dir) as client:
        await client.create(url, filename="1", access_token="secret", start=False)
        await client.create(url, filename="2", start=False)
    async with download_service(data_dir) as client:
        answer = await start_all(client)
        assert (answer.started_count, answer.token_required_count) == (1, 1)
        assert (await client.ended(await client.get(2))).state == COMPLETED
        assert await states(client) == [IDLE, COMPLETED]


@pytest.mark.long
@pytest.mark.timeout(90)
@pytest.mark.may_block  # writes a store, and reads folders
async def test_ten_thousand_jobs_are_cancelled_in_a_few_seconds(data_dir: Path) -> None:
    staging = await ten_thousand(data_dir)
    service = DownloadProcess(data_dir)
    service.start()
    async with service.client() as client:
        begun = time.monotonic()
        assert await cancel_all(client) == 10_000
        took = time.monotonic() - begun
        print(f"10,000 jobs cancelled in {took:.1f} s")
        assert took < 30  # where nothing else runs, a tenth of it
        await client.stub.WaitDownloads(pb.WaitDownloadsRequest(), timeout=30)
        done = await client.stub.ListDownloads(
            pb.ListDownloadsRequest(states=[CANCELLED], page_size=1000), timeout=30
        )
        assert len(done.downloads) == 1000
        deadline = time.monotonic() + 20
        while list(staging.glob("download-*")):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
    service.stop()


async def ten_thousand(data_dir: Path) -> Path:
    """A store with as many paused jobs, of which some have temporary files; returns where these are."""
    folder = data_dir.resolve() / "downloads"
    (data_dir / "download").mkdir(parents=True)
    database = await Database.open(
        data_dir / "download" / "download.db", MIGRATIONS, "download", reserve_bytes=0
    )
    store = JobStore(lambda job: download_pb2.Download(id=job.id).SerializeToString())
    spec = JobSpec(
        queue="",
        kind=SourceKind.URL,
        source="",
        destination=folder,
        destination_is_folder=True,
        filename="",
        root=folder,
        priority=10,
        preserve_partial=False,
        copy=False,
        expected_sha256="",
        start=True,
    )

    def fill(conn: Connection) -> None:
        for n in range(10_000):
            one = replace(spec, source=f"http://127.0.0.1:9/{n}.bin", filename=f"{n}.bin")
            job = store.insert(conn, one, SecretKind.NONE, b"")
            staging = folder / ".staging" / f"download-{job.id}"
            if n % 10 == 0:
                staging.mkdir(parents=True)
                (staging / "data").touch()
            paused = replace(to_pause(job), staging=str(staging) if n % 10 == 0 else "")
            store.change(conn, job.id, lambda _, paused=paused: paused)  # type: ignore[misc]  # bound now
            assert paused.state is JobState.PAUSED

    await database.write(fill)
    await database.close()
    return folder / ".staging"
