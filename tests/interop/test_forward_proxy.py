"""Downloads through a real forward proxy, tinyproxy."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.download.v1 import download_pb2
from support.authority import Authority
from support.downloads import download_service
from support.httpserver import HttpServer, Resource, pattern
from support.tinyproxy import Tinyproxy, tinyproxy

pytestmark = [pytest.mark.interop, pytest.mark.timeout(90)]

BODY = pattern(2_000_000)
COMPLETED, ERROR = download_pb2.DOWNLOAD_STATE_COMPLETED, download_pb2.DOWNLOAD_STATE_ERROR
RUNNING = download_pb2.DOWNLOAD_STATE_RUNNING
AUTH = "BasicAuth user hunter22"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "proxy"
    made.mkdir()
    return made


@pytest.fixture
def web() -> Iterator[HttpServer]:
    with HttpServer() as server:
        server.put("/m.bin", Resource(BODY))
        yield server


def named(server: HttpServer) -> str:
    """Its address by a name, which the proxy looks up."""
    return server.url("/m.bin", host="localhost")


@pytest.mark.parametrize("auth", [True, False], ids=["with a password", "without"])
async def test_http_and_https_come_through_though_the_service_may_not_ask_private_addresses(
    data_dir: Path, folder: Path, web: HttpServer, caplog: pytest.LogCaptureFixture, auth: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    authority = Authority(folder)
    with tinyproxy(folder, *([AUTH] if auth else [])) as proxy:
        settings: dict[str, Any] = {
            "proxy": f"http://user:hunter22@{proxy.address}" if auth else f"http://{proxy.address}",
            "tls_ca_file": authority.file,
            "allow_private_addresses": False,
        }
        with HttpServer(tls=authority.certificate("localhost")) as secure:
            secure.put("/s.bin", Resource(BODY))
            async with download_service(data_dir, **settings) as client:
                plain = await client.run(named(web))
                safe = await client.run(secure.url("/s.bin", host="localhost"))
                numeric = await client.run(web.url("/m.bin"))
            asked = proxy.asked()
    assert (plain.state, safe.state) == (COMPLETED, COMPLETED), (plain, safe)
    assert (data_dir / "downloads" / "s.bin").read_bytes() == BODY
    assert numeric.error.reason == "FORBIDDEN_ADDRESS"
    assert f"GET {named(web)} HTTP/1.1" in asked
    assert f"CONNECT localhost:{secure.port} HTTP/1.1" in asked
    assert not any("127.0.0.1" in line for line in asked)
    sent = [request.headers for request in (*web.requests, *secure.requests)]
    assert not any("proxy-authorization" in headers for headers in sent)
    assert "hunter22" not in f"{plain} {safe} {numeric} {caplog.text}"


@pytest.mark.parametrize(
    ("scheme", "given", "words"),
    [
        ("http", "", "wants a user"),
        ("https", "", "wants a user"),
        ("https", "user:wrong42@", "refuses the user and password"),
    ],
)
async def test_a_proxy_that_does_not_know_the_service_ends_the_job_with_the_remedy(
    data_dir: Path, folder: Path, scheme: str, given: str, words: str
) -> None:
    with tinyproxy(folder, AUTH) as proxy:
        async with download_service(data_dir, proxy=f"http://{given}{proxy.address}") as client:
            job = await client.run(f"{scheme}://models.example/m.bin")
    assert (job.state, job.error.reason, job.attempt) == (ERROR, "UPSTREAM_UNAVAILABLE", 1), job
    assert f"the proxy {proxy.address} {words}" in job.error.message
    assert job.error.metadata["proxy"] == proxy.address
    assert "http://user:password@host:port" in job.error.metadata["remedy"]
    assert "wrong42" not in str(job)


async def test_a_wrong_password_for_http_looks_to_tinyproxy_like_one_for_the_source(
    data_dir: Path, folder: Path
) -> None:
    with tinyproxy(folder, AUTH) as proxy:
        async with download_service(data_dir, proxy=f"http://user:wrong42@{proxy.address}") as client:
            job = await client.run("http://models.example/m.bin")
    assert (job.error.reason, job.attempt) == ("TOKEN_REQUIRED", 1), job
    assert f"models.example answers 401 through the proxy {proxy.address}" in job.error.message
    assert "wrong42" not in str(job)


async def test_a_host_that_the_proxy_forbids_or_does_not_reach(data_dir: Path, folder: Path) -> None:
    (folder / "filter").write_text(r"^blocked\.example$" + "\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with tinyproxy(folder, f'Filter "{folder / "filter"}"') as proxy:
        async with download_service(data_dir, proxy=f"http://{proxy.address}") as client:
            forbidden = await client.run("https://blocked.example/m.bin")
            unreached = await client.run(f"https://localhost:{port}/m.bin")
            plain = await client.run(f"http://localhost:{port}/m.bin")
    assert forbidden.error.reason == "FORBIDDEN_ADDRESS"
    assert "does not let this service through to blocked.example: it answers 403" in forbidden.error.message
    assert "no_proxy" in forbidden.error.metadata["remedy"]
    assert (unreached.error.reason, unreached.attempt) == ("UPSTREAM_UNAVAILABLE", 3)
    assert f"the proxy {proxy.address} does not reach localhost: it answers 500" in unreached.error.message
    assert f"answers 500 through the proxy {proxy.address}" in plain.error.message


async def test_no_proxy_and_the_environment(
    data_dir: Path, folder: Path, web: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tinyproxy(folder) as proxy:
        async with download_service(
            data_dir, proxy=f"http://{proxy.address}", no_proxy=("localhost",)
        ) as client:
            assert (await client.run(named(web))).state == COMPLETED
        assert proxy.asked() == []
        monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
        monkeypatch.setenv("no_proxy", "127.0.0.0/8")
        async with download_service(data_dir, proxy="environment") as client:
            direct = await client.run(web.url("/m.bin"), filename="direct.bin")
            through = await client.run(named(web), filename="through.bin")
        assert (direct.state, through.state) == (COMPLETED, COMPLETED)
        assert set(proxy.wait_asked(1)) == {f"GET {named(web)} HTTP/1.1"}


async def test_several_connections_of_one_file_go_through_tunnels_of_their_own(
    data_dir: Path, folder: Path
) -> None:
    authority, body = Authority(folder), pattern(80 << 20)
    with tinyproxy(folder) as proxy, HttpServer(tls=authority.certificate("localhost")) as secure:
        # Slow enough for more than one to be worth it.
        secure.put("/large.bin", Resource(body, rate=8_000_000))
        async with download_service(
            data_dir,
            proxy=f"http://{proxy.address}",
            tls_ca_file=authority.file,
            allow_private_addresses=False,
            stall_timeout_s=20,
            headers_timeout_s=20,
        ) as client:
            job = await client.create(secure.url("/large.bin", host="localhost"))
            job = await client.ended(job, timeout=80)
        asked = proxy.asked()
    assert job.state == COMPLETED, job
    assert job.sha256 == hashlib.sha256(body).hexdigest()
    connections = {request.connection for request in secure.requests}
    assert len(connections) > 1
    assert asked.count(f"CONNECT localhost:{secure.port} HTTP/1.1") == len(connections)


async def test_a_proxy_that_goes_down_and_comes_back_costs_no_byte_that_is_there(
    data_dir: Path, folder: Path, web: HttpServer
) -> None:
    web.put("/m.bin", Resource(BODY, rate=400_000))
    with contextlib.ExitStack() as first:
        proxy: Tinyproxy = first.enter_context(tinyproxy(folder))
        async with download_service(
            data_dir, proxy=f"http://{proxy.address}", max_attempts=100, retry_cap_s=0.5
        ) as client:
            job = await client.create(named(web))
            await client.until(job, lambda now: now.progress.bytes_done > 500_000, timeout=30)
            first.close()
            waiting = await client.until(job, lambda now: "the proxy" in now.error.message, timeout=30)
            assert waiting.error.metadata["proxy"] == proxy.address
            with tinyproxy(folder, port=proxy.port):
                done = await client.ended(job, timeout=40)
    assert done.state == COMPLETED, done
    assert (data_dir / "downloads" / "m.bin").read_bytes() == BODY
    assert done.restarts == 0
