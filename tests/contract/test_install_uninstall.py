"""UninstallModel: exactly the files of the record, and only beneath allowed roots."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2 as record_pb
from support.failures import fails
from support.installs import InstallClient, small_lora
from support.modelshapes import table, write_safetensors
from support.smalldisk import bound

KEEP = pb.UNINSTALL_FILES_KEEP
OWNED = pb.UNINSTALL_FILES_OWNED
ANY = pb.UNINSTALL_FILES_ANY_ALLOWED_ROOT


async def uninstall(
    service: InstallClient, key: str, files: int = OWNED, **fields: str
) -> pb.UninstallModelResponse:
    answer: pb.UninstallModelResponse = await service.stub.UninstallModel(
        pb.UninstallModelRequest(key=key, files=files, **fields)  # type: ignore[arg-type]  # an int on the wire
    )
    return answer


async def installed(service: InstallClient, path: Path, *, inplace: bool) -> str:
    job = await service.install(path, inplace=inplace)
    assert job.state == install_pb2.INSTALL_STATE_COMPLETED, job.error
    return job.model_key


async def record(service: InstallClient, path: str, *files: str, **fields: str) -> str:
    """A record that was not made by the installer, and may lie."""
    answer = await service.records.CreateModel(
        record_pb.CreateModelRequest(
            model=model_pb2.Model(
                name="x",
                type=taxonomy_pb2.MODEL_TYPE_LORA,
                format=taxonomy_pb2.MODEL_FORMAT_LYCORIS,
                base="sd-1",
                path=path,
                **fields,  # type: ignore[arg-type]  # texts
            ),
            files=[model_pb2.ModelFile(path=name, size_bytes=1) for name in files],
        )
    )
    return str(answer.model.key)


async def test_an_installed_model_goes_with_its_files_and_folder(
    service: InstallClient, source: Path
) -> None:
    path = small_lora(source / "style.safetensors")
    key = await installed(service, path, inplace=False)
    answer = await uninstall(service, key)
    assert list(answer.deleted_paths) == [str(service.models / key / "style.safetensors")]
    assert answer.deleted_bytes == path.stat().st_size
    assert answer.revision > 0
    assert not (service.models / key).exists()
    assert path.exists()
    with fails(code="NOT_FOUND", reason="UNKNOWN_MODEL"):
        await uninstall(service, key)


async def test_a_model_in_place_stays_on_disk_unless_any_allowed_root_is_asked_for(
    service: InstallClient, source: Path
) -> None:
    path = small_lora(source / "style.safetensors")
    neighbour = small_lora(source / "other.safetensors")
    answer = await uninstall(service, await installed(service, path, inplace=True))
    assert not answer.deleted_paths
    assert path.exists()
    answer = await uninstall(service, await installed(service, path, inplace=True), ANY)
    assert list(answer.deleted_paths) == [str(path)]
    assert not path.exists()
    assert neighbour.exists()
    assert source.is_dir()


async def test_keep_deletes_the_record_only(service: InstallClient, source: Path) -> None:
    key = await installed(service, small_lora(source / "style.safetensors"), inplace=False)
    assert not (await uninstall(service, key, KEEP)).deleted_paths
    assert (service.models / key / "style.safetensors").exists()


async def test_of_a_folder_only_the_listed_files_go(service: InstallClient, source: Path) -> None:
    folder = source / "vae"
    small = {name: shape for name, shape in table("vae.diffusers").items() if "conv_in" in name}
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", small)
    (folder / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    key = await installed(service, folder, inplace=False)
    mine = service.models / key / "vae" / "notes.txt"
    mine.write_text("written by the user")
    answer = await uninstall(service, key)
    assert len(answer.deleted_paths) == 2
    assert mine.exists()


async def test_a_stale_etag_deletes_nothing(service: InstallClient, source: Path) -> None:
    key = await installed(service, small_lora(source / "style.safetensors"), inplace=False)
    await service.digested(key)
    with fails(code="ABORTED", reason="ETAG_MISMATCH"):
        await uninstall(service, key, etag='"0"')
    assert (service.models / key / "style.safetensors").exists()
    await uninstall(service, key, etag=(await service.model(key)).etag)
    assert not (service.models / key).exists()


@pytest.mark.parametrize("kind", ["absolute", "link to a folder", "link to a file", "parent"])
async def test_a_record_that_points_outside_the_roots_deletes_nothing(
    service: InstallClient, tmp_path: Path, kind: str
) -> None:
    victim = tmp_path / "victim.safetensors"
    victim.write_text("precious")
    inside = service.models / "model"
    inside.mkdir()
    good = inside / "good.safetensors"
    good.write_text("also precious")
    if kind == "absolute":
        key = await record(service, str(victim), "victim.safetensors")
    elif kind == "parent":
        key = await record(service, "../../../../../.." + str(victim), "victim.safetensors")
    elif kind == "link to a folder":
        (inside / "away").symlink_to(tmp_path)
        key = await record(service, "model", "away/victim.safetensors", "good.safetensors")
    else:
        (inside / "link.safetensors").symlink_to(victim)
        key = await record(service, "model", "good.safetensors", "link.safetensors")
    with fails(code="PERMISSION_DENIED", reason="FORBIDDEN_PATH"):
        await uninstall(service, key, ANY)
    assert victim.exists()
    assert good.exists()
    assert (await service.model(key)).key == key


async def test_a_record_of_another_models_dir_is_refused(service: InstallClient) -> None:
    key = await record(
        service, "a/b.safetensors", "b.safetensors", root_id="00000000-0000-4000-8000-000000000000"
    )
    with fails(code="FAILED_PRECONDITION", reason="ROOT_MISMATCH"):
        await uninstall(service, key)


async def test_the_marker_of_models_dir_is_no_model_file(service: InstallClient) -> None:
    key = await record(service, ".modelkeep-root", ".modelkeep-root")
    with fails(code="PERMISSION_DENIED", reason="FORBIDDEN_PATH"):
        await uninstall(service, key)
    assert (service.models / ".modelkeep-root").exists()


async def test_a_record_does_not_reach_another_models_files_through_a_link(
    service: InstallClient, source: Path
) -> None:
    path = small_lora(source / "a.safetensors")
    victim = service.models / await installed(service, path, inplace=False) / path.name
    (service.models / "linked").mkdir()
    (service.models / "linked" / "own.txt").touch()
    (service.models / "linked" / "sub").symlink_to(victim.parent)
    key = await record(service, "linked", "own.txt", "sub/a.safetensors")
    with fails(code="PERMISSION_DENIED", reason="FORBIDDEN_PATH"):
        await uninstall(service, key, ANY)
    assert victim.exists()
    assert (service.models / "linked" / "own.txt").exists()
    assert await service.models_count() == 2


@pytest.mark.parametrize("policy", [OWNED, ANY])
async def test_a_record_at_the_folder_of_all_models_takes_none_of_them(
    service: InstallClient, source: Path, policy: int
) -> None:
    keys = [
        await installed(service, small_lora(source / f"{name}.safetensors"), inplace=False) for name in "ab"
    ]
    for path in (".", str(service.models), "..", str(service.models.parent)):
        below = "models/" if path.endswith("..") or path == str(service.models.parent) else ""
        files = [f"{below}{key}/{name}.safetensors" for key, name in zip(keys, "ab", strict=True)]
        key = await record(service, path, *files)
        assert not (await uninstall(service, key, policy)).deleted_paths
    assert await service.models_count() == 2
    for key, name in zip(keys, "ab", strict=True):
        assert list((await uninstall(service, key)).deleted_paths) == [
            str(service.models / key / f"{name}.safetensors")
        ]


async def test_a_file_that_two_records_list_goes_with_the_last_of_them(
    service: InstallClient, source: Path
) -> None:
    path = small_lora(source / "sub" / "a.safetensors")
    (source / "alias").symlink_to("sub")
    key = await installed(service, path, inplace=True)
    other = await record(service, str(source / "alias" / "a.safetensors"), "a.safetensors")
    assert not (await uninstall(service, key, ANY)).deleted_paths
    assert path.exists()
    assert list((await uninstall(service, other, ANY)).deleted_paths) == [str(source / "alias" / path.name)]
    assert not path.exists()


async def test_of_a_model_behind_a_linked_folder_only_the_link_goes(
    service: InstallClient, source: Path
) -> None:
    folder = source / "real"
    small_lora(folder / "pytorch_lora_weights.safetensors")
    (source / "link").symlink_to("real")
    key = await installed(service, source / "link", inplace=True)
    answer = await uninstall(service, key, ANY)
    assert list(answer.deleted_paths) == [str(source / "link")]
    assert not (source / "link").is_symlink()
    assert (folder / "pytorch_lora_weights.safetensors").exists()


async def test_a_model_registered_inside_another_leaves_the_others_files(
    service: InstallClient, source: Path
) -> None:
    folder = source / "pipeline"
    small = {name: shape for name, shape in table("vae.diffusers").items() if "conv_in" in name}
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", small)
    (folder / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    (folder / "style").mkdir()
    small_lora(folder / "style" / "style.safetensors")
    outer = await installed(service, folder, inplace=False)
    part = service.models / outer / "pipeline" / "style" / "style.safetensors"
    inner = await installed(service, part, inplace=True)
    assert not (await uninstall(service, inner)).deleted_paths
    assert part.exists()
    inner = await installed(service, part, inplace=True)
    await uninstall(service, outer, KEEP)
    assert list((await uninstall(service, inner)).deleted_paths) == [str(part)]  # nobody else's any more


async def test_a_file_that_cannot_be_removed_stays_and_the_rest_goes(
    service: InstallClient, source: Path
) -> None:
    folder = service.models / "odd"
    (folder / "now-a-folder").mkdir(parents=True)
    (folder / "file.txt").touch()
    key = await record(service, "odd", "file.txt", "now-a-folder")
    answer = await uninstall(service, key)
    assert list(answer.deleted_paths) == [str(folder / "file.txt")]
    assert (folder / "now-a-folder").is_dir()
    assert await service.models_count() == 0


async def test_the_folder_of_a_single_file_outside_models_dir_stays(
    service: InstallClient, source: Path
) -> None:
    key = await installed(service, small_lora(source / "a.safetensors"), inplace=True)
    await uninstall(service, key, ANY)
    assert list(source.iterdir()) == []


async def test_an_uninstall_that_does_not_say_what_happens_to_the_files_is_refused(
    service: InstallClient, source: Path
) -> None:
    key = await installed(service, small_lora(source / "x.safetensors"), inplace=False)
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["files"]):
        await service.stub.UninstallModel(pb.UninstallModelRequest(key=key))
    assert (await service.model(key)).key == key
    assert not (await uninstall(service, key, KEEP)).deleted_paths


async def test_of_many_deleted_files_the_first_are_named_and_all_are_counted(service: InstallClient) -> None:
    folder = service.models / "many"
    folder.mkdir()
    names = [f"{'n' * 200}{number:04}" for number in range(1200)]
    for name in names:
        (folder / name).write_text("x")
    answer = await uninstall(service, await record(service, str(folder), *names), ANY)
    assert (len(answer.deleted_paths), answer.deleted_count, answer.deleted_bytes) == (1000, 1200, 1200)
    assert not folder.exists()


async def test_a_file_that_another_record_lists_through_a_bind_mount_stays(
    service: InstallClient, source: Path
) -> None:
    first = await installed(service, small_lora(source / "style.safetensors"), inplace=False)
    home = service.models / first
    with bound(home, source / "bound") as folder:
        job = await service.install(folder / "style.safetensors", reuse=install_pb2.REUSE_NEVER)
        assert job.state == install_pb2.INSTALL_STATE_COMPLETED, job.error
        told = await uninstall(service, job.model_key, ANY)
        assert (list(told.deleted_paths), list(told.shared_files[0].keys)) == ([], [first])
        again = await service.install(folder / "style.safetensors", reuse=install_pb2.REUSE_NEVER)
        told = await uninstall(service, first)
        assert (list(told.deleted_paths), list(told.shared_files[0].keys)) == ([], [again.model_key])
        assert (home / "style.safetensors").exists()
