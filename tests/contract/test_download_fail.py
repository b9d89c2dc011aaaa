"""FailDownload: a caller finds that what comes is of no use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep.download.v1 import download_pb2, fail_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from support.downloads import DownloadClient, DownloadProcess, alter_job, download_service
from support.failures import fails
from support.httpserver import Hang, HttpServer, Resource, pattern

BODY = pattern(300_000)
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR
CANCELLED = download_pb2.DOWNLOAD_STATE_CANCELLED


@pytest.fixture
async def client(data_dir: Path, web: HttpServer) -> AsyncIterator[DownloadClient]:
    web.put("/m.bin", Resource(BODY))
    web.put("/slow.bin", Resource(BODY, faults=[Hang(100_000)]))
    async with download_service(data_dir, stall_timeout_s=60) as service:
        yield service


async def fail(
    client: DownloadClient, job: download_pb2.Download, message: str = ""
) -> download_pb2.Download:
    answer = await client.stub.FailDownload(fail_pb2.FailDownloadRequest(id=job.id, message=message))
    found: download_pb2.Download = answer.download
    return found


async def at_work(client: DownloadClient, web: HttpServer, **fields: object) -> download_pb2.Download:
    """A job that has fetched a third."""
    job = await client.create(web.url("/slow.bin"), **fields)
    return await client.until(job, lambda now: now.progress.bytes_done == 100_000)


async def test_a_running_job_ends_with_the_callers_words_and_without_its_bytes(
    client: DownloadClient, web: HttpServer
) -> None:
    job = await at_work(client, web)
    await fail(client, job, "not the model\nthat we want")
    done = await client.ended(job)
    assert (done.state, done.ended) == (ERROR, True)
    assert (done.error.code, done.error.reason) == ("ABORTED", "FAILED_BY_CALLER")
    assert done.error.message == "not the model that we want"
    assert done.error.metadata["id"] == str(job.id)
    assert list(client.folder.glob(".staging/*")) == []
    assert await fail(client, job, "once more") == done


async def test_a_partial_file_that_is_to_be_kept_is_gone_on_with_by_the_next_job(
    client: DownloadClient, web: HttpServer
) -> None:
    job = await at_work(client, web, preserve_partial=True)
    await fail(client, job)
    done = await client.ended(job)
    assert (done.state, done.error.message) == (ERROR, "a caller has failed it")
    assert len(list(client.folder.glob(".staging/*/data"))) == 1
    again = await client.run(web.url("/slow.bin"))
    assert again.state == COMPLETED
    assert [request.range for request in web.requests_of("/slow.bin")] == [None, "bytes=100000-"]


async def test_what_has_not_begun_fails_at_once_and_what_has_ended_not_at_all(
    client: DownloadClient, web: HttpServer
) -> None:
    idle = await client.create(web.url("/m.bin"), start=False)
    assert (await fail(client, idle)).state == ERROR
    done = await client.run(web.url("/m.bin"))
    cancelled = await client.create(web.url("/m.bin"), filename="c", start=False)
    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=cancelled.id))
    lost = await client.run(web.url("/gone.bin"))
    for job in (done, cancelled, lost):
        with fails(code="FAILED_PRECONDITION", reason="WRONG_STATE"):
            await fail(client, job)
    with fails(code="NOT_FOUND", reason="UNKNOWN_JOB"):
        await client.stub.FailDownload(fail_pb2.FailDownloadRequest(id=99))


async def test_a_message_is_one_cut_line_without_credentials(client: DownloadClient, web: HttpServer) -> None:
    job = await at_work(client, web, access_token="very-secret-token")
    words = "very-secret-token \x1b[31m token=abcdefgh Bearer qwertzui " + "x" * 4000
    await fail(client, job, words)
    message = (await client.ended(job)).error.message
    assert len(message) == 200
    assert not any(secret in message for secret in ("very-secret", "\x1b", "abcdefgh", "qwertzui"))


async def test_a_cancel_and_a_failure_at_the_same_time_end_in_one_of_the_two(
    client: DownloadClient, web: HttpServer
) -> None:
    for n in range(5):
        job = await client.create(web.put(f"/{n}", Resource(BODY, rate=100_000)), filename=str(n))
        await client.until(job, lambda now: now.progress.bytes_done > 0)
        cancel = client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))
        first = (await asyncio.gather(fail(client, job), cancel, return_exceptions=True))[0]
        done = await client.ended(job)
        assert done.state in (ERROR, CANCELLED), first
        assert (done.state == ERROR) == (done.error.reason == "FAILED_BY_CALLER")


@pytest.mark.timeout(60)
@pytest.mark.may_block  # starts processes
async def test_a_kill_on_the_way_to_the_error_changes_nothing(data_dir: Path, web: HttpServer) -> None:
    url = web.put("/slow.bin", Resource(BODY, faults=[Hang(100_000)]))
    service = DownloadProcess(data_dir, stall_timeout_s=60)
    service.start()
    async with service.client() as client:
        job = await client.create(url)
        await client.until(job, lambda now: now.progress.bytes_done == 100_000)
    service.kill()
    verdict = {"code": "ABORTED", "reason": "FAILED_BY_CALLER", "message": "no use", "metadata": {}}
    alter_job(data_dir / "download" / "download.db", job.id, stage="cancelling", verdict=verdict)
    service.start()
    async with service.client() as client:
        done = await client.ended(job)
        assert (done.state, done.error.message) == (ERROR, "no use")
        assert list((data_dir / "downloads").glob(".staging/*")) == []
    service.stop()
