"""TLS of a service's listener: who may connect, whose a certificate is, and files that are replaced."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.wrappers_pb2 import StringValue

from modelkeep.devcerts import Issued, PrivateAuthority
from modelkeep_common.auth import ROLES
from modelkeep_common.calls import current_call
from modelkeep_common.serving import start_server
from modelkeep_common.startup import StartupError
from support.callers import callers_file, mtls_settings
from support.certificates import AUTHORITY, caller, credentials, put, self_signed, tls_settings
from support.commonapp import SERVICE, App, AppSettings, Client, serving
from support.commoncalls import error_of, reason_of
from support.failures import failure_of
from support.jwts import Issuer, shown
from support.tokens import bearer, write_tokens
from support.waiting import until


async def who(request: StringValue, context: Any) -> StringValue:
    principal = current_call().principal
    return StringValue(value=f"{principal.name}: {' '.join(sorted(principal.roles))}")


async def stream_until(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
    while True:
        yield StringValue(value="on")
        await asyncio.sleep(0.01)


EVERYONE = {f"{SERVICE}/{name}": ROLES for name in ("Who", "StreamUntil")}


@contextlib.asynccontextmanager
async def secured(data_dir: Path, **settings: Any) -> AsyncIterator[str]:
    """A service that takes certificates of callers; gives its address."""
    values = {**tls_settings(data_dir / "tls"), "insecure": False, **settings}
    app = App({"Who": who, "StreamUntil": stream_until})
    async with serving(app, data_dir, allowed=EVERYONE, **values) as (server, _):
        yield server.address


@contextlib.asynccontextmanager
async def calling(address: str, secret: grpc.ChannelCredentials) -> AsyncIterator[Client]:
    """A client with a connection of its own."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(address, secret, options=options) as channel:
        yield Client(channel)


async def said_to(address: str, issued: Issued, **options: Any) -> str:
    """Who a caller is, or the reason of his refusal."""
    async with calling(address, credentials(issued)) as client:
        try:
            return str((await client.unary("Who", **options)).value)
        except grpc.aio.AioRpcError as error:
            return failure_of(error).reason or error.code().name


