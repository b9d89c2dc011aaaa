"""Local sources of odd kinds: each taken whole, or refused with a reason; never a defect."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep_download.sources import tree as local
from support.downloads import DownloadClient, download_service

COMPLETED, ERROR = download_pb2.DOWNLOAD_STATE_COMPLETED, download_pb2.DOWNLOAD_STATE_ERROR

pytestmark = pytest.mark.parametrize("copy", [True, False], ids=["copied", "moved"])


@pytest.fixture
def tree(data_dir: Path) -> Path:
    """A folder beneath the import root, with a file."""
    folder = data_dir.parent / "inbox" / "tree"
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"a" * 1000)
    return folder


@pytest.fixture
async def client(data_dir: Path, tree: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, import_roots=(tree.parent,)) as service:
        yield service


def deep(folder: Path, name: str, levels: int) -> None:
    """Folders in folders, deeper than one path can say."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("deep.bin", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)


async def refused(client: DownloadClient, path: Path, copy: bool) -> download_pb2.Download:
    job = await client.ended(await client.take(path, copy=copy))
    assert job.state == ERROR
    assert job.error.reason != "INTERNAL", job.error
    assert not any(path.is_file() and path.name[0] != "." for path in client.folder.rglob("*"))
    return job


async def test_a_socket_in_a_folder_is_no_file(client: DownloadClient, tree: Path, copy: bool) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tree / "s"))
        job = await refused(client, tree, copy)
    assert job.error.reason == "FORBIDDEN_PATH"
    assert f"{tree / 's'} is no regular file" in job.error.message


async def test_a_path_that_no_file_can_have_is_refused(
    client: DownloadClient, tree: Path, copy: bool
) -> None:
    deep(tree, "d" * 200, 30)
    if not copy:  # a rename asks for no path of what is inside
        assert (await client.ended(await client.take(tree))).state == COMPLETED
        return
    assert (await refused(client, tree, copy)).error.reason == "FIELD_INVALID"
    assert (tree / "a.bin").exists()


async def test_folders_deeper_than_any_model_has_are_refused(
    client: DownloadClient, tree: Path, copy: bool
) -> None:
    deep(tree, "d", 1200)
    try:
        job = await refused(client, tree, copy)
        assert (job.error.reason, "64 deep" in job.error.message) == ("FIELD_INVALID", True), job.error
        assert (tree / "a.bin").exists()
    finally:
        os.rename(tree / "d", tree.parent / "d")
        while (tree.parent / "d" / "d").exists():  # a tree so deep cannot be removed at once
            os.rename(tree.parent / "d" / "d", tree.parent / "e")
            os.rmdir(tree.parent / "d")
            os.rename(tree.parent / "e", tree.parent / "d")
        shutil.rmtree(tree.parent / "d")


async def test_more_files_than_any_model_has_are_refused(
    client: DownloadClient, tree: Path, copy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_MAX_ENTRIES", 100)
    (tree / "sub").mkdir()
    for number in range(100):
        (tree / "sub" / str(number)).touch()
    job = await refused(client, tree, copy)
    assert (job.error.reason, "more than 100 files" in job.error.message) == ("FIELD_INVALID", True), (
        job.error
    )
    assert (tree / "a.bin").exists()


@pytest.mark.parametrize("name", [b"bad\xff", b"new\nline\x1b", b" ", "\u202e".encode()])
async def test_odd_names_arrive_as_they_are(
    client: DownloadClient, tree: Path, copy: bool, name: bytes
) -> None:
    (tree / os.fsdecode(name)).write_text("x")
    job = await client.ended(await client.take(tree, copy=copy))
    assert job.state == COMPLETED, job.error
    assert name in os.listdir(os.fsencode(job.path))


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
async def test_what_is_written_by_another_name_of_the_source_does_not_arrive(
    client: DownloadClient, tree: Path, copy: bool, whole: bool
) -> None:
    other = tree.parent / "other.bin"
    os.link(tree / "a.bin", other)
    job = await client.ended(await client.take(tree if whole else tree / "a.bin", copy=copy))
    assert job.state == COMPLETED, job.error
    other.write_bytes(b"another's")
    arrived = Path(job.path) / "a.bin" if whole else Path(job.path)
    assert arrived.read_bytes() == b"a" * 1000
    assert (tree / "a.bin").exists() == copy


async def test_a_time_that_the_wire_cannot_carry_is_no_obstacle(
    client: DownloadClient, tree: Path, copy: bool
) -> None:
    for time in (3e11, -3e11):
        os.utime(tree / "a.bin", (time, time))  # as far as the file system keeps it
    job = await client.ended(await client.take(tree, copy=copy))
    assert job.state == COMPLETED, job.error
