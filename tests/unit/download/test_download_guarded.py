"""The way out for the hubs' APIs: httpx over the downloads' own session."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Iterator

import httpx
import pytest

from modelkeep.exceptions import ForbiddenAddressException
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.transport import HttpTransport, Limits
from modelkeep_download.resolve.guarded import MAX_BYTES, guarded_client
from support.httpserver import Cut, Hang, HttpServer, Resource, Status
from support.waiting import until

JSON = b'{"id": 1}'


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as started:
        yield started


@pytest.fixture
def session() -> Iterator[HttpTransport]:
    session = HttpTransport(AddressGuard(allow_private=True), Limits(headers_timeout_s=2))
    yield session
    session.close()


async def test_an_answer_comes_with_its_status_headers_and_body(
    server: HttpServer, session: HttpTransport
) -> None:
    server.put("/ok", Resource(JSON, content_type="application/json"))
    server.put("/no", Resource(b"", faults=[Status(404, body=b'{"error": "gone"}')]))
    async with guarded_client(session) as client:
        answer = await client.get(server.url("/ok"), headers={"X-Asked": "yes"})
        assert (answer.status_code, answer.json()) == (200, {"id": 1})
        assert answer.headers["content-type"] == "application/json"
        assert server.requests[0].headers["x-asked"] == "yes"
        refused = await client.get(server.url("/no"))
        assert (refused.status_code, refused.json()) == (404, {"error": "gone"})


async def test_head_waits_for_no_body_though_its_headers_tell_one(
    server: HttpServer, session: HttpTransport
) -> None:
    async with guarded_client(session) as client:
        answer = await client.head(server.url("/ok"))  # which this server refuses
    assert (answer.status_code, answer.content) == (405, b"")
    assert int(answer.headers["content-length"]) > 0


async def test_a_packed_answer_is_unpacked(server: HttpServer, session: HttpTransport) -> None:
    server.put("/ok", Resource(gzip.compress(JSON), content_encoding="gzip"))
    async with guarded_client(session) as client:
        assert (await client.get(server.url("/ok"))).json() == {"id": 1}


async def test_redirects_lead_past_the_guard_at_each_step(server: HttpServer) -> None:
    class OnlyThisHost(AddressGuard):
        def allows(self, address: str) -> bool:
            return address == "127.0.0.1"

    session = HttpTransport(OnlyThisHost(), Limits())
    server.put("/there", Resource(b"", redirect=server.url("/ok")))
    server.put("/ok", Resource(JSON))
    server.put("/away", Resource(b"", redirect=server.url("/ok", host="127.0.0.2")))
    async with guarded_client(session) as client:
        assert (await client.get(server.url("/there"))).content == JSON
        with pytest.raises(ForbiddenAddressException):
            await client.get(server.url("/away"))
    session.close()


async def test_a_token_does_not_follow_to_another_host(server: HttpServer, session: HttpTransport) -> None:
    server.put("/away", Resource(b"", redirect=server.url("/ok", host="localhost")))
    server.put("/ok", Resource(JSON))
    async with guarded_client(session) as client:
        await client.get(server.url("/away"), headers={"Authorization": "Bearer s3cret"})
    assert [request.headers.get("authorization") for request in server.requests] == ["Bearer s3cret", None]


async def test_what_breaks_off_or_never_comes_may_pass(server: HttpServer, session: HttpTransport) -> None:
    server.put("/cut", Resource(JSON * 100, faults=[Cut(after=5)]))
    server.put("/hang", Resource(JSON, faults=[Hang(-1)]))
    async with guarded_client(session) as client:
        for path in ("/cut", "/hang"):
            with pytest.raises(TransientError):
                await client.get(server.url(path))


async def test_an_answer_without_bounds_is_ended(server: HttpServer, session: HttpTransport) -> None:
    server.put("/big", Resource(bytes(MAX_BYTES + 1), chunked=True))
    async with guarded_client(session) as client:
        with pytest.raises(TransientError, match="more than"):
            await client.get(server.url("/big"))


async def test_a_call_that_is_cancelled_leaves_no_thread_waiting(server: HttpServer) -> None:
    session = HttpTransport(AddressGuard(allow_private=True), Limits(headers_timeout_s=600))
    server.put("/hang", Resource(JSON, faults=[Hang(-1)]))
    async with guarded_client(session) as client:
        asked = asyncio.create_task(client.get(server.url("/hang")))
        await until(lambda: server.requests)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    begun = time.monotonic()
    await asyncio.get_running_loop().shutdown_default_executor()  # waits for its threads
    assert time.monotonic() - begun < 60
    session.close()


async def test_nothing_but_questions_is_asked(session: HttpTransport) -> None:
    async with guarded_client(session) as client:
        with pytest.raises(ValueError, match="GET and HEAD"):
            await client.post("http://127.0.0.1:1/", content=b"x")
    assert isinstance(client, httpx.AsyncClient)
