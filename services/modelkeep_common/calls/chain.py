"""What happens to every call, in this order:

1. **request id** (request_id.py): taken from ``x-request-id`` or made; sent back; names the call.
2. **deadline** (deadline.py): the caller's, or the server's for a unary call without one.
3. **who calls** (authentication.py): by the listener, the token and the certificate, and whether he has a
   role that the method takes. Health takes none.
4. **its message** (message.py), of a request that does not stream in: within a minute.
5. **admission** (admission.py): so many calls of each class at once, of everybody and of one principal, the
   rest SERVER_BUSY. Health is a class of its own: a busy server is not a dead one.
6. **validation** (validation.py): the request against the rules in its .proto.
7. **the handler** (handlers.py), whose answer is serialised, or written message by message.
8. **errors** (errors.py): whatever went wrong, in a step or in the handler, becomes a ``google.rpc.Status``;
   the text of an unexpected exception never leaves the process.
9. **telemetry** (telemetry.py): one log line per call, with its outcome.

All of it is one function around a method's handler, instead of a chain of gRPC interceptors, because each of
those costs several percent of a unary call. Requests are parsed and responses serialised inside it too:
otherwise a failure to do so would reach the client as it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default as default_pool

from ..auth.callers import Identify
from ..auth.table import ALLOWED
from . import errors
from .admission import Admission, Gate
from .authentication import Authentication
from .call import CURRENT, Call
from .deadline import Limiter
from .handlers import Run, check_handler, runner_of
from .message import ARRIVES_S, message_of
from .request_id import HEADER, request_id_of
from .telemetry import Telemetry
from .validation import Rules, parsed, rules_of

#: Logged only when something is wrong.
QUIET = frozenset(
    {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
)


@dataclass(frozen=True, slots=True)
class _Method:
    """What the chain knows about a method."""

    name: str
    gate: Gate
    rules: Rules | None
    #: None for requests that stream in: they are parsed as the handler takes them.
    parse: Callable[[bytes], Any] | None
    run: Run
    #: Whether it answers with a stream.
    streams: bool
    quiet: bool


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
        self._domain = domain
        self._admission = admission
        self._telemetry = telemetry
        self._authentication = Authentication(identify, allowed)
        self._limiter = Limiter(max_unary_s)
        self._arrival = Limiter(min(max_unary_s, ARRIVES_S))

    def wrap(self, handler: grpc.RpcMethodHandler[Any, Any], name: str) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of method ``name`` (``package.Service/Method``) with everything around it.

        Raises:
            TypeError: The handler is neither a coroutine function nor an asynchronous generator.
        """
        check_handler(handler, name)
        serve = partial(self._serve, self._describe(handler, name))
        # One message is taken as if it were of a stream: message.py says why.
        parse = handler.request_deserializer if handler.request_streaming else None
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(serve, parse)
        return grpc.stream_unary_rpc_method_handler(serve, parse)

    def _describe(self, handler: grpc.RpcMethodHandler[Any, Any], name: str) -> _Method:
        service, _, method = name.partition("/")
        descriptor = _find_method(service, method)
        streams_in, streams_out = handler.request_streaming, handler.response_streaming
        return _Method(
            name,
            self._admission.gate_of(name, descriptor, streams=streams_in or streams_out),
            rules_of(descriptor.input_type) if descriptor is not None and not streams_in else None,
            None if streams_in else handler.request_deserializer or bytes,
            runner_of(handler, self._limiter),
            streams_out,
            service in QUIET,
        )

    async def _serve(self, method: _Method, arriving: Any, context: Any) -> bytes:
        metadata, remaining = context.invocation_metadata(), context.time_remaining()
        call = Call(
            request_id_of(metadata),
            method.name,
            None if remaining is None else time.monotonic() + remaining,
            context.peer(),
            started=time.perf_counter(),
        )
        CURRENT.set(call)
        try:
            call.principal = self._authentication.principal_of(
                method.name, call.peer, metadata, context.auth_context
            )
            request = arriving if method.parse is None else await message_of(context, self._arrival)
            answer = await self._admitted(method, request, context, call)
            context.set_trailing_metadata(((HEADER, call.request_id),))
            return answer
        except asyncio.CancelledError:
            # Never swallowed: gRPC leaks the call's state otherwise.
            errors.note_end(call, context)
            raise
        except grpc.aio.AbortError:
            errors.note_abort(call, context)
            raise
        except Exception as error:
            await errors.answer(call, context, error, self._domain)
        finally:
            if not method.quiet or call.code == "INTERNAL":
                self._telemetry.ended(call, streams=method.streams)

    async def _admitted(self, method: _Method, request: Any, context: Any, call: Call) -> bytes:
        gate, caller = method.gate, call.principal.name
        gate.enter(caller)
        try:
            call.open_streams = gate.active
            if method.streams and not method.quiet:
                self._telemetry.stream_opened(call)
            if method.parse is not None:
                call.bytes_in = len(request)
                request = await parsed(request, method.parse, method.rules)
            return await method.run(request, context, call)
        finally:
            gate.leave(caller)
            call.open_streams = gate.active


def _find_method(service: str, method: str) -> MethodDescriptor | None:
    try:
        return default_pool().FindServiceByName(service).methods_by_name.get(method)
    except KeyError:
        return None
