"""Running a handler, of whichever kind it is: one function that takes the request and gives the answer."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

from .call import Call
from .deadline import Limiter

#: Runs a handler with a parsed request; what it returns goes to gRPC, and is nothing for a stream.
Run: TypeAlias = Callable[[Any, Any, Call], Awaitable[bytes]]


def check_handler(handler: grpc.RpcMethodHandler[Any, Any], name: str) -> None:
    """Refuse what is neither a coroutine function nor an asynchronous generator.

    gRPC would run it in a thread and send what it returns.

    Raises:
        TypeError: It is.
    """
    function = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    fits = inspect.iscoroutinefunction(function) or (
        handler.response_streaming and inspect.isasyncgenfunction(function)
    )
    if not fits:
        raise TypeError(f"the handler of {name} must be declared with `async def`")


def runner_of(handler: grpc.RpcMethodHandler[Any, Any], limiter: Limiter) -> Run:
    """How this handler is run."""
    if handler.response_streaming:
        return _stream(handler.unary_stream or handler.stream_stream, handler.response_serializer)
    return _unary(handler.unary_unary or handler.stream_unary, handler.response_serializer, limiter)


def _unary(handler: Any, serialize: Callable[[Any], bytes] | None, limiter: Limiter) -> Run:
    async def run(request: Any, context: Any, call: Call) -> bytes:
        answering = handler(request, context)
        response = await (limiter.run(answering) if call.deadline is None else answering)
        data: bytes = response if type(response) is bytes or serialize is None else serialize(response)
        call.bytes_out = len(data)
        return data

    return run


def _stream(handler: Any, serialize: Callable[[Any], bytes] | None) -> Run:
    yields = inspect.isasyncgenfunction(handler)

    async def run(request: Any, context: Any, call: Call) -> bytes:
        writer = StreamContext(context, serialize, call)
        try:
            if yields:
                await _write_all(handler(request, writer), writer)
            else:
                await handler(request, writer)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            if context.cancelled():
                # A write that the client's leaving cut short fails with an error of gRPC's own.
                raise asyncio.CancelledError from error
            raise
        return b""

    return run


class StreamContext:
    """A call's context whose ``write`` also takes bytes, serialises inside the chain, and counts."""

    __slots__ = ("_call", "_inner", "_serialize", "_write")

    def __init__(
        self,
        inner: grpc.aio.ServicerContext[Any, Any],
        serialize: Callable[[Any], bytes] | None,
        call: Call,
    ) -> None:
        self._inner = inner
        self._write: Callable[[bytes], Awaitable[None]] = inner.write
        self._serialize = serialize
        self._call = call

    async def write(self, message: Any) -> None:
        """Send one message, or bytes that already are one."""
        data = message if type(message) is bytes or self._serialize is None else self._serialize(message)
        try:
            await self._write(data)
        except grpc.aio.InternalError as error:
            # Nothing but the end of the call makes a write fail, and gRPC may tell of that end only later.
            raise asyncio.CancelledError from error
        self._call.messages += 1
        self._call.bytes_out += len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def _write_all(messages: Any, context: StreamContext) -> None:
    # The generator is closed here, in this task, and not some time later in another.
    try:
        async for message in messages:
            await context.write(message)
    finally:
        await messages.aclose()
