"""Limits of the whole service and of single jobs, on bytes that come over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.download.v1 import download_pb2, limits_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from support.downloads import DownloadClient, download_service
from support.failures import fails
from support.httpserver import HttpServer, Resource, pattern

COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ENQUEUED = download_pb2.DOWNLOAD_STATE_ENQUEUED
RUNNING = download_pb2.DOWNLOAD_STATE_RUNNING
KIB = 1 << 10


@pytest.fixture
def web() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


async def test_all_downloads_together_keep_the_rate_of_the_setting(data_dir: Path, web: HttpServer) -> None:
    size, rate = 600 * KIB, 512 * KIB
    async with download_service(data_dir, max_bytes_per_second=rate) as client:
        begin = time.monotonic()
        jobs = []
        for name in ("a.bin", "b.bin"):
            web.put(f"/{name}", Resource(pattern(size)))
            jobs.append(await client.create(web.url(f"/{name}")))
        for job in jobs:
            assert (await client.ended(job)).state == COMPLETED
        assert time.monotonic() - begin >= 2 * size / rate * 0.95


async def test_what_a_limit_slows_down_gets_no_more_connections(data_dir: Path, web: HttpServer) -> None:
    web.put("/a.bin", Resource(pattern(8000 * KIB)))
    async with download_service(data_dir) as client:
        job = await client.create(web.url("/a.bin"), max_bytes_per_second=4000 * KIB)
        assert (await client.ended(job)).state == COMPLETED
    assert len(web.requests_of("/a.bin")) == 1


async def test_a_better_download_takes_the_slot_of_a_worse_one_which_goes_on_where_it_was(
    data_dir: Path, web: HttpServer
) -> None:
    async with download_service(data_dir, max_parallel_downloads=1, checkpoint_bytes=64 * KIB) as client:
        web.put("/large", Resource(pattern(1000 * KIB), etag='"v1"', rate=1000 * KIB))
        web.put("/urgent", Resource(pattern(KIB)))
        large = await client.create(web.url("/large"))
        await client.until(large, lambda now: now.progress.bytes_done > 200 * KIB)
        urgent = await client.create(web.url("/urgent"), priority=1)
        urgent = await client.ended(urgent)
        waited = urgent.start_time.ToNanoseconds() - urgent.create_time.ToNanoseconds()
        assert waited < 250e6
        assert (await client.get(large)).state != COMPLETED
        large = await client.ended(large)
        assert (large.state, large.restarts, large.sequence) == (COMPLETED, 0, 3)
        first, last = web.requests_of("/large")
        assert (first.offset, last.offset > 0) == (0, True)


async def test_a_new_priority_interrupts_a_download_that_runs(data_dir: Path, web: HttpServer) -> None:
    async with download_service(data_dir, max_parallel_downloads=1) as client:
        jobs = []
        for name in ("a", "b"):
            web.put(f"/{name}", Resource(pattern(200 * KIB), rate=400 * KIB))
            jobs.append(await client.create(web.url(f"/{name}")))
        await client.until(jobs[0], lambda now: now.progress.bytes_done > 0)
        update = download_pb2.Download(id=jobs[1].id, priority=1)
        await client.stub.UpdateDownload(pb.UpdateDownloadRequest(download=update))
        second = await client.ended(jobs[1])
        assert (second.state, (await client.get(jobs[0])).ended) == (COMPLETED, False)
        assert (await client.ended(jobs[0])).state == COMPLETED


async def test_a_source_that_a_limit_makes_wait_does_not_count_as_stalled(
    data_dir: Path, web: HttpServer
) -> None:
    web.put("/m.bin", Resource(pattern(300 * KIB)))
    settings: dict[str, Any] = {
        "stall_timeout_s": 0.2,
        "min_bytes_per_second": 512 * KIB,
        "max_bytes_per_second": 200 * KIB,
    }
    async with download_service(data_dir, **settings) as client:
        job = await client.run(web.url("/m.bin"))
        assert (job.state, job.attempt) == (COMPLETED, 1)


# GetLimits and SetLimits.


async def set_limits(client: DownloadClient, **fields: Any) -> limits_pb2.Limits:
    answer: limits_pb2.SetLimitsResponse = await client.stub.SetLimits(limits_pb2.SetLimitsRequest(**fields))
    return answer.limits


async def get_limits(client: DownloadClient) -> limits_pb2.Limits:
    answer: limits_pb2.GetLimitsResponse = await client.stub.GetLimits(limits_pb2.GetLimitsRequest())
    return answer.limits


def of_queue(queue: str, most: int) -> limits_pb2.QueueLimits:
    return limits_pb2.QueueLimits(queue=queue, max_parallel_downloads=most)


async def test_what_was_set_counts_in_place_of_the_settings_also_after_a_restart(data_dir: Path) -> None:
    configured: dict[str, Any] = {"max_parallel_downloads": 7, "max_bytes_per_second": 1 << 20}
    async with download_service(data_dir, **configured) as client:
        connections: dict[str, Any] = {
            "max_connections_per_file": 32,
            "max_connections_per_host": 32,
            "max_connections": 64,
        }
        settings = limits_pb2.Limits(**configured, **connections)
        assert await get_limits(client) == settings
        changed = await set_limits(client, max_bytes_per_second=0, queues=[of_queue("", 2), of_queue("q", 3)])
        assert changed == limits_pb2.Limits(
            max_parallel_downloads=7, queues=[of_queue("", 2), of_queue("q", 3)], **connections
        )
        await set_limits(client, max_parallel_downloads=4, queues=[of_queue("", 0), of_queue("p", 1)])
    async with download_service(data_dir, **configured) as client:
        limits = limits_pb2.Limits(
            max_parallel_downloads=4, queues=[of_queue("p", 1), of_queue("q", 3)], **connections
        )
        assert await get_limits(client) == limits
        assert (await set_limits(client, max_parallel_downloads=0)).max_parallel_downloads == 7
        assert await set_limits(client, reset=True, max_bytes_per_second=5) == limits_pb2.Limits(
            max_parallel_downloads=7, max_bytes_per_second=5, **connections
        )
        assert await set_limits(client, reset=True) == settings


async def test_no_more_jobs_than_set_may_be_open_however_many_have_ended(
    data_dir: Path, web: HttpServer
) -> None:
    async with download_service(data_dir, max_jobs=3) as client:
        url = web.put("/m", Resource(pattern(KIB)))

        async def create(number: int) -> download_pb2.Download:
            return await client.create(url, filename=f"{number}.bin", start=False)

        jobs = [await create(number) for number in range(3)]
        for number in range(3, 8):
            with fails(code="RESOURCE_EXHAUSTED", reason="QUEUE_FULL"):
                await create(number)
            await client.stub.CancelDownload(pb.CancelDownloadRequest(id=jobs[1].id))
            jobs[1] = await create(number)
        assert jobs[1].id == 8  # far from the first that is still open


async def test_limits_out_of_range_are_refused(data_dir: Path) -> None:
    async with download_service(data_dir) as client:
        before = await get_limits(client)
        for fields in (
            {"max_parallel_downloads": 101},
            {"max_parallel_downloads": -1},
            {"max_bytes_per_second": -1},
            {"queues": [of_queue("a/b", 1)]},
            {"queues": [of_queue("a", 101)]},
        ):
            with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID"):
                await set_limits(client, **fields)
        assert await get_limits(client) == before
        await set_limits(client, queues=[of_queue(f"q{number}", 1) for number in range(1000)])
        with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID"):
            await set_limits(client, queues=[of_queue("one-more", 1)])
        await set_limits(client, queues=[of_queue("q0", 0), of_queue("one-more", 1)])
        assert len((await get_limits(client)).queues) == 1000


async def test_fewer_at_once_put_the_worst_back_and_each_queue_keeps_to_its_number(
    data_dir: Path, web: HttpServer
) -> None:
    async with download_service(data_dir) as client:
        await set_limits(client, queues=[of_queue("narrow", 1)])
        jobs = []
        for number, queue in enumerate(["narrow", "narrow", "", ""]):
            web.put(f"/{number}", Resource(pattern(900 * KIB), rate=300 * KIB))
            jobs.append(await client.create(web.url(f"/{number}"), queue=queue, priority=number))

        async def states() -> list[int]:
            return [(await client.get(job)).state for job in jobs]

        for job in (jobs[0], jobs[2], jobs[3]):
            await client.until(job, lambda now: now.progress.bytes_done > 0)
        assert await states() == [RUNNING, ENQUEUED, RUNNING, RUNNING]
        await set_limits(client, max_parallel_downloads=1)
        await client.until(jobs[2], lambda now: now.state == ENQUEUED)
        await client.until(jobs[3], lambda now: now.state == ENQUEUED)
        assert await states() == [RUNNING, ENQUEUED, ENQUEUED, ENQUEUED]
        await set_limits(client, reset=True)
        for job in jobs[1:]:
            await client.until(job, lambda now: now.state == RUNNING)


async def test_rates_of_the_service_and_of_one_download_are_changed_while_it_runs(
    data_dir: Path, web: HttpServer
) -> None:
    async with download_service(data_dir) as client:
        web.put("/m", Resource(pattern(8 << 20), etag='"v1"'))
        job = await client.create(web.url("/m"), max_bytes_per_second=200 * KIB)
        assert job.max_bytes_per_second == 200 * KIB

        async def measured(seconds: float = 1.0) -> float:
            """Bytes a second from now on."""
            before, begin = (await client.get(job)).progress.bytes_done, time.monotonic()
            await asyncio.sleep(seconds)
            done = (await client.get(job)).progress.bytes_done - before
            return done / (time.monotonic() - begin)

        await client.until(job, lambda now: now.progress.bytes_done > 0)
        # Never faster; slower only where the machine is busy.
        assert 0 < await measured() < 1.3 * 200 * KIB
        faster = download_pb2.Download(id=job.id, max_bytes_per_second=1000 * KIB)
        updated = await client.stub.UpdateDownload(pb.UpdateDownloadRequest(download=faster))
        assert updated.download.max_bytes_per_second == 1000 * KIB
        assert 1.3 * 200 * KIB < await measured() < 1.3 * 1000 * KIB
        await set_limits(client, max_bytes_per_second=400 * KIB)
        assert 0 < await measured() < 1.3 * 400 * KIB
        none = pb.UpdateDownloadRequest(
            download=download_pb2.Download(id=job.id), update_mask={"paths": ["max_bytes_per_second"]}
        )
        assert (await client.stub.UpdateDownload(none)).download.max_bytes_per_second == 0
        await set_limits(client, max_bytes_per_second=0)
        assert (await client.ended(job)).state == COMPLETED
