"""DownloadService killed again and again, at random moments of all that it does; then the account.

One process at a time, over real sockets, on a real disk: each life takes up what the one before left, gets
more to do, and is killed (SIGKILL) at a moment of one of the kinds in `AIMS`. While it is dead, what lies on
the disk is looked at: whatever is at a destination must be whole.

    make soak                                 (1,000 kills)
    make soak ARGS="--kills 100 --seed 7"
    make soak ARGS="--kills 100 --power"      (what was not synced is lost, too)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep_download.engine.files import sync_folder
from support.downloads import ENDED, DownloadClient, DownloadProcess
from support.httpserver import Cut, Fault, HttpServer, Request, Resource, Status, pattern
from support.ledger import PIECE_BYTES, Loss, losses
from support.smalldisk import PowerDisk

#: What is fetched: name, bytes, and how often beside the others.
SIZES = {"small": (256 << 10, 10), "middle": (40 << 20, 8), "large": (300 << 20, 1)}
#: What is at a destination before it is replaced.
OLD = b"of an older download"
#: What a connection may hold in the buffers of both kernels when it ends, which nobody has read yet: the
#: server counts it as sent. Linux lets a receive buffer grow to the third value of net.ipv4.tcp_rmem.
BUFFERED_BYTES = 6 << 20
_OPEN_JOBS = 5
_COMPLETED, _PAUSED, _IDLE = (
    download_pb2.DOWNLOAD_STATE_COMPLETED,
    download_pb2.DOWNLOAD_STATE_PAUSED,
    download_pb2.DOWNLOAD_STATE_IDLE,
)
_STAGES = (
    download_pb2.DOWNLOAD_STAGE_CONNECTING,
    download_pb2.DOWNLOAD_STAGE_TRANSFERRING,
    download_pb2.DOWNLOAD_STAGE_WAITING,
    download_pb2.DOWNLOAD_STAGE_VERIFYING,
    download_pb2.DOWNLOAD_STAGE_STOPPING,
)


@cache
def body_of(size: str) -> bytes:
    """The bytes of a file of that size."""
    return pattern(SIZES[size][0], seed=len(size))


@cache
def sha256_of(size: str) -> str:
    """Their hash."""
    return hashlib.sha256(body_of(size)).hexdigest()


@dataclass
class Wanted:
    """One download, and what is to come of it."""

    #: Its size, or "several".
    kind: str
    target: Path
    #: The size of each file that is to be there.
    files: dict[Path, str]
    request: pb.CreateDownloadRequest = field(default_factory=pb.CreateDownloadRequest)
    #: Where a local file is taken from; None for an address.
    local: Path | None = None
    #: Whether it is moved away from there.
    moves: bool = False
    #: 0 until the service has answered that it took it.
    job_id: int = 0
    #: Whether it replaces a file that is there.
    replaces: bool = False
    #: Whether anybody asked to cancel it.
    cancelled: bool = False
    #: What it was found to have come to, and looked at then.
    end: str = ""


@dataclass
class Account:
    """What came of it."""

    kills: int = 0
    seconds: float = 0.0
    aims: Counter[str] = field(default_factory=Counter)
    #: In which states and stages jobs were found after a kill.
    states: Counter[str] = field(default_factory=Counter)
    #: What became of the files, by size.
    ends: Counter[str] = field(default_factory=Counter)
    #: Of every life that fetched something again.
    losses: list[Loss] = field(default_factory=list)

    def beyond(self) -> list[Loss]:
        """Lives of which more was fetched again than a piece, and what kernels held, of each connection."""
        return [
            loss for loss in self.losses if loss.twice > (PIECE_BYTES + BUFFERED_BYTES) * loss.connections
        ]

    def __str__(self) -> str:
        def told(counter: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))

        twice = [loss for loss in self.losses if loss.twice]
        worst = max(twice, key=lambda loss: loss.twice / loss.connections, default=Loss("", 0, 0, 1))
        return "\n".join(
            (
                f"{self.kills} kills in {self.seconds:.0f} s",
                f"  aimed at: {told(self.aims)}",
                f"  jobs found: {told(self.states)}",
                f"  files: {told(self.ends)}",
                f"  fetched twice: {sum(loss.twice for loss in twice) / 2**20:.0f} MiB in all, at most"
                f" {worst.twice / 2**20:.1f} MiB over {worst.connections} connections after one kill",
            )
        )


class Play:
    """The lives of one service.

    Args:
        luck: Chooses everything.
        folder: An empty one; files arrive and are looked at beneath it.
        sizes: Which of `SIZES` are fetched.
        disk: With it, the power goes at each kill; the folder lies on it.
    """

    def __init__(
        self,
        luck: random.Random,
        folder: Path,
        web: HttpServer,
        sizes: list[str],
        disk: PowerDisk | None = None,
    ) -> None:
        self.account = Account()
        self._luck, self._web, self._sizes, self._disk = luck, web, sizes, disk
        self._folder, self._inbox, data = folder, folder / "inbox", folder / "data"
        for made in (self._inbox, data):
            made.mkdir()
        # The small retry times are for speed; how often bytes are made durable is as it is for everybody.
        self._process = DownloadProcess(
            data, retry_base_s=0.05, max_attempts=1000, import_roots=[str(self._inbox)]
        )
        self._wanted: list[Wanted] = []
        self._ends: list[float] = []
        self._faults = random.Random(luck.random())

    async def run(self, kills: int, *, tell: Callable[[str], None] = lambda line: None) -> None:
        """That many lives that end with a kill, and one that ends well; fills the account."""
        began = time.monotonic()
        try:
            for number in range(1, kills + 1):
                await self._live()
                self._look()
                if number % 50 == 0:
                    tell(f"{number} kills, {time.monotonic() - began:.0f} s")
            await self._finish()
        except Exception as error:
            error.add_note(f"after {len(self._ends)} kills: {self._process.log.read_text()[-3000:]}")
            raise
        finally:
            self._process.kill()
            self.account.kills, self.account.seconds = len(self._ends), time.monotonic() - began
            self.account.losses = losses(self._web.requests, self._ends)

    async def _live(self) -> None:
        aim = self._luck.choice(sorted(AIMS))
        self.account.aims[aim] += 1
        if self._disk is not None:
            self._disk.sync()  # what tests do here themselves
            self._process.boot = self._folder.with_name("boot")
            self._process.boot.write_text(f"{uuid.UUID(int=self._luck.getrandbits(128))}\n")
        self._process.start()
        if aim == "start":
            await asyncio.sleep(self._luck.uniform(0, 0.3))
            self._kill()
            return
        async with self._process.client() as client:
            await self._provide(client)
            await AIMS[aim](self, client)
            self._kill()

    def _kill(self) -> None:
        if self._disk is not None:
            self._process.signal(signal.SIGSTOP)  # it must not tell anybody of a disk that is gone
            self._disk.cut_power()
        self._process.kill()
        self._ends.append(time.monotonic())
        if self._disk is not None:
            self._disk.power_up()

    async def _provide(self, client: DownloadClient) -> None:
        """Give it enough to do, and start what was paused."""
        for wanted in self._wanted:
            if not wanted.job_id and not wanted.end:
                await self._order(client, wanted)
        jobs = (await client.stub.ListDownloads(pb.ListDownloadsRequest())).downloads
        for job in jobs:
            if job.state in (_PAUSED, _IDLE) and self._luck.random() < 0.7:
                await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
        for _ in range(_OPEN_JOBS - sum(job.state not in ENDED for job in jobs)):
            self._wanted.append(self._want())
            await self._order(client, self._wanted[-1])
        if self._disk is None and self._luck.random() < 0.1:
            await client.stub.PruneDownloads(pb.PruneDownloadsRequest())

    async def _order(self, client: DownloadClient, wanted: Wanted) -> None:
        wanted.job_id = (await client.stub.CreateDownload(wanted.request)).download.id

    def _want(self) -> Wanted:
        luck, number = self._luck, len(self._wanted)
        size = luck.choices(self._sizes, [SIZES[size][1] for size in self._sizes])[0]
        target = self._process.data_dir / "downloads" / f"{number}.bin"
        wanted = Wanted(size, target, {target: size})
        source, kind = download_pb2.DownloadSource(), luck.random()
        if kind < 0.2 and size != "large":
            wanted.local, wanted.moves = self._inbox / f"{number}.bin", luck.random() < 0.5
            _put(wanted.local, body_of(size))
            source.local_path.path, source.local_path.move = str(wanted.local), wanted.moves
        elif kind < 0.35:
            sizes = luck.choices(
                self._sizes, [SIZES[size][1] for size in self._sizes], k=luck.randrange(2, 5)
            )
            wanted.kind, wanted.files = (
                "several",
                {target / f"{n % 2}" / f"{n}": s for n, s in enumerate(sizes)},
            )
            for place, size in wanted.files.items():
                path = str(place.relative_to(target))
                source.files.files.add(url=self._served(f"{number}.bin/{path}", size), path=path)
        else:
            source.url = self._served(f"{number}.bin", size)
            if luck.random() < 0.2:
                wanted.replaces = True
                _put(target, OLD)
        wanted.request = pb.CreateDownloadRequest(
            source=source,
            replace_existing=wanted.replaces,
            max_bytes_per_second=luck.choice((0, 0, 0, 50 << 20)),
            destination=str(target),
            expected_sha256=sha256_of(size) if wanted.kind != "several" and luck.random() < 0.7 else "",
            priority=luck.randrange(1, 5),
            start=luck.random() < 0.9,
            request_id=str(uuid.UUID(int=luck.getrandbits(128), version=4)),
        )
        return wanted

    def _served(self, path: str, size: str) -> str:
        """The address of a file of that size, at that path."""
        rates = (None, 1 << 20) if size == "small" else (None, None, 200 << 20, 40 << 20)
        resource = Resource(body_of(size), rate=self._luck.choice(rates), fault_of=self._fault_of)
        return self._web.put(f"/{path}", resource)

    def _fault_of(self, request: Request) -> Fault | None:
        """Now and then a job must wait for a retry."""
        return self._faults.choices((None, Status(503), Cut(100_000)), (85, 12, 3))[0]

    # What the kills are aimed at; each returns at the moment.

    async def _at_any_moment(self, client: DownloadClient) -> None:
        await asyncio.sleep(self._luck.uniform(0, 0.8))

    async def _at_a_stage(self, client: DownloadClient) -> None:
        stage = self._luck.choice(_STAGES)
        if stage == download_pb2.DOWNLOAD_STAGE_STOPPING:
            await self._call(client)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.8):
                async for frame in client.stub.WatchDownloads(pb.WatchDownloadsRequest()):
                    if any(event.put.stage == stage for event in frame.events):
                        break
        await asyncio.sleep(self._luck.choice((0, 0, self._luck.uniform(0, 0.02))))

    async def _at_a_file(self, client: DownloadClient) -> None:
        """As soon as the names in the folders are others: a partial file appears, is moved, goes."""

        def names() -> tuple[list[str], ...]:
            downloads = self._process.data_dir / "downloads"
            with contextlib.suppress(OSError):
                folders = [downloads, *(downloads / ".staging").glob("*")]
                return tuple(os.listdir(folder) for folder in folders)
            return ()

        def wait() -> None:
            changes, before, end = self._luck.randrange(1, 8), names(), time.monotonic() + 0.8
            while changes and time.monotonic() < end:
                if (now := names()) != before:
                    changes, before = changes - 1, now

        await asyncio.to_thread(wait)

    async def _at_a_call(self, client: DownloadClient) -> None:
        await asyncio.sleep(self._luck.uniform(0, 0.3))
        for _ in range(self._luck.randrange(1, 4)):
            await self._call(client)
        await asyncio.sleep(self._luck.choice((0, self._luck.uniform(0, 0.005), self._luck.uniform(0, 0.02))))

    async def _call(self, client: DownloadClient) -> None:
        """Ask for something about a job, and do not wait for the answer."""
        wanted = self._luck.choice([wanted for wanted in self._wanted if not wanted.end])
        job_id = wanted.job_id
        update = download_pb2.Download(id=job_id, priority=self._luck.randrange(1, 5))
        which = self._luck.choices(("pause", "cancel", "update"), (6, 3, 1))[0]
        if which == "pause":
            call = client.stub.PauseDownload(pb.PauseDownloadRequest(id=job_id))
        elif which == "cancel":
            wanted.cancelled = True
            call = client.stub.CancelDownload(pb.CancelDownloadRequest(id=job_id))
        else:
            call = client.stub.UpdateDownload(pb.UpdateDownloadRequest(download=update))
        call.add_done_callback(lambda call: None)
        await asyncio.sleep(0.001)

    async def _at_a_drain(self, client: DownloadClient) -> None:
        await asyncio.sleep(self._luck.uniform(0, 0.3))
        self._process.signal(signal.SIGTERM)
        await asyncio.sleep(self._luck.uniform(0, 0.1))

    async def _at_the_start(self, client: DownloadClient) -> None:
        raise AssertionError("is killed before it can be asked")

    # What is looked at.

    def _look(self) -> None:
        """With nobody alive: whatever is at a destination is whole, and the rows say nothing else."""
        states = self._rows()
        for wanted in self._wanted:
            if wanted.end:
                continue
            arrived = self._arrived(wanted)
            there = len(arrived) == len(wanted.files)
            state, stage = states.get(wanted.job_id, ("not answered", ""))
            if state == "not answered" and wanted.job_id:
                assert self._disk is None, f"{wanted.target}: its job was promised"
                state = "completed" if there else "cancelled"  # its row is pruned
            self.account.states[stage or state] += 1
            assert there or state != "completed", f"{wanted.target} is completed and not there"
            assert state != "error", f"{wanted.target}: {wanted.request}"
            if wanted.local is not None and not there and state != "completed":
                self._look_at_source(wanted)
            if state in ("completed", "cancelled"):
                assert state == "completed" or (wanted.cancelled and not arrived), wanted
                self._end(wanted, state)

    def _arrived(self, wanted: Wanted) -> list[Path]:
        """Its files that are there; each is all of it, or what was there before, which does not count."""
        arrived = []
        for path, size in wanted.files.items():
            if not path.exists():
                assert not wanted.replaces, f"{path} is gone, and nothing has replaced it"
                continue
            found = path.read_bytes()
            if not (wanted.replaces and found == OLD):
                assert found == body_of(size), f"wrong bytes in {path}"
                arrived.append(path)
        return arrived

    def _look_at_source(self, wanted: Wanted) -> None:
        """A local file that has not arrived is where it was, or on its way."""
        assert wanted.local is not None
        staged = self._process.data_dir.glob(f"downloads/.staging/download-{wanted.job_id}/*")
        sizes = [path.stat().st_size for path in (wanted.local, *staged) if path.exists()]
        assert len(body_of(wanted.kind)) in sizes, f"{wanted.local} is lost"

    def _end(self, wanted: Wanted, state: str) -> None:
        wanted.end = state
        self.account.ends[f"{wanted.kind} {'local ' if wanted.local else ''}{state}"] += 1
        if wanted.kind == "several":
            shutil.rmtree(wanted.target, ignore_errors=True)
        for path in (wanted.target, *([wanted.local] if wanted.local and not wanted.moves else [])):
            path.unlink(missing_ok=True)

    def _rows(self) -> dict[int, tuple[str, str]]:
        """State and stage by job id, read from a copy: looking must not do what the next start has to."""
        with tempfile.TemporaryDirectory() as folder:
            for path in (self._process.data_dir / "download").glob("download.db*"):
                if not path.name.endswith("-shm"):
                    shutil.copy(path, folder)
            with contextlib.closing(sqlite3.connect(Path(folder, "download.db"))) as connection:
                if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'downloads'").fetchone():
                    return {}  # killed before it had a table
                rows = connection.execute("SELECT id, state, job FROM downloads").fetchall()
        return {job_id: (state, json.loads(job)["stage"]) for job_id, state, job in rows}

    async def _finish(self) -> None:
        """A life without faults, in which everything arrives."""
        for resource in self._web.resources.values():
            resource.rate, resource.fault_of = None, lambda request: None
        self._process.start()
        async with self._process.client() as client:
            for wanted in self._wanted:
                if not wanted.job_id:
                    await self._order(client, wanted)
            for job in (await client.stub.ListDownloads(pb.ListDownloadsRequest())).downloads:
                if job.state in (_PAUSED, _IDLE):
                    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
            for wanted in self._wanted:
                if wanted.end:
                    continue
                job = await client.ended(await client.get(wanted.job_id), 60)
                if job.state == _COMPLETED and wanted.kind != "several":
                    assert job.sha256 == sha256_of(wanted.kind), job
                    assert job.verified == bool(wanted.request.expected_sha256)
        self._process.stop()
        self._look()
        downloads = self._process.data_dir / "downloads"
        assert all(wanted.end for wanted in self._wanted)
        assert not [path for path in downloads.iterdir() if path.suffix == ".bin"]
        assert not list((downloads / ".staging").iterdir())
        moved = [w.local for w in self._wanted if w.local and w.moves and w.end == "completed"]
        assert not [path for path in moved if path.exists()]


def _put(path: Path, body: bytes) -> None:
    """Write a file, durably."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


