"""Connections that are kept: when one serves again, when not, and who may touch it meanwhile."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep.exceptions import SourceNotFoundException, TokenRejectedException
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine.channel import Channel
from modelkeep_download.engine.connections import MAX_IDLE, MAX_IDLE_OF_ONE
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.stops import Stopped, StopSignal
from modelkeep_download.engine.transport import HttpTransport, Limits, Response
from support.httpserver import HttpServer, Resource, Status
from support.waiting import wait_until

CERTIFICATE = Path(__file__).parents[2] / "data" / "tls" / "localhost.pem"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
CLOSE = b""


class Talker:
    """Answers the requests of every connection with the next of `answers`; an empty one closes it instead."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.sockets: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/m.bin"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.sockets.append(connection)
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as file:
            for line in file:
                if line != b"\r\n":
                    continue
                answer = self.answers.pop(0)
                if answer == CLOSE:
                    return
                connection.sendall(answer)

    def close(self) -> None:
        """Stop listening, and end the connections."""
        for one in (self._socket, *self.sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@contextlib.contextmanager
def talking(*answers: bytes) -> Iterator[Talker]:
    with contextlib.closing(Talker(*answers)) as talker:
        yield talker


@pytest.fixture
def web() -> Iterator[HttpServer]:
    with HttpServer() as server:
        server.put("/m.bin", Resource(b"body" * 1000))
        yield server


@pytest.fixture
def transport() -> Iterator[HttpTransport]:
    limits = Limits(headers_timeout_s=20, stall_timeout_s=20)
    with contextlib.closing(HttpTransport(AddressGuard(allow_private=True), limits)) as transport:
        yield transport


def ask(
    transport: HttpTransport, url: str, *, stop: StopSignal | None = None, at: str = "", token: str = ""
) -> Response:
    stop = stop or StopSignal()
    return transport.open(url, token=token or None, userinfo="", headers={}, stop=stop, at=at)


def read(response: Response, size: int = 1 << 20) -> bytes:
    body, buffer, whole = response.body(), memoryview(bytearray(size)), b""
    while count := body.readinto(buffer):
        whole += bytes(buffer[:count])
    return whole


def fetch(transport: HttpTransport, url: str, *, at: str = "", token: str = "") -> bytes:
    with contextlib.closing(ask(transport, url, at=at, token=token)) as response:
        return read(response)


def connections(web: HttpServer) -> list[int]:
    return [request.connection for request in web.requests]


@pytest.mark.parametrize("chunked", [False, True])
def test_requests_one_after_the_other_take_one_connection(
    web: HttpServer, transport: HttpTransport, chunked: bool
) -> None:
    url = web.put("/n.bin", Resource(b"n" * 300_000, chunked=chunked))
    assert [fetch(transport, url) for _ in range(3)] == [b"n" * 300_000] * 3
    assert len(set(connections(web))) == 1
    assert not any("connection" in request.headers for request in web.requests)


def test_a_redirect_and_a_refusal_leave_their_connection_fit(
    web: HttpServer, transport: HttpTransport
) -> None:
    web.put("/hop", Resource(b"", redirect="/m.bin"))
    web.put("/busy", Resource(b"", faults=[Status(503, body=b"later")]))
    assert fetch(transport, web.url("/hop")) == b"body" * 1000
    with pytest.raises(TransientError):
        fetch(transport, web.url("/busy"))
    with pytest.raises(SourceNotFoundException):
        fetch(transport, web.url("/nothing"))
    assert len(set(connections(web))) == 1


def test_a_body_that_was_not_read_to_its_end_takes_its_connection_along(
    web: HttpServer, transport: HttpTransport
) -> None:
    with contextlib.closing(ask(transport, web.url("/m.bin"))) as response:
        assert response.body().readinto(memoryview(bytearray(3999))) <= 3999
    with contextlib.closing(ask(transport, web.url("/m.bin"))):
        pass  # not even looked at
    assert transport.connections.idle == 0
    fetch(transport, web.url("/m.bin"))
    assert transport.connections.idle == 1
    assert len(set(connections(web))) == 3


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace(b"OK", b"OK\r\nConnection: close"),
        OK.replace(b"OK", b"OK\r\nconnection: x, Close"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
        OK + b"more than it says",
    ],
)
def test_an_answer_that_ends_its_connection_or_goes_on_beyond_its_end(
    transport: HttpTransport, answer: bytes
) -> None:
    with talking(answer, OK) as talker:
        assert fetch(transport, talker.url) == b"body"
        assert transport.connections.idle == 0
        assert fetch(transport, talker.url) == b"body"
        assert len(talker.sockets) == 2


