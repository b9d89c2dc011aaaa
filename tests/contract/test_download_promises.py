"""What the .proto promises where things cross: calls given up, repeats, late watchers, limits."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.exceptions import DiskFullException
from modelkeep_common.sqlite import Connection
from modelkeep_download.domain.job import Job, JobState
from modelkeep_download.engine import downloads
from modelkeep_download.store import JobFilter, JobStore
from support.downloads import DownloadClient, download_service
from support.failures import failure_of
from support.httpserver import Cut, HttpServer, Resource, pattern
from support.reasons import comments, promised

BODY = pattern(300_000)
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED


@pytest.fixture
def web(web: HttpServer) -> HttpServer:
    web.put("/m.bin", Resource(BODY))
    return web


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir) as service:
        yield service


async def only_job(client: DownloadClient) -> download_pb2.Download:
    """The only job there is, as soon as it is there."""
    for _ in range(500):
        page: pb.ListDownloadsResponse = await client.stub.ListDownloads(pb.ListDownloadsRequest())
        if page.downloads:
            return page.downloads[0]
        await asyncio.sleep(0.01)
    raise AssertionError("no job was made")


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a write has begun; each takes long enough to give its call up meanwhile."""
    begun = threading.Event()
    for name in ("insert", "change"):
        real = getattr(JobStore, name)

        def slow(*args: Any, real: Any = real, **more: Any) -> Any:
            begun.set()
            time.sleep(0.1)
            return real(*args, **more)

        monkeypatch.setattr(JobStore, name, slow)
    return begun


async def test_a_job_whose_creation_was_given_up_runs_all_the_same(
    client: DownloadClient, web: HttpServer, writing: threading.Event
) -> None:
    creating = asyncio.ensure_future(client.create(web.url("/m.bin")))
    assert await asyncio.to_thread(writing.wait, 10)
    creating.cancel()
    job = await only_job(client)
    assert (await client.ended(job)).state == COMPLETED


async def test_a_cancel_that_was_given_up_is_carried_through(
    client: DownloadClient, web: HttpServer, writing: threading.Event
) -> None:
    web.put("/slow.bin", Resource(BODY, rate=20_000))
    job = await client.create(web.url("/slow.bin"))
    await client.until(job, lambda now: now.progress.bytes_done > 0)
    writing.clear()
    cancelling = asyncio.ensure_future(client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id)))
    assert await asyncio.to_thread(writing.wait, 10)
    cancelling.cancel()
    assert (await client.ended(job)).state == download_pb2.DOWNLOAD_STATE_CANCELLED


async def test_a_repeat_after_the_source_was_moved_answers_with_the_same_job(
    client: DownloadClient, tmp_path: Path
) -> None:
    source = client.folder / "here.bin"
    source.write_bytes(BODY)
    request_id = str(uuid.uuid4())
    job = await client.take(source, destination=str(client.folder / "there.bin"), request_id=request_id)
    assert (await client.ended(job)).state == COMPLETED
    assert not source.exists()
    again = await client.take(source, destination=str(client.folder / "there.bin"), request_id=request_id)
    assert again.id == job.id
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.take(source, destination=str(client.folder / "there.bin"))
    assert failure_of(caught.value).reason == "SOURCE_NOT_FOUND"


async def test_a_watch_opened_after_the_end_tells_no_progress_of_the_past(
    client: DownloadClient, web: HttpServer
) -> None:
    web.put("/slow.bin", Resource(BODY, rate=600_000))
    job = await client.run(web.url("/slow.bin"))
    call = client.stub.WatchDownloads(pb.WatchDownloadsRequest(all_queues=True), timeout=1.0)
    events: list[pb.DownloadEvent] = []
    with contextlib.suppress(grpc.aio.AioRpcError):  # the deadline
        async for frame in call:
            events += frame.events
    assert [event.WhichOneof("change") for event in events] == ["put"]
    assert events[0].put == job


