"""Channels by TLS: certificates are renewed while one calls, and what is wrong is told with what helps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from modelkeep.addresses import TlsFiles, find_addresses
from modelkeep.devcerts import Issued, PrivateAuthority
from modelkeep.exceptions import (
    CredentialsMissingException,
    FieldInvalidException,
    UpstreamUnavailableException,
)
from modelkeep.rpc import Address, decode, open_async_channel, open_channel
from modelkeep.tls import CallerFiles, CallerTls
from modelkeep_common.auth import ROLES
from modelkeep_common.calls import current_call
from support.callers import mtls_settings
from support.certificates import AUTHORITY, caller, put
from support.commonapp import SERVICE, App, Client, serving
from support.tokens import token_of, write_tokens
from support.waiting import wait_until


async def who(request: StringValue, context: Any) -> StringValue:
    return StringValue(value=current_call().principal.name)


async def stream_who(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
    while True:
        yield StringValue(value=current_call().principal.name)
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def secured(folder: Path, **settings: Any) -> AsyncIterator[str]:
    """A service that takes certificates of callers."""
    values = mtls_settings(folder, **settings)
    allowed = {f"{SERVICE}/{name}": ROLES for name in ("Who", "StreamWho")}
    async with serving(App({"Who": who, "StreamWho": stream_who}), folder, allowed=allowed, **values) as (
        one,
        _,
    ):
        yield one.address


def files_of(folder: Path, issued: Issued | None = None, **more: Any) -> CallerFiles:
    """The files of a caller, written anew."""
    authorities, _ = put(folder, "authorities", AUTHORITY.issued)
    if issued is None:
        return CallerFiles(authorities, **more)
    return CallerFiles(authorities, *put(folder, "me", issued), **more)


def address_of(target: str, files: CallerFiles | None, **more: Any) -> Address:
    return Address("record", target, "the test", tls=None if files is None else CallerTls(files), **more)


async def test_a_certificate_is_renewed_under_a_client_whose_streams_go_on(data_dir: Path) -> None:
    mine = data_dir / "mine"
    files = files_of(mine, caller("viewer"))
    async with secured(data_dir) as target, open_async_channel(address_of(target, files)) as channel:
        client = Client(channel)
        stream = client.stream("StreamWho")
        assert (await stream.read()).value == "viewer"
        put(mine, "me", caller("admin"))
        async with asyncio.timeout(30):
            while (await client.unary("Who")).value != "admin":  # noqa: ASYNC110  asked anew
                await asyncio.sleep(0.02)
        for _ in range(50):
            assert (await stream.read()).value == "viewer"
        stream.cancel()
        put(mine, "me", Issued(caller("viewer").certificate, caller("viewer").key))
        await asyncio.sleep(1.5)
        assert (await client.unary("Who")).value == "admin"  # of no good pair


async def test_plain_code_is_renewed_as_well_and_shows_a_token_besides(data_dir: Path) -> None:
    mine = data_dir / "mine"
    files = files_of(mine, caller("viewer"))
    tokens = write_tokens(data_dir / "t.json", {"ci": ["operator"]})

    def work(target: str) -> None:
        with open_channel(address_of(target, files)) as channel:
            call: Any = channel.unary_unary(
                f"/{SERVICE}/Who", StringValue.SerializeToString, StringValue.FromString
            )
            assert call(StringValue(), timeout=20).value == "viewer"
            put(mine, "me", caller("admin"))
            wait_until(lambda: call(StringValue(), timeout=20).value == "admin", timeout_s=30)
            assert call.future(StringValue(), timeout=20).result().value == "admin"
            assert call.with_call(StringValue(), timeout=20)[0].value == "admin"
        with open_channel(address_of(target, files, token=lambda: token_of("ci"))) as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/Who", StringValue.SerializeToString, StringValue.FromString
            )
            assert call(StringValue(), timeout=20).value == "ci"

    async with secured(data_dir, token_file=tokens) as target:
        await asyncio.to_thread(work, target)


async def test_what_is_wrong_with_tls_is_told_with_what_helps(data_dir: Path) -> None:
    others = PrivateAuthority()
    foreign, _ = put(data_dir / "foreign", "ca", others.issued)
    elsewhere = AUTHORITY.issue("elsewhere.example")

    async def told(target: str, files: CallerFiles | None) -> str:
        address = address_of(target, files)
        async with open_async_channel(address, ("grpc.use_local_subchannel_pool", 1)) as channel:
            try:
                await Client(channel).unary("Who", timeout=20)
            except grpc.aio.AioRpcError as error:
                raised = decode(error, address)
                assert isinstance(raised, UpstreamUnavailableException)
                return raised.message
        return "OK"

    async with secured(data_dir) as target:
        good = files_of(data_dir / "a", caller("viewer"))
        assert await told(target, good) == "OK"
        assert "name its authorities with --ca-file" in await told(target, None)
        assert "show one: --cert-file" in await told(target, files_of(data_dir / "b"))
        wrong = files_of(data_dir / "c", caller("viewer", others))
        assert "does not take this certificate" in await told(target, wrong)
        distrustful = CallerFiles(foreign, good.cert_file, good.key_file, ca_setting="peer_ca_file")
        message = await told(target, distrustful)
        assert "name its authorities with peer_ca_file" in message
        put(data_dir / "tls", "server", elsewhere)
        async with asyncio.timeout(30):
            while "for other hosts" not in (message := await told(target, good)):
                assert message == "OK"
                await asyncio.sleep(0.02)
    async with serving(App({"Who": who}), data_dir / "plain") as (server, _):
        assert "it speaks no TLS" in await told(server.address, good)


def test_files_come_from_the_caller_then_from_the_environment(tmp_path: Path) -> None:
    environ = {
        "MODELKEEP_CA_FILE": "/e/ca.pem",
        "MODELKEEP_CERT_FILE": "/e/me.pem",
        "MODELKEEP_DATA_DIR": "/none",
    }

    def files(tls: TlsFiles | None, environ: dict[str, str]) -> CallerFiles | None:
        found = find_addresses({"record": "x:1"}, tls=tls, environ=environ)["record"].tls
        return None if found is None else found.files

    assert files(None, environ) == CallerFiles(Path("/e/ca.pem"), Path("/e/me.pem"))
    given = TlsFiles("/g/ca.pem", "/g/me.pem", "/g/me.key")
    assert files(given, environ) == CallerFiles(*map(Path, given))  # type: ignore[arg-type]  # none is None
    assert files(None, {"MODELKEEP_DATA_DIR": "/none"}) is None
    with pytest.raises(FieldInvalidException, match="--ca-file"):
        files(TlsFiles(cert_file="/g/me.pem"), {})


def test_files_that_are_no_good_are_named_when_a_channel_is_opened(tmp_path: Path) -> None:
    address = address_of("127.0.0.1:1", CallerFiles(tmp_path / "none.pem"))
    with pytest.raises(CredentialsMissingException, match=r"none.pem.*--ca-file"):
        open_channel(address)
    # A UNIX socket is plain whatever is told of TLS.
    open_channel(address_of(f"unix:{tmp_path}/s", CallerFiles(tmp_path / "none.pem"))).close()
