"""A DownloadService for tests: in this process, or as one that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from modelkeep.download.v1 import download_pb2, resolve_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.download.v1 import download_service_pb2_grpc as rpc
from modelkeep_common.serving import start_server
from modelkeep_download.app import DownloadApplication
from modelkeep_download.config import DownloadSettings
from modelkeep_download.engine.transfer import Transfer
from modelkeep_download.engine.transport import Session
from modelkeep_download.resolve.plans import Resolver
from support.forked import Forked, stem
from support.ports import free_port

ENDED = (
    download_pb2.DOWNLOAD_STATE_COMPLETED,
    download_pb2.DOWNLOAD_STATE_ERROR,
    download_pb2.DOWNLOAD_STATE_CANCELLED,
)
REPOSITORY = Path(__file__).resolve().parents[2]


class DownloadClient:
    """The stub, with the waits that tests need."""

    def __init__(self, channel: grpc.aio.Channel, folder: Path) -> None:
        self.channel = channel
        self.stub: Any = rpc.DownloadServiceStub(channel)
        self.folder = folder

    async def create(self, url: str = "", **fields: Any) -> download_pb2.Download:
        """Create a download of a URL (or `source=`), by default into the folder of downloads."""
        fields.setdefault("destination", f"{self.folder}/")
        fields.setdefault("source", download_pb2.DownloadSource(url=url))
        answer: pb.CreateDownloadResponse = await self.stub.CreateDownload(pb.CreateDownloadRequest(**fields))
        return answer.download

    async def take(self, path: Path, *, copy: bool = False, **fields: Any) -> download_pb2.Download:
        """Create a download of a local path."""
        local = download_pb2.LocalPath(path=str(path), move=not copy)
        return await self.create(source=download_pb2.DownloadSource(local_path=local), **fields)

    async def get(self, job: int | download_pb2.Download) -> download_pb2.Download:
        """The job as it is now."""
        job_id = job if isinstance(job, int) else job.id
        answer: pb.GetDownloadResponse = await self.stub.GetDownload(pb.GetDownloadRequest(id=job_id))
        return answer.download

    async def ended(self, job: download_pb2.Download, timeout: float = 20) -> download_pb2.Download:
        """The job when it has ended."""
        request = pb.WaitDownloadsRequest(ids=[job.id])
        request.timeout.FromMilliseconds(int(timeout * 1000))
        answer: pb.WaitDownloadsResponse = await self.stub.WaitDownloads(request)
        assert answer.done, f"not ended: {answer.downloads}"
        return answer.downloads[0]

    async def run(self, url: str = "", **fields: Any) -> download_pb2.Download:
        """Create a download and wait for its end."""
        return await self.ended(await self.create(url, **fields))

    async def resolve(self, source: str, *, token: str = "", **asked: str) -> resolve_pb2.SourcePlan:
        """What a source comes to; further fields are those of `RemoteSource`."""
        request = resolve_pb2.ResolveSourceRequest(source={"source": source, **asked}, access_token=token)
        answer: resolve_pb2.ResolveSourceResponse = await self.stub.ResolveSource(request)
        return answer.plan

    async def until(
        self,
        job: download_pb2.Download,
        condition: Callable[[download_pb2.Download], bool],
        timeout: float = 10,
    ) -> download_pb2.Download:
        """The job as soon as the condition holds."""
        deadline = time.monotonic() + timeout
        while not condition(now := await self.get(job)):
            assert time.monotonic() < deadline, f"never so: {now}"
            await asyncio.sleep(0.01)
        return now


def settings_for(data_dir: Path, **values: Any) -> DownloadSettings:
    """Settings of a quick service that may ask loopback."""
    quick = {
        "allow_private_addresses": True,
        "retry_base_s": 0.02,
        "stall_timeout_s": 1.0,
        "headers_timeout_s": 1.0,
        "disk_reserve_bytes": 0,
    }
    return DownloadSettings.for_test(data_dir, **{**quick, **values})


@contextlib.asynccontextmanager
async def downloads_beside(data_dir: Path, **values: Any) -> AsyncIterator[str]:
    """Address of a service in this process, for tests of others: a file comes as fast as one connection."""
    async with _served(data_dir, max_connections_per_file=1, **values) as address:
        yield address


@contextlib.asynccontextmanager
async def _served(
    data_dir: Path,
    *,
    transfer: Transfer | None = None,
    session: Session | None = None,
    resolvers: Sequence[Resolver] = (),
    **values: Any,
) -> AsyncIterator[str]:
    settings = settings_for(data_dir, **values)
    application = DownloadApplication(settings, transfer=transfer, session=session, resolvers=resolvers)
    server = await start_server(application, settings)
    try:
        yield server.address
    finally:
        await server.stop(grace_s=0.5)


@contextlib.asynccontextmanager
async def download_service(data_dir: Path, **values: Any) -> AsyncIterator[DownloadClient]:
    """A service in this process, and a client of it over a real channel; see `_served`."""
    async with (
        _served(data_dir, **values) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield DownloadClient(channel, Path(os.path.realpath(data_dir)) / "downloads")


def stored_job(database: Path, job_id: int) -> dict[str, Any]:
    """A job's row, as the service has written it."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (job,) = connection.execute("SELECT job FROM downloads WHERE id = ?", (job_id,)).fetchone()
    found: dict[str, Any] = json.loads(job)
    return found


def alter_job(database: Path, job_id: int, **values: Any) -> None:
    """Write a job's row as a kill may leave it."""
    job = {**stored_job(database, job_id), **values}
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "UPDATE downloads SET state = ?, job = ? WHERE id = ?", (job["state"], json.dumps(job), job_id)
        )


class DownloadProcess:
    """`python -m modelkeep_download` as a process of its own, on one data folder and port.

    Attributes:
        boot: A file that it sees in place of the kernel's id of this start of the machine.
    """

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        self.data_dir = data_dir
        self.log = data_dir / "download.log"
        self.boot: Path | None = None
        self._settings = {"allow_private_addresses": "true", "disk_reserve_bytes": 0, **settings}
        self.port = free_port()
        self._process: Forked | None = None

    @property
    def address(self) -> str:
        """Where it serves."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id, while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; the process is there when this returns, and may not answer yet."""
        settings = {
            f"MODELKEEP_DOWNLOAD_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in self._settings.items()
        }
        with self.log.open("ab") as log:
            self._process = stem().start(
                "modelkeep_download",
                *("--port", str(self.port), "--data-dir", str(self.data_dir), "--insecure"),
                environment={**os.environ, **settings},
                stdout=log,
                stderr=log,
                boot=self.boot,
            )

    def signal(self, number: int) -> None:
        """Send it a signal, and do not wait for what that does."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(20)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[DownloadClient]:
        """A client, as soon as the process answers."""
        quick = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
        async with grpc.aio.insecure_channel(self.address, options=quick) as channel:
            client = DownloadClient(channel, self.data_dir / "downloads")
            await client.stub.ListDownloads(pb.ListDownloadsRequest(), wait_for_ready=True, timeout=15)
            yield client
