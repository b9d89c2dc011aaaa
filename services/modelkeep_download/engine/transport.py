"""One HTTP GET over a checked connection: resolve, guard, connect, guard again, follow redirects by hand.

Blocking; runs on a transfer's thread. Proxies of the environment are not used: a proxy would make the
address guard blind. Where nothing answers, the error names the variables that were passed over.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from io import BufferedReader

from modelkeep.exceptions import (
    FieldInvalidException,
    ForbiddenAddressException,
    NotAModelFileException,
    SourceNotFoundException,
    UpstreamUnavailableException,
)
from modelkeep_common.urls import Origin, authority_of, hidden_parts, origin_of, redirected, request_target
from modelkeep_download.domain.refusals import MAX_BODY_BYTES, Asked, Refusal, error_of, read_refusal
from modelkeep_download.domain.retry import REDIRECT_STATUSES, TransientError
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.http1 import (
    AnswerHead,
    BadAnswerError,
    Body,
    EncodedAnswerError,
    Headers,
    NoHttpError,
    asked_to_wait,
    read_head,
)

#: (family, sockaddr) pairs of a host and port, as from getaddrinfo.
SocketAddress = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]
Resolver = Callable[[str, int], list[SocketAddress]]
Dialer = Callable[[socket.socket, SocketAddress], None]
#: Seconds that a refusal's words are waited for.
_REFUSAL_S = 5.0
#: Tries that a failure is worth while the source has never answered: it may just be starting.
_FEW_TRIES = 3
_NOBODY_THERE = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL})
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_FAIL})
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Stopped(Exception):
    """The transfer was told to stop; what is durable stays."""


class StopSignal:
    """Tells a transfer's thread to stop, at once: it shuts down the socket that the thread waits on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._socket: socket.socket | None = None

    @property
    def is_set(self) -> bool:
        """Whether stop() was called."""
        return self._event.is_set()

    def stop(self) -> None:
        """Make the thread raise Stopped as soon as it can. Any thread may call this, repeatedly."""
        with self._lock:
            self._event.set()
            self._shut()

    def watch(self, sock: socket.socket | None) -> None:
        """Shut down this socket on stop(), in place of the one before."""
        with self._lock:
            self._socket = sock
            if self._event.is_set():
                self._shut()

    def abort(self) -> None:
        """Shut down the watched socket without a stop: its reader gets an error."""
        with self._lock:
            self._shut()

    def check(self) -> None:
        """Raise Stopped after stop()."""
        if self._event.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Sleep, or raise Stopped as soon as stop() is called."""
        if self._event.wait(seconds):
            raise Stopped

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # not connected, or closed already
                # The plain socket's method: a TLS one would only drop its own state.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits of a connection, in seconds, and of redirects."""

    connect_timeout_s: float = 10.0
    headers_timeout_s: float = 30.0
    stall_timeout_s: float = 30.0
    #: Below this many bytes a second over `stall_timeout_s` a connection counts as stalled.
    min_bytes_per_second: int = 1024
    max_redirects: int = 10


@dataclass
class Response:
    """An answer with status 200, 206 or 416, whose body has not been read."""

    head: AnswerHead
    #: Address that answered, with its secrets.
    url: str
    file: BufferedReader
    connection: socket.socket

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.head.status

    @property
    def headers(self) -> Headers:
        """The header fields."""
        return self.head.headers

    @property
    def host(self) -> str:
        """The host that answered."""
        return origin_of(self.url).host

    def body(self) -> Body:
        """The reader of the body.

        Raises:
            TransientError: The head contradicts itself about it.
            NotAModelFileException: It is encoded, which was not asked for.
        """
        try:
            return Body(self.head, self.file)
        except BadAnswerError as error:
            raise TransientError(f"{self.host} does not answer as it should: {error}") from error
        except EncodedAnswerError as error:
            raise NotAModelFileException(
                f"{self.host} serves the file encoded as {error.encoding}, though that was not asked for.",
                metadata={"host": self.host, "content_type": "", "content_encoding": error.encoding},
                remedy="Take another address of the file, or fetch it otherwise and give its path.",
            ) from error

    def close(self) -> None:
        """Close the connection; what is left of the body is not read."""
        self.file.close()
        self.connection.close()


