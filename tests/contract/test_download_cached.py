"""What the hub's own client has on this host is copied from there: checked by its hash, nobody asked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep_download.engine.hub_cache import HubCache
from modelkeep_download.resolve.plans import Asked, Plan, PlanKind, PlannedFile
from modelkeep_download.resolve.resolving import Resolving
from support.downloads import DownloadClient, DownloadProcess, download_service
from support.httpserver import HttpServer, Resource, pattern

BODY = pattern(9_000_000)
SHA = hashlib.sha256(BODY).hexdigest()
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED


@pytest.fixture
def web() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "hub" / "models--acme--small" / "blobs").mkdir(parents=True)
    return tmp_path / "hub"


@pytest.fixture
async def client(data_dir: Path, cache: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, hub_cache=cache) as service:
        yield service


def blob(cache: Path, content: bytes = BODY, name: str = SHA, owner: str = "acme--small") -> Path:
    path = cache / f"models--{owner}" / "blobs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


async def test_a_file_of_the_cache_is_copied_and_nobody_is_asked(
    client: DownloadClient, cache: Path, web: HttpServer
) -> None:
    path = blob(cache)
    job = await client.run(web.url("/gated.safetensors"), expected_sha256=SHA)
    assert (job.state, job.verified, job.sha256) == (COMPLETED, True, SHA)
    delivered = Path(job.path)
    assert (delivered.name, delivered.read_bytes()) == ("gated.safetensors", BODY)
    assert not web.requests
    assert path.read_bytes() == BODY
    assert not delivered.samefile(path)


async def test_a_limit_of_bytes_a_second_does_not_count_for_a_copy(
    client: DownloadClient, cache: Path, web: HttpServer
) -> None:
    blob(cache)
    job = await client.run(web.url("/m.bin"), expected_sha256=SHA, max_bytes_per_second=1000)
    assert job.state == COMPLETED


@pytest.mark.parametrize("wrong", [BODY[:-1], BODY[:-1] + b"!", b"", BODY + b"!", b"<html>no</html>"])
async def test_what_has_the_name_and_not_the_bytes_is_not_used(
    client: DownloadClient, cache: Path, web: HttpServer, wrong: bytes
) -> None:
    blob(cache, wrong)
    url = web.put("/m.bin", Resource(BODY, etag='"v1"'))
    job = await client.run(url, expected_sha256=SHA)
    assert (job.state, job.sha256, job.restarts) == (COMPLETED, SHA, 0)
    assert Path(job.path).read_bytes() == BODY
    assert web.bytes_served("/m.bin") >= len(BODY)  # more where a slow connection's rest was asked for twice


async def test_of_several_of_one_name_the_right_one_is_found(
    client: DownloadClient, cache: Path, web: HttpServer
) -> None:
    blob(cache, b"?" * len(BODY))
    blob(cache, owner="zulu--other")
    job = await client.run(web.url("/m.bin"), expected_sha256=SHA)
    assert (job.state, web.requests) == (COMPLETED, [])


async def test_links_and_what_is_no_file_are_left_alone(
    client: DownloadClient, cache: Path, web: HttpServer, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (outside / "blobs").mkdir(parents=True)
    (outside / "blobs" / SHA).write_bytes(BODY)
    (cache / "models--a--link").symlink_to(outside)
    (cache / "models--b--link").mkdir()
    (cache / "models--b--link" / "blobs").symlink_to(outside / "blobs")
    (cache / "models--acme--small" / "blobs" / SHA).symlink_to(outside / "blobs" / SHA)
    os.mkfifo(blob(cache, owner="c--pipe").parent / "pipe")
    blob(cache, owner="c--pipe").unlink()
    os.mkfifo(cache / "models--c--pipe" / "blobs" / SHA)
    (cache / "models--d--folder" / "blobs" / SHA).mkdir(parents=True)
    url = web.put("/m.bin", Resource(BODY))
    assert (await client.run(url, expected_sha256=SHA)).state == COMPLETED
    assert web.bytes_served("/m.bin") == len(BODY)


async def test_without_an_expected_hash_nothing_is_looked_for(
    client: DownloadClient, cache: Path, web: HttpServer
) -> None:
    blob(cache)
    url = web.put(f"/{SHA}.bin", Resource(BODY))
    assert (await client.run(url)).state == COMPLETED
    assert web.requests


async def test_an_address_without_a_name_is_asked_for_one(
    client: DownloadClient, cache: Path, web: HttpServer
) -> None:
    blob(cache)
    url = web.put("/api/download/123", Resource(BODY, disposition='attachment; filename="real.bin"'))
    job = await client.run(url, expected_sha256=SHA)
    assert Path(job.path).name == "real.bin"


async def test_files_of_a_set_come_from_where_they_are(
    client: DownloadClient, cache: Path, web: HttpServer
) -> None:
    blob(cache)
    small = b'{"a": 1}'
    web.put("/config.json", Resource(small))
    files = [
        download_pb2.SourceFile(url=web.url("/weights.bin"), path="unet/weights.bin", expected_sha256=SHA),
        download_pb2.SourceFile(url=web.url("/config.json"), path="config.json"),
    ]
    source = download_pb2.DownloadSource(files=download_pb2.FileSet(files=files))
    job = await client.ended(await client.create(source=source, destination=f"{client.folder}/set/"))
    assert job.state == COMPLETED, job.error
    assert (client.folder / "set" / "unet" / "weights.bin").read_bytes() == BODY
    assert {request.path for request in web.requests} == {"/config.json"}


async def test_a_plan_tells_where_a_file_lies_already(data_dir: Path, cache: Path, tmp_path: Path) -> None:
    class Shelf:
        """A hub of one file."""

        def takes(self, asked: Asked) -> bool:
            return True

        async def resolve(self, asked: Asked) -> Plan:
            files = [
                PlannedFile("https://hub.example/a", "a.bin", len(BODY), SHA),
                PlannedFile("https://hub.example/b", "b.bin", 5, "0" * 64),
                PlannedFile("https://hub.example/c", "c.bin", 5),
            ]
            return Plan(PlanKind.HUGGING_FACE, "a/b", "b", files, is_folder=True)

    path = blob(cache)
    plan = await Resolving([Shelf()], HubCache(cache)).resolve(Asked("a/b"))
    assert [file.cached_path for file in plan.files] == [str(path), "", ""]
    path.write_bytes(BODY[:-1])
    plan = await Resolving([Shelf()], HubCache(cache)).resolve(Asked("a/b"))
    assert [file.cached_path for file in plan.files] == ["", "", ""]


async def test_the_cache_may_be_switched_off(data_dir: Path, cache: Path, web: HttpServer) -> None:
    blob(cache)
    url = web.put("/m.bin", Resource(BODY))
    async with download_service(data_dir, hub_cache="") as client:
        await client.run(url, expected_sha256=SHA)
    assert web.bytes_served("/m.bin") == len(BODY)


async def test_the_cache_is_where_the_environment_says(
    data_dir: Path, cache: Path, web: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob(cache)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    async with download_service(data_dir) as client:
        assert (await client.run(web.url("/m.bin"), expected_sha256=SHA)).state == COMPLETED


@pytest.mark.timeout(90)
async def test_a_copy_that_is_paused_goes_on_and_a_kill_costs_no_wrong_byte(
    data_dir: Path, cache: Path, web: HttpServer
) -> None:
    large = pattern(96 << 20)
    sha = hashlib.sha256(large).hexdigest()
    path = blob(cache, large, sha)
    process = DownloadProcess(data_dir, hub_cache=str(cache))
    process.start()
    try:
        async with process.client() as client:
            job = await client.create(web.url("/m.bin"), expected_sha256=sha)
            await client.until(job, lambda now: now.progress.bytes_done > 0 or now.state == COMPLETED)
            process.kill()
        process.start()
        async with process.client() as client:
            job = await client.ended(job)
            assert (job.state, Path(job.path).read_bytes() == large) == (COMPLETED, True)
            second = await client.create(web.url("/n.bin"), expected_sha256=sha)
            await client.until(second, lambda now: now.progress.bytes_done > 0 or now.state == COMPLETED)
            if (await client.get(second)).state != COMPLETED:
                await client.stub.PauseDownload(pb.PauseDownloadRequest(id=second.id))
                path.unlink()  # it goes on over the network, with what was copied
                web.put("/n.bin", Resource(large))
                await client.stub.StartDownload(pb.StartDownloadRequest(id=second.id))
            second = await client.ended(second)
            assert (second.state, Path(second.path).read_bytes() == large) == (COMPLETED, True)
    finally:
        process.stop()
