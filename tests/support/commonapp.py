"""A small application for tests of modelkeep_common: handlers by name, over a real channel."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from modelkeep_common.auth import ADMIN
from modelkeep_common.auth.table import ALLOWED
from modelkeep_common.serving import RunningServer, Service, start_server
from modelkeep_common.settings import ServiceSettings

SERVICE = "modelkeep.test.v1.TestService"


class AppSettings(ServiceSettings):
    """Settings of the test application."""

    service: ClassVar[str] = "test"


class App:
    """Serves ``handlers`` (method name → function) with StringValue in and out.

    The kind of a method is told by its name: ``Stream…`` answers with a stream, ``Upload…`` takes one,
    ``Chat…`` does both.
    """

    full_names = (SERVICE,)

    def __init__(
        self,
        handlers: Mapping[str, Callable[..., Any]],
        *,
        on_open: Callable[[], Any] | None = None,
        on_drain: Callable[[], Any] | None = None,
        serializer: Callable[[Any], bytes] = StringValue.SerializeToString,
    ) -> None:
        self.handlers = handlers
        self.on_open = on_open
        self.on_drain = on_drain
        self.serializer = serializer
        self.calls: list[str] = []

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Service]:
        self.calls.append("open")
        try:
            if self.on_open is not None:
                await self.on_open()
            yield Service(self.register, self.server_info, self.drain)
        finally:
            self.calls.append("close")

    def register(self, server: grpc.aio.Server) -> None:
        self.calls.append("register")
        made: dict[str, Any] = {}
        for name, function in self.handlers.items():
            make: Any = grpc.unary_unary_rpc_method_handler
            if name.startswith("Stream"):
                make = grpc.unary_stream_rpc_method_handler
            elif name.startswith("Upload"):
                make = grpc.stream_unary_rpc_method_handler
            elif name.startswith("Chat"):
                make = grpc.stream_stream_rpc_method_handler
            made[name] = make(
                function, request_deserializer=StringValue.FromString, response_serializer=self.serializer
            )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, made),))
        server.add_registered_method_handlers(SERVICE, made)

    def server_info(self) -> Mapping[str, Any]:
        return {"store_id": "s", "features": ["x"], "limits": {"max_page_size": 1000}}

    async def drain(self) -> None:
        self.calls.append("drain")
        if self.on_drain is not None:
            await self.on_drain()


class Client:
    """Calls an application's methods by name."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def unary(self, method: str, text: str = "", **options: Any) -> Any:
        call: Any = self.channel.unary_unary(
            f"/{SERVICE}/{method}", StringValue.SerializeToString, StringValue.FromString
        )
        return call(StringValue(value=text), **options)

    def stream(self, method: str, text: str = "", **options: Any) -> Any:
        call: Any = self.channel.unary_stream(
            f"/{SERVICE}/{method}", StringValue.SerializeToString, StringValue.FromString
        )
        return call(StringValue(value=text), **options)


def roles_of(*methods: str) -> dict[str, frozenset[str]]:
    """The table of roles, with these methods of the application for admins."""
    return {**ALLOWED, **{f"{SERVICE}/{name}": frozenset({ADMIN}) for name in methods}}


@contextlib.asynccontextmanager
async def serving(
    app: App, data_dir: Path, *, allowed: Mapping[str, frozenset[str]] | None = None, **settings: Any
) -> AsyncIterator[tuple[RunningServer, Client]]:
    """A running server and a client of it; ``allowed`` adds to the table of roles."""
    rows = {**roles_of(*app.handlers), **(allowed or {})}
    server = await start_server(app, AppSettings.for_test(data_dir, **settings), allowed=rows)
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield server, Client(channel)
    finally:
        await server.stop(grace_s=0.2)
