"""InstallService with a real DownloadService and RecordService: models from URLs."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc.aio
import pytest

from modelkeep.download.v1 import download_service_pb2 as download_pb
from modelkeep.download.v1 import download_service_pb2_grpc
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.server.v1 import job_pb2
from modelkeep_install.hashing import digest_file
from support.downloads import DownloadClient, downloads_beside
from support.httpserver import Cut, HttpServer, Resource, Status
from support.installs import InstallClient, install_beside, install_service, records_beside

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED
ERROR = install_pb2.INSTALL_STATE_ERROR
CANCELLED = install_pb2.INSTALL_STATE_CANCELLED
PAUSED = install_pb2.INSTALL_STATE_PAUSED


@pytest.fixture
async def service(data_dir: Path) -> AsyncIterator[InstallClient]:
    async with (
        downloads_beside(data_dir, max_attempts=2) as address,
        install_service(data_dir, download_address=address) as client,
    ):
        yield client


async def test_a_url_becomes_a_registered_model_with_progress_on_the_way(
    service: InstallClient, web: HttpServer, lora: bytes
) -> None:
    url = web.put("/files/style.safetensors", Resource(lora, rate=len(lora)))
    call = service.stub.WatchInstalls(pb.WatchInstallsRequest())
    frames = aiter(call)
    await anext(frames)
    job = await service.submit(url)
    progress: list[job_pb2.JobProgress] = []
    stages: list[int] = []
    async for frame in frames:
        for event in frame.events:
            if event.HasField("progress"):
                assert event.revision == 0
                assert (event.progress.id, event.ByteSize() < 1024) == (job.id, True)
                progress.append(event.progress)
            elif event.put.id == job.id:
                stages.append(event.put.stage)
        if frame.events and frame.events[-1].put.state in (COMPLETED, ERROR):
            break
    call.cancel()
    done = await service.get(job)
    assert done.state == COMPLETED, done.error
    assert len(progress) >= 2
    assert all(p.progress.bytes_total == len(lora) for p in progress[1:])
    names = [
        install_pb2.InstallStage.Name(s).removeprefix("INSTALL_STAGE_") for s in dict.fromkeys(stages) if s
    ]
    assert names == ["DOWNLOADING", "PROBING", "HASHING", "MOVING", "REGISTERING"]
    placed = service.models / done.model_key / "style.safetensors"
    assert placed.read_bytes() == lora
    assert placed.stat().st_mode & 0o777 == 0o444
    assert done.local_path == str(placed)
    assert done.download_id > 0
    assert done.progress.bytes_done == len(lora)
    model = await service.model(done.model_key)
    assert (model.name, model.base, model.source) == ("style", "sd-1", url)
    assert model.source_type == taxonomy_pb2.MODEL_SOURCE_TYPE_URL
    assert model.path == f"{done.model_key}/style.safetensors"
    assert web.bytes_served("/files/style.safetensors") == len(lora)
    assert service.litter() == []


async def test_an_expected_hash_is_checked_and_marks_the_file_as_verified(
    service: InstallClient, web: HttpServer, lora: bytes
) -> None:
    url = web.put("/a.safetensors", Resource(lora))
    digest = hashlib.sha256(lora).hexdigest()
    job = await service.install(url, expected_sha256=digest.upper())
    assert job.state == COMPLETED, job.error
    [file] = await service.digested(job.model_key)
    assert (file.sha256, file.digest_state) == (digest, model_pb2.DIGEST_STATE_VERIFIED)
    wrong = await service.install(web.put("/b.safetensors", Resource(lora)), expected_sha256="0" * 64)
    assert (wrong.state, wrong.error.reason, wrong.error.code) == (ERROR, "CHECKSUM_MISMATCH", "DATA_LOSS")
    assert wrong.error.reason == "CHECKSUM_MISMATCH"
    # DownloadService keeps the wrong file apart until its job is pruned; nothing of ours is left
    assert service.litter() == [f".staging/download-{wrong.download_id}"]
    assert await service.models_count() == 1


async def test_a_source_that_is_not_there_fails_the_job_with_the_downloads_reason(
    service: InstallClient, web: HttpServer
) -> None:
    job = await service.install(web.url("/missing.safetensors"))
    assert (job.state, job.error.reason) == (ERROR, "SOURCE_NOT_FOUND")
    assert service.litter() == []


async def test_a_failed_install_keeps_its_download_until_it_is_pruned_and_says_how_to_go_on(
    service: InstallClient, web: HttpServer
) -> None:
    from support.modelshapes import write_safetensors

    llama = write_safetensors(service.models.parent / "llama.safetensors", {"layers.0.weight": [8, 8]})
    url = web.put("/llama.safetensors", Resource(llama.read_bytes()))
    job = await service.install(url)
    assert (job.state, job.error.reason) == (ERROR, "INVALID_MODEL")
    kept = Path(job.error.metadata["kept_path"])
    assert f"install from {kept}." in job.error.message
    assert kept.read_bytes() == llama.read_bytes()
    # it can be installed from there, and is copied: the staging folder goes with its job
    overrides = install_pb2.ModelOverrides(type=taxonomy_pb2.MODEL_TYPE_TEXT_LLM, base="any")
    again = await service.install(kept, overrides=overrides)
    assert again.state == COMPLETED, again.error
    await service.stub.PruneInstalls(pb.PruneInstallsRequest())
    assert service.litter() == []
    assert (service.models / again.model_key / "llama.safetensors").exists()


async def test_installs_do_not_preserve_partial_files(
    service: InstallClient, web: HttpServer, lora: bytes
) -> None:
    path = "/changing.safetensors"
    job = await service.submit(web.put(path, Resource(lora, rate=len(lora) // 2)))
    job = await service.until(job, lambda i: i.progress.bytes_done > 0)
    async with grpc.aio.insecure_channel(service.download_address) as channel:
        downloads = DownloadClient(channel, service.models)
        download = await downloads.get(job.download_id)
        assert not download.preserve_partial
        assert len(service.litter()) > 0
        for version in (2, 3):  # the second change is an error
            await downloads.until(download, lambda now: now.progress.bytes_done > 0)
            await downloads.stub.PauseDownload(download_pb.PauseDownloadRequest(id=download.id))
            web.put(path, Resource(lora[:-version], etag=f'"v{version}"', rate=len(lora) // 2))
            await downloads.stub.StartDownload(download_pb.StartDownloadRequest(id=download.id))
            await downloads.until(download, lambda now: len(web.requests_of(path)) >= version)  # noqa: B023
        ended = await service.ended(job)
    assert (ended.state, ended.error.reason) == (ERROR, "SOURCE_CHANGED")
    assert service.litter() == []


async def test_what_no_overrides_make_a_model_of_is_kept_without_advice_to_install_it(
    service: InstallClient, web: HttpServer
) -> None:
    for name, body in (("empty", b""), ("archive", b"PK\x03\x04" + bytes(400)), ("pickle", b"\x80\x02}q\0.")):
        job = await service.install(web.put(f"/{name}", Resource(body)))
        assert job.error.reason in ("INVALID_MODEL", "UNSAFE_FORMAT"), name
        assert f", as {job.error.metadata['kept_path']}." in job.error.message
        assert "install from" not in job.error.message


async def test_a_cancelled_download_leaves_nothing(
    service: InstallClient, web: HttpServer, lora: bytes
) -> None:
    url = web.put("/slow.safetensors", Resource(lora, rate=len(lora) // 20))
    job = await service.submit(url)
    await service.until(job, lambda i: i.progress.bytes_done > 0)
    await service.stub.CancelInstall(pb.CancelInstallRequest(id=job.id))
    ended = await service.ended(job)
    assert ended.state == CANCELLED
    await asyncio.sleep(0.2)
    assert service.litter() == []
    assert await service.models_count() == 0


async def test_tokens_reach_the_source_and_nothing_else(
    service: InstallClient, web: HttpServer, lora: bytes, data_dir: Path
) -> None:
    secret = "hf_veryverysecret"
    url = web.put("/gated.safetensors", Resource(lora, authorization=f"Bearer {secret}"))
    job = await service.install(url, access_token=secret)
    assert job.state == COMPLETED, job.error
    other = web.put("/signed.safetensors", Resource(lora))
    signed = await service.install(f"{other}?token=alsosecret&v=1")
    assert signed.state == COMPLETED, signed.error
    assert "alsosecret" in web.requests_of("/signed.safetensors")[0].path
    assert signed.source.url == f"{other}?token=REDACTED&v=1"
    assert secret not in str(job)
    assert "alsosecret" not in str(signed)
    for name in ("install", "record"):
        with sqlite3.connect(data_dir / name / f"{name}.db") as conn:
            dump = "\n".join(conn.iterdump())
        conn.close()
        assert secret not in dump
        assert "alsosecret" not in dump
    for file in (data_dir / "install").iterdir():
        content = file.read_bytes()
        assert secret.encode() not in content
        assert b"alsosecret" not in content


async def test_a_source_that_wants_a_token_fails_with_what_is_needed(
    service: InstallClient, web: HttpServer, lora: bytes
) -> None:
    url = web.put("/gated.safetensors", Resource(lora, authorization="Bearer right"))
    job = await service.submit(url)
    stopped = await service.until(job, lambda i: i.state in (PAUSED, ERROR))
    assert stopped.error.reason == "TOKEN_REQUIRED"


async def test_a_job_whose_secret_went_with_a_restart_pauses_and_goes_on_with_a_new_one(
    data_dir: Path, web: HttpServer, lora: bytes
) -> None:
    url = web.put("/gated.safetensors", Resource(lora, authorization="Bearer right"))
    async with records_beside(data_dir) as (records, address):
        async with install_beside(data_dir, records, address) as service:
            job = await service.submit(url, access_token="right")
            await service.until(job, lambda i: i.stage == install_pb2.INSTALL_STAGE_WAITING_FOR_PEER)
        async with (
            downloads_beside(data_dir) as downloads,
            install_beside(data_dir, records, address, downloads) as service,
        ):
            paused = await service.until(job, lambda i: i.state == PAUSED)
            assert paused.error.reason == "TOKEN_REQUIRED"
            assert paused.error.reason == "TOKEN_REQUIRED"
            assert (await service.submit(url, access_token="right")).id == job.id
            done = await service.ended(job)
            assert done.state == COMPLETED, done.error
            assert await service.models_count() == 1


async def test_a_download_that_lost_its_token_goes_on_when_the_install_gets_it_again(
    data_dir: Path, web: HttpServer, lora: bytes
) -> None:
    url = web.put("/gated.safetensors", Resource(lora, rate=len(lora) // 2, authorization="Bearer right"))
    signed = web.put("/signed.safetensors", Resource(lora, rate=len(lora) // 2))
    async with records_beside(data_dir) as (records, address):
        async with (
            downloads_beside(data_dir) as downloads,
            install_beside(data_dir, records, address, downloads) as service,
        ):
            jobs = [
                await service.submit(url, access_token="right"),
                await service.submit(f"{signed}?token=secret"),
            ]
            for job in jobs:
                await service.until(job, lambda i: i.progress.bytes_done > 0)
        async with (
            downloads_beside(data_dir) as downloads,
            install_beside(data_dir, records, address, downloads) as service,
        ):
            for job in jobs:
                paused = await service.until(job, lambda i: i.state == PAUSED)
                assert paused.error.reason == "TOKEN_REQUIRED"
            await service.submit(url, access_token="right")
            await service.submit(f"{signed}?token=secret")
            for job in jobs:
                done = await service.ended(job)
                assert done.state == COMPLETED, done.error
            assert await service.models_count() == 2


async def test_a_paused_download_pauses_its_install(
    service: InstallClient, web: HttpServer, lora: bytes, data_dir: Path
) -> None:
    url = web.put("/slow.safetensors", Resource(lora, rate=len(lora) // 2))
    job = await service.submit(url)
    running = await service.until(job, lambda i: i.progress.bytes_done > 0)
    info = service.download_address
    async with grpc.aio.insecure_channel(info) as channel:
        stub = download_service_pb2_grpc.DownloadServiceStub(channel)
        await stub.PauseDownload(download_pb.PauseDownloadRequest(id=running.download_id))
        paused = await service.until(job, lambda i: i.state == PAUSED)
        assert not paused.HasField("error")
        await stub.StartDownload(download_pb.StartDownloadRequest(id=running.download_id))
        done = await service.ended(job)
    assert done.state == COMPLETED, done.error


async def test_what_is_paused_goes_on_when_it_is_installed_again_and_its_download_has_the_installs_labels(
    service: InstallClient, web: HttpServer, lora: bytes
) -> None:
    url = web.put("/slow.safetensors", Resource(lora, rate=len(lora) // 2))
    job = await service.submit(url, labels={"team": "a"})
    running = await service.until(job, lambda i: i.progress.bytes_done > 0)
    async with grpc.aio.insecure_channel(service.download_address) as channel:
        stub = download_service_pb2_grpc.DownloadServiceStub(channel)
        labelled = download_pb.ListDownloadsRequest(queue="install", labels={"team": "a"})
        assert [d.id for d in (await stub.ListDownloads(labelled)).downloads] == [running.download_id]
        await stub.PauseDownload(download_pb.PauseDownloadRequest(id=running.download_id))
    await service.until(job, lambda i: i.state == PAUSED)
    again = await service.submit(url, labels={"team": "a"})
    assert again.id == job.id
    done = await service.ended(job)
    assert done.state == COMPLETED, done.error


async def test_an_address_that_runs_out_in_the_middle_is_replaced_by_installing_the_new_one(
    service: InstallClient, web: HttpServer, lora: bytes
) -> None:
    faults = [Cut(len(lora) // 2), Status(403, body=b"Request has expired")]
    old = web.put("/a.safetensors?X-Amz-Signature=first-one", Resource(lora, faults=[*faults]))
    job = await service.submit(old)
    paused = await service.until(job, lambda i: i.state == PAUSED)
    assert paused.error.reason == "ADDRESS_EXPIRED"
    assert "Request has expired" in paused.error.message
    new = web.put("/a.safetensors?X-Amz-Signature=second-one", Resource(lora))
    assert (await service.submit(new)).id == job.id
    done = await service.ended(job)
    assert done.state == COMPLETED, done.error
    assert web.requests[-1].offset == len(lora) // 2


async def test_two_urls_download_side_by_side(service: InstallClient, web: HttpServer, lora: bytes) -> None:
    urls = [web.put(f"/{n}.safetensors", Resource(lora, rate=len(lora) // 100)) for n in range(4)]
    jobs = [await service.submit(url) for url in urls]
    for job in jobs:  # each has begun while none can have ended
        await service.until(job, lambda i: i.progress.bytes_done > 0)
    for resource in web.resources.values():
        resource.rate = None
    done = [await service.ended(job) for job in jobs]
    assert all(job.state == COMPLETED for job in done)
    assert len({job.model_key for job in done}) == 4


async def test_a_download_that_downloadservice_has_forgotten_is_made_again(
    data_dir: Path, web: HttpServer, lora: bytes
) -> None:
    urls = [web.put(f"/{n}.safetensors", Resource(lora, rate=len(lora) // 3)) for n in range(2)]
    async with records_beside(data_dir) as (records, address):
        async with (
            downloads_beside(data_dir) as downloads,
            install_beside(data_dir, records, address, downloads) as service,
        ):
            jobs = [await service.submit(url) for url in urls]
            for job in jobs:
                await service.until(job, lambda i: i.progress.bytes_done > 0)
        await asyncio.to_thread(shutil.rmtree, data_dir / "download")
        for url in urls:
            web.put(urlsplit(url).path, Resource(lora))
        async with (
            downloads_beside(data_dir) as downloads,
            install_beside(data_dir, records, address, downloads) as service,
        ):
            for job in jobs:
                done = await service.ended(job)
                assert done.state == COMPLETED, done.error
                assert Path(done.local_path).read_bytes() == lora
            assert await service.models_count() == 2


async def test_a_file_that_vanishes_before_it_is_hashed_is_marked_so(
    service: InstallClient, web: HttpServer, lora: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(path: Path, *args: Any, **kwargs: Any) -> Any:
        path.unlink()
        return digest_file(path, *args, **kwargs)

    monkeypatch.setattr("modelkeep_install.digests.digest_file", vanish)
    job = await service.install(web.put("/a.safetensors", Resource(lora)))
    [file] = await service.digested(job.model_key)
    assert (file.digest_state, file.sha256) == (model_pb2.DIGEST_STATE_FAILED, "")
