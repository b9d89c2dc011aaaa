"""UninstallModel beside a real LoaderService: what is lent stays unless force says so, dry runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from support import tinymodels
from support.failures import refused
from support.installs import NOBODY, InstallClient, install_beside, small_lora
from support.lending import acquire, release
from support.loaders import Lender, component, lender

KEEP, OWNED = pb.UNINSTALL_FILES_KEEP, pb.UNINSTALL_FILES_OWNED
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def loader(data_dir: Path, source: Path) -> AsyncIterator[Lender]:
    async with lender(data_dir, source, models_dir=data_dir / "models") as both:
        yield both


@pytest.fixture
async def installs(data_dir: Path, loader: Lender) -> AsyncIterator[InstallClient]:
    async with install_beside(
        data_dir, loader.records, loader.record_address, loader_address=loader.address
    ) as service:
        yield service


async def copied(service: InstallClient, path: Path) -> install_pb2.Install:
    job = await service.install(path, inplace=False)
    assert job.state == install_pb2.INSTALL_STATE_COMPLETED, job.error
    await service.digested(job.model_key)
    return job


async def uninstall(service: InstallClient, key: str, **fields: bool | int) -> pb.UninstallModelResponse:
    request = pb.UninstallModelRequest(key=key, **{"files": OWNED, **fields})  # type: ignore[arg-type]  # numbers
    answer: pb.UninstallModelResponse = await service.stub.UninstallModel(request)
    return answer


@pytest.mark.long
async def test_a_model_that_is_lent_is_not_deleted_unless_force_says_so(
    installs: InstallClient, loader: Lender, source: Path
) -> None:
    tinymodels.vae(seed=7).save_pretrained(source / "vae")
    job = await copied(installs, source / "vae")
    key = job.model_key
    grant = await acquire(loader, component(key), label="a worker", ttl={"seconds": 600})
    for files in (OWNED, KEEP):
        with refused("MODEL_IN_USE") as refusal:
            await uninstall(installs, key, files=files)
        assert (refusal.metadata["key"], refusal.metadata["holders"]) == (key, grant.lease.id)
        assert "a worker" in refusal.message
    told = await uninstall(installs, key, validate_only=True)
    assert (list(told.lease_ids), told.leases_known) == ([grant.lease.id], True)
    assert told.deleted_count == len(told.deleted_paths) == 2
    assert told.deleted_bytes == sum(Path(path).stat().st_size for path in told.deleted_paths)
    done = await uninstall(installs, key, force=True)
    assert sorted(done.deleted_paths) == sorted(told.deleted_paths)
    assert (done.deleted_bytes, list(done.lease_ids)) == (told.deleted_bytes, [grant.lease.id])
    assert not Path(job.local_path).exists()
    await release(loader, grant)


async def test_a_model_that_nobody_holds_any_more_is_deleted(
    installs: InstallClient, loader: Lender, source: Path
) -> None:
    tinymodels.vae(seed=7).save_pretrained(source / "vae")
    key = (await copied(installs, source / "vae")).model_key
    await release(loader, await acquire(loader, component(key), ttl={"seconds": 600}))
    done = await uninstall(installs, key)
    assert (done.deleted_count, list(done.lease_ids), done.leases_known) == (2, [], True)


async def test_a_loader_that_does_not_answer_keeps_nobody_from_deleting(
    data_dir: Path, loader: Lender, source: Path
) -> None:
    path = small_lora(source / "style.safetensors")
    for address in (NOBODY, ""):
        async with install_beside(
            data_dir, loader.records, loader.record_address, loader_address=address
        ) as service:
            done = await uninstall(service, (await copied(service, path)).model_key)
            assert (done.deleted_count, done.leases_known) == (1, False)


@pytest.mark.parametrize("way", ["hard link", "symbolic link", "its own path"])
async def test_a_dry_run_names_the_records_that_list_a_file_too_and_changes_nothing(
    installs: InstallClient, source: Path, way: str
) -> None:
    job = await copied(installs, small_lora(source / "style.safetensors"))
    other = source / "other.safetensors"
    if way == "hard link":
        os.link(job.local_path, other)
    elif way == "symbolic link":
        other.symlink_to(job.local_path)
    else:
        other = Path(job.local_path).parent
        shutil.copy(source / "style.safetensors", other / "more.safetensors")
        other = other / "more.safetensors"
    second = await installs.install(other, reuse=install_pb2.REUSE_NEVER)
    assert second.state == install_pb2.INSTALL_STATE_COMPLETED, second.error
    before = await installs.models_count()
    told = await uninstall(installs, job.model_key, validate_only=True)
    if way == "its own path":
        assert list(told.deleted_paths) == [job.local_path]
    else:
        assert list(told.deleted_paths) == []
        assert [(file.path, list(file.keys)) for file in told.shared_files] == [
            (job.local_path, [second.model_key])
        ]
    assert Path(job.local_path).exists()
    assert await installs.models_count() == before
    done = await uninstall(installs, job.model_key)
    assert list(done.deleted_paths) == list(told.deleted_paths)
    assert list(done.shared_files) == list(told.shared_files)
    assert other.exists()
