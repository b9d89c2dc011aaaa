"""ImportModel with validate_only: what an install would do, said without doing it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1 import taxonomy_pb2
from support.failures import refused
from support.httpserver import HttpServer, Resource
from support.installs import InstallClient, install_service, small_lora
from support.modelshapes import write_safetensors
from support.smalldisk import fill, small_disk

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED


async def rehearsed(service: InstallClient, source: Path | str, **fields: Any) -> install_pb2.Install:
    """The answer of a call that must have changed nothing."""
    jobs = await service.stub.ListInstalls(pb.ListInstallsRequest())
    models, files = await service.models_count(), sorted(service.models.rglob("*"))
    install = await service.submit(source, validate_only=True, **fields)
    assert await service.stub.ListInstalls(pb.ListInstallsRequest()) == jobs
    assert (await service.models_count(), sorted(service.models.rglob("*"))) == (models, files)
    assert (install.id, install.ended) == (0, False)
    return install


@pytest.mark.parametrize("inplace", [True, False])
async def test_of_a_path_it_is_said_what_it_is_where_it_would_lie_and_what_is_copied(
    service: InstallClient, source: Path, inplace: bool
) -> None:
    path = small_lora(source / "style.safetensors")
    told = await rehearsed(service, path, inplace=inplace)
    assert (told.probe.type, told.probe.base) == (taxonomy_pb2.MODEL_TYPE_LORA, "sd-1")
    assert told.local_path == str(path if inplace else service.models)
    assert told.progress.bytes_total == (0 if inplace else path.stat().st_size)
    assert (told.installed_already, list(told.same_content_keys)) == (False, [])


async def test_what_is_installed_already_or_elsewhere_is_said(service: InstallClient, source: Path) -> None:
    path = small_lora(source / "style.safetensors")
    first = await service.install(path)
    told = await rehearsed(service, path)
    assert (told.installed_already, told.model_key, told.local_path) == (True, first.model_key, str(path))
    assert told.model.name == "style"
    other = small_lora(source / "other.safetensors")
    assert list((await rehearsed(service, other)).same_content_keys) == [first.model_key]
    one = await rehearsed(service, other, reuse=install_pb2.REUSE_SAME_CONTENT)
    assert (one.installed_already, one.model_key) == (True, first.model_key)


async def test_what_the_job_would_fail_with_is_the_error_of_the_call(
    service: InstallClient, source: Path
) -> None:
    path = small_lora(source / "style.safetensors")
    await service.install(path)
    small_lora(path, base="sdxl")
    for what, reason in [
        (path, "DUPLICATE_PATH"),
        (source / "missing.safetensors", "SOURCE_NOT_FOUND"),
        (write_safetensors(source / "odd.safetensors", {"x": [1]}), "INVALID_MODEL"),
        (Path("/etc/hostname"), "FORBIDDEN_PATH"),
    ]:
        with refused(reason) as error:
            await service.submit(what, validate_only=True)
        assert error.remedy, reason


async def test_an_address_is_not_asked(service: InstallClient, web: HttpServer, source: Path) -> None:
    url = web.put("/a.safetensors", Resource(small_lora(source / "a.safetensors").read_bytes()))
    told = await rehearsed(service, url)
    assert (told.local_path, told.progress.HasField("bytes_total")) == (str(service.models), False)
    assert web.requests == []


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(64) as folder:
        (folder / "data").mkdir()
        yield folder


async def test_a_copy_that_does_not_fit_is_said_to_be_too_large(disk: Path, data_dir: Path) -> None:
    source = data_dir.parent / "import"
    source.mkdir(exist_ok=True)
    path = small_lora(source / "style.safetensors")
    async with install_service(disk / "data", import_roots=(source,)) as service:
        ballast = fill(disk)
        with refused("DISK_FULL"):
            await service.submit(path, inplace=False, validate_only=True)
        assert (await rehearsed(service, path)).progress.bytes_total == 0
        os.unlink(ballast)
        assert (await rehearsed(service, path, inplace=False)).progress.bytes_total == path.stat().st_size
