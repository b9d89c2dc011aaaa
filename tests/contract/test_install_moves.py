"""ImportModel and InstallPath with `move`, over a real channel and beside a real RecordService."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from modelkeep.install.v1 import install_pb2, paths_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from support.failures import fails
from support.installs import InstallClient, small_lora
from support.modelshapes import write_vae_folder

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED


async def test_a_file_is_in_models_dir_in_place_of_where_it_was(service: InstallClient, source: Path) -> None:
    path = small_lora(source / "ink.safetensors")
    body, inode = path.read_bytes(), path.stat().st_ino
    job = await service.install(path, move=True)
    assert (job.state, job.move, job.inplace) == (COMPLETED, True, False)
    moved = Path(job.local_path)
    assert moved == service.models / job.model_key / "ink.safetensors"
    assert (moved.read_bytes(), moved.stat().st_ino) == (body, inode)
    assert moved.stat().st_mode & 0o777 == 0o444
    assert list(source.iterdir()) == []
    assert service.litter() == []
    [file] = await service.digested(job.model_key)
    assert file.sha256


async def test_of_a_folder_the_models_own_files_go(service: InstallClient, source: Path) -> None:
    folder = write_vae_folder(source / "vae")
    (folder / ".notes").write_text("of somebody")
    request = paths_pb2.InstallPathRequest(path=str(folder), move=True)
    answer = await service.stub.InstallPath(request)
    assert [path.name for path in folder.iterdir()] == [".notes"]
    listed = {file.path for file in await service.files(answer.key)}
    assert {path.name for path in (service.models / answer.key / "vae").iterdir()} == listed


async def test_where_it_is_installed_already_the_source_stays(service: InstallClient, source: Path) -> None:
    path = small_lora(source / "ink.safetensors")
    first = await service.install(path, inplace=False)
    again = await service.install(path, move=True)
    assert (again.installed_already, again.model_key) == (True, first.model_key)
    assert path.exists()
    elsewhere = small_lora(source / "other.safetensors")
    same = await service.install(elsewhere, move=True, reuse=install_pb2.REUSE_SAME_CONTENT)
    assert (same.installed_already, same.model_key) == (True, first.model_key)
    assert elsewhere.exists()


@pytest.mark.parametrize("whole", [True, False], ids=["by itself", "with the folder around"])
async def test_what_is_registered_where_it_lies_is_not_moved(
    service: InstallClient, source: Path, whole: bool
) -> None:
    folder = write_vae_folder(source / "vae")
    registered = await service.install(folder)
    path = folder if whole else folder / "diffusion_pytorch_model.safetensors"
    overrides = install_pb2.ModelOverrides(type="MODEL_TYPE_VAE", base="sdxl")
    never = install_pb2.REUSE_NEVER
    job = await service.install(path, move=True, reuse=never, overrides=overrides)
    assert (job.state, job.error.reason) == (install_pb2.INSTALL_STATE_ERROR, "DUPLICATE_PATH"), job.error
    assert job.error.metadata["key"] == registered.model_key
    planned = install_pb2.InstallSource(local_path=str(path))
    with fails(code="ALREADY_EXISTS", reason="DUPLICATE_PATH"):
        await service.stub.ImportModel(
            pb.ImportModelRequest(
                source=planned, move=True, reuse=never, overrides=overrides, validate_only=True
            )
        )
    assert (folder / "diffusion_pytorch_model.safetensors").exists()
    assert await service.models_count() == 1


async def test_what_cannot_be_moved_is_refused_at_once(with_downloads: InstallClient, source: Path) -> None:
    service = with_downloads
    installed = Path(
        (await service.install(small_lora(source / "ink.safetensors"), inplace=False)).local_path
    )
    link = source / "link.safetensors"
    link.symlink_to(source / "ink.safetensors")
    for path in (link, installed, source, service.models):
        with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["move"]):
            await service.submit(path, move=True)
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["move"]):
        await service.submit("https://models.example/ink.safetensors", move=True)
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["move"]):
        await service.submit(source / "ink.safetensors", move=True, inplace=True)


async def test_a_move_that_is_cancelled_leaves_the_source_as_it_was(
    service: InstallClient, source: Path, held_hash: threading.Event
) -> None:
    path = small_lora(source / "ink.safetensors")
    body, mode = path.read_bytes(), path.stat().st_mode
    job = await service.submit(path, move=True)
    await service.until(job, lambda now: now.stage == install_pb2.INSTALL_STAGE_HASHING)
    await service.stub.CancelInstall(pb.CancelInstallRequest(id=job.id))
    held_hash.set()
    assert (await service.ended(job)).state == install_pb2.INSTALL_STATE_CANCELLED
    assert (path.read_bytes(), path.stat().st_mode, path.stat().st_nlink) == (body, mode, 1)
    assert service.litter() == []
