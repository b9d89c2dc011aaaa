"""Probes over HTTP: what they are told, and that nothing else is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from modelkeep_common.serving import start_server
from modelkeep_common.settings import load_settings
from modelkeep_common.startup import StartupError
from support.commonapp import App, AppSettings, serving
from support.commoncalls import echo
from support.ports import free_port

OK = "HTTP/1.1 200 OK"


async def asked(port: int, text: bytes) -> bytes:
    """What is answered until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(text)
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def status(port: int, path: str, method: str = "GET") -> str:
    answer = await asked(port, f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    return answer.split(b"\r\n")[0].decode()


async def test_ready_and_live_are_told_apart_from_the_start_to_the_drain(data_dir: Path) -> None:
    port = free_port()
    told: list[tuple[str, str]] = []

    async def look() -> None:
        told.append((await status(port, "/livez"), await status(port, "/readyz")))

    app = App({"Echo": echo}, on_open=look, on_drain=look)
    async with serving(app, data_dir, metrics_port=port) as (server, _):
        assert server.metrics_port == port
        await look()
    away = "HTTP/1.1 503 Service Unavailable"
    assert told == [(OK, away), (OK, OK), (OK, away)]
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_probes_say_nothing_else(data_dir: Path) -> None:
    async with serving(App({"Echo": echo}), data_dir, metrics_port=0) as (server, _):
        port = server.metrics_port
        whole = await asked(port, b"GET /livez?verbose HTTP/1.0\r\n\r\n")
        head, _, body = whole.partition(b"\r\n\r\n")
        assert (head.split(b"\r\n")[0].decode(), body) == (OK, b"ok\n")
        names = {line.partition(b":")[0] for line in head.split(b"\r\n")[1:]}
        assert names == {b"content-type", b"content-length", b"cache-control", b"connection"}
        assert (await asked(port, b"HEAD /readyz HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")
        assert "404" in await status(port, "/")
        assert "404" in await status(port, "/metrics")
        assert "404" in await status(port, "/livez/../readyz")
        assert "405" in await status(port, "/livez", "POST")
        for nonsense in (b"\x00" * 20_000, b"\r\n\r\n", b"x" * 9000 + b"\r\n\r\n"):
            assert not (await asked(port, nonsense)).startswith(b"HTTP/1.1 2")
        assert await status(port, "/livez") == OK


async def test_a_crowd_of_silent_connections_is_bounded_and_keeps_no_probe_away(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with contextlib.AsyncExitStack() as crowd:
        async with serving(App({"Echo": echo}), data_dir, metrics_port=0) as (server, _):
            readers = []
            for _ in range(80):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.metrics_port)
                crowd.callback(writer.close)
                readers.append(reader)
            # Of too many the oldest are let go of, long before their time is over.
            async with asyncio.timeout(4):
                assert await status(server.metrics_port, "/readyz") == OK
                assert await gone(readers[0])
        # And at the end all of them.
        async with asyncio.timeout(4):
            assert await gone(readers[-1])
    assert "CancelledError" not in caplog.text


async def gone(reader: asyncio.StreamReader) -> bool:
    """Whether the other side closes, without a word."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_every_address_of_the_host_is_that_of_ipv4_too(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(App({"Echo": echo}), data_dir, metrics_port=0, metrics_host="[::]") as (server, _):
        port = server.metrics_port
        assert await status(port, "/readyz") == OK
        asks = ["--health", "--metrics-host", "[::]", "--metrics-port", str(port)]
        with pytest.raises(SystemExit) as caught:
            await asyncio.to_thread(load_settings, AppSettings, asks)
        assert (caught.value.code, "ready" in capsys.readouterr().out) == (0, True)


async def test_a_port_that_is_taken_is_told(data_dir: Path) -> None:
    async with serving(App({"Echo": echo}), data_dir, metrics_port=0) as (server, _):
        settings = AppSettings.for_test(data_dir / "b", metrics_port=server.metrics_port)
        with pytest.raises(StartupError, match="--metrics-port") as caught:
            await start_server(App({}), settings)
        assert caught.value.exit_code == 98


async def test_health_is_asked_from_beside_the_service(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()

    async def health(*flags: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            await asyncio.to_thread(load_settings, AppSettings, ["--health", *flags])
        return int(str(caught.value.code)), capsys.readouterr().out

    asked_at = ("--host", "0.0.0.0", "--metrics-port", str(port))
    told: list[tuple[int, str]] = []

    async def look() -> None:
        told.append(await health(*asked_at))

    async with serving(App({"Echo": echo}, on_open=look, on_drain=look), data_dir, metrics_port=port):
        await look()
    assert [code for code, _ in told] == [1, 0, 1]
    assert "it starts or drains" in told[0][1]
    code, text = await health(*asked_at)
    assert (code, "nothing answers at 127.0.0.1" in text) == (1, True)
    assert (await health())[0] == 78
