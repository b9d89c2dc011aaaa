"""Delivery on the file system: never replacing, never outside the root, safe to do again."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from modelkeep.exceptions import (
    DestinationExistsException,
    ForbiddenPathException,
)
from modelkeep_common.paths import AllowedRoots
from modelkeep_download.domain.retry import StartOver
from modelkeep_download.engine import files
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.sources import tree


@pytest.fixture(params=["renameat2", "link"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to rename without replacing: the kernel's call, and hard links where it is missing."""
    if request.param == "link":
        monkeypatch.setattr(files, "_renameat2", None)
    return str(request.param)


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    staging = files.make_staging(tmp_path, tmp_path / "new" / "deep", 7)
    assert staging == tmp_path / ".staging" / "download-7"
    staged = staging / files.PARTIAL
    staged.write_bytes(b"body")
    return staged


def test_jobs_of_two_services_never_share_a_staging_folder(tmp_path: Path) -> None:
    made = [files.make_staging(tmp_path, tmp_path / "m.bin", 7) for _ in range(3)]
    assert len(set(made)) == 3
    assert all(files.is_staging(folder) and folder.is_dir() for folder in made)
    for folder in made:
        files.remove_staging(str(folder))
    assert list((tmp_path / ".staging").iterdir()) == []


def test_a_delivery_renames_and_makes_folders(tmp_path: Path, staged: Path, way: str) -> None:
    inode = files.inode_of(staged)
    target = tmp_path / "new" / "deep" / "m.bin"
    files.deliver(staged, tmp_path, target)
    assert (target.read_bytes(), files.inode_of(target), staged.exists()) == (b"body", inode, False)
    assert target.stat().st_nlink == 1


def test_a_delivery_never_replaces(tmp_path: Path, staged: Path, way: str) -> None:
    target = tmp_path / "m.bin"
    for make in (lambda: target.write_bytes(b"mine"), lambda: target.symlink_to("nowhere"), target.mkdir):
        make()
        with pytest.raises(DestinationExistsException):
            files.deliver(staged, tmp_path, target)
        assert staged.read_bytes() == b"body"
        target.rmdir() if target.is_dir() else target.unlink()


def test_folders_are_delivered_and_never_replace_either(tmp_path: Path, staged: Path, way: str) -> None:
    folder = staged.parent / "folder"
    folder.mkdir()
    (tmp_path / "taken").mkdir()
    with pytest.raises(DestinationExistsException):
        files.deliver(folder, tmp_path, tmp_path / "taken")
    files.deliver(folder, tmp_path, tmp_path / "free")
    assert (tmp_path / "free").is_dir()


