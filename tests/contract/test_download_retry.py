"""RetryDownload: a job that failed or was cancelled is made anew."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.download.v1 import download_pb2, fail_pb2, retry_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from support.downloads import DownloadClient, download_service
from support.failures import fails
from support.httpserver import Cut, HttpServer, Resource, Status, pattern

BODY = pattern(300_000)
HALF = len(BODY) // 2
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR
CANCELLED = download_pb2.DOWNLOAD_STATE_CANCELLED


@pytest.fixture
async def client(data_dir: Path, web: HttpServer) -> AsyncIterator[DownloadClient]:
    web.put("/m.bin", Resource(BODY))
    async with download_service(data_dir, max_attempts=1) as service:
        yield service


async def retry(client: DownloadClient, job: download_pb2.Download, **fields: Any) -> download_pb2.Download:
    answer = await client.stub.RetryDownload(retry_pb2.RetryDownloadRequest(id=job.id, **fields))
    found: download_pb2.Download = answer.download
    return found


async def test_the_new_job_is_asked_for_as_the_old_one_was_and_is_linked_to_it(
    client: DownloadClient, web: HttpServer
) -> None:
    old = await client.run(
        web.url("/later.bin"),
        filename="mine.bin",
        queue="nightly",
        priority=3,
        preserve_partial=True,
        max_bytes_per_second=10_000_000,
        labels={"run": "7"},
    )
    assert (old.state, old.error.reason, old.retry_of_id) == (ERROR, "SOURCE_NOT_FOUND", 0)
    web.put("/later.bin", Resource(BODY))
    new = await retry(client, old)
    assert (new.id, new.retry_of_id) == (old.id + 1, old.id)
    for name in ("queue", "priority", "preserve_partial", "labels", "source", "destination"):
        assert getattr(new, name) == getattr(old, name), name
    assert new.max_bytes_per_second == 10_000_000
    done = await client.ended(new)
    assert (done.state, done.path) == (COMPLETED, f"{client.folder}/mine.bin")
    assert await client.get(old) == old


async def test_a_retry_goes_on_from_the_bytes_that_were_kept(client: DownloadClient, web: HttpServer) -> None:
    url = web.put("/cut.bin", Resource(BODY, faults=[Cut(HALF), Status(404), Status(404)]))
    old = await client.create(url, preserve_partial=True)
    paused = await client.until(old, lambda now: now.state == download_pb2.DOWNLOAD_STATE_PAUSED)
    assert paused.progress.bytes_done == HALF
    await client.stub.FailDownload(fail_pb2.FailDownloadRequest(id=old.id))
    assert (await client.ended(old)).state == ERROR
    web.resources["/cut.bin"].faults.clear()
    done = await client.ended(await retry(client, old))
    assert (done.state, done.restarts) == (COMPLETED, 0)
    assert web.bytes_served("/cut.bin") == len(BODY)
    assert Path(done.path).read_bytes() == BODY


async def test_a_cancelled_job_begins_anew_and_a_completed_or_open_one_is_refused(
    client: DownloadClient, web: HttpServer
) -> None:
    idle = await client.create(web.url("/m.bin"), filename="m.bin", start=False)
    with fails(code="FAILED_PRECONDITION", reason="WRONG_STATE") as found:
        await retry(client, idle)
    assert found[0].metadata["allowed"] == "ERROR,CANCELLED"
    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=idle.id))
    done = await client.ended(await retry(client, idle))
    assert done.state == COMPLETED
    with fails(code="FAILED_PRECONDITION", reason="WRONG_STATE"):
        await retry(client, done)
    with fails(code="ALREADY_EXISTS", reason="DESTINATION_EXISTS"):
        await retry(client, await client.get(idle.id), request_id=str(uuid.uuid4()))
    with fails(code="NOT_FOUND", reason="UNKNOWN_JOB"):
        await client.stub.RetryDownload(retry_pb2.RetryDownloadRequest(id=99))


async def test_what_a_job_had_of_secrets_must_be_brought_again(
    client: DownloadClient, web: HttpServer
) -> None:
    web.put("/gated.bin", Resource(BODY, authorization="Bearer right"))
    old = await client.run(web.url("/gated.bin"), access_token="wrong")
    assert old.error.reason == "TOKEN_REJECTED"
    with fails(code="FAILED_PRECONDITION", reason="TOKEN_REQUIRED") as found:
        await retry(client, old)
    assert found[0].metadata["needs"] == "access_token"
    assert "Retry" in found[0].metadata["remedy"]
    assert (await client.ended(await retry(client, old, access_token="right"))).state == COMPLETED

    signed = await client.run(web.url("/gone.bin") + "?token=abcdefgh")
    with fails(code="FAILED_PRECONDITION", reason="TOKEN_REQUIRED") as found:
        await retry(client, signed)
    assert found[0].metadata["needs"] == "source_url"
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["source_url"]):
        await retry(client, signed, source_url=web.url("/m.bin"))
    web.put("/gone.bin", Resource(BODY))
    again = await retry(client, signed, source_url=web.url("/gone.bin") + "?token=ijklmnop")
    assert (await client.ended(again)).state == COMPLETED
    assert "ijklmnop" not in str(again)


async def test_a_job_whose_address_ran_out_is_made_anew_with_another(
    client: DownloadClient, web: HttpServer
) -> None:
    url = web.put("/old.bin", Resource(BODY, faults=[Status(403, body=b"Request has expired")]))
    old = await client.run(url)
    assert (old.state, old.error.reason) == (ERROR, "ADDRESS_EXPIRED")
    new = await retry(client, old, source_url=web.url("/m.bin"))
    assert (new.retry_of_id, new.source.url) == (old.id, web.url("/m.bin"))
    assert (await client.ended(new)).state == COMPLETED


async def test_the_same_retry_is_made_once(client: DownloadClient, web: HttpServer) -> None:
    old = await client.run(web.url("/later.bin"))
    web.put("/later.bin", Resource(BODY))
    request_id = str(uuid.uuid4())
    first = await retry(client, old, request_id=request_id)
    await client.ended(first)
    second = await retry(client, old, request_id=request_id)
    assert second.id == first.id
    with fails(code="INVALID_ARGUMENT", reason="REQUEST_ID_REUSED"):
        await retry(client, old, request_id=request_id, source_url=web.url("/m.bin"))


async def test_a_move_of_a_local_file_is_tried_again(client: DownloadClient) -> None:
    source = client.folder / "in.bin"
    source.write_bytes(BODY)
    old = await client.take(source, filename="out.bin", start=False)
    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=old.id))
    done = await client.ended(await retry(client, old))
    assert (done.state, done.source.local_path.move) == (COMPLETED, True)
    assert not source.exists()
    with fails(code="FAILED_PRECONDITION", reason="SOURCE_NOT_FOUND"):
        await retry(client, old)
