"""PauseInstall, ResumeInstall and DeleteInstall over real channels, with a real DownloadService beside."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from modelkeep.install.v1 import control_pb2 as control
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from support.downloads import downloads_beside
from support.failures import fails
from support.httpserver import HttpServer, Resource
from support.installs import InstallClient, install_beside, records_beside, small_lora
from support.modelshapes import write_safetensors
from support.waiting import until

COMPLETED, ERROR = install_pb2.INSTALL_STATE_COMPLETED, install_pb2.INSTALL_STATE_ERROR
PAUSED, CANCELLED = install_pb2.INSTALL_STATE_PAUSED, install_pb2.INSTALL_STATE_CANCELLED


async def pause(service: InstallClient, job: int) -> install_pb2.Install:
    answer = await service.stub.PauseInstall(control.PauseInstallRequest(id=job))
    found: install_pb2.Install = answer.install
    return found


async def resume(service: InstallClient, job: int, **secrets: str) -> install_pb2.Install:
    answer = await service.stub.ResumeInstall(control.ResumeInstallRequest(id=job, **secrets))
    found: install_pb2.Install = answer.install
    return found


async def delete(service: InstallClient, job: int) -> install_pb2.Install:
    answer = await service.stub.DeleteInstall(control.DeleteInstallRequest(id=job))
    found: install_pb2.Install = answer.install
    return found


def body(folder: Path) -> bytes:
    return small_lora(folder / "made.safetensors").read_bytes()


async def half_way(service: InstallClient, job: install_pb2.Install) -> install_pb2.Install:
    """The job when some of it has come."""
    return await service.until(job, lambda now: now.progress.bytes_done > 0 and now.download_id > 0)


async def test_a_paused_download_keeps_its_bytes_and_goes_on_from_them(
    with_downloads: InstallClient, web: HttpServer, tmp_path: Path
) -> None:
    content = body(tmp_path)
    resource = Resource(content, rate=len(content) // 2)
    job = await with_downloads.submit(web.put("/ink.safetensors", resource))
    await half_way(with_downloads, job)
    paused = await pause(with_downloads, job.id)
    assert (paused.state, paused.HasField("error")) == (PAUSED, False)
    assert paused.progress.bytes_done > 0
    await until(lambda: not web.active("/ink.safetensors"))
    served = web.bytes_served("/ink.safetensors")
    await asyncio.sleep(0.3)
    assert (await with_downloads.get(job)).state == PAUSED
    assert web.bytes_served("/ink.safetensors") == served, "nothing comes while it is paused"
    assert (await pause(with_downloads, job.id)).revision == paused.revision, "it is paused already"

    resource.rate = None
    await resume(with_downloads, job.id)
    done = await with_downloads.ended(job)
    assert done.state == COMPLETED
    assert Path(done.local_path).read_bytes() == content
    assert done.download_id == paused.download_id
    assert await with_downloads.models_count() == 1
    assert with_downloads.litter() == []


async def test_a_pause_outlives_a_restart_and_the_same_import_ends_it(
    data_dir: Path, web: HttpServer, tmp_path: Path
) -> None:
    content = body(tmp_path)
    resource = Resource(content, rate=len(content) // 2)
    url = web.put("/ink.safetensors", resource)
    async with downloads_beside(data_dir) as downloads, records_beside(data_dir) as (records, address):
        async with install_beside(data_dir, records, address, downloads) as service:
            job = await service.submit(url)
            await half_way(service, job)
            before = await pause(service, job.id)
        async with install_beside(data_dir, records, address, downloads) as service:
            await asyncio.sleep(0.2)
            now = await service.get(job)
            assert (now.state, now.attempt, now.revision) == (PAUSED, before.attempt, before.revision)
            resource.rate = None
            again = await service.submit(url)
            assert again.id == job.id
            assert (await service.ended(job)).state == COMPLETED


async def test_a_local_install_that_is_paused_starts_no_further_step(
    service: InstallClient, source: Path, held_hash: threading.Event
) -> None:
    job = await service.submit(small_lora(source / "ink.safetensors"), inplace=False)
    await service.until(job, lambda now: now.stage == install_pb2.INSTALL_STAGE_HASHING)
    pausing = asyncio.ensure_future(pause(service, job.id))
    await asyncio.sleep(0.1)
    held_hash.set()  # what has begun is done
    assert (await pausing).state == PAUSED
    assert await service.models_count() == 0
    await resume(service, job.id)
    assert (await service.ended(job)).state == COMPLETED
    assert service.litter() == []


async def test_a_paused_job_is_cancelled_like_any_other(
    with_downloads: InstallClient, web: HttpServer, tmp_path: Path
) -> None:
    content = body(tmp_path)
    job = await with_downloads.submit(web.put("/ink.safetensors", Resource(content, rate=len(content) // 4)))
    await half_way(with_downloads, job)
    await pause(with_downloads, job.id)
    await with_downloads.stub.CancelInstall(pb.CancelInstallRequest(id=job.id))
    assert (await with_downloads.ended(job)).state == CANCELLED
    assert with_downloads.litter() == []


async def test_what_waits_for_a_token_is_paused_and_goes_on_with_one(
    data_dir: Path, web: HttpServer, tmp_path: Path
) -> None:
    content = body(tmp_path)
    resource = Resource(content, authorization="Bearer open-sesame", rate=len(content) // 2)
    url = web.put("/ink.safetensors", resource)
    async with records_beside(data_dir) as (records, address):
        async with (
            downloads_beside(data_dir) as downloads,
            install_beside(data_dir, records, address, downloads) as service,
        ):
            job = await service.submit(url, access_token="open-sesame")
            await half_way(service, job)
        async with (  # both lose what they held in memory
            downloads_beside(data_dir) as downloads,
            install_beside(data_dir, records, address, downloads) as service,
        ):
            waiting = await service.until(job, lambda now: now.state == PAUSED)
            assert waiting.error.reason == "TOKEN_REQUIRED"
            with fails(code="FAILED_PRECONDITION", reason="TOKEN_REQUIRED") as found:
                await resume(service, job.id)
            assert found[0].metadata["needs"] == "access_token"
            paused = await pause(service, job.id)
            assert (paused.state, paused.HasField("error")) == (PAUSED, False)
            with fails(code="FAILED_PRECONDITION", reason="TOKEN_REQUIRED"):
                await resume(service, job.id)
            assert (await service.get(job)).state == PAUSED
            resource.rate = None
            answer = await resume(service, job.id, access_token="open-sesame")
            assert "open-sesame" not in str(answer)
            assert (await service.ended(job)).state == COMPLETED


async def test_a_job_that_lost_its_secrets_before_it_could_order_says_what_it_needs(
    data_dir: Path, web: HttpServer, tmp_path: Path
) -> None:
    shown = web.put("/ink.safetensors", Resource(body(tmp_path)))
    secret = f"{shown}?token=hush-hush"
    async with records_beside(data_dir) as (records, address):
        async with install_beside(data_dir, records, address) as service:  # without a DownloadService
            job = await service.submit(secret)
            assert (await pause(service, job.id)).state == PAUSED
        async with (
            downloads_beside(data_dir) as downloads,
            install_beside(data_dir, records, address, downloads) as service,
        ):
            with fails(code="FAILED_PRECONDITION", reason="TOKEN_REQUIRED") as found:
                await resume(service, job.id)
            assert found[0].metadata["needs"] == "source_url"
            with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["source_url"]):
                await resume(service, job.id, source_url=shown.replace("ink", "other"))
            await resume(service, job.id, source_url=secret)
            done = await service.ended(job)
            assert done.state == COMPLETED, done.error
            assert "hush" not in str(done)


async def test_what_has_ended_or_is_not_there_is_neither_paused_nor_resumed(
    service: InstallClient, source: Path
) -> None:
    done = await service.install(small_lora(source / "ink.safetensors"))
    failed = await service.install(write_safetensors(source / "bad.safetensors", {"x": [1]}))
    assert (done.state, failed.state) == (COMPLETED, ERROR)
    for call in (pause, resume):
        for job in (done, failed):
            with fails(code="FAILED_PRECONDITION", reason="WRONG_STATE") as found:
                await call(service, job.id)
            assert found[0].metadata["allowed"] == "waiting,running,paused"
        with fails(code="NOT_FOUND", reason="UNKNOWN_JOB"):
            await call(service, 99)


async def test_a_running_job_is_not_resumed_and_a_local_one_takes_no_secret(
    service: InstallClient, source: Path, held_hash: threading.Event
) -> None:
    job = await service.submit(small_lora(source / "ink.safetensors"))
    before = await service.until(job, lambda now: now.stage == install_pb2.INSTALL_STAGE_HASHING)
    assert (await resume(service, job.id, access_token="x")).revision == before.revision
    pausing = asyncio.ensure_future(pause(service, job.id))
    held_hash.set()
    assert (await pausing).state == PAUSED
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["access_token"]):
        await resume(service, job.id, access_token="x")
    await resume(service, job.id)
    assert (await service.ended(job)).state == COMPLETED


# ---- DeleteInstall ----------------------------------------------------------------------------------------
async def test_a_job_under_way_is_cancelled_and_forgotten_with_what_it_staged(
    with_downloads: InstallClient, web: HttpServer, tmp_path: Path
) -> None:
    content = body(tmp_path)
    job = await with_downloads.submit(web.put("/ink.safetensors", Resource(content, rate=len(content) // 4)))
    await half_way(with_downloads, job)
    assert (await delete(with_downloads, job.id)).state == CANCELLED
    with fails(code="NOT_FOUND", reason="UNKNOWN_JOB"):
        await with_downloads.get(job)
    with fails(code="NOT_FOUND", reason="UNKNOWN_JOB"):
        await delete(with_downloads, job.id)
    assert with_downloads.litter() == []
    assert await with_downloads.models_count() == 0


async def test_a_model_outlives_its_job_and_a_kept_download_does_not(
    with_downloads: InstallClient, web: HttpServer, source: Path, tmp_path: Path
) -> None:
    done = await with_downloads.install(small_lora(source / "ink.safetensors"))
    assert (await delete(with_downloads, done.id)).model == done.model
    assert await with_downloads.models_count() == 1
    unknown = write_safetensors(tmp_path / "unknown.safetensors", {"x": [1]}).read_bytes()
    failed = await with_downloads.install(web.put("/unknown.safetensors", Resource(unknown)))
    kept = Path(failed.error.metadata["kept_path"])
    assert kept.exists()
    other = await with_downloads.install(web.put("/unknown2.safetensors", Resource(unknown)))
    assert (await delete(with_downloads, failed.id)).state == ERROR
    assert not kept.exists()
    assert Path(other.error.metadata["kept_path"]).exists()


async def test_a_job_that_does_not_end_in_time_is_told(
    service: InstallClient, source: Path, held_hash: threading.Event
) -> None:
    job = await service.submit(small_lora(source / "ink.safetensors"))
    await service.until(job, lambda now: now.stage == install_pb2.INSTALL_STAGE_HASHING)
    with fails(code="DEADLINE_EXCEEDED", reason="DEADLINE_EXCEEDED") as found:
        await service.stub.DeleteInstall(control.DeleteInstallRequest(id=job.id), timeout=1)
    assert found[0].metadata["id"] == str(job.id)
    held_hash.set()
    assert (await service.ended(job)).state == CANCELLED
    assert (await delete(service, job.id)).state == CANCELLED