async def refused(call: Any) -> str | None:
    """The reason of a call's refusal; None if it was answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return reason_of(error)
    return None


async def test_callers_are_told_by_certificate_token_and_socket(data_dir: Path) -> None:
    issuer = Issuer()
    path = data_dir / "sockets" / "s.sock"
    settings = {
        "tls_callers_file": callers_file(data_dir / "callers.json", ["install"], gateway=()),
        "token_file": write_tokens(data_dir / "t.json", {"ci": ["operator"]}),
        **issuer.settings(data_dir / "jwt"),
        "unix_socket": path,
        "anonymous": "viewer",
    }
    install, gateway, stranger = caller("install"), caller("gateway"), caller("stranger")
    async with secured(data_dir, **settings) as address:
        assert await said_to(address, install) == "install: install"
        # A token says more than the certificate of whom the call comes through.
        assert await said_to(address, install, metadata=bearer("ci")) == "ci: operator"
        assert await said_to(address, gateway, metadata=bearer("ci")) == "ci: operator"
        token = shown(issuer.token("viewer"))
        assert await said_to(address, gateway, metadata=token) == "viewer@example: viewer"
        assert await said_to(address, gateway) == "anonymous: viewer"
        assert await said_to(address, gateway, metadata=bearer("nobody")) == "CREDENTIALS_INVALID"
        wrong = shown(issuer.token(aud="others"))
        assert await said_to(address, install, metadata=wrong) == "CREDENTIALS_INVALID"
        assert await said_to(address, stranger) == "CREDENTIALS_INVALID"
        assert await said_to(address, AUTHORITY.issue("127.0.0.1")) == "CREDENTIALS_INVALID"
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            assert (await Client(channel).unary("Who")).value == "owner: admin owner"


async def test_who_shows_no_good_certificate_does_not_get_in(data_dir: Path) -> None:
    callers = callers_file(data_dir / "callers.json")
    others = PrivateAuthority()
    wrong = {
        "none": None,
        "of another authority": caller("admin", others),
        "ended": AUTHORITY.issue(uri="spiffe://test/admin", server=False, days=-1),
        "of a server": AUTHORITY.issue(uri="spiffe://test/admin", client=False),
    }
    async with secured(data_dir, tls_callers_file=callers) as address:
        for name, issued in wrong.items():
            async with calling(address, credentials(issued)) as client:
                error = await error_of(client.unary("Who", timeout=20))
                assert error.code() is grpc.StatusCode.UNAVAILABLE, name
        async with grpc.aio.insecure_channel(address) as channel:
            error = await error_of(Client(channel).unary("Who", timeout=20))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        async with calling(address, credentials(caller("admin"), others)) as client:
            error = await error_of(client.unary("Who", timeout=20))
            assert "CERTIFICATE_VERIFY_FAILED" in str(error.details())
        assert await said_to(address, caller("admin")) == "admin: admin"


async def test_certificates_are_replaced_under_load_and_a_bad_pair_is_not_taken(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callers = callers_file(data_dir / "callers.json")
    admin, tls = caller("admin"), data_dir / "tls"
    others = PrivateAuthority()
    renewed = others.issue("localhost", "127.0.0.1")
    old, new = credentials(admin), credentials(admin, others)
    failed, counts = list[grpc.aio.AioRpcError](), {"old": 0, "new": 0}
    done = asyncio.Event()

    async def call_on(address: str) -> None:
        """With a connection for each call: by whichever authority the service has just now."""
        while not done.is_set():
            for name, secret in (("old", old), ("new", new)):
                async with calling(address, secret) as client:
                    try:
                        await client.unary("Who", timeout=20)
                    except grpc.aio.AioRpcError as error:
                        failed.append(error)
                    else:
                        counts[name] += 1

    async def served(name: str) -> None:
        before = counts[name]
        await until(lambda: counts[name] > before, 30)

    async with secured(data_dir, tls_callers_file=callers) as address, calling(address, old) as kept:
        stream = kept.stream("StreamUntil")
        await stream.read()
        load = [asyncio.create_task(call_on(address)) for _ in range(4)]
        await served("old")
        put(tls, "server", Issued(renewed.certificate, admin.key))  # the key of another one
        await until(lambda: "what was there before stays in use" in caplog.text, 30)
        await served("old")
        assert counts["new"] == 0
        put(tls, "server", renewed)
        await served("new")
        done.set()
        await asyncio.gather(*load)
        assert (await kept.unary("Who")).value == "admin: admin"  # who was connected stays so
        await stream.read()
        stream.cancel()
    # Each one failed for it trusted the other authority, and no call was lost besides.
    assert {"CERTIFICATE_VERIFY_FAILED" in str(error.details()) for error in failed} == {True}


async def test_authorities_and_callers_are_replaced_while_it_serves(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callers = callers_file(data_dir / "callers.json", ["viewer"])
    others = PrivateAuthority()

    async def told(address: str, issued: Issued, said: str) -> None:
        async with asyncio.timeout(30):
            while await said_to(address, issued, timeout=20) != said:  # noqa: ASYNC110  it is asked anew
                await asyncio.sleep(0.02)

    async with secured(data_dir, tls_callers_file=callers) as address:
        await told(address, caller("admin"), "CREDENTIALS_INVALID")
        callers.write_text("nonsense")
        await until(lambda: "what it said before still counts" in caplog.text, 30)
        await told(address, caller("viewer"), "viewer: viewer")
        callers_file(callers, ["admin"])
        await told(address, caller("admin"), "admin: admin")
        await told(address, caller("viewer"), "CREDENTIALS_INVALID")
        put(data_dir / "tls", "ca", others.issued)
        await told(address, caller("admin", others), "admin: admin")
        await told(address, caller("admin"), "UNAVAILABLE")


async def test_keys_of_an_issuer_are_replaced_while_it_serves(data_dir: Path) -> None:
    issuer = Issuer()
    values = {**tls_settings(data_dir / "tls", clients=False), **issuer.settings(data_dir / "jwt")}
    async with secured(data_dir, **{**values, "tls_client_ca_file": None}) as address:
        issuer.add("next")
        async with calling(address, credentials()) as client:

            async def said(kid: str) -> str:
                try:
                    return str((await client.unary("Who", metadata=shown(issuer.token(kid=kid)))).value)
                except grpc.aio.AioRpcError as error:
                    return str(reason_of(error))

            assert await said("next") == "CREDENTIALS_INVALID"
            issuer.publish(values["jwt_jwks_file"], "next")
            async with asyncio.timeout(30):
                while await said("next") != "operator@example: operator":  # noqa: ASYNC110  asked anew
                    await asyncio.sleep(0.02)
            assert await said("es") == "CREDENTIALS_INVALID"
            error = await error_of(client.unary("Who"))
            assert reason_of(error) == "CREDENTIALS_MISSING"


async def test_tokens_of_an_issuer_are_withdrawn_while_it_serves(data_dir: Path) -> None:
    issuer = Issuer()
    denied = data_dir / "denied.json"
    denied.write_text('{"denied": []}')
    values = {**tls_settings(data_dir / "tls", clients=False), **issuer.settings(data_dir / "jwt")}
    async with secured(
        data_dir, **{**values, "tls_client_ca_file": None, "jwt_denied_file": denied}
    ) as address:
        token, other = shown(issuer.token(jti="7")), shown(issuer.token("viewer", jti="8"))
        async with calling(address, credentials()) as client:
            assert (await client.unary("Who", metadata=token)).value == "operator@example: operator"
            denied.write_text('{"denied": [{"jti": "7"}]}')
            async with asyncio.timeout(30):
                while await refused(client.unary("Who", metadata=token)) is None:  # noqa: ASYNC110  asked anew
                    await asyncio.sleep(0.02)
            assert await refused(client.unary("Who", metadata=token)) == "CREDENTIALS_INVALID"
            assert (await client.unary("Who", metadata=other)).value == "viewer@example: viewer"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"tls_key_file": "other.key"}, "no certificate and its private key"),
        ({"tls_client_ca_file": "callers.json"}, "holds no certificates"),
        ({"tls_callers_file": "tls/ca.pem"}, "is not JSON"),
        ({"tls_callers_file": None}, "--tls-callers-file"),
        ({"host": "0.0.0.0", "tls_callers_file": None, "insecure": True}, None),
        ({"host": "0.0.0.0"}, None),
        ({"host": "0.0.0.0", "insecure": False}, None),
    ],
)
async def test_a_start_with_tls_that_is_no_good_says_why(
    data_dir: Path, changed: dict[str, Any], why: str | None
) -> None:
    put(data_dir, "other", AUTHORITY.issue("other"))
    files = {
        name: data_dir / value if name.endswith("_file") and value else value
        for name, value in changed.items()
    }
    settings = AppSettings.for_test(data_dir, **mtls_settings(data_dir, **files))
    if why is None:
        server = await start_server(App({}), settings)
        await server.stop()
        return
    with pytest.raises(StartupError, match=why) as caught:
        await start_server(App({}), settings)
    assert caught.value.exit_code == 78


async def test_a_key_that_grpc_cannot_use_is_told_from_a_port_that_is_taken(data_dir: Path) -> None:
    issued = self_signed(ec.generate_private_key(ec.SECP256K1()))
    cert, key_file = put(data_dir, "odd", issued)
    settings = AppSettings.for_test(data_dir, tls_cert_file=cert, tls_key_file=key_file)
    with pytest.raises(StartupError, match="of the curve P-256 or P-384") as caught:
        await start_server(App({}), settings)
    assert caught.value.exit_code == 78


async def test_a_network_without_tls_is_refused_with_what_would_help(data_dir: Path) -> None:
    tokens = write_tokens(data_dir / "t.json", {"ci": ["operator"]})
    settings = AppSettings.for_test(data_dir, host="0.0.0.0", insecure=False, token_file=tokens)
    with pytest.raises(StartupError, match="name a tls_cert_file"):
        await start_server(App({}), settings)
