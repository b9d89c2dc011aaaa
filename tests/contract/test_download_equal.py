"""Equal objects that several jobs ask for at once: fetched once, each job by its own right to them."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from support.downloads import DownloadClient, DownloadProcess, download_service
from support.httpserver import Flip, HttpServer, Resource, pattern
from support.waiting import until

MIB = 1 << 20
BODY = pattern(6 * MIB, seed=1)
OTHER = pattern(6 * MIB, seed=2)
SHA256 = hashlib.sha256(BODY).hexdigest()
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
PAUSED = download_pb2.DOWNLOAD_STATE_PAUSED
CANCELLED = download_pb2.DOWNLOAD_STATE_CANCELLED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR
#: What sockets hold when a connection is closed in the middle of a body, and the short answers.
SLACK = MIB
#: Bytes a second of what shall not be there before all jobs are.
SLOW = MIB // 4


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[DownloadClient]:
    # One connection each: of several, what the first has under way when others take over counts twice.
    async with download_service(data_dir, max_parallel_downloads=20, max_connections_per_file=1) as service:
        yield service


async def begin(client: DownloadClient, urls: Sequence[str], **fields: object) -> list[download_pb2.Download]:
    """A job for each, the first of them well under way before the others are made, and all answered."""
    made: list[download_pb2.Download] = []
    for number, url in enumerate(urls):
        job = await client.create(url, destination=str(client.folder / f"{number}.bin"), **fields)
        if not made:
            await client.until(job, lambda now: now.progress.bytes_done > 0)
        made.append(job)
    for job in made:
        await client.until(job, lambda now: now.final_url != "")
    return made


async def lift(web: HttpServer, answers: int = 1) -> None:
    """Let all that is slow come as fast as it can, once the answers to those that only looked are over."""
    await until(lambda: all(web.active(path) <= answers for path in web.resources))
    for resource in web.resources.values():
        resource.rate = None


async def ended(client: DownloadClient, jobs: Sequence[download_pb2.Download]) -> list[download_pb2.Download]:
    return list(await asyncio.gather(*(client.ended(job, 40) for job in jobs)))


def assert_whole(jobs: Sequence[download_pb2.Download], body: bytes = BODY) -> None:
    digest = hashlib.sha256(body).hexdigest()
    for job in jobs:
        assert (job.state, job.sha256) == (COMPLETED, digest), job
        assert Path(job.path).read_bytes() == body


async def test_jobs_of_one_address_fetch_it_once(client: DownloadClient, web: HttpServer) -> None:
    url = web.put("/m.bin", Resource(BODY, rate=SLOW))
    jobs = await begin(client, [url] * 4)
    await lift(web)
    assert_whole(await ended(client, jobs))
    asked = web.requests_of("/m.bin")
    assert sum(request.range == "bytes=0-4095" for request in asked) == 3
    assert web.bytes_served("/m.bin") <= len(BODY) + SLACK
    assert {job.restarts for job in await ended(client, jobs)} == {0}
    assert len({Path(job.path).stat().st_ino for job in await ended(client, jobs)}) == 4


async def test_jobs_that_are_made_at_the_same_moment_fetch_it_once(
    client: DownloadClient, web: HttpServer
) -> None:
    url = web.put("/m.bin", Resource(BODY, rate=SLOW))
    made = [client.create(url, destination=str(client.folder / f"{number}.bin")) for number in range(6)]
    jobs = await asyncio.gather(*made)
    for job in jobs:
        await client.until(job, lambda now: now.final_url != "")
    await lift(web)
    assert_whole(await ended(client, jobs))
    assert web.bytes_served("/m.bin") <= len(BODY) + SLACK


async def test_a_copy_tells_how_far_it_is_and_is_paused_with_what_it_has(
    client: DownloadClient, web: HttpServer
) -> None:
    url = web.put("/m.bin", Resource(BODY, rate=MIB // 2))
    first, second = await begin(client, [url] * 2)
    await client.until(second, lambda now: now.progress.bytes_done >= MIB)
    paused: pb.PauseDownloadResponse = await client.stub.PauseDownload(pb.PauseDownloadRequest(id=second.id))
    assert paused.download.state == PAUSED
    assert paused.download.progress.bytes_done >= MIB
    web.resources["/m.bin"].rate = None
    assert_whole([await client.ended(first)])
    so_far = len(web.requests_of("/m.bin"))
    await client.stub.StartDownload(pb.StartDownloadRequest(id=second.id))
    assert_whole([await client.ended(second)])
    assert all(request.offset >= MIB for request in web.requests_of("/m.bin")[so_far:])


async def test_jobs_of_one_hash_fetch_it_once_from_whichever_address(
    client: DownloadClient, web: HttpServer
) -> None:
    urls = [web.put(f"/{name}", Resource(BODY, etag=f'"{name}"', rate=SLOW)) for name in "abc"]
    jobs = await begin(client, urls, expected_sha256=SHA256)
    await lift(web)
    done = await ended(client, jobs)
    assert_whole(done)
    assert all(job.verified for job in done)
    assert sum(web.bytes_served(f"/{name}") for name in "abc") <= len(BODY) + SLACK
    # Each showed that it serves the object, at a place that nobody could know.
    assert all(web.bytes_served(f"/{name}") == 4096 + (64 << 10) for name in "bc")


@pytest.mark.parametrize("begins_alike", [False, True])
async def test_who_knows_hash_and_size_of_an_object_does_not_get_it_by_that(
    client: DownloadClient, web: HttpServer, begins_alike: bool
) -> None:
    web.put("/real", Resource(BODY, rate=SLOW))
    fake = BODY[:4096] + OTHER[4096:] if begins_alike else OTHER
    web.put("/fake", Resource(fake))
    real, other = await begin(client, [web.url("/real"), web.url("/fake")], expected_sha256=SHA256)
    await lift(web)
    assert_whole([await client.ended(real)])
    job = await client.ended(other)
    assert (job.state, job.error.reason) == (ERROR, "CHECKSUM_MISMATCH")
    assert Path(job.error.metadata["quarantined_path"]).read_bytes() == fake


async def test_a_job_without_the_right_token_is_refused_by_itself(
    client: DownloadClient, web: HttpServer
) -> None:
    url = web.put("/m.bin", Resource(BODY, rate=SLOW, authorization="Bearer right"))
    hashed = {"expected_sha256": SHA256}
    first = (await begin(client, [url], access_token="right", **hashed))[0]
    more = [
        await client.create(url, destination=str(client.folder / f"t{number}"), access_token=token, **hashed)
        for number, token in enumerate(("", "wrong", "right"))
    ]
    await client.until(more[2], lambda now: now.final_url != "")
    await lift(web)
    none, wrong, right = await ended(client, more)
    assert (none.state, none.error.reason) == (ERROR, "TOKEN_REQUIRED")
    assert (wrong.state, wrong.error.reason) == (ERROR, "TOKEN_REJECTED")
    assert none.progress.bytes_done == wrong.progress.bytes_done == 0
    assert_whole([right, await client.ended(first)])
    assert web.bytes_served("/m.bin") <= len(BODY) + SLACK


@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    "how",
    [
        "cancel",
        pytest.param("pause", marks=pytest.mark.long),
        pytest.param("make way", marks=pytest.mark.long),
    ],
)
async def test_the_others_go_on_from_what_a_stopped_one_has_fetched(
    data_dir: Path, web: HttpServer, how: str
) -> None:
    async with download_service(data_dir, max_parallel_downloads=4, max_connections_per_file=1) as client:
        url = web.put("/m.bin", Resource(BODY, rate=MIB // 2))
        jobs = await begin(client, [url] * 4, priority=10)
        first, *others = jobs
        await client.until(first, lambda now: now.progress.bytes_done >= 2 * MIB)
        if how == "cancel":
            await client.stub.CancelDownload(pb.CancelDownloadRequest(id=first.id))
        elif how == "pause":
            await client.stub.PauseDownload(pb.PauseDownloadRequest(id=first.id))
        else:
            await client.stub.UpdateDownload(
                pb.UpdateDownloadRequest(download=download_pb2.Download(id=first.id, priority=20))
            )
            urgent = await client.run(web.put("/urgent", Resource(OTHER)), priority=1)
            assert urgent.state == COMPLETED
        web.resources["/m.bin"].rate = 2 * MIB
        assert_whole(await ended(client, others))
        if how == "pause":
            await client.stub.StartDownload(pb.StartDownloadRequest(id=first.id))
        last = await client.ended(first)
        assert last.state == (CANCELLED if how == "cancel" else COMPLETED)
        # A paused one fetches by itself what it lacks, since nobody else fetches it any more.
        again = len(BODY) - 2 * MIB if how == "pause" else 0
        assert web.bytes_served("/m.bin") <= len(BODY) + again + 2 * SLACK


async def test_the_others_go_on_where_the_source_serves_no_ranges(
    client: DownloadClient, web: HttpServer
) -> None:
    url = web.put("/m.bin", Resource(BODY, rate=MIB // 2, ranges=False))
    first, *others = await begin(client, [url] * 3)
    await client.until(others[1], lambda now: now.progress.bytes_done >= MIB)
    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=first.id))
    await asyncio.sleep(0.5)
    await lift(web)
    done = await ended(client, others)
    assert_whole(done)
    assert {job.restarts for job in done} == {0}
    # What was there is held against the source once more, for both of them together.
    assert web.bytes_served("/m.bin") <= 2 * len(BODY) + 2 * SLACK


async def test_files_of_several_are_shared_as_others_are(client: DownloadClient, web: HttpServer) -> None:
    url = web.put("/m.bin", Resource(BODY, rate=SLOW))
    again = web.put("/again.bin", Resource(BODY, rate=SLOW))
    files = download_pb2.FileSet()
    for path, source in (("unet/m.bin", url), ("vae/m.bin", again)):
        files.files.add(url=source, path=path, expected_sha256=SHA256, size_bytes=len(BODY))
    asked = download_pb2.DownloadSource(files=files)
    jobs = [
        await client.create(source=asked, destination=str(client.folder / name)) for name in ("one", "two")
    ]
    jobs.append(await client.create(url, destination=str(client.folder / "alone"), expected_sha256=SHA256))
    paths = ("/m.bin", "/again.bin")
    await until(lambda: sum(len(web.requests_of(path)) for path in paths) >= 5)
    await client.until(jobs[-1], lambda now: now.final_url != "")
    await lift(web)
    for job in await ended(client, jobs):
        assert (job.state, job.verified) == (COMPLETED, True), job
    there = [client.folder / name / path for name in ("one", "two") for path in ("unet/m.bin", "vae/m.bin")]
    assert all(path.read_bytes() == BODY for path in [*there, client.folder / "alone"])
    assert web.bytes_served("/m.bin") + web.bytes_served("/again.bin") <= len(BODY) + SLACK


@pytest.mark.timeout(120)
async def test_they_go_on_after_the_service_was_killed(data_dir: Path, web: HttpServer) -> None:
    url = web.put("/m.bin", Resource(BODY, rate=MIB))
    process = DownloadProcess(data_dir, max_parallel_downloads=8, max_connections_per_file=1)
    process.start()
    try:
        async with process.client() as client:
            jobs = await begin(client, [url] * 3)
            for job in jobs:
                await client.until(job, lambda now: now.progress.bytes_done >= 2 * MIB)
        process.kill()
        web.resources["/m.bin"].rate = 4 * MIB
        process.start()
        async with process.client() as client:
            assert_whole(await ended(client, jobs))
    finally:
        process.stop()
    assert web.bytes_served("/m.bin") <= 2 * len(BODY)


async def test_wrong_bytes_of_one_job_reach_no_other(client: DownloadClient, web: HttpServer) -> None:
    web.put("/m.bin", Resource(BODY, rate=SLOW, faults=[Flip(5 * MIB)], ranges=False))
    jobs = await begin(client, [web.url("/m.bin")] * 3, expected_sha256=SHA256)
    await lift(web)
    first, *others = await ended(client, jobs)
    assert (first.state, first.error.reason) == (ERROR, "CHECKSUM_MISMATCH")
    assert_whole(others)
    assert {job.restarts for job in others} == {1}


async def test_an_object_that_is_another_one_now_is_not_shared(
    client: DownloadClient, web: HttpServer
) -> None:
    old = Resource(BODY, etag='"v1"', rate=SLOW)
    url = web.put("/m.bin", old)
    first = (await begin(client, [url]))[0]
    web.put("/m.bin", Resource(OTHER, etag='"v2"'))
    second = await client.run(url, destination=str(client.folder / "second.bin"))
    assert_whole([second], OTHER)
    old.rate = None
    assert_whole([await client.ended(first)])


@pytest.mark.parametrize("etag", [None, 'W/"v1"'])
@pytest.mark.parametrize("modified", [None, "Mon, 01 Jan 2024 00:00:00 GMT"])
async def test_what_nothing_sure_tells_from_another_is_not_shared(
    client: DownloadClient, web: HttpServer, etag: str | None, modified: str | None
) -> None:
    url = web.put("/m.bin", Resource(BODY, rate=SLOW, etag=etag, last_modified=modified))
    jobs = await begin(client, [url] * 2)
    await lift(web, answers=2)
    assert_whole(await ended(client, jobs))
    assert web.bytes_served("/m.bin") >= 2 * len(BODY)


async def test_a_job_need_not_bear_the_limit_of_another(client: DownloadClient, web: HttpServer) -> None:
    url = web.put("/m.bin", Resource(BODY))
    slow = (await begin(client, [url], max_bytes_per_second=MIB // 2))[0]
    fast = await client.run(url, destination=str(client.folder / "fast.bin"))
    assert_whole([fast])
    assert (await client.get(slow)).state == download_pb2.DOWNLOAD_STATE_RUNNING


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(3))
async def test_random_pauses_and_cancels_of_twenty_jobs_cost_no_byte_and_hang_none(
    data_dir: Path, web: HttpServer, seed: int
) -> None:
    luck = random.Random(seed)
    async with download_service(data_dir, max_parallel_downloads=20) as client:
        plain = web.put("/plain.bin", Resource(BODY, rate=3 * MIB))
        urls = [
            plain,
            *(web.put(f"/{name}", Resource(BODY, etag=f'"{name}"', rate=3 * MIB)) for name in "ab"),
        ]

        async def life(number: int) -> download_pb2.Download:
            await asyncio.sleep(luck.random() * 0.5)
            which = luck.randrange(3)
            expected = SHA256 if which else ""
            target = str(client.folder / f"{number}.bin")
            job = await client.create(urls[which], destination=target, expected_sha256=expected)
            try:
                for _ in range(luck.randrange(4)):
                    await asyncio.sleep(luck.random() * 0.6)
                    if luck.random() < 0.2:
                        await client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))
                        break
                    await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))
                    await asyncio.sleep(luck.random() * 0.3)
                    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:  # that is: it has ended
                    raise
            return await client.ended(job, 60)

        jobs = await asyncio.gather(*(life(number) for number in range(20)))
        assert {job.state for job in jobs} <= {COMPLETED, CANCELLED}
        assert_whole([job for job in jobs if job.state == COMPLETED])
        assert not list(client.folder.glob(".staging/*"))
