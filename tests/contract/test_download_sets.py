"""Several files as one download, as calls tell and steer it; test_download_several.py fetches them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from modelkeep.download.v1 import download_pb2, fail_pb2, retry_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.server.v1 import job_pb2
from support.downloads import DownloadClient, download_service
from support.failures import fails
from support.httpserver import Hang, HttpServer, Resource, pattern

BODIES = {"a.bin": pattern(300_000, seed=1), "sub/b.bin": pattern(200_000, seed=2)}
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, max_attempts=1, stall_timeout_s=60) as service:
        yield service


def source(web: HttpServer, **served: Any) -> download_pb2.DownloadSource:
    files = download_pb2.FileSet()
    for path, body in BODIES.items():
        web.put(f"/{path}", Resource(body, **served))
        files.files.add(url=web.url(f"/{path}"), path=path)
    return download_pb2.DownloadSource(files=files)


def delivered(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_each_file_is_told_by_a_get_alone_and_their_number_by_every_call(
    client: DownloadClient, web: HttpServer
) -> None:
    made = await client.create(source=source(web), destination=f"{client.folder}/set", start=False)
    (listed,) = (await client.stub.ListDownloads(pb.ListDownloadsRequest())).downloads
    for brief in (made, listed):
        assert (brief.file_count, list(brief.files), brief.path) == (2, [], f"{client.folder}/set")
        assert [file.url for file in brief.source.files.files] == [web.url("/a.bin")]
    whole = await client.get(made)
    assert [(file.path, file.done) for file in whole.files] == [("a.bin", False), ("sub/b.bin", False)]
    await client.stub.StartDownload(pb.StartDownloadRequest(id=made.id))
    assert (await client.ended(made)).state == COMPLETED
    done = await client.get(made)
    assert all(file.done and len(file.sha256) == 64 and not file.verified for file in done.files)
    assert [file.bytes_total for file in done.files] == [300_000, 200_000]
    assert delivered(client.folder / "set") == BODIES


async def test_two_jobs_that_bring_the_same_file_are_told_at_once(
    client: DownloadClient, web: HttpServer
) -> None:
    folder = f"{client.folder}/set"
    first = await client.create(source=source(web), destination=folder, start=False)
    with fails(code="ALREADY_EXISTS", reason="DESTINATION_EXISTS") as found:
        await client.create(web.url("/a.bin"), destination=f"{folder}/sub/b.bin")
    assert found[0].metadata["id"] == str(first.id)
    (Path(folder) / "sub").mkdir(parents=True)
    (Path(folder) / "sub" / "b.bin").touch()
    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=first.id))
    with fails(code="ALREADY_EXISTS", reason="DESTINATION_EXISTS") as found:
        await client.create(source=source(web), destination=folder)
    assert found[0].metadata["path"] == f"{folder}/sub/b.bin"
    done = await client.run(source=source(web), destination=folder, replace_existing=True)
    assert done.state == COMPLETED
    assert delivered(Path(folder)) == BODIES


async def test_a_token_is_for_all_files_and_is_asked_for_again_after_a_restart(
    data_dir: Path, web: HttpServer
) -> None:
    gated = source(web, authorization="Bearer right")
    async with download_service(data_dir) as client:
        other = download_pb2.DownloadSource()
        other.CopyFrom(gated)
        other.files.files.add(url=web.url("/c.bin", host="localhost"), path="c.bin")
        with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["access_token"]):
            await client.create(source=other, destination=f"{client.folder}/s", access_token="right")
        job = await client.create(
            source=gated, destination=f"{client.folder}/set", access_token="right", start=False
        )
    async with download_service(data_dir) as client:
        with fails(code="FAILED_PRECONDITION", reason="TOKEN_REQUIRED"):
            await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
        await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id, access_token="right"))
        assert (await client.ended(job)).state == COMPLETED
        assert delivered(client.folder / "set") == BODIES


async def test_a_retry_goes_on_from_the_files_that_are_there(client: DownloadClient, web: HttpServer) -> None:
    asked = source(web)
    web.put("/sub/b.bin", Resource(BODIES["sub/b.bin"], faults=[Hang(100_000)]))
    old = await client.create(source=asked, destination=f"{client.folder}/set", preserve_partial=True)
    await client.until(old, lambda now: now.progress.bytes_done == 400_000)
    await client.stub.FailDownload(fail_pb2.FailDownloadRequest(id=old.id))
    assert (await client.ended(old)).state == ERROR
    answer = await client.stub.RetryDownload(retry_pb2.RetryDownloadRequest(id=old.id))
    done = await client.ended(answer.download)
    assert (done.state, done.file_count, done.retry_of_id) == (COMPLETED, 2, old.id)
    assert delivered(client.folder / "set") == BODIES
    assert len(web.requests_of("/a.bin")) == 1
    assert [request.range for request in web.requests_of("/sub/b.bin")] == [None, "bytes=100000-"]


async def test_the_same_request_is_made_once_and_another_set_is_another_request(
    client: DownloadClient, web: HttpServer
) -> None:
    once: dict[str, Any] = {
        "destination": f"{client.folder}/set",
        "start": False,
        "request_id": str(uuid.uuid4()),
    }
    first = await client.create(source=source(web), **once)
    assert (await client.create(source=source(web), **once)).id == first.id
    fewer = source(web)
    del fewer.files.files[1]
    with fails(code="INVALID_ARGUMENT", reason="REQUEST_ID_REUSED"):
        await client.create(source=fewer, **once)


async def test_ten_thousand_files_may_be_asked_for_and_not_one_more(
    client: DownloadClient, web: HttpServer
) -> None:
    many = download_pb2.FileSet()
    for n in range(10_000):
        many.files.add(url=web.url(f"/{n}.bin"), path=f"{n // 100}/{n}.bin", expected_sha256="ab" * 32)
    asked = download_pb2.DownloadSource(files=many)
    made = await client.create(source=asked, destination=f"{client.folder}/set", start=False)
    assert (made.file_count, len((await client.get(made)).files)) == (10_000, 10_000)
    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=made.id))
    asked.files.files.add(url=web.url("/one.bin"), path="one.bin")
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["source.files.files"]):
        await client.create(source=asked, destination=f"{client.folder}/set", start=False)


async def test_a_copy_on_this_host_takes_a_hash_and_lies_where_a_local_path_may(
    client: DownloadClient, web: HttpServer
) -> None:
    asked = source(web)
    asked.files.files[0].local_copy = f"{client.folder}/old.bin"
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID") as found:
        await client.create(source=asked, destination=f"{client.folder}/set")
    assert found[0].fields == ["source.files.files[0].local_copy"]
    asked.files.files[0].expected_sha256 = "ab" * 32
    for outside in ("/etc/hostname", f"{client.folder}/../other", "old.bin"):
        asked.files.files[0].local_copy = outside
        with fails(code="PERMISSION_DENIED", reason="FORBIDDEN_PATH"):
            await client.create(source=asked, destination=f"{client.folder}/set")


async def test_a_config_without_a_word_is_a_config_whatever_its_source_calls_it(
    client: DownloadClient, web: HttpServer
) -> None:
    asked = download_pb2.DownloadSource()
    for name, body in {"a.json": b"}", "b.json": b"[]", "merges.txt": b"\n", "weights.bin": b"\0\1"}.items():
        url = web.put(f"/{name}", Resource(body, content_type="text/html"))
        asked.files.files.add(url=url, path=name)
    failed = await client.run(source=asked, destination=f"{client.folder}/set")
    assert (failed.error.reason, failed.error.metadata["content_type"]) == ("NOT_A_MODEL_FILE", "text/html")
    del asked.files.files[3]
    assert (await client.run(source=asked, destination=f"{client.folder}/set")).state == COMPLETED
    web.put("/a.json", Resource(b"Log in first", content_type="text/html"))
    failed = await client.run(source=asked, destination=f"{client.folder}/other")
    assert failed.error.reason == "NOT_A_MODEL_FILE"


async def test_a_copy_on_this_host_is_taken_in_place_of_a_download_if_it_is_one(
    client: DownloadClient, web: HttpServer
) -> None:
    asked = source(web)
    for number, body in enumerate(BODIES.values()):
        asked.files.files[number].expected_sha256 = sha256(body).hexdigest()
        there = client.folder / f"there-{number}.bin"
        there.parent.mkdir(exist_ok=True)
        there.write_bytes(body if number == 0 else body[::-1])
        asked.files.files[number].local_copy = str(there)
    done = await client.run(source=asked, destination=f"{client.folder}/set")
    assert (done.state, done.verified) == (COMPLETED, True)
    assert delivered(client.folder / "set") == BODIES
    assert not web.requests_of("/a.bin")
    assert web.requests_of("/sub/b.bin")


async def watched(client: DownloadClient, job: download_pb2.Download) -> AsyncIterator[job_pb2.Progress]:
    stream = client.stub.WatchDownloads(pb.WatchDownloadsRequest(ids=[job.id], skip_snapshot=True))
    async for frame in stream:
        for event in frame.events:
            yield event.progress.progress if event.HasField("progress") else event.put.progress


def told(of: job_pb2.Progress | download_pb2.Download) -> dict[str, tuple[int, int | None]]:
    return {
        file.path: (file.bytes_done, file.bytes_total if file.HasField("bytes_total") else None)
        for file in of.files
    }


async def test_a_watch_tells_of_the_files_under_way_and_a_get_of_all(data_dir: Path, web: HttpServer) -> None:
    asked = download_pb2.DownloadSource()
    for n in range(40):
        web.put(f"/{n}.bin", Resource(pattern(50_000, seed=n), rate=100_000))
        asked.files.files.add(url=web.url(f"/{n}.bin"), path=f"{n}.bin", size_bytes=50_000)
    async with download_service(data_dir, max_attempts=1, stall_timeout_s=60) as client:
        folder = f"{client.folder}/set"
        job = await client.create(source=asked, destination=folder, start=False)
        stream = watched(client, job)
        await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
        async for progress in stream:
            assert len(progress.files) <= 16
            assert len(told(progress)) == len(progress.files)
            if sum(0 < done < 50_000 for done, _ in told(progress).values()) >= 4:
                break
        assert {total for _, total in told(progress).values()} == {50_000}
        whole = await client.get(job)
        assert list(told(whole)) == [f"{n}.bin" for n in range(40)]
        assert told(whole.progress).keys() < told(whole).keys()
        assert abs(sum(done for done, _ in told(whole).values()) - whole.progress.bytes_done) < 50_000
        (listed,) = (await client.stub.ListDownloads(pb.ListDownloadsRequest())).downloads
        assert len(listed.progress.files) <= 16
        await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))
        paused = await client.get(job)
        assert paused.progress.bytes_done == sum(done for done, _ in told(paused).values()) > 0
        assert not paused.progress.files
    async with download_service(data_dir, stall_timeout_s=60) as client:
        assert told(await client.get(job)) == told(paused)
        for n in range(40):
            web.put(f"/{n}.bin", Resource(pattern(50_000, seed=n)))
        await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
        assert not (await client.ended(job)).progress.files
        assert set(told(await client.get(job)).values()) == {(50_000, 50_000)}
