"""Models whose files are gone: noticed by the installer, told by the record."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep.install.v1 import check_pb2
from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import record_service_pb2 as record_pb
from modelkeep_install.presence import is_there
from support.failures import fails
from support.installs import (
    NOBODY,
    InstallClient,
    install_beside,
    install_service,
    records_beside,
    small_lora,
)
from support.records import vae


@pytest.fixture
async def service(data_dir: Path) -> AsyncIterator[InstallClient]:
    async with install_service(data_dir) as client:
        yield client


async def check(service: InstallClient, *keys: str) -> check_pb2.CheckModelsResponse:
    answer: check_pb2.CheckModelsResponse = await service.stub.CheckModels(
        check_pb2.CheckModelsRequest(keys=keys)
    )
    return answer


async def missing(service: InstallClient) -> list[str]:
    """Names of the models that RecordService calls missing."""
    request = record_pb.ListModelsRequest(filter=record_pb.ModelFilter(missing=True))
    return [model.name for model in (await service.records.ListModels(request)).models]


async def registered(service: InstallClient, path: Path, *, inplace: bool = True) -> model_pb2.Model:
    job = await service.install(small_lora(path), inplace=inplace)
    return await service.model(job.model_key)


@pytest.mark.parametrize("inplace", [True, False], ids=["in place", "in models_dir"])
async def test_a_model_that_was_moved_is_missing_until_it_is_back(
    service: InstallClient, data_dir: Path, inplace: bool
) -> None:
    model = await registered(service, data_dir.parent / "import" / "style.safetensors", inplace=inplace)
    path = Path(model.path) if inplace else service.models / model.path
    assert (await check(service)).changed_count == 0
    away = path.rename(data_dir.parent / "away")
    answer = await check(service)
    assert (answer.checked_count, list(answer.missing_keys), answer.changed_count) == (1, [model.key], 1)
    assert await missing(service) == [model.name]
    assert (await service.records.GetStoreInfo(record_pb.GetStoreInfoRequest())).missing_count == 1
    assert (await check(service)).changed_count == 0
    away.rename(path)
    assert (await check(service)).changed_count == 1
    assert await missing(service) == []


async def test_it_is_noticed_without_being_asked(data_dir: Path) -> None:
    async with install_service(data_dir, check_files_seconds=0.05) as service:
        model = await registered(service, data_dir.parent / "import" / "style.safetensors")
        os.unlink(model.path)
        state = model

        async def look() -> None:
            nonlocal state
            state = await service.model(model.key)

        while not state.HasField("missing_time"):
            await look()


async def test_only_the_models_that_are_asked_for_are_looked_at(
    service: InstallClient, data_dir: Path
) -> None:
    one, other = [await registered(service, data_dir.parent / "import" / f"{n}.safetensors") for n in "ab"]
    os.unlink(one.path)
    os.unlink(other.path)
    assert list((await check(service, other.key)).missing_keys) == [other.key]
    assert await missing(service) == [other.name]


async def test_a_model_in_another_models_dir_is_not_judged(service: InstallClient) -> None:
    for number, root in enumerate(("another-root", "")):
        model = vae(f"far {number}", path=f"relative/{number}", root_id=root)
        await service.records.CreateModel(record_pb.CreateModelRequest(model=model))
    assert (await check(service)).checked_count == 0
    assert await missing(service) == []


async def test_a_look_goes_on_after_the_records_were_away(data_dir: Path) -> None:
    (data_dir.parent / "import").mkdir()
    async with install_beside(data_dir, None, NOBODY) as alone:
        with fails(code="UNAVAILABLE", reason="UPSTREAM_UNAVAILABLE"):
            await check(alone)
    async with (
        records_beside(data_dir) as (records, address),
        install_beside(data_dir, records, address) as service,
    ):
        await records.CreateModel(record_pb.CreateModelRequest(model=vae("gone")))
        found = await check(service)
        while not found.checked_count:
            found = await check(service)
        assert await missing(service) == ["gone"]


def test_what_cannot_be_looked_at_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "folder" / "unet").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    assert [is_there(tmp_path / name) for name in ("folder", "file")] == [True, True]
    assert [is_there(tmp_path / name) for name in ("empty", "none", "file/x", "nowhere")] == [False] * 4
    assert [is_there(tmp_path / name) for name in ("loop", "x" * 300, "a\0b")] == [None] * 3
