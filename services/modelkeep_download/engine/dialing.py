"""New connections: resolve, guard, connect, guard again, or through a proxy; TLS.

A proxy makes the guard blind for names, so those of the environment are used only if a setting says so. Where
nothing answers, the error names the variables that were passed over.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import NamedTuple

from modelkeep.exceptions import ForbiddenAddressException
from modelkeep_common.urls import Origin
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine.channel import Channel, describe
from modelkeep_download.engine.guard import AddressGuard, check_number
from modelkeep_download.engine.http1 import BadAnswerError, NoHttpError, read_head
from modelkeep_download.engine.proxies import ENVIRONMENT, NO_PROXIES, VARIABLES, Proxies, Proxy
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.tls import TlsChannel, default_tls, refused_handshake

#: (family, sockaddr) pairs of a host and port, as from getaddrinfo.
SocketAddress = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]
Resolver = Callable[[str, int], list[SocketAddress]]
Connect = Callable[[socket.socket, SocketAddress], None]
#: Tries that a failure is worth while the source has never answered: it may just be starting.
_FEW_TRIES = 3
_NOBODY_THERE = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL})
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_FAIL})


def system_resolver(host: str, port: int) -> list[SocketAddress]:
    """Stream addresses of a host, IPv4 and IPv6 in the order that the system prefers."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]  # AF_INET(6) only


def connect_socket(sock: socket.socket, address: SocketAddress) -> None:
    """The real `Connect`."""
    sock.connect(address[1])


class Route(NamedTuple):
    """How an address is reached."""

    origin: Origin
    proxy: Proxy | None = None

    @property
    def party(self) -> Origin:
        """Whose connection serves it: a proxy's serves every address that is asked without a tunnel."""
        if self.proxy is None or self.origin.scheme == "https":
            return self.origin
        return Origin("proxy", self.proxy.host, self.proxy.port)


