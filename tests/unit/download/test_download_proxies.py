"""Forward proxies: who is asked through one, what it is shown, and what its failures are called."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from modelkeep.exceptions import (
    ForbiddenAddressException,
    ModelkeepError,
    TokenRequiredException,
    UpstreamUnavailableException,
)
from modelkeep_common.startup import StartupError
from modelkeep_common.urls import Origin
from modelkeep_download.app import http_transport
from modelkeep_download.config import DownloadSettings
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.proxies import ENVIRONMENT, NO_PROXIES, Proxies, proxies_of
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transport import HttpTransport, Limits
from support.authority import Authority
from support.httpserver import HttpServer, Resource, Status
from support.proxyserver import ProxyServer

HTTP, HTTPS = Origin("http", "models.example", 80), Origin("https", "models.example", 443)


@pytest.fixture
def web() -> Iterator[HttpServer]:
    with HttpServer() as server:
        server.put("/m.bin", Resource(b"body"))
        yield server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@contextlib.contextmanager
def through(
    proxy: str, *no_proxy: str, private: bool = False, trusts: Authority | None = None, **limits: float
) -> Iterator[HttpTransport]:
    """A transport that uses the proxy; as long as nothing else is said it may ask public addresses only."""
    found = proxies_of(proxy, no_proxy, {})
    tls = ssl.create_default_context(cafile=trusts.file if trusts else None)
    times = Limits(**{"headers_timeout_s": 20, "stall_timeout_s": 20, **limits})  # type: ignore[arg-type]
    guard = AddressGuard(allow_private=private)
    transport = HttpTransport(guard, times, proxies=found, tls=lambda: tls, environment={})
    with contextlib.closing(transport):
        yield transport


def fetch(transport: HttpTransport, url: str, token: str | None = None) -> bytes:
    response = transport.open(url, token=token, userinfo="", headers={}, stop=StopSignal())
    with contextlib.closing(response):
        body, buffer, whole = response.body(), memoryview(bytearray(1000)), b""
        while count := body.readinto(buffer):
            whole += bytes(buffer[:count])
        return whole


def test_http_goes_through_the_proxy_which_alone_looks_up_names(web: HttpServer) -> None:
    hosts = {"models.example": web.port, "storage.example": web.port}
    web.put("/hop", Resource(b"", redirect="http://storage.example/m.bin"))
    with ProxyServer(hosts=hosts) as proxy, through(proxy.url) as transport:
        assert fetch(transport, "http://models.example/hop?a=b", token="secret") == b"body"
    assert proxy.lines == [
        "GET http://models.example/hop?a=b HTTP/1.1",
        "GET http://storage.example/m.bin HTTP/1.1",
    ]
    assert [headers["host"] for headers in proxy.headers] == ["models.example", "storage.example"]
    assert [headers.get("authorization") for headers in proxy.headers] == ["Bearer secret", None]


def test_one_connection_to_the_proxy_serves_every_host_of_http(web: HttpServer) -> None:
    hosts = {"models.example": web.port, "storage.example": web.port}
    with ProxyServer(hosts=hosts) as proxy, through(proxy.url) as transport:
        fetch(transport, "http://models.example/m.bin")
        fetch(transport, "http://storage.example/m.bin")
        assert transport.connections.idle == 1
    assert len(proxy.lines) == 2


def test_https_goes_through_a_tunnel_with_tls_to_the_host_itself(authority: Authority) -> None:
    with (
        HttpServer(tls=authority.certificate("models.example")) as secure,
        ProxyServer(hosts={"models.example": secure.port, "other.example": secure.port}) as proxy,
        through(proxy.url, trusts=authority) as transport,
    ):
        secure.put("/m.bin", Resource(b"safe"))
        assert [fetch(transport, "https://models.example/m.bin") for _ in range(2)] == [b"safe"] * 2
        with pytest.raises(UpstreamUnavailableException, match=r"other\.example shows a certificate"):
            fetch(transport, "https://other.example/m.bin")
    assert proxy.lines == ["CONNECT models.example:443 HTTP/1.1", "CONNECT other.example:443 HTTP/1.1"]
    assert "authorization" not in proxy.headers[0]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_proxys_credentials_go_to_the_proxy_alone(authority: Authority, scheme: str) -> None:
    certificate = authority.certificate("models.example") if scheme == "https" else None
    with (
        HttpServer(tls=certificate) as server,
        ProxyServer(hosts={"models.example": server.port}) as proxy,
        through(proxy.url.replace("//", "//us%40er:pa%3A55@"), trusts=authority) as transport,
    ):
        server.put("/m.bin", Resource(b"body"))
        assert fetch(transport, f"{scheme}://models.example/m.bin") == b"body"
        assert proxy.headers[0]["proxy-authorization"] == "Basic dXNAZXI6cGE6NTU="
        assert "proxy-authorization" not in server.requests[0].headers


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_number_that_is_no_public_address_is_not_even_asked_of_the_proxy(scheme: str, host: str) -> None:
    with ProxyServer() as proxy, through(proxy.url) as transport:
        with pytest.raises(ForbiddenAddressException):
            fetch(transport, f"{scheme}://{host}/m.bin")
        assert proxy.lines == []


def test_hosts_of_no_proxy_are_asked_directly_and_guarded(web: HttpServer) -> None:
    with ProxyServer() as proxy:
        with through(proxy.url, "127.0.0.0/8", private=True) as transport:
            assert fetch(transport, web.url("/m.bin")) == b"body"
        with through(proxy.url, "localhost") as transport, pytest.raises(ForbiddenAddressException):
            fetch(transport, web.url("/m.bin", host="localhost"))
        assert proxy.lines == []


EVERY = ["models.example", "a.models.example", "10.1.2.3", "192.168.1.7", "8.8.8.8", "fd12::1", "::1"]


@pytest.mark.parametrize(
    ("entries", "hosts"),
    [
        (["models.example"], ["models.example", "a.models.example"]),
        ([".models.example"], ["models.example", "a.models.example"]),
        (["*.MODELS.example"], ["models.example", "a.models.example"]),
        (["10.0.0.0/8", "192.168.1.7"], ["10.1.2.3", "192.168.1.7"]),
        (["fd00::/8", "[::1]"], ["fd12::1", "::1"]),
        (["*"], EVERY),
        (["models.example:443"], []),
        (["models.example:80"], ["models.example", "a.models.example"]),
        (["example.models", "odels.example", "", ".", "8.8.8"], []),
    ],
)
def test_entries_of_no_proxy(entries: list[str], hosts: list[str]) -> None:
    proxies = proxies_of("http://proxy.example:3128", entries, {})
    direct = {host for host in EVERY if proxies.of(Origin("http", host, 80)) is None}
    assert direct == set(hosts)


@pytest.mark.parametrize(
    ("variables", "http", "https"),
    [
        ({}, "", ""),
        ({"HTTP_PROXY": "http://a.example:1"}, "a.example:1", ""),
        ({"https_proxy": "b.example:2"}, "", "b.example:2"),
        ({"ALL_PROXY": "http://c.example"}, "c.example:80", "c.example:80"),
        (
            {"ALL_PROXY": "http://c.example", "HTTPS_PROXY": "http://d.example:4"},
            "c.example:80",
            "d.example:4",
        ),
        ({"http_proxy": "http://low.example:1", "HTTP_PROXY": "http://up.example:1"}, "low.example:1", ""),
        ({"HTTP_PROXY": "http://[fd00::1]:3128", "NO_PROXY": "other.example"}, "[fd00::1]:3128", ""),
        ({"ALL_PROXY": "http://c.example", "no_proxy": "a.example, .example"}, "", ""),
    ],
)
def test_the_environment_is_honoured_when_it_is_told_to_be(
    variables: Mapping[str, str], http: str, https: str
) -> None:
    def shown(proxies: Proxies) -> tuple[str, str]:
        found = proxies.of(HTTP), proxies.of(HTTPS)
        return found[0].shown if found[0] else "", found[1].shown if found[1] else ""

    assert shown(proxies_of(ENVIRONMENT, (), variables)) == (http, https)
    assert shown(proxies_of("", (), variables)) == ("", "")
    assert shown(proxies_of(ENVIRONMENT, ("models.example",), variables)) == ("", "")


@pytest.mark.parametrize(
    "address",
    [
        *(
            "socks5://u:hunter22@p.example:1080",
            "https://u:hunter22@p.example",
            "http://u:hunter22@",
            "hunter22",
        ),
        *("http://u:hunter22@p.example:0", "http://u:hunter22@p.example:99999", "http://u:hunter22@[x"),
        *("http://u:hunter22@p.example/path", "http://u:hunter22@p.example?a=b", "http://hunter22 x"),
    ],
)
def test_an_address_of_no_usable_proxy_is_refused_without_being_shown(address: str) -> None:
    with pytest.raises(ValueError, match=r"^proxy must be .*http://proxy\.example:3128") as error:
        proxies_of(address, (), {})
    assert "hunter22" not in str(error.value)
    if "://" in address and " " not in address:
        with pytest.raises(ValueError, match=r"^HTTPS_PROXY must be"):
            proxies_of(ENVIRONMENT, (), {"HTTPS_PROXY": address})


def refuse(status: str, *headers: str, body: bytes = b"") -> bytes:
    fields = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(fields).encode() + body


REFUSALS: list[tuple[bytes, str, str, type[Exception]]] = [
    (
        refuse("407 Who"),
        "http",
        "refuses the user and password that it is shown",
        UpstreamUnavailableException,
    ),
    (
        refuse("407 Who"),
        "https",
        "refuses the user and password that it is shown",
        UpstreamUnavailableException,
    ),
    (
        refuse("403 No"),
        "https",
        "does not let this service through to models.example",
        ForbiddenAddressException,
    ),
    (refuse("405 No"), "https", "it answers 405", ForbiddenAddressException),
    (refuse("502 Bad"), "https", "does not reach models.example: it answers 502", TransientError),
    (refuse("502 Bad", body=b"down"), "http", '502 through the proxy .* says "down"', TransientError),
    (refuse("429 Slow"), "https", "it answers 429", TransientError),
    (refuse("401 Log in"), "http", "401 through the proxy", TokenRequiredException),
    (b"SSH-2.0-OpenSSH\r\n", "https", "the answer is no HTTP", TransientError),
    (b"SSH-2.0-OpenSSH\r\n", "http", "the answer is no HTTP", TransientError),
    (b"HTTP/1.1 200 OK\r\n\r\nand more", "https", "speaks first in it", TransientError),
    (b"", "https", "no answer at all", TransientError),
    (b"HTTP/1.1 2", "http", "no answer at all", TransientError),
    (b"HTTP/1.1 200 OK\r\n\r\n", "https", "it closes the tunnel|through the proxy", TransientError),
]


@pytest.mark.parametrize(("answer", "scheme", "words", "kind"), REFUSALS)
def test_what_goes_wrong_at_the_proxy_is_said_of_the_proxy(
    answer: bytes, scheme: str, words: str, kind: type[Exception]
) -> None:
    with (
        ProxyServer(answer=answer) as proxy,
        through(proxy.url.replace("//", "//user:hunter22@")) as transport,
        pytest.raises(kind, match=words) as error,
    ):
        fetch(transport, f"{scheme}://models.example/m.bin")
    assert isinstance(error.value, TransientError | ModelkeepError)
    told = f"{error.value} {error.value.metadata}"
    assert "hunter22" not in told
    assert "dXNlcjpodW50ZXIyMg" not in told
    assert proxy.address in told


def test_a_proxy_that_repeats_what_it_was_shown_is_not_quoted_with_it() -> None:
    shown = refuse(
        "503 Later", "Content-Type: text/plain", body=b"you showed Basic dXNlcjpodW50ZXIyMg== hunter22"
    )
    with (
        ProxyServer(answer=shown) as proxy,
        through(proxy.url.replace("//", "//user:hunter22@")) as transport,
    ):
        with pytest.raises(TransientError, match="you showed") as error:
            fetch(transport, "http://models.example/m.bin")
        assert "hunter22" not in str(error.value)
        assert "dXNlcjpodW50ZXIyMg" not in str(error.value)


def test_a_proxy_that_is_down_may_come_back_and_one_without_a_name_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with through(f"http://user:hunter22@127.0.0.1:{port}") as transport:
        for scheme in ("http", "https"):
            with pytest.raises(TransientError, match=r"the proxy 127\.0\.0\.1:\d+ cannot be used") as error:
                fetch(transport, f"{scheme}://models.example/m.bin")
            assert error.value.tries is None
            assert error.value.metadata["remedy"] == "Start the proxy, or correct proxy."
            assert "hunter22" not in f"{error.value} {error.value.metadata}"
    with through("http://no-such-proxy.invalid:3128") as transport:
        with pytest.raises(
            TransientError, match=r"the name no-such-proxy\.invalid cannot be resolved"
        ) as error:
            fetch(transport, "http://models.example/m.bin")
        assert error.value.tries == 1


def test_a_proxy_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with through(url, headers_timeout_s=0.3) as transport:
            for scheme in ("http", "https"):
                with pytest.raises(TransientError, match="no answer in time"):
                    fetch(transport, f"{scheme}://models.example/m.bin")


def test_no_proxies_are_none(web: HttpServer) -> None:
    assert not NO_PROXIES
    assert not proxies_of(ENVIRONMENT, (), {})
    assert repr(proxies_of("http://u:hunter22@p.example", (), {})).count("hunter22") == 0
    web.put("/m.bin", Resource(b"", faults=[Status(503)]))
    with through("", private=True) as transport, pytest.raises(TransientError) as error:
        fetch(transport, web.url("/m.bin"))
    assert "proxy" not in str(error.value)


def test_the_address_of_a_proxy_may_lie_in_a_file_that_is_its_users_alone(
    web: HttpServer, tmp_path: Path
) -> None:
    file = tmp_path / "proxy"
    with ProxyServer(hosts={"models.example": web.port}) as proxy:
        file.write_text(proxy.url.replace("//", "//user:pass@") + "\n")
        file.chmod(0o600)
        settings = DownloadSettings.for_test(tmp_path, proxy_file=file, headers_timeout_s=20)
        with contextlib.closing(http_transport(settings)) as transport:
            assert fetch(transport, "http://models.example/m.bin") == b"body"
    assert "proxy-authorization" in proxy.headers[0]
    assert "pass" not in str(settings.redacted())


def test_a_file_with_a_proxy_that_is_no_good_is_refused_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "proxy"
    settings = DownloadSettings.for_test(tmp_path, proxy_file=file)
    with pytest.raises(StartupError, match="cannot read proxy_file"):
        http_transport(settings)
    file.write_text("ftp://secret-secret@x")
    file.chmod(0o644)
    with pytest.raises(StartupError, match="chmod 600"):
        http_transport(settings)
    file.chmod(0o600)
    file.write_text("\n")
    with pytest.raises(StartupError, match="is empty"):
        http_transport(settings)
    file.write_text("ftp://secret-secret@x")
    with pytest.raises(StartupError) as caught:
        http_transport(settings)
    assert "secret-secret" not in caught.value.message
    with pytest.raises(ValueError, match="leave out one"):
        DownloadSettings.for_test(tmp_path, proxy_file=file, proxy="http://a:1")
