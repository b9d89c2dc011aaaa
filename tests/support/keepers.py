"""A keeper as a process of its own, and whoever talks to it as a loader does."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from modelkeep import sealed
from modelkeep_keeper import messages
from modelkeep_keeper.messages import Kind
from support.waiting import wait_until
from support.workers import ROOT

#: Seconds that anything here may take.
_PATIENCE_S = 20.0


class KeeperProcess:
    """A keeper at a path, started at once; what it says is read when asked for.

    Args:
        folder: Where its socket and its log are.
        options: Further ones of its command line.
        open_files: The hard limit of its descriptors.
    """

    def __init__(self, folder: Path, *options: str, open_files: int = 0) -> None:
        self.socket = folder / "kp.sock"
        self.log = folder / "keeper.log"
        with self.log.open("ab") as log:
            self._start = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "modelkeep_keeper", "--socket", str(self.socket), *options],
                env={**os.environ, "PYTHONPATH": f"{ROOT / 'services'}{os.pathsep}{ROOT / 'clients/python'}"},
                stderr=log,
                preexec_fn=None if not open_files else lambda: limit_open_files(open_files),
            )

    def connect(self) -> socket.socket:
        """A connection as a loader makes it, as soon as it listens; it waits when it is read."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(_PATIENCE_S)
        wait_until(lambda: self._reached(connection), "no keeper listens")
        return connection

    def ended(self) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(_PATIENCE_S)

    def said(self) -> str:
        """What stands in its log."""
        return self.log.read_text()[self._start :]

    def kill(self) -> None:
        """Kill it, stopped or not, if it still runs."""
        self.process.kill()
        self.process.wait()

    def _reached(self, connection: socket.socket) -> bool:
        with contextlib.suppress(OSError):
            connection.connect(str(self.socket))
            return True
        assert self.process.poll() is None, self.said()
        return False


@contextlib.contextmanager
def keeper_at(folder: Path, *options: str, open_files: int = 0) -> Iterator[KeeperProcess]:
    """A keeper that is gone afterwards."""
    keeper = KeeperProcess(folder, *options, open_files=open_files)
    try:
        yield keeper
    finally:
        keeper.kill()


def limit_open_files(most: int) -> None:
    """In a process that is about to become another: it can never have more."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def memory(text: bytes = b"weights", *, size: int = 0) -> int:
    """A sealed memory, and the only open file on it, as the loader has them."""
    made = sealed.create("modelkeep:kept", max(size, len(text)))
    sealed.write(made, 0, text)
    sealed.seal(made)
    opened = sealed.open_readonly(made)
    os.close(made)
    return opened


def put(connection: socket.socket, name: str, text: bytes = b"weights") -> None:
    """Have a memory kept that nobody else has."""
    descriptor = memory(text)
    messages.send(connection, Kind.PUT, name, [descriptor])
    os.close(descriptor)


def listed(connection: socket.socket) -> dict[str, list[bytes]]:
    """What is kept: names, and what is in the memory of each."""
    messages.send(connection, Kind.LIST)
    found: dict[str, list[bytes]] = {}
    while True:
        message = messages.receive(connection)
        assert message is not None, "the keeper has gone"
        assert not message.is_cut
        if message.kind is Kind.ALL:
            return found
        assert message.kind is Kind.THING
        found[message.name] = [os.pread(fd, 1 << 20, 0) for fd in message.descriptors]
        messages.close_all(message.descriptors)


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side ends the connection, now or soon."""
    with contextlib.suppress(ConnectionError):
        return messages.receive(connection) is None
    return True


def stopped(pid: int) -> bool:
    """Whether a process is stopped (SIGSTOP)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def stop(pid: int) -> None:
    """Stop a process, and wait until it is."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: stopped(pid), "it does not stop")


def contents(descriptors: Sequence[int]) -> list[bytes]:
    """What is in each memory."""
    return [os.pread(descriptor, 1 << 20, 0) for descriptor in descriptors]