def system_resolver(host: str, port: int) -> list[SocketAddress]:
    """Stream addresses of a host, IPv4 and IPv6 in the order that the system prefers."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]  # AF_INET(6) only


def connect_socket(sock: socket.socket, address: SocketAddress) -> None:
    """The real dialer."""
    sock.connect(address[1])


@functools.cache
def default_tls() -> ssl.SSLContext:
    """Certificates as the system trusts them; read at the first https request."""
    return ssl.create_default_context()


@dataclass
class HttpTransport:
    """Opens URLs. Safe to share between threads: it keeps no connections."""

    guard: AddressGuard
    limits: Limits = field(default_factory=Limits)
    resolver: Resolver = system_resolver
    dialer: Dialer = connect_socket
    tls: Callable[[], ssl.SSLContext] = default_tls
    user_agent: str = "modelkeep/0.1"
    #: Where variables that name a proxy would be.
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def open(
        self,
        url: str,
        *,
        token: str | None,
        userinfo: str,
        headers: Mapping[str, str],
        stop: StopSignal,
        worked: bool = False,
    ) -> Response:
        """GET the URL, following at most `max_redirects` redirects.

        The token (as a bearer) and the user information go to the URL's own scheme, host and port
        only; once a redirect has led elsewhere they are not sent again. `worked`: the URL has served bytes
        of the object before.

        Raises:
            TransientError: The source may answer later.
            ModelkeepError: It will not.
            Stopped: stop() was called.
        """
        origin, trusted = origin_of(url), True
        for _ in range(self.limits.max_redirects + 1):
            trusted = trusted and _same_party(origin, origin_of(url))
            credentials = _credentials(token, userinfo) if trusted else {}
            response = self._request(url, {**headers, **credentials}, stop)
            if response.status in REDIRECT_STATUSES:
                targets = set(response.headers.all("Location"))
                response.close()
                url = self._redirect_target(url, targets)
                continue
            if response.status in (200, 206, 416):
                return response
            refusal = self._refusal(response, stop, secrets_of(url, token, userinfo))
            raise error_of(refusal, Asked(at_source=trusted, had_token=bool(credentials), worked=worked))
        raise SourceNotFoundException(
            f"{origin.host} redirects more than {self.limits.max_redirects} times",
            metadata={"host": origin.host, "max_redirects": str(self.limits.max_redirects)},
        )

    def _refusal(self, response: Response, stop: StopSignal, secrets: Collection[str]) -> Refusal:
        """What an answer that is no file says; closes it. That it says nothing in time is no error."""
        body = b""
        with (
            contextlib.closing(response),
            _limited(stop, min(_REFUSAL_S, self.limits.headers_timeout_s)),
            contextlib.suppress(OSError, ValueError, BadAnswerError, EncodedAnswerError),
        ):
            body = _beginning(Body(response.head, response.file), MAX_BODY_BYTES)
        stop.check()
        headers, wait = response.headers, asked_to_wait(response.headers)
        return read_refusal(
            response.status, response.host, headers.get, body, secrets=secrets, retry_after=wait
        )

    def _redirect_target(self, url: str, targets: set[str]) -> str:
        host = origin_of(url).host
        if len(targets) != 1 or not (target := targets.pop()):
            text = f"{host} redirects to nowhere, or to several places at once"
            raise SourceNotFoundException(text, metadata={"host": host})
        try:
            target = target.encode("latin-1").decode("utf-8", "replace").strip().replace(" ", "%20")
            parsed = redirected(url, target)
        except FieldInvalidException as error:
            raise SourceNotFoundException(
                f"{host} redirects to something that is no web address", metadata={"host": host}
            ) from error
        if url.startswith("https:") and not parsed.url.startswith("https:"):
            raise ForbiddenAddressException(
                f"{host} redirects from https to http, which anyone on the way could read and change",
                metadata={"host": host, "address": origin_of(parsed.url).host, "setting": ""},
            )
        return parsed.url

    def _request(self, url: str, headers: Mapping[str, str], stop: StopSignal) -> Response:
        scheme, host, port = origin_of(url)
        file: BufferedReader | None = None
        sock = self._connect(host, port, stop)
        try:
            with _limited(stop, self.limits.headers_timeout_s):
                if scheme == "https":
                    # Wrapping empties the plain socket: watch the new one before the handshake waits.
                    # An end without TLS's own farewell is a broken connection, not the end of a body.
                    sock = tls = self.tls().wrap_socket(
                        sock, server_hostname=host, do_handshake_on_connect=False, suppress_ragged_eofs=False
                    )
                    stop.watch(tls)
                    tls.do_handshake()
                sock.sendall(self._request_head(url, headers))
                file = sock.makefile("rb")
                head = read_head(file)
        except ssl.SSLCertVerificationError as error:
            _close(file, sock)
            remedy = (
                "if it is of an authority of your own, start the service with SSL_CERT_FILE naming its file"
            )
            raise UpstreamUnavailableException(
                f"{host} shows a certificate that is not valid: {error.verify_message}; {remedy}",
                metadata={"peer": host, "remedy": remedy},
            ) from error
        except (OSError, BadAnswerError, ValueError) as error:
            _close(file, sock)
            stop.check()
            if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
                raise TransientError(
                    f"{host}:{port} speaks no TLS: is it http, not https?", tries=1
                ) from error
            raise TransientError(
                f"{host} does not answer as it should: {describe(error)}",
                tries=1 if isinstance(error, NoHttpError) else None,
            ) from error
        sock.settimeout(self.limits.stall_timeout_s)
        return Response(head, url, file, sock)

    def _request_head(self, url: str, headers: Mapping[str, str]) -> bytes:
        fields = {
            "Host": authority_of(url),
            "User-Agent": self.user_agent,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
            **headers,
        }
        lines = [f"GET {request_target(url)} HTTP/1.1", *(f"{name}: {text}" for name, text in fields.items())]
        if not all(line.isascii() and line.isprintable() for line in lines):
            raise ValueError("a header line would hold what no header may")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    def _connect(self, host: str, port: int, stop: StopSignal) -> socket.socket:
        addresses = self._resolve(host, port, stop)
        for _, address in addresses:
            self.guard.check(address[0], host=host)
        error: OSError | None = None
        for family, address in addresses:
            stop.check()
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as failed:  # IPv6 is switched off, and the name has such addresses
                error = failed
                continue
            try:
                sock.settimeout(self.limits.connect_timeout_s)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                stop.watch(sock)
                self.dialer(sock, (family, address))
                peer = sock.getpeername()[0]
            except OSError as failed:
                sock.close()
                error = failed
                continue
            try:
                self.guard.check(peer, host=host)
            except ForbiddenAddressException:
                sock.close()
                raise
            sock.settimeout(self.limits.headers_timeout_s)
            return sock
        stop.check()
        tries = _FEW_TRIES if isinstance(error, OSError) and error.errno in _NOBODY_THERE else None
        raise self._unreachable(f"{host}:{port} cannot be reached: {describe(error)}", tries) from error

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
                raise self._unreachable(text, _FEW_TRIES if passes else 1) from error
            else:
                if not addresses:
                    raise self._unreachable(f"the name {host} has no addresses", 1)
                return addresses

    def _unreachable(self, message: str, tries: int | None) -> TransientError:
        """The error for a source that nothing comes back from; it names the proxies that are set in vain."""
        ignored = [
            name for name in _PROXIES if self.environment.get(name) or self.environment.get(name.lower())
        ]
        remedy = "Check the address, and that its host can be reached from here."
        if not ignored:
            return TransientError(message, tries=tries, metadata={"remedy": remedy})
        names = ", ".join(ignored)
        return TransientError(
            f"{message}; this service connects directly and ignores {names} of its environment, so it must be"
            " able to reach the source without a proxy",
            tries=tries,
            metadata={"ignored_variables": names, "remedy": remedy},
        )


@contextlib.contextmanager
def _limited(stop: StopSignal, seconds: float) -> Iterator[None]:
    """Shut the watched socket after so long: what trickles in would pass every time-out of a single recv."""
    deadline = threading.Timer(seconds, stop.abort)
    deadline.daemon = True
    deadline.start()
    try:
        yield
    finally:
        deadline.cancel()


def _beginning(body: Body, most: int) -> bytes:
    """The first bytes of a body, or all of it."""
    found, buffer = b"", memoryview(bytearray(most))
    while len(found) < most and (count := body.readinto(buffer[: most - len(found)])):
        found += bytes(buffer[:count])
    return found


def _close(file: BufferedReader | None, sock: socket.socket) -> None:
    if file is not None:
        file.close()
    sock.close()


def secrets_of(url: str, token: str | None, userinfo: str) -> list[str]:
    """What goes to a source and must not be shown when that repeats it."""
    return [text for text in (token, userinfo, userinfo.partition(":")[2], *hidden_parts(url)) if text]


def describe(error: BaseException | None) -> str:
    """A few words about an I/O error, without addresses of memory and without what was sent."""
    if isinstance(error, BadAnswerError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).lower()


def _same_party(first: Origin, other: Origin) -> bool:
    """Whether credentials for `first` may go to `other`: the same, or its upgrade from http to https."""
    upgraded = first[::2] == ("http", 80) and other == ("https", first.host, 443)
    return first == other or upgraded


def _credentials(token: str | None, userinfo: str) -> dict[str, str]:
    if token:
        return {"Authorization": f"Bearer {token}"}
    if userinfo:
        return {"Authorization": f"Basic {base64.b64encode(userinfo.encode()).decode('ascii')}"}
    return {}
