"""Cancelling an install at every step: it ends CANCELLED, the source stays, and nothing else does."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep_install import files
from modelkeep_install.domain.jobs import Job
from modelkeep_install.store import InstallStore
from support.httpserver import HttpServer, Resource
from support.installs import InstallClient, small_lora

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED
CANCELLED = install_pb2.INSTALL_STATE_CANCELLED


@pytest.fixture
def service(with_downloads: InstallClient) -> InstallClient:
    return with_downloads


@pytest.mark.timeout(90)
@pytest.mark.parametrize("kind", ["in place", "copy", "url"])
async def test_a_job_is_cancelled_at_any_write_but_its_last(
    service: InstallClient, data_dir: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = small_lora(data_dir.parent / "import" / "a.safetensors")
    content = path.read_bytes()
    save = InstallStore.save
    step = seen = 0

    async def save_then_cancel(self: InstallStore, job: Job, **fields: Any) -> Job:
        nonlocal seen
        saved = await save(self, job, **fields)
        seen += 1
        if seen == step and not saved.state.final:
            await service.stub.CancelInstall(pb.CancelInstallRequest(id=job.id))
        return saved

    monkeypatch.setattr(InstallStore, "save", save_then_cancel)
    with HttpServer() as http:
        what = http.put("/a.safetensors", Resource(content)) if kind == "url" else path
        while True:
            step, seen = step + 1, 0
            job = await service.install(what, inplace=kind == "in place")
            if job.state == COMPLETED:
                break
            assert (job.state, job.error.reason) == (CANCELLED, ""), step
            assert (service.litter(), await service.models_count()) == ([], 0), step
            assert list(service.models.rglob("*.safetensors")) == []
            assert path.read_bytes() == content
    assert step > 5
    assert await service.models_count() == 1


async def test_a_source_can_be_imported_anew_as_soon_as_its_job_was_cancelled(
    service: InstallClient, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_lora(data_dir.parent / "import" / "a.safetensors")
    copy_file, go_on = files.copy_file, threading.Event()

    def slow(*args: Any, **fields: Any) -> int:
        go_on.wait(15)
        return copy_file(*args, **fields)

    monkeypatch.setattr(files, "copy_file", slow)
    try:
        first = await service.submit(path, inplace=False)
        await service.until(first, lambda i: i.stage == install_pb2.INSTALL_STAGE_MOVING)
        await service.stub.CancelInstall(pb.CancelInstallRequest(id=first.id))
        second = await service.submit(path, inplace=True)  # with other arguments, too
    finally:
        go_on.set()
    assert second.id != first.id
    assert (await service.ended(first)).state == CANCELLED
    assert (await service.ended(second)).state == COMPLETED


async def test_a_copy_that_waits_behind_others_is_cancelled_at_once(
    service: InstallClient, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_file, go_on = files.copy_file, threading.Event()

    def slow(*args: Any, **fields: Any) -> int:
        go_on.wait(15)
        return copy_file(*args, **fields)

    monkeypatch.setattr(files, "copy_file", slow)
    try:
        jobs = [
            await service.submit(small_lora(data_dir.parent / "import" / f"{n}.safetensors"), inplace=False)
            for n in range(4)
        ]
        for job in jobs:
            await service.until(job, lambda i: i.stage == install_pb2.INSTALL_STAGE_MOVING)
        await service.stub.CancelInstall(pb.CancelInstallRequest(id=jobs[-1].id))
        assert (await service.ended(jobs[-1], timeout=10)).state == CANCELLED
    finally:
        go_on.set()
    for job in jobs[:-1]:
        assert (await service.ended(job)).state == COMPLETED
    assert service.litter() == []
