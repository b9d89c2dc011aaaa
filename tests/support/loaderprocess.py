"""A LoaderService as a process of its own, for tests that kill, stop or starve it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc.aio

from modelkeep.loader.v1 import capacity_pb2, loader_service_pb2_grpc
from support.workers import ROOT


class LoaderProcess:
    """A LoaderService as a process of its own, that can be killed and started again.

    With a control group it runs there, with its helpers; `options` are further ones of its command line. The
    data folder stands in the environment of it and of its helpers, under the name `MARK`.
    """

    MARK = "LOADER_OF_THE_TEST"

    def __init__(
        self,
        data_dir: Path,
        record_address: str,
        models: Path,
        port: int,
        group: Path | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.address = f"127.0.0.1:{port}"
        self._arguments = [
            f"--data-dir={data_dir}",
            f"--port={port}",
            f"--record-address={record_address}",
            f"--import-roots={models}",
            f"--descriptor-dir={data_dir / 'fd'}",
            "--drain-grace-s=1",
            "--insecure",
            *options,
        ]
        self._environment = {self.MARK: str(data_dir)}
        self._process: subprocess.Popen[bytes] | None = None
        self._group = group

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it answers."""
        path = os.pathsep.join([str(ROOT / "services"), str(ROOT / "clients" / "python")])
        command = [sys.executable, "-m", "modelkeep_loader", *self._arguments]
        if self._group is not None:
            # It enters the group before it becomes the loader, so that all of its memory counts there.
            enter = 'echo $$ > "$0" && exec "$@"'
            command = ["sh", "-c", enter, str(self._group / "cgroup.procs"), *command]
        self._process = await asyncio.to_thread(
            lambda: subprocess.Popen(
                command,
                env={**os.environ, **self._environment, "PYTHONPATH": path},
                stderr=subprocess.DEVNULL,
            )
        )
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub: Any = loader_service_pb2_grpc.LoaderServiceStub(channel)
            deadline = time.monotonic() + 30
            while True:
                try:
                    await stub.GetCapacity(capacity_pb2.GetCapacityRequest(), wait_for_ready=True, timeout=30)
                    return
                except grpc.aio.AioRpcError as error:
                    # gRPC shares connections between channels: it may try that to the one before.
                    if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                        raise

    def change(self, option: str) -> None:
        """The next one is started with this option in place of what that was."""
        name = option.partition("=")[0]
        self._arguments = [one for one in self._arguments if one.partition("=")[0] != name] + [option]

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, and wait for nothing."""
        assert self._process is not None
        self._process.send_signal(number)

    async def stop(self, number: signal.Signals) -> int:
        """Send it a signal; its exit code."""
        process = self._process
        assert process is not None
        process.send_signal(number)
        return await asyncio.to_thread(process.wait, 20)
