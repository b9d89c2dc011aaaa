"""What goes wrong on this machine while bytes come (disk, descriptors, clock, rows) costs none of them."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import resource
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from support.downloads import DownloadClient, DownloadProcess, download_service
from support.httpserver import Cut, HttpServer, Resource, Status, pattern
from support.ledger import united

MIB = 1 << 20
BODY = pattern(4 * MIB)
SHA256 = hashlib.sha256(BODY).hexdigest()
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR
PAUSED = download_pb2.DOWNLOAD_STATE_PAUSED


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, checkpoint_bytes=MIB, checkpoint_s=0.05) as service:
        yield service


@pytest.fixture
async def one(data_dir: Path) -> AsyncIterator[DownloadClient]:
    """A service that fetches a file by one connection, so that each byte is sent once."""
    async with download_service(data_dir, max_connections_per_file=1) as service:
        yield service


class Disk:
    """Fails as told, and knows which bytes of partial files were written, and which a sync has covered."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.written: list[tuple[int, int]] = []
        self.synced: list[tuple[int, int]] = []
        #: Bytes that a failed sync was to cover: what is on the disk of them, nobody knows.
        self.doubtful: list[tuple[int, int]] = []
        self.fails_at: dict[str, tuple[int, int]] = {}
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._real = {name: getattr(os, name) for name in ("pwrite", "fdatasync", "fsync")}
        patch.setattr(os, "pwrite", self._pwrite)
        patch.setattr(os, "fdatasync", lambda fd: self._sync("fdatasync", fd))
        patch.setattr(os, "fsync", lambda fd: self._sync("fsync", fd))

    def fail(self, name: str, number: int, *, after: int) -> None:
        """Have a function fail once, on a partial file, after it worked so often on them."""
        self.fails_at[name] = (self._calls[name] + after, number)

    def _passes(self, name: str, fd: int) -> bool:
        """Whether it is about a partial file; raises if that is to fail now."""
        if not os.readlink(f"/proc/self/fd/{fd}").endswith("/data"):
            return False
        at, number = self.fails_at.get(name, (-1, 0))
        self._calls[name] += 1
        if self._calls[name] - 1 == at:
            if name != "pwrite":
                self.doubtful = without(united([*self.doubtful, *self.written]), self.synced)
            raise OSError(number, os.strerror(number))
        return True

    def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        with self._lock:
            ours = self._passes("pwrite", fd)
            count: int = self._real["pwrite"](fd, data, offset)
            if ours:
                self.written = united([*self.written, (offset, offset + count)])
                self.doubtful = without(self.doubtful, [(offset, offset + count)])
        return count

    def _sync(self, name: str, fd: int) -> None:
        with self._lock:
            ours = self._passes(name, fd)
            self._real[name](fd)
            if ours:
                self.synced = united([*self.synced, *self.written])