@pytest.mark.parametrize("unasked", [OK.replace(b"body", b"evil"), CLOSE])
def test_a_kept_connection_that_speaks_unasked_or_ends_is_dropped(
    transport: HttpTransport, unasked: bytes
) -> None:
    with talking(OK, OK) as talker:
        fetch(transport, talker.url)
        (kept,) = talker.sockets
        if unasked:
            kept.sendall(unasked)
        else:
            kept.shutdown(socket.SHUT_WR)
        assert fetch(transport, talker.url) == b"body"
        assert len(talker.sockets) == 2


def test_a_connection_closed_as_the_request_comes_is_replaced_without_a_word(
    transport: HttpTransport,
) -> None:
    with talking(OK, CLOSE, OK) as talker:
        assert [fetch(transport, talker.url) for _ in range(2)] == [b"body", b"body"]
        assert len(talker.sockets) == 2


def test_a_new_connection_that_is_closed_at_once_is_a_failed_try(transport: HttpTransport) -> None:
    with talking(OK, CLOSE, CLOSE, OK) as talker:
        fetch(transport, talker.url)
        with pytest.raises(TransientError, match="no answer at all"):
            fetch(transport, talker.url)  # the kept one, and the one that replaced it


def test_once_a_byte_of_the_answer_came_nothing_is_asked_again(transport: HttpTransport) -> None:
    with talking(OK, b"HTTP/1.1 200 OK\r\nConte", OK) as talker:
        fetch(transport, talker.url)
        threading.Timer(0.3, lambda: talker.sockets[0].shutdown(socket.SHUT_RDWR)).start()
        with pytest.raises(TransientError, match="break off"):
            fetch(transport, talker.url)
        assert len(talker.sockets) == 1


def test_a_kept_connection_that_never_answers_is_waited_for_once() -> None:
    limits = Limits(headers_timeout_s=0.3)
    with (
        contextlib.closing(HttpTransport(AddressGuard(allow_private=True), limits)) as transport,
        talking(OK, b"H") as talker,
    ):
        fetch(transport, talker.url)
        with pytest.raises(TransientError, match="no answer in time"):
            fetch(transport, talker.url)
        assert len(talker.sockets) == 1


def test_a_stop_reaches_whoever_waits_on_a_kept_connection_and_nobody_later(transport: HttpTransport) -> None:
    first, second = StopSignal(), StopSignal()
    with talking(OK, OK, b"H") as talker:
        with contextlib.closing(ask(transport, talker.url, stop=first)) as response:
            read(response)
        first.stop()  # long over: the connection is no longer its own
        assert fetch(transport, talker.url) == b"body"
        assert len(talker.sockets) == 1
        threading.Timer(0.2, second.stop).start()
        began = time.monotonic()
        with pytest.raises(Stopped):
            ask(transport, talker.url, stop=second)
        assert time.monotonic() - began < 10


def test_a_stop_after_the_last_byte_leaves_no_broken_connection(
    web: HttpServer, transport: HttpTransport
) -> None:
    stop = StopSignal()
    response = ask(transport, web.url("/m.bin"), stop=stop)
    read(response)
    stop.stop()
    response.close()
    assert transport.connections.idle == 0
    assert fetch(transport, web.url("/m.bin")) == b"body" * 1000