#: What kills are aimed at. The client is that of the life that is to end.
AIMS: dict[str, Callable[[Play, DownloadClient], Awaitable[None]]] = {
    "any moment": Play._at_any_moment,
    "call": Play._at_a_call,
    "drain": Play._at_a_drain,
    "file": Play._at_a_file,
    "stage": Play._at_a_stage,
    "start": Play._at_the_start,
}


@contextlib.contextmanager
def stage_for(folder: Path, seed: int, sizes: list[str], disk: PowerDisk | None = None) -> Iterator[Play]:
    """A play in an empty folder, with its web server."""
    with HttpServer() as web:
        yield Play(random.Random(seed), folder, web, sizes, disk)


def main(argv: Sequence[str] | None = None) -> int:
    """Kill so often, and tell what came of it; exits with 1 if more was fetched twice than may be."""
    parser = argparse.ArgumentParser(prog="make soak", description=main.__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--power", action="store_true", help="cut the power of the disk at each kill")
    args = parser.parse_args(argv)
    print(f"{time.strftime('%Y-%m-%d')}  seed {args.seed}", flush=True)
    with contextlib.ExitStack() as held:
        disk = held.enter_context(PowerDisk(8192)) if args.power else None
        folder = disk.folder if disk else Path(held.enter_context(tempfile.TemporaryDirectory(prefix="mk-")))
        play = held.enter_context(stage_for(folder, args.seed, list(SIZES), disk))
        try:
            asyncio.run(play.run(args.kills, tell=lambda line: print(line, flush=True)))
        finally:
            print(play.account)
    # What a power cut takes is what was not synced yet, and that has no bound in bytes.
    beyond = [] if args.power else play.account.beyond()
    for loss in beyond:
        print(f"too much was fetched twice: {loss}")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
