"""Bytes that are still good stay: whichever node serves the rest, and whichever address leads there now."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from support.downloads import DownloadClient, download_service
from support.httpserver import (
    Cut,
    CutHeaders,
    Fault,
    Garbage,
    HttpServer,
    IgnoreRange,
    Instead,
    LieAboutRange,
    Node,
    Resource,
    Status,
    pattern,
)

BODY = pattern(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
HALF = len(BODY) // 2
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR
PAUSED = download_pb2.DOWNLOAD_STATE_PAUSED


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, max_attempts=5) as service:
        yield service


def nodes(count: int, after: int = HALF) -> list[Node]:
    return [Node(after, etag=f'"node-{number}"') for number in range(count)]


@pytest.mark.parametrize("heeds_if_range", [True, False])
async def test_nodes_that_name_equal_bytes_differently_cost_no_byte_that_is_there(
    client: DownloadClient, web: HttpServer, heeds_if_range: bool
) -> None:
    resource = Resource(BODY, heeds_if_range=heeds_if_range, faults=[*nodes(4)])
    job = await client.run(web.put("/m.bin", resource))
    assert (job.state, job.sha256, job.restarts) == (COMPLETED, SHA256, 0), job


async def test_nodes_that_never_get_further_are_told_to_matter_less_with_a_hash(
    client: DownloadClient, web: HttpServer
) -> None:
    job = await client.create(web.put("/m.bin", Resource(BODY, faults=[*nodes(9)])))
    paused = await client.until(job, lambda now: now.state == PAUSED)
    assert (paused.error.reason, paused.progress.bytes_done) == ("UPSTREAM_UNAVAILABLE", HALF)
    assert "expected_sha256" in paused.error.metadata["remedy"]
    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
    assert (await client.ended(job)).state == COMPLETED


async def test_a_node_without_a_validator_is_compared_too(client: DownloadClient, web: HttpServer) -> None:
    faults = [Cut(100_000), Node(250_000, etag="W/1"), *nodes(1, 300_000)]
    url = web.put("/m.bin", Resource(BODY, faults=[*faults]))
    job = await client.run(url)
    assert (job.state, job.sha256, job.restarts) == (COMPLETED, SHA256, 0), job


async def test_with_an_expected_hash_nodes_do_not_matter(client: DownloadClient, web: HttpServer) -> None:
    url = web.put("/m.bin", Resource(BODY, faults=[*nodes(2, 100_000)]))
    job = await client.run(url, expected_sha256=SHA256)
    assert (job.state, job.verified, job.restarts) == (COMPLETED, True, 0)
    # The second node has it all, and is asked for the rest only.
    assert [request.offset for request in web.requests] == [0, 100_000, 100_000]
    assert web.requests[-1].if_range is None


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
async def test_with_an_expected_hash_a_source_without_validators_is_gone_on_with(
    client: DownloadClient, web: HttpServer, etag: str | None
) -> None:
    url = web.put("/m.bin", Resource(BODY, etag=etag, faults=[Cut(HALF), Status(503)]))
    job = await client.run(url, expected_sha256=SHA256)
    assert (job.state, job.verified, job.restarts) == (COMPLETED, True, 0), job
    assert [request.offset for request in web.requests] == [0, HALF, HALF]
    # A mixture is found out by the hash, and fetched once more in one piece.
    new = BODY[:70_000] + pattern(230_000, seed=9)
    url = web.put("/n.bin", Resource(BODY, etag=etag, faults=[Cut(HALF), Status(503, retry_after="1")]))
    job = await client.create(url, expected_sha256=hashlib.sha256(new).hexdigest())
    await client.until(job, lambda now: now.progress.bytes_done == HALF)
    web.put("/n.bin", Resource(new, etag=etag))
    ended = await client.ended(job)
    assert (ended.state, ended.verified, ended.restarts) == (COMPLETED, True, 1)


async def test_other_content_of_the_same_size_is_noticed_and_never_mixed(
    client: DownloadClient, web: HttpServer
) -> None:
    new = BODY[:70_000] + pattern(230_000, seed=9)
    url = web.put("/m.bin", Resource(BODY, faults=[Cut(HALF), Status(503)]))
    job = await client.create(url)
    await client.until(job, lambda now: now.progress.bytes_done == HALF)
    web.put("/m.bin", Resource(new, etag='"v2"', faults=[Cut(HALF + 10_000)]))
    ended = await client.ended(job)
    assert (ended.state, ended.restarts) == (COMPLETED, 1)
    assert Path(ended.path).read_bytes() == new


async def test_an_expected_hash_that_a_mixture_does_not_have_leads_to_one_more_fetch(
    client: DownloadClient, web: HttpServer
) -> None:
    new = BODY[:70_000] + pattern(230_000, seed=9)
    url = web.put("/m.bin", Resource(BODY, faults=[Cut(HALF), Status(503)]))
    job = await client.create(url, expected_sha256=hashlib.sha256(new).hexdigest())
    await client.until(job, lambda now: now.progress.bytes_done == HALF)
    web.put("/m.bin", Resource(new, etag='"v2"'))
    ended = await client.ended(job)
    assert (ended.state, ended.verified, ended.restarts) == (COMPLETED, True, 1)
    assert Path(ended.path).read_bytes() == new


async def test_an_object_of_another_size_is_fetched_anew(client: DownloadClient, web: HttpServer) -> None:
    url = web.put("/m.bin", Resource(BODY, heeds_if_range=False, faults=[Cut(HALF), Status(503)]))
    job = await client.create(url, expected_sha256=hashlib.sha256(BODY[:200_000]).hexdigest())
    await client.until(job, lambda now: now.progress.bytes_done == HALF)
    web.put("/m.bin", Resource(BODY[:200_000], etag='"v2"', heeds_if_range=False))
    ended = await client.ended(job)
    assert (ended.state, ended.restarts) == (COMPLETED, 1)


async def test_a_range_that_is_refused_costs_no_byte_while_size_and_validator_are_unchanged(
    client: DownloadClient, web: HttpServer
) -> None:
    url = web.put("/m.bin", Resource(BODY, faults=[Cut(HALF), Status(416), Node(len(BODY), etag='"other"')]))
    job = await client.run(url)
    assert (job.state, job.sha256, job.restarts) == (COMPLETED, SHA256, 0), job


async def expired(client: DownloadClient, web: HttpServer, url: str) -> download_pb2.Download:
    """A job whose address ran out in its middle."""
    said = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    web.put(url, Resource(BODY, faults=[Cut(HALF), Status(403, body=said)]))
    job = await client.create(web.url(url))
    paused = await client.until(job, lambda now: now.state == PAUSED)
    assert (paused.error.reason, paused.progress.bytes_done) == ("ADDRESS_EXPIRED", HALF)
    assert paused.error.metadata["needs"] == "source_url"
    assert "Request has expired" in paused.error.message
    return paused


@pytest.mark.parametrize("etag", ['"v1"', '"of the other host"'])
async def test_a_job_whose_address_ran_out_goes_on_with_a_new_one(
    client: DownloadClient, web: HttpServer, etag: str
) -> None:
    job = await expired(client, web, "/m.bin?X-Amz-Signature=first-signature")
    web.put("/elsewhere/x?sig=second-signature", Resource(BODY, etag=etag))
    new = web.url("/elsewhere/x?sig=second-signature", host="localhost")
    started = (await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id, source_url=new))).download
    assert started.source.url == web.url("/elsewhere/x?sig=REDACTED", host="localhost")
    done = await client.ended(job)
    assert (done.state, done.sha256, done.restarts) == (COMPLETED, SHA256, 0)
    assert Path(done.path).name == "m.bin"
    last = web.requests[-1]
    assert (last.offset, last.status) == ((HALF, 206) if etag == '"v1"' else (HALF, 200))


async def test_a_new_address_is_taken_after_a_restart_too(data_dir: Path, web: HttpServer) -> None:
    async with download_service(data_dir) as client:
        job = await expired(client, web, "/m.bin?X-Amz-Signature=first-signature")
    web.put("/other.bin", Resource(BODY))
    async with download_service(data_dir) as client:
        assert (await client.get(job)).error.reason == "ADDRESS_EXPIRED"
        new = web.url("/other.bin", host="localhost")
        await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id, source_url=new))
        assert (await client.ended(job)).sha256 == SHA256
    assert web.requests[-1].offset == HALF


async def test_another_file_at_the_new_address_is_not_mixed_in(
    client: DownloadClient, web: HttpServer
) -> None:
    job = await expired(client, web, "/m.bin?sig=first-signature")
    other = pattern(300_000, seed=3)
    new = web.put("/other.bin", Resource(other, etag='"o"'))
    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id, source_url=new))
    done = await client.ended(job)
    assert (done.state, done.restarts, Path(done.path).read_bytes()) == (COMPLETED, 1, other)


async def test_another_address_is_refused_while_the_jobs_own_is_good(
    client: DownloadClient, web: HttpServer
) -> None:
    job = await client.create(web.put("/m.bin", Resource(BODY)), start=False)
    with pytest.raises(grpc.aio.AioRpcError, match="cannot be used"):
        await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id, source_url=web.url("/other.bin")))


_ANSWERS: tuple[Fault, ...] = (
    *(Cut(at) for at in (0, 60_000, 140_000)),
    *nodes(3, 200_000),
    *(Status(code) for code in (400, 401, 403, 404, 410, 416, 429, 451, 500, 503)),
    Instead(b"<html>log in</html>"),
    Instead(b'{"error": "log in"}', "application/json"),
    Instead(b"", "text/plain"),
    *(
        IgnoreRange(),
        LieAboutRange(None),
        LieAboutRange("bytes 0-299999/300000"),
        LieAboutRange("bytes 1-2/3"),
    ),
    *(Garbage(), CutHeaders(), Cut(150_000, reset=True)),
)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("expected", ["", SHA256])
async def test_nothing_that_a_source_answers_costs_a_byte_while_the_object_is_the_same(
    client: DownloadClient, web: HttpServer, seed: int, expected: str
) -> None:
    luck = random.Random(seed)
    faults = [Cut(50_000), *luck.sample(_ANSWERS, 12)]
    job = await client.create(
        web.put("/m.bin", Resource(BODY, faults=[*faults])), expected_sha256=expected, access_token="t"
    )
    most = 0
    while not (now := await client.get(job)).ended:
        assert now.progress.bytes_done >= most, faults
        most = now.progress.bytes_done
        if now.state == PAUSED:
            assert now.progress.bytes_done >= 50_000
            await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
        await asyncio.sleep(0.005)
    assert (now.state, now.sha256, now.restarts) == (COMPLETED, SHA256, 0), (faults, now)
