"""Unary calls against a real server that fails as written down: deadlines, repetition, request ids."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor_pb2 import MethodOptions
from grpc import aio

from modelkeep.client import AsyncClient, Client
from modelkeep.client._methods import ensure_request_id, may_repeat
from modelkeep.exceptions import (
    DeadlineExceededException,
    ModelkeepError,
    UnavailableException,
    UpstreamUnavailableException,
)
from modelkeep.loader.v1 import hold_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.record.v1.record_service_pb2_grpc import (
    RecordServiceServicer,
    add_RecordServiceServicer_to_server,
)
from modelkeep.rpc import methods
from support.scripted import serving

CONFIG = {"name": "a", "path": "/a.safetensors", "type": "vae", "format": "checkpoint", "base": "sd-1"}
KEY = "0" * 32


class Flaky(RecordServiceServicer):
    """Fails as often as it is told, then answers."""

    def __init__(self, failures: int, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self.left = failures
        self.code = code
        self.requests: list[Any] = []
        self.remaining: list[float] = []

    async def _fail(self, request: Any, context: aio.ServicerContext[Any, Any]) -> None:
        self.requests.append(request)
        self.remaining.append(context.time_remaining() or 0.0)
        if self.left:
            self.left -= 1
            await context.abort(self.code, "not now")

    async def GetStoreInfo(self, request: Any, context: Any) -> pb.GetStoreInfoResponse:
        await self._fail(request, context)
        return pb.GetStoreInfoResponse(schema_version="3.2")

    async def CreateModel(self, request: Any, context: Any) -> pb.CreateModelResponse:
        await self._fail(request, context)
        return pb.CreateModelResponse(model=request.model)

    async def GetModel(self, request: Any, context: Any) -> pb.GetModelResponse:
        await asyncio.sleep(30)
        return pb.GetModelResponse()

    async def WatchModels(self, request: Any, context: Any) -> AsyncIterator[pb.WatchModelsResponse]:
        yield pb.WatchModelsResponse(resume_token="here")
        await asyncio.sleep(30)


def flaky_service(failures: int, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> Flaky:
    return Flaky(failures, code)  # type: ignore[abstract]  # what is not defined is not called


async def client_of(servicer: Flaky, **settings: Any) -> AsyncIterator[AsyncClient]:
    def register(server: aio.Server) -> None:
        add_RecordServiceServicer_to_server(servicer, server)

    async with serving(register) as address, AsyncClient(record=address, **settings) as client:
        yield client


async def test_a_reading_call_is_repeated_while_the_service_is_unavailable() -> None:
    flaky = flaky_service(2)
    async for client in client_of(flaky):
        assert await client.model_record_store.version() == "3.2"
    assert len(flaky.requests) == 3


async def test_repetition_ends_and_says_which_service_does_not_answer() -> None:
    flaky = flaky_service(100)
    async for client in client_of(flaky):
        with pytest.raises(UpstreamUnavailableException, match="record service"):
            await client.model_record_store.version()
    assert len(flaky.requests) == 4


async def test_a_creating_call_is_repeated_under_the_same_request_id() -> None:
    flaky = flaky_service(1)
    async for client in client_of(flaky):
        await client.model_record_store.add_model(KEY, CONFIG)
    first, second = (request.request_id for request in flaky.requests)
    assert first == second != ""


async def test_other_errors_are_not_repeated() -> None:
    flaky = flaky_service(1, grpc.StatusCode.INTERNAL)
    async for client in client_of(flaky):
        with pytest.raises(ModelkeepError):
            await client.model_record_store.version()
    assert len(flaky.requests) == 1


async def test_every_call_has_a_deadline_that_its_repetitions_share() -> None:
    flaky = flaky_service(2)
    async for client in client_of(flaky, timeout_s=5.0):
        await client.model_record_store.version()
    # What the first call shows depends on how long the connection took to make.
    first, second, third = flaky.remaining
    assert 0 < third < second
    assert max(first, second) < 5.5


async def test_a_service_that_hangs_ends_in_time() -> None:
    async for client in client_of(flaky_service(0), timeout_s=0.3):
        async with asyncio.timeout(30):
            with pytest.raises(DeadlineExceededException):
                await client.model_record_store.get_model(KEY)


async def test_a_cancelled_task_cancels_its_call() -> None:
    async for client in client_of(flaky_service(0)):
        task = asyncio.create_task(client.model_record_store.get_model(KEY))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.long
async def test_the_first_call_after_a_long_outage_finds_a_service_that_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)  # the spread of it is not the matter here
    flaky = flaky_service(0)

    def register(server: aio.Server) -> None:
        add_RecordServiceServicer_to_server(flaky, server)

    async with serving(register) as address:
        pass
    async with AsyncClient(record=address) as client:
        with pytest.raises(UnavailableException):
            await client.model_record_store.version()
        # gRPC waits longer and longer between its attempts to connect: here for two seconds by now, if let.
        await asyncio.sleep(4.5)
        async with serving(register, port=int(address.rpartition(":")[2])):
            assert await client.model_record_store.version() == "3.2"


def test_nothing_at_the_address_fails_within_seconds_in_the_blocking_client() -> None:
    began = time.monotonic()
    with Client(record="127.0.0.1:1") as client, pytest.raises(UnavailableException):
        client.model_record_store.version()
    assert time.monotonic() - began < 25  # a call may take 30 s


async def test_a_part_of_a_client_may_be_all_of_it_that_is_kept() -> None:
    def register(server: aio.Server) -> None:
        add_RecordServiceServicer_to_server(flaky_service(0), server)

    def ask() -> list[str]:
        store = Client(record=address).model_record_store
        frames = Client(record=address).model_record_store.watch()
        try:
            return [store.version(), next(frames).resume_token]
        finally:
            frames.close()

    async with serving(register) as address:
        assert await asyncio.to_thread(ask) == ["3.2", "here"]


def test_a_closed_client_says_so() -> None:
    client = Client(record="127.0.0.1:1")
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.model_record_store.version()


async def test_a_closed_asyncio_client_says_so_and_opens_nothing_anew() -> None:
    async for client in client_of(flaky_service(0)):
        await client.model_record_store.version()
        await client.close()
        with pytest.raises(RuntimeError, match="closed"):
            await client.model_record_store.version()
        with pytest.raises(RuntimeError, match="closed"):
            await anext(client.model_record_store.watch())


def test_an_asyncio_client_in_a_second_event_loop_says_so() -> None:
    client = AsyncClient(record="127.0.0.1:1")

    async def use() -> None:
        await client.model_record_store.version()

    with pytest.raises(UnavailableException):
        asyncio.run(use())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(use())


FORKS = """
import asyncio, os, sys
from modelkeep.client import AsyncClient, Client
from modelkeep.exceptions import UnavailableException

