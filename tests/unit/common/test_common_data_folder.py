"""The data folder: nobody's, but for the models in it, whatever the roots and by whatever name."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep.exceptions import ForbiddenPathException
from modelkeep_common.data_folder import OWN_FOLDERS
from modelkeep_common.paths import AllowedRoots
from modelkeep_common.startup import StartupError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "Data"
    for name in (*OWN_FOLDERS, "models/model"):
        (folder / name).mkdir(parents=True)
    (folder / "record" / "record.db").write_text("records")
    (folder / "run" / "tokens").mkdir()
    (folder / "run" / "tokens" / "owner").write_text("token")
    (folder / "models" / "model" / "a.safetensors").write_text("weights")
    (tmp_path / "import").mkdir()
    return folder


def everything(data: Path, *roots: Path) -> AllowedRoots:
    return AllowedRoots([*roots, Path("/")], data_dir=data, models=[data / "models"])


def refused(allowed: AllowedRoots, path: Path | str) -> None:
    with pytest.raises(ForbiddenPathException) as caught:
        allowed.resolve(path)
    assert caught.value.metadata["setting"] == "data_dir"
    with pytest.raises(ForbiddenPathException):
        os.close(allowed.open_beneath(path))


def test_the_models_may_be_touched_and_nothing_else_of_the_data_folder(data: Path) -> None:
    allowed = everything(data)
    assert allowed.resolve(data / "models" / "model" / "a.safetensors")
    assert allowed.resolve(data / "models" / "new" / "b.safetensors")
    assert allowed.resolve(data.parent / "import" / "x")
    for name in ("", *OWN_FOLDERS, "record/record.db", "run/tokens/owner", "run/not-yet", "new", "modelsx"):
        refused(allowed, data / name)


@pytest.mark.parametrize(
    "spelling",
    [
        "{data}/models/../record/record.db",
        "{data}//record/./record.db",
        "/proc/self/root{data}/record/record.db",
        "/proc/self/cwd/../../../../../../../../../..{data}/record/record.db",
        "{import_}/link/record.db",
        "{import_}/db",
        "{data}/models/out/record.db",
        "/dev/fd/{fd}/record/record.db",
    ],
)
def test_no_spelling_and_no_link_leads_into_the_data_folder(data: Path, spelling: str) -> None:
    folder = data.parent / "import"
    (folder / "link").symlink_to(data / "record")
    (folder / "db").symlink_to("../Data/record/record.db")
    (data / "models" / "out").symlink_to("../record")
    fd = os.open(data, os.O_RDONLY)
    try:
        refused(everything(data), spelling.format(data=data, import_=folder, fd=fd))
    finally:
        os.close(fd)


def test_a_hard_link_to_a_file_of_the_suite_is_that_file(data: Path) -> None:
    allowed = everything(data)
    other = data.parent / "import" / "innocent.safetensors"
    os.link(data / "record" / "record.db", other)
    refused(allowed, other)
    (data / "run" / "tokens" / "install").write_text("made after the first look")
    os.link(data / "run" / "tokens" / "install", data / "models" / "model" / "b.safetensors")
    refused(allowed, data / "models" / "model" / "b.safetensors")


def test_what_was_opened_by_a_descriptor_is_known_again(data: Path) -> None:
    allowed = everything(data)
    for name, own in (("record", True), ("record/record.db", True), ("models/model/a.safetensors", False)):
        fd = os.open(data / name, os.O_RDONLY)
        try:
            if own:
                with pytest.raises(ForbiddenPathException):
                    allowed.check_open(fd, "asked")
            else:
                allowed.check_open(fd, "asked")
        finally:
            os.close(fd)


def test_a_folder_with_the_data_folder_in_it_may_be_gone_through_and_not_be_taken_whole(data: Path) -> None:
    allowed = everything(data)
    assert allowed.resolve(data.parent) == data.parent
    for folder in (data.parent, Path("/")):
        with pytest.raises(ForbiddenPathException):
            allowed.resolve(folder, whole=True)
    assert allowed.resolve(data.parent / "import", whole=True)
    assert allowed.resolve(data / "models" / "model", whole=True)


@pytest.fixture
def mounted(data: Path, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "mounted"
    place.mkdir()
    (tmp_path / "mounted.db").touch()
    mounts = [(data, place), (data / "record" / "record.db", tmp_path / "mounted.db")]
    made = []
    try:
        for what, where in mounts:
            if subprocess.run(["mount", "--bind", what, where], capture_output=True, check=False).returncode:
                pytest.skip("needs the right to mount")
            made.append(where)
        yield place
    finally:
        for where in made:
            subprocess.run(["umount", where], check=True)


def test_where_it_is_mounted_a_second_time_it_is_the_data_folder_too(data: Path, mounted: Path) -> None:
    allowed = everything(data)
    refused(allowed, mounted)
    refused(allowed, mounted / "record" / "record.db")
    refused(allowed, mounted / "run" / "new")
    refused(allowed, mounted.with_name("mounted.db"))
    assert allowed.resolve(mounted / "models" / "model" / "a.safetensors")


def test_models_elsewhere_open_nothing_of_the_data_folder(data: Path, tmp_path: Path) -> None:
    allowed = AllowedRoots([tmp_path], data_dir=data, models=[tmp_path / "import"])
    assert allowed.resolve(tmp_path / "import" / "x")
    refused(allowed, data / "models" / "model" / "a.safetensors")


def test_a_models_folder_around_the_data_folder_does_not_open_it(data: Path, tmp_path: Path) -> None:
    allowed = AllowedRoots([tmp_path], data_dir=data, models=[tmp_path])
    assert allowed.resolve(tmp_path / "import" / "x")
    refused(allowed, data / "record" / "record.db")


@pytest.mark.parametrize("models", ["", "record", "run/tokens", "../Data"])
def test_models_among_the_suites_own_files_are_refused_at_start(data: Path, models: str) -> None:
    with pytest.raises(StartupError) as caught:
        AllowedRoots([data.parent], data_dir=data, models=[data / models])
    assert caught.value.exit_code == 78
    assert str(data / "models") in caught.value.message


@pytest.mark.parametrize("root", ["", "record", "import"])
def test_a_root_in_the_data_folder_is_refused_at_start_with_the_settings_name(data: Path, root: str) -> None:
    with pytest.raises(StartupError, match="import_roots") as caught:
        AllowedRoots([data / root], data_dir=data, models=[data / "models"], setting="import_roots")
    assert caught.value.exit_code == 78
