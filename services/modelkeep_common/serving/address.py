"""Where a server listens: what is allowed, taking it, and saying clearly when it cannot be had."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio

from modelkeep.defaults import EXIT_ADDRESS_TAKEN, EXIT_CONFIG
from modelkeep.hosts import bracketed, check_spelling, is_loopback
from modelkeep.private import MAX_SOCKET_BYTES, UnsafeFolderError, make_private

from ..auth.callers import knows_callers
from ..paths import lock_file
from ..settings import ServiceSettings
from ..startup import StartupError


def check(settings: ServiceSettings) -> None:
    """Refuse what is unsafe or impossible before anything is opened.

    Raises:
        StartupError: 78 for TCP without ``insecure`` or anything to know callers by, an address that is not
            loopback without TLS or ``insecure``, an unknown host, or a socket path that cannot be; 98 for a
            socket that a server listens on.
    """
    is_local = _is_loopback(settings.host)
    variable = f"MODELKEEP_{settings.service.upper()}_INSECURE=true"
    if not settings.insecure and not is_local and settings.tls_cert_file is None:
        raise StartupError(
            EXIT_CONFIG,
            f"host {settings.host} is not a loopback address and there is no TLS: everybody on the network "
            "could read what passes, tokens too. Listen on 127.0.0.1, name a tls_cert_file and a "
            f"tls_key_file, or, if something else protects it, say --insecure or {variable}",
        )
    if not settings.insecure and not knows_callers(settings):
        raise StartupError(
            EXIT_CONFIG,
            "there is no token_file, so whoever reaches the port could read and change everything, other "
            "users of this machine too. `modelkeep up` starts services with tokens; for one alone, name a "
            "--token-file, a --tls-callers-file or a --jwt-jwks-file, or, if everybody may, say --insecure "
            f"or {variable}",
        )
    if settings.port:
        # gRPC would find out too, but says it on standard error in its own way.
        problem = _explain(settings)
        if problem is not None:
            raise problem
    path = settings.unix_socket
    if path is None:
        return
    if len(os.fsencode(path)) > MAX_SOCKET_BYTES:
        raise StartupError(
            EXIT_CONFIG, f"unix_socket {path} is longer than {MAX_SOCKET_BYTES} bytes: shorten it"
        )
    if _answers(os.fspath(path)):
        raise StartupError(EXIT_ADDRESS_TAKEN, f"a server already listens on the socket {path}")
    try:
        # Who can enter the folder can call as its owner.
        make_private(path.parent)
    except UnsafeFolderError as error:
        raise StartupError(EXIT_CONFIG, f"cannot listen on the socket {path}: {error}") from None


@contextlib.contextmanager
def hold_socket(settings: ServiceSettings) -> Iterator[None]:
    """Keep the UNIX socket for this process by a lock beside it; removes the socket at the end.

    gRPC takes a socket over from whoever listens there, without a word. Blocks for a moment.

    Raises:
        StartupError: 98 if another process has it, 73 if the lock cannot be written.
    """
    path = settings.unix_socket
    if path is None:
        yield
        return
    beside = path.with_name(f"{path.name}.lock")
    with lock_file(beside, f"the socket {path}", taken=EXIT_ADDRESS_TAKEN):
        path.unlink(missing_ok=True)  # of a process that was killed
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _bad_socket(path: Path) -> StartupError:
    return StartupError(EXIT_CONFIG, f"cannot listen on the socket {path}: check its folder")


def _bad_certificate(settings: ServiceSettings) -> StartupError:
    return StartupError(
        EXIT_CONFIG,
        f"gRPC cannot use tls_cert_file {settings.tls_cert_file} with tls_key_file {settings.tls_key_file}: "
        "have them made anew",
    )


async def bind(
    server: grpc.aio.Server, settings: ServiceSettings, credentials: grpc.ServerCredentials | None
) -> int:
    """Take the TCP port, and the UNIX socket if set.

    Args:
        server: Whose they will be.
        settings: Where they are.
        credentials: Of TLS on the TCP port; None for plaintext. The socket is always plain.

    Returns:
        The TCP port.

    Raises:
        StartupError: 98 if something listens there already, 78 if the address is no good.
    """
    where = f"{bracketed(settings.host)}:{settings.port}"
    try:
        if credentials is None:
            port = server.add_insecure_port(where)
        else:
            port = server.add_secure_port(where, credentials)
    except RuntimeError:
        otherwise = _taken(settings) if credentials is None else _bad_certificate(settings)
        raise await asyncio.to_thread(_explain, settings) or otherwise from None
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


def _is_loopback(host: str) -> bool:
    try:
        check_spelling(host)
        return is_loopback(host)
    except ValueError as error:
        raise StartupError(EXIT_CONFIG, str(error)) from None
    except OSError:
        raise StartupError(EXIT_CONFIG, f"host {host} is unknown: use an address, as 127.0.0.1") from None


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
