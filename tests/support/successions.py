"""Loaders that follow one another at one place, and what their clients have of them.

What is lent are tokenizers: they need no library, and their files can be as large as one likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio

from modelkeep.loader.v1 import capacity_pb2, hold_pb2, loader_service_pb2_grpc, resident_pb2, residents_pb2
from modelkeep.worker._fetch import fetch_descriptors
from support.lending import hold
from support.loaderprocess import LoaderProcess
from support.loaders import Lender
from support.memorytruth import memfds
from support.ports import free_port
from support.processes import processes_of
from support.records import record_service
from support.waiting import until

VOCABULARY = 4 << 20


def model(folder: Path, name: str) -> Path:
    """A folder with a tokenizer of some MB."""
    place = folder / name / "tokenizer"
    place.mkdir(parents=True)
    index = {"_class_name": "StableDiffusionPipeline", "tokenizer": ["transformers", "CLIPTokenizer"]}
    (folder / name / "model_index.json").write_text(json.dumps(index))
    (place / "vocab.json").write_text(json.dumps({name: 0, "x" * VOCABULARY: 1}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    return folder / name


@dataclass
class Succession:
    """Loaders that follow one another at one address."""

    process: LoaderProcess
    both: Lender
    data_dir: Path
    keys: list[str] = field(default_factory=list)
    #: Memory that this process has of other tests, by device and inode.
    foreign: frozenset[tuple[int, int]] = frozenset()

    async def start(self) -> None:
        """Start a loader, and wait until it answers on the channel that there was to the one before."""
        await self.process.start()
        request = capacity_pb2.GetCapacityRequest()
        await self.both.stub.GetCapacity(request, wait_for_ready=True, timeout=30)

    async def again(self, by: signal.Signals = signal.SIGKILL) -> None:
        """End it, and start the next one."""
        await self.process.stop(by)
        await self.start()

    def pids(self) -> list[int]:
        """The loader, its helper and its keeper."""
        return processes_of(LoaderProcess.MARK, self.data_dir)

    def memory(self) -> int:
        """Bytes of components in memory, by the kernel's count."""
        found = memfds([os.getpid(), *self.pids()], "modelkeep:")
        return sum(size for one, size in found.items() if one not in self.foreign)

    async def until(self, size: int) -> None:
        """Wait for the memory to be so much: what was said to the keeper may be under way."""
        await until(lambda: self.memory() == size, 20)

    async def counted(self) -> int:
        """The same by what the loader says, in whole pages."""
        sizes = [resident.size_bytes for resident in (await self.residents()).values()]
        assert (await self.ram()).used_bytes == sum(sizes)
        return sum(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes)

    async def capacity(self) -> capacity_pb2.GetCapacityResponse:
        request = capacity_pb2.GetCapacityRequest()
        return await self.both.stub.GetCapacity(request)  # type: ignore[no-any-return]  # an untyped stub

    async def ram(self) -> resident_pb2.TierCapacity:
        return (await self.capacity()).tiers[0]

    async def all_residents(self) -> list[resident_pb2.Resident]:
        response = await self.both.stub.ListResidents(residents_pb2.ListResidentsRequest())
        return list(response.residents)

    async def residents(self) -> dict[str, resident_pb2.Resident]:
        """By the key of the model that they were asked for by first."""
        return {resident.components[0].key: resident for resident in await self.all_residents()}


@contextlib.asynccontextmanager
async def succession(data_dir: Path, *options: str) -> AsyncIterator[Succession]:
    """A first loader with four models, and none in the end, nor anything of one."""
    models, port = data_dir.parent / "imports", free_port()
    async with record_service(data_dir, port=port) as records:
        process = LoaderProcess(data_dir, f"127.0.0.1:{port}", models, free_port(), options=options)
        async with grpc.aio.insecure_channel(process.address) as channel:
            stub: Any = loader_service_pb2_grpc.LoaderServiceStub(channel)
            both = Lender(stub, records, process.address, models, None)
            foreign = frozenset(memfds([os.getpid()], "modelkeep:"))
            made = Succession(process, both, data_dir, foreign=foreign)
            for number in range(4):
                place = await asyncio.to_thread(model, models, f"m{number}")
                made.keys.append(await both.register(place))
            await process.start()
            yield made
            await process.stop(signal.SIGTERM)
            for pid in made.pids() if "--keep-on-stop" in options else ():
                os.kill(pid, signal.SIGTERM)
            await until(lambda: not made.pids(), 20)


async def contents(grant: hold_pb2.Grant, open_ones: list[Any], count: int = 1) -> list[bytes]:
    """What is lent: the files in order, and then what lies on accelerators; the connection joins those that
    are open.
    """
    count += sum(manifest.HasField("device_descriptor_index") for manifest in grant.manifests)

    def fetch() -> list[bytes]:
        connection, fds = fetch_descriptors(grant.socket_path, grant.ticket, count)
        open_ones.append(connection)
        try:
            return [os.pread(fd, 1 << 30, 0) for fd in fds]
        finally:
            for fd in fds:
                os.close(fd)

    return await asyncio.to_thread(fetch)


def close_all(open_ones: list[Any]) -> None:
    """Calls and connections."""
    while open_ones:
        one = open_ones.pop()
        (one.close if isinstance(one, socket.socket) else one.cancel)()


async def taken_up(
    loaders: Succession, grant: hold_pb2.Grant, *components: resident_pb2.ComponentRef
) -> tuple[Any, hold_pb2.Grant]:
    """A lease, taken up by a stream: the open call, and the grant."""
    request = hold_pb2.HoldModelRequest(
        components=components, lease_id=grant.lease.id, lease_secret=grant.lease_secret
    )
    call, _, again = await hold(loaders.both, request)
    return call, again
