"""The address guard: what is public, and that the connected peer counts, not what a name said before."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep.exceptions import (
    ForbiddenAddressException,
    SourceNotFoundException,
    UpstreamUnavailableException,
)
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine.dialing import SocketAddress
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.stops import Stopped, StopSignal
from modelkeep_download.engine.transport import HttpTransport, Limits
from support.httpserver import HttpServer, Resource, Status

CERTIFICATE = Path(__file__).parents[2] / "data" / "tls" / "localhost.pem"

PRIVATE = (
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1"),
    *("172.31.255.255", "192.0.0.8", "192.0.2.1", "192.168.1.1", "198.18.0.1", "198.51.100.7", "203.0.113.9"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0"),
    *("fc00::1", "fd12::1", "ff02::1", "fec0::1", "2001:db8::1", "2001::1", "3fff::1", "100::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1"),
    *("2002:7f00:1::", "2002:a00:1::1", "2a00:1450::5efe:127.0.0.1", "2a00:1450::200:5efe:10.0.0.1"),
    *("not an address", ""),
)
PUBLIC = (
    *("1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450:4001:81b::200e"),
    *("::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"),
)


def test_only_global_unicast_addresses_are_public() -> None:
    guard = AddressGuard()
    assert [address for address in PRIVATE if guard.allows(address)] == []
    assert [address for address in PUBLIC if not guard.allows(address)] == []


def test_private_addresses_may_be_allowed_but_never_multicast_or_nowhere() -> None:
    guard = AddressGuard(allow_private=True)
    assert guard.allows("127.0.0.1")
    assert guard.allows("fd12::1")
    assert not any(map(guard.allows, ("224.0.0.1", "0.0.0.0", "::", "ff02::1", "::ffff:0.0.0.0")))


@pytest.fixture
def web() -> Iterator[HttpServer]:
    with HttpServer() as server:
        server.put("/m.bin", Resource(b"body"))
        yield server


class OnlyOne(AddressGuard):
    """Allows one address, so that loopback can play a public host and a private one."""

    def allows(self, address: str) -> bool:
        return address == "127.0.0.1"


def fetch(transport: HttpTransport, url: str, **more: str) -> bytes:
    response = transport.open(
        url, token=more.get("token"), userinfo=more.get("userinfo", ""), headers={}, stop=StopSignal()
    )
    try:
        body, buffer, whole = response.body(), memoryview(bytearray(1000)), b""
        while count := body.readinto(buffer):
            whole += bytes(buffer[:count])
        return whole
    finally:
        response.close()


def test_a_name_that_is_public_when_asked_and_private_when_connected_is_refused(web: HttpServer) -> None:
    public: SocketAddress = (socket.AF_INET, ("93.184.216.34", web.port))
    transport = HttpTransport(
        AddressGuard(),
        resolver=lambda host, port: [public],
        connect=lambda sock, address: sock.connect(("127.0.0.1", web.port)),  # rebound meanwhile
    )
    with pytest.raises(ForbiddenAddressException, match=r"127\.0\.0\.1"):
        fetch(transport, web.url("/m.bin", host="rebind.example"))
    assert not web.requests  # not one byte was sent


def test_a_name_with_one_private_address_among_public_ones_is_refused(web: HttpServer) -> None:
    both: list[SocketAddress] = [
        (socket.AF_INET, ("93.184.216.34", 80)),
        (socket.AF_INET, ("10.0.0.1", 80)),
    ]
    transport = HttpTransport(AddressGuard(), resolver=lambda host, port: both)
    with pytest.raises(ForbiddenAddressException):
        fetch(transport, "http://mixed.example/")


def test_every_hop_of_a_redirect_is_checked(web: HttpServer) -> None:
    web.put("/hop", Resource(b"", redirect=web.url("/m.bin", host="127.0.0.2")))
    transport = HttpTransport(OnlyOne())
    assert fetch(transport, web.url("/m.bin")) == b"body"
    with pytest.raises(ForbiddenAddressException, match=r"127\.0\.0\.2"):
        fetch(transport, web.url("/hop"))
    assert [r.path for r in web.requests] == ["/m.bin", "/hop"]


def test_credentials_are_not_sent_again_after_another_host_even_back_home(web: HttpServer) -> None:
    web.put("/a", Resource(b"", redirect=web.url("/b", host="localhost")))
    web.put("/b", Resource(b"", redirect=web.url("/m.bin")))
    transport = HttpTransport(AddressGuard(allow_private=True))
    assert fetch(transport, web.url("/a"), userinfo="user:pass") == b"body"
    sent = [r.headers.get("authorization") for r in web.requests]
    assert sent == ["Basic dXNlcjpwYXNz", None, None]


def test_another_port_is_another_party(web: HttpServer) -> None:
    with HttpServer() as other:
        other.put("/m.bin", Resource(b"theirs"))
        web.put("/a", Resource(b"", redirect=other.url("/m.bin")))
        assert fetch(HttpTransport(AddressGuard(allow_private=True)), web.url("/a"), token="t") == b"theirs"
        assert "authorization" not in other.requests[0].headers


def test_more_hops_than_allowed_fail(web: HttpServer) -> None:
    for number in range(4):
        web.put(f"/{number}", Resource(b"", redirect=f"/{number + 1}" if number < 3 else "/m.bin"))
    guard = AddressGuard(allow_private=True)
    assert fetch(HttpTransport(guard, Limits(max_redirects=4)), web.url("/0")) == b"body"
    with pytest.raises(SourceNotFoundException, match="more than 3 times"):
        fetch(HttpTransport(guard, Limits(max_redirects=3)), web.url("/0"))


def test_https_is_checked_and_never_downgraded(web: HttpServer) -> None:
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    guard = AddressGuard(allow_private=True)
    with HttpServer(tls=CERTIFICATE) as secure:
        secure.put("/m.bin", Resource(b"safe"))
        secure.put("/down", Resource(b"", redirect=web.url("/m.bin")))
        web.put("/up", Resource(b"", redirect=secure.url("/m.bin")))
        transport = HttpTransport(guard, tls=lambda: trusting)
        assert fetch(transport, secure.url("/m.bin")) == b"safe"
        assert fetch(transport, web.url("/up")) == b"safe"
        with pytest.raises(ForbiddenAddressException, match="from https to http"):
            fetch(transport, secure.url("/down"))
        with pytest.raises(UpstreamUnavailableException, match="certificate"):
            fetch(HttpTransport(guard), secure.url("/m.bin"))
    assert [r.path for r in web.requests] == ["/up"]


def test_a_stop_interrupts_a_tls_handshake_and_a_name_look_up() -> None:
    guard = AddressGuard(allow_private=True)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        port = deaf.getsockname()[1]

        def slow(host: str, port: int) -> list[SocketAddress]:
            over.wait(60)
            return []

        over = threading.Event()
        for transport in (HttpTransport(guard), HttpTransport(guard, resolver=slow)):
            stop = StopSignal()
            threading.Timer(0.2, stop.stop).start()
            began = time.monotonic()
            with pytest.raises(Stopped):
                transport.open(f"https://127.0.0.1:{port}/", token=None, userinfo="", headers={}, stop=stop)
            assert time.monotonic() - began < 20  # the name would take a minute, the handshake for ever
        over.set()


def test_headers_that_never_end_are_given_up() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\n")
                    for _ in range(1000):
                        connection.sendall(b"X-Drip: 1\r\n")
                        time.sleep(0.05)
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        transport = HttpTransport(AddressGuard(allow_private=True), Limits(headers_timeout_s=0.4))
        began = time.monotonic()
        with pytest.raises(TransientError):
            fetch(transport, f"http://127.0.0.1:{listener.getsockname()[1]}/")
        assert time.monotonic() - began < 20  # they would end after 50 s
        thread.join()


def test_what_a_source_answers_does_not_reach_the_message(web: HttpServer) -> None:
    web.put("/x", Resource(b"", faults=[Status(500)]))
    with pytest.raises(TransientError) as error:
        fetch(HttpTransport(AddressGuard(allow_private=True)), web.url("/x?token=secret"), token="secret")
    assert "secret" not in str(error.value)


def test_a_redirect_to_a_malformed_address_is_the_sources_fault(web: HttpServer) -> None:
    web.put("/hop", Resource(b"", redirect="//[x"))
    with pytest.raises(SourceNotFoundException, match="no web address"):
        fetch(HttpTransport(AddressGuard(allow_private=True)), web.url("/hop"))


def test_an_address_of_a_family_that_is_switched_off_is_passed_over(web: HttpServer) -> None:
    off: SocketAddress = (socket.AddressFamily.AF_X25, ("127.0.0.1", web.port))
    on: SocketAddress = (socket.AF_INET, ("127.0.0.1", web.port))
    guard = AddressGuard(allow_private=True)
    assert fetch(HttpTransport(guard, resolver=lambda host, port: [off, on]), web.url("/m.bin")) == b"body"
    with pytest.raises(TransientError):
        fetch(HttpTransport(guard, resolver=lambda host, port: [off]), web.url("/m.bin"))
