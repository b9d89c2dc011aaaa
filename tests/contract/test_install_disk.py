"""InstallService when the disk is full or read-only, and when files vanish or change under it.

Each refusal of the system is said with its reason and what to do, nothing is lost, nothing is left behind,
and the same install works once the cause is gone.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import DiskFullException
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep_common.paths import AllowedRoots
from modelkeep_install import files
from modelkeep_install.domain.jobs import Job
from modelkeep_install.steps import probe
from modelkeep_install.store import InstallStore
from support.failures import fails
from support.httpserver import HttpServer, Resource
from support.installs import InstallClient, small_lora

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED
ERROR = install_pb2.INSTALL_STATE_ERROR


def refuse(patch: pytest.MonkeyPatch, call: str, number: int, concerns: Callable[[Path], bool]) -> None:
    """Lets one call of the system fail for the paths in question, as a full or read-only disk does."""
    real = getattr(os, call)

    def path_of(argument: Any) -> Path:
        return Path(os.readlink(f"/proc/self/fd/{argument}") if isinstance(argument, int) else argument)

    def refusing(*args: Any, **kwargs: Any) -> Any:
        # of two paths or descriptors, the second is written to
        target = args[1] if call in ("rename", "copy_file_range") else args[0]
        creates = call != "open" or args[1] & os.O_CREAT
        if creates and not kwargs.get("dir_fd") and concerns(path_of(target)):
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    patch.setattr(os, call, refusing)
    patch.setattr(files, "_reflink", lambda source, target: False)


def before(patch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], object]) -> None:
    """Does something just before a function of the service is called."""
    real = getattr(owner, name)

    def acting(*args: Any, **kwargs: Any) -> Any:
        act()
        return real(*args, **kwargs)

    patch.setattr(owner, name, acting)


# ---- the disk refuses -------------------------------------------------------------------------------------
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize(
    ("call", "number", "reason"),
    [
        ("mkdir", errno.EROFS, "FORBIDDEN_PATH"),
        ("mkdir", errno.ENOSPC, "DISK_FULL"),
        ("mkdir", errno.EEXIST, "DESTINATION_EXISTS"),
        ("open", errno.EACCES, "FORBIDDEN_PATH"),
        ("open", errno.ENAMETOOLONG, "INVALID_MODEL"),
        ("copy_file_range", errno.ENOSPC, "DISK_FULL"),
        ("copy_file_range", errno.EDQUOT, "DISK_FULL"),
        ("copy_file_range", errno.EFBIG, "DISK_FULL"),
        ("copy_file_range", errno.EROFS, "FORBIDDEN_PATH"),
        ("fsync", errno.ENOSPC, "DISK_FULL"),
        ("fsync", errno.EIO, "INTERNAL"),
        ("chmod", errno.EPERM, "FORBIDDEN_PATH"),
        ("rename", errno.EROFS, "FORBIDDEN_PATH"),
        ("rename", errno.EDQUOT, "DISK_FULL"),
        ("rename", errno.EXDEV, "INTERNAL"),
    ],
)
async def test_a_copy_that_the_disk_refuses_says_why_leaves_nothing_and_works_later(
    service: InstallClient,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    reason: str,
    folder: bool,
) -> None:
    path = small_lora(source / "m" / "pytorch_lora_weights.safetensors")
    (source / "m" / "README.md").write_text("# a style")
    content = path.read_bytes()
    what = path.parent if folder else path
    with monkeypatch.context() as patch:
        refuse(patch, call, number, lambda p: p != service.models and p.is_relative_to(service.models))
        job = await service.install(what, inplace=False)
    assert (job.state, job.error.reason) == (ERROR, reason), job.error
    assert "install again" in job.error.message
    if reason != "DESTINATION_EXISTS":
        assert os.strerror(number) in job.error.message
    if reason != "INTERNAL":
        assert job.error.metadata["path"].startswith(str(service.models))
        also = {"FORBIDDEN_PATH": "setting", "INVALID_MODEL": "detail"}
        assert also.get(reason, "path") in job.error.metadata
        assert "bytes_short" not in job.error.metadata, "nobody knows"
    assert path.read_bytes() == content
    assert (service.litter(), await service.models_count()) == ([], 0)
    again = await service.install(what, inplace=False)
    assert again.state == COMPLETED, again.error
    assert (service.litter(), await service.models_count()) == ([], 1)


async def test_a_download_that_cannot_be_placed_is_kept_and_installed_when_it_can(
    with_downloads: InstallClient, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = with_downloads
    content = small_lora(data_dir / "a.safetensors").read_bytes()
    staging = service.models / ".staging"

    def placed(path: Path) -> bool:
        return path.is_relative_to(service.models) and not path.is_relative_to(staging)

    with HttpServer() as http:
        url = http.put("/a.safetensors", Resource(content))
        with monkeypatch.context() as patch:
            refuse(patch, "rename", errno.EROFS, placed)
            job = await service.install(url)
        assert (job.state, job.error.reason) == (ERROR, "FORBIDDEN_PATH")
    kept = Path(job.error.metadata["kept_path"])
    assert kept.read_bytes() == content
    again = await service.install(kept)
    assert again.state == COMPLETED, again.error
    await service.stub.PruneInstalls(pb.PruneInstallsRequest())
    assert service.litter() == []
    assert Path(again.local_path).read_bytes() == content


async def test_what_could_not_be_removed_goes_with_the_next_prune(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_lora(source / "a.safetensors")
    with monkeypatch.context() as patch:
        refuse(patch, "rename", errno.EROFS, lambda p: p.is_relative_to(service.models))
        patch.setattr(shutil, "rmtree", lambda *args, **fields: None)
        job = await service.install(path, inplace=False)
    assert (job.state, job.error.reason) == (ERROR, "FORBIDDEN_PATH")
    assert f".staging/{job.id}" in service.litter()
    await service.stub.PruneInstalls(pb.PruneInstallsRequest())
    assert f".staging/{job.id}" not in service.litter()


async def test_an_order_whose_staging_folder_cannot_be_made_says_why(
    with_downloads: InstallClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HttpServer() as http, monkeypatch.context() as patch:
        refuse(patch, "mkdir", errno.ENOSPC, lambda path: path.name.isdecimal())
        job = await with_downloads.install(http.put("/a.safetensors", Resource(b"\0x")))
        assert (job.state, job.error.reason) == (ERROR, "DISK_FULL")
        assert http.requests_of("/a.safetensors") == []


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice in a row"])
@pytest.mark.parametrize("kind", ["copy", "url"])
async def test_a_store_that_is_full_at_any_write_of_a_job_leaves_no_file_behind(
    with_downloads: InstallClient,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    times: int,
) -> None:
    service = with_downloads
    path = small_lora(source / "a.safetensors")
    save = InstallStore.save
    writes: list[int] = []  # those that fail, counted from the job's first
    seen = 0

    async def full(self: InstallStore, job: Job, **fields: Any) -> Job:
        nonlocal seen
        seen += 1
        if seen in writes:
            raise DiskFullException("The file system has no room for the database: free some space.")
        return await save(self, job, **fields)

    monkeypatch.setattr(InstallStore, "save", full)
    with HttpServer() as http:
        what = path if kind == "copy" else http.put("/a.safetensors", Resource(path.read_bytes()))
        while True:
            first = writes[0] + 1 if writes else 1
            writes, seen = list(range(first, first + times)), 0
            job = await service.install(what, inplace=False)
            if job.state == COMPLETED:
                await service.stub.UninstallModel(
                    pb.UninstallModelRequest(key=job.model_key, files=pb.UNINSTALL_FILES_OWNED)
                )
            else:
                assert (job.state, job.error.reason) == (ERROR, "DISK_FULL"), job.error
            await service.stub.PruneInstalls(pb.PruneInstallsRequest())
            assert await service.models_count() == 0
            left = [p for p in service.models.rglob("*") if p.is_file() and p.name[:4] != ".mod"]
            assert (service.litter(), left) == ([], []), writes
            if seen < writes[-1]:
                break
    assert writes[0] > 8


# ---- the source vanishes, changes, or may not be read -----------------------------------------------------
@pytest.mark.parametrize("inplace", [True, False], ids=["in place", "copied"])
async def test_a_file_that_vanishes_after_the_probe_is_not_found_and_installs_when_it_is_back(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch, inplace: bool
) -> None:
    path = small_lora(source / "a.safetensors")
    away = source / "away"
    with monkeypatch.context() as patch:
        owner, name = (probe, "sampled_hash_of") if inplace else (files, "copy_file")
        before(patch, owner, name, lambda: path.rename(away))
        job = await service.install(path, inplace=inplace)
    assert (job.state, job.error.reason) == (ERROR, "SOURCE_NOT_FOUND"), job.error
    assert job.error.metadata["source"] == str(path)
    assert service.litter() == []
    away.rename(path)
    assert (await service.install(path, inplace=inplace)).state == COMPLETED


async def test_a_file_that_is_written_to_while_it_is_copied_is_not_installed(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_lora(source / "a.safetensors")

    def touch() -> None:
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\1")

    with monkeypatch.context() as patch:
        patch.setattr(files, "_reflink", lambda source, target: False)
        before(patch, files, "_copy_bytes", touch)
        job = await service.install(path, inplace=False)
    assert (job.state, job.error.reason) == (ERROR, "SOURCE_CHANGED"), job.error
    assert "install it again" in job.error.message
    assert service.litter() == []
    assert (await service.install(path, inplace=False)).state == COMPLETED


async def test_a_file_that_changes_between_probe_and_hash_is_not_installed(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_lora(source / "a.safetensors")
    other = small_lora(source / "other.safetensors", base="sdxl")
    with monkeypatch.context() as patch:
        before(patch, files, "file_facts", lambda: shutil.copyfile(other, path))
        job = await service.install(path)
    assert (job.state, job.error.reason) == (ERROR, "SOURCE_CHANGED"), job.error
    again = await service.install(path)
    assert (again.state, again.model.base) == (COMPLETED, "sdxl")


async def test_a_file_that_the_service_may_not_read_is_forbidden_with_what_to_do(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_lora(source / "a.safetensors")
    open_beneath = AllowedRoots.open_beneath

    def refusing(self: AllowedRoots, asked: Path, *args: Any, **kwargs: Any) -> int:
        if asked == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_beneath(self, asked, *args, **kwargs)

    monkeypatch.setattr(AllowedRoots, "open_beneath", refusing)
    with fails(code="PERMISSION_DENIED", reason="FORBIDDEN_PATH") as failure:
        await service.stub.ProbeModel(pb.ProbeModelRequest(path=str(path)))
    assert failure[0].metadata["path"] == str(path)
    assert (failure[0].metadata["setting"], failure[0].metadata["detail"]) == ("", "Permission denied")
    job = await service.install(path)
    assert (job.error.code, job.error.reason) == ("PERMISSION_DENIED", "FORBIDDEN_PATH")
    assert "Let the user that runs InstallService read it" in job.error.message


async def test_a_path_that_no_file_can_have_is_not_found(service: InstallClient, source: Path) -> None:
    for path in (source / ("x" * 300), source / "/".join(["deep"] * 800)):
        with fails(code="FAILED_PRECONDITION", reason="SOURCE_NOT_FOUND"):
            await service.submit(path)
        with fails(code="FAILED_PRECONDITION", reason="SOURCE_NOT_FOUND"):
            await service.stub.ProbeModel(pb.ProbeModelRequest(path=str(path)))
