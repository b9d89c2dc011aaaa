"""Ten thousand downloads that wait: restored, joined by others, and paused and cancelled at full speed.

    python tests/bench/queued.py [--jobs 10000] [--rows restored,enqueued,stopped,urgent]

The service is a process of its own on a real disk, every answer durable; the sources are files of nginx.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / part) for part in ("tests", "services", "clients/python")]

from figures import Spread, cpu_seconds, report  # noqa: E402  # after the path is set

from modelkeep.download.v1 import download_pb2  # noqa: E402
from modelkeep.download.v1 import download_service_pb2 as pb  # noqa: E402
from modelkeep_common.sqlite import Connection, Database  # noqa: E402
from modelkeep_common.urls import mark_of  # noqa: E402
from modelkeep_download import convert  # noqa: E402
from modelkeep_download.config import DownloadSettings  # noqa: E402
from modelkeep_download.domain.job import JobSpec, SecretKind, SourceKind  # noqa: E402
from modelkeep_download.migrations import MIGRATIONS  # noqa: E402
from modelkeep_download.store import JobStore  # noqa: E402
from support.downloads import DownloadClient, DownloadProcess  # noqa: E402
from support.nginx import Nginx, nginx  # noqa: E402

MIB = 1 << 20
CALLERS = 16
#: Downloads that run while others are made, and while one is stopped.
AT_ONCE = 5
#: Rounds of the stops, each of one download of those that run.
STOPS = 40
LARGE = 4 << 30
#: Calls of one caller after the other.
ALONE = 500
#: So that what is measured is the queue, and not what those that run do to the machine.
SLOW = {"max_bytes_per_second": MIB}


def p99(values: Sequence[float]) -> float:
    """The value that 99 of 100 do not exceed."""
    return sorted(values)[min(len(values) - 1, len(values) * 99 // 100)]


def told(values: Sequence[float]) -> str:
    """Median, 99th percentile and longest, in milliseconds."""
    spread = Spread.of([value * 1e3 for value in values])
    return f"p50 {spread.median:.1f}, p99 {p99(values) * 1e3:.1f}, max {spread.high:.1f} ms of {len(values)}"


@dataclass(slots=True)
class Scene:
    """What the rows share."""

    server: Nginx
    folder: Path
    jobs: int
    services: int = 0

    @contextmanager
    def process(self, **settings: object) -> Iterator[DownloadProcess]:
        """A service on a data folder of its own."""
        self.services += 1
        folder = self.folder / f"data-{self.services}"
        folder.mkdir()
        process = DownloadProcess(folder, **settings)
        try:
            yield process
        finally:
            process.kill()

    async def create(self, client: DownloadClient, **fields: object) -> download_pb2.Download:
        """A download of the large file, which takes longer than any row."""
        name = uuid.uuid4().hex
        url = f"{self.server.url('large.bin')}?id={name}"
        return await client.create(url, filename=f"{name}.bin", **fields)


@asynccontextmanager
async def started(process: DownloadProcess) -> AsyncIterator[tuple[DownloadClient, float]]:
    """A service that was just started, and the seconds until it answered."""
    begin = time.perf_counter()
    process.start()
    async with process.client() as client:
        yield client, time.perf_counter() - begin


async def timed(work: Awaitable[object]) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    await work
    return time.perf_counter() - begin


async def fill(scene: Scene, client: DownloadClient, count: int) -> list[float]:
    """Make jobs with 16 callers; the seconds of each call."""
    numbers, seconds = iter(range(count)), list[float]()

    async def caller() -> None:
        for _ in numbers:
            seconds.append(await timed(scene.create(client)))

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return seconds


async def stock(process: DownloadProcess, count: int) -> None:
    """Write waiting jobs into the database of a service that does not run, as it would have done."""
    settings = DownloadSettings.for_test(process.data_dir)
    folder = process.data_dir / "downloads"
    store = JobStore(convert.encode_job)

    def write(conn: Connection) -> None:
        for number in range(count):
            spec = JobSpec(
                queue="",
                kind=SourceKind.URL,
                source=f"http://127.0.0.1:9/{number}.bin",
                destination=folder,
                destination_is_folder=True,
                filename=f"{number}.bin",
                root=folder,
                priority=20,
                preserve_partial=False,
                copy=False,
                expected_sha256="",
                start=True,
            )
            store.insert(conn, spec, SecretKind.NONE, mark_of(spec.source))

    db = await Database.open(settings.database, MIGRATIONS, "download")
    await db.write(write)
    await db.close()


async def restored(scene: Scene) -> bool:
    """From the start of the process to its first answer, with the jobs and without."""
    with scene.process(**SLOW) as empty:
        async with started(empty) as (_, without):
            pass
    with scene.process(**SLOW) as full:
        await stock(full, scene.jobs)
        async with started(full) as (client, seconds):
            page = await client.stub.ListDownloads(pb.ListDownloadsRequest())
            assert len(page.downloads) == 50
    value = f"{seconds - without:.2f} s, beside {without:.2f} s with none"
    return report(f"{scene.jobs} jobs restored", value, "<= 2 s", seconds - without <= 2)


async def enqueued(scene: Scene) -> bool:
    """CreateDownload while the others wait and five run: one caller, then sixteen."""
    with scene.process(**SLOW) as process:
        await stock(process, scene.jobs)
        async with started(process) as (client, _):
            for _ in range(AT_ONCE):
                await scene.create(client, priority=1)
            cpu = cpu_seconds(process.pid)
            alone = [await timed(scene.create(client)) for _ in range(ALONE)]
            cpu = cpu_seconds(process.pid) - cpu
            together = await fill(scene, client, 2000)
    report("CPU of the service for one of them", f"{cpu / ALONE * 1e3:.2f} ms", "-", None)
    return all(
        report(
            f"enqueue with {scene.jobs} waiting, {callers}", told(values), "p99 <= 10 ms", p99(values) <= 0.01
        )
        for callers, values in (("one caller", alone), (f"{CALLERS} callers", together))
    )


async def stopped(scene: Scene) -> bool:
    """Pause, and cancel, of one of five downloads at full speed."""
    with scene.process() as process:
        async with started(process) as (client, _):
            jobs = [await scene.create(client) for _ in range(AT_ONCE)]
            pauses, cancels = list[float](), list[float]()
            for round_ in range(STOPS):
                for job in jobs:
                    await client.until(job, lambda now: now.progress.bytes_done > 0, timeout=30)
                job = jobs.pop(0)
                if round_ % 2:
                    pauses.append(await timed(client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))))
                    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))
                else:
                    begin = time.perf_counter()
                    await client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))
                    await client.ended(job)
                    cancels.append(time.perf_counter() - begin)
                jobs.append(await scene.create(client))
    return all(
        (
            report("pause with five at full speed", told(pauses), "p99 <= 250 ms", p99(pauses) <= 0.25),
            report("cancel, to CANCELLED and clean", told(cancels), "p99 <= 500 ms", p99(cancels) <= 0.5),
        )
    )


async def urgent(scene: Scene) -> bool:
    """From CreateDownload of a better priority until it runs, with five worse ones at full speed."""
    with scene.process() as process:
        async with started(process) as (client, _):
            worse = [await scene.create(client) for _ in range(AT_ONCE)]
            seconds = list[float]()
            for priority in range(9, 9 - STOPS // 2, -1):
                for job in worse:
                    await client.until(job, lambda now: now.progress.bytes_done > 0, timeout=30)
                job = await scene.create(client, priority=priority)
                job = await client.until(job, lambda now: now.sequence > 0)
                seconds.append((job.start_time.ToNanoseconds() - job.create_time.ToNanoseconds()) / 1e9)
                await client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))
                await client.ended(job)
    return report("a better one begins", told(seconds), "<= 250 ms", p99(seconds) <= 0.25)


ROWS: dict[str, Callable[[Scene], Awaitable[bool]]] = {
    row.__name__: row for row in (restored, enqueued, stopped, urgent)
}


def main(arguments: Sequence[str] = ()) -> bool:
    """Run the rows and print; whether all bars hold."""
    parser = argparse.ArgumentParser(prog="queued.py")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {','.join(ROWS)}")
    parser.add_argument("--jobs", type=int, default=10_000, help="that wait")
    chosen = parser.parse_args(arguments)
    names = chosen.rows.split(",")
    if unknown := sorted(set(names) - set(ROWS)):
        parser.error(f"no such row: {', '.join(unknown)}")
    place = Path(os.environ.get("MODELKEEP_BENCH_FOLDER", ROOT / ".cache"))
    place.mkdir(exist_ok=True)
    holds = True
    with tempfile.TemporaryDirectory(prefix="bench-", dir=place) as name:
        folder = Path(name)
        for part in ("www", "nginx"):
            (folder / part).mkdir()
        with (folder / "www" / "large.bin").open("wb") as large:
            large.truncate(LARGE)  # a hole: it takes no room, and reads as zeros
        with nginx(folder / "www", folder / "nginx") as server:
            scene = Scene(server, folder, chosen.jobs)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
            for row in names:
                holds &= asyncio.run(ROWS[row](scene))  # type: ignore[arg-type]  # a coroutine each
    return holds


if __name__ == "__main__":
    raise SystemExit(0 if main(sys.argv[1:]) else 1)
