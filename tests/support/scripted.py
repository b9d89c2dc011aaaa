"""Real gRPC servers in the test's own loop whose answers a test writes down."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from grpc import aio


@contextlib.asynccontextmanager
async def serving(*registrations: Callable[[aio.Server], Any], port: int = 0) -> AsyncIterator[str]:
    """A server; yields its address.

    Args:
        registrations: Each adds one servicer to the server.
        port: Where it listens; 0: on a free port.
    """
    server = aio.server()
    for register in registrations:
        register(server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