@dataclass(frozen=True)
class Dialer:
    """Makes connections to hosts that the guard lets pass. Safe to share between threads."""

    guard: AddressGuard
    connect_timeout_s: float = 10.0
    handshake_timeout_s: float = 30.0
    resolver: Resolver = system_resolver
    connect: Connect = connect_socket
    tls: Callable[[], ssl.SSLContext] = default_tls
    proxies: Proxies = NO_PROXIES
    user_agent: str = ""
    #: Where variables that name a proxy would be.
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def route(self, origin: Origin) -> Route:
        """How an address is reached.

        Raises:
            ForbiddenAddressException: A proxy would be asked for a number that may not be asked.
        """
        proxy = self.proxies.of(origin)
        if proxy is not None:
            check_number(self.guard, origin.host)
        return Route(origin, proxy)

    def dial(self, route: Route, stop: StopSignal) -> Channel:
        """A connection to whom the address names, or to its proxy, which the signal watches.

        Raises:
            TransientError: Nobody answers there.
            ModelkeepError: It may not be asked, or shows no valid certificate.
            Stopped: stop() was called.
        """
        (scheme, host, port), proxy = route
        if proxy is None:
            try:
                sock = self._connect(host, port, stop, self.guard)
            except _Unreached as error:
                raise self._unreachable(str(error), error.tries) from error
        else:
            try:
                sock = self._connect(proxy.host, proxy.port, stop, None)
            except _Unreached as error:
                raise proxy.unreached(str(error), error.tries if error.nameless else None) from error
            if scheme == "https":
                self._tunnel(sock, route.origin, proxy, stop)
        return self._secured(sock, route, stop) if scheme == "https" else Channel(sock)

    def _tunnel(self, sock: socket.socket, origin: Origin, proxy: Proxy, stop: StopSignal) -> None:
        channel = Channel(sock)
        channel.expect(self.handshake_timeout_s)
        try:
            channel.send(proxy.wish(origin, self.user_agent))
            status = read_head(channel).status
            if 200 <= status < 300 and not channel.is_clean:
                raise BadAnswerError(
                    "it closes the tunnel, or speaks first in it"
                )  # TLS lets the client begin
        except (OSError, BadAnswerError) as error:
            sock.close()
            stop.check()
            raise proxy.unreached(
                f"it does not answer as it should: {describe(error)}",
                1 if isinstance(error, NoHttpError) else None,
            ) from error
        if not 200 <= status < 300:
            sock.close()
            raise proxy.refused(status, origin.host)

    def _secured(self, sock: socket.socket, route: Route, stop: StopSignal) -> Channel:
        (_, host, port), proxy = route
        try:
            channel = TlsChannel(sock, self.tls(), host)
            channel.expect(self.handshake_timeout_s)
            channel.shake_hands()
        except (OSError, ValueError) as error:
            sock.close()
            stop.check()
            told = isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)
            if proxy is not None and not told:
                raise proxy.failed(host, describe(error), None) from error
            raise refused_handshake(error, host, port) from error
        return channel

    def _connect(self, host: str, port: int, stop: StopSignal, guard: AddressGuard | None) -> socket.socket:
        addresses = self._resolve(host, port, stop)
        for _, address in addresses:
            if guard is not None:
                guard.check(address[0], host=host)
        error: OSError | None = None
        for family, address in addresses:
            stop.check()
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as failed:  # IPv6 is switched off, and the name has such addresses
                error = failed
                continue
            try:
                sock.settimeout(self.connect_timeout_s)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                stop.watch(sock)
                self.connect(sock, (family, address))
                peer = sock.getpeername()[0]
            except OSError as failed:
                sock.close()
                error = failed
                continue
            try:
                if guard is not None:
                    guard.check(peer, host=host)
            except ForbiddenAddressException:
                sock.close()
                raise
            return sock
        stop.check()
        tries = _FEW_TRIES if isinstance(error, OSError) and error.errno in _NOBODY_THERE else None
        raise _Unreached(f"{host}:{port} cannot be reached: {describe(error)}", tries) from error

    def _resolve(self, host: str, port: int, stop: StopSignal) -> list[SocketAddress]:
        """Look the name up on a thread of its own: getaddrinfo cannot be interrupted by a pause."""
        answer: Future[list[SocketAddress]] = Future()

        def look_up() -> None:
            try:
                answer.set_result(self.resolver(host, port))
            except Exception as error:
                answer.set_exception(error)

        threading.Thread(target=look_up, name="modelkeep-resolve", daemon=True).start()
        while True:
            try:
                addresses = answer.result(timeout=0.1)
            except FutureTimeoutError:
                stop.check()
            except (OSError, UnicodeError) as error:
                passes = isinstance(error, socket.gaierror) and error.errno not in _NO_SUCH_NAME
                text = f"the name {host} cannot be resolved: {describe(error)}"
                raise _Unreached(text, _FEW_TRIES if passes else 1, nameless=True) from error
            else:
                if not addresses:
                    raise _Unreached(f"the name {host} has no addresses", 1, nameless=True)
                return addresses

    def _unreachable(self, message: str, tries: int | None) -> TransientError:
        """The error for a source that nothing comes back from; it names the proxies that are set in vain."""
        ignored = [
            name for name in VARIABLES if self.environment.get(name) or self.environment.get(name.lower())
        ]
        remedy = "Check the address, and that its host can be reached from here."
        if self.proxies or not ignored:
            return TransientError(message, tries=tries, metadata={"remedy": remedy})
        names = ", ".join(ignored)
        return TransientError(
            f"{message}; this service connects directly and ignores {names} of its environment, so it must be"
            " able to reach the source without a proxy",
            tries=tries,
            metadata={
                "ignored_variables": names,
                "remedy": f"{remedy} If a proxy is needed, start the service with proxy = {ENVIRONMENT}.",
            },
        )


class _Unreached(Exception):
    """Nobody answers there; `nameless`: since the name leads nowhere."""

    def __init__(self, text: str, tries: int | None, *, nameless: bool = False) -> None:
        super().__init__(text)
        self.tries, self.nameless = tries, nameless
