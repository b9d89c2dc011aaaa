"""Installs on a disk that is small, or full: never filled up, given free again, with what is missing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep_install import files
from support.downloads import downloads_beside
from support.httpserver import HttpServer, Resource
from support.installs import install_service, small_lora
from support.modelshapes import write_safetensors
from support.smalldisk import fill, free_bytes, small_disk

MIB = 1 << 20
COMPLETED, ERROR = install_pb2.INSTALL_STATE_COMPLETED, install_pb2.INSTALL_STATE_ERROR
CANCELLED = install_pb2.INSTALL_STATE_CANCELLED

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(64) as folder:
        (folder / "data").mkdir()
        yield folder


@pytest.fixture
def source(data_dir: Path) -> Path:
    """Import root on another disk."""
    folder = data_dir.parent / "import"
    folder.mkdir()
    return folder


def lora_of(path: Path, mib: int) -> Path:
    """A sound LoRA of about so many MiB."""
    unit = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    rank = (mib << 20) // (4 * (768 + 320)) + 1
    tensors = {f"{unit}.lora_down.weight": [rank, 768], f"{unit}.lora_up.weight": [320, rank]}
    return write_safetensors(path, tensors, dtype="F32")


def check_disk_full(job: install_pb2.Install) -> None:
    assert (job.state, job.error.reason) == (ERROR, "DISK_FULL"), job.error
    assert int(job.error.metadata["bytes_short"]) > 0
    assert job.error.metadata["remedy"] in job.error.message


def watch_the_copy(patch: pytest.MonkeyPatch, seen: Any) -> None:
    """Copies in blocks of a MiB; ``seen`` is called before each."""
    real = files._write_all  # between two file systems

    def copying(*args: Any) -> None:
        seen()
        real(*args)

    patch.setattr(files, "_READ_BYTES", MIB)
    patch.setattr(files, "_write_all", copying)


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
async def test_a_copy_that_does_not_fit_is_not_begun(disk: Path, source: Path, folder: bool) -> None:
    path = lora_of(source / "big" / "pytorch_lora_weights.safetensors", 60)
    async with install_service(disk / "data", import_roots=(source,)) as service:
        before = free_bytes(disk)
        job = await service.install(path.parent if folder else path, inplace=False)
        check_disk_full(job)
        assert int(job.error.metadata["needed_bytes"]) >= 60 * MIB
        assert service.litter() == []
        assert free_bytes(disk) > before - MIB
        small = await service.install(small_lora(source / "small.safetensors"), inplace=False)
        assert small.state == COMPLETED, small.error


async def test_copies_at_the_same_time_leave_the_reserve_and_one_of_them_comes_through(
    disk: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    least = free_bytes(disk)

    def seen() -> None:
        nonlocal least
        least = min(least, free_bytes(disk))

    watch_the_copy(monkeypatch, seen)
    paths = [lora_of(source / f"{n}.safetensors", 20) for n in range(3)]
    values = {"import_roots": (source,), "disk_reserve_bytes": 12 * MIB}
    async with install_service(disk / "data", **values) as service:
        jobs = [await service.ended(await service.submit(path, inplace=False)) for path in paths]
        assert jobs[0].state == COMPLETED, jobs[0].error
        assert least >= 12 * MIB
        for job in jobs:
            if job.state != COMPLETED:
                check_disk_full(job)
        assert service.litter() == []


async def test_a_disk_that_somebody_else_fills_meanwhile_gets_its_room_back(
    disk: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lora_of(source / "a.safetensors", 20)
    blocks = 0

    def seen() -> None:
        nonlocal blocks
        blocks += 1
        if blocks == 5:
            fill(disk)

    watch_the_copy(monkeypatch, seen)
    async with install_service(disk / "data", import_roots=(source,)) as service:
        check_disk_full(await service.install(path, inplace=False))
        assert service.litter() == []
        assert free_bytes(disk) > 3 * MIB
        assert (await service.stub.PruneInstalls(pb.PruneInstallsRequest())).pruned_count == 1


async def test_on_a_full_disk_cancels_prunes_uninstalls_and_a_restart_work(
    disk: Path, source: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lora_of(source / "a.safetensors", 8)
    values = {"import_roots": (source,)}
    (data_dir / "models").mkdir()
    async with install_service(disk / "data", **values) as service:
        installed = await service.install(small_lora(source / "b.safetensors"), inplace=False)
        assert installed.state == COMPLETED, installed.error
        await service.digested(installed.model_key)
        with monkeypatch.context() as patch:
            running: list[install_pb2.Install] = []
            held = 0

            def seen() -> None:
                nonlocal held
                held += 1
                while held == 3 and not cancelling.exists():
                    time.sleep(0.01)

            cancelling = data_dir / "cancelling"
            watch_the_copy(patch, seen)
            running.append(await service.submit(path, inplace=False))
            await service.until(running[0], lambda job: held >= 3)
            fill(disk)
            cancelling.touch()
            with contextlib.suppress(grpc.aio.AioRpcError):  # it may have ended for want of room just now
                await service.stub.CancelInstall(pb.CancelInstallRequest(id=running[0].id))
            job = await service.ended(running[0])
            assert job.state in (CANCELLED, ERROR), job
        fill(disk)
    async with install_service(disk / "data", **values) as service:
        try:
            check_disk_full(await service.install(path, inplace=False))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error  # noqa: PT017
        assert (await service.stub.PruneInstalls(pb.PruneInstallsRequest())).pruned_count >= 2
        answer = await service.stub.UninstallModel(
            pb.UninstallModelRequest(key=installed.model_key, files=pb.UNINSTALL_FILES_OWNED)
        )
        assert len(answer.deleted_paths) == 1
        for ballast in disk.glob("ballast-*"):
            ballast.unlink()
        again = await service.install(path, inplace=False)
        assert again.state == COMPLETED, again.error


async def test_what_a_failed_install_kept_can_be_pruned_on_a_full_disk(
    disk: Path, source: Path, data_dir: Path
) -> None:
    async with (
        downloads_beside(disk / "data") as address,
        install_service(disk / "data", download_address=address) as service,
    ):
        with HttpServer() as web:
            body = os.urandom(8 * MIB)
            job = await service.install(web.put("/a.safetensors", Resource(body)))
        assert (job.state, job.error.reason) == (ERROR, "INVALID_MODEL"), job.error
        assert Path(job.error.metadata["kept_path"]).exists()
        fill(disk)
        assert (await service.stub.PruneInstalls(pb.PruneInstallsRequest())).pruned_count == 1
        assert free_bytes(disk) > 7 * MIB