def test_a_delivery_by_link_may_be_done_again_after_a_crash_in_its_middle(
    tmp_path: Path, staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_renameat2", None)
    os.link(staged, tmp_path / "m.bin")  # linked, not yet unlinked
    files.deliver(staged, tmp_path, tmp_path / "m.bin")
    assert not staged.exists()
    assert (tmp_path / "m.bin").read_bytes() == b"body"


def test_folders_open_beneath_their_root_without_following_links(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    (root / "file").write_bytes(b"")
    for bad in (root / "link", root / "link" / "x", root / "file" / "x", outside, root / ".." / "outside"):
        with pytest.raises(ForbiddenPathException):
            os.close(files.open_folder(root, bad, create=True))
    with pytest.raises(FileNotFoundError):
        files.open_folder(root, root / "missing")
    os.close(files.open_folder(root, root / "made" / "deep", create=True))
    assert (root / "made" / "deep").is_dir()
    assert not list(outside.iterdir())


def test_only_staging_folders_are_ever_removed(tmp_path: Path, staged: Path) -> None:
    for harmless in ("", str(tmp_path), str(tmp_path / ".staging"), "/"):
        files.remove_staging(harmless)
    assert staged.exists()
    files.remove_staging(str(staged.parent))
    assert not staged.parent.exists()


def test_a_wrong_file_is_set_apart(tmp_path: Path, staged: Path) -> None:
    kept = files.quarantine(staged)
    assert (kept.name, kept.read_bytes(), staged.exists()) == ("quarantined", b"body", False)


def test_other_errors_of_the_rename_are_told_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError) as error:
        files.deliver(tmp_path / "missing", tmp_path, tmp_path / "x")
    assert error.value.errno == errno.ENOENT


def copy_tree(source: Path, copy: Path, advanced: Callable[[int], None] = lambda done: None) -> None:
    roots = AllowedRoots([source.parent], data_dir=Path("/nowhere"))
    fd = tree.open_source(roots, source)
    try:
        tree.copy_tree(roots, source, fd, copy, advanced, StopSignal())
    finally:
        os.close(fd)


def test_after_a_move_between_file_systems_only_what_was_copied_is_removed(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    roots = AllowedRoots([tmp_path], data_dir=Path("/nowhere"))
    for name in ("a/one", "a/two", "b/three", "b/late", "b/longer"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"bytes")
    copy_tree(source, copy)
    (source / "a/new").write_bytes(b"came after the copy")
    (source / "b/longer").write_bytes(b"changed after the copy")
    (source / "b/late").write_bytes(b"other")  # as long as before
    just_now = (source / "b/late").stat().st_mtime_ns + 1
    os.utime(source / "b/late", ns=(just_now, just_now))
    tree.remove_copied(roots, source, copy)
    left = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())
    assert left == ["a/new", "b/late", "b/longer"]
    shutil.rmtree(source / "b")
    (source / "a/new").unlink()
    tree.remove_copied(roots, source, copy)
    assert not source.exists()


def test_a_copied_folder_has_its_empty_folders_and_what_its_links_lead_to(tmp_path: Path) -> None:
    source, blob = tmp_path / "source", tmp_path / "blobs" / "abc"
    (source / "empty" / "deeper").mkdir(parents=True)
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    (source / "w.bin").symlink_to("../blobs/abc")
    copy_tree(source, tmp_path / "copy")
    assert (tmp_path / "copy" / "empty" / "deeper").is_dir()
    assert not (tmp_path / "copy" / "w.bin").is_symlink()
    assert (tmp_path / "copy" / "w.bin").read_bytes() == b"weights"
    tree.remove_copied(AllowedRoots([tmp_path], data_dir=Path("/nowhere")), source, tmp_path / "copy")
    assert not source.exists()
    assert blob.read_bytes() == b"weights"


def test_of_a_moved_folder_no_link_to_one_of_its_own_files_stays(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "w.bin").write_bytes(b"weights")
    for link, target in (("a", "sub/w.bin"), ("z", "a"), ("sub/a", "w.bin"), ("sub/z", "../z")):
        (source / link).symlink_to(target)
    copy_tree(source, tmp_path / "copy")
    tree.remove_copied(AllowedRoots([tmp_path], data_dir=Path("/nowhere")), source, tmp_path / "copy")
    assert not source.exists()
    assert (tmp_path / "copy" / "sub" / "z").read_bytes() == b"weights"


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    pipe, loop = tmp_path / "pipe", tmp_path / "loop"
    for source in (pipe, loop):
        source.mkdir()
    os.mkfifo(pipe / "odd")
    (loop / "odd").symlink_to(tmp_path)
    for source in (pipe, loop):
        with pytest.raises(ForbiddenPathException):
            copy_tree(source, tmp_path / "copy")
    with pytest.raises(ForbiddenPathException):
        tree.open_source(AllowedRoots([tmp_path], data_dir=Path("/nowhere")), pipe / "odd")


def test_a_file_of_a_folder_that_changes_while_it_is_copied_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    file = source / "w.bin"
    file.write_bytes(b"x" * 3_000_000)

    def change(done: int) -> None:
        with file.open("r+b") as opened:
            opened.write(b"other")  # as long as before
        os.utime(file, ns=(1, 1))

    with pytest.raises(StartOver, match="changed while it was read"):
        copy_tree(source, tmp_path / "copy", change)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_all_of_it_is_durable_before_it_is_renamed_and_the_rename_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    staged, target = tmp_path / "staged", tmp_path / "models" / "m"
    if kind == "file":
        staged.write_bytes(b"body")
        parts = {staged}
    else:
        (staged / "vae").mkdir(parents=True)
        (staged / "vae" / "w.bin").write_bytes(b"body")
        (staged / "index.json").write_bytes(b"{}")
        parts = {staged, *staged.rglob("*")}
    inodes = {part.stat().st_ino for part in parts}
    target.parent.mkdir()
    synced: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    assert files.sync_tree(staged) == files.inode_of(staged)
    assert set(synced) == inodes
    synced.clear()
    files.deliver(staged, tmp_path, target)
    assert synced == [target.parent.stat().st_ino]


def test_two_file_systems_are_two_mounts(tmp_path: Path) -> None:
    assert files.mount_at(tmp_path) == files.mount_at(tmp_path.parent)
    assert files.mount_at(tmp_path) != files.mount_at(Path("/dev/shm"))