async def test_the_bytes_that_a_watch_tells_never_go_back(client: DownloadClient, web: HttpServer) -> None:
    web.put("/slow.bin", Resource(BODY, rate=60_000))  # no checkpoint in less than a second
    told: list[int] = []
    states: list[int] = []

    async def watch() -> None:
        async for frame in client.stub.WatchDownloads(pb.WatchDownloadsRequest()):
            for event in frame.events:
                job = event.put if event.WhichOneof("change") == "put" else event.progress
                told.append(job.progress.bytes_done)
                states.append(event.put.state)
                if event.put.state == COMPLETED:
                    return

    watching = asyncio.ensure_future(watch())
    job = await client.create(web.url("/slow.bin"))
    for priority in (1, 2):
        await client.until(job, lambda now: now.progress.bytes_done > 30_000 * priority)  # noqa: B023
        change = download_pb2.Download(id=job.id, priority=priority)
        await client.stub.UpdateDownload(pb.UpdateDownloadRequest(download=change))
    await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))
    web.resources["/slow.bin"].rate = None
    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
    await asyncio.wait_for(watching, 20)
    assert download_pb2.DOWNLOAD_STATE_PAUSED in states
    assert told == sorted(told)
    assert told[-1] == len(BODY)


async def test_progress_is_small_and_says_what_change_it_follows(
    client: DownloadClient, web: HttpServer
) -> None:
    web.put("/slow.bin", Resource(BODY, rate=50_000))
    job = await client.create(web.url("/slow.bin"))
    changed = download_pb2.Download()
    async for frame in client.stub.WatchDownloads(pb.WatchDownloadsRequest()):
        for event in frame.events:
            assert event.put.state != COMPLETED, "no progress came after the change"
            if event.WhichOneof("change") == "put":
                continue
            if not changed.id:
                update = download_pb2.Download(id=job.id, priority=3)
                answer = await client.stub.UpdateDownload(pb.UpdateDownloadRequest(download=update))
                changed = answer.download
            elif event.progress.revision >= changed.revision:
                assert event.ByteSize() < 1024
                await client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))
                return


async def test_what_another_jobs_token_fetched_is_gone_on_with_only_after_the_source_was_asked(
    client: DownloadClient, web: HttpServer
) -> None:
    web.put("/locked.bin", Resource(BODY, authorization="Bearer right", rate=50_000))
    target = client.folder / "locked.bin"
    first = await client.create(web.url("/locked.bin"), access_token="right", preserve_partial=True)
    await client.until(first, lambda now: now.progress.bytes_done > 0)
    target.write_bytes(b"in the way")
    web.resources["/locked.bin"].rate = 1 << 30
    failed = await client.ended(first)
    assert (failed.error.reason, failed.progress.bytes_done) == ("DESTINATION_EXISTS", len(BODY))
    target.unlink()
    without = await client.run(web.url("/locked.bin"), preserve_partial=True)
    assert (without.error.reason, target.exists()) == ("TOKEN_REQUIRED", False)
    done = await client.run(web.url("/locked.bin"), access_token="right")
    assert (done.state, target.read_bytes()) == (COMPLETED, BODY)
    # All that it took was the proof that the object is still the same.
    assert [r.bytes_sent for r in web.requests_of("/locked.bin")] == [len(BODY), 0, 1]


async def test_a_wait_that_does_not_wait_says_done_of_what_has_ended(
    client: DownloadClient, web: HttpServer
) -> None:
    job = await client.run(web.url("/m.bin"))
    answer = await client.stub.WaitDownloads(pb.WaitDownloadsRequest(ids=[job.id], timeout=Duration()))
    assert answer.done
    idle = await client.create(web.url("/m.bin"), destination=f"{client.folder}/other.bin", start=False)
    answer = await client.stub.WaitDownloads(
        pb.WaitDownloadsRequest(ids=[job.id, idle.id], timeout=Duration())
    )
    assert not answer.done


