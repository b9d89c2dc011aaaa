"""Downloads through a session of somebody else: of requests, of httpx, over real sockets."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from modelkeep.exceptions import ForbiddenAddressException, NotAModelFileException, TokenRequiredException
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.sessions import RequestsSession
from modelkeep_download.engine.stops import Stopped, StopSignal
from modelkeep_download.engine.transfer import Credentials, Partial
from modelkeep_download.engine.transport import Limits, Response
from modelkeep_download.sources.url import HttpTransfer
from support.httpserver import Cut, Garbage, Hang, HttpServer, Resource, Status, pattern

BODY = pattern(3_000_000)
Makes = Callable[..., RequestsSession]


@pytest.fixture
def web() -> Iterator[HttpServer]:
    with HttpServer() as server:
        server.put("/m.bin", Resource(BODY))
        yield server


@pytest.fixture(params=[requests.Session, httpx.Client], ids=["requests", "httpx"])
def make(request: pytest.FixtureRequest) -> Iterator[Makes]:
    """Makes an adapter of a real session that says whose it is."""
    with contextlib.closing(request.param()) as session:
        session.headers["X-Session"] = "theirs"

        def make(*, guard: AddressGuard | None = None, **limits: Any) -> RequestsSession:
            guard = guard or AddressGuard(allow_private=True)
            return RequestsSession(
                session, guard, Limits(**{"headers_timeout_s": 20, "stall_timeout_s": 20, **limits})
            )

        yield make


def ask(session: RequestsSession, url: str, stop: StopSignal | None = None, **headers: str) -> Response:
    return session.open(url, token="secret", userinfo="", headers=headers, stop=stop or StopSignal())


def read(response: Response) -> bytes:
    with contextlib.closing(response):
        body, buffer, whole = response.body(), memoryview(bytearray(1 << 20)), b""
        while count := body.readinto(buffer):
            whole += bytes(buffer[:count])
        return whole


@pytest.mark.parametrize("served", [{}, {"chunked": True}, {"lengthless": True}], ids=str)
def test_the_bytes_come_through_the_session_with_its_own_headers(
    web: HttpServer, make: Makes, served: dict[str, Any]
) -> None:
    url = web.put("/n.bin", Resource(BODY, **served))
    response = ask(make(), url)
    assert (response.status, response.headers.get("ETag"), response.url) == (200, '"v1"', url)
    assert response.body().length == (None if served else len(BODY))
    assert read(response) == BODY
    (request,) = web.requests
    assert request.headers["x-session"] == "theirs"
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["accept-encoding"] == "identity"


def test_a_range_comes_as_one(web: HttpServer, make: Makes) -> None:
    response = ask(make(), web.url("/m.bin"), Range="bytes=2999990-")
    assert response.status == 206
    assert read(response) == BODY[-10:]


def test_redirects_are_ours_and_so_is_who_gets_the_token(web: HttpServer, make: Makes) -> None:
    with HttpServer() as storage:
        web.put("/hop", Resource(b"", redirect=storage.put("/signed", Resource(b"signed"))))
        response = ask(make(), web.url("/hop"))
        assert response.url == storage.url("/signed")
        assert read(response) == b"signed"
        assert "authorization" not in storage.requests[0].headers


def test_refusals_are_told_as_ever(web: HttpServer, make: Makes) -> None:
    web.put("/m.bin", Resource(b"", faults=[Status(503, "7", b"too busy"), Status(401)]))
    with pytest.raises(TransientError, match='503 and says "too busy"') as busy:
        ask(make(), web.url("/m.bin"))
    assert busy.value.retry_after == 7
    with pytest.raises(TokenRequiredException):
        make().open(web.url("/m.bin"), token=None, userinfo="", headers={}, stop=StopSignal())
    web.put("/m.bin", Resource(b"packed", content_encoding="gzip"))
    with pytest.raises(NotAModelFileException, match="encoded as gzip"):
        ask(make(), web.url("/m.bin")).body()


def test_a_number_that_may_not_be_asked_is_not(web: HttpServer, make: Makes) -> None:
    with pytest.raises(ForbiddenAddressException, match=r"127\.0\.0\.1"):
        ask(make(guard=AddressGuard()), web.url("/m.bin"))
    assert not web.requests


def test_what_breaks_in_the_session_may_pass(web: HttpServer, make: Makes) -> None:
    web.put("/m.bin", Resource(BODY, faults=[Garbage(), Hang(-1, 5), Hang(1000, 5), Cut(1000, reset=True)]))
    with pytest.raises(TransientError):
        ask(make(), web.url("/m.bin"))
    with pytest.raises(TransientError, match="no answer in time"):
        ask(make(headers_timeout_s=0.5), web.url("/m.bin"))
    for limits in ({"stall_timeout_s": 0.5}, {}):
        with pytest.raises(OSError):
            read(ask(make(**limits), web.url("/m.bin")))


@pytest.mark.parametrize("after", [-1, 1000])
def test_a_stop_does_not_wait_for_the_session(web: HttpServer, make: Makes, after: int) -> None:
    web.put("/m.bin", Resource(BODY, faults=[Hang(after, 20)]))
    stop = StopSignal()
    threading.Timer(0.3, stop.stop).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        read(ask(make(), web.url("/m.bin"), stop))
    assert time.monotonic() - began < 5


def test_a_download_runs_through_it_and_goes_on_where_it_broke_off(
    web: HttpServer, make: Makes, tmp_path: Path
) -> None:
    web.put("/m.bin", Resource(BODY, faults=[Cut(1_000_000)]))
    path = tmp_path / "data"
    transfer = HttpTransfer(make())
    with pytest.raises(TransientError):
        transfer.run(
            Credentials(web.url("/m.bin")),
            Partial(path, ByteRanges(), None, ""),
            lambda news: None,
            StopSignal(),
        )
    have = path.stat().st_size
    assert 0 < have <= 1_000_000
    partial = Partial(path, ByteRanges.first(have), len(BODY), '"v1"')
    sha256 = transfer.run(Credentials(web.url("/m.bin")), partial, lambda news: None, StopSignal())
    assert sha256 == hashlib.sha256(BODY).hexdigest()
    assert path.read_bytes() == BODY
    assert web.requests[-1].range == f"bytes={have}-"
