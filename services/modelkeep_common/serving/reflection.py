"""gRPC reflection under both of its names, v1 and v1alpha; the messages are the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from .apifiles import api_files
from .newer_protos import LayeredPool

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"


class Reflection(ReflectionServicer):  # type: ignore[misc]  # grpc_reflection has no types
    """The shipped servicer, with streams that a drain can end."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__((*names, V1, V1ALPHA), pool=LayeredPool())
        self._ended = asyncio.Event()

    def end(self) -> None:
        """End the streams that clients keep open."""
        self._ended.set()

    async def ServerReflectionInfo(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        """Answer requests until the client or :meth:`end` ends the stream."""
        await asyncio.to_thread(api_files)
        answers = super().ServerReflectionInfo(_until(request_iterator, self._ended), context)
        async for answer in answers:
            yield answer

    def register(self, server: Any) -> None:
        """Add both services."""
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(self, server)
        handler = grpc.stream_stream_rpc_method_handler(
            self.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(V1, {"ServerReflectionInfo": handler}),)
        )


async def _until(requests: Any, ended: asyncio.Event) -> AsyncIterator[Any]:
    iterator = aiter(requests)
    stop = asyncio.ensure_future(ended.wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(iterator))
            following.add_done_callback(_heard)  # its end may come when nobody waits for it any more
            try:
                await asyncio.wait({following, stop}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not following.done():
                    following.cancel()
            if not following.done() or following.cancelled():
                return
            try:
                request = following.result()
            except StopAsyncIteration:
                return
            yield request
    finally:
        stop.cancel()


def _heard(future: asyncio.Future[Any]) -> None:
    """Take note of how it ended, for which the log would be told otherwise that nobody did."""
    if not future.cancelled():
        future.exception()
