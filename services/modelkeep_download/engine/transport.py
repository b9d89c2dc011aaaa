"""One HTTP GET, with redirects followed by hand: over connections of our own, or through a session of others.

Blocking; runs on a transfer's thread.
"""

from __future__ import annotations

import abc
import contextlib
import os
import ssl
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from modelkeep.exceptions import (
    FieldInvalidException,
    ForbiddenAddressException,
    NotAModelFileException,
    SourceNotFoundException,
)
from modelkeep.source_tokens import HostPattern
from modelkeep_common.urls import Origin, authority_of, hidden_parts, origin_of, redirected, request_target
from modelkeep_download.domain.credentials import CredentialKind
from modelkeep_download.domain.refusals import MAX_BODY_BYTES, Asked, Refusal, error_of, read_refusal
from modelkeep_download.domain.retry import REDIRECT_STATUSES, TransientError
from modelkeep_download.engine.channel import describe
from modelkeep_download.engine.connections import Connections
from modelkeep_download.engine.dialing import (
    Connect,
    Dialer,
    Resolver,
    Route,
    connect_socket,
    system_resolver,
)
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.http1 import (
    AnswerHead,
    BadAnswerError,
    Body,
    EncodedAnswerError,
    Headers,
    NoHttpError,
    Reader,
    asked_to_wait,
    basic,
    read_head,
)
from modelkeep_download.engine.proxies import NO_PROXIES, Proxies
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.tls import default_tls, refused_handshake
from modelkeep_download.engine.tokens import NO_TOKENS, SourceTokens

#: Seconds that a refusal's words are waited for.
_REFUSAL_S = 5.0
#: The same for the body of a redirect, which is read only to keep its connection.
_FINISH_S = 0.5
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits of a connection, in seconds, and of redirects."""

    connect_timeout_s: float = 10.0
    headers_timeout_s: float = 30.0
    stall_timeout_s: float = 30.0
    #: Below this many bytes a second over `stall_timeout_s` a connection counts as stalled.
    min_bytes_per_second: int = 1024
    max_redirects: int = 10


class Stream(Reader, Protocol):
    """What an answer's body is read from."""

    def expect(self, seconds: float) -> None:
        """All that is read from now on must come in so many seconds."""


class Response:
    """An answer whose body has not been read.

    Args:
        head: Its status and header fields.
        url: Address that answered, with its secrets.
        stream: What its body is read from.
        done: Called once when nobody reads it any more, with whether the stream may carry another answer.
        via: The proxy that it came through, for people; may be empty.
    """

    def __init__(
        self, head: AnswerHead, url: str, stream: Stream, done: Callable[[bool], None], via: str = ""
    ) -> None:
        self.head, self.url, self.stream, self.via = head, url, stream, via
        self._done: Callable[[bool], None] | None = done
        self._body: Body | None = None

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
        """The reader of the body; the same each time.

        Raises:
            TransientError: The head contradicts itself about it.
            NotAModelFileException: It is encoded, which was not asked for.
        """
        try:
            return self.framed()
        except BadAnswerError as error:
            raise TransientError(f"{self.host} does not answer as it should: {error}") from error
        except EncodedAnswerError as error:
            raise NotAModelFileException(
                f"{self.host} serves the file encoded as {error.encoding}, though that was not asked for.",
                metadata={"host": self.host, "content_type": "", "content_encoding": error.encoding},
                remedy="Take another address of the file, or fetch it otherwise and give its path.",
            ) from error

    def framed(self) -> Body:
        """As `body`, with the errors of `Body`."""
        if self._body is None:
            self._body = Body(self.head, self.stream)
        return self._body

    def whole(self, most: int, *, bodiless: bool) -> bytes:
        """All of the body, as it was sent: unpacking it is the caller's matter.

        `bodiless`: the answer has none, whatever its head says, since HEAD asked for it.

        Raises:
            BadAnswerError: It breaks off, or has more than `most` bytes.
            OSError: As the connection's.
        """
        self._body = Body(_plain(self.head, bodiless=bodiless or self.status in (204, 304)), self.stream)
        found, buffer = bytearray(), memoryview(bytearray(_PIECE_BYTES))
        while count := self._body.readinto(buffer):
            found += buffer[:count]
            if len(found) > most:
                raise BadAnswerError(f"it has more than {most:,} bytes")
        if self._body.length is not None and len(found) < self._body.length:
            raise BadAnswerError("it breaks off")
        return bytes(found)

    def close(self) -> None:
        """Give the connection back: kept if the body was read to its very end, else closed."""
        if self._done is not None:
            done, self._done = self._done, None
            done(self.head.keeps_open and self._body is not None and self._body.is_whole)

    def beginning(self, most: int, seconds: float) -> bytes:
        """The first bytes of the body, or all of it; what does not come in time is left out."""
        found, buffer, until = b"", memoryview(bytearray(most)), time.monotonic() + seconds
        with contextlib.suppress(OSError, ValueError, BadAnswerError, EncodedAnswerError):
            body = self.framed()
            self.stream.expect(seconds)
            while time.monotonic() < until and (count := body.readinto(buffer[: most - len(found)])):
                found += bytes(buffer[:count])
        return found


