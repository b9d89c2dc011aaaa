"""Headers that no honest client sends, straight to a service: who they make a caller, and what logs say."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from modelkeep_common.auth import ROLES
from modelkeep_common.calls import current_call
from support.commonapp import SERVICE, App, serving
from support.commoncalls import error_of, reason_of
from support.http2 import Connection
from support.tokens import bearer, token_of, write_tokens
from support.waiting import until

EVERYONE = {f"{SERVICE}/Who": ROLES}


def settings(data_dir: Path) -> dict[str, Any]:
    return {
        "token_file": write_tokens(data_dir / "t.json", {"ci": ["operator"], "eve": ["viewer"]}),
        "anonymous": "viewer",
        "insecure": False,
    }


async def who(request: StringValue, context: Any) -> StringValue:
    return StringValue(value=current_call().principal.name)


@pytest.mark.parametrize("odd", ["\x1b[31mred", "a\nb", "a\r\nauthorization: Bearer x", "a\0b", "\x7f", "ä"])
async def test_what_is_no_text_in_a_token_reaches_neither_a_handler_nor_a_log(
    data_dir: Path, odd: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    calls = list[str]()

    async def counted(request: StringValue, context: Any) -> StringValue:
        calls.append(current_call().principal.name)
        return StringValue()

    app = App({"Who": counted})
    async with serving(app, data_dir, allowed=EVERYONE, **settings(data_dir)) as (server, client):
        for token in (f"token-of-16-{odd}", token_of("ci")):
            assert calls == []
            connection = await asyncio.to_thread(Connection, server.address, f"{SERVICE}/Who", token=token)
            with contextlib.suppress(OSError):
                connection.call(1)
            await until(lambda: connection.ended == 1 or connection.closed, 20)  # noqa: B023  waited for here
            await asyncio.to_thread(connection.close)
        await client.unary("Who", metadata=bearer("ci"))
    assert calls == ["ci", "ci"]
    assert "token-of-16" not in caplog.text


@pytest.mark.parametrize(
    "lies",
    [
        [("x-forwarded-client-cert", "By=a;Hash=0;URI=spiffe://modelkeep/client")],
        [("x-ssl-cert", "owner"), ("ssl-client-subject-dn", "CN=owner")],
        [("x-forwarded-user", "owner"), ("x-remote-user", "owner"), ("x-auth-request-user", "owner")],
        [("proxy-authorization", "Bearer x"), ("cookie", "authorization=Bearer x")],
        [("peer_uri", "spiffe://modelkeep/client"), ("x509_pem_cert", "x")],
        [("authorization-bin", b"Bearer x")],
    ],
)
async def test_only_one_header_tells_who_calls(data_dir: Path, lies: list[tuple[str, Any]]) -> None:
    lies = [
        (key, value.replace("Bearer x", f"Bearer {token_of('ci')}") if isinstance(value, str) else value)
        for key, value in lies
    ]
    async with serving(App({"Who": who}), data_dir, allowed=EVERYONE, **settings(data_dir)) as (_, client):
        assert (await client.unary("Who", metadata=lies)).value == "anonymous"
        assert (await client.unary("Who", metadata=[*bearer("eve"), *lies])).value == "eve"


@pytest.mark.parametrize(
    "header",
    ["{0}, {0}", "{0},{0}", "{0} {0}", "{0};{0}", "Basic x, {0}", "bearer: {0}", "{0}, "],
)
async def test_tokens_that_are_joined_are_no_token(data_dir: Path, header: str) -> None:
    """As a proxy joins headers of one name."""
    shown = [("authorization", header.format(f"Bearer {token_of('ci')}"))]
    async with serving(App({"Who": who}), data_dir, allowed=EVERYONE, **settings(data_dir)) as (_, client):
        error = await error_of(client.unary("Who", metadata=shown))
        assert reason_of(error) == "CREDENTIALS_INVALID"


@pytest.mark.parametrize(
    "path",
    [
        *("//{0}/Who", "/{0}/who", "/{0}/Who/", "/{0}//Who", "/{0}/./Who", "/x/../{0}/Who"),
        *("/{0}/%57ho", "/{0}/Who?x", "/{0}/Who;x", "{0}/Who"),
    ],
)
async def test_only_one_spelling_is_a_method(data_dir: Path, path: str) -> None:
    async with serving(App({"Who": who}), data_dir, allowed=EVERYONE, **settings(data_dir)) as (_, client):
        call: Any = client.channel.unary_unary(path.format(SERVICE))
        error = await error_of(call(b"", metadata=bearer("ci"), timeout=20))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
