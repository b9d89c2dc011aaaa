"""DownloadService over a real channel, fetching from a real HTTP server: the ordinary life of jobs."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep_common.startup import StartupError
from support.downloads import DownloadClient, download_service
from support.httpserver import HttpServer, Resource, pattern

BODY = pattern(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
STATE = download_pb2.DownloadState


@pytest.fixture
def web(web: HttpServer) -> HttpServer:
    web.put("/m.safetensors", Resource(BODY))
    return web


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir) as service:
        yield service


async def test_a_url_arrives_whole_hashed_and_unverified(client: DownloadClient, web: HttpServer) -> None:
    job = await client.run(web.url("/m.safetensors"))
    assert STATE.Name(job.state) == "DOWNLOAD_STATE_COMPLETED", job
    assert job.path == str(client.folder / "m.safetensors")
    assert Path(job.path).read_bytes() == BODY
    assert (job.sha256, job.verified) == (SHA256, False)
    assert (job.progress.bytes_done, job.progress.bytes_total) == (len(BODY), len(BODY))
    assert job.content_type == "application/octet-stream"
    assert job.start_time.ToNanoseconds() <= job.end_time.ToNanoseconds()
    assert web.bytes_served("/m.safetensors") == len(BODY)
    assert not list((client.folder / ".staging").iterdir())


async def test_an_expected_hash_is_verified(client: DownloadClient, web: HttpServer) -> None:
    job = await client.run(web.url("/m.safetensors"), expected_sha256=SHA256.upper())
    assert (job.state, job.verified) == (download_pb2.DOWNLOAD_STATE_COMPLETED, True)


async def test_a_wrong_hash_is_quarantined_and_never_delivered(
    client: DownloadClient, web: HttpServer
) -> None:
    job = await client.run(web.url("/m.safetensors"), expected_sha256="0" * 64)
    assert (job.state, job.error.reason) == (download_pb2.DOWNLOAD_STATE_ERROR, "CHECKSUM_MISMATCH")
    assert (job.error.code, job.error.reason) == ("DATA_LOSS", "CHECKSUM_MISMATCH")
    assert job.error.metadata["actual"] == SHA256
    assert not (client.folder / "m.safetensors").exists()
    quarantined = Path(job.error.metadata["quarantined_path"])
    assert quarantined.read_bytes() == BODY
    await client.stub.PruneDownloads(pb.PruneDownloadsRequest())
    assert not quarantined.exists()


async def test_an_idle_job_waits_until_it_is_started(client: DownloadClient, web: HttpServer) -> None:
    job = await client.create(web.url("/m.safetensors"), start=False)
    assert job.state == download_pb2.DOWNLOAD_STATE_IDLE
    await asyncio.sleep(0.1)
    assert not web.requests
    started = (await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))).download
    assert started.state in (download_pb2.DOWNLOAD_STATE_ENQUEUED, download_pb2.DOWNLOAD_STATE_RUNNING)
    assert (await client.ended(job)).state == download_pb2.DOWNLOAD_STATE_COMPLETED


async def test_a_pause_is_quick_keeps_the_bytes_and_a_start_goes_on_from_them(
    client: DownloadClient, web: HttpServer
) -> None:
    body = pattern(1_500_000, seed=1)
    web.put("/slow.bin", Resource(body, rate=1_000_000))
    job = await client.create(web.url("/slow.bin"))
    await client.until(job, lambda now: now.progress.bytes_done > 300_000)
    paused = (await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))).download
    assert paused.state == download_pb2.DOWNLOAD_STATE_PAUSED  # before the rest was there
    kept = paused.progress.bytes_done
    assert kept > 300_000
    assert sum(f.stat().st_size for f in client.folder.rglob("data")) == kept
    again = (await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))).download
    assert again == paused  # does nothing to a job that is paused
    web.resources["/slow.bin"].rate = None
    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
    done = await client.ended(job)
    assert done.sha256 == hashlib.sha256(body).hexdigest()
    first, second = web.requests_of("/slow.bin")
    assert (second.range, second.if_range, second.status) == (f"bytes={kept}-", '"v1"', 206)
    assert second.bytes_sent == len(body) - kept
    assert first.bytes_sent - kept < 400_000  # what lay in the sockets' buffers
    assert done.restarts == 0


async def test_a_cancel_ends_in_cancelled_and_leaves_no_file(client: DownloadClient, web: HttpServer) -> None:
    web.put("/slow.bin", Resource(BODY, rate=100_000))
    job = await client.create(web.url("/slow.bin"))
    await client.until(job, lambda now: now.progress.bytes_done > 0)
    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))
    ended = await client.ended(job)
    assert ended.state == download_pb2.DOWNLOAD_STATE_CANCELLED
    assert not list((client.folder / ".staging").iterdir())
    assert [p.name for p in client.folder.iterdir() if not p.name.startswith(".")] == []
    again = await client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))
    assert again.download.state == download_pb2.DOWNLOAD_STATE_CANCELLED


async def test_a_paused_job_that_is_cancelled_leaves_no_file(client: DownloadClient, web: HttpServer) -> None:
    web.put("/slow.bin", Resource(BODY, rate=100_000))
    job = await client.create(web.url("/slow.bin"))
    await client.until(job, lambda now: now.progress.bytes_done > 0)
    await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))
    assert list((client.folder / ".staging").iterdir())
    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))
    assert (await client.ended(job)).state == download_pb2.DOWNLOAD_STATE_CANCELLED
    assert not list((client.folder / ".staging").iterdir())


async def test_lower_priorities_run_first_and_equal_ones_in_their_order(
    data_dir: Path, web: HttpServer
) -> None:
    async with download_service(data_dir, max_parallel_downloads=1) as client:
        web.put("/blocker", Resource(BODY, rate=20_000))
        blocker = await client.create(web.url("/blocker"), priority=0)
        jobs = {}
        for name, priority in (("a", 10), ("b", 10), ("c", 5), ("d", 20), ("e", 5), ("f", 10)):
            web.put(f"/{name}", Resource(b"x"))
            jobs[name] = await client.create(web.url(f"/{name}"), priority=priority)
        update = pb.UpdateDownloadRequest(download=download_pb2.Download(id=jobs["f"].id, priority=1))
        changed = (await client.stub.UpdateDownload(update)).download
        assert (changed.priority, changed.etag != jobs["f"].etag) == (1, True)
        await client.stub.CancelDownload(pb.CancelDownloadRequest(id=blocker.id))
        ended = {name: await client.ended(job) for name, job in jobs.items()}
        order = sorted(ended, key=lambda name: ended[name].sequence)
        assert order == ["f", "c", "e", "a", "b", "d"]
        assert [r.path for r in web.requests] == ["/blocker", *(f"/{name}" for name in order)]


async def test_no_more_jobs_run_at_once_than_set(data_dir: Path, web: HttpServer) -> None:
    async with download_service(data_dir, max_parallel_downloads=2) as client:
        for name in "abcd":
            web.put(f"/{name}", Resource(BODY, rate=600_000))
            await client.create(web.url(f"/{name}"))
        running = 0
        while not (await client.stub.WaitDownloads(pb.WaitDownloadsRequest(timeout={"nanos": 1000}))).done:
            answer = await client.stub.ListDownloads(
                pb.ListDownloadsRequest(states=[download_pb2.DOWNLOAD_STATE_RUNNING])
            )
            running = max(running, len(answer.downloads))
            await asyncio.sleep(0.02)
        assert running == 2


async def test_a_list_is_paged_by_queue_and_state(client: DownloadClient, web: HttpServer) -> None:
    for number in range(5):
        await client.create(web.url("/m.safetensors"), queue="q", start=False, filename=f"{number}.bin")
    await client.create(web.url("/m.safetensors"), start=False, filename="other.bin")
    seen, token = [], ""
    while True:
        page = await client.stub.ListDownloads(
            pb.ListDownloadsRequest(queue="q", page_size=2, page_token=token)
        )
        seen += [job.id for job in page.downloads]
        assert bool(page.resume_token) == (token == "")
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(set(seen))
    assert len(seen) == 5
    everything = await client.stub.ListDownloads(pb.ListDownloadsRequest(all_queues=True))
    assert len(everything.downloads) == 6
    none = await client.stub.ListDownloads(
        pb.ListDownloadsRequest(all_queues=True, states=[download_pb2.DOWNLOAD_STATE_RUNNING])
    )
    assert not none.downloads
    page = await client.stub.ListDownloads(pb.ListDownloadsRequest(queue="q", page_size=2))
    with pytest.raises(grpc.aio.AioRpcError, match="page_token") as error:
        await client.stub.ListDownloads(
            pb.ListDownloadsRequest(all_queues=True, page_token=page.next_page_token)
        )
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_prune_forgets_the_ended_jobs_of_one_queue(client: DownloadClient, web: HttpServer) -> None:
    done = await client.run(web.url("/m.safetensors"), queue="q")
    idle = await client.create(web.url("/m.safetensors"), queue="q", start=False, filename="idle.bin")
    other = await client.run(web.url("/m.safetensors"), filename="other.bin")
    assert (await client.stub.PruneDownloads(pb.PruneDownloadsRequest(queue="q"))).pruned_count == 1
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.get(done)
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert (await client.get(idle)).state == download_pb2.DOWNLOAD_STATE_IDLE
    assert (await client.get(other)).state == download_pb2.DOWNLOAD_STATE_COMPLETED
    assert Path(done.path).read_bytes() == BODY  # delivered files stay
    new = await client.create(web.url("/m.safetensors"), queue="q", start=False, filename="new.bin")
    assert new.id > other.id  # ids are never used again


async def test_a_repeated_request_answers_with_the_same_job(client: DownloadClient, web: HttpServer) -> None:
    request_id = str(uuid.uuid4())
    job = await client.create(web.url("/m.safetensors"), request_id=request_id, access_token="one")
    await client.ended(job)
    again = await client.create(web.url("/m.safetensors"), request_id=request_id, access_token="two")
    assert again.id == job.id
    with pytest.raises(grpc.aio.AioRpcError, match="request_id") as error:
        await client.create(web.url("/m.safetensors"), request_id=request_id, priority=3)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_watch_tells_a_jobs_life_in_order_and_its_progress(
    client: DownloadClient, web: HttpServer
) -> None:
    web.put("/slow.bin", Resource(BODY, rate=300_000))
    stream = client.stub.WatchDownloads(pb.WatchDownloadsRequest(queue="q"))
    frames = aiter(stream)
    first = await anext(frames)
    while not first.snapshot_complete:
        first = await anext(frames)
    job = await client.create(web.url("/slow.bin"), queue="q")
    await client.create(web.url("/m.safetensors"), queue="another")
    states, revisions, progress = [], [], []
    token = first.resume_token
    async for frame in frames:
        for event in frame.events:
            assert (event.put.id or event.progress.id) == job.id
            if event.WhichOneof("change") == "progress":
                progress.append(event.progress.progress)
            else:
                states.append(event.put.state)
                revisions.append(event.revision)
        if states and states[-1] == download_pb2.DOWNLOAD_STATE_COMPLETED:
            break
    stream.cancel()
    assert states[0] == download_pb2.DOWNLOAD_STATE_ENQUEUED
    assert set(states[1:-1]) == {download_pb2.DOWNLOAD_STATE_RUNNING}
    assert revisions == sorted(set(revisions))
    done = [p.bytes_done for p in progress]
    assert done
    assert done == sorted(done)
    assert {p.bytes_total for p in progress} == {len(BODY)}
    assert max(p.bytes_per_second for p in progress) > 100_000
    replay = client.stub.WatchDownloads(pb.WatchDownloadsRequest(queue="q", resume_token=token))
    replayed: list[int] = []
    async for frame in replay:
        replayed += [event.revision for event in frame.events if event.revision]
        if len(replayed) >= len(revisions):
            break
    replay.cancel()
    assert replayed == revisions


async def test_wait_answers_at_its_time_out_with_what_is(client: DownloadClient, web: HttpServer) -> None:
    job = await client.create(web.url("/m.safetensors"), start=False)
    began = time.monotonic()
    answer = await client.stub.WaitDownloads(
        pb.WaitDownloadsRequest(ids=[job.id], timeout={"nanos": 200_000_000})
    )
    assert time.monotonic() - began > 0.15
    assert (answer.done, [j.id for j in answer.downloads]) == (False, [job.id])
    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))
    answer = await client.stub.WaitDownloads(pb.WaitDownloadsRequest())
    assert (answer.done, list(answer.downloads)) == (True, [])
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.stub.WaitDownloads(pb.WaitDownloadsRequest(ids=[99]))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_calls_refuse_states_that_do_not_allow_them(client: DownloadClient, web: HttpServer) -> None:
    job = await client.run(web.url("/m.safetensors"))
    stale = pb.UpdateDownloadRequest(download=download_pb2.Download(id=job.id, priority=1))
    for call in (
        client.stub.StartDownload(pb.StartDownloadRequest(id=job.id)),
        client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id)),
        client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id)),
        client.stub.UpdateDownload(stale),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="completed") as error:
            await call
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    idle = await client.create(web.url("/m.safetensors"), start=False, filename="i.bin")
    old_etag = idle.etag
    update = pb.UpdateDownloadRequest(
        download=download_pb2.Download(id=idle.id, etag=old_etag, preserve_partial=True),
        update_mask={"paths": ["preserve_partial"]},
    )
    assert (await client.stub.UpdateDownload(update)).download.preserve_partial
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.stub.UpdateDownload(update)
    assert error.value.code() is grpc.StatusCode.ABORTED
    bad = pb.UpdateDownloadRequest(
        download=download_pb2.Download(id=idle.id, destination="/elsewhere"),
        update_mask={"paths": ["destination"]},
    )
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.stub.UpdateDownload(bad)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_failed_jobs_partial_file_goes_unless_it_is_preserved(
    client: DownloadClient, web: HttpServer
) -> None:
    body = pattern(400_000, seed=2)

    async def fail(preserve: bool) -> download_pb2.Download:
        web.put("/p.bin", Resource(body, rate=400_000))
        job = await client.create(web.url("/p.bin"), preserve_partial=preserve)
        await client.until(job, lambda now: now.progress.bytes_done > 50_000)
        await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))
        (client.folder / "p.bin").write_bytes(b"in the way")
        await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
        ended = await client.ended(job)
        assert ended.error.reason == "DESTINATION_EXISTS"
        (client.folder / "p.bin").unlink()
        return ended

    await fail(preserve=False)
    assert not list((client.folder / ".staging").iterdir())
    failed = await fail(preserve=True)
    assert [f.stat().st_size for f in client.folder.rglob("data")] == [failed.progress.bytes_done]
    web.resources["/p.bin"].rate = None
    done = await client.run(web.url("/p.bin"))  # a new job of the same source and destination goes on
    assert Path(done.path).read_bytes() == body
    assert web.requests_of("/p.bin")[-1].offset == failed.progress.bytes_done
    assert not list((client.folder / ".staging").iterdir())


async def test_a_full_queue_takes_no_more(data_dir: Path, web: HttpServer) -> None:
    async with download_service(data_dir, max_jobs=1) as client:
        job = await client.create(web.url("/m.safetensors"), start=False)
        with pytest.raises(grpc.aio.AioRpcError, match="have not ended") as error:
            await client.create(web.url("/m.safetensors"), start=False)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))
        await client.create(web.url("/m.safetensors"), start=False)


async def test_a_second_service_on_the_same_folder_refuses_to_start(data_dir: Path) -> None:
    async with download_service(data_dir):
        with pytest.raises(StartupError, match="in use") as error:
            async with download_service(data_dir):
                pass
        assert error.value.exit_code == 73


async def test_a_priority_that_changes_is_obeyed_by_jobs_that_wait(data_dir: Path, web: HttpServer) -> None:
    async with download_service(data_dir, max_parallel_downloads=1) as client:
        await client.create(web.put("/blocker", Resource(BODY, rate=1_000_000)))
        low = await client.create(web.put("/low", Resource(b"x")), priority=20)
        high = await client.create(web.put("/high", Resource(b"x")), priority=10)
        update = pb.UpdateDownloadRequest(
            download=download_pb2.Download(id=low.id, priority=0), update_mask={"paths": ["priority"]}
        )
        await client.stub.UpdateDownload(update)  # 0 can only be said with a mask
        assert (await client.ended(low)).sequence < (await client.ended(high)).sequence