def without(these: list[tuple[int, int]], those: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of the first ranges lies in none of the others."""
    for first, end in those:
        these = [
            part for a, b in these for part in ((a, min(b, first)), (max(a, end), b)) if part[0] < part[1]
        ]
    return united(these)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def stopped(client: DownloadClient, job: download_pb2.Download) -> download_pb2.Download:
    """The job as it first stopped, which may be for a moment only."""
    async with asyncio.timeout(20):
        stream = client.stub.WatchDownloads(pb.WatchDownloadsRequest(ids=[job.id], until_ended=True))
        async for frame in stream:
            for event in frame.events:
                if event.put.state in (ERROR, PAUSED):
                    found: download_pb2.Download = event.put
                    stream.cancel()
                    return found
    raise AssertionError(f"never stopped: {await client.get(job)}")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
async def test_what_a_failed_sync_was_to_cover_is_written_again(
    client: DownloadClient, web: HttpServer, disk: Disk, number: int
) -> None:
    # Once a sync has failed, the kernel calls the pages clean: the next one succeeds, and they are lost.
    disk.fail("fdatasync", number, after=1)
    job = await client.create(web.put("/m.bin", Resource(BODY, rate=2 * MIB)), preserve_partial=True)
    failed = await stopped(client, job)
    assert failed.error.reason == ("INTERNAL" if number == errno.EIO else "DISK_FULL"), failed
    assert 0 < failed.progress.bytes_done <= sum(end - first for first, end in disk.synced)
    assert disk.doubtful
    # What paused for want of room goes on by itself.
    done = await client.ended(await client.create(web.url("/m.bin")) if failed.state == ERROR else job)
    assert (done.state, done.sha256, done.restarts) == (COMPLETED, SHA256, 0)
    assert Path(done.path).read_bytes() == BODY
    assert (disk.doubtful, disk.synced) == ([], [(0, len(BODY))])


async def test_a_file_that_cannot_be_made_durable_is_not_delivered(
    client: DownloadClient, web: HttpServer, disk: Disk
) -> None:
    disk.fail("fsync", errno.EIO, after=0)
    job = await client.run(web.put("/m.bin", Resource(BODY)), expected_sha256=SHA256)
    assert (job.state, job.error.reason) == (ERROR, "INTERNAL")
    assert "nput/output error" in job.error.message
    assert not (client.folder / "m.bin").exists()
    assert not list((client.folder / ".staging").iterdir())


async def test_a_disk_that_fails_under_a_write_ends_the_job_and_frees_its_slot(
    data_dir: Path, web: HttpServer, disk: Disk
) -> None:
    async with download_service(data_dir, max_parallel_downloads=1) as client:
        disk.fail("pwrite", errno.EIO, after=2)
        job = await client.run(web.put("/m.bin", Resource(BODY)))
        assert (job.state, job.error.reason) == (ERROR, "INTERNAL")
        assert "nput/output error" in job.error.message
        assert (await client.run(web.put("/n.bin", Resource(BODY)))).state == COMPLETED
        assert [path.name for path in client.folder.glob("*.bin")] == ["n.bin"]
        assert not list((client.folder / ".staging").iterdir())


async def test_a_quota_that_is_used_up_pauses_the_job_with_its_bytes(
    client: DownloadClient, web: HttpServer, disk: Disk
) -> None:
    disk.fail("pwrite", errno.EDQUOT, after=10)
    job = await client.create(web.put("/m.bin", Resource(BODY, rate=8 * MIB)))
    paused = await stopped(client, job)
    assert (paused.error.reason, paused.progress.bytes_done > 0) == ("DISK_FULL", True)
    done = await client.ended(job)  # it goes on by itself
    assert (done.state, done.sha256, done.restarts) == (COMPLETED, SHA256, 0)


async def test_a_thread_that_dies_ends_its_job_and_frees_its_slot(
    data_dir: Path, web: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, broken = os.pwrite, True

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if broken:
            raise RuntimeError("a mistake of ours")
        return real(fd, data, offset)

    async with download_service(data_dir, max_parallel_downloads=1) as client:
        monkeypatch.setattr(os, "pwrite", pwrite)
        job = await client.run(web.put("/m.bin", Resource(BODY)))
        assert (job.state, job.error.reason) == (ERROR, "INTERNAL")
        assert "a mistake of ours" not in str(job), "for the log, not for clients"
        broken = False
        assert (await client.run(web.put("/n.bin", Resource(BODY)))).state == COMPLETED


@pytest.mark.may_block  # removes a tree
async def test_a_destination_that_is_removed_while_bytes_come_is_made_again(
    client: DownloadClient, web: HttpServer
) -> None:
    folder = client.folder / "sub" / "deeper"
    job = await client.create(web.put("/m.bin", Resource(BODY, rate=4 * MIB)), destination=f"{folder}/")
    await client.until(job, lambda now: now.progress.bytes_done > MIB)
    for path in (folder, folder.parent):
        if path.exists():
            path.rmdir()
    done = await client.ended(job)
    assert (done.state, done.sha256, done.path) == (COMPLETED, SHA256, str(folder / "m.bin"))


@pytest.mark.may_block  # looks into files
@pytest.mark.parametrize("how", ["removed", "cut"])
async def test_a_partial_file_that_somebody_else_damaged_is_fetched_anew(
    client: DownloadClient, web: HttpServer, how: str
) -> None:
    job = await client.create(web.put("/m.bin", Resource(BODY, rate=4 * MIB)))
    await client.until(job, lambda now: now.progress.bytes_done > MIB)
    await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))
    staged = client.folder / ".staging" / f"download-{job.id}"
    for path in list(staged.iterdir()):
        if how == "cut":
            os.truncate(path, path.stat().st_size // 2)
        else:
            path.unlink()
    web.resources["/m.bin"].rate = None
    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
    done = await client.ended(job)
    assert (done.state, done.sha256) == (COMPLETED, SHA256)
    assert Path(done.path).read_bytes() == BODY


@pytest.mark.long
@pytest.mark.timeout(60)
@pytest.mark.may_block  # starts a process
async def test_without_a_descriptor_to_be_had_jobs_wait_and_go_on_when_there_are(
    data_dir: Path, web: HttpServer
) -> None:
    process = DownloadProcess(data_dir, retry_base_s=0.1, retry_cap_s=0.2, max_attempts=1000)
    process.start()
    try:
        async with process.client() as client:
            first = await client.create(web.put("/m.bin", Resource(BODY, rate=4 * MIB, faults=[Cut(MIB)])))
            await client.until(first, lambda now: now.progress.bytes_done > 0)
            pid = process.pid
            limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            # As many as are open, below which the kernel gives out no other.
            highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
            second = await client.create(web.put("/n.bin", Resource(BODY)), start=False)
            taken = [await client.create(web.put(f"/{n}.bin", Resource(BODY))) for n in range(3)]
            await client.stub.StartDownload(pb.StartDownloadRequest(id=second.id))
            await asyncio.sleep(1.5)
            for job in (first, second, *taken):
                assert (await client.get(job)).state != ERROR, await client.get(job)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            for job in (first, second, *taken):
                done = await client.ended(job)
                assert (done.state, done.sha256) == (COMPLETED, SHA256), done
    finally:
        assert process.stop() == 0


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
async def test_a_clock_that_jumps_changes_no_wait_and_no_file(
    one: DownloadClient, web: HttpServer, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    url = web.put("/m.bin", Resource(BODY, rate=8 * MIB, faults=[Cut(MIB), Status(503, "1")]))
    began = time.monotonic()
    job = await one.create(url)
    await one.until(job, lambda now: now.progress.bytes_done > 0)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    done = await one.ended(job)
    assert (done.state, done.sha256, done.attempt, done.restarts) == (COMPLETED, SHA256, 3, 0)
    assert 0.9 < time.monotonic() - began < 80, "the wait that the source asked for, and not a day"


@pytest.mark.may_block  # looks into the database
async def test_rows_that_cannot_be_written_for_a_while_cost_no_byte(
    one: DownloadClient, web: HttpServer, data_dir: Path
) -> None:
    job = await one.create(web.put("/m.bin", Resource(BODY, rate=4 * MIB)))
    await one.until(job, lambda now: now.progress.bytes_done > 0)
    other = sqlite3.connect(data_dir / "download" / "download.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(1.2)
        other.execute("ROLLBACK")
    finally:
        other.close()
    done = await one.ended(job)
    assert (done.state, done.sha256, done.restarts) == (COMPLETED, SHA256, 0)
    assert web.bytes_served("/m.bin") == len(BODY)
