"""What takes the servicers' handlers in the server's place, and gives them to the chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio

from .chain import Chain
from .handlers import check_handler


class Registrar:
    """Stands in for the server when servicers register: wraps what they add.

    All of it is then one generic handler with one look-up per call.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """As the server's."""
        self._handlers.extend(generic_rpc_handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """As the server's; the same methods come as generic handlers too, so they are only checked."""
        for name, handler in method_handlers.items():
            check_handler(handler, f"{service_name}/{name}")

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a service may only register its servicers, not use the server's {name}")

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register everything."""
        server.add_generic_rpc_handlers((_Router(self),))

    def find(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The wrapped handler of a call; None if there is no such method."""
        method = details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            for generic in self._handlers:
                handler = generic.service(details)
                if handler is not None:
                    wrapped = self._wrapped[method] = self._chain.wrap(handler, method.lstrip("/"))
                    break
        return wrapped


class _Router(grpc.GenericRpcHandler):
    def __init__(self, registrar: Registrar) -> None:
        self.service = registrar.find  # type: ignore[method-assign,assignment]  # saves a call per call

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        raise AssertionError("replaced in __init__")
