"""Putting everything around a handler: one function per method, built once. Order: ``__init__.py``."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import grpc
import grpc.aio
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.descriptor_pool import Default as default_pool
from google.protobuf.message import DecodeError

from ..auth.callers import Identify, role_required
from ..auth.principal import NOBODY, Principal
from ..auth.table import ALLOWED, EVERYBODY, NO_ROLE
from . import errors
from .admission import Admission, Gate
from .call import CURRENT, CallInfo
from .deadline import Limiter
from .request_id import HEADER, request_id_of
from .status import CODE_OF_NUMBER
from .telemetry import Telemetry
from .validation import Rules, rules_of

#: Logged only when something is wrong.
QUIET = frozenset(
    {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
)

_GONE = ("CANCELLED", "CANCELLED")
_LATE = ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")


class _Method(NamedTuple):
    """What the chain knows about a method."""

    name: str
    gate: Gate
    quiet: bool
    rules: Rules | None
    allowed: frozenset[str]


class Chain:
    """Wraps handlers.

    Args:
        domain: The ErrorInfo domain.
        admission: The server's gates.
        telemetry: Where call lines go.
        identify: Makes the Principal of a call.
        max_unary_s: Deadline in seconds of a unary call that states none.
        allowed: Full method name to the roles that may call it; see auth/table.py.
    """

    def __init__(
        self,
        domain: str,
        admission: Admission,
        telemetry: Telemetry,
        identify: Identify,
        max_unary_s: float = 300,
        allowed: Mapping[str, frozenset[str]] = ALLOWED,
    ) -> None:
        self.domain = domain
        self.admission = admission
        self.telemetry = telemetry
        self.limiter = Limiter(max_unary_s)
        self._allowed = allowed
        self._identify = identify

    def wrap(self, handler: grpc.RpcMethodHandler[Any, Any], name: str) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of method ``name`` (``package.Service/Method``) with everything around it.

        Raises:
            TypeError: The handler is neither a coroutine function nor an asynchronous generator;
                gRPC would run it in a thread and send what it returns.
        """
        check_handler(handler, name)
        method = self._describe(name, streams=handler.request_streaming or handler.response_streaming)
        if not handler.request_streaming and not handler.response_streaming:
            return grpc.unary_unary_rpc_method_handler(self._unary(handler, method))
        if not handler.request_streaming:
            return grpc.unary_stream_rpc_method_handler(self._stream(handler, method, handler.unary_stream))
        # Requests that stream in are parsed as the handler takes them.
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(handler, method, handler.stream_stream),
                request_deserializer=handler.request_deserializer,
            )
        return grpc.stream_unary_rpc_method_handler(
            self._unary(handler, method), request_deserializer=handler.request_deserializer
        )

    def _describe(self, name: str, *, streams: bool) -> _Method:
        service, _, method = name.partition("/")
        descriptor = _find_method(service, method)
        request: Descriptor | None = descriptor.input_type if descriptor is not None else None
        gate = self.admission.gate_of(name, descriptor, streams=streams)
        streams_in = descriptor is not None and descriptor.client_streaming
        rules = None if streams_in else rules_of(request)
        return _Method(name, gate, service in QUIET, rules, self._allowed.get(name, NO_ROLE))

    def _principal(self, method: _Method, peer: str, metadata: Any) -> Principal:
        """Who calls, if he may."""
        allowed = method.allowed
        if allowed is EVERYBODY:
            return NOBODY
        principal = self._identify(peer, metadata)
        if principal.roles.isdisjoint(allowed):
            raise role_required(principal, method.name, allowed)
        return principal

    def _unary(
        self, handler: grpc.RpcMethodHandler[Any, Any], method: _Method
    ) -> Callable[..., Awaitable[bytes]]:
        inner: Any = handler.unary_unary or handler.stream_unary
        parse = None if handler.request_streaming else handler.request_deserializer
        serialize = handler.response_serializer
        name, gate, quiet, rules, _ = method
        principal_of = self._principal
        limiter = self.limiter
        get_running_loop = asyncio.get_running_loop
        telemetry = self.telemetry
        perf_counter = time.perf_counter

        async def unary(raw: Any, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            started = perf_counter()
            peer, metadata = context.peer(), context.invocation_metadata()
            request_id = request_id_of(metadata)
            remaining = context.time_remaining()
            code, reason, out = "OK", "", b""
            try:
                principal = principal_of(method, peer, metadata)
                until = None if remaining is None else time.monotonic() + remaining
                CURRENT.set(CallInfo(request_id, principal, name, until))
                gate.enter(principal.name)
                try:
                    request = raw if parse is None else _parse(parse, raw)
                    if rules is not None:
                        if not rules.ready:
                            await rules.prepare()
                        rules.check(request, len(raw))
                    if remaining is None:
                        task = asyncio.current_task()
                        assert task is not None
                        limiter.watch(task, get_running_loop())
                        try:
                            response = await inner(request, context)
                        except asyncio.CancelledError:
                            late = limiter.took_too_long(task)
                            if late is None:
                                raise
                            raise late from None
                        finally:
                            limiter.release(task)
                    else:
                        response = await inner(request, context)
                    out = response if serialize is None else serialize(response)
                finally:
                    gate.leave(principal.name)
                context.set_trailing_metadata(((HEADER, request_id),))
                return out
            except asyncio.CancelledError:
                # Never swallowed: gRPC leaks the call's state otherwise.
                code, reason = _LATE if _is_late(context) else _GONE
                raise
            except grpc.aio.AbortError:
                code = _code_name(context)
                raise
            except Exception as error:
                answer, reason = errors.status_of(error, self.domain, name, request_id)
                code = CODE_OF_NUMBER[answer.code].name
                await errors.abort(context, answer, request_id)
            finally:
                if not quiet or code == "INTERNAL":
                    size = len(raw) if parse is not None else 0
                    telemetry.call(
                        name,
                        code,
                        reason,
                        perf_counter() - started,
                        peer,
                        request_id,
                        size,
                        len(out),
                    )

        return unary

    def _stream(
        self, handler: grpc.RpcMethodHandler[Any, Any], method: _Method, inner: Any
    ) -> Callable[..., Awaitable[None]]:
        parse = None if handler.request_streaming else handler.request_deserializer
        serialize = handler.response_serializer
        name, gate, quiet, rules, _ = method
        principal_of = self._principal
        yields = inspect.isasyncgenfunction(inner)

        async def stream(raw: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            started = time.perf_counter()
            peer, metadata = context.peer(), context.invocation_metadata()
            request_id = request_id_of(metadata)
            remaining = context.time_remaining()
            writer = StreamContext(context, serialize)
            code, reason = "OK", ""
            try:
                principal = principal_of(method, peer, metadata)
                until = None if remaining is None else time.monotonic() + remaining
                CURRENT.set(CallInfo(request_id, principal, name, until))
                gate.enter(principal.name)
                try:
                    if not quiet:
                        self.telemetry.stream_opened(name, peer, request_id, gate.active)
                    request = raw if parse is None else _parse(parse, raw)
                    if rules is not None:
                        if not rules.ready:
                            await rules.prepare()
                        rules.check(request, len(raw))
                    if yields:
                        await _write_all(inner(request, writer), writer)
                    else:
                        await inner(request, writer)
                finally:
                    gate.leave(principal.name)
                context.set_trailing_metadata(((HEADER, request_id),))
            except asyncio.CancelledError:
                code, reason = _LATE if _is_late(context) else _GONE
                raise
            except grpc.aio.AbortError:
                code = _code_name(context)
                raise
            except Exception as error:
                if context.cancelled():
                    # A write that the client's leaving cut short fails with an error of gRPC's own.
                    code, reason = _GONE
                    raise asyncio.CancelledError from error
                answer, reason = errors.status_of(error, self.domain, name, request_id)
                code = CODE_OF_NUMBER[answer.code].name
                await errors.abort(context, answer, request_id)
            finally:
                if not quiet or code == "INTERNAL":
                    self.telemetry.stream_closed(
                        name,
                        code,
                        reason,
                        time.perf_counter() - started,
                        peer,
                        request_id,
                        writer.messages,
                        writer.bytes_out,
                        gate.active,
                    )

        return stream


class StreamContext:
    """A call's context whose ``write`` also takes bytes, serialises inside the chain, and counts."""

    __slots__ = ("_inner", "_serialize", "_write", "bytes_out", "messages")

    def __init__(
        self, inner: grpc.aio.ServicerContext[Any, Any], serialize: Callable[[Any], bytes] | None
    ) -> None:
        self._inner = inner
        self._write: Callable[[bytes], Awaitable[None]] = inner.write
        self._serialize = serialize
        self.messages = 0
        self.bytes_out = 0

    async def write(self, message: Any) -> None:
        """Send one message, or bytes that already are one."""
        data = message if type(message) is bytes or self._serialize is None else self._serialize(message)
        try:
            await self._write(data)
        except grpc.aio.InternalError as error:
            # Nothing but the end of the call makes a write fail, and gRPC may tell of that end only later.
            raise asyncio.CancelledError from error
        self.messages += 1
        self.bytes_out += len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


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


def check_handler(handler: grpc.RpcMethodHandler[Any, Any], name: str) -> None:
    """See :meth:`Chain.wrap`."""
    function = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    fits = inspect.iscoroutinefunction(function) or (
        handler.response_streaming and inspect.isasyncgenfunction(function)
    )
    if not fits:
        raise TypeError(f"the handler of {name} must be declared with `async def`")


def _find_method(service: str, method: str) -> MethodDescriptor | None:
    try:
        return default_pool().FindServiceByName(service).methods_by_name.get(method)
    except KeyError:
        return None


def _parse(parse: Callable[[bytes], Any], raw: bytes) -> Any:
    try:
        return parse(raw)
    except Exception as error:
        raise DecodeError from error


async def _write_all(messages: Any, context: StreamContext) -> None:
    # The generator is closed here, in this task, and not some time later in another.
    try:
        async for message in messages:
            await context.write(message)
    finally:
        await messages.aclose()


def _is_late(context: Any) -> bool:
    remaining = context.time_remaining()
    return remaining is not None and remaining <= 0


def _code_name(context: Any) -> str:
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    known = CODE_OF_NUMBER.get(code)
    return known.name if known is not None else "UNKNOWN"
