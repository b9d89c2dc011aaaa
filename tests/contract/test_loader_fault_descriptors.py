"""A loader that is out of descriptors: whose fault that is, and who gets the next one."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from modelkeep.loader.v1 import loader_service_pb2_grpc
from modelkeep.worker._fetch import fetch_descriptors
from support.failures import refused
from support.lending import acquire
from support.loaderprocess import LoaderProcess
from support.loaders import Lender, component
from support.ports import free_port
from support.records import record_service

pytestmark = pytest.mark.timeout(60)


@pytest_asyncio.fixture
async def starved(data_dir: Path) -> AsyncIterator[tuple[Lender, str, int]]:
    """A loader in a process of its own, a model that needs no torch, and the loader's process id."""
    models, port = data_dir.parent / "imports", free_port()
    place = models / "sd"
    (place / "scheduler").mkdir(parents=True)
    (place / "model_index.json").write_text(json.dumps({"scheduler": ["diffusers", "PNDMScheduler"]}))
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps({"num_train_timesteps": 1000}))
    async with record_service(data_dir, port=port) as records:
        process = LoaderProcess(data_dir, f"127.0.0.1:{port}", models, free_port())
        await process.start()
        try:
            async with grpc.aio.insecure_channel(process.address) as channel:
                stub: Any = loader_service_pb2_grpc.LoaderServiceStub(channel)
                loader = Lender(stub, records, process.address, models, None)
                pid = process.pid
                yield loader, await loader.register(place), pid
        finally:
            await process.stop(signal.SIGKILL)


def _open_in(pid: int) -> set[int]:
    return {int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir()}


@contextmanager
def only(pid: int, more: int) -> Iterator[None]:
    """The process may open so many descriptors more than it has."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    there, once = _open_in(pid), set[int]()
    while there != once:  # a keeper that is being started opens some, and closes them
        time.sleep(0.3)
        there, once = _open_in(pid), there
    free = [number for number in range(max(there) + more + 2) if number not in there]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[more], before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def test_a_loader_out_of_descriptors_says_so_and_nothing_bad_of_the_model(
    starved: tuple[Lender, str, int],
) -> None:
    loader, key, pid = starved
    await acquire(loader, component(key, "scheduler"))  # the connections stand
    config = loader.models / "sd" / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"num_train_timesteps": 999}))
    with only(pid, 0):
        for named in ("scheduler", ""):  # one, and the list of those that there are
            with refused("SERVER_BUSY") as error:
                await acquire(loader, component(key, named))
            assert "open files" in error.message
            assert "limits of open files" in error.remedy
            assert error.retry_after
    assert (await acquire(loader, component(key, "scheduler"))).ticket


async def test_who_sends_nothing_to_the_descriptor_socket_makes_room_for_who_has_a_ticket(
    starved: tuple[Lender, str, int],
) -> None:
    loader, key, pid = starved
    grant = await acquire(loader, component(key, "scheduler"))
    silent = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    try:
        with only(pid, 12):
            for connection in silent:
                connection.connect(grant.socket_path)
            async with asyncio.timeout(8):  # each of them may wait 5 s for its ticket
                held, descriptors = await asyncio.to_thread(
                    fetch_descriptors, grant.socket_path, grant.ticket, 1
                )
        held.close()
        os.close(descriptors[0])
    finally:
        for connection in silent:
            connection.close()
