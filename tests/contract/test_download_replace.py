"""replace_existing: a plain file at the destination gives way to a checked one, and nothing else does."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep.download.v1 import download_pb2, retry_pb2
from modelkeep_download.engine import files
from support.downloads import DownloadClient, DownloadProcess, alter_job, download_service, stored_job
from support.failures import fails
from support.httpserver import Cut, Hang, HttpServer, Resource, pattern

pytestmark = pytest.mark.may_block  # reads and writes small files

OLD, BODY = pattern(200_000, seed=1), pattern(300_000)
SHA = hashlib.sha256(BODY).hexdigest()
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR


@pytest.fixture
async def client(data_dir: Path, web: HttpServer) -> AsyncIterator[DownloadClient]:
    web.put("/m.bin", Resource(BODY))
    async with download_service(data_dir, max_attempts=1, stall_timeout_s=60) as service:
        (service.folder / "m.bin").write_bytes(OLD)
        yield service


async def test_the_old_file_is_whole_until_the_new_one_is_checked(
    client: DownloadClient, web: HttpServer
) -> None:
    target = client.folder / "m.bin"
    slow = web.put("/slow.bin", Resource(BODY, faults=[Hang(200_000)]))
    job = await client.create(slow, filename="m.bin", replace_existing=True, expected_sha256=SHA)
    assert job.replace_existing
    await client.until(job, lambda now: now.progress.bytes_done == 200_000)
    assert target.read_bytes() == OLD
    other = await client.run(web.url("/m.bin"), destination=f"{client.folder}/b/", replace_existing=True)
    assert other.state == COMPLETED  # nothing was there to replace
    with fails(code="ALREADY_EXISTS", reason="DESTINATION_EXISTS") as found:
        await client.create(web.url("/m.bin"), replace_existing=True, filename="m.bin")
    assert found[0].metadata["id"] == str(job.id)


@pytest.mark.parametrize("named", [True, False])
async def test_a_file_is_replaced_whether_its_name_is_known_before_or_not(
    client: DownloadClient, web: HttpServer, named: bool
) -> None:
    reader = (client.folder / "m.bin").open("rb")
    fields = {"destination": f"{client.folder}/m.bin"} if named else {}
    done = await client.run(web.url("/m.bin"), replace_existing=True, **fields)
    assert (done.state, done.path, done.sha256) == (COMPLETED, f"{client.folder}/m.bin", SHA)
    assert Path(done.path).read_bytes() == BODY
    assert reader.read() == OLD  # whoever reads it goes on reading it
    reader.close()
    assert list(client.folder.glob(".staging/*")) == []


async def test_without_it_a_file_stays_and_the_remedy_names_it(
    client: DownloadClient, web: HttpServer
) -> None:
    with fails(code="ALREADY_EXISTS", reason="DESTINATION_EXISTS") as found:
        await client.create(web.url("/m.bin"), filename="m.bin")
    assert "replace_existing" in found[0].metadata["remedy"]
    late = await client.run(web.url("/m.bin"))
    assert late.error.reason == "DESTINATION_EXISTS"
    assert (client.folder / "m.bin").read_bytes() == OLD


async def test_a_wrong_or_broken_file_replaces_nothing(client: DownloadClient, web: HttpServer) -> None:
    fields = {"filename": "m.bin", "replace_existing": True}
    wrong = await client.run(web.url("/m.bin"), expected_sha256="ab" * 32, **fields)
    assert wrong.error.reason == "CHECKSUM_MISMATCH"
    broken = await client.run(web.put("/cut.bin", Resource(BODY, etag=None, faults=[Cut(100_000)])), **fields)
    assert broken.state == ERROR
    assert (client.folder / "m.bin").read_bytes() == OLD
    again = await client.stub.RetryDownload(retry_pb2.RetryDownloadRequest(id=wrong.id))
    assert again.download.replace_existing


@pytest.mark.parametrize("kind", ["folder", "link", "broken link", "pipe"])
async def test_what_is_no_plain_file_is_never_replaced(
    client: DownloadClient, web: HttpServer, kind: str
) -> None:
    target, mine = client.folder / "taken", client.folder / "mine.bin"
    mine.write_bytes(OLD)
    if kind == "folder":
        (target / "below").mkdir(parents=True)
    elif kind == "pipe":
        os.mkfifo(target)
    else:
        target.symlink_to(mine if kind == "link" else client.folder / "nothing")
    before = os.lstat(target)
    with fails(code="ALREADY_EXISTS", reason="DESTINATION_EXISTS") as found:
        await client.create(web.url("/m.bin"), filename="taken", replace_existing=True)
    assert "replace_existing" not in found[0].metadata["remedy"]
    assert os.lstat(target).st_ino == before.st_ino
    assert mine.read_bytes() == OLD


async def test_a_folder_that_comes_while_the_bytes_do_is_not_replaced(
    client: DownloadClient, web: HttpServer
) -> None:
    slow = web.put("/slow.bin", Resource(BODY, rate=150_000))
    job = await client.create(slow, filename="m.bin", replace_existing=True)
    await client.until(job, lambda now: now.progress.bytes_done > 0)
    (client.folder / "m.bin").unlink()
    (client.folder / "m.bin").mkdir()
    web.resources["/slow.bin"].rate = None
    done = await client.ended(job)
    assert (done.state, done.error.reason) == (ERROR, "DESTINATION_EXISTS")
    assert (client.folder / "m.bin").is_dir()


@pytest.mark.parametrize("copy", [True, False])
async def test_a_local_file_replaces_one_too_but_never_itself(client: DownloadClient, copy: bool) -> None:
    source = client.folder / "in" / "m.bin"
    source.parent.mkdir()
    source.write_bytes(BODY)
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["destination"]):
        await client.take(source, copy=copy, destination=f"{source.parent}/", replace_existing=True)
    done = await client.ended(await client.take(source, copy=copy, replace_existing=True))
    assert (done.state, source.exists()) == (COMPLETED, copy)
    assert (client.folder / "m.bin").read_bytes() == BODY


async def test_a_local_folder_replaces_nothing(client: DownloadClient) -> None:
    source = client.folder / "in" / "m.bin"
    source.mkdir(parents=True)
    job = await client.take(source, copy=True, replace_existing=True)
    done = await client.ended(job)
    assert (done.state, done.error.reason) == (ERROR, "DESTINATION_EXISTS")
    assert (client.folder / "m.bin").read_bytes() == OLD


@pytest.mark.timeout(60)
@pytest.mark.parametrize("renamed", [True, False])
async def test_a_kill_around_the_rename_leaves_one_whole_file_and_the_job_ends_well(
    data_dir: Path, web: HttpServer, renamed: bool
) -> None:
    url = web.put("/m.bin", Resource(BODY))
    service = DownloadProcess(data_dir)
    service.start()
    async with service.client() as client:
        folder = Path(os.path.realpath(client.folder))
        folder.mkdir(exist_ok=True)  # the service may not have begun yet
        (folder / "m.bin").write_bytes(OLD)
        job = await client.create(url, filename="m.bin", start=False, replace_existing=True)
    service.kill()
    staged = folder / ".staging" / f"download-{job.id}" / files.PARTIAL
    staged.parent.mkdir(parents=True)
    staged.write_bytes(BODY)
    inode = os.stat(staged)
    alter_job(
        data_dir / "download" / "download.db",
        job.id,
        state="running",
        stage="verifying",
        staging=str(staged.parent),
        staged_inode=[inode.st_dev, inode.st_ino],
        have={"ranges": [[0, len(BODY)]]},
        bytes_total=len(BODY),
        validator=Resource(BODY).etag,
        sha256=SHA,
    )
    if renamed:
        os.replace(staged, folder / "m.bin")
    service.start()
    async with service.client() as client:
        done = await client.ended(job)
        assert done.state == COMPLETED, done.error
        assert (folder / "m.bin").read_bytes() == BODY
        assert list(folder.glob(".staging/*")) == []
    service.stop()
    assert stored_job(data_dir / "download" / "download.db", job.id)["state"] == "completed"


def test_whoever_looks_while_it_is_replaced_finds_one_whole_file(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    target, found, over = root / "m.bin", set[bytes](), threading.Event()
    target.write_bytes(b"0" * 5000)

    def look() -> None:
        while not over.is_set():
            found.add(target.read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    for n in range(1, 200):
        staged = root / "staged"
        staged.write_bytes(str(n % 10).encode() * 5000)
        files.deliver(staged, root, target, replaces=True)
    over.set()
    reader.join()
    assert all(len(body) == 5000 and len(set(body)) == 1 for body in found)
