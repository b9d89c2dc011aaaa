"""TLS: whom a download trusts, and what is said of a connection that cannot be trusted, or cannot be had."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep.defaults import EXIT_CONFIG
from modelkeep.exceptions import UpstreamUnavailableException
from modelkeep_common.startup import StartupError
from modelkeep_download.app import http_transport
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transport import HttpTransport
from support.authority import Authority
from support.downloads import settings_for
from support.httpserver import HttpServer, Resource
from support.nginx import CERTIFICATE

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@contextlib.contextmanager
def trusting(file: Path | None, tmp_path: Path) -> Iterator[HttpTransport]:
    """The transport of a service with this tls_ca_file."""
    settings = settings_for(tmp_path, tls_ca_file=file, headers_timeout_s=20, stall_timeout_s=20)
    with contextlib.closing(http_transport(settings)) as transport:
        yield transport


def fetch(transport: HttpTransport, url: str) -> bytes:
    response = transport.open(url, token=None, userinfo="", headers={}, stop=StopSignal())
    with contextlib.closing(response):
        body, buffer, whole = response.body(), memoryview(bytearray(1 << 20)), b""
        while count := body.readinto(buffer):
            whole += bytes(buffer[:count])
        return whole


@contextlib.contextmanager
def speaking(context: ssl.SSLContext | None, answer: bytes) -> Iterator[str]:
    """Address of a server that answers the first request so, and cuts the connection without a farewell."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            plain, _ = listener.accept()
            plain.settimeout(10)
            with (
                plain
                if context is None
                else context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as connection
            ):
                try:
                    connection.recv(10_000)
                    connection.sendall(answer)
                    socket.socket.shutdown(connection, socket.SHUT_WR)
                finally:
                    while socket.socket.recv(connection, 10_000):
                        pass  # else what the other side has sent meanwhile would take the answer along

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"https://localhost:{listener.getsockname()[1]}/m.bin"
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_private_authority_is_trusted_by_tls_ca_file_alone(authority: Authority, tmp_path: Path) -> None:
    with HttpServer(tls=authority.certificate("localhost", "127.0.0.1")) as web:
        url = web.put("/m.bin", Resource(b"m" * 3_000_000))
        with trusting(authority.file, tmp_path) as transport:
            assert fetch(transport, url) == b"m" * 3_000_000
            assert fetch(transport, web.url("/m.bin", host="localhost")) == b"m" * 3_000_000
        with (
            trusting(None, tmp_path) as transport,
            pytest.raises(
                UpstreamUnavailableException, match="not valid: unable to get local issuer"
            ) as error,
        ):
            fetch(transport, url)
    assert "tls_ca_file" in error.value.metadata["remedy"]


def test_certificates_that_say_something_else(
    authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    cases = (
        (authority.certificate("other.example"), r"Hostname mismatch|not valid for 'localhost'"),
        (authority.certificate("localhost", days=-1), "certificate has expired"),
        (stranger.certificate("localhost"), "unable to get local issuer"),
        (CERTIFICATE, "self-signed certificate"),
    )
    for certificate, words in cases:
        with (
            HttpServer(tls=certificate) as web,
            trusting(authority.file, tmp_path) as transport,
            pytest.raises(UpstreamUnavailableException, match=words),
        ):
            fetch(transport, web.url("/m.bin", host="localhost"))
        assert not web.requests


def test_http_at_an_https_address_speaks_no_tls(authority: Authority, tmp_path: Path) -> None:
    with (
        speaking(None, b"HTTP/1.1 400 Bad Request\r\n\r\n") as url,
        trusting(authority.file, tmp_path) as transport,
        pytest.raises(TransientError, match="speaks no TLS: is it http, not https") as error,
    ):
        fetch(transport, url)
    assert error.value.tries == 1


def test_a_server_that_shares_no_cipher_is_told_to_speak_another_tls(
    authority: Authority, tmp_path: Path
) -> None:
    context = server_context(authority.certificate("localhost"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES256-GCM-SHA384")  # needs a key of RSA, which it has not
    with (
        speaking(context, OK) as url,
        trusting(authority.file, tmp_path) as transport,
        pytest.raises(TransientError, match=r"find no TLS that both accept: .*handshake failure") as error,
    ):
        fetch(transport, url)
    assert error.value.tries == 1


def test_a_server_of_another_version_is_told_to_speak_another_tls(
    authority: Authority, tmp_path: Path
) -> None:
    alert = b"\x15\x03\x01\x00\x02\x02\x46"  # fatal: protocol_version
    with (
        speaking(None, alert) as url,
        trusting(authority.file, tmp_path) as transport,
        pytest.raises(TransientError, match=r"find no TLS that both accept: .*protocol version"),
    ):
        fetch(transport, url)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_wants_a_certificate_of_its_client(
    authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    context = server_context(authority.certificate("localhost"))
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.file)
    with (
        speaking(context, OK) as url,
        trusting(authority.file, tmp_path) as transport,
        pytest.raises(TransientError, match=r"wants a certificate of its client"),
    ):
        fetch(transport, url)


def test_an_end_without_tls_farewell_ends_no_body(authority: Authority, tmp_path: Path) -> None:
    endless = b"HTTP/1.1 200 OK\r\n\r\nbody"  # whose end is that of the connection
    with (
        speaking(server_context(authority.certificate("localhost")), endless) as url,
        trusting(authority.file, tmp_path) as transport,
        pytest.raises(ssl.SSLEOFError),
    ):
        fetch(transport, url)


@pytest.mark.parametrize("content", [None, b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAA\n"])
def test_a_tls_ca_file_without_an_authority_is_refused_at_the_start(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    words = "cannot read tls_ca_file .*: No such file" if content is None else "holds no certificate"
    with pytest.raises(StartupError, match=words) as error:
        http_transport(settings_for(tmp_path, tls_ca_file=file))
    assert error.value.exit_code == EXIT_CONFIG


def test_a_folder_is_no_tls_ca_file(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="tls_ca_file"):
        http_transport(settings_for(tmp_path, tls_ca_file=tmp_path))
