"""The first pitfalls of Python gRPC that this suite has met, by their number in the design's list."""

from __future__ import annotations

import ast
import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc

import modelkeep_common
from modelkeep_common.calls.chain import Chain
from modelkeep_common.sqlite import Database, Migration
from support.commonapp import SERVICE, App, serving
from support.commoncalls import echo, error_of, reason_of
from support.failures import status_of
from support.waiting import until

SECRET = "hf_abcdefgh12345678 at /home/me/secret"


# 1


async def raising(request: Any, context: Any) -> Any:
    raise ValueError(SECRET)


async def raising_late(request: Any, context: Any) -> Any:
    yield StringValue(value="first")
    raise KeyError(SECRET)


async def raising_writer(request: Any, context: Any) -> None:
    await context.write(StringValue(value="first"))
    raise RuntimeError(SECRET)


async def not_a_message(request: Any, context: Any) -> Any:
    return SECRET


async def writing_no_message(request: Any, context: Any) -> None:
    await context.write(SECRET)


async def raising_group(request: Any, context: Any) -> Any:
    try:
        raise OSError(28, SECRET)
    except OSError:
        raise ExceptionGroup(SECRET, [ValueError(SECRET)]) from None


@pytest.mark.parametrize(
    ("method", "handler"),
    [
        ("Raise", raising),
        ("RaiseGroup", raising_group),
        ("ReturnNoMessage", not_a_message),
        ("StreamRaise", raising_late),
        ("StreamRaiseWriting", raising_writer),
        ("StreamNoMessage", writing_no_message),
    ],
)
async def test_pitfall_1_an_exceptions_text_never_reaches_the_client(
    data_dir: Path, method: str, handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(App({method: handler}), data_dir) as (_, client):
        call = client.stream(method) if method.startswith("Stream") else client.unary(method)
        error = await error_of(call)
    assert error.code() == grpc.StatusCode.INTERNAL
    assert reason_of(error) == "INTERNAL"
    request_id = dict(error.trailing_metadata() or ())["x-request-id"]
    assert request_id in (error.details() or "")
    assert SECRET[:8] not in repr(error) + status_of(error).SerializeToString().decode("utf-8", "replace")
    # The log says under the same id what happened.
    (record,) = [record for record in caplog.records if record.name == "modelkeep.errors"]
    assert record.fields["request_id"] == request_id  # type: ignore[attr-defined]  # from extra=


async def test_pitfall_1_a_request_that_cannot_be_parsed_is_a_bad_field(data_dir: Path) -> None:
    async with serving(App({"Echo": echo}), data_dir) as (_, client):
        method: Any = client.channel.unary_unary(f"/{SERVICE}/Echo")
        error = await error_of(method(b"\xff\xff\xff"))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "FIELD_INVALID"


# 2


@pytest.mark.parametrize("style", ["generator", "writer", "unary"])
async def test_pitfall_2_a_cancellation_goes_through_the_chain_to_grpc(
    data_dir: Path, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()
    left_with: list[BaseException] = []

    async def generator(request: Any, context: Any) -> Any:
        while True:
            yield request
            await asyncio.sleep(0.01)

    async def writer(request: Any, context: Any) -> None:
        while True:
            await context.write(request)
            await asyncio.sleep(0.01)

    async def unary(request: Any, context: Any) -> Any:
        begun.set()
        await asyncio.sleep(60)

    wrap = Chain.wrap

    def wrap_and_watch(chain: Chain, handler: Any, name: str) -> Any:
        wrapped: Any = wrap(chain, handler, name)
        function = wrapped.stream_unary or wrapped.stream_stream

        async def watched(raw: Any, context: Any) -> Any:
            try:
                return await function(raw, context)
            except BaseException as error:
                left_with.append(error)
                raise

        if wrapped.response_streaming:
            return grpc.stream_stream_rpc_method_handler(watched)
        return grpc.stream_unary_rpc_method_handler(watched)

    monkeypatch.setattr(Chain, "wrap", wrap_and_watch)
    handlers = {"StreamGenerator": generator, "StreamWriter": writer, "Wait": unary}
    async with serving(App(handlers), data_dir) as (_, client):
        if style == "unary":
            call = client.unary("Wait")
            await begun.wait()
        else:
            call = client.stream("Stream" + style.capitalize())
            await call.read()
        call.cancel()
        await until(lambda: left_with)
    assert [type(error) for error in left_with] == [asyncio.CancelledError]


def test_pitfall_2_no_code_of_the_services_swallows_a_cancellation() -> None:
    """Every ``except CancelledError`` (or BaseException) raises something in turn."""
    services = Path(modelkeep_common.__file__).parent.parent
    silent = []
    for path in services.glob("modelkeep_common/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            caught = ast.unparse(node.type) if isinstance(node, ast.ExceptHandler) and node.type else ""
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if "CancelledError" in caught and not raises:
                silent.append(f"{path.name}:{node.lineno}")  # type: ignore[attr-defined]  # a handler
    assert silent == []


# 3


async def test_pitfall_3_a_stream_left_early_with_cancel_frees_the_servers_side(data_dir: Path) -> None:
    open_handlers = 0

    async def endless(request: Any, context: Any) -> None:
        nonlocal open_handlers
        open_handlers += 1
        try:
            while True:
                await context.write(request)
                await asyncio.sleep(0.01)
        finally:
            open_handlers -= 1

    async with serving(App({"StreamEndless": endless}), data_dir) as (server, client):
        for _ in range(5):
            call = client.stream("StreamEndless")
            try:
                async for _message in call:
                    break
            finally:
                call.cancel()
        await until(lambda: open_handlers == 0)
        assert server.admission.hold.active == 0
        assert server.admission.write.active == 0


# 4


async def test_pitfall_4_a_generator_is_cleaned_up_in_its_own_task_and_at_once(data_dir: Path) -> None:
    ends: list[tuple[Any, Any, str]] = []

    async def generator(request: Any, context: Any) -> Any:
        task = asyncio.current_task()
        how = "finished"
        try:
            async with asyncio.timeout(60):  # a scope across a yield breaks when closed elsewhere
                while True:
                    yield StringValue(value="x" * 100_000)
        except BaseException as error:
            how = type(error).__name__
            raise
        finally:
            ends.append((task, asyncio.current_task(), how))

    async with serving(App({"StreamBig": generator}), data_dir) as (_, client):
        reading = client.stream("StreamBig")
        await reading.read()
        reading.cancel()
        blocked = client.stream("StreamBig")  # never read: the write blocks
        await asyncio.sleep(0.3)
        blocked.cancel()
        await until(lambda: len(ends) == 2)
    assert all(begun is ended for begun, ended, _ in ends)


# 5


async def test_pitfall_5_health_answers_when_the_server_is_full(data_dir: Path) -> None:
    go_on = asyncio.Event()

    async def slow(request: Any, context: Any) -> Any:
        await go_on.wait()
        return request

    async with serving(App({"Slow": slow}), data_dir, max_writes=2, principal_share=1) as (server, client):
        busy = [client.unary("Slow") for _ in range(2)]
        await until(lambda: server.admission.write.active == 2)
        error = await error_of(client.unary("Slow"))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(error) == "SERVER_BUSY"
        kinds = [detail.type_url.rsplit(".", 1)[-1] for detail in status_of(error).details]
        assert kinds == ["ErrorInfo", "RetryInfo", "QuotaFailure"]
        stub: Any = health_pb2_grpc.HealthStub(client.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        go_on.set()
        await asyncio.gather(*busy)
        await client.unary("Slow")


# 6


async def test_pitfall_6_a_stall_of_the_loop_does_not_cancel_the_calls_that_wait(data_dir: Path) -> None:
    calls = 1500
    async with serving(App({"Echo": echo}), data_dir, max_writes=4000) as (server, _):
        sent = threading.Event()

        def client() -> list[grpc.StatusCode]:
            with grpc.insecure_channel(server.address) as channel:
                grpc.channel_ready_future(channel).result(timeout=5)
                method: Any = channel.unary_unary(f"/{SERVICE}/Echo")
                sent.set()
                futures = [method.future(b"", timeout=20) for _ in range(calls)]
                return [future.code() for future in futures]

        running = asyncio.ensure_future(asyncio.to_thread(client))
        await until(sent.is_set)
        time.sleep(1.0)  # noqa: ASYNC251  the stall is what is tested
        codes = await running
    assert codes == [grpc.StatusCode.OK] * calls


# 7


async def test_pitfall_7_a_call_cancelled_between_insert_and_commit_leaves_no_open_transaction(
    data_dir: Path,
) -> None:
    db = await Database.open(data_dir / "t.db", [Migration(1, "CREATE TABLE t (x TEXT);")], "test")
    inserted, go_on = threading.Event(), threading.Event()

    async def insert(request: StringValue, context: Any) -> StringValue:
        def work(conn: Any) -> None:
            conn.execute("INSERT INTO t VALUES (?)", (request.value,))
            if request.value == "slow":
                inserted.set()
                go_on.wait(5)
                raise RuntimeError("rolled back")

        await db.write(work)
        return request

    async with serving(App({"Insert": insert}), data_dir) as (server, client):
        call = client.unary("Insert", "slow")
        await asyncio.to_thread(inserted.wait, 5)
        call.cancel()
        await until(lambda: server.admission.write.active == 0)
        following = client.unary("Insert", "quick")
        go_on.set()
        await following
        assert await db.read(lambda conn: conn.execute("SELECT x FROM t").fetchall()) == [("quick",)]
    await db.close()
