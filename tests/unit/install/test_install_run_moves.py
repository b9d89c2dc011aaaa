"""The run of an install that moves its source: what is never moved; no kill loses or doubles it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from modelkeep.exceptions import FieldInvalidException
from modelkeep_install import files
from modelkeep_install.domain.jobs import State
from modelkeep_install.steps import moving
from support.downloads import REPOSITORY
from support.faketime import run
from support.installrun import KEY, Bench, on_bench
from support.installs import small_lora
from support.modelshapes import write_vae_folder
from support.movekills import bench_in


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Size and first mebibyte of every file of a folder, by its path; what follows is zeros."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.relative_to(folder))] = (path.stat().st_size, file.read(1 << 20))
    return found


@pytest.mark.timeout(240)
@pytest.mark.parametrize("way", ["link", "copy"])
def test_a_kill_at_any_change_of_the_disk_leaves_the_model_and_in_the_end_once(
    tmp_path: Path, way: str
) -> None:
    folders = ("services", "clients/python", "tests")
    path = os.pathsep.join(str(REPOSITORY / folder) for folder in folders)
    told = subprocess.run(
        [sys.executable, "-m", "support.movekills", str(tmp_path / "moves"), way],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        check=True,
    )
    points = sorted((tmp_path / "moves").iterdir())
    assert len(points) == json.loads(told.stdout)["points"] + 1 > 8
    model = model_of(way, tmp_path)
    for point in points:
        imports, models = point / "import" / "model", point / "data" / "models"
        left, found = contents(imports), contents(models)
        for name, body in model.items():
            places = [
                at for where, at in (*left.items(), *found.items()) if Path(where).name == Path(name).name
            ]
            assert body in places, (point, name)
        bench = bench_in(point, way)
        if not bench.job.state.final:
            run(bench.finish())
        assert (bench.job.state, bench.job.error) == (State.COMPLETED, None), point
        assert contents(imports) == {".notes": (11, b"of somebody")}, point
        assert contents(models / KEY) == model, point
        assert sorted(contents(models)) == sorted(f"{KEY}/{name}" for name in model), point
        modes = {stat.S_IMODE((models / KEY / name).stat().st_mode) for name in model}
        assert not any(mode & 0o222 for mode in modes), point


def model_of(way: str, folder: Path) -> dict[str, tuple[int, bytes]]:
    """The files that such a move takes, by where they are in the folder of the model."""
    if way == "copy":
        return contents(small_lora(folder / "one" / "ink.safetensors").parent)
    return {f"model/{name}": body for name, body in contents(write_vae_folder(folder / "vae")).items()}


@pytest.mark.parametrize("way", ["link", "copy"])
def test_a_file_is_moved_by_another_name_or_by_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    async def story(bench: Bench) -> None:
        if way == "copy":
            monkeypatch.setattr(files, "_link", lambda descriptor, target: False)
        before = bench.source.stat().st_ino
        await bench.finish()
        bench.check_completed()
        assert (Path(bench.job.local_path).stat().st_ino == before) == (way == "link")

    on_bench(tmp_path, "move", story)


def test_the_source_of_a_move_that_fails_is_as_it_was(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        before = bench.source.stat()
        bench.records.faults.refused["create"] = FieldInvalidException("No.")
        await bench.finish()
        assert bench.job.state is State.ERROR
        bench.check_nothing_left()
        after = bench.source.stat()
        assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (
            before.st_ino,
            before.st_mode,
            before.st_mtime_ns,
        )

    on_bench(tmp_path, "move", story)


def test_what_a_record_lists_is_not_moved(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.records.listed[str(bench.source)] = "cd" * 16
        await bench.finish()
        assert bench.job.error is not None
        assert (bench.job.state, bench.job.error.reason) == (State.ERROR, "DUPLICATE_PATH")
        assert bench.job.error.metadata["key"] == "cd" * 16
        bench.check_nothing_left()

    on_bench(tmp_path, "move", story)


def test_what_a_record_lists_by_the_time_of_its_removal_stays(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        async with bench.started() as (_, task):
            await bench.store.until(lambda job: bool(job.moved))
            bench.records.listed[str(bench.source)] = "cd" * 16
            await task
        assert bench.job.state is State.COMPLETED
        assert bench.source.read_bytes() == bench.content

    on_bench(tmp_path, "move", story)


@pytest.mark.parametrize("how", ["written to", "replaced"])
def test_what_changes_after_it_was_staged_stays(tmp_path: Path, how: str) -> None:
    async def story(bench: Bench) -> None:
        async with bench.started() as (_, task):
            await bench.store.until(lambda job: job.registering)
            if how == "replaced":
                bench.source.unlink()
            bench.source.write_bytes(b"something else")
            await task
        assert bench.job.state is State.COMPLETED
        assert bench.source.read_bytes() == b"something else"

    with pytest.MonkeyPatch.context() as patch:
        if how == "written to":
            patch.setattr(files, "_link", lambda descriptor, target: False)
        on_bench(tmp_path, "move", story)


def test_a_copy_that_is_not_the_source_is_no_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: Bench) -> None:
        monkeypatch.setattr(files, "_link", lambda descriptor, target: False)

        def badly(path: Path, source: int, target: int, how: files.Copying) -> int:
            body = bytearray(bench.content)
            body[-1] ^= 1
            return os.write(target, body)

        monkeypatch.setattr(files, "_reflink", lambda source, target: False)
        monkeypatch.setattr(files, "_copy_bytes", badly)
        await bench.finish()
        assert bench.job.error is not None
        assert (bench.job.state, bench.job.error.reason) == (State.ERROR, "SOURCE_CHANGED")
        bench.check_nothing_left()

    on_bench(tmp_path, "move", story)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_lies_in_a_folder_that_cannot_be_written_is_not_moved(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.source.parent.chmod(0o555)
        try:
            await bench.finish()
        finally:
            bench.source.parent.chmod(0o755)
        assert bench.job.error is not None
        assert bench.job.error.reason == "FORBIDDEN_PATH"
        bench.check_nothing_left()

    on_bench(tmp_path, "move", story)


def test_links_roots_and_installed_models_are_never_moved(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        link = bench.imports / "link.safetensors"
        link.symlink_to(bench.source)
        installed = bench.models / KEY / "m.safetensors"
        installed.parent.mkdir()
        installed.write_bytes(b"x")
        staged = bench.roots.staging(7) / "m.safetensors"
        refused = (link, bench.imports, bench.models, bench.models.parent, installed, staged)
        for path in refused:
            with pytest.raises(FieldInvalidException) as raised:
                moving.check_movable(path, bench.roots)
            assert [violation.field for violation in raised.value.violations] == ["move"]
        moving.check_movable(bench.source, bench.roots)

    on_bench(tmp_path, "move", story)


def test_a_folder_of_links_is_not_moved(tmp_path: Path) -> None:
    point = tmp_path / "linked"
    bench = bench_in(point, "link")
    config = bench.source / "config.json"
    config.rename(point / "import" / "blob")
    config.symlink_to(point / "import" / "blob")
    run(bench.finish())
    assert bench.job.error is not None
    assert (bench.job.state, bench.job.error.reason) == (State.ERROR, "FIELD_INVALID")
    assert config.is_symlink()
    assert not any(path.is_file() for path in bench.models.rglob("*"))
