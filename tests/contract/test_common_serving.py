"""modelkeep_common.serving over a real channel: health, reflection, the chain, start and drain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from modelkeep.record.v1 import record_service_pb2
from modelkeep.server.v1 import server_service_pb2, server_service_pb2_grpc
from modelkeep_common import logs
from modelkeep_common.calls import Call, current_call
from modelkeep_common.serving import start_server
from modelkeep_common.serving.newer_protos import message_class
from modelkeep_common.startup import StartupError
from support.commonapp import SERVICE, App, AppSettings, Client, roles_of, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def echo(request: StringValue, context: Any) -> StringValue:
    return request


def health(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


# Health


async def test_health_checks_every_name_and_knows_no_other(data_dir: Path) -> None:
    async with serving(App({"Echo": echo}), data_dir) as (_, client):
        for name in ("", SERVICE, "modelkeep.server.v1.ServerService", "live"):
            answer = await health(client.channel).Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health(client.channel).Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_health_lists_every_name(data_dir: Path) -> None:
    async with serving(App({"Echo": echo}), data_dir) as (_, client):
        method: Any = client.channel.unary_unary(
            "/grpc.health.v1.Health/List",
            lambda message: message.SerializeToString(),
            message_class("grpc.health.v1.HealthListResponse").FromString,
        )
        answer = await method(message_class("grpc.health.v1.HealthListRequest")())
    assert {name: entry.status for name, entry in answer.statuses.items()} == dict.fromkeys(
        ("", SERVICE, "modelkeep.server.v1.ServerService", "live"), SERVING
    )


async def test_a_health_watch_sees_the_drain_and_does_not_hold_it_up(data_dir: Path) -> None:
    server = await start_server(App({}), AppSettings.for_test(data_dir, drain_grace_s=300))
    async with grpc.aio.insecure_channel(server.address) as channel:
        watches = [
            health(channel).Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", "live", "?")
        ]
        first = [(await watch.read()).status for watch in watches]
        assert first == [SERVING, SERVING, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN]
        stopping = asyncio.ensure_future(server.stop(delay_s=0.1))
        assert (await watches[0].read()).status == NOT_SERVING
        assert (await health(channel).Check(health_pb2.HealthCheckRequest(service="live"))).status == SERVING
        async with asyncio.timeout(30):
            await stopping
        for watch in watches:
            assert await watch.code() == grpc.StatusCode.UNAVAILABLE


# Reflection


async def _reflect(channel: grpc.aio.Channel, version: str, *requests: Any) -> list[Any]:
    method: Any = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    return [response async for response in method(iter(requests))]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_answers_under_both_names_and_describes_all_it_lists(
    data_dir: Path, version: str
) -> None:
    request = reflection_pb2.ServerReflectionRequest
    async with serving(App({}), data_dir) as (_, client):
        (listed,) = await _reflect(client.channel, version, request(list_services="*"))
        names = {service.name for service in listed.list_services_response.service}
        assert {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} < names
        symbols = [name for name in names if name != SERVICE]
        symbols += ["google.rpc.ErrorInfo", "google.rpc.Status", "grpc.health.v1.Health.List"]
        answers = await _reflect(
            client.channel, version, *(request(file_containing_symbol=symbol) for symbol in symbols)
        )
        unknown = (await _reflect(client.channel, version, request(file_containing_symbol="no.such.Thing")))[
            0
        ]
    for symbol, answer in zip(symbols, answers, strict=True):
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(data)
            for data in answer.file_descriptor_response.file_descriptor_proto
        ]
        assert any(symbol.startswith(file.package) for file in files), symbol
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_reflection_can_be_off(data_dir: Path) -> None:
    async with serving(App({}), data_dir, reflection=False) as (_, client):
        for _ in range(10):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await _reflect(
                    client.channel, "v1", reflection_pb2.ServerReflectionRequest(list_services="*")
                )
            if (
                caught.value.code() != grpc.StatusCode.INTERNAL
            ):  # gRPC's own, if the refusal outruns the request
                break
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_an_open_reflection_stream_does_not_hold_up_a_drain(data_dir: Path) -> None:
    server = await start_server(App({}), AppSettings.for_test(data_dir, drain_grace_s=10))
    async with grpc.aio.insecure_channel(server.address) as channel:
        method: Any = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        call = method()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services="*"))
        await call.read()
        async with asyncio.timeout(8):  # the grace is longer
            await server.stop()


# ServerService


async def test_server_info_says_who_answers(data_dir: Path) -> None:
    async with serving(App({}), data_dir) as (_, client):
        stub: Any = server_service_pb2_grpc.ServerServiceStub(client.channel)
        info = await stub.GetServerInfo(server_service_pb2.GetServerInfoRequest())
    assert (info.service, info.pid, info.store_id) == ("test", os.getpid(), "s")
    assert (list(info.features), info.limits["max_page_size"]) == (["x"], 1000)
    assert info.limits["max_history_bytes"] == 64 << 20
    assert info.limits["max_kept_answers_bytes"] == 32 << 20
    assert abs(info.start_time.ToMilliseconds() / 1000 - time.time()) < 60
    assert info.instance_id
    assert info.version


# The chain


async def test_the_request_id_comes_back_and_is_known_to_the_handler(data_dir: Path) -> None:
    seen: list[Call] = []

    async def note(request: StringValue, context: Any) -> StringValue:
        seen.append(current_call())
        return request

    async with serving(App({"Note": note}), data_dir) as (_, client):
        given = client.unary("Note", metadata=(("x-request-id", "mine-1"),), timeout=5)
        await given
        assert dict(await given.trailing_metadata())["x-request-id"] == "mine-1"
        unfit = client.unary("Note", metadata=(("x-request-id", 'a"b\\c'),))
        await unfit
        made = dict(await unfit.trailing_metadata())["x-request-id"]
        assert '"' not in made
        again = client.unary("Note")
        await again
        assert dict(await again.trailing_metadata())["x-request-id"] not in (made, "")
    assert [info.method for info in seen] == [f"{SERVICE}/Note"] * 3
    assert seen[0].request_id == "mine-1"
    remaining = seen[0].time_remaining()
    assert remaining is not None
    # gRPC rounds the time-out up on the wire and converts between two clocks: some milliseconds either way.
    assert 0 < remaining < 5.5
    assert seen[1].deadline is None
    assert current_call() == Call()


class RecordApp(App):
    """One method under a real name, so that its request's rules are in the .proto."""

    full_names = ("modelkeep.record.v1.RecordService",)

    def register(self, server: grpc.aio.Server) -> None:
        async def get(request: Any, context: Any) -> Any:
            return record_service_pb2.GetModelResponse()

        async def batch(request: Any, context: Any) -> Any:
            return record_service_pb2.BatchGetModelsResponse()

        handlers: dict[str, Any] = {
            "GetModel": grpc.unary_unary_rpc_method_handler(
                get,
                request_deserializer=record_service_pb2.GetModelRequest.FromString,
                response_serializer=record_service_pb2.GetModelResponse.SerializeToString,
            ),
            "BatchGetModels": grpc.unary_unary_rpc_method_handler(
                batch,
                request_deserializer=record_service_pb2.BatchGetModelsRequest.FromString,
                response_serializer=record_service_pb2.BatchGetModelsResponse.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(self.full_names[0], handlers),))


