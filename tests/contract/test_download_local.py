"""Local sources while somebody changes the tree: what is swapped is not followed, and nothing is lost."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep_common.paths import AllowedRoots
from modelkeep_download.engine import files
from support.downloads import DownloadClient, alter_job, download_service
from support.failures import failure_of

BODY, SECRET = b"model" * 1000, b"secret" * 1000
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR


@pytest.fixture
def inbox(data_dir: Path) -> Path:
    folder = data_dir.parent / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def elsewhere(data_dir: Path) -> Path:
    """A folder outside the import roots, with names as those inside."""
    folder = data_dir.parent / "elsewhere"
    folder.mkdir()
    for name in ("m.bin", "w.bin"):
        (folder / name).write_bytes(SECRET)
    return folder


@pytest.fixture
def other_device() -> Iterator[Path]:
    """An inbox on another file system than the models."""
    folder = Path("/dev/shm") / f"modelkeep-test-local-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def client(data_dir: Path, inbox: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, import_roots=(inbox,)) as service:
        yield service


@pytest.fixture
def swap_after_check(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path], None]:
    """Swap a folder for a link, once, after a path in it was found to be allowed and before it is opened."""

    def arm(folder: Path, target: Path) -> None:
        real = AllowedRoots._locate

        def locate(
            self: AllowedRoots, path: str | Path, base: Path | None, roots: Sequence[Path]
        ) -> tuple[Path, Path]:
            found = real(self, path, base, roots)
            if not folder.is_symlink() and found[1].is_relative_to(folder):
                folder.rename(folder.with_name("was"))
                folder.symlink_to(target)
            return found

        monkeypatch.setattr(AllowedRoots, "_locate", locate)

    return arm


async def run_swapped(client: DownloadClient, path: Path, arm: Callable[[], None], **fields: Any) -> Any:
    """A job that is checked at its creation; `arm` is called before it runs."""
    job = await client.take(path, start=False, **fields)
    arm()
    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
    return await client.ended(job)


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("what", ["sub/m.bin", "sub"])
async def test_a_component_swapped_for_a_link_between_check_and_open_is_not_followed(
    client: DownloadClient,
    inbox: Path,
    elsewhere: Path,
    swap_after_check: Callable[[Path, Path], None],
    what: str,
    copy: bool,
) -> None:
    (inbox / "sub").mkdir()
    (inbox / "sub" / "m.bin").write_bytes(BODY)
    job = await run_swapped(
        client, inbox / what, lambda: swap_after_check(inbox / "sub", elsewhere), copy=copy
    )
    assert (job.state, job.error.reason) == (ERROR, "FORBIDDEN_PATH")
    assert {path.name for path in elsewhere.iterdir()} == {"m.bin", "w.bin"}
    assert list(client.folder.rglob("*.bin")) == []


async def test_what_a_link_in_a_folder_leads_to_is_not_followed_out_of_the_roots_either(
    client: DownloadClient, inbox: Path, elsewhere: Path, swap_after_check: Callable[[Path, Path], None]
) -> None:
    for folder in ("sd", "blobs"):
        (inbox / folder).mkdir()
    (inbox / "blobs" / "w.bin").write_bytes(BODY)
    (inbox / "sd" / "w.bin").symlink_to("../blobs/w.bin")
    job = await run_swapped(
        client, inbox / "sd", lambda: swap_after_check(inbox / "blobs", elsewhere), copy=True
    )
    assert (job.state, job.error.reason) == (ERROR, "FORBIDDEN_PATH")
    assert list(client.folder.rglob("*.bin")) == []


@pytest.mark.parametrize("copy", [True, False])
async def test_links_in_a_folder_arrive_as_files_and_none_that_leads_out_arrives(
    client: DownloadClient, inbox: Path, elsewhere: Path, copy: bool
) -> None:
    for folder in ("sd", "blobs", "bad"):
        (inbox / folder).mkdir()
    (inbox / "blobs" / "abc").write_bytes(BODY)
    (inbox / "sd" / "w.bin").symlink_to("../blobs/abc")
    (inbox / "bad" / "w.bin").symlink_to(elsewhere / "w.bin")
    job = await client.ended(await client.take(inbox / "sd", copy=copy))
    assert job.state == COMPLETED, job.error
    assert not (client.folder / "sd" / "w.bin").is_symlink()
    assert (client.folder / "sd" / "w.bin").read_bytes() == BODY
    assert ((inbox / "sd").exists(), (inbox / "blobs" / "abc").read_bytes()) == (copy, BODY)
    job = await client.ended(await client.take(inbox / "bad", copy=copy))
    assert (job.state, job.error.reason) == (ERROR, "FORBIDDEN_PATH")
    assert not (client.folder / "bad").exists()


async def test_a_file_swapped_while_it_is_hashed_is_not_delivered(
    client: DownloadClient, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = inbox / "m.bin"
    source.write_bytes(BODY)
    real, swapped = os.preadv, list[int]()

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        count = real(fd, buffers, offset)
        if not swapped and os.path.samestat(os.fstat(fd), source.stat()):
            swapped.append(fd)
            source.rename(inbox / "was")
            source.write_bytes(SECRET)
        return count

    monkeypatch.setattr(os, "preadv", preadv)
    job = await client.ended(await client.take(source))
    # The second try finds the other file from its beginning to its end.
    assert (job.state, job.restarts) == (COMPLETED, 1)
    assert (inbox / "was").read_bytes() == BODY
    assert Path(job.path).read_bytes() == SECRET
    assert job.sha256 == hashlib.sha256(SECRET).hexdigest()


async def test_a_source_that_cannot_be_removed_stays_and_the_job_is_done(
    data_dir: Path, other_device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.unlink

    def unlink(path: Any, *, dir_fd: int | None = None) -> None:
        if path in ("m.bin", "w.bin") and dir_fd is not None:
            raise OSError(errno.EROFS, "Read-only file system")
        real(path, dir_fd=dir_fd)

    (other_device / "m.bin").write_bytes(BODY)
    (other_device / "sd").mkdir()
    (other_device / "sd" / "w.bin").write_bytes(BODY)
    monkeypatch.setattr(os, "unlink", unlink)
    async with download_service(data_dir, import_roots=(other_device,)) as client:
        file = await client.ended(await client.take(other_device / "m.bin"))
        folder = await client.ended(await client.take(other_device / "sd"))
    assert (file.state, folder.state) == (COMPLETED, COMPLETED), (file.error, folder.error)
    assert Path(file.path).read_bytes() == (other_device / "m.bin").read_bytes() == BODY
    assert (other_device / "sd" / "w.bin").exists()


@pytest.mark.parametrize(
    ("refused", "told", "path"),
    [
        ("w.bin", "sd/sub/w.bin", "sd/sub/w.bin"),
        ("sub", "sub in {}/sd", "sd"),  # the system knows the name, and not where it is
    ],
)
async def test_what_may_not_be_read_in_a_folder_is_told_with_the_folder(
    client: DownloadClient, inbox: Path, monkeypatch: pytest.MonkeyPatch, refused: str, told: str, path: str
) -> None:
    (inbox / "sd" / "sub").mkdir(parents=True)
    (inbox / "sd" / "sub" / "w.bin").write_bytes(BODY)
    real = os.open

    def open_(name: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if name == refused and dir_fd is not None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return real(name, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", open_)
    job = await client.ended(await client.take(inbox / "sd", copy=True))
    assert (job.error.reason, job.error.metadata["path"]) == ("FORBIDDEN_PATH", str(inbox / path))
    assert told.format(inbox) in job.error.message


async def test_a_move_that_is_refused_is_told_from_where_to_where(
    client: DownloadClient, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: object) -> int:
        ctypes.set_errno(errno.EACCES)
        return -1

    (inbox / "m.bin").write_bytes(BODY)
    monkeypatch.setattr(files, "_renameat2", refused)
    job = await client.ended(await client.take(inbox / "m.bin"))
    assert job.error.reason == "FORBIDDEN_PATH"
    assert f"to move {inbox}/m.bin to {client.folder}/m.bin: Permission denied" in job.error.message
    assert (inbox / "m.bin").read_bytes() == BODY


async def test_a_folder_for_which_there_is_no_room_is_not_begun(data_dir: Path, other_device: Path) -> None:
    (other_device / "sd").mkdir()
    (other_device / "sd" / "w.bin").write_bytes(BODY)
    async with download_service(data_dir, import_roots=(other_device,), disk_reserve_bytes=1 << 60) as client:
        job = await client.ended(await client.take(other_device / "sd"))
    assert (job.state, job.error.reason) == (ERROR, "DISK_FULL")
    assert (other_device / "sd" / "w.bin").read_bytes() == BODY


async def test_a_link_gives_the_name_and_what_it_leads_to_the_bytes(
    client: DownloadClient, inbox: Path
) -> None:
    (inbox / "blob").write_bytes(BODY)
    (inbox / "model.safetensors").symlink_to("blob")
    job = await client.ended(await client.take(inbox / "model.safetensors", copy=True))
    assert (job.state, job.path) == (COMPLETED, str(client.folder / "model.safetensors"))
    assert Path(job.path).read_bytes() == BODY


@pytest.mark.parametrize("kind", ["file", "folder"])
async def test_what_a_link_leads_to_is_not_moved_away_unless_it_is_named(
    client: DownloadClient, inbox: Path, kind: str
) -> None:
    blob = inbox / "blob"
    if kind == "file":
        blob.write_bytes(BODY)
    else:
        blob.mkdir()
        (blob / "model.bin").write_bytes(BODY)
    (inbox / "link").symlink_to("blob")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.take(inbox / "link")
    failure = failure_of(caught.value)
    assert failure.reason == "FIELD_INVALID"
    assert str(blob) in (caught.value.details() or "")
    assert (blob.exists(), (inbox / "link").exists()) == (True, True)
    (inbox / "around").symlink_to(".")
    job = await client.ended(await client.take(inbox / "around" / "blob"))
    assert (job.state, blob.exists()) == (COMPLETED, False), job.error


async def test_roots_are_not_moved_and_folders_have_no_hash(
    client: DownloadClient, inbox: Path, data_dir: Path
) -> None:
    (inbox / "sd").mkdir()
    for path, fields in (
        (inbox, {}),
        (client.folder, {"copy": True}),
        (inbox / "sd", {"expected_sha256": "0" * 64}),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.take(path, destination=f"{client.folder}/new", **fields)
        assert failure_of(caught.value).reason == "FIELD_INVALID"
    job = await client.ended(await client.take(inbox, copy=True))
    assert (job.state, (client.folder / "inbox" / "sd").is_dir()) == (COMPLETED, True)


async def test_a_source_that_was_linked_and_not_yet_unlinked_is_removed_after_a_crash(
    data_dir: Path, inbox: Path
) -> None:
    source = inbox / "m.bin"
    source.write_bytes(BODY)
    async with download_service(data_dir, import_roots=(inbox,)) as client:
        job = await client.ended(await client.take(source))
    path = Path(job.path)
    os.link(path, source)  # as where a rename cannot refuse to replace, and a link stands in for it
    found = path.stat()
    database = data_dir / "download" / "download.db"
    alter_job(database, job.id, state="running", staged_inode=(found.st_dev, found.st_ino))
    async with download_service(data_dir, import_roots=(inbox,)) as client:
        assert (await client.get(job)).state == COMPLETED
    assert (path.read_bytes(), source.exists()) == (BODY, False)
