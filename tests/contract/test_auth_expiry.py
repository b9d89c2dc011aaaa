"""Certificates that end, or cannot be used, on a listener and on connections that outlive them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from google.protobuf.wrappers_pb2 import StringValue

from modelkeep.devcerts import Issued
from modelkeep_common.auth import ROLES
from modelkeep_common.serving import server as serving_module
from modelkeep_common.serving import start_server
from modelkeep_common.startup import StartupError
from support.callers import mtls_settings
from support.certificates import AUTHORITY, caller, credentials, put, self_signed
from support.commonapp import SERVICE, App, AppSettings, Client, serving
from support.commoncalls import error_of, reason_of
from support.failures import failure_of
from support.tokens import bearer, write_tokens
from support.waiting import until

EVERYONE = {f"{SERVICE}/{name}": ROLES for name in ("Peer", "StreamOn")}


async def peer(request: StringValue, context: Any) -> StringValue:
    return StringValue(value=context.peer())


async def stream_on(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
    while True:
        yield StringValue(value=context.peer())
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def secured(data_dir: Path, **more: Any) -> AsyncIterator[str]:
    values = mtls_settings(data_dir, **more)
    app = App({"Peer": peer, "StreamOn": stream_on})
    async with serving(app, data_dir, allowed=EVERYONE, **values) as (server, _):
        yield server.address


@contextlib.asynccontextmanager
async def calling(address: str, issued: Issued) -> AsyncIterator[Client]:
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(address, credentials(issued), options=options) as channel:
        yield Client(channel)


def lasting(seconds: float) -> Issued:
    """A caller's certificate that ends soon."""
    return AUTHORITY.issue(uri="spiffe://test/admin", server=False, days=seconds / 86_400)


async def test_a_connection_counts_for_no_longer_than_its_certificate(data_dir: Path) -> None:
    tokens = write_tokens(data_dir / "t.json", {"ci": ["operator"]})
    path = data_dir / "sockets" / "s.sock"
    async with secured(data_dir, token_file=tokens, unix_socket=path) as address:
        ends = time.time() + 6
        async with calling(address, lasting(6)) as client, calling(address, caller("admin")) as other:
            assert await client.unary("Peer", timeout=20)
            stream = client.stream("StreamOn")
            await stream.read()
            await until(lambda: time.time() > ends, 20)
            error = await error_of(client.unary("Peer", timeout=20))
            assert (error.code(), reason_of(error)) == (
                grpc.StatusCode.UNAUTHENTICATED,
                "CREDENTIALS_INVALID",
            )
            assert "has ended" in str(error.details())
            assert failure_of(error).metadata["remedy"].startswith("Connect anew")
            # A token does not mend it, what was begun goes on, and nobody else is refused.
            error = await error_of(client.unary("Peer", metadata=bearer("ci"), timeout=20))
            assert reason_of(error) == "CREDENTIALS_INVALID"
            await stream.read()
            stream.cancel()
            assert await other.unary("Peer", timeout=20)
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            assert await Client(channel).unary("Peer")


async def test_new_calls_of_a_caller_with_a_certificate_take_a_new_connection_in_a_while(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_module, "CONNECTION_AGE_S", 1)
    async with secured(data_dir) as address, calling(address, caller("admin")) as client:
        stream = client.stream("StreamOn")
        first = (await stream.read()).value
        seen = {first}
        async with asyncio.timeout(30):
            while len(seen) < 3:
                seen.add((await client.unary("Peer")).value)  # none of them fails
        assert (await stream.read()).value == first
        stream.cancel()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n"])
@pytest.mark.parametrize("plain", [True, False])
async def test_who_connects_and_does_not_go_on_is_not_waited_for(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, said: bytes, plain: bool
) -> None:
    monkeypatch.setattr(serving_module, "HANDSHAKE_S", 1)
    making: Any = serving(App({}), data_dir) if plain else secured(data_dir)
    async with making as made:
        host, _, port = (made[0].address if plain else made).rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(said)
        async with asyncio.timeout(20):
            with contextlib.suppress(OSError):
                while await reader.read(100):
                    pass
        writer.close()


async def test_the_log_tells_of_each_certificate_how_long_it_lasts(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with secured(data_dir):
        assert caplog.text.count("the certificate is good until") == 1
        put(data_dir / "tls", "server", AUTHORITY.issue("localhost", "127.0.0.1"))
        await until(lambda: caplog.text.count("the certificate is good until") == 2, 30)


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP521R1()), ed25519.Ed25519PrivateKey.generate()]
)
async def test_a_certificate_that_callers_cannot_use_is_refused_at_a_start_and_takes_no_others_place(
    data_dir: Path, key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    odd = self_signed(key)
    cert, key_file = put(data_dir, "odd", odd)
    settings = AppSettings.for_test(data_dir, tls_cert_file=cert, tls_key_file=key_file)
    with pytest.raises(StartupError, match="of the curve P-256 or P-384") as caught:
        await start_server(App({}), settings)
    assert caught.value.exit_code == 78
    async with secured(data_dir) as address:
        put(data_dir / "tls", "server", odd)
        await until(lambda: "what was there before stays in use" in caplog.text, 30)
        assert "gRPC's callers cannot use tls_cert_file" in caplog.text
        async with calling(address, caller("admin")) as client:
            assert await client.unary("Peer", timeout=20)


async def test_a_certificate_that_has_ended_is_told_at_a_start_and_takes_no_others_place(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended = AUTHORITY.issue("localhost", "127.0.0.1", days=-1)
    async with secured(data_dir) as address:
        put(data_dir / "tls", "server", ended)
        await until(lambda: "has ended; what was there before stays in use" in caplog.text, 30)
        async with calling(address, caller("admin")) as client:
            assert await client.unary("Peer", timeout=20)
    assert "the certificate ended" not in caplog.text
    cert, key = put(data_dir, "ended", ended)
    async with secured(data_dir, tls_cert_file=cert, tls_key_file=key) as address:
        assert "the certificate ended at" in caplog.text
        put(data_dir, "ended", AUTHORITY.issue("localhost", "127.0.0.1"))
        async with asyncio.timeout(30), calling(address, caller("admin")) as client:
            while True:
                try:
                    await client.unary("Peer", timeout=20)
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.1)
