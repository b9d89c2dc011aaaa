"""Real Envoys for tests."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import socket
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
