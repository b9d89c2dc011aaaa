"""Ports: is one free, and which one could be."""

from __future__ import annotations

import errno
import random
import socket

#: Free ports are sought below Linux's ephemeral range (32768 up): a port from inside it may be handed to
#: any outgoing connection between our look and the service's bind.
_LOWEST, _HIGHEST = 20_000, 32_000


def is_free(host: str, port: int) -> bool:
    """Whether nobody listens there now.

    What else may be wrong with the address (not this machine's, a port below 1024) the service says itself.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As gRPC does: a port whose last connections linger in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def find_free(host: str, *, taken: set[int]) -> int:
    """A port that is free now and not among `taken`, which it joins."""
    # Not the seeded generator: two test processes with the same seed would try the same ports.
    source = random.SystemRandom()
    for _ in range(1000):
        port = source.randrange(_LOWEST, _HIGHEST)
        if port not in taken and is_free(host, port):
            taken.add(port)
            return port
    raise OSError(f"no free port on {host} between {_LOWEST} and {_HIGHEST}")


def join(host: str, port: int) -> str:
    """``host:port`` as gRPC writes it; a wildcard host is reached over loopback."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{reachable}]:{port}" if ":" in reachable else f"{reachable}:{port}"
