"""Tokens that are kept for hosts: who gets them, that they outlive restarts, and that nobody sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.download.v1 import all_downloads_pb2 as all_pb
from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.server.v1 import server_service_pb2, server_service_pb2_grpc
from modelkeep.source_tokens import HostPattern, keep_token, tokens_path
from support.downloads import DownloadClient, DownloadProcess, download_service
from support.failures import refused
from support.httpserver import HttpServer, Resource, Status, pattern

BODY = pattern(300_000)
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR
SECRET = "s3cret-of-the-host"
BEARER = f"Bearer {SECRET}"


@pytest.fixture
def web() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


def at(web: HttpServer) -> str:
    return f"127.0.0.1:{web.port}"


def keep(data_dir: Path, web: HttpServer, token: str = SECRET) -> None:
    tokens_path(data_dir).parent.mkdir(exist_ok=True)
    keep_token(tokens_path(data_dir), HostPattern.parse(at(web)), token)


def shown(web: HttpServer, path: str) -> list[str | None]:
    return [request.headers.get("authorization") for request in web.requests_of(path)]


async def test_a_token_of_the_settings_goes_to_its_host_and_the_calls_own_before_it(
    data_dir: Path, web: HttpServer
) -> None:
    async with download_service(data_dir, source_tokens={at(web): SECRET}) as client:
        url = web.put("/a.bin", Resource(BODY, authorization=BEARER))
        assert (await client.run(url)).state == COMPLETED
        url = web.put("/b.bin", Resource(BODY, authorization="Bearer my-own"))
        assert (await client.run(url, access_token="my-own")).state == COMPLETED
        web.put("/c.bin", Resource(BODY))
        await client.run(web.url("/c.bin", host="localhost"))
    assert set(shown(web, "/a.bin")) == {BEARER}
    assert set(shown(web, "/b.bin")) == {"Bearer my-own"}
    assert set(shown(web, "/c.bin")) == {None}


async def test_a_name_and_a_password_in_the_address_stand_alone(data_dir: Path, web: HttpServer) -> None:
    async with download_service(data_dir, source_tokens={at(web): SECRET}) as client:
        web.put("/a.bin", Resource(BODY))
        await client.run(web.url("/a.bin").replace("//", "//user:pass@"))
        await client.run(web.url("/a.bin?token=abcdefghi"), filename="b.bin")
    assert {text and text.partition(" ")[0] for text in shown(web, "/a.bin")} == {"Basic", None}


async def test_no_redirect_to_another_party_takes_it_along_nor_brings_it_back(
    data_dir: Path, web: HttpServer
) -> None:
    async with download_service(
        data_dir, source_tokens={at(web): SECRET, f"localhost:{web.port}": "the-other"}
    ) as client:
        web.put("/away", Resource(b"", redirect=web.url("/back", host="localhost")))
        web.put("/back", Resource(b"", redirect=web.url("/file.bin")))
        web.put("/file.bin", Resource(BODY))
        assert (await client.run(web.url("/away"))).state == COMPLETED
        await client.resolve(web.url("/away"))
    assert set(shown(web, "/away")) == {BEARER}
    assert set(shown(web, "/back")) == set(shown(web, "/file.bin")) == {None}


async def test_every_connection_and_every_file_of_a_set_has_it(data_dir: Path, web: HttpServer) -> None:
    keep(data_dir, web)
    async with download_service(data_dir) as client:
        big = Resource(pattern(24 << 20), etag='"v1"', authorization=BEARER, rate=16 << 20)
        assert (await client.run(web.put("/big.bin", big))).state == COMPLETED
        files = [
            download_pb2.SourceFile(url=web.put(f"/{name}", Resource(BODY, authorization=BEARER)), path=name)
            for name in ("one.bin", "two.bin")
        ]
        source = download_pb2.DownloadSource(files=download_pb2.FileSet(files=files))
        job = await client.create(source=source, destination=f"{client.folder}/set/")
        assert (await client.ended(job)).state == COMPLETED
    assert len(web.requests_of("/big.bin")) > 1


@pytest.mark.timeout(90)
async def test_a_job_that_lives_on_a_kept_token_goes_on_after_a_kill(data_dir: Path, web: HttpServer) -> None:
    keep(data_dir, web)
    size = 6 << 20
    url = web.put("/m.bin", Resource(pattern(size), etag='"v1"', authorization=BEARER, rate=2 << 20))
    process = DownloadProcess(data_dir, checkpoint_bytes=1 << 20)
    process.start()
    try:
        async with process.client() as client:
            job = await client.create(url)
            await client.until(job, lambda now: now.progress.bytes_done > 1 << 20)
        process.kill()
        process.start()
        async with process.client() as client:
            ended = await client.ended(job)
        assert (ended.state, ended.error.reason) == (COMPLETED, "")
    finally:
        process.stop()
    assert set(shown(web, "/m.bin")) == {BEARER}
    for path in data_dir.rglob("*"):
        if path.is_file() and path != tokens_path(data_dir):
            assert SECRET.encode() not in path.read_bytes(), path


@pytest.mark.timeout(90)
@pytest.mark.parametrize("way", ["start", "start all"])
async def test_a_job_that_lost_its_own_token_goes_on_with_one_that_is_kept_since(
    data_dir: Path, web: HttpServer, way: str
) -> None:
    bearer = {"Bearer of-the-call", BEARER}
    resource = Resource(pattern(4 << 20), etag='"v1"', rate=2 << 20)
    resource.fault_of = lambda r: None if r.headers.get("authorization") in bearer else Status(401)
    url = web.put("/m.bin", resource)
    process = DownloadProcess(data_dir, checkpoint_bytes=1 << 20)
    process.start()
    try:
        async with process.client() as client:
            job = await client.create(url, access_token="of-the-call")
            await client.until(job, lambda now: now.progress.bytes_done > 1 << 20)
        process.kill()
        process.start()
        async with process.client() as client:
            lost = await client.get(job)
            assert lost.error.reason == "TOKEN_REQUIRED"
            assert f"modelkeep auth login {at(web)}" in lost.error.metadata["remedy"]
            with refused("TOKEN_REQUIRED"):
                await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
            await asyncio.to_thread(keep, data_dir, web)
            if way == "start":
                await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
            else:
                answer = await client.stub.StartAllDownloads(all_pb.StartAllDownloadsRequest(all_queues=True))
                assert (answer.started_count, answer.token_required_count) == (1, 0)
            assert (await client.ended(job)).state == COMPLETED
    finally:
        process.stop()


async def test_what_is_kept_later_counts_for_the_next_try_without_a_restart(
    data_dir: Path, web: HttpServer
) -> None:
    async with download_service(data_dir) as client:
        url = web.put("/m.bin", Resource(BODY, authorization=BEARER))
        job = await client.run(url)
        assert (job.state, job.error.reason) == (ERROR, "TOKEN_REQUIRED")
        assert f"modelkeep auth login {at(web)}" in job.error.metadata["remedy"]
        await asyncio.to_thread(keep, data_dir, web)
        assert (await client.run(url)).state == COMPLETED


@pytest.mark.parametrize("kept_in", ["call", "setting", "file"])
async def test_which_credential_was_refused_is_told_and_never_the_credential(
    data_dir: Path, web: HttpServer, kept_in: str
) -> None:
    echo = Status(401, body=json.dumps({"error": f"no such token: {SECRET}"}).encode())
    url = web.put("/m.bin", Resource(BODY, fault_of=lambda request: echo))
    settings: dict[str, Any] = {"source_tokens": {at(web): SECRET}} if kept_in == "setting" else {}
    if kept_in == "file":
        keep(data_dir, web)
    async with download_service(data_dir, **settings) as client:
        token = SECRET if kept_in == "call" else ""
        job = await client.run(url, access_token=token)
        assert (job.state, job.error.reason) == (ERROR, "TOKEN_REJECTED")
        assert job.error.metadata["credential"] == kept_in
        assert "REDACTED" in job.error.metadata["said"]
        assert SECRET not in str(job)
        with refused("TOKEN_REJECTED") as error:
            await client.resolve(url, token=token)
    assert SECRET not in f"{error.message} {error.metadata}"


async def test_a_page_that_repeats_the_token_is_quoted_without_it(data_dir: Path, web: HttpServer) -> None:
    keep(data_dir, web)
    url = web.put("/m.bin", Resource(f"You sent {SECRET}, thank you".encode(), content_type="text/plain"))
    async with download_service(data_dir) as client:
        job = await client.run(url)
        assert job.error.reason == "NOT_A_MODEL_FILE"
        assert "You sent REDACTED" in job.error.message
        with refused("NOT_A_MODEL_FILE") as error:
            await client.resolve(url)
    assert SECRET not in f"{job} {error.message} {error.metadata}"


async def server_info(client: DownloadClient) -> server_service_pb2.GetServerInfoResponse:
    stub: server_service_pb2_grpc.ServerServiceAsyncStub = server_service_pb2_grpc.ServerServiceStub(
        client.channel
    )
    return await stub.GetServerInfo(server_service_pb2.GetServerInfoRequest())


async def test_the_service_tells_hosts_and_no_tokens(data_dir: Path, web: HttpServer) -> None:
    keep(data_dir, web)
    async with download_service(data_dir, source_tokens={"*.example.com": SECRET}) as client:
        info = await server_info(client)
    kept = [(one.host, one.kept_in) for one in info.source_tokens.tokens]
    assert kept == [("*.example.com", "setting"), (at(web), "file")]
    assert info.source_tokens.file == str(tokens_path(data_dir).absolute())
    assert SECRET not in str(info)
