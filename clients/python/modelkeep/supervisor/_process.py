"""One service as a child process: start it, ask whether it is healthy, end it, and keep what it said."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelkeep import processes, rpc
from modelkeep.defaults import ServiceName

#: A refused connection is tried again at once: the default of one second would be most of a start.
_QUICK = tuple((f"grpc.{name}_reconnect_backoff_ms", 50) for name in ("initial", "min", "max"))


class ServiceProcess:
    """A started service.

    Args:
        name: Its short name, ``record``.
        address: Where it will listen, ``host:port``, or ``unix:path`` where TCP is TLS.
        module: The module that it runs.
        arguments: Its command line.
        environment: Variables on top of what processes inherit.
        log_path: Where its stdout and stderr are appended; its own JSON log lines go into the file
            of the same name with ``.jsonl``.
        keep_open: Descriptors that it inherits.

    It is drained when this process ends, however that comes.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str | None],
        log_path: Path,
        keep_open: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.address = address
        self.log_path = log_path
        self._journal = log_path.with_suffix(".jsonl")
        self._journal_start = self._journal.stat().st_size if self._journal.exists() else 0
        # No more than its user may read what a service says.
        with os.fdopen(os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            self._log_start = log.seek(0, os.SEEK_END)
            self._process = processes.start(
                module,
                *arguments,
                *("--log-file", str(self._journal)),
                environment=environment,
                stdout=log,
                stderr=log,
                keep_open=keep_open,
            )
        self._channel: grpc.Channel | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, minus a signal's number, or None while it runs."""
        return self._process.returncode

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end; returns the exit code, or None when it still runs after `timeout_s` seconds."""
        return self._process.wait(timeout_s)

    def send(self, signum: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended."""
        self._process.send(signum)

    def is_healthy(self, timeout_s: float) -> bool:
        """Whether it answers SERVING within `timeout_s` seconds."""
        if self._channel is None:
            self._channel = rpc.open_channel(
                rpc.Address(cast(ServiceName, self.name), self.address, "the supervisor"), *_QUICK
            )
        try:
            answer = health_pb2_grpc.HealthStub(self._channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s, wait_for_ready=True
            )
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def close(self) -> None:
        """Let go of the health channel."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def last_lines(self, count: int = 20) -> list[str]:
        """The last lines that this process wrote to stdout and stderr; without any, those of its log."""
        return self.last_words(count)[1]

    def last_words(self, count: int = 20) -> tuple[Path, list[str]]:
        """A file, and the last lines that this process wrote to it; as :meth:`last_lines` chooses it."""
        if said := _tail(self.log_path, self._log_start, count):
            return self.log_path, said
        return self._journal, _tail(self._journal, self._journal_start, count)

    def how_it_ended(self) -> str:
        """``exited with code 65`` or ``was killed by SIGKILL``."""
        code = self.returncode
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"exited with code {code}"


def _tail(path: Path, start: int, count: int) -> list[str]:
    """The last `count` lines of what a file holds from `start` on, looking at 64 KiB at most."""
    try:
        with path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            start = start if start <= end else 0  # a log that was begun anew
            log.seek(max(start, end - 64 * 1024))
            return log.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []
