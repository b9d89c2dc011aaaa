"""The way out for the hubs' APIs: what downloads are fetched through, as a transport of httpx and of httpx2.

So names, peers, proxies, authorities and stored tokens are looked at in one place, whoever asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import httpx

from modelkeep.source_tokens import HostPattern
from modelkeep_common.urls import Origin, origin_of
from modelkeep_download.domain.credentials import CredentialKind
from modelkeep_download.domain.refusals import Asked, Refusal, error_of, read_refusal
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine.channel import describe
from modelkeep_download.engine.http1 import BadAnswerError, Headers, asked_to_wait
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transport import Session, bearer, same_party

#: Most bytes of one answer: a listing of 10,000 files has a few millions.
MAX_BYTES: Final = 32 << 20
#: Header fields that belong to the connection, which is ours.
_OURS: Final = frozenset({"host", "connection", "accept-encoding", "content-length", "transfer-encoding"})
#: Name of a request's extension.
_WAY: Final = "modelkeep.way"


class _Fields(Protocol):
    def multi_items(self) -> list[tuple[str, str]]: ...


class ReadAnswer(Protocol):
    """An answer of either httpx, as far as it is looked at here."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> _Fields: ...

    @property
    def content(self) -> bytes: ...


class _Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class _Way:
    """Where a request and the redirects from it lead: httpx hands it from each to the next."""

    begun: Origin
    left: bool = False

    def still_at(self, origin: Origin) -> bool:
        """Whether it has led to nobody else, so that whoever is asked may see what is kept for him."""
        self.left = self.left or not same_party(self.begun, origin)
        return not self.left


def still_at_source(extensions: MutableMapping[str, Any], url: str) -> bool:
    """Whether a request, and the redirects that led to it, stayed with whom it began at.

    Args:
        extensions: The request's, which httpx and httpx2 hand on with each redirect.
        url: What it asks.
    """
    way: _Way = extensions.setdefault(_WAY, _Way(origin_of(url)))
    return way.still_at(origin_of(url))


def ask(
    session: Session, method: str, url: str, headers: dict[str, str], at_source: bool, stop: StopSignal
) -> _Answer:
    """One request, and all of its answer; blocking."""
    if method not in ("GET", "HEAD"):
        raise ValueError(f"hubs are only asked by GET and HEAD, not by {method}")
    asked = {name: text for name, text in headers.items() if name.lower() not in _OURS}
    if at_source and "authorization" not in {name.lower() for name in asked}:
        token = session.tokens.for_url(url)
        asked |= bearer(token) if token else {}
    response = session.ask(method, url, asked, stop)
    try:
        body = response.whole(MAX_BYTES, bodiless=method == "HEAD")
    except (OSError, BadAnswerError) as error:
        stop.check()
        raise TransientError(
            f"{origin_of(url).host} does not answer as it should: {describe(error)}"
        ) from error
    finally:
        response.close()
    gone = ("transfer-encoding", "connection")
    pairs = [(name, text) for name, text in response.headers.items() if name not in gone]
    return _Answer(response.status, pairs, body)


class GuardedTransport(httpx.AsyncBaseTransport):
    """Asks through a download's session, whole answers only, of 32 MiB at most.

    A request without an Authorization of its own shows what is kept for its host, unless a redirect from
    another one has led to it.

    Args:
        session: Also what keeps the connections; it is not closed here.

    Raises:
        TransientError, ModelkeepError: Of a request, as `Session.ask` does, in place of httpx's own.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx."""
        stop = StopSignal()
        url, headers = str(request.url), dict(request.headers.items())
        asked = (request.method, url, headers, still_at_source(request.extensions, url))
        try:
            answer = await asyncio.to_thread(ask, self._session, *asked, stop)
        except asyncio.CancelledError:
            stop.stop()  # the thread's wait ends, too
            raise
        return httpx.Response(answer.status, headers=answer.headers, content=answer.body, request=request)


def guarded_client(session: Session) -> httpx.AsyncClient:
    """The client for what is small and speaks HTTP; redirects are followed, each hop past the guard."""
    return httpx.AsyncClient(
        transport=GuardedTransport(session), follow_redirects=True, trust_env=False, timeout=None
    )


def refusal_error(session: Session, answer: httpx.Response, token: str = "") -> tuple[Refusal, Exception]:
    """What an answer of no success says, and the exception that it stands for; see `error_of`. Blocking.

    Args:
        session: What the client asks through: tokens that it keeps may have been shown.
        answer: The answer; before it there may have been redirects.
        token: What the request showed of its own; may be empty.
    """
    url = str(answer.url)
    way = [*answer.history, answer]
    at_source = all(same_party(origin_of(str(way[0].url)), origin_of(str(one.url))) for one in way)
    stored = session.tokens.found(url) if at_source and not token else None
    kind = stored.kind if stored is not None else CredentialKind.CALL if token else CredentialKind.NONE
    secrets = [token, *([stored.token] if stored is not None else [])]
    refusal = refusal_of(answer, answer.url.host, secrets)
    shown = kind if at_source else CredentialKind.NONE
    return refusal, error_of(
        refusal, Asked(at_source=at_source, shown=shown, kept_under=str(HostPattern.of_url(url)))
    )


def refusal_of(answer: ReadAnswer, host: str, secrets: Collection[str]) -> Refusal:
    """What an answer of no success says.

    Args:
        answer: Of httpx or of httpx2, read to its end.
        host: Who gave it.
        secrets: What must not be shown, though the answer may repeat it; empty ones are passed over.
    """
    fields: dict[str, list[str]] = {}
    for name, value in answer.headers.multi_items():
        fields.setdefault(name.lower(), []).append(value)
    headers = Headers(fields)
    return read_refusal(
        answer.status_code,
        host,
        headers.get,
        answer.content,
        secrets=secrets,
        retry_after=asked_to_wait(headers),
    )