async def test_a_wait_for_many_jobs_looks_only_at_those_that_change(
    client: DownloadClient, web: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100):
        await client.create(web.url("/m.bin"), filename=f"idle-{number}", start=False)
    looked_at: list[int] = []
    real = JobStore.ids

    def spy(self: JobStore, conn: Connection, wanted: JobFilter) -> Sequence[int]:
        looked_at.extend(wanted.ids or ())
        return real(self, conn, wanted)

    monkeypatch.setattr(JobStore, "ids", spy)
    waiting = asyncio.ensure_future(client.stub.WaitDownloads(pb.WaitDownloadsRequest()))
    ran = [await client.run(web.url("/m.bin"), filename=f"{number}") for number in range(5)]
    async for frame in client.stub.WatchDownloads(pb.WatchDownloadsRequest()):
        for event in frame.events:
            if event.put.state == download_pb2.DOWNLOAD_STATE_IDLE:
                await client.stub.CancelDownload(pb.CancelDownloadRequest(id=event.put.id))
        if frame.snapshot_complete:
            break
    answer = await waiting
    assert answer.done
    assert {job.id for job in ran} <= set(looked_at)
    # Each job is looked at once a change at most, and not all of them at each change of one.
    assert len(looked_at) < 300


async def test_pages_and_waits_of_large_jobs_stay_below_the_limit_of_a_message(
    client: DownloadClient, web: HttpServer
) -> None:
    padding = "x" * 7900
    labels = {str(n): "y" * 256 for n in range(32)}
    count = 200
    for first in range(0, count, 50):
        await asyncio.gather(
            *(
                client.create(
                    web.url(f"/m.bin?{padding}"),
                    destination=f"{client.folder}/{first + n}.bin",
                    start=False,
                    labels=labels,
                )
                for n in range(50)
            )
        )
    found: list[int] = []
    token = ""
    while True:
        request = pb.ListDownloadsRequest(page_size=1000, page_token=token)
        page = await client.stub.ListDownloads(request)
        assert page.ByteSize() < 4 << 20
        found += [job.id for job in page.downloads]
        token = page.next_page_token
        if not token:
            break
    assert found == list(range(1, count + 1))
    waited = await client.stub.WaitDownloads(pb.WaitDownloadsRequest(ids=found, timeout=Duration()))
    assert waited.ByteSize() < 4 << 20
    assert not waited.done