def test_few_are_kept_and_not_for_long(web: HttpServer) -> None:
    with contextlib.closing(HttpTransport(AddressGuard(allow_private=True))) as transport:
        transport.connections.idle_s = 0.5
        responses = [ask(transport, web.url("/m.bin")) for _ in range(MAX_IDLE_OF_ONE + 4)]
        for response in responses:
            read(response)
            response.close()
        assert transport.connections.idle == MAX_IDLE_OF_ONE
        wait_until(lambda: transport.connections.idle == 0)


def test_those_kept_longest_go_first_when_there_are_too_many_hosts(transport: HttpTransport) -> None:
    with contextlib.ExitStack() as held:
        talkers = [held.enter_context(talking(OK, OK)) for _ in range(MAX_IDLE + 3)]
        for number, talker in enumerate(talkers):
            assert transport.connections.idle == min(number, MAX_IDLE)
            fetch(transport, talker.url)
        assert transport.connections.idle == MAX_IDLE
        for talker in (talkers[0], talkers[-1]):
            fetch(transport, talker.url)
        assert [len(talker.sockets) for talker in (talkers[0], talkers[-1])] == [2, 1]


def test_closing_closes_what_is_kept_and_what_comes_back(web: HttpServer, transport: HttpTransport) -> None:
    late, early = (ask(transport, web.url("/m.bin")) for _ in range(2))
    channels = [response.stream for response in (late, early)]
    read(early)
    early.close()
    transport.close()
    read(late)
    late.close()
    assert transport.connections.idle == 0
    assert [one.sock.fileno() for one in channels if isinstance(one, Channel)] == [-1, -1]


def test_another_host_port_or_scheme_is_another_connection(web: HttpServer, transport: HttpTransport) -> None:
    fetch(transport, web.url("/m.bin"))
    fetch(transport, web.url("/m.bin", host="localhost"))
    assert len(set(connections(web))) == 2


def test_over_tls_one_handshake_serves_all_and_one_read_takes_many_records() -> None:
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    with (
        HttpServer(tls=CERTIFICATE) as secure,
        contextlib.closing(
            HttpTransport(AddressGuard(allow_private=True), tls=lambda: trusting)
        ) as transport,
    ):
        url = secure.put("/m.bin", Resource(b"m" * (1 << 20)))
        fetch(transport, url)
        assert fetch(transport, url) == b"m" * (1 << 20)
        assert len(set(connections(secure))) == 1
        slow = secure.put("/slow.bin", Resource(b"s" * (1 << 20), rate=200_000))
        with contextlib.closing(ask(transport, slow)) as response:
            body, buffer = response.body(), memoryview(bytearray(1 << 20))
            assert (
                0 < sum(body.readinto(buffer) for _ in range(3)) < 1 << 19
            )  # it waits for no more than it has
        with contextlib.closing(ask(transport, url)) as response:
            time.sleep(0.5)  # until the socket is full
            body = response.body()
            assert max(body.readinto(buffer) for _ in range(4)) > 1 << 15


def test_an_address_that_answered_is_asked_first_and_gets_credentials_of_its_own_party_only(
    web: HttpServer, transport: HttpTransport
) -> None:
    source = web.put("/source", Resource(b"", redirect="/m.bin"))
    with HttpServer() as storage:
        signed = storage.put("/signed", Resource(b"signed"))
        assert fetch(transport, source, at=signed, token="secret") == b"signed"
        assert "authorization" not in storage.requests[0].headers
        assert not web.requests
        storage.put("/signed", Resource(b"", faults=[Status(403)]))
        with pytest.raises(TransientError, match="answers 403 to the address that the source gave"):
            fetch(transport, source, at=signed, token="secret")
    assert fetch(transport, source, at=web.url("/m.bin"), token="secret") == b"body" * 1000
    assert web.requests[0].headers["authorization"] == "Bearer secret"
    web.put("/m.bin", Resource(b"", faults=[Status(403)]))
    with pytest.raises(TokenRejectedException):
        fetch(transport, source, at=web.url("/m.bin"), token="secret")