class Session(Protocol):
    """A way to ask addresses. Safe to share between threads."""

    @property
    def limits(self) -> Limits:
        """How long is waited for what."""

    @property
    def tokens(self) -> SourceTokens:
        """What sources are shown that a request brings nothing for; `ask` shows none by itself."""

    def open(
        self,
        url: str,
        *,
        token: str | None,
        userinfo: str,
        headers: Mapping[str, str],
        stop: StopSignal,
        worked: bool = False,
        at: str = "",
    ) -> Response:
        """GET the URL, following at most `max_redirects` redirects; the answer's status is 200, 206 or 416.

        The token (as a bearer) and the user information, and without these a token that is kept for the URL's
        host, go to the URL's own scheme, host and port only; once a redirect has led elsewhere they are not
        sent again. `worked`: the URL has served bytes
        of the object before. `at`: the address that an earlier answer to the URL came from, which is asked
        in its place.

        Raises:
            TransientError: The source may answer later.
            ModelkeepError: It will not.
            Stopped: stop() was called.
        """

    def ask(self, method: str, url: str, headers: Mapping[str, str], stop: StopSignal) -> Response:
        """GET or HEAD the URL itself: the answer of that one address, whatever its status.

        Raises:
            TransientError: It gives none now.
            ModelkeepError: It never will.
            Stopped: stop() was called.
        """

    def close(self) -> None:
        """Nobody will ask any more."""


