"""Whether a service that runs is ready, asked from beside it: ``--health``, for checks of containers."""

from __future__ import annotations

import socket
from typing import Final

from modelkeep.hosts import dial_host

_PATIENCE_S: Final = 5.0
_REQUEST: Final = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def why_not_ready(host: str, port: int) -> str:
    """Ask a service's port for probes; blocks for at most some seconds.

    Args:
        host: Where it listens for them.
        port: Its port.

    Returns:
        Why it is not ready, as half a sentence; empty if it is.
    """
    where = (dial_host(host).strip("[]"), port)
    try:
        with socket.create_connection(where, timeout=_PATIENCE_S) as connection:
            connection.sendall(_REQUEST)
            status = connection.makefile("rb").readline(64)
    except OSError as error:
        return f"nothing answers at {where[0]}:{port} ({error.strerror or error})"
    code = status.split()[1:2]
    if code == [b"200"]:
        return ""
    return "it starts or drains" if code == [b"503"] else "what answers is no service of the suite"
