"""Gates: each class of calls has its own, and no caller's crowd keeps another out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import resource
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelkeep.exceptions import ServerBusyException
from modelkeep.loader.v1 import loader_service_pb2
from modelkeep.record.v1 import record_service_pb2
from modelkeep.server.v1 import server_service_pb2, server_service_pb2_grpc
from modelkeep_common.auth import ADMIN
from modelkeep_common.calls.admission import Admission, Gate
from modelkeep_common.serving.connections import connection_limit
from support.commonapp import SERVICE, App, AppSettings, Client, serving
from support.commoncalls import echo, error_of, reason_of
from support.failures import status_of
from support.http2 import Connection
from support.waiting import until

pytestmark = pytest.mark.timeout(90)
GREEDY, MODEST = "greedy-token-of-16", "modest-token-of-16"


def test_one_principal_never_gets_all_of_a_gate() -> None:
    gate = Gate("read", 10, 0.5)
    for _ in range(5):
        gate.enter("greedy")
    with pytest.raises(
        ServerBusyException, match="5 read calls are under way, as many as greedy may"
    ) as full:
        gate.enter("greedy")
    assert full.value.metadata == {"class": "read", "limit": "5"}
    for number in range(5):
        gate.enter(f"other{number}")
    with pytest.raises(ServerBusyException, match="10 read calls are under way, as many as the server takes"):
        gate.enter("late")
    gate.leave("greedy")
    gate.enter("late")
    for name in ("greedy",) * 4 + ("late", *(f"other{number}" for number in range(5))):
        gate.leave(name)
    assert (gate.active, gate._of) == (0, {})


def test_each_class_of_calls_has_a_gate_of_its_own(data_dir: Path) -> None:
    admission = Admission(AppSettings.for_test(data_dir))
    methods = {
        method.full_name: method
        for module in (record_service_pb2, loader_service_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }

    def kind(name: str) -> str:
        method = methods.get(name)
        streams = method is not None and (method.client_streaming or method.server_streaming)
        service, _, short = name.rpartition(".")
        return admission.gate_of(f"{service}/{short}", method, streams=streams).kind

    assert kind("modelkeep.record.v1.RecordService.GetModel") == "read"
    assert kind("modelkeep.record.v1.RecordService.DeleteModel") == "write"
    assert kind("modelkeep.record.v1.RecordService.WatchModels") == "watch"
    assert kind("modelkeep.loader.v1.LoaderService.HoldModel") == "hold"
    assert kind("modelkeep.loader.v1.LoaderService.LoadModel") == "hold"
    assert kind("modelkeep.download.v1.DownloadService.WaitDownloads") == "watch"
    assert kind("grpc.health.v1.Health.Check") == "health"
    assert admission.gate_of("grpc.health.v1.Health/Watch", None, streams=True).kind == "watch"


@contextlib.asynccontextmanager
async def two_callers(app: App, data_dir: Path, **settings: Any) -> AsyncIterator[tuple[Any, Client]]:
    """A server that knows a greedy and a modest caller, and a client without a token."""
    file = data_dir / "tokens.json"
    entries = [
        {"name": name, "roles": [ADMIN], "sha256": hashlib.sha256(token.encode()).hexdigest()}
        for name, token in (("greedy", GREEDY), ("modest", MODEST))
    ]
    file.write_text(json.dumps({"tokens": entries}))
    file.chmod(0o600)
    async with serving(app, data_dir, token_file=file, insecure=False, **settings) as (server, client):
        yield server, client


def as_(token: str) -> dict[str, Any]:
    return {"metadata": (("authorization", f"Bearer {token}"),)}


async def test_a_callers_streams_leave_room_for_other_callers_and_other_calls(data_dir: Path) -> None:
    async def endless(request: Any, context: Any) -> None:
        await context.write(request)
        await asyncio.Event().wait()

    app = App({"StreamEndless": endless, "Echo": echo})
    async with two_callers(app, data_dir, max_holds=8, max_writes=2) as (_, client):
        crowd = [client.stream("StreamEndless", **as_(GREEDY)) for _ in range(4)]
        for call in crowd:
            await call.read()
        refused = await error_of(client.stream("StreamEndless", **as_(GREEDY)).read())
        assert reason_of(refused) == "SERVER_BUSY"
        kinds = [detail.type_url.rsplit(".", 1)[-1] for detail in status_of(refused).details]
        assert "RetryInfo" in kinds
        assert (await client.unary("Echo", "still", **as_(GREEDY))).value == "still"
        modest = client.stream("StreamEndless", "in", **as_(MODEST))
        assert (await modest.read()).value == "in"
        for call in (*crowd, modest):
            call.cancel()


async def test_the_bounds_are_told_by_name(data_dir: Path) -> None:
    async with serving(App({}), data_dir, max_watches=100, principal_share=0.25) as (_, client):
        stub: Any = server_service_pb2_grpc.ServerServiceStub(client.channel)
        limits = (await stub.GetServerInfo(server_service_pb2.GetServerInfoRequest())).limits
    assert (limits["max_watches"], limits["max_watches_per_principal"]) == (100, 25)
    assert limits.keys() >= {"max_reads", "max_writes", "max_holds", "max_health", "max_connection_streams"}
    assert limits.keys() >= {"reserve_bytes", "max_message_bytes"}


async def test_more_streams_than_a_connection_may_have_wait_and_others_are_served(data_dir: Path) -> None:
    begun = 0

    async def endless(request: Any, context: Any) -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    app = App({"StreamEndless": endless, "Echo": echo})
    async with serving(app, data_dir, max_connection_streams=50) as (server, client):
        crowd = await asyncio.to_thread(Connection, server.address, f"{SERVICE}/StreamEndless")
        with contextlib.suppress(OSError):
            await asyncio.to_thread(crowd.call, 500)
        assert (await client.unary("Echo", "served", timeout=30)).value == "served"
        await asyncio.sleep(0.3)
        assert begun <= 50
        await asyncio.to_thread(crowd.close)


async def test_a_crowd_of_connections_over_tcp_leaves_the_socket_open_and_goes_when_it_goes(
    data_dir: Path,
) -> None:
    path = data_dir / "s" / "app.sock"
    async with serving(App({"Echo": echo}), data_dir, max_connections=20, unix_socket=path) as (server, _):
        crowd: list[Connection] = []

        def gather() -> None:
            for _ in range(60):
                with contextlib.suppress(OSError):
                    crowd.append(Connection(server.address, f"{SERVICE}/Echo"))

        await asyncio.to_thread(gather)
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            assert (await Client(channel).unary("Echo", "owner", timeout=30)).value == "owner"
        async with grpc.aio.insecure_channel(server.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await Client(channel).unary("Echo", "late", timeout=30)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            for one in crowd:
                one.close()
            assert (
                await Client(channel).unary("Echo", "later", timeout=30, wait_for_ready=True)
            ).value == "later"


@pytest.mark.parametrize(
    ("soft", "hard", "limit", "raised"),
    [
        (1024, 100_000, 4096, 8704),
        (20_000, 20_000, 4096, None),
        (1024, 1024, 256, 1024),
        (256, 256, 16, 256),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 4096, None),
        (1024, resource.RLIM_INFINITY, 4096, 8704),
    ],
)
def test_connections_leave_descriptors_for_files(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, limit: int, raised: int | None
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: told.append(limits))
    assert connection_limit(4096) == limit
    assert told == ([] if raised is None else [(raised, hard)])


async def test_a_burst_beyond_what_a_connection_may_have_loses_no_call(data_dir: Path) -> None:
    async with serving(App({"Echo": _slow_echo}), data_dir, max_connection_streams=20) as (_, client):
        answers = await asyncio.gather(*(client.unary("Echo", str(n), timeout=60) for n in range(400)))
    assert [answer.value for answer in answers] == [str(n) for n in range(400)]


async def test_calls_that_are_begun_and_reset_at_once_cancel_nobody_elses(data_dir: Path) -> None:
    async with serving(App({"Echo": _slow_echo}), data_dir) as (server, client):
        stop = time.monotonic() + 2

        def abuse() -> None:
            attacker = Connection(server.address, f"{SERVICE}/Echo")
            with contextlib.suppress(OSError):
                while time.monotonic() < stop:
                    attacker.call(200, reset=True)
            attacker.close()

        abusing = asyncio.gather(*(asyncio.to_thread(abuse) for _ in range(2)))
        health: Any = health_pb2_grpc.HealthStub(client.channel)
        served = 0
        while not abusing.done() or not served:
            assert (await client.unary("Echo", "innocent", timeout=60)).value == "innocent"
            await health.Check(health_pb2.HealthCheckRequest(), timeout=60)
            served += 1
        await abusing
        await until(lambda: server.admission.write.active == 0, 30)


async def _slow_echo(request: Any, context: Any) -> Any:
    await asyncio.sleep(0.01)
    return request


async def test_readers_that_vanish_in_the_middle_are_no_errors(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_streams = 0

    async def flood(request: Any, context: Any) -> None:
        nonlocal open_streams
        open_streams += 1
        try:
            while True:
                await context.write(StringValue(value="x" * 30_000))
        finally:
            open_streams -= 1

    async with serving(App({"StreamFlood": flood}), data_dir) as (server, _):
        for _ in range(4):
            crowd = [Connection(server.address, f"{SERVICE}/StreamFlood", reads=False) for _ in range(3)]
            for connection in crowd:
                connection.call(60)
            await until(lambda: open_streams == 180, 30)
            for connection in crowd:
                connection.break_off()
            await until(lambda: open_streams == 0, 30)
        await until(lambda: server.admission.hold.active == 0, 30)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
