"""Install jobs over a real channel: lists, waits and watches of them, and jobs that wait for a peer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep_install.domain.jobs import Job
from modelkeep_install.store import InstallStore
from support.failures import fails
from support.installs import (
    InstallClient,
    install_beside,
    install_service,
    records_beside,
    small_lora,
)
from support.modelshapes import write_safetensors

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED
ERROR = install_pb2.INSTALL_STATE_ERROR
CANCELLED = install_pb2.INSTALL_STATE_CANCELLED


async def test_jobs_are_listed_newest_first_by_pages_and_filters_and_pruned(
    service: InstallClient, source: Path
) -> None:
    jobs = [await service.install(small_lora(source / f"{n}.safetensors")) for n in range(3)]
    jobs.append(await service.install(write_safetensors(source / "bad.safetensors", {"x": [1]})))
    page = await service.stub.ListInstalls(pb.ListInstallsRequest(page_size=3))
    assert [i.id for i in page.installs] == [j.id for j in reversed(jobs)][:3]
    rest = await service.stub.ListInstalls(
        pb.ListInstallsRequest(page_size=3, page_token=page.next_page_token)
    )
    assert [i.id for i in rest.installs] == [jobs[0].id]
    assert (page.resume_token != "", rest.resume_token, rest.next_page_token) == (True, "", "")
    with fails(code="INVALID_ARGUMENT", reason="PAGE_TOKEN_MISMATCH"):
        await service.stub.ListInstalls(
            pb.ListInstallsRequest(source_contains="bad", page_token=page.next_page_token)
        )
    found = await service.stub.ListInstalls(pb.ListInstallsRequest(source_contains="/bad."))
    assert [i.id for i in found.installs] == [jobs[3].id]
    found = await service.stub.ListInstalls(pb.ListInstallsRequest(states=[COMPLETED]))
    assert {i.id for i in found.installs} == {j.id for j in jobs[:3]}
    pruned = await service.stub.PruneInstalls(pb.PruneInstallsRequest())
    assert pruned.pruned_count == 4
    assert not (await service.stub.ListInstalls(pb.ListInstallsRequest())).installs
    assert await service.models_count() == 3
    with fails(code="NOT_FOUND", reason="UNKNOWN_JOB"):
        await service.get(jobs[0])
    assert (await service.install(small_lora(source / "9.safetensors"))).id == jobs[-1].id + 1


async def test_large_jobs_come_in_answers_that_every_client_takes(
    service: InstallClient, source: Path
) -> None:
    (source / "text.safetensors").write_text("text")
    overrides = install_pb2.ModelOverrides(description="d" * 60_000, license="l" * 60_000)
    ids = [
        (await service.install(source / "text.safetensors", overrides=overrides)).id for _ in range(40)
    ]  # 4.8 MB, where clients take 4 MiB by default
    seen: list[int] = []
    token = ""
    while True:
        page = await service.stub.ListInstalls(pb.ListInstallsRequest(page_size=1000, page_token=token))
        seen += [job.id for job in page.installs]
        if not (token := page.next_page_token):
            break
    assert seen == ids[::-1]
    waited = await service.stub.WaitInstalls(pb.WaitInstallsRequest(ids=ids))
    assert waited.done
    assert [job.id for job in waited.installs] == ids[: len(waited.installs)]
    assert 1 < len(waited.installs) < len(ids)


async def test_a_wait_ends_also_when_its_jobs_are_pruned_meanwhile(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = InstallStore.present

    async def pruned_before(self: InstallStore, ids: Sequence[int]) -> list[tuple[Job, bytes]]:
        await self.prune(await self.ended())
        return await present(self, ids)

    monkeypatch.setattr(InstallStore, "present", pruned_before)
    for named in (True, False):
        job = await service.submit(small_lora(source / f"{named}.safetensors"), inplace=False)
        answer = await service.stub.WaitInstalls(pb.WaitInstallsRequest(ids=[job.id] if named else []))
        assert (answer.done, list(answer.installs)) == (True, [])
    with fails(code="NOT_FOUND", reason="UNKNOWN_JOB"):
        await service.stub.WaitInstalls(pb.WaitInstallsRequest(ids=[job.id]))


async def test_a_watch_shows_every_state_of_a_job_in_order(service: InstallClient, source: Path) -> None:
    call = service.stub.WatchInstalls(pb.WatchInstallsRequest())
    frames = aiter(call)
    first = await anext(frames)
    assert first.snapshot_complete
    job = await service.submit(small_lora(source / "style.safetensors"), inplace=False)
    states: list[tuple[int, int]] = []
    revisions: list[int] = []
    async for frame in frames:
        for event in frame.events:
            if event.HasField("put") and event.put.id == job.id:
                states.append((event.put.state, event.put.stage))
                revisions.append(event.revision)
        if states and states[-1][0] == COMPLETED:
            break
    call.cancel()
    assert revisions == sorted(revisions)
    stages = list(
        dict.fromkeys(stage for state, stage in states if state == install_pb2.INSTALL_STATE_RUNNING)
    )
    assert [install_pb2.InstallStage.Name(s).removeprefix("INSTALL_STAGE_") for s in stages if s] == [
        "PROBING",
        "MOVING",
        "HASHING",
        "REGISTERING",
    ]


async def test_a_missing_peer_keeps_a_job_waiting_until_it_comes(data_dir: Path, source: Path) -> None:
    path = small_lora(source / "style.safetensors")
    async with records_beside(data_dir) as (records, _):  # noqa: SIM117  # the peer outlives the service
        async with install_beside(data_dir, records, "127.0.0.1:9") as service:
            job = await service.submit(path, inplace=False)
            waiting = await service.until(
                job, lambda i: i.stage == install_pb2.INSTALL_STAGE_WAITING_FOR_PEER
            )
            assert (waiting.error.reason, waiting.error.code) == ("UPSTREAM_UNAVAILABLE", "UNAVAILABLE")
            assert waiting.error.retry_time.seconds > 0
            not_done = await service.stub.WaitInstalls(_wait(0.1))
            assert not not_done.done
    async with install_service(data_dir) as service:
        done = await service.ended(job)
        assert done.state == COMPLETED, done.error
        assert done.attempt == 2
        assert done.model_key == job.model_key
        assert service.litter() == []


async def test_a_waiting_job_is_cancelled_with_everything_that_it_staged(
    data_dir: Path, source: Path
) -> None:
    path = small_lora(source / "style.safetensors")
    (data_dir.parent / "import").mkdir(exist_ok=True)
    async with records_beside(data_dir) as (records, address):
        async with install_beside(data_dir, records, "127.0.0.1:9") as service:
            job = await service.submit(path, inplace=False)
            await service.until(job, lambda i: i.stage == install_pb2.INSTALL_STAGE_WAITING_FOR_PEER)
            answer = await service.stub.CancelInstall(pb.CancelInstallRequest(id=job.id))
            assert answer.install.id == job.id
        async with install_beside(data_dir, records, address) as service:
            ended = await service.ended(job)
            assert ended.state == CANCELLED
            assert ended.end_time.seconds > 0
            assert [p for p in service.models.iterdir() if p.is_dir() and p.name != ".staging"] == []
            assert service.litter() == []
            assert await service.models_count() == 0
            again = await service.stub.CancelInstall(pb.CancelInstallRequest(id=job.id))
            assert again.install.state == CANCELLED
            done = await service.install(path)
            with fails(code="FAILED_PRECONDITION", reason="WRONG_STATE"):
                await service.stub.CancelInstall(pb.CancelInstallRequest(id=done.id))
            with fails(code="NOT_FOUND", reason="UNKNOWN_JOB"):
                await service.stub.CancelInstall(pb.CancelInstallRequest(id=999))


def _wait(seconds: float) -> pb.WaitInstallsRequest:
    request = pb.WaitInstallsRequest()
    request.timeout.FromMilliseconds(int(seconds * 1000))
    return request
