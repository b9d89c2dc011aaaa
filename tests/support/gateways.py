"""Real Envoys for tests."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from modelkeep.gateway import Gateway, start


def free_port() -> int:
    """A port of 127.0.0.1 that is free now, below those that the system hands out."""
    source = random.SystemRandom()
    while True:
        port = source.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def running(gateway: Gateway, folder: Path) -> Iterator[str]:
    """A gateway on a free port; gives its ``host:port``."""
    placed = dataclasses.replace(gateway, port=free_port())
    process = start(placed, folder, folder / "gateway.log")
    try:
        yield f"{placed.host}:{placed.port}"
    finally:
        process.end()


def image_environment(folder: Path, delay_s: float = 0, limit_s: float = 0) -> dict[str, str]:
    """The variables with which deploy/docker/gateway.sh runs here, with its files below the folder."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TMPDIR": str(folder),
        "MODELKEEP_GATEWAY_DRAIN_DELAY_S": f"{delay_s:g}",
        "MODELKEEP_GATEWAY_DRAIN_S": f"{limit_s:g}",
    }