@pytest.fixture
async def record(data_dir: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(RecordApp({}), data_dir) as (_, client):
        yield client.channel


def _violations(error: grpc.aio.AioRpcError) -> list[tuple[str, str]]:
    metadata = dict(error.trailing_metadata() or ())
    for detail in status_pb2.Status.FromString(metadata["grpc-status-details-bin"]).details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            return [(violation.field, violation.description) for violation in bad.field_violations]
    return []


async def test_a_request_that_breaks_rules_is_refused_with_each_bad_field(record: grpc.aio.Channel) -> None:
    method: Any = record.unary_unary(
        "/modelkeep.record.v1.RecordService/GetModel",
        record_service_pb2.GetModelRequest.SerializeToString,
        record_service_pb2.GetModelResponse.FromString,
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(record_service_pb2.GetModelRequest(key="NOT A KEY"))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    ((field, description),) = _violations(caught.value)
    assert field == "key"
    assert description
    await method(record_service_pb2.GetModelRequest(key="0" * 32))


async def test_a_bad_element_of_a_list_is_named_by_its_index(record: grpc.aio.Channel) -> None:
    method: Any = record.unary_unary(
        "/modelkeep.record.v1.RecordService/BatchGetModels",
        record_service_pb2.BatchGetModelsRequest.SerializeToString,
        record_service_pb2.BatchGetModelsResponse.FromString,
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(record_service_pb2.BatchGetModelsRequest(keys=["0" * 32, "bad", "worse"]))
    assert [field for field, _ in _violations(caught.value)] == ["keys[1]", "keys[2]"]


async def test_each_call_is_one_log_line_without_its_payload(data_dir: Path) -> None:
    async def stream(request: StringValue, context: Any) -> Any:
        yield request
        yield request

    async def fail(request: StringValue, context: Any) -> Any:
        raise ValueError(request.value)

    file = data_dir / "logs" / "test.jsonl"
    await asyncio.to_thread(logs.configure, "test", file=file)
    try:
        handlers = {"Echo": echo, "StreamEcho": stream, "Fail": fail}
        async with serving(App(handlers), data_dir) as (_, client):
            await client.unary("Echo", "hf_payload12345", metadata=(("x-request-id", "r1"),))
            _ = [message async for message in client.stream("StreamEcho", "hf_payload12345")]
            with pytest.raises(grpc.aio.AioRpcError):
                await client.unary("Fail", "hf_payload12345")
            await health(client.channel).Check(health_pb2.HealthCheckRequest())
    finally:
        await asyncio.to_thread(logs.shutdown)
    text = file.read_text()
    assert "payload" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    calls = [line for line in lines if line["message"] == "rpc"]
    assert [(c["method"].split("/")[1], c["code"], c["reason"]) for c in calls] == [
        ("Echo", "OK", ""),
        ("Fail", "INTERNAL", "INTERNAL"),
    ]
    assert calls[0]["request_id"] == "r1"
    assert calls[0]["bytes_in"] == calls[0]["bytes_out"] == 17
    assert calls[0]["service"] == "test"
    opened, closed = (line for line in lines if line["message"].startswith("stream"))
    assert (opened["open_streams"], closed["messages"], closed["bytes_out"]) == (1, 2, 34)
    (error,) = (line for line in lines if line["severity"] == "ERROR")
    assert error["exception"]["type"] == "builtins.ValueError"
    assert error["request_id"] == calls[1]["request_id"]


# Start and drain


@pytest.mark.parametrize(
    ("settings", "code", "text"),
    [
        ({"host": "0.0.0.0", "insecure": False}, 78, "--insecure"),
        ({"insecure": False}, 78, "--token-file"),
        ({"host": "no.such.host.invalid", "insecure": False}, 78, "unknown"),
        ({"host": "127.1"}, 78, "127.1 is an unusual spelling of 127.0.0.1: write 127.0.0.1"),
        ({"host": "2130706433"}, 78, "unusual spelling of 127.0.0.1"),
        ({"host": "0x7f.0.0.1"}, 78, "unusual spelling of 127.0.0.1"),
        ({"host": "127.0.0.01"}, 78, "unusual spelling of 127.0.0.1"),
        ({"host": "127.0.0.1 "}, 78, "unusual spelling of 127.0.0.1"),
        ({"host": "0"}, 78, "unusual spelling of 0.0.0.0"),
        ({"host": "192.0.2.1", "insecure": True}, 78, "cannot listen"),
        ({"unix_socket": Path("/tmp/" + "x" * 120)}, 78, "107"),
    ],
)
async def test_an_address_that_is_no_good_is_refused_with_a_reason(
    data_dir: Path, settings: dict[str, Any], code: int, text: str
) -> None:
    app = App({})
    with pytest.raises(StartupError, match=text) as caught:
        await start_server(app, AppSettings.for_test(data_dir, **settings))
    assert caught.value.exit_code == code
    assert app.calls == []


async def test_every_interface_is_fine_when_said_to_be_insecure(data_dir: Path) -> None:
    async with serving(App({"Echo": echo}), data_dir, host="0.0.0.0", insecure=True) as (server, client):
        assert server.address.startswith("127.0.0.1:")
        assert (await client.unary("Echo", "x")).value == "x"


async def test_a_drain_goes_in_order_and_lets_calls_finish(data_dir: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    states: list[int] = []

    async def slow(request: StringValue, context: Any) -> StringValue:
        begun.set()
        await go_on.wait()
        return request

    async def on_drain() -> None:
        states.append((await server.health.Check(health_pb2.HealthCheckRequest(), None)).status)
        go_on.set()

    app = App({"Slow": slow}, on_drain=on_drain)
    server = await start_server(
        app, AppSettings.for_test(data_dir, drain_grace_s=5), allowed=roles_of("Slow")
    )
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = Client(channel).unary("Slow", "x")
        await begun.wait()
        await server.stop()
        assert (await call).value == "x"
    assert app.calls == ["open", "register", "drain", "close"]
    assert states == [NOT_SERVING]
    await server.stop()


async def test_a_failed_open_frees_the_port_and_closes_what_was_opened(data_dir: Path) -> None:
    async def refuse() -> None:
        raise StartupError(65, "newer")

    app = App({}, on_open=refuse)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(StartupError):
        await start_server(app, AppSettings.for_test(data_dir, port=port))
    assert app.calls == ["open", "close"]
    async with serving(App({}), data_dir, port=port):
        pass


MAIN = """
import asyncio, sys
from support.commonapp import App, AppSettings, roles_of
from modelkeep_common.serving import run
from modelkeep_common.settings import load_settings
from modelkeep_common.startup import StartupError

async def slow(request, context):
    await asyncio.sleep(60)

async def hang():
    import time
    time.sleep(60)

async def refuse():
    raise StartupError(65, "the database is newer")

mode = sys.argv[1]
options = {"hang": {"on_drain": hang}, "refuse": {"on_open": refuse}}.get(mode, {})
app = App({"Slow": slow}, **options)
sys.exit(run(lambda _: app, load_settings(AppSettings, sys.argv[2:]), allowed=roles_of("Slow")))
"""


def start(mode: str, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, mode, "--port", "0", "--insecure", *flags],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": os.environ["PATH"]},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], message: str) -> dict[str, Any]:
    assert process.stderr is not None
    for text in process.stderr:
        if text.startswith("{") and json.loads(text)["message"] == message:
            line: dict[str, Any] = json.loads(text)
            return line
    raise AssertionError(f"ended with {process.wait()} before {message!r}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_0(data_dir: Path, number: signal.Signals) -> None:
    process = start("plain")
    line = wait_for(process, "serving")
    assert line["pid"] == process.pid
    process.send_signal(number)
    _, rest = process.communicate(timeout=10)
    assert process.returncode == 0
    assert [json.loads(text)["message"] for text in rest.splitlines()] == ["draining", "drained"]


def test_a_second_signal_cuts_the_grace_short(data_dir: Path) -> None:
    process = start("plain", "--drain-grace-s", "60", "--drain-watchdog-s", "100")
    address = wait_for(process, "serving")["address"]
    with grpc.insecure_channel(address) as channel:
        method: Any = channel.unary_unary(f"/{SERVICE}/Slow")
        call = method.future(b"", wait_for_ready=True)
        # The call is under way once a later one on the same connection was answered.
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        process.terminate()
        wait_for(process, "draining")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.terminate()
        process.communicate(timeout=10)
        assert process.returncode == 0
        assert call.code() == grpc.StatusCode.UNAVAILABLE


def test_a_drain_that_hangs_is_ended_by_the_watchdog(data_dir: Path) -> None:
    process = start("hang", "--drain-watchdog-s", "0.5")
    wait_for(process, "serving")
    process.terminate()
    _, rest = process.communicate(timeout=10)
    assert process.returncode == 70
    assert "the drain hangs" in rest


def test_a_delay_before_a_drain_is_for_those_who_still_come_and_the_watchdog_waits(data_dir: Path) -> None:
    process = start("plain", "--drain-delay-s", "3", "--drain-watchdog-s", "2.5")
    address = wait_for(process, "serving")["address"]
    process.terminate()
    wait_for(process, "draining")
    with grpc.insecure_channel(address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == NOT_SERVING
    _, rest = process.communicate(timeout=20)
    assert process.returncode == 0, rest


def test_a_service_that_cannot_start_says_why_and_exits_with_its_code(data_dir: Path) -> None:
    process = start("refuse")
    _, rest = process.communicate(timeout=10)
    assert process.returncode == 65
    assert "modelkeep test: the database is newer" in rest
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start("plain", "--port", str(taken.getsockname()[1]))
        _, rest = process.communicate(timeout=10)
    assert process.returncode == 98
    assert "is taken by another process" in rest
