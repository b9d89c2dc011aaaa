"""How tests of the common floor look at the answers of calls."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value)
    raise AssertionError("no status details")


def reason_of(error: grpc.aio.AioRpcError) -> str:
    infos = []
    for detail in status_of(error).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            infos.append(info)
    (info,) = infos
    assert info.domain == "test.modelkeep.dev"
    return str(info.reason)


async def fails(call: Any) -> grpc.aio.AioRpcError:
    async def finish() -> None:
        if not hasattr(call, "read"):
            await call
            return
        async for _ in call:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await finish()
    return caught.value


async def echo(request: StringValue, context: Any) -> StringValue:
    return request


async def until(condition: Any, timeout: float = 5) -> None:
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110  what is waited for is on the other side of a socket
            await asyncio.sleep(0.01)
