"""Where a server listens: what is allowed, taking it, and saying clearly when it cannot be had."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from pathlib import Path

import grpc.aio

from .settings import ServiceSettings
from .startup import EXIT_ADDRESS_TAKEN, EXIT_CONFIG, StartupError

_MAX_SOCKET_PATH = 107


def check(settings: ServiceSettings) -> None:
    """Refuse what is unsafe or impossible before anything is opened.

    Raises:
        StartupError: 78 for an address that is not loopback without ``insecure``, an unknown host, or
            a socket path that cannot be; 98 for a socket that a server listens on.
    """
    if not settings.insecure and not _is_loopback(settings.host):
        raise StartupError(
            EXIT_CONFIG,
            f"host {settings.host} is not a loopback address and there is no TLS: everybody on the network "
            "could read and change everything. Listen on 127.0.0.1, or, if something else protects it, say "
            f"--insecure or MODELKEEP_{settings.service.upper()}_INSECURE=true",
        )
    if settings.port:
        # gRPC would find out too, but says it on standard error in its own way.
        problem = _explain(settings)
        if problem is not None:
            raise problem
    path = settings.unix_socket
    if path is None:
        return
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise StartupError(
            EXIT_CONFIG, f"unix_socket {path} is longer than {_MAX_SOCKET_PATH} bytes: shorten it"
        )
    if _answers(os.fspath(path)):
        raise StartupError(EXIT_ADDRESS_TAKEN, f"a server already listens on the socket {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        raise _bad_socket(path) from None


def _bad_socket(path: Path) -> StartupError:
    return StartupError(EXIT_CONFIG, f"cannot listen on the socket {path}: check its folder")


async def bind(server: grpc.aio.Server, settings: ServiceSettings) -> int:
    """Take the TCP port, and the UNIX socket if set.

    Returns:
        The TCP port.

    Raises:
        StartupError: 98 if something listens there already, 78 if the address is no good.
    """
    try:
        port = server.add_insecure_port(f"{_bracketed(settings.host)}:{settings.port}")
    except RuntimeError:
        raise await asyncio.to_thread(_explain, settings) or _taken(settings) from None
    if settings.unix_socket is not None:
        try:
            server.add_insecure_port(f"unix:{settings.unix_socket}")
        except RuntimeError:
            raise _bad_socket(settings.unix_socket) from None
    return port


def protect_socket(settings: ServiceSettings) -> None:
    """Only the service's own user may connect to its UNIX socket."""
    if settings.unix_socket is not None:
        settings.unix_socket.chmod(0o600)


def dial_host(host: str) -> str:
    """The host by which clients on this machine reach a server that listens on ``host``."""
    if host in ("0.0.0.0", "[::]", "::"):
        return "127.0.0.1"
    return _bracketed(host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _is_loopback(host: str) -> bool:
    plain = host.strip("[]")
    try:
        return ipaddress.ip_address(plain).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(plain, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise StartupError(EXIT_CONFIG, f"host {host} is unknown: use an address, as 127.0.0.1") from None
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


def _taken(settings: ServiceSettings) -> StartupError:
    return StartupError(
        EXIT_ADDRESS_TAKEN,
        f"{settings.host}:{settings.port} is taken by another process: stop that one, or set another --port",
    )


def _explain(settings: ServiceSettings) -> StartupError | None:
    """Why the address cannot be had; None if it seems free."""
    plain = settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in plain else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((plain, settings.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return _taken(settings)
            reason = error.strerror or str(error)
            return StartupError(EXIT_CONFIG, f"cannot listen on {settings.host}:{settings.port}: {reason}")
    return None


def _answers(path: str) -> bool:
    """Whether a process listens there; gRPC would silently take the socket over from it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True
