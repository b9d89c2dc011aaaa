"""A RecordService for tests: in this process, or as one that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.record.v1 import record_service_pb2_grpc as rpc
from modelkeep_common.serving import start_server
from modelkeep_record.app import RecordApplication
from modelkeep_record.config import RecordSettings
from support.forked import Forked, stem
from support.ports import free_port
from support.recordstores import Kind

KEY = "0123456789abcdef0123456789abcdef"


def vae(name: str = "vae", path: str | None = None, **fields: Any) -> model_pb2.Model:
    """A VAE's record, valid unless ``fields`` make it otherwise."""
    values: dict[str, Any] = {
        "name": name,
        "type": taxonomy_pb2.MODEL_TYPE_VAE,
        "format": taxonomy_pb2.MODEL_FORMAT_DIFFUSERS,
        "base": "sd-1",
        "path": path or f"/models/{name}",
    }
    return model_pb2.Model(**(values | fields))


@contextlib.asynccontextmanager
async def record_server(data_dir: Path, kind: Kind | None = None, **settings: Any) -> AsyncIterator[str]:
    """The address of a RecordService in this process; on a kind of store, or on the one of its settings."""
    configuration = RecordSettings.for_test(data_dir, **settings)
    application = RecordApplication(configuration)
    if kind is not None:
        opened = partial(kind.open, data_dir, configuration.store_limits)
        application = RecordApplication(configuration, lambda _: opened())
    server = await start_server(application, configuration)
    try:
        yield server.address
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def record_service(data_dir: Path, kind: Kind | None = None, **settings: Any) -> AsyncIterator[Any]:
    """The stub of a RecordService in this process, as :func:`record_server` starts one."""
    async with (
        record_server(data_dir, kind, **settings) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield rpc.RecordServiceStub(channel)


class RecordProcess:
    """A RecordService as a process of its own."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self._arguments = (f"--data-dir={data_dir}", "--insecure", "--drain-grace-s=1", *arguments)
        self._process: Forked | None = None
        # Not in the data folder, which may be full, or none at all.
        self._errors = Path(tempfile.mkdtemp(prefix="mk-"), "stderr")
        self._channel: grpc.aio.Channel | None = None
        self.port = 0

    async def start(self) -> Any:
        """Start it, wait until it answers, and return a stub."""
        self.port = self.port or free_port()
        await self._spawn(f"--port={self.port}")
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        stub = rpc.RecordServiceStub(self._channel)
        try:
            await stub.GetStoreInfo(pb.GetStoreInfoRequest(), wait_for_ready=True, timeout=20)
        except grpc.aio.AioRpcError as error:
            await self._channel.close()
            assert self._process is not None
            self._process.kill()
            error.add_note(f"The service said: {(await self.end())[1]}")
            raise
        return stub

    async def end(self) -> tuple[int, str]:
        """Wait until it ended by itself; its exit code and what it printed to standard error."""
        if self._process is None:
            await self._spawn("--port=0")
        assert self._process is not None
        code = await asyncio.to_thread(self._process.wait, 30)
        return code, self._errors.read_text()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal and wait for its end; its exit code."""
        if self._channel is not None:
            await self._channel.close()
        assert self._process is not None
        self._process.send_signal(number)
        return await asyncio.to_thread(self._process.wait, 30)

    async def _spawn(self, *more: str) -> None:
        self._process = await asyncio.to_thread(self._start, *self._arguments, *more)

    def _start(self, *arguments: str) -> Forked:
        with open(os.devnull, "wb") as nothing, self._errors.open("wb") as errors:
            return stem().start(
                "modelkeep_record", *arguments, environment=os.environ, stdout=nothing, stderr=errors
            )
