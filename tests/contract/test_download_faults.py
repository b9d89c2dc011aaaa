"""Every fault of a source has an exact outcome: what the job says, what was asked again, what is on disk."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path

import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from support.downloads import DownloadClient, download_service
from support.httpserver import (
    Cut,
    CutHeaders,
    Fault,
    Flip,
    Garbage,
    Hang,
    HttpServer,
    IgnoreRange,
    LieAboutRange,
    Resource,
    Status,
    pattern,
)

BODY = pattern(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR
PAUSED = download_pb2.DOWNLOAD_STATE_PAUSED


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, max_attempts=3) as service:
        yield service


def ranges(web: HttpServer) -> list[str | None]:
    return [request.range for request in web.requests]


async def test_a_broken_body_is_gone_on_with_where_it_broke(client: DownloadClient, web: HttpServer) -> None:
    cuts = (Cut(100_000), Cut(100_000, reset=True), Cut(0), Cut(len(BODY) - 1))
    for number, cut in enumerate(cuts):
        path = f"/{number}.bin"
        job = await client.run(web.put(path, Resource(BODY, faults=[cut])))
        assert (job.state, job.sha256, job.attempt, job.restarts) == (COMPLETED, SHA256, 2, 0)
        first, second = web.requests_of(path)
        if cut.reset:  # a reset may destroy what was on its way
            assert second.offset <= cut.after
        else:
            assert second.range == (f"bytes={cut.after}-" if cut.after else None)
            assert first.bytes_sent + second.bytes_sent == len(BODY)


async def test_a_body_that_breaks_often_but_gains_each_time_arrives(
    client: DownloadClient, web: HttpServer
) -> None:
    job = await client.run(web.put("/m.bin", Resource(BODY, faults=[Cut(50_000)] * 5)))
    assert (job.state, job.sha256, job.attempt) == (COMPLETED, SHA256, 6)
    assert web.bytes_served("/m.bin") == len(BODY)


@pytest.mark.parametrize(
    ("etag", "faults"),
    [(None, [Cut(100_000)] * 20), ('"v1"', [Cut(100_000), LieAboutRange("bytes 1-2/3")] * 10)],
    ids=["cannot resume", "lies about ranges"],
)
async def test_a_source_that_never_gets_further_than_before_fails_after_the_attempts(
    client: DownloadClient, web: HttpServer, etag: str | None, faults: list[Fault]
) -> None:
    job = await client.create(web.put("/m.bin", Resource(BODY, etag=etag, faults=faults)))
    # Where a later try can go on from them, the bytes stay.
    last = await client.until(job, lambda now: now.state == (PAUSED if etag else ERROR))
    assert last.error.reason == "UPSTREAM_UNAVAILABLE"
    assert last.attempt == 3  # each had gained bytes, and no more than those before


async def test_a_job_that_is_paused_and_started_has_all_its_attempts_again(
    client: DownloadClient, web: HttpServer
) -> None:
    url = web.put("/m.bin", Resource(BODY, faults=[Status(503), Status(503, "60"), *[Status(503)] * 2]))
    job = await client.create(url)
    await client.until(job, lambda now: now.error.retry_time.ToSeconds() > now.start_time.ToSeconds() + 30)
    await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))
    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
    assert (await client.ended(job)).state == COMPLETED
    assert len(web.requests) == 5


async def test_a_passing_status_is_tried_again(client: DownloadClient, web: HttpServer) -> None:
    for code in (408, 425, 429, 500, 502, 503, 504, 522, 524):
        job = await client.run(web.put(f"/{code}.bin", Resource(BODY, faults=[Status(code)])))
        assert (job.state, job.attempt, len(web.requests_of(f"/{code}.bin"))) == (COMPLETED, 2, 2), code


async def test_a_status_that_does_not_pass_fails_after_the_attempts(
    client: DownloadClient, web: HttpServer
) -> None:
    job = await client.run(web.put("/m.bin", Resource(BODY, faults=[Status(503)] * 10)))
    assert (job.state, job.error.reason, job.error.code) == (ERROR, "UPSTREAM_UNAVAILABLE", "UNAVAILABLE")
    assert job.error.metadata["attempts"] == "3"
    assert len(web.requests) == 3


@pytest.mark.parametrize("as_date", [False, True])
async def test_retry_after_is_obeyed_and_shown(
    client: DownloadClient, web: HttpServer, as_date: bool
) -> None:
    after = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    began, asked = time.monotonic(), time.time()
    job = await client.create(web.put("/m.bin", Resource(BODY, faults=[Status(429, after)])))
    waiting = await client.until(job, lambda now: now.stage == download_pb2.DOWNLOAD_STAGE_WAITING)
    assert waiting.state == download_pb2.DOWNLOAD_STATE_RUNNING
    assert waiting.error.reason == "UPSTREAM_UNAVAILABLE"
    assert asked - 1 < waiting.error.retry_time.ToSeconds() < time.time() + 3
    ended = await client.ended(job)
    assert (ended.state, ended.HasField("error")) == (COMPLETED, False)
    assert time.monotonic() - began >= 0.95


async def test_an_absurd_retry_after_is_capped_and_a_waiting_job_pauses_and_cancels(
    client: DownloadClient, web: HttpServer
) -> None:
    url = web.put("/m.bin", Resource(BODY, faults=[Status(503, "999999999")] * 2))
    asked = time.time()
    job = await client.create(url)
    waiting = await client.until(job, lambda now: now.stage == download_pb2.DOWNLOAD_STAGE_WAITING)
    assert asked + 598 < waiting.error.retry_time.ToSeconds() < time.time() + 601
    paused = (await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))).download
    assert paused.state == PAUSED
    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
    await client.until(job, lambda now: now.stage == download_pb2.DOWNLOAD_STAGE_WAITING)
    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))
    assert (await client.ended(job)).state == download_pb2.DOWNLOAD_STATE_CANCELLED
    assert not list((client.folder / ".staging").iterdir())


NO_FILES = (
    (Resource(BODY, content_type="text/html; charset=utf-8"), "NOT_A_MODEL_FILE"),
    (Resource(b"\n<!DOCTYPE html><html>log in</html>"), "NOT_A_MODEL_FILE"),
    (Resource(b"\xef\xbb\xbf<HTML>with a byte order mark"), "NOT_A_MODEL_FILE"),
    (Resource(b"<!doctype html>in pieces of five bytes", rate=100), "NOT_A_MODEL_FILE"),
    (Resource(BODY, content_encoding="gzip"), "NOT_A_MODEL_FILE"),
    (Resource(BODY, authorization="Bearer x"), "TOKEN_REQUIRED"),
    (Resource(BODY, faults=[Status(403)]), "TOKEN_REQUIRED"),
    (Resource(BODY, faults=[Status(404)]), "SOURCE_NOT_FOUND"),
    (Resource(BODY, faults=[Status(410)]), "SOURCE_NOT_FOUND"),
    (Resource(BODY, faults=[Status(451)]), "SOURCE_NOT_FOUND"),
    (Resource(BODY, redirect="ftp://127.0.0.1/x"), "SOURCE_NOT_FOUND"),
    (Resource(BODY, redirect="/11.bin"), "SOURCE_NOT_FOUND"),  # to itself, for ever
)


async def test_what_is_no_file_fails_at_once_and_leaves_nothing(
    client: DownloadClient, web: HttpServer
) -> None:
    for number, (resource, reason) in enumerate(NO_FILES):
        job = await client.run(web.put(f"/{number}.bin", resource))
        assert (job.state, job.error.reason, job.attempt) == (ERROR, reason, 1), resource
        assert len(web.requests_of(f"/{number}.bin")) == (11 if number == 11 else 1)
    assert [p.name for p in client.folder.iterdir() if not p.name.startswith(".")] == []
    assert not list((client.folder / ".staging").iterdir())


async def test_a_token_opens_and_a_wrong_one_is_rejected(client: DownloadClient, web: HttpServer) -> None:
    url = web.put("/m.bin", Resource(BODY, authorization="Bearer right"))
    job = await client.run(url, access_token="wrong")
    assert (job.state, job.error.reason) == (ERROR, "TOKEN_REJECTED")
    job = await client.run(url, access_token="right")
    assert job.state == COMPLETED


async def test_a_token_never_goes_to_another_host(client: DownloadClient, web: HttpServer) -> None:
    web.put("/storage.bin", Resource(BODY))
    other = web.url("/storage.bin", host="localhost")
    url = web.put("/m.bin", Resource(b"", authorization="Bearer secret", redirect=other))
    job = await client.run(url, access_token="secret")
    assert job.state == COMPLETED, job
    assert job.final_url == other
    first, second = web.requests
    assert first.headers["authorization"] == "Bearer secret"
    assert second.headers["host"].startswith("localhost")
    assert "authorization" not in second.headers
    assert "secret" not in str(second.headers)
    assert Path(job.path).name == "m.bin"


async def test_a_token_stays_with_its_host_on_a_redirect(client: DownloadClient, web: HttpServer) -> None:
    web.put("/b.bin", Resource(BODY, authorization="Bearer secret"))
    job = await client.run(web.put("/a.bin", Resource(b"", redirect="/b.bin")), access_token="secret")
    assert job.state == COMPLETED


@pytest.mark.parametrize("code", [400, 401, 403])
async def test_an_expired_storage_address_is_asked_for_anew(
    client: DownloadClient, web: HttpServer, code: int
) -> None:
    web.put("/storage.bin", Resource(BODY, faults=[Cut(100_000), Status(code)]))
    other = web.url("/storage.bin?sig=abc", host="localhost")
    job = await client.run(web.put("/m.bin", Resource(b"", redirect=other)))
    assert (job.state, job.sha256, job.attempt) == (COMPLETED, SHA256, 3)
    assert [r.range for r in web.requests_of("/storage.bin")] == [None, "bytes=100000-", "bytes=100000-"]
    assert job.final_url == web.url("/storage.bin", host="localhost")


async def test_an_object_that_changed_is_fetched_anew_and_never_mixed(
    client: DownloadClient, web: HttpServer
) -> None:
    new = pattern(300_000, seed=9)
    url = web.put("/m.bin", Resource(BODY, faults=[Cut(100_000), Status(503)]))
    job = await client.create(url)
    await client.until(job, lambda now: len(web.requests) >= 1 and now.progress.bytes_done == 100_000)
    web.put("/m.bin", Resource(new, etag='"v2"'))
    ended = await client.ended(job)
    assert (ended.state, ended.restarts) == (COMPLETED, 1)
    assert Path(ended.path).read_bytes() == new
    assert web.requests[-1].status == 200  # If-Range did not hold


async def test_an_object_that_changes_twice_fails(client: DownloadClient, web: HttpServer) -> None:
    url = web.put("/m.bin", Resource(BODY, faults=[Hang(60_000)]))
    job = await client.create(url)
    for version in (2, 3):
        await client.until(job, lambda now: now.progress.bytes_done > 30_000)
        await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))
        changed = Resource(pattern(300_000, seed=version), etag=f'"v{version}"', faults=[Hang(60_000)])
        web.put("/m.bin", changed)
        await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
        await client.until(job, lambda now: len(web.requests) >= version and now.stage != 1)  # noqa: B023
    ended = await client.ended(job)
    assert (ended.state, ended.error.reason) == (ERROR, "SOURCE_CHANGED")
    assert not (client.folder / "m.bin").exists()


async def test_a_source_that_does_not_resume_is_asked_for_all(
    client: DownloadClient, web: HttpServer
) -> None:
    faults: tuple[Fault, ...] = (
        IgnoreRange(),
        LieAboutRange(None),
        LieAboutRange("bytes 0-299999/300000"),
        LieAboutRange("bytes 1-2/3"),
    )
    for number, fault in enumerate(faults):
        path = f"/{number}.bin"
        job = await client.run(web.put(path, Resource(BODY, faults=[Cut(100_000), fault])))
        assert (job.state, job.sha256, job.restarts) == (COMPLETED, SHA256, 0), fault
        requests = web.requests_of(path)
        assert [r.range for r in requests][:2] == [None, "bytes=100000-"]
        assert requests[-1].status == 200


async def test_without_a_strong_validator_a_broken_body_starts_over(
    client: DownloadClient, web: HttpServer
) -> None:
    for path, etag in (("/none.bin", None), ("/weak.bin", 'W/"weak"')):
        job = await client.run(web.put(path, Resource(BODY, etag=etag, faults=[Cut(100_000)])))
        assert (job.state, job.sha256, job.restarts) == (COMPLETED, SHA256, 1)
        assert [r.range for r in web.requests_of(path)] == [None, None]


async def test_an_old_last_modified_is_validator_enough(client: DownloadClient, web: HttpServer) -> None:
    modified = formatdate(time.time() - 3600, usegmt=True)
    resource = Resource(BODY, etag=None, last_modified=modified, faults=[Cut(100_000)])
    job = await client.run(web.put("/m.bin", resource))
    assert (job.state, job.sha256, job.restarts) == (COMPLETED, SHA256, 0)
    assert (web.requests[1].range, web.requests[1].if_range) == ("bytes=100000-", modified)


async def test_a_flipped_byte_is_caught_by_the_expected_hash(client: DownloadClient, web: HttpServer) -> None:
    job = await client.run(web.put("/m.bin", Resource(BODY, faults=[Flip(77)])), expected_sha256=SHA256)
    assert (job.state, job.error.reason) == (ERROR, "CHECKSUM_MISMATCH")
    assert not (client.folder / "m.bin").exists()


async def test_a_file_of_several_answers_with_a_wrong_hash_is_fetched_once_more_in_one_piece(
    client: DownloadClient, web: HttpServer
) -> None:
    resource = Resource(BODY, faults=[Cut(100_000), Flip(200_000)])
    job = await client.run(web.put("/m.bin", resource), expected_sha256=SHA256)
    assert (job.state, job.sha256, job.restarts) == (COMPLETED, SHA256, 1)
    assert ranges(web) == [None, "bytes=100000-", None]


@pytest.mark.parametrize("after", [-1, 100_000])
async def test_a_stall_is_noticed_and_the_bytes_are_kept(
    client: DownloadClient, web: HttpServer, after: int
) -> None:
    began = time.monotonic()
    job = await client.run(web.put("/m.bin", Resource(BODY, faults=[Hang(after, 300)])))
    assert (job.state, job.sha256, job.restarts) == (COMPLETED, SHA256, 0)
    assert time.monotonic() - began > 0.9
    assert ranges(web) == [None, "bytes=100000-" if after > 0 else None]


async def test_a_trickle_counts_as_a_stall(data_dir: Path, web: HttpServer) -> None:
    async with download_service(data_dir, min_bytes_per_second=10_000, stall_timeout_s=0.5) as client:
        url = web.put("/m.bin", Resource(BODY, rate=2_000))
        job = await client.create(url)
        waiting = await client.until(job, lambda now: now.HasField("error") or now.attempt > 1)
        web.resources["/m.bin"].rate = None
        ended = await client.ended(job)
        assert (ended.state, ended.sha256, ended.restarts) == (COMPLETED, SHA256, 0), waiting


async def test_a_pause_during_a_hang_does_not_wait_for_it(data_dir: Path, web: HttpServer) -> None:
    async with download_service(data_dir, stall_timeout_s=300, headers_timeout_s=300) as client:
        for number, fault in enumerate((Hang(-1, 300), Hang(10_000, 300))):
            job = await client.create(web.put(f"/{number}.bin", Resource(BODY, faults=[fault])))
            await client.until(job, lambda now: bool(web.requests_of(f"/{number}.bin")))  # noqa: B023
            paused = (await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))).download
            assert paused.state == PAUSED


@pytest.mark.parametrize("resource", [Resource(BODY, chunked=True), Resource(BODY, lengthless=True)])
async def test_a_body_without_a_length_arrives(
    client: DownloadClient, web: HttpServer, resource: Resource
) -> None:
    job = await client.run(web.put("/m.bin", resource), expected_sha256=SHA256)
    assert (job.state, job.progress.bytes_total) == (COMPLETED, len(BODY))


async def test_a_total_is_not_told_before_it_is_known(client: DownloadClient, web: HttpServer) -> None:
    job = await client.create(web.put("/m.bin", Resource(BODY, chunked=True, faults=[Hang(200_000)])))
    running = await client.until(job, lambda now: now.progress.bytes_done > 0)
    assert not running.progress.HasField("bytes_total")
    paused = (await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))).download
    assert not paused.progress.HasField("bytes_total")


async def test_a_416_to_a_request_without_a_range_is_no_change_of_the_object(
    client: DownloadClient, web: HttpServer
) -> None:
    job = await client.run(web.put("/m.bin", Resource(BODY, faults=[Status(416), Status(416)])))
    assert (job.state, job.sha256, job.restarts) == (COMPLETED, SHA256, 0), job


async def test_a_file_that_begins_with_what_may_become_html_arrives(
    client: DownloadClient, web: HttpServer
) -> None:
    body = b"<" + bytes(range(200)) + b"<html>"
    job = await client.run(web.put("/m.bin", Resource(body, rate=4_000, faults=[Cut(201)])))
    assert (job.state, Path(job.path).read_bytes()) == (COMPLETED, body)


async def test_blanks_in_a_redirect_are_taken_as_browsers_do(client: DownloadClient, web: HttpServer) -> None:
    web.put("/my%20model.bin", Resource(BODY))
    job = await client.run(web.put("/a", Resource(b"", redirect="/my model.bin")))
    assert (job.state, Path(job.path).name) == (COMPLETED, "my model.bin")


async def test_a_chunked_body_that_breaks_starts_over(client: DownloadClient, web: HttpServer) -> None:
    job = await client.run(web.put("/m.bin", Resource(BODY, chunked=True, faults=[Cut(100_000)])))
    assert (job.state, job.sha256, ranges(web)) == (COMPLETED, SHA256, [None, None])


async def test_an_empty_file_arrives(client: DownloadClient, web: HttpServer) -> None:
    job = await client.run(web.put("/empty", Resource(b"")))
    assert (job.state, Path(job.path).stat().st_size) == (COMPLETED, 0)


async def test_headers_that_break_off_are_tried_again_and_once_it_answered_what_is_no_http_too(
    client: DownloadClient, web: HttpServer
) -> None:
    faults: list[Fault] = [CutHeaders(), Cut(100_000), Garbage()]
    job = await client.run(web.put("/m.bin", Resource(BODY, faults=faults)))
    assert (job.state, job.attempt, job.sha256) == (COMPLETED, 4, SHA256)


async def test_nobody_listening_and_no_such_name_fail_as_unavailable(client: DownloadClient) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/x", "http://no-such-host.invalid/x"):
        job = await client.run(url, filename="x.bin")
        assert (job.state, job.error.reason) == (ERROR, "UPSTREAM_UNAVAILABLE"), job


async def test_private_addresses_are_not_asked_by_default(data_dir: Path, web: HttpServer) -> None:
    web.put("/m.bin", Resource(BODY))
    hosts = ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0")
    async with download_service(data_dir, allow_private_addresses=False, max_attempts=1) as client:
        reasons = {host: (await client.run(f"http://{host}:{web.port}/m.bin")).error.reason for host in hosts}
    assert reasons["127.0.0.1"] == "FORBIDDEN_ADDRESS"
    # Some are no host at all for some resolvers, which is as good.
    assert set(reasons.values()) <= {"FORBIDDEN_ADDRESS", "UPSTREAM_UNAVAILABLE"}
    assert not web.requests


async def test_too_little_room_is_noticed_before_the_first_byte(data_dir: Path, web: HttpServer) -> None:
    async with download_service(data_dir, disk_reserve_bytes=1 << 60) as client:
        job = await client.run(web.put("/m.bin", Resource(BODY)))
        assert (job.state, job.error.reason, job.error.code) == (ERROR, "DISK_FULL", "RESOURCE_EXHAUSTED")
        assert int(job.error.metadata["bytes_short"]) > 1 << 50
        assert not list((client.folder / ".staging").iterdir())


async def test_a_disk_that_fills_up_pauses_the_job_with_its_bytes(
    client: DownloadClient, web: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = os.pwrite, True

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if full and offset > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    job = await client.create(web.put("/m.bin", Resource(BODY, rate=1_000_000)))
    paused = await client.until(job, lambda now: now.state == PAUSED)
    assert paused.error.reason == "DISK_FULL"
    assert paused.progress.bytes_done > 100_000
    full = False
    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
    ended = await client.ended(job)
    assert (ended.state, ended.sha256) == (COMPLETED, SHA256)
    assert web.requests[-1].offset == paused.progress.bytes_done


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
async def test_a_folder_that_may_not_be_written_is_told_with_the_remedy(
    client: DownloadClient, web: HttpServer, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", pwrite)
    job = await client.run(web.put("/m.bin", Resource(BODY)))
    assert (job.state, job.error.reason, job.error.code) == (ERROR, "FORBIDDEN_PATH", "PERMISSION_DENIED")
    assert os.strerror(number) in job.error.message
    assert "the user that runs DownloadService" in job.error.message
    assert job.error.metadata["path"].startswith(str(client.folder))


async def test_a_folder_that_may_not_be_made_is_told_by_its_whole_path(
    client: DownloadClient, web: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir

    def mkdir(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if path == "new":  # all that the system knows of it
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        real(path, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", mkdir)
    job = await client.run(web.put("/m.bin", Resource(BODY)), destination=f"{client.folder}/sub/new/")
    assert (job.error.reason, job.error.metadata["path"]) == ("FORBIDDEN_PATH", f"{client.folder}/sub/new")
    assert f"{client.folder}/sub/new" in job.error.message
