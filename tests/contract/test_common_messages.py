"""The message of a call: one that does not come, comes in part, or is given up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from modelkeep_common.calls import chain
from modelkeep_common.serving import RunningServer
from support.commonapp import SERVICE, App, serving
from support.commoncalls import echo, error_of, reason_of
from support.http2 import Connection
from support.tokens import write_tokens
from support.waiting import until

#: Nothing; half of the frame around a message; half of a message of ten bytes.
BROKEN = [None, b"\0\0", b"\0\0\0\0\x0a12345"]
MANY = 500


async def stream_once(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
    yield request


def tasks() -> int:
    """Calls of which gRPC keeps something."""
    # Of gRPC's own coroutine, which tells of no file.
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return names.count("_schedule_rpc_coro")


@contextlib.asynccontextmanager
async def connected(server: RunningServer, method: str, token: str = "") -> AsyncIterator[Connection]:
    connection = await asyncio.to_thread(Connection, server.address, f"{SERVICE}/{method}", token=token)
    try:
        yield connection
    finally:
        await asyncio.to_thread(connection.close)


@pytest.mark.parametrize("message", BROKEN)
@pytest.mark.parametrize("method", ["Echo", "StreamOnce"])
async def test_calls_that_end_without_a_message_have_an_answer_and_leave_nothing(
    data_dir: Path, method: str, message: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(App({"Echo": echo, "StreamOnce": stream_once}), data_dir) as (server, client):
        await client.unary("Echo")
        async with connected(server, method) as connection:
            connection.call(MANY, message=message)
            await until(lambda: connection.ended == MANY, 20)
            await until(lambda: tasks() == 0, 20)
            assert (await client.unary("Echo", "well")).value == "well"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_call_without_a_message_is_told_so(data_dir: Path) -> None:
    async with serving(App({"Echo": echo}), data_dir) as (_, client):
        method: Any = client.channel.stream_unary(f"/{SERVICE}/Echo", StringValue.SerializeToString)
        error = await error_of(method(iter(())))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert "without a message" in str(error.details())


async def test_calls_whose_message_never_comes_end_in_a_while(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "ARRIVES_S", 0.5)
    async with serving(App({"Echo": echo, "StreamOnce": stream_once}), data_dir) as (server, client):
        for method in ("Echo", "StreamOnce"):
            async with connected(server, method) as connection:
                connection.call(MANY, message=None, end=False)
                assert (await client.unary("Echo", "meanwhile")).value == "meanwhile"
                await until(lambda: connection.ended == MANY, 20)


@pytest.mark.parametrize(("arrives_s", "max_unary_s"), [(0.5, 300), (60, 0.5)])
async def test_a_call_whose_message_never_comes_is_told_what_its_time_was(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, arrives_s: float, max_unary_s: float
) -> None:
    monkeypatch.setattr(chain, "ARRIVES_S", arrives_s)
    async with serving(App({"Echo": echo}), data_dir, max_unary_s=max_unary_s) as (_, client):
        method: Any = client.channel.stream_unary(f"/{SERVICE}/Echo", StringValue.SerializeToString)
        error = await error_of(method(timeout=20))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert error.details() == "The call's message did not come within 0.5 s."


async def test_a_service_that_ends_waits_for_no_message_and_has_nothing_to_say(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(App({"Echo": echo}), data_dir) as (server, client):
        await client.unary("Echo")
        connection = await asyncio.to_thread(Connection, server.address, f"{SERVICE}/Echo")
        connection.call(20, message=None, end=False)
        await until(lambda: tasks() == 20, 20)
    await asyncio.to_thread(connection.close)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_who_may_not_call_need_not_send_his_message(data_dir: Path) -> None:
    settings: dict[str, Any] = {
        "token_file": write_tokens(data_dir / "t.json", {"ci": ["operator"]}),
        "insecure": False,
    }
    async with (
        serving(App({"Echo": echo}), data_dir, **settings) as (server, _),
        connected(server, "Echo") as connection,
    ):
        connection.call(MANY, message=None, end=False)
        await until(lambda: connection.ended == MANY, 20)


async def test_calls_that_are_given_up_before_their_message_leave_nothing_and_no_errors(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(App({"Echo": echo}), data_dir) as (server, client):
        async with connected(server, "Echo") as connection:
            for end in (True, False):
                for _ in range(3):
                    connection.call(MANY, message=None, end=end, reset=True)
                    assert (await client.unary("Echo", "well", timeout=20)).value == "well"
        connection = await asyncio.to_thread(Connection, server.address, f"{SERVICE}/Echo", reads=False)
        connection.call(MANY, message=None, end=False)
        await until(lambda: tasks() >= MANY, 20)
        connection.break_off()
        await until(lambda: tasks() == 0, 20)
        gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_message_that_is_too_large_is_told_as_grpc_tells_it(data_dir: Path) -> None:
    async with serving(App({"Echo": echo}), data_dir) as (_, client):
        for size, compression in ((5 << 20, None), (100 << 20, grpc.Compression.Gzip)):
            error = await error_of(client.unary("Echo", "x" * size, compression=compression))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in str(error.details())