class RedirectingSession(abc.ABC):
    """A `Session` of single requests: redirects and refusals are dealt with here."""

    limits: Limits
    #: What a source may not be quoted with, besides what goes to it.
    secrets: Collection[str] = ()
    #: What sources are shown that a request brings nothing for.
    tokens: SourceTokens = NO_TOKENS

    def open(
        self,
        url: str,
        *,
        token: str | None,
        userinfo: str,
        headers: Mapping[str, str],
        stop: StopSignal,
        worked: bool = False,
        at: str = "",
    ) -> Response:
        """See `Session`."""
        origin, trusted = origin_of(url), True
        url = at or url
        for _ in range(self.limits.max_redirects + 1):
            trusted = trusted and same_party(origin, origin_of(url))
            shown = self._shown(url, token, userinfo) if trusted else _NOTHING
            response = self.ask("GET", url, {**headers, **shown.headers}, stop)
            if response.status in REDIRECT_STATUSES:
                targets = set(response.headers.all("Location"))
                self._finish(response)
                url = self._redirect_target(url, targets)
                continue
            if response.status in (200, 206, 416):
                return response
            secrets = [*secrets_of(url, token, userinfo), *shown.secrets, *self.secrets]
            refusal = self._refusal(response, stop, secrets)
            kept_under = str(HostPattern.of_url(url))
            raise error_of(
                refusal, Asked(at_source=trusted, shown=shown.kind, worked=worked, kept_under=kept_under)
            )
        raise SourceNotFoundException(
            f"{origin.host} redirects more than {self.limits.max_redirects} times",
            metadata={"host": origin.host, "max_redirects": str(self.limits.max_redirects)},
        )

    def _shown(self, url: str, token: str | None, userinfo: str) -> _Shown:
        """What goes to the source itself: what the request brings, else what is kept for it."""
        if token:
            return _Shown(bearer(token), CredentialKind.CALL, (token,))
        if userinfo:
            return _Shown({"Authorization": basic(userinfo)}, CredentialKind.ADDRESS)
        stored = self.tokens.found(url)
        return _Shown(bearer(stored.token), stored.kind, (stored.token,)) if stored else _NOTHING

    def _finish(self, response: Response) -> None:
        """Close an answer whose body says nothing, reading it if that keeps the connection at little cost."""
        with contextlib.closing(response), contextlib.suppress(BadAnswerError, EncodedAnswerError):
            body = response.framed()
            if response.head.keeps_open and (body.chunked or body.length is not None):
                response.beginning(MAX_BODY_BYTES, _FINISH_S)

    def _refusal(self, response: Response, stop: StopSignal, secrets: Collection[str]) -> Refusal:
        """What an answer that is no file says; closes it. It is no error if no words come."""
        with contextlib.closing(response):
            body = response.beginning(MAX_BODY_BYTES, min(_REFUSAL_S, self.limits.headers_timeout_s))
        stop.check()
        headers, wait = response.headers, asked_to_wait(response.headers)
        return read_refusal(
            response.status,
            response.host,
            headers.get,
            body,
            secrets=secrets,
            retry_after=wait,
            via=response.via,
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

    @abc.abstractmethod
    def ask(self, method: str, url: str, headers: Mapping[str, str], stop: StopSignal) -> Response:
        """See `Session`."""


@dataclass
class HttpTransport(RedirectingSession):
    """Opens URLs, and keeps connections for the next one. Safe to share between threads."""

    guard: AddressGuard
    limits: Limits = field(default_factory=Limits)
    resolver: Resolver = system_resolver
    connect: Connect = connect_socket
    tls: Callable[[], ssl.SSLContext] = default_tls
    proxies: Proxies = NO_PROXIES
    user_agent: str = "modelkeep/0.1"
    tokens: SourceTokens = NO_TOKENS
    #: Where variables that name a proxy would be.
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def __post_init__(self) -> None:
        self.secrets = self.proxies.secrets
        self._dialer = Dialer(
            self.guard,
            connect_timeout_s=self.limits.connect_timeout_s,
            handshake_timeout_s=self.limits.headers_timeout_s,
            resolver=self.resolver,
            connect=self.connect,
            tls=self.tls,
            proxies=self.proxies,
            user_agent=self.user_agent,
            environment=self.environment,
        )
        self.connections = Connections(self._dialer.dial)

    def close(self) -> None:
        """Close the connections that are kept, and those in use once they come back."""
        self.connections.close()

    def ask(self, method: str, url: str, headers: Mapping[str, str], stop: StopSignal) -> Response:
        """See `Session`."""
        party, fresh = origin_of(url), False
        route = self._dialer.route(party)
        while True:
            channel = self.connections.take(route, stop, fresh=fresh)
            try:
                channel.expect(self.limits.headers_timeout_s)
                channel.send(self._request_head(method, url, headers, route))
                head = read_head(channel)
            except (OSError, BadAnswerError, ValueError) as error:
                self.connections.give(route, channel, stop, False)
                stop.check()
                if (
                    channel.reused
                    and not channel.received
                    and not isinstance(error, TimeoutError | ValueError)
                ):
                    fresh = True  # the other side closed it before this request reached it
                    continue
                if isinstance(error, ssl.SSLError):  # a certificate that is wanted is missed only now
                    raise refused_handshake(error, party.host, party.port) from error
                why, tries = describe(error), 1 if isinstance(error, NoHttpError) else None
                if route.proxy:
                    raise route.proxy.failed(party.host, why, tries) from error
                raise TransientError(
                    f"{party.host} does not answer as it should: {why}", tries=tries
                ) from error
            channel.pour(self.limits.stall_timeout_s)
            done = partial(self.connections.give, route, channel, stop)
            if route.proxy and head.status == 407:
                done(False)
                raise route.proxy.refused(407, party.host)
            return Response(head, url, channel, done, route.proxy.shown if route.proxy else "")

    def _request_head(self, method: str, url: str, headers: Mapping[str, str], route: Route) -> bytes:
        target = request_target(url)
        for_proxy: Mapping[str, str] = {}
        if route.proxy and route.origin.scheme == "http":
            target, for_proxy = f"http://{authority_of(url)}{target}", route.proxy.headers
        fields = {
            "Host": authority_of(url),
            "User-Agent": self.user_agent,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            **for_proxy,
            **headers,
        }
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {text}" for name, text in fields.items())]
        if not all(line.isascii() and line.isprintable() for line in lines):
            raise ValueError("a header line would hold what no header may")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _plain(head: AnswerHead, *, bodiless: bool) -> AnswerHead:
    """A head that says nothing of how its body is encoded; or of one without a body."""
    names = ("Content-Length", "Transfer-Encoding")
    fields = {name.lower(): head.headers.all(name) for name in names if head.headers.all(name)}
    return AnswerHead(
        head.status, Headers({"content-length": ["0"]} if bodiless else fields), head.keeps_open
    )


def secrets_of(url: str, token: str | None, userinfo: str) -> list[str]:
    """What goes to a source and must not be shown when that repeats it."""
    return [text for text in (token, userinfo, userinfo.partition(":")[2], *hidden_parts(url)) if text]


def same_party(first: Origin, other: Origin) -> bool:
    """Whether credentials for `first` may go to `other`: the same, or its upgrade from http to https."""
    upgraded = first[::2] == ("http", 80) and other == ("https", first.host, 443)
    return first == other or upgraded


def bearer(token: str) -> dict[str, str]:
    """The header field that shows a token."""
    return {"Authorization": f"Bearer {token}"}


class _Shown(NamedTuple):
    """What a source is shown, and where that came from."""

    headers: Mapping[str, str]
    kind: CredentialKind
    #: What a text of the source must not be quoted with.
    secrets: Sequence[str] = ()


_NOTHING = _Shown({}, CredentialKind.NONE)
