"""Copying and placing: durable, never half done, never over something else, never out of the folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.exceptions import (
    DestinationExistsException,
    DiskFullException,
    InvalidModelException,
)
from modelkeep_install import files
from modelkeep_install.hashing import Interrupted


def test_a_copy_is_equal_read_only_and_reports_its_progress(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # who may read a folder may read what is put into it
    (tmp_path / "a").write_bytes(os.urandom(3 << 20))
    seen: list[int] = []
    assert files.copy_file(tmp_path / "a", tmp_path / "b", files.Copying(advance=seen.append)) == 3 << 20
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o444
    assert sum(seen) == 3 << 20


@pytest.mark.parametrize("error", [errno.EXDEV, errno.ENOSYS])
def test_a_copy_between_file_systems_takes_the_long_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*args: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    (tmp_path / "a").write_bytes(os.urandom(100_000))
    files.copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


def test_a_file_of_the_kernels_is_copied_though_it_has_no_size(tmp_path: Path) -> None:
    # the kernel splices nothing from it; so do some file systems that programs serve
    assert files.copy_file(Path("/proc/self/cmdline"), tmp_path / "b") > 0
    assert (tmp_path / "b").read_bytes() == Path("/proc/self/cmdline").read_bytes()


def test_a_source_that_its_disk_does_not_give_is_told_from_a_bad_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "a").write_bytes(b"x" * 1000)
    monkeypatch.setattr(os, "copy_file_range", broken)
    monkeypatch.setattr(os, "read", broken)
    with pytest.raises(InvalidModelException, match=r"a cannot be read: Input/output error"):
        files.copy_file(tmp_path / "a", tmp_path / "b")


def test_a_copy_never_replaces_and_never_goes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "victim").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("victim", "link", "dangling"):
        with pytest.raises(DestinationExistsException):
            files.copy_file(tmp_path / "a", tmp_path / name)
    assert (tmp_path / "victim").read_bytes() == b"old"
    assert not (tmp_path / "nowhere").exists()


def test_no_room_is_said_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    (tmp_path / "a").write_bytes(b"x" * 1000)
    with pytest.raises(DiskFullException, match="free some"):
        files.copy_file(tmp_path / "a", tmp_path / "b")


def test_a_copy_stops_when_it_is_asked_to(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(Interrupted):
        files.copy_file(tmp_path / "a", tmp_path / "b", files.Copying(stop=lambda: True))


def test_placing_is_one_rename_that_may_be_repeated(tmp_path: Path) -> None:
    staged = tmp_path / ".staging" / "1" / "m.safetensors"
    staged.parent.mkdir(parents=True)
    with staged.open("wb") as file:
        file.truncate(5_000_000_000)
    target = tmp_path / "key" / "m.safetensors"
    was = staged.stat().st_ino
    files.place(staged, target)
    assert target.stat().st_ino == was, "nothing was copied"
    files.place(staged, target)
    assert target.stat().st_mode & 0o777 == 0o444
    with pytest.raises(InvalidModelException, match="vanished"):
        files.place(staged, tmp_path / "other" / "m.safetensors")
    staged.write_bytes(b"another")
    with pytest.raises(DestinationExistsException):
        files.place(staged, target)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "a\0",
        "a\nb",
        "CON",
        "nul.safetensors",
        "a.",
        "a ",
        "x" * 256,
        "a:b",
        ".modelkeep-root",
    ],
)
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidModelException, match="cannot be the name"):
        files.check_name(name)


@given(st.text(max_size=40))
def test_a_name_that_passes_is_one_component(name: str) -> None:
    try:
        files.check_name(name)
    except InvalidModelException:
        return
    assert Path(name).name == name
    assert name not in (".", "..")


def test_names_that_differ_by_case_alone_are_refused() -> None:
    files.check_relative(["unet/a.json", "vae/a.json", "A"])
    with pytest.raises(InvalidModelException, match="by case alone"):
        files.check_relative(["unet/config.json", "UNet/config.json"])


def test_empty_folders_are_removed_up_to_the_root_only(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "keep").write_text("x")
    files.remove_empty(tmp_path / "a" / "b" / "c", above=tmp_path)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["keep"]
    (tmp_path / "a" / "keep").unlink()
    files.remove_empty(tmp_path / "a", above=tmp_path)
    assert tmp_path.exists()
    assert not (tmp_path / "a").exists()
