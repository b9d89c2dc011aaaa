"""RelinkModel: a moved model gets its new place in its record, if that holds the very model."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from modelkeep.install.v1 import install_pb2, relink_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import record_service_pb2 as record_pb
from modelkeep_install import relink as relinking
from support.failures import fails, refused
from support.installs import InstallClient, small_lora
from support.modelshapes import table, write_safetensors

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED


async def relink(service: InstallClient, key: str, path: Path, **fields: bool | str) -> model_pb2.Model:
    request = relink_pb2.RelinkModelRequest(key=key, path=str(path), **fields)  # type: ignore[arg-type]  # as said
    answer: relink_pb2.RelinkModelResponse = await service.stub.RelinkModel(request)
    return answer.model


def vae_folder(path: Path) -> Path:
    small = {name: shape for name, shape in table("vae.diffusers").items() if "conv_in" in name}
    write_safetensors(path / "diffusion_pytorch_model.safetensors", small)
    (path / "config.json").write_text('{"_class_name": "AutoencoderKL", "scaling_factor": 0.18215}')
    return path


@pytest.mark.parametrize("kind", ["file", "renamed file", "folder"])
async def test_a_moved_model_is_found_again_under_its_key_with_all_that_was_known_of_it(
    service: InstallClient, source: Path, kind: str
) -> None:
    old = vae_folder(source / "vae") if kind == "folder" else small_lora(source / "style.safetensors")
    job = await service.install(old, overrides={"name": "mine", "tags": ["kept"]}, labels={"a": "b"})
    before = await service.digested(job.model_key)
    (source / "moved").mkdir()
    new = source / "moved" / ("other.safetensors" if kind == "renamed file" else old.name)
    os.rename(old, new)
    stands = await service.model(job.model_key)
    assert (await relink(service, job.model_key, new, validate_only=True)).path == str(old)
    assert (await service.model(job.model_key)).etag == stands.etag
    model = await relink(service, job.model_key, new)
    assert (model.key, model.name, list(model.tags), dict(model.labels)) == (
        job.model_key,
        "mine",
        ["kept"],
        {"a": "b"},
    )
    assert (model.path, model.root_id, model.current_hash) == (str(new), "", stands.current_hash)
    after = await service.digested(job.model_key)
    assert [file.sha256 for file in after] == [file.sha256 for file in before]
    names = [file.path for file in before] if kind == "folder" else [new.name]
    assert [file.path for file in after] == names
    again = await service.install(new)
    assert (again.installed_already, again.model_key) == (True, job.model_key)
    request = pb.UninstallModelRequest(key=job.model_key, files=pb.UNINSTALL_FILES_ANY_ALLOWED_ROOT)
    deleted = (await service.stub.UninstallModel(request)).deleted_paths
    there = {new / file.path for file in after} if kind == "folder" else {new}
    assert {Path(path) for path in deleted} == there


async def test_a_model_inside_models_dir_gets_a_relative_path(service: InstallClient, source: Path) -> None:
    job = await service.install(small_lora(source / "style.safetensors"), inplace=False)
    folder = service.models / "sorted"
    folder.mkdir()
    os.rename(job.local_path, folder / "style.safetensors")
    model = await relink(service, job.model_key, folder / "style.safetensors")
    assert (model.path, model.root_id) == ("sorted/style.safetensors", job.model.root_id)


async def test_a_record_that_changes_meanwhile_is_read_again_unless_the_caller_named_its_state(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = small_lora(source / "style.safetensors")
    job = await service.install(old)
    await service.digested(job.model_key)
    new = source / "moved.safetensors"
    os.rename(old, new)
    changes = iter(["first", "second"])

    loop = asyncio.get_running_loop()

    async def change(text: str) -> None:
        update = model_pb2.Model(key=job.model_key, description=text)
        await service.records.UpdateModel(record_pb.UpdateModelRequest(model=update))

    def changed_behind_the_look(*given: Any) -> Any:
        for text in itertools.islice(changes, 1):
            asyncio.run_coroutine_threadsafe(change(text), loop).result(10)
        return same(*given)

    same = relinking._same
    monkeypatch.setattr(relinking, "_same", changed_behind_the_look)
    stands = await service.model(job.model_key)
    with refused("ETAG_MISMATCH"):
        await relink(service, job.model_key, new, etag=stands.etag)
    model = await relink(service, job.model_key, new)
    assert (model.path, model.description) == (str(new), "second")


@pytest.mark.parametrize(
    "how", ["longer", "another", "one byte", "gone file", "file for folder", "folder for file"]
)
async def test_a_path_that_holds_something_else_is_refused_and_the_record_stays(
    service: InstallClient, source: Path, how: str
) -> None:
    folder = how in ("gone file", "file for folder")
    old = vae_folder(source / "vae") if folder else small_lora(source / "style.safetensors")
    job = await service.install(old)
    await service.digested(job.model_key)
    new = source / "new"
    if how == "another":
        small_lora(new, base="sdxl")
    elif how == "gone file":
        shutil.copytree(old, new)
        (new / "config.json").unlink()
    elif how == "file for folder":
        shutil.copy(old / "config.json", new)
    elif how == "folder for file":
        new.mkdir()
    else:
        content = bytearray(old.read_bytes())
        content[-1] ^= 1
        new.write_bytes(content + (b"x" if how == "longer" else b""))
    before = await service.model(job.model_key)
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["path"]):
        await relink(service, job.model_key, new)
    assert await service.model(job.model_key) == before


async def test_what_is_not_there_not_allowed_taken_or_unknown_is_said(
    service: InstallClient, source: Path
) -> None:
    path = small_lora(source / "style.safetensors")
    job = await service.install(path)
    copy = shutil.copy(path, source / "copy.safetensors")
    other = await service.install(Path(copy))
    for key, where, reason in [
        (job.model_key, source / "nothing.safetensors", "SOURCE_NOT_FOUND"),
        (job.model_key, Path("/etc/hostname"), "FORBIDDEN_PATH"),
        (job.model_key, Path("relative"), "FIELD_INVALID"),
        (job.model_key, Path(copy), "DUPLICATE_PATH"),
        ("0" * 32, path, "UNKNOWN_MODEL"),
    ]:
        with refused(reason):
            await relink(service, key, where)
    with refused("ETAG_MISMATCH"):
        await relink(service, job.model_key, path, etag='"0"')
    assert (await service.model(job.model_key)).path == str(path)
    assert other.model_key != job.model_key


async def test_an_install_of_moved_content_names_the_model_whose_files_are_gone(
    service: InstallClient, source: Path
) -> None:
    old = small_lora(source / "style.safetensors")
    first = await service.install(old)
    (source / "moved").mkdir()
    new = source / "moved" / old.name
    os.rename(old, new)
    second = await service.install(new)
    assert (second.state, second.installed_already) == (COMPLETED, False), second.error
    assert list(second.missing_content_keys) == [first.model_key]
    assert list(second.same_content_keys) == []
    await service.stub.UninstallModel(
        pb.UninstallModelRequest(key=second.model_key, files=pb.UNINSTALL_FILES_KEEP)
    )
    assert (await relink(service, first.model_key, new)).path == str(new)
    found = await service.records.GetStoreInfo(record_pb.GetStoreInfoRequest())
    assert (found.model_count, found.missing_count) == (1, 0)
