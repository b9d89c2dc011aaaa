"""Install jobs over a real channel: watches that end with their jobs, what is pruned, and labels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from modelkeep.download.v1 import download_service_pb2 as download_pb
from modelkeep.download.v1 import download_service_pb2_grpc as download_rpc
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.record.v1 import record_service_pb2 as record_pb
from support.downloads import downloads_beside
from support.failures import fails, refused
from support.httpserver import HttpServer, Resource
from support.installs import InstallClient, install_service, small_lora
from support.modelshapes import write_safetensors

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED
ERROR = install_pb2.INSTALL_STATE_ERROR
pytestmark = pytest.mark.timeout(60)


async def watched(
    service: InstallClient, ids: Sequence[int], **fields: Any
) -> list[pb.WatchInstallsResponse]:
    """The frames of a watch that ends by itself."""
    call = service.stub.WatchInstalls(pb.WatchInstallsRequest(ids=ids, until_ended=True, **fields))
    async with asyncio.timeout(20):
        return [frame async for frame in call]


def puts(frames: Sequence[pb.WatchInstallsResponse]) -> list[install_pb2.Install]:
    return [event.put for frame in frames for event in frame.events if event.HasField("put")]


async def failed(service: InstallClient, path: Path) -> install_pb2.Install:
    job = await service.install(write_safetensors(path, {"x": [1]}))
    assert job.state == ERROR
    return job


# ---- watches that end -------------------------------------------------------------------------------------
async def test_a_watch_ends_when_its_jobs_have_and_tells_their_last_states(
    with_downloads: InstallClient, web: HttpServer, source: Path
) -> None:
    content = small_lora(source / "a.safetensors").read_bytes()
    slow = await with_downloads.submit(web.put("/slow.safetensors", Resource(content, rate=len(content))))
    quick = await with_downloads.submit(source / "a.safetensors")
    told = puts(await watched(with_downloads, [slow.id, quick.id]))
    last = {put.id: put for put in told}
    assert {id: (put.state, put.ended) for id, put in last.items()} == {
        slow.id: (COMPLETED, True),
        quick.id: (COMPLETED, True),
    }


async def test_a_watch_of_jobs_that_are_over_gives_them_and_ends(
    service: InstallClient, source: Path
) -> None:
    job = await service.install(small_lora(source / "a.safetensors"))
    frames = await watched(service, [job.id, 999])
    assert [put.id for put in puts(frames)] == [job.id]
    assert frames[-1].snapshot_complete
    assert puts(await watched(service, [job.id], skip_snapshot=True)) == []
    assert await watched(service, [999])


async def test_a_watch_that_goes_on_tells_what_came_since_and_then_ends(
    service: InstallClient, source: Path
) -> None:
    call = service.stub.WatchInstalls(pb.WatchInstallsRequest())
    before = (await anext(aiter(call))).resume_token
    call.cancel()
    job = await service.install(small_lora(source / "a.safetensors"))
    frames = await watched(service, [job.id], resume_token=before)
    assert puts(frames)[-1].state == COMPLETED
    assert puts(await watched(service, [job.id], resume_token=frames[-1].resume_token)) == []


async def test_a_watch_of_a_job_that_is_pruned_meanwhile_ends(service: InstallClient, source: Path) -> None:
    job = await service.install(small_lora(source / "a.safetensors"))
    call = service.stub.WatchInstalls(pb.WatchInstallsRequest())
    before = (await anext(aiter(call))).resume_token
    call.cancel()
    await service.stub.PruneInstalls(pb.PruneInstallsRequest())
    frames = await watched(service, [job.id], resume_token=before)
    assert [event.removed_id for frame in frames for event in frame.events] == [job.id]


async def test_a_watch_of_all_jobs_has_no_end(service: InstallClient) -> None:
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["ids"]):
        await watched(service, [])


# ---- pruning ----------------------------------------------------------------------------------------------
async def pruned(service: InstallClient, **fields: Any) -> int:
    answer: pb.PruneInstallsResponse = await service.stub.PruneInstalls(pb.PruneInstallsRequest(**fields))
    return answer.pruned_count


async def listed(service: InstallClient, **fields: Any) -> list[int]:
    answer: pb.ListInstallsResponse = await service.stub.ListInstalls(pb.ListInstallsRequest(**fields))
    return [job.id for job in answer.installs]


async def test_jobs_are_forgotten_by_their_numbers_states_and_age(
    service: InstallClient, source: Path
) -> None:
    good = [await service.install(small_lora(source / f"{n}.safetensors")) for n in range(3)]
    bad = await failed(service, source / "bad.safetensors")
    assert await pruned(service, min_age={"seconds": 3600}) == 0
    assert await pruned(service, states=[install_pb2.INSTALL_STATE_CANCELLED]) == 0
    assert await pruned(service, ids=[good[0].id, good[0].id]) == 1
    assert await pruned(service, ids=[bad.id], states=[COMPLETED]) == 0
    assert await pruned(service, states=[ERROR], min_age={"nanos": 1}) == 1
    assert await listed(service) == [good[2].id, good[1].id]
    assert await pruned(service) == 2
    assert await service.models_count() == 3


async def test_a_job_that_runs_or_is_not_there_is_not_forgotten_nor_are_those_beside_it(
    with_downloads: InstallClient, web: HttpServer, source: Path
) -> None:
    content = small_lora(source / "a.safetensors").read_bytes()
    running = await with_downloads.submit(
        web.put("/s.safetensors", Resource(content, rate=len(content) // 9))
    )
    over = await failed(with_downloads, source / "bad.safetensors")
    with refused("WRONG_STATE"):
        await pruned(with_downloads, ids=[over.id, running.id])
    with refused("UNKNOWN_JOB"):
        await pruned(with_downloads, ids=[over.id, 999])
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["states[0]"]):
        await pruned(with_downloads, states=[install_pb2.INSTALL_STATE_RUNNING])
    assert await listed(with_downloads) == [over.id, running.id]
    await with_downloads.stub.CancelInstall(pb.CancelInstallRequest(id=running.id))
    await with_downloads.ended(running)


async def test_what_one_failed_job_kept_goes_with_it_and_with_no_other(
    with_downloads: InstallClient, web: HttpServer, source: Path
) -> None:
    content = write_safetensors(source / "x.safetensors", {"x": [1]}).read_bytes()
    jobs = [await with_downloads.install(web.put(f"/{n}.safetensors", Resource(content))) for n in range(2)]
    kept = [Path(job.error.metadata["kept_path"]) for job in jobs]
    assert await pruned(with_downloads, ids=[jobs[0].id]) == 1
    assert [path.exists() for path in kept] == [False, True]
    assert await pruned(with_downloads, states=[COMPLETED]) == 0
    assert kept[1].exists()
    assert await pruned(with_downloads, states=[ERROR]) == 1
    assert with_downloads.litter() == []


# ---- labels -----------------------------------------------------------------------------------------------
@pytest.fixture
async def both(data_dir: Path) -> AsyncIterator[tuple[InstallClient, Any]]:
    """An InstallService, and the stub of its DownloadService."""
    async with (
        downloads_beside(data_dir) as address,
        install_service(data_dir, download_address=address) as client,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield client, download_rpc.DownloadServiceStub(channel)


async def test_the_labels_of_an_install_find_it_its_download_and_its_model(
    both: tuple[InstallClient, Any], web: HttpServer, source: Path
) -> None:
    service, downloads = both
    content = small_lora(source / "a.safetensors").read_bytes()
    mine = {"team/project": "sushi", "run": "7"}
    job = await service.install(web.put("/a.safetensors", Resource(content)), labels=mine)
    other = await service.install(source / "a.safetensors", labels={"run": "8"})
    assert (job.state, dict(job.labels)) == (COMPLETED, mine)
    assert await listed(service, labels={"run": "7"}) == [job.id]
    assert await listed(service, labels=mine) == [job.id]
    assert await listed(service, labels={"run": "9"}) == []
    assert await listed(service, labels={"run": "8"}) == [other.id]
    assert [put.id for put in puts(await watched(service, [job.id, other.id], labels={"run": "8"}))] == [
        other.id
    ]
    answer = await downloads.GetDownload(download_pb.GetDownloadRequest(id=job.download_id))
    assert mine.items() <= dict(answer.download.labels).items()
    found = await service.records.ListModels(
        record_pb.ListModelsRequest(filter=record_pb.ModelFilter(labels=mine))
    )
    assert [model.key for model in found.models] == [job.model_key]
    assert await pruned(service, ids=[job.id]) == 1
    assert await listed(service, labels=mine) == []
    overrides = {"labels": {"run": "from the overrides", "more": "1"}}
    third = await service.install(
        small_lora(source / "b.safetensors"), labels={"run": "7", "kept": ""}, overrides=overrides
    )
    assert dict(third.model.labels) == {"run": "from the overrides", "more": "1", "kept": ""}


async def test_labels_that_cannot_be_are_refused_and_as_many_as_there_may_be_are_taken(
    both: tuple[InstallClient, Any], web: HttpServer, source: Path
) -> None:
    service, _ = both
    path = small_lora(source / "a.safetensors")
    for labels in ({"UPPER": "x"}, {"": "x"}, {"a": "x" * 257}, {f"k{n}": "" for n in range(33)}):
        with refused("FIELD_INVALID"):
            await service.submit(path, labels=labels)
    too_many = {f"k{n}": "" for n in range(32)}
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["labels"]):
        await service.submit(web.url("/a.safetensors"), labels=too_many)
    assert (await service.install(path, labels=too_many)).state == COMPLETED
    many = {f"k{n}": "v" * 256 for n in range(31)}
    job = await service.install(web.put("/a.safetensors", Resource(path.read_bytes())), labels=many)
    assert (job.state, dict(job.model.labels)) == (COMPLETED, many), job.error
