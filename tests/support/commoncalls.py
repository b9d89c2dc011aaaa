"""How tests of the common floor look at the answers of calls."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from support.failures import failure_of


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason of an error of the tests' service."""
    failure = failure_of(error)
    assert failure.domain == "test.modelkeep.dev"
    return failure.reason


async def error_of(call: Any) -> grpc.aio.AioRpcError:
    """What a call, or a stream read to its end, fails with."""

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