def call(client):
    try:
        client.model_record_store.version()
    except UnavailableException:
        return "unavailable"
    except RuntimeError as error:
        return str(error)

async def call_async():
    try:
        await AsyncClient(record="127.0.0.1:1").model_record_store.version()
    except RuntimeError as error:
        return str(error)

client = Client(record="127.0.0.1:1")
if sys.argv[1] == "used":
    assert call(client) == "unavailable"
if os.fork() == 0:
    print(call(client))
    print(call(Client(record="127.0.0.1:1")))
    if sys.argv[1] == "used":
        print(asyncio.run(call_async()))
    client.close()
    sys.exit(0)  # what the interpreter winds up must not wait for the parent's thread either
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert call(client) == "unavailable"
"""


def forked(how: str) -> list[str]:
    """What a forked child says of its calls; the parent goes on as before."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, how], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_client_in_a_forked_child_says_what_to_do_and_never_hangs() -> None:
    answers = forked("used")
    assert len(answers) == 3
    assert all("fork" in answer and '"spawn"' in answer for answer in answers), answers


def test_a_client_that_was_not_used_before_a_fork_works_in_the_child() -> None:
    assert forked("unused") == ["unavailable", "unavailable"]


def test_only_what_the_descriptors_declare_safe_may_be_repeated_without_a_request_id() -> None:
    for method in methods().values():
        request = cast(Any, method.input_type)._concrete_class()
        level = method.GetOptions().idempotency_level
        assert may_repeat(request) == (level != MethodOptions.IDEMPOTENCY_UNKNOWN), method.full_name


def test_a_request_id_is_added_where_there_is_a_field_for_it_and_kept_where_it_is_set() -> None:
    update = pb.UpdateModelRequest()
    ensure_request_id(update)
    assert may_repeat(update)
    given = pb.UpdateModelRequest(request_id="mine")
    ensure_request_id(given)
    assert given.request_id == "mine"
    hold = hold_pb2.HoldModelRequest()
    ensure_request_id(hold)
    assert not may_repeat(hold)
