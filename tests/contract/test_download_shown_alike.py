"""Downloads whose addresses differ only in what is hidden of them: no file is made of two objects."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from support.downloads import DownloadClient, download_service
from support.failures import fails
from support.httpserver import HttpServer, Resource, pattern

#: Two objects of one size, with one validator, as servers give it that count changes.
BODIES = {name: pattern(400_000, seed=seed) for seed, name in enumerate(("anna", "bert"))}


@pytest.fixture
def urls(web: HttpServer) -> list[str]:
    """The addresses of both, which are shown alike."""
    return [web.put(f"/get?weights={name}", Resource(body, rate=200_000)) for name, body in BODIES.items()]


async def paused(client: DownloadClient, web: HttpServer, url: str) -> download_pb2.Download:
    """A download that was paused in its middle."""
    job = await client.create(url, preserve_partial=True, filename="m.bin")
    await client.until(job, lambda now: now.progress.bytes_done > 50_000)
    answer = await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))
    assert 0 < answer.download.progress.bytes_done < 400_000
    for served in web.resources.values():
        served.rate = None
    return answer.download  # type: ignore[no-any-return]


async def failed(client: DownloadClient, web: HttpServer, url: str) -> None:
    """A download that failed in its middle and kept its partial file."""
    job = await paused(client, web, url)
    (client.folder / "m.bin").write_bytes(b"in the way")
    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
    assert (await client.ended(job)).error.reason == "DESTINATION_EXISTS"
    (client.folder / "m.bin").unlink()


async def test_a_partial_file_is_gone_on_with_from_the_very_source_only(
    data_dir: Path, web: HttpServer, urls: list[str]
) -> None:
    async with download_service(data_dir) as client:
        await failed(client, web, urls[0])
        other = await client.run(urls[1], filename="m.bin")
        assert Path(other.path).read_bytes() == BODIES["bert"]
        Path(other.path).unlink()
        done = await client.run(urls[0], filename="m.bin")
        assert Path(done.path).read_bytes() == BODIES["anna"]
        assert web.requests_of("/get")[-1].offset > 0


async def test_a_partial_file_of_before_a_restart_stays_as_it_is_if_its_source_may_be_another(
    data_dir: Path, web: HttpServer, urls: list[str]
) -> None:
    async with download_service(data_dir) as client:
        await failed(client, web, urls[0])
    async with download_service(data_dir) as client:
        done = await client.run(urls[1], filename="m.bin")
        assert Path(done.path).read_bytes() == BODIES["bert"]


async def test_a_paused_download_takes_its_own_address_only(
    data_dir: Path, web: HttpServer, urls: list[str]
) -> None:
    async with download_service(data_dir) as client:
        web.put("/get", Resource(BODIES["anna"], rate=200_000))
        job = await paused(client, web, f"{urls[0]}&token=aaaaaaaa")
        with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["source_url"]):
            await client.stub.StartDownload(
                pb.StartDownloadRequest(id=job.id, source_url=f"{urls[1]}&token=aaaaaaaa")
            )
        assert (await client.get(job)).state == download_pb2.DOWNLOAD_STATE_PAUSED
        await client.stub.StartDownload(
            pb.StartDownloadRequest(id=job.id, source_url=f"{urls[0]}&token=bbbbbbbb")
        )
        done = await client.ended(job)
        assert Path(done.path).read_bytes() == BODIES["anna"]
        assert web.requests_of("/get")[-1].offset > 0


async def test_after_a_restart_a_download_begins_anew_with_an_address_that_may_be_another(
    data_dir: Path, web: HttpServer, urls: list[str]
) -> None:
    async with download_service(data_dir) as client:
        job = await paused(client, web, urls[0])
    async with download_service(data_dir) as client:
        await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id, source_url=urls[1]))
        done = await client.ended(job)
        assert Path(done.path).read_bytes() == BODIES["bert"]
        with fails(code="FAILED_PRECONDITION", reason="WRONG_STATE"):
            await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id, source_url=urls[1]))


async def test_after_a_restart_a_download_goes_on_if_only_credentials_were_hidden(
    data_dir: Path, web: HttpServer
) -> None:
    url = web.put("/get", Resource(BODIES["anna"], rate=200_000))
    async with download_service(data_dir) as client:
        job = await paused(client, web, f"{url}?X-Amz-Date=20240101T000000Z&X-Amz-Signature=aa00")
    async with download_service(data_dir) as client:
        fresh = f"{url}?X-Amz-Date=20250101T000000Z&X-Amz-Signature=bb00"
        await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id, source_url=fresh))
        done = await client.ended(job)
        assert Path(done.path).read_bytes() == BODIES["anna"]
        assert web.requests_of("/get")[-1].offset > 0


async def test_a_request_id_is_not_answered_with_the_download_of_another_address(
    data_dir: Path, urls: list[str]
) -> None:
    async with download_service(data_dir) as client:
        request_id = str(uuid.uuid4())
        job = await client.create(urls[0], request_id=request_id, start=False)
        # who has no secrets any more asks with what is shown
        for url in (urls[0], job.source.url):
            assert (await client.create(url, request_id=request_id, start=False)).id == job.id
        with fails(code="INVALID_ARGUMENT", reason="REQUEST_ID_REUSED"):
            await client.create(urls[1], request_id=request_id, start=False)
