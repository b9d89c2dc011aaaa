"""grpc.health.v1: Check, Watch and List, for ``""``, each service's full name, and ``live``.

``live`` says that the process works at all and stays SERVING during a drain: a probe of it must not kill
a server that is just finishing its calls. The others say whether to send calls here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelkeep.exceptions import ModelkeepError, ServerDrainingException

from .newer_protos import message_class

#: The name whose status is liveness.
LIVE = "live"

NAME = "grpc.health.v1.Health"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class UnknownServiceException(ModelkeepError):
    """Health has no status under this name."""

    reason = "FIELD_INVALID"
    code = "NOT_FOUND"


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc_health has no types
    """Statuses by name; NOT_SERVING until :meth:`serve`."""

    def __init__(self, names: Iterable[str]) -> None:
        self._status: dict[str, int] = {
            "": _NOT_SERVING,
            **dict.fromkeys(names, _NOT_SERVING),
            LIVE: _SERVING,
        }
        self._changed = asyncio.Event()
        self._ended = False

    @property
    def is_serving(self) -> bool:
        """Whether calls are welcome."""
        return bool(self._status[""] == _SERVING)

    def serve(self) -> None:
        """From now on calls are welcome."""
        self._set_all(_SERVING)

    def stop_serving(self) -> None:
        """From now on they are not; ``live`` stays as it is."""
        self._set_all(_NOT_SERVING)

    def end_watches(self) -> None:
        """End the Watch streams: nothing will change any more."""
        self._ended = True
        self._announce()

    def _set_all(self, value: int) -> None:
        for name in self._status:
            if name != LIVE:
                self._status[name] = value
        self._announce()

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(self, request: Any, context: Any) -> Any:
        """The status under a name; NOT_FOUND if there is none."""
        status = self._status.get(request.service)
        if status is None:
            raise UnknownServiceException(f"This server has no service named {request.service[:200]!r}.")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: Any, context: Any) -> Any:
        """Every name and its status."""
        response = message_class("grpc.health.v1.HealthListResponse")()
        for name, status in self._status.items():
            response.statuses[name].status = status
        return response

    async def Watch(self, request: Any, context: Any) -> None:
        """The status under a name, now and whenever it changes; SERVICE_UNKNOWN if there is none."""
        last = None
        while not self._ended:
            changed = self._changed
            status = self._status.get(request.service, _UNKNOWN)
            if status != last:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                last = status
                continue  # something may have changed during the write
            await changed.wait()
        raise ServerDrainingException("The server is shutting down.", retry_after=1)

    def register(self, server: Any) -> None:
        """Add the service, with List also where the generated code does not know it."""
        health_pb2_grpc.add_HealthServicer_to_server(self, server)
        handler: Any = grpc.unary_unary_rpc_method_handler(
            self.List,
            request_deserializer=message_class("grpc.health.v1.HealthListRequest").FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, {"List": handler}),))
