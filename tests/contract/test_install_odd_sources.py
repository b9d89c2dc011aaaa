"""Local models of odd kinds: each installed whole, or refused with a reason; never a defect."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.model.v1 import model_pb2
from support.failures import fails
from support.installs import InstallClient, install_service, small_lora
from support.smalldisk import small_disk

COMPLETED, ERROR = install_pb2.INSTALL_STATE_COMPLETED, install_pb2.INSTALL_STATE_ERROR
LORA = "pytorch_lora_weights.safetensors"


@pytest.fixture
def folder(data_dir: Path) -> Path:
    """A model in a folder beneath the import root."""
    return small_lora(data_dir.parent / "import" / "style" / LORA).parent


@pytest.fixture
async def service(data_dir: Path, folder: Path) -> AsyncIterator[InstallClient]:
    async with install_service(data_dir) as client:
        yield client


async def refused(service: InstallClient, path: Path, reason: str) -> str:
    """What is said of a source that cannot be installed, copied or in place."""
    for inplace in (True, False):
        job = await service.install(path, inplace=inplace)
        assert (job.state, job.error.reason) == (ERROR, reason), job.error
    assert (service.litter(), await service.models_count()) == ([], 0)
    return job.error.message


@pytest.mark.parametrize("kind", ["socket", "pipe", "device", "folder"])
async def test_what_is_no_file_is_no_model_file(service: InstallClient, folder: Path, kind: str) -> None:
    path = folder.parent / "odd.safetensors"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        os.mknod(path, 0o020666, os.makedev(1, 5))
    else:
        path.mkdir()
    await refused(service, path, "INVALID_MODEL")


async def test_sockets_and_pipes_beside_a_models_files_are_not_taken(
    service: InstallClient, folder: Path
) -> None:
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "socket"))
        job = await service.install(folder, inplace=False)
    assert job.state == COMPLETED, job.error
    assert os.listdir(job.local_path) == [LORA]


async def test_folders_deeper_than_any_model_has_are_refused(service: InstallClient, folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    try:
        assert "8 deep" in await refused(service, folder, "INVALID_MODEL")
    finally:
        top, spare = folder / "d", folder / "e"
        while (top / "d").exists():  # a tree so deep cannot be removed at once
            os.rename(top / "d", spare)
            os.rmdir(top)
            os.rename(spare, top)
        shutil.rmtree(top)


@pytest.mark.parametrize("hidden", ["", "."])
async def test_more_than_any_model_holds_is_refused(
    service: InstallClient, folder: Path, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    probing = sys.modules["modelkeep_install.probe.readers.listing"]
    monkeypatch.setattr(probing, "MAX_FILES", 100)
    monkeypatch.setattr(probing, "_MAX_ENTRIES", 200)
    for number in range(250 if hidden else 101):
        (folder / f"{hidden}{number}").touch()
    assert "as no model does" in await refused(service, folder, "INVALID_MODEL")


async def test_a_path_longer_than_any_file_has_is_not_found(service: InstallClient, folder: Path) -> None:
    for path in (folder / ("n" * 300), folder / "/".join(["d" * 200] * 15)):
        with fails(code="FAILED_PRECONDITION", reason="SOURCE_NOT_FOUND"):
            await service.submit(path)


@pytest.mark.parametrize("name", ["new\nline", "esc\x1b", "con.safetensors", "a\\b", "dots."])
async def test_a_name_that_not_every_file_system_takes_is_refused_for_a_copy_and_kept_in_place(
    service: InstallClient, folder: Path, name: str
) -> None:
    path = small_lora(folder.parent / (name if name.endswith(".safetensors") else f"{name}/{LORA}"))
    source = path if path.name != LORA else path.parent
    job = await service.install(source, inplace=False)
    assert (job.state, job.error.reason) == (ERROR, "INVALID_MODEL"), job.error
    assert service.litter() == []
    job = await service.install(source)
    assert job.state == COMPLETED, job.error


@pytest.mark.parametrize("inplace", [True, False], ids=["in place", "copied"])
@pytest.mark.parametrize("time", [3e11, -1e11, 1.5e10])
async def test_a_time_that_the_wire_cannot_carry_is_no_obstacle(
    data_dir: Path, time: float, inplace: bool
) -> None:
    with small_disk(8) as disk:  # not every file system keeps such times
        path = small_lora(disk / "a.safetensors")
        os.utime(path, (time, time))
        async with install_service(data_dir, import_roots=(disk,)) as service:
            job = await service.install(path, inplace=inplace)
            assert job.state == COMPLETED, job.error
            [file] = await service.digested(job.model_key)
            assert file.digest_state == model_pb2.DIGEST_STATE_COMPUTED
