"""InstallService when callers leave, peers fall silent, and what is on disk changes under it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from modelkeep.download.v1 import download_pb2, download_service_pb2_grpc
from modelkeep.download.v1 import download_service_pb2 as download_pb
from modelkeep.exceptions import DeadlineExceededException, DiskFullException, UnknownModelException
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1 import model_pb2
from modelkeep.rpc import Address, open_async_channel
from modelkeep_install import files, peers
from modelkeep_install.domain.jobs import Job, State
from modelkeep_install.hashing import digest_file
from modelkeep_install.peers import Downloads, Records
from modelkeep_install.store import InstallStore
from support.failures import fails
from support.httpserver import HttpServer, Resource, pattern
from support.installs import InstallClient, records_beside, small_lora
from support.waiting import until

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED
CANCELLED = install_pb2.INSTALL_STATE_CANCELLED
ERROR = install_pb2.INSTALL_STATE_ERROR


async def leave_in_the_middle(call: Any, begun: asyncio.Event) -> None:
    """Cancels a call, as a caller's Ctrl-C or deadline does, once the service has begun its work."""
    task = asyncio.ensure_future(call)
    await begun.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def slow(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> asyncio.Event:
    """Lets a method take a while after its work is done; gives the event of that moment."""
    method, begun = getattr(owner, name), asyncio.Event()

    async def slowed(*args: Any, **kwargs: Any) -> Any:
        answer = await method(*args, **kwargs)
        begun.set()
        await asyncio.sleep(0.3)
        return answer

    monkeypatch.setattr(owner, name, slowed)
    return begun


def answer_lost(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, times: int = 1) -> list[None]:
    """Lets calls of a peer do their work, and then time out; gives a list that grows with each."""
    method, lost = getattr(owner, name), list[None]()

    async def losing(*args: Any, **kwargs: Any) -> Any:
        answer = await method(*args, **kwargs)
        if len(lost) < times:
            lost.append(None)
            raise DeadlineExceededException("The peer did not answer in time.")
        return answer

    monkeypatch.setattr(owner, name, losing)
    return lost


def full_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Lets a method of the store fail once, as on a full disk."""
    method, failed = getattr(InstallStore, name), list[None]()

    async def failing(*args: Any, **kwargs: Any) -> Any:
        if not failed:
            failed.append(None)
            raise DiskFullException("The file system has no room for the database: free some space.")
        return await method(*args, **kwargs)

    monkeypatch.setattr(InstallStore, name, failing)


# ---- callers that leave -----------------------------------------------------------------------------------
async def test_an_import_whose_caller_leaves_after_it_was_stored_runs(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = slow(monkeypatch, InstallStore, "create")
    await leave_in_the_middle(service.submit(small_lora(source / "a.safetensors")), begun)
    job = await service.until(1, lambda job: job.state == COMPLETED)
    assert await service.models_count() == 1, job


async def test_a_cancel_whose_caller_leaves_after_it_was_stored_cancels(
    with_downloads: InstallClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HttpServer() as http:
        job = await with_downloads.submit(http.put("/a.safetensors", Resource(pattern(10**6), rate=10_000)))
        await with_downloads.until(job, lambda i: i.download_id > 0)
        begun = slow(monkeypatch, InstallStore, "request_cancel")
        call = with_downloads.stub.CancelInstall(pb.CancelInstallRequest(id=job.id))
        await leave_in_the_middle(call, begun)
        assert (await with_downloads.ended(job)).state == CANCELLED


async def test_an_uninstall_whose_caller_leaves_deletes_the_files_with_the_record(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await service.install(small_lora(source / "a.safetensors"), inplace=False)
    await service.digested(job.model_key)
    begun = slow(monkeypatch, Records, "delete")
    request = pb.UninstallModelRequest(key=job.model_key, files=pb.UNINSTALL_FILES_OWNED)
    await leave_in_the_middle(service.stub.UninstallModel(request), begun)
    await until(lambda: not Path(job.local_path).parent.exists())
    assert await service.models_count() == 0


# ---- peers that fall silent -------------------------------------------------------------------------------
async def test_an_uninstall_whose_answer_was_lost_deletes_the_files_without_a_restart(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await service.install(small_lora(source / "a.safetensors"), inplace=False)
    await service.digested(job.model_key)
    answer_lost(monkeypatch, Records, "delete")
    with fails(code="DEADLINE_EXCEEDED", reason="DEADLINE_EXCEEDED"):
        await service.stub.UninstallModel(
            pb.UninstallModelRequest(key=job.model_key, files=pb.UNINSTALL_FILES_OWNED)
        )
    await until(lambda: not Path(job.local_path).parent.exists())


async def test_digests_are_brought_again_when_the_record_service_takes_too_long(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_slow(*args: object) -> None:
        raise DeadlineExceededException("RecordService did not answer in time.")

    with monkeypatch.context() as patch:
        patch.setattr(Records, "replace_files", too_slow)
        job = await service.install(small_lora(source / "a.safetensors"))
        await asyncio.sleep(0.3)
        [file] = await service.files(job.model_key)
        assert file.digest_state == model_pb2.DIGEST_STATE_PENDING
    [file] = await service.digested(job.model_key)
    assert file.digest_state == model_pb2.DIGEST_STATE_COMPUTED


async def test_a_defect_of_a_peer_is_told_with_the_id_to_find_it_by(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def defect(*args: object, **fields: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr("modelkeep_record.domain.rules.create", defect)
    job = await service.install(small_lora(source / "a.safetensors"))
    assert (job.state, job.error.reason) == (ERROR, "INTERNAL")
    assert re.search("RecordService failed: .* request id [0-9a-f-]+", job.error.message)
    assert "a secret" not in str(job)


async def test_digests_are_computed_again_when_the_disk_of_the_store_has_room_again(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        for name in ("save_digest", "drop_digests"):
            full_once(patch, name)
        job = await service.install(small_lora(source / "a.safetensors"))
        [file] = await service.digested(job.model_key)
        assert file.digest_state == model_pb2.DIGEST_STATE_COMPUTED


async def test_a_download_whose_order_was_never_answered_is_cancelled_with_its_job(
    with_downloads: InstallClient, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = with_downloads
    lost = answer_lost(monkeypatch, Downloads, "create", times=1)
    monkeypatch.setattr("modelkeep_install.run.FIRST_RETRY_S", 30.0)  # no second try by itself
    with HttpServer() as http:
        url = http.put("/a.safetensors", Resource(pattern(2_000_000), rate=200_000))
        job = await service.submit(url)
        await until(lambda: bool(lost))
        await service.stub.CancelInstall(pb.CancelInstallRequest(id=job.id))
        assert (await service.ended(job)).state == CANCELLED
        async with grpc.aio.insecure_channel(service.download_address) as channel:
            stub = download_service_pb2_grpc.DownloadServiceStub(channel)
            wait = download_pb.WaitDownloadsRequest(queue=peers.QUEUE)
            wait.timeout.FromSeconds(5)
            assert (await stub.WaitDownloads(wait)).done
            listed = await stub.ListDownloads(download_pb.ListDownloadsRequest(queue=peers.QUEUE))
        assert [d.state for d in listed.downloads] == [download_pb2.DOWNLOAD_STATE_CANCELLED]
        await until(lambda: service.litter() == [])


async def test_a_download_ends_with_the_job_that_failed_beside_it(
    with_downloads: InstallClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = with_downloads
    save, failed = InstallStore.save, list[int]()

    async def full_once(self: InstallStore, job: Job, **fields: Any) -> Job:
        saved = await save(self, job, **fields)
        if job.download_id and not failed:
            failed.append(job.download_id)
            raise sqlite3.OperationalError("database or disk is full")
        return saved

    monkeypatch.setattr(InstallStore, "save", full_once)
    with HttpServer() as http:
        job = await service.install(http.put("/a.safetensors", Resource(pattern(2_000_000), rate=200_000)))
        assert (job.state, job.error.reason) == (ERROR, "INTERNAL")
        async with grpc.aio.insecure_channel(service.download_address) as channel:
            stub = download_service_pb2_grpc.DownloadServiceStub(channel)
            wait = download_pb.WaitDownloadsRequest(ids=failed)
            wait.timeout.FromSeconds(5)
            answer = await stub.WaitDownloads(wait)
        assert [d.state for d in answer.downloads] == [download_pb2.DOWNLOAD_STATE_CANCELLED]
        await until(lambda: service.litter() == [])


async def test_a_proxy_in_the_environment_is_not_asked_for_a_peer(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with records_beside(data_dir) as (_, address):
        for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        for name in ("grpc_proxy", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        record = Address("record", address, "the test")
        channel = open_async_channel(record)
        with pytest.raises(UnknownModelException):
            await Records(channel, record).get("0" * 32)
        await channel.close()


# ---- a store that fails -----------------------------------------------------------------------------------
async def test_a_job_that_could_not_even_note_its_end_is_tried_again(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, failures = InstallStore.save, list[State]()

    async def full(self: InstallStore, job: Job, **fields: Any) -> Job:
        if len(failures) < 4:
            failures.append(job.state)
            raise sqlite3.OperationalError("database or disk is full")
        return await save(self, job, **fields)

    monkeypatch.setattr(InstallStore, "save", full)
    job = await service.install(small_lora(source / "a.safetensors"), inplace=False)
    assert len(failures) == 4
    assert (job.state, service.litter()) == (COMPLETED, [])


# ---- files that change, and records that lie --------------------------------------------------------------
@pytest.mark.parametrize("full", [{2, 3}, {2, 4}], ids=["at its next start", "at its end, twice"])
async def test_a_job_whose_end_cannot_be_noted_at_once_keeps_the_reason_that_it_failed_for(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch, full: set[int]
) -> None:
    save, seen = InstallStore.save, 0

    async def full_now_and_then(self: InstallStore, job: Job, **fields: Any) -> Job:
        nonlocal seen
        seen += job.failure is not None
        if job.failure is not None and seen in full:
            raise DiskFullException("The file system has no room for the database: free some space.")
        return await save(self, job, **fields)

    monkeypatch.setattr(InstallStore, "save", full_now_and_then)
    (source / "text.safetensors").write_text("text")
    job = await service.install(source / "text.safetensors")
    assert (job.state, job.error.reason) == (ERROR, "INVALID_MODEL"), job.error
    assert seen > max(full)


async def test_a_source_that_changes_before_it_is_copied_is_registered_as_what_was_copied(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_lora(source / "a.safetensors")
    other = small_lora(source / "other.safetensors", base="sdxl")
    copy_file = files.copy_file

    def swap_then_copy(*args: Any, **kwargs: Any) -> int:
        shutil.copyfile(other, path)
        size: int = copy_file(*args, **kwargs)
        return size

    monkeypatch.setattr(files, "copy_file", swap_then_copy)
    job = await service.install(path, inplace=False)
    assert job.state == COMPLETED, job.error
    assert (job.model.base, job.model.name, job.model.size_bytes) == ("sdxl", "a", other.stat().st_size)


@pytest.mark.parametrize("when", ["before", "during"])
async def test_a_file_that_changes_before_its_digests_are_known_gets_none(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    path = small_lora(source / "a.safetensors")

    def change() -> bool:
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\1")
        os.utime(path, (0, 0))  # whatever the clock's resolution
        return False

    def change_then_digest(path: Path, *args: Any, **fields: Any) -> Any:
        if when == "before":
            change()
        else:
            fields["stop"] = change
        return digest_file(path, *args, **fields)

    monkeypatch.setattr("modelkeep_install.digests.digest_file", change_then_digest)
    job = await service.install(path)
    [file] = await service.digested(job.model_key)
    assert (file.digest_state, file.sha256, file.blake3) == (model_pb2.DIGEST_STATE_FAILED, "", "")


async def test_pruning_installs_takes_a_download_of_the_wrong_hash_along(
    with_downloads: InstallClient,
) -> None:
    service = with_downloads
    with HttpServer() as http:
        wrong = Resource(b"\0wrong")
        job = await service.install(http.put("/a.safetensors", wrong), expected_sha256="0" * 64)
    assert (job.state, job.error.reason) == (ERROR, "CHECKSUM_MISMATCH")
    assert Path(job.error.metadata["quarantined_path"]).exists()
    await service.stub.PruneInstalls(pb.PruneInstallsRequest())
    assert service.litter() == []


# ---- numbers out of range ---------------------------------------------------------------------------------
async def test_a_timeout_out_of_all_bounds_is_clamped(service: InstallClient) -> None:
    request = pb.WaitInstallsRequest()
    request.timeout.seconds = 10**17
    assert (await service.stub.WaitInstalls(request)).done
