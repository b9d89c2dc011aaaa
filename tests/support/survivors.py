"""A loader that is killed and started again, and workers that compute all the while."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio

from modelkeep.loader.v1 import loader_service_pb2_grpc, resident_pb2
from modelkeep.model.v1 import taxonomy_pb2
from support import tinymodels
from support.lending import leases
from support.loaderprocess import LoaderProcess
from support.loaders import Lender
from support.ports import free_port
from support.processes import processes_of
from support.records import record_service
from support.workers import Worker, shared_workers


@dataclass
class Survivors:
    """The loader, what keeps for it, and its workers.

    Attributes:
        process: The loader.
        lender: Stubs of it, and of the records.
        key: Of the model that the workers hold.
        workers: Those that were started.
        output: What each of them computes.
    """

    process: LoaderProcess
    lender: Lender
    data_dir: Path
    key: str = ""
    workers: list[Worker] = field(default_factory=list)
    output: str = ""

    async def start_workers(self, count: int, **options: Any) -> list[Worker]:
        """New workers with these options, which hold the model and compute from now on."""
        started: list[Worker] = []
        for _ in range(count):
            worker = await shared_workers().new()
            self.workers.append(worker)
            started.append(worker)
            await worker.do("hold_on", address=self.process.address, key=self.key, **options)
            await worker.do("compute")
        for worker in started:
            await self.rounds(worker, 1)
            (self.output,) = (await worker.do("computed"))["results"]
        return started

    async def rounds(self, worker: Worker, more: int) -> None:
        """Wait until a worker has computed so often more; it must be the same each time."""
        begun = (await worker.do("computed"))["rounds"]
        deadline = time.monotonic() + 60
        while (found := await worker.do("computed"))["rounds"] < begun + more:
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.02)
        assert found["results"] == [self.output or found["results"][0]]

    async def kill(self) -> None:
        """SIGKILL for the loader."""
        await self.process.stop(signal.SIGKILL)

    async def held_by(self, *workers: Worker, within_s: float) -> float:
        """Wait until the leases are these workers' and ACTIVE; how many seconds it took."""
        wanted = sorted(worker.pid for worker in workers)
        began = time.monotonic()
        while True:
            found = await leases(self.lender)
            active = [one for one in found if one.state == resident_pb2.LEASE_STATE_ACTIVE]
            if sorted(one.holder.pid for one in active) == wanted and len(found) == len(wanted):
                return time.monotonic() - began
            assert time.monotonic() - began < within_s, found
            await asyncio.sleep(0.01)

    async def standing(self, worker: Worker, **wanted: Any) -> dict[str, Any]:
        """How a worker's lease stands, once it is so."""
        deadline = time.monotonic() + 30
        while not wanted.items() <= (found := await worker.do("standing")).items():
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.02)
        return dict(found)

    async def lost(self, worker: Worker) -> str:
        """Why a worker's lease is gone, once it is."""
        deadline = time.monotonic() + 30
        while not (found := await worker.do("standing"))["lost"]:
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.02)
        return str(found["lost"])

    def keepers(self) -> list[int]:
        """Process ids of what keeps for this loader."""
        found = processes_of(LoaderProcess.MARK, self.data_dir)
        return [pid for pid in found if b"modelkeep_keeper" in _command_line(pid)]

    async def kill_keeper(self) -> int:
        """SIGKILL for the keeper, and wait until it is gone; the process id that it had."""
        (pid,) = self.keepers()
        os.kill(pid, signal.SIGKILL)
        while pid in self.keepers():  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.01)
        return pid


@contextlib.asynccontextmanager
async def survivors(data_dir: Path, *options: str) -> AsyncIterator[Survivors]:
    """A loader as a process of its own with a record of a tiny VAE, and no workers yet.

    Args:
        data_dir: Of the loader.
        options: Of its command line.
    """
    shared_workers()  # begins to import while the model is made
    models, port = data_dir.parent / "imports", free_port()
    await asyncio.to_thread(tinymodels.vae(widths=(32, 64)).save_pretrained, models / "vae")
    async with record_service(data_dir, port=port) as records:
        process = LoaderProcess(data_dir, f"127.0.0.1:{port}", models, free_port(), options=options)
        async with grpc.aio.insecure_channel(process.address) as channel:
            stub: Any = loader_service_pb2_grpc.LoaderServiceStub(channel)
            lender = Lender(stub, records, process.address, models, None)
            made = Survivors(process, lender, data_dir)
            made.key = await lender.register(models / "vae", type=taxonomy_pb2.MODEL_TYPE_VAE)
            await process.start()
            try:
                yield made
            finally:
                for worker in made.workers:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)
                    await worker.close()
                for pid in processes_of(LoaderProcess.MARK, data_dir):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await process.stop(signal.SIGKILL)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