@pytest.mark.parametrize(
    "call",
    [
        lambda stub: stub.WaitDownloads(pb.WaitDownloadsRequest(timeout=Duration(seconds=1 << 62))),
        lambda stub: stub.WaitDownloads(pb.WaitDownloadsRequest(timeout=Duration(seconds=-1))),
        lambda stub: stub.WatchDownloads(
            pb.WatchDownloadsRequest(bookmark_interval=Duration(seconds=1 << 62))
        ).read(),
    ],
)
async def test_a_duration_out_of_bounds_is_a_bad_field(
    client: DownloadClient, call: Callable[[Any], Any]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(client.stub)
    assert failure_of(caught.value).reason == "FIELD_INVALID"


@pytest.mark.parametrize(
    "fields",
    [
        {"access_token": "ends with a newline\n"},
        {"access_token": "ключ"},
        {"labels": {"a": "ü" * 129}},
        {"labels": {"A": ""}},
        {"labels": {"": ""}},
        {"labels": {f"a.b/c_{n}": "" for n in range(33)}},
        {"destination": "{models}/.staging/download-7/data"},
        {"destination": "{models}/.staging/download-7/", "filename": "data"},
    ],
    ids=str,
)
async def test_what_could_never_work_is_refused_at_once(
    client: DownloadClient, web: HttpServer, fields: dict[str, Any]
) -> None:
    if "destination" in fields:
        fields = {**fields, "destination": fields["destination"].format(models=client.folder)}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.create(web.url("/m.bin"), **fields)
    assert failure_of(caught.value).reason in ("FIELD_INVALID", "FORBIDDEN_PATH")


async def test_the_marker_of_a_root_and_what_jobs_fill_cannot_be_moved_away(client: DownloadClient) -> None:
    for name in (".modelkeep-root", ".staging"):
        path = client.folder / name
        if name == ".staging":
            path.mkdir(exist_ok=True)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.take(path, destination=f"{client.folder}/stolen")
        assert failure_of(caught.value).reason == "FORBIDDEN_PATH"
        assert path.exists()


async def test_an_object_without_an_etag_is_gone_on_with_more_than_once(
    client: DownloadClient, web: HttpServer
) -> None:
    # RFC 9110, 15.3.7: an answer to If-Range need not repeat Last-Modified, nor the type.
    resource = Resource(
        BODY,
        etag=None,
        last_modified="Mon, 01 Jan 2024 00:00:00 GMT",
        content_type="application/x-model",
        terse_ranges=True,
        faults=[Cut(after=100_000), Cut(after=100_000)],
    )
    web.put("/dated.bin", resource)
    job = await client.run(web.url("/dated.bin"))
    assert job.state == COMPLETED
    assert (job.restarts, job.content_type) == (0, "application/x-model")
    assert [r.range for r in web.requests_of("/dated.bin")] == [None, "bytes=100000-", "bytes=200000-"]
    assert Path(job.path).read_bytes() == BODY


async def test_another_object_of_the_same_size_is_never_mixed_in_where_only_dates_tell(
    data_dir: Path, web: HttpServer
) -> None:
    async with download_service(data_dir, retry_base_s=0.4) as client:
        await check_that_nothing_is_mixed(client, web)


async def check_that_nothing_is_mixed(client: DownloadClient, web: HttpServer) -> None:
    web.put(
        "/dated.bin",
        Resource(BODY, etag=None, last_modified="Mon, 01 Jan 2024 00:00:00 GMT", faults=[Cut(after=100_000)]),
    )
    job = await client.create(web.url("/dated.bin"))
    await client.until(job, lambda now: now.stage == download_pb2.DOWNLOAD_STAGE_WAITING)
    other = pattern(len(BODY), seed=5)
    web.put(
        "/dated.bin",
        Resource(other, etag=None, last_modified="Tue, 02 Jan 2024 00:00:00 GMT", heeds_if_range=False),
    )
    ended = await client.ended(job)
    assert ended.state == COMPLETED
    assert Path(ended.path).read_bytes() == other


async def test_a_delivered_file_whose_end_could_not_be_recorded_is_completed_later(
    client: DownloadClient, web: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelkeep_download.engine.scheduler._RECOVER_S", 0.05)
    real = JobStore.change
    failed: list[int] = []

    def full_once(self: JobStore, conn: Connection, job_id: int, transition: Any) -> Job:
        job = real(self, conn, job_id, transition)
        if job.state is JobState.COMPLETED and len(failed) < 2:
            failed.append(job_id)
            raise DiskFullException("no room for the row")
        return job

    monkeypatch.setattr(JobStore, "change", full_once)
    job = await client.run(web.url("/m.bin"), access_token="secret-token")
    assert len(failed) == 2
    assert job.state == COMPLETED, job.error
    assert Path(job.path).read_bytes() == BODY
    assert len(web.requests_of("/m.bin")) == 1


async def test_a_job_that_waits_for_a_retry_takes_its_turn_by_its_new_priority(
    data_dir: Path, web: HttpServer
) -> None:
    async with download_service(data_dir, max_parallel_downloads=1, retry_base_s=0.4) as client:
        web.put("/cut.bin", Resource(BODY, faults=[Cut(after=10)]))
        web.put("/slow.bin", Resource(BODY, rate=300_000))
        cut = await client.create(web.url("/cut.bin"))
        await client.until(cut, lambda now: now.stage == download_pb2.DOWNLOAD_STAGE_WAITING)
        slow = await client.create(web.url("/slow.bin"))
        third = await client.create(web.url("/m.bin"), priority=20)
        change = download_pb2.Download(id=cut.id, priority=30)
        await client.stub.UpdateDownload(pb.UpdateDownloadRequest(download=change))
        ended = [await client.ended(job) for job in (cut, slow, third)]
        assert ended[2].sequence < 4
        assert ended[2].end_time.ToNanoseconds() < ended[0].end_time.ToNanoseconds()


async def test_staging_folders_that_no_job_has_are_removed_at_the_start(
    data_dir: Path, web: HttpServer
) -> None:
    async with download_service(data_dir) as client:
        web.put("/slow.bin", Resource(BODY, rate=50_000))
        job = await client.create(web.url("/slow.bin"))
        await client.until(job, lambda now: now.progress.bytes_done > 0)
    staging = client.folder / ".staging"
    # As a kill leaves them: pruned, or cancelled before the folder was recorded.
    (staging / "download-77").mkdir()
    (staging / "download-77" / "data").write_bytes(b"orphan")
    (staging / "12").mkdir()  # an install's
    async with download_service(data_dir) as client:
        assert sorted(path.name for path in staging.iterdir()) == ["12", f"download-{job.id}"]


async def test_errors_carry_the_metadata_that_their_reasons_promise(
    data_dir: Path, web: HttpServer, tmp_path: Path
) -> None:
    reasons = comments()
    seen: set[str] = set()

    def check(reason: str, metadata: Any) -> None:
        assert promised(reasons[reason]) <= set(metadata), (reason, dict(metadata))
        seen.add(reason)

    web.put("/page", Resource(b"<html>", content_type="text/html"))
    web.put("/locked", Resource(BODY, authorization="Bearer right"))
    web.put("/zipped", Resource(BODY, content_encoding="gzip"))
    async with download_service(data_dir, max_attempts=1, disk_reserve_bytes=0) as client:
        (client.folder / "taken").write_bytes(b"")
        for fields in (
            {"url": web.url("/none")},
            {"url": web.url("/page")},
            {"url": web.url("/zipped")},
            {"url": web.url("/locked")},
            {"url": web.url("/locked"), "access_token": "wrong"},
            {"url": web.url("/m.bin"), "expected_sha256": "0" * 64},
            {"url": "http://127.0.0.1:9/x"},
        ):
            job = await client.run(**fields)
            check(job.error.reason, job.error.metadata)
        calls = [
            client.create(web.url("/m.bin"), destination=f"{tmp_path}/x"),
            client.create(web.url("/m.bin"), destination=f"{client.folder}/taken"),
            client.take(client.folder / "nothing"),
            client.take(tmp_path),
            client.get(99),
            client.stub.StartDownload(pb.StartDownloadRequest(id=1)),
            client.stub.PauseDownload(pb.PauseDownloadRequest(id=1)),
            client.stub.CancelDownload(pb.CancelDownloadRequest(id=1)),
        ]
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            error = failure_of(caught.value)
            check(error.reason, error.metadata)
    async with download_service(data_dir, allow_private_addresses=False) as client:
        job = await client.run(web.url("/m.bin"))
        check(job.error.reason, job.error.metadata)
    async with download_service(data_dir, disk_reserve_bytes=1 << 60) as client:
        job = await client.create(web.url("/m.bin"))
        job = await client.until(job, lambda now: now.HasField("error"))
        check(job.error.reason, job.error.metadata)
    assert seen >= {
        *("SOURCE_NOT_FOUND", "NOT_A_MODEL_FILE", "TOKEN_REQUIRED", "TOKEN_REJECTED", "CHECKSUM_MISMATCH"),
        *("UPSTREAM_UNAVAILABLE", "FORBIDDEN_PATH", "DESTINATION_EXISTS", "UNKNOWN_JOB", "WRONG_STATE"),
        *("FORBIDDEN_ADDRESS", "DISK_FULL"),
    }
    assert downloads.MAX_WAITED == 1000
