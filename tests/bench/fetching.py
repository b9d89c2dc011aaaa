"""A real DownloadService whose downloads are measured through its own calls."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
from figures import cpu_seconds, rss_bytes
from peers import Party, Ran

from modelkeep.download.v1 import all_downloads_pb2 as all_pb
from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.download.v1.download_service_pb2_grpc import DownloadServiceStub
from modelkeep_download.config import DownloadSettings
from support.processes import connections_to
from support.suite import service_suite

_LOOK_EVERY_S = 0.05
_METER_EVERY_S = 0.02
#: Seconds that one download may take.
_TOO_LONG_S = 300


class Watcher:
    """Looks at a process while something runs: its highest memory in bytes, its most connections to ports."""

    def __init__(self, pid: int, ports: Sequence[int]) -> None:
        self.connections, self.memory = 0, 0
        self._pid = pid
        self._ports = ports
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watcher:
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")  # the highest so far is forgotten
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        status = Path(f"/proc/{self._pid}/status").read_text()
        self.memory = int(status.partition("VmHWM:")[2].split()[0]) << 10

    def _look(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            # The service is the only one that connects to these ports meanwhile.
            self.connections = max(self.connections, connections_to(*self._ports))


class Meter:
    """How many bytes a process has written, as its kernel counts them, while something runs.

    Attributes:
        samples: (Seconds since the beginning, bytes so far) pairs.
    """

    def __init__(self, pid: int) -> None:
        self.samples: list[tuple[float, int]] = []
        self._file = Path(f"/proc/{pid}/io")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Meter:
        self._begin = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._begin

    def windows(self, seconds: float, since: float, until: float) -> list[float]:
        """Bytes a second in each stretch of so many seconds that lies between two moments."""
        rates: list[float] = []
        end = 0
        for begin, (at, count) in enumerate(self.samples):
            end = max(end, begin)
            while end < len(self.samples) and self.samples[end][0] < at + seconds:
                end += 1
            if at >= since and end < len(self.samples) and self.samples[end][0] <= until:
                last, total = self.samples[end]
                rates.append((total - count) / (last - at))
        return rates

    def _look(self) -> None:
        while not self._over.wait(_METER_EVERY_S):
            at, text = self.now, self._file.read_text()
            self.samples.append((at, int(text.partition("wchar:")[2].split()[0])))


class Fetcher:
    """Downloads through a service, and what they cost it.

    Attributes:
        pid: Its process.
        stub: Its calls.
        idle: Its memory in bytes before the first download.
    """

    def __init__(self, stub: DownloadServiceStub, pid: int, folder: Path) -> None:
        self.stub, self.pid, self.idle = stub, pid, rss_bytes(pid)
        self._folder = folder

    def party(self, url: str, size: int, *, sha256: str = "", ports: Sequence[int] = ()) -> Party:
        """One file, from CreateDownload to COMPLETED: checked, durable, at its place. It is removed after."""
        return self.parties([url], size, sha256=sha256, ports=ports)

    def parties(
        self, urls: Sequence[str], size: int, *, sha256: str = "", ports: Sequence[int] = ()
    ) -> Party:
        """Files of one size, each a download of its own, all at once."""
        requests = self._requests(urls, sha256)

        def collect(jobs: Sequence[download_pb2.Download]) -> None:
            for job in jobs:
                assert not sha256 or (job.verified and job.sha256 == sha256), job
                _collect(Path(job.path), size)

        return self._party(requests, collect, ports)

    def folder(self, urls: Sequence[str], size: int) -> Party:
        """Files of one size as one download of several files, each time into another folder, where they stay.

        ext4 gives no inode anew that was freed a minute ago, and looks for long for another: what was removed
        after one round would slow down the next.
        """
        rounds = itertools.count()
        files = [
            download_pb2.SourceFile(url=url, path=f"{number}.bin", size_bytes=size)
            for number, url in enumerate(urls)
        ]
        source = download_pb2.DownloadSource(files=download_pb2.FileSet(files=files))

        def run() -> Ran:
            folder = self._folder / f"folder-{next(rounds)}"

            def collect(jobs: Sequence[download_pb2.Download]) -> None:
                found = [path.stat().st_size for path in folder.iterdir()]
                assert found == [size] * len(files), jobs

            request = pb.CreateDownloadRequest(source=source, destination=str(folder))
            return self._party([request], collect, ())()

        return run

    @contextmanager
    def under_way(self, urls: Sequence[str]) -> Iterator[None]:
        """Each of these is being downloaded, and is cancelled afterwards if it has not ended."""
        for request in self._requests(urls):
            self.stub.CreateDownload(request)
        try:
            yield
        finally:
            self.stub.CancelAllDownloads(all_pb.CancelAllDownloadsRequest())
            self.stub.WaitDownloads(pb.WaitDownloadsRequest())

    def _requests(self, urls: Sequence[str], sha256: str = "") -> list[pb.CreateDownloadRequest]:
        return [
            pb.CreateDownloadRequest(
                source=download_pb2.DownloadSource(url=url),
                destination=str(self._folder / f"{number}.bin"),
                expected_sha256=sha256,
            )
            for number, url in enumerate(urls)
        ]

    def _party(
        self,
        requests: Sequence[pb.CreateDownloadRequest],
        collect: Callable[[Sequence[download_pb2.Download]], None],
        ports: Sequence[int],
    ) -> Party:
        def run() -> Ran:
            before = cpu_seconds(self.pid, children=True)
            with Watcher(self.pid, ports) as watcher:
                begin = time.perf_counter()
                jobs = self._ended(requests)
                seconds = time.perf_counter() - begin
            cpu_s = cpu_seconds(self.pid, children=True) - before
            for job in jobs:
                assert job.state == download_pb2.DOWNLOAD_STATE_COMPLETED, job
            collect(jobs)
            return Ran(seconds, cpu_s, watcher.connections, watcher.memory - self.idle)

        return run

    def _ended(self, requests: Sequence[pb.CreateDownloadRequest]) -> Sequence[download_pb2.Download]:
        """Make the downloads, sixteen calls at a time, and wait until all have ended."""
        made: list[int] = []
        under_way = [self.stub.CreateDownload.future(request) for request in requests[:16]]
        for request in requests[16:]:
            made.append(under_way.pop(0).result().download.id)
            under_way.append(self.stub.CreateDownload.future(request))
        made += [call.result().download.id for call in under_way]
        wait, deadline = pb.WaitDownloadsRequest(ids=made), time.monotonic() + _TOO_LONG_S
        while not (answer := self.stub.WaitDownloads(wait)).done:
            assert time.monotonic() < deadline, f"it takes too long: {answer.downloads}"
        return list(answer.downloads)


def _collect(file: Path, size: int) -> None:
    """See that a file is there, whole, and remove it."""
    assert file.stat().st_size == size, file
    file.unlink()


@contextmanager
def fetcher(folder: Path, **settings: str) -> Iterator[Fetcher]:
    """A service with its data beneath a folder; settings as of DownloadSettings."""
    name = "max_connections_per_file"  # as a service has it; those of tests have one
    settings.setdefault(name, str(DownloadSettings.model_fields[name].default))
    env = {f"MODELKEEP_DOWNLOAD_{name.upper()}": value for name, value in settings.items()}
    with (
        service_suite(folder, services=("download",), env=env) as suite,
        grpc.insecure_channel(suite.addresses["download"]) as channel,
    ):
        yield Fetcher(DownloadServiceStub(channel), suite.pids["download"], folder / "downloads")
