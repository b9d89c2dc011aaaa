"""What else a caller can ask of jobs: watches that end, prune by state and age, labels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.server.v1 import watch_pb2
from support.downloads import DownloadClient, alter_job, download_service
from support.failures import fails, failure_of
from support.httpserver import Hang, HttpServer, Resource, pattern

BODY = pattern(300_000)
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR
CANCELLED = download_pb2.DOWNLOAD_STATE_CANCELLED
PAUSED = download_pb2.DOWNLOAD_STATE_PAUSED


@pytest.fixture
async def client(data_dir: Any, web: HttpServer) -> AsyncIterator[DownloadClient]:
    web.put("/m.bin", Resource(BODY))
    async with download_service(data_dir, max_attempts=2) as service:
        yield service


async def frames(client: DownloadClient, **fields: Any) -> list[pb.WatchDownloadsResponse]:
    """All frames of a watch that ends by itself."""
    call = client.stub.WatchDownloads(pb.WatchDownloadsRequest(until_ended=True, **fields), timeout=20)
    found = [frame async for frame in call]
    assert await call.code() is grpc.StatusCode.OK
    return found


def states(found: list[pb.WatchDownloadsResponse], job: download_pb2.Download) -> list[int]:
    return [event.put.state for frame in found for event in frame.events if event.put.id == job.id]


async def test_a_watch_until_the_end_tells_the_last_state_and_closes(
    client: DownloadClient, web: HttpServer
) -> None:
    idle = await client.create(web.url("/m.bin"), filename="1", start=False)
    lost = await client.create(web.url("/gone.bin"), filename="2", start=False)
    watch = asyncio.create_task(frames(client, ids=[idle.id, lost.id], all_queues=True))
    for job in (idle, lost):
        await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
    found = await watch
    assert (states(found, idle)[-1], states(found, lost)[-1]) == (COMPLETED, ERROR)
    assert [event.put.ended for frame in found for event in frame.events if event.put.state == COMPLETED]
    assert not idle.ended


async def test_a_watch_of_jobs_that_have_ended_or_are_gone_closes_after_its_snapshot(
    client: DownloadClient, web: HttpServer
) -> None:
    done = await client.run(web.url("/m.bin"))
    found = await frames(client, ids=[done.id, 99])
    assert states(found, done) == [COMPLETED]
    again = await frames(client, ids=[done.id], resume_token=found[-1].resume_token)
    assert states(again, done) == []
    assert again[-1].phase == watch_pb2.WATCH_PHASE_LIVE
    assert states(await frames(client, ids=[done.id], skip_snapshot=True), done) == []


async def test_a_watch_that_goes_on_from_a_token_still_tells_the_end_that_came_meanwhile(
    client: DownloadClient, web: HttpServer
) -> None:
    job = await client.create(web.url("/m.bin"), start=False)
    token = (await client.stub.ListDownloads(pb.ListDownloadsRequest())).resume_token
    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
    await client.ended(job)
    assert states(await frames(client, ids=[job.id], resume_token=token), job)[-1] == COMPLETED


async def test_a_job_that_is_pruned_ends_the_watch_of_it_too(client: DownloadClient, web: HttpServer) -> None:
    job = await client.create(web.url("/m.bin"), start=False)
    call = client.stub.WatchDownloads(pb.WatchDownloadsRequest(until_ended=True, ids=[job.id]), timeout=20)
    watched = aiter(call)
    await anext(watched)
    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))
    await client.stub.PruneDownloads(pb.PruneDownloadsRequest())
    assert [frame async for frame in watched]
    assert await call.code() is grpc.StatusCode.OK


async def test_until_ended_names_its_jobs(client: DownloadClient) -> None:
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["ids"]):
        await frames(client)


async def test_prune_takes_states_and_age(client: DownloadClient, web: HttpServer, data_dir: Any) -> None:
    done = await client.run(web.url("/m.bin"))
    failed = await client.run(web.url("/gone.bin"))
    other = await client.run(web.url("/gone.bin"), queue="other")
    cancelled = await client.create(web.url("/x.bin"), start=False)
    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=cancelled.id))

    async def prune(**fields: Any) -> list[int]:
        await client.stub.PruneDownloads(pb.PruneDownloadsRequest(**fields))
        answer = await client.stub.ListDownloads(pb.ListDownloadsRequest(all_queues=True))
        return [job.id for job in answer.downloads]

    everything = [done.id, failed.id, other.id, cancelled.id]
    assert await prune(min_age=Duration(seconds=3600)) == everything
    alter_job(data_dir / "download" / "download.db", failed.id, end_time=done.end_time.ToSeconds() - 7200)
    assert await prune(min_age=Duration(seconds=3600)) == [done.id, other.id, cancelled.id]
    assert await prune(states=[ERROR]) == [done.id, other.id, cancelled.id]
    assert await prune(states=[ERROR, CANCELLED], all_queues=True) == [done.id]
    assert await prune() == []


async def test_what_has_not_ended_cannot_be_pruned(client: DownloadClient, web: HttpServer) -> None:
    done = await client.run(web.url("/m.bin"), queue="some")
    idle = await client.create(web.url("/x.bin"), start=False)
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["states[1]"]):
        await client.stub.PruneDownloads(pb.PruneDownloadsRequest(states=[ERROR, PAUSED]))
    with fails(code="FAILED_PRECONDITION", reason="WRONG_STATE"):
        await client.stub.PruneDownloads(pb.PruneDownloadsRequest(ids=[done.id, idle.id]))
    with fails(code="NOT_FOUND", reason="UNKNOWN_JOB"):
        await client.stub.PruneDownloads(pb.PruneDownloadsRequest(ids=[done.id, 99]))
    answer = await client.stub.PruneDownloads(pb.PruneDownloadsRequest(ids=[done.id]))
    assert answer.pruned_count == 1


async def test_lists_and_watches_are_by_labels(client: DownloadClient, web: HttpServer) -> None:
    made = [
        await client.create(web.url("/m.bin"), filename=str(number), start=False, labels=labels)
        for number, labels in enumerate(({"team": "a", "use": "x"}, {"team": "a"}, {"team": "b"}, {}))
    ]

    async def listed(labels: dict[str, str]) -> list[int]:
        answer = await client.stub.ListDownloads(pb.ListDownloadsRequest(labels=labels))
        call = client.stub.WatchDownloads(pb.WatchDownloadsRequest(labels=labels), timeout=20)
        told = []
        async for frame in call:
            told += [event.put.id for event in frame.events]
            if frame.snapshot_complete:
                break
        call.cancel()
        found = [job.id for job in answer.downloads]
        assert told == found
        return found

    assert await listed({}) == [job.id for job in made]
    assert await listed({"team": "a"}) == [made[0].id, made[1].id]
    assert await listed({"team": "a", "use": "x"}) == [made[0].id]
    assert await listed({"team": "a", "use": "y"}) == []


@pytest.mark.parametrize("first", ["folder", "file"])
async def test_two_jobs_for_one_destination_are_told_at_once(
    client: DownloadClient, web: HttpServer, first: str
) -> None:
    as_folder = {"destination": f"{client.folder}/", "filename": "one.bin"}
    as_file = {"destination": f"{client.folder}/one.bin"}
    ways = [as_folder, as_file] if first == "folder" else [as_file, as_folder]
    job = await client.create(web.url("/m.bin"), start=False, **ways[0])
    with fails(code="ALREADY_EXISTS", reason="DESTINATION_EXISTS") as found:
        await client.create(web.url("/other.bin"), **ways[1])
    assert found[0].metadata["id"] == str(job.id)
    assert found[0].metadata["path"] == f"{client.folder}/one.bin"
    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))
    assert (await client.run(web.url("/m.bin"), **ways[1])).state == COMPLETED


async def test_where_the_source_names_the_file_the_second_job_ends_before_a_byte_is_fetched(
    client: DownloadClient, web: HttpServer
) -> None:
    slow = web.put("/a", Resource(BODY, disposition='attachment; filename="one.bin"', faults=[Hang(200_000)]))
    job = await client.create(slow)
    await client.until(job, lambda now: now.progress.bytes_done > 0)
    second = await client.run(web.put("/b", Resource(BODY, disposition='attachment; filename="one.bin"')))
    assert (second.state, second.error.reason) == (ERROR, "DESTINATION_EXISTS")
    assert (second.error.metadata["id"], second.progress.bytes_done) == (str(job.id), 0)


async def test_a_job_without_a_source_is_refused(client: DownloadClient) -> None:
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["source"]):
        await client.create(source=download_pb2.DownloadSource())


@pytest.mark.parametrize(
    ("url", "reason", "remedy"),
    [
        ("owner/name", "FIELD_INVALID", "Give it as source.remote, which looks up what to fetch."),
        ("hf:owner/name", "FIELD_INVALID", "Give it as source.remote, which looks up what to fetch."),
        (
            "https://huggingface.co/owner/name/blob/main/m.safetensors",
            "NOT_A_MODEL_FILE",
            "https://huggingface.co/owner/name/resolve/main/m.safetensors",
        ),
        (
            "https://civitai.com/models/1",
            "NOT_A_MODEL_FILE",
            "Give it as source.remote, which looks up what to fetch.",
        ),
    ],
)
async def test_a_repository_or_page_is_refused_with_what_to_give_in_its_place(
    client: DownloadClient, url: str, reason: str, remedy: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.create(url)
    failure = failure_of(caught.value)
    assert failure.reason == reason
    assert failure.metadata["remedy"].endswith(remedy)
