"""Where downloads go, what they are called, and local sources."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from support.downloads import DownloadClient, download_service
from support.httpserver import HttpServer, Resource, pattern

BODY = pattern(20_000)
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, import_roots=(data_dir.parent / "inbox",)) as service:
        yield service


@pytest.fixture
def inbox(data_dir: Path) -> Path:
    folder = data_dir.parent / "inbox"
    folder.mkdir()
    return folder


NAMES = (
    ("/a/plain.bin?x=1", None, "plain.bin"),
    ("/a/with%20blank.bin", None, "with blank.bin"),
    ("/api/1", 'attachment; filename="model.safetensors"', "model.safetensors"),
    ("/api/2", "attachment; filename*=UTF-8''na%C3%AFve.bin", "naïve.bin"),
    ("/api/2a", "attachment; filename=\"ascii.bin\"; filename*=UTF-8''caf%C3%A9.bin", "café.bin"),
    ("/api/2b", "attachment; filename*=UTF-8''%2e%2e; filename=\"plain.model\"", "plain.model"),
    ("/api/3", 'attachment; filename="../../etc/evil.bin"', "evil.bin"),
    ("/api/4", r'attachment; filename="C:\\temp\\evil2.bin"', "evil2.bin"),
    ("/api/x.bin", 'attachment; filename=".."', "x.bin"),
    ("/api/y.bin", 'attachment; filename=".hidden"', "y.bin"),
    ("/api/z.bin", 'attachment; filename="con.txt"', "z.bin"),
    ("/%2e%2e%2fescape", None, "escape"),
    ("/folder/", None, "download-13"),
)


async def test_in_a_folder_the_name_is_one_safe_component(client: DownloadClient, web: HttpServer) -> None:
    for path, disposition, name in NAMES:
        web.put(path.split("?")[0], Resource(BODY, disposition=disposition))
        job = await client.run(web.url(path))
        assert job.path == str(client.folder / name), job
        assert Path(job.path).read_bytes() == BODY


async def test_a_given_filename_wins_and_folders_are_made(client: DownloadClient, web: HttpServer) -> None:
    url = web.put("/x", Resource(BODY, disposition='attachment; filename="theirs.bin"'))
    folder = client.folder / "new" / "deep"
    job = await client.run(url, destination=str(folder), filename="mine.bin")
    assert Path(job.path) == folder / "mine.bin"
    job = await client.run(url, destination=str(folder / "exact.bin"))
    assert Path(job.path) == folder / "exact.bin"
    job = await client.run(url, destination=str(folder))  # an existing folder takes their name
    assert Path(job.path) == folder / "theirs.bin"


async def test_an_existing_file_is_never_replaced(client: DownloadClient, web: HttpServer) -> None:
    url = web.put("/x.bin", Resource(BODY))
    mine = client.folder / "x.bin"
    mine.write_bytes(b"mine")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.create(url, destination=str(mine))
    assert error.value.code() is grpc.StatusCode.ALREADY_EXISTS
    job = await client.run(url)  # the name is known only when the source has answered
    assert (job.state, job.error.reason) == (ERROR, "DESTINATION_EXISTS")
    assert job.error.metadata["path"] == str(mine)
    assert mine.read_bytes() == b"mine"
    assert web.bytes_served("/x.bin") < len(BODY) or job.progress.bytes_done == 0


async def test_a_file_that_appears_meanwhile_is_not_replaced_either(
    client: DownloadClient, web: HttpServer
) -> None:
    url = web.put("/x.bin", Resource(BODY, rate=40_000))
    job = await client.create(url)
    await client.until(job, lambda now: now.progress.bytes_done > 0)
    (client.folder / "x.bin").write_bytes(b"mine")
    ended = await client.ended(job)
    assert (ended.state, ended.error.reason) == (ERROR, "DESTINATION_EXISTS")
    assert (client.folder / "x.bin").read_bytes() == b"mine"


async def test_a_destination_outside_the_roots_is_forbidden(
    client: DownloadClient, web: HttpServer, data_dir: Path
) -> None:
    (data_dir.parent / "elsewhere").mkdir()
    (client.folder / "link").symlink_to(data_dir.parent / "elsewhere")
    url = web.put("/x.bin", Resource(BODY))
    models = client.folder
    for destination in ("/etc/", f"{models}/../outside.bin", f"{models}/link/x.bin", "relative"):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.create(url, destination=destination)
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED, destination
    assert not web.requests


async def test_a_folder_swapped_for_a_link_while_running_is_not_followed(
    client: DownloadClient, web: HttpServer, data_dir: Path
) -> None:
    (data_dir.parent / "elsewhere").mkdir()
    folder = client.folder / "sub"
    folder.mkdir()
    url = web.put("/x.bin", Resource(BODY, rate=40_000))
    job = await client.create(url, destination=f"{folder}/")
    await client.until(job, lambda now: now.progress.bytes_done > 0)
    folder.rmdir()
    folder.symlink_to(data_dir.parent / "elsewhere")
    ended = await client.ended(job)
    assert (ended.state, ended.error.reason) == (ERROR, "FORBIDDEN_PATH")
    assert not list((data_dir.parent / "elsewhere").iterdir())


MALFORMED: tuple[dict[str, str], ...] = (
    {"url": "ftp://example.com/x"},
    {"url": "http://"},
    {"url": "http:///nohost"},
    {"url": "http://exa mple.com/x"},
    {"url": "http://example.com:99999/x"},
    {"url": "http://%31%32%37.0.0.1/"},
    {"url": "not a url"},
    {"url": ""},
    {"url": "http://example.com/x", "filename": "../x"},
    {"url": "http://example.com/x", "filename": "a/b"},
    {"url": "http://example.com/x", "expected_sha256": "abc"},
    {"url": "http://example.com/x", "queue": "no blanks"},
)


async def test_malformed_requests_fail_at_creation(client: DownloadClient) -> None:
    for fields in MALFORMED:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.create(**fields)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT, fields


async def test_a_path_that_the_file_system_cannot_have_is_a_bad_field(
    client: DownloadClient, web: HttpServer, inbox: Path
) -> None:
    url, models = web.put("/x.bin", Resource(BODY)), client.folder
    (models / "loop").symlink_to("loop")
    (models / "file").write_bytes(b"")
    for destination in (f"{'x' * 300}/", "x" * 300, "loop/x", "file/x", "file/x/"):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.create(url, destination=f"{models}/{destination}")
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT, destination
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.take(inbox / ("x" * 300))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_token_given_to_a_local_source_is_none_that_a_restart_asks_for(
    data_dir: Path, inbox: Path, web: HttpServer
) -> None:
    (inbox / "x.bin").write_bytes(BODY)
    async with download_service(data_dir, import_roots=(inbox,), max_parallel_downloads=1) as client:
        await client.create(web.put("/blocker", Resource(BODY, rate=1_000)))
        job = await client.take(inbox / "x.bin", start=False)
        await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id, access_token="token"))
    async with download_service(data_dir, import_roots=(inbox,)) as client:
        assert (await client.ended(job)).state == COMPLETED


async def test_a_local_file_is_moved_or_copied_with_its_hash(client: DownloadClient, inbox: Path) -> None:
    sha256 = hashlib.sha256(BODY).hexdigest()
    source = inbox / "local.safetensors"
    source.write_bytes(BODY)
    copied = await client.ended(await client.take(source, copy=True, filename="copy.bin"))
    assert (copied.state, copied.sha256, source.exists()) == (COMPLETED, sha256, True)
    assert Path(copied.path).read_bytes() == BODY
    inode = source.stat().st_ino
    moved = await client.ended(await client.take(source, expected_sha256=sha256))
    assert (moved.state, moved.verified, source.exists()) == (COMPLETED, True, False)
    assert moved.path == str(client.folder / "local.safetensors")
    assert Path(moved.path).stat().st_ino == inode  # renamed, not copied
    assert moved.source.local_path.path == str(source)


async def test_a_local_file_with_a_wrong_hash_stays_where_it_is(client: DownloadClient, inbox: Path) -> None:
    source = inbox / "local.bin"
    source.write_bytes(BODY)
    job = await client.ended(await client.take(source, expected_sha256="1" * 64))
    assert (job.state, job.error.reason) == (ERROR, "CHECKSUM_MISMATCH")
    assert source.read_bytes() == BODY
    assert not (client.folder / "local.bin").exists()


async def test_a_local_folder_is_moved_or_copied(client: DownloadClient, inbox: Path) -> None:
    source = inbox / "sd"
    (source / "vae").mkdir(parents=True)
    (source / "model_index.json").write_bytes(b"{}")
    (source / "vae" / "w.safetensors").write_bytes(BODY)
    copied = await client.ended(await client.take(source, copy=True, filename="copy"))
    assert copied.state == COMPLETED, copied
    assert Path(copied.path, "vae", "w.safetensors").read_bytes() == BODY
    assert copied.progress.bytes_done == len(BODY) + 2
    moved = await client.ended(await client.take(source))
    assert (moved.state, moved.path) == (COMPLETED, str(client.folder / "sd"))
    assert not source.exists()
    assert moved.sha256 == ""


async def test_a_move_between_file_systems_copies_then_removes(data_dir: Path) -> None:
    inbox = Path("/dev/shm") / f"modelkeep-test-{os.getpid()}"
    assert inbox.parent.stat().st_dev != data_dir.stat().st_dev, "needs two file systems"
    (inbox / "folder").mkdir(parents=True)
    try:
        (inbox / "f.bin").write_bytes(BODY)
        (inbox / "folder" / "g.bin").write_bytes(BODY)
        async with download_service(data_dir, import_roots=(inbox,)) as client:
            file = await client.ended(await client.take(inbox / "f.bin"))
            folder = await client.ended(await client.take(inbox / "folder"))
            assert Path(file.path).read_bytes() == BODY
            assert Path(folder.path, "g.bin").read_bytes() == BODY
            assert list(inbox.iterdir()) == []
            assert not list((client.folder / ".staging").iterdir())
    finally:
        shutil.rmtree(inbox, ignore_errors=True)


async def test_local_sources_outside_the_import_roots_are_forbidden(
    client: DownloadClient, inbox: Path, data_dir: Path
) -> None:
    secret = data_dir.parent / "secret.txt"
    secret.write_bytes(b"s")
    (inbox / "link").symlink_to(secret)
    (inbox / "tree").mkdir()
    (inbox / "tree" / "link").symlink_to(secret)
    for path in (secret, inbox / "link", Path("/etc/passwd")):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.take(path)
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    job = await client.ended(await client.take(inbox / "tree", copy=True))
    assert (job.state, job.error.reason) == (ERROR, "FORBIDDEN_PATH")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.take(inbox / "missing")
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
