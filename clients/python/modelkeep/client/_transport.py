"""Channels and calls: deadlines always, repetition only where it does no harm, errors as exceptions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import CancelledError
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message
from grpc import aio

from modelkeep import rpc
from modelkeep.backoff import Backoff
from modelkeep.client import _fork
from modelkeep.client._methods import ensure_request_id, may_repeat
from modelkeep.defaults import DEFAULT_TIMEOUT_S, ServiceName
from modelkeep.exceptions import CancelledException
from modelkeep.rpc import Address

Q = TypeVar("Q", bound=Message)
A = TypeVar("A")
R = TypeVar("R")

#: How often a call is made at most. Four tries take 0.5 to 1 s, a service's restart about twice that;
#: a person who mistyped an address should not wait longer.
MAX_TRIES: Final = 4
FIRST_DELAY_S: Final = 0.15
#: How much of a list is asked for at once.
_PAGE: Final = 1000

#: Streams get a connection of their own, so that a slow reader of a stream does not hold up calls.
_OWN_CONNECTION: Final = ("grpc.use_local_subchannel_pool", 1)


class Peer:
    """One service as this client sees it: its address, and a channel each for calls and for streams.

    Channels belong to the event loop in which they are first used.

    Raises (from both channels):
        RuntimeError: The client is closed, belongs to another event loop, or is used after a fork.
    """

    def __init__(self, address: Address, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._channel: aio.Channel | None = None
        self._stream_channel: aio.Channel | None = None

    @property
    def channel(self) -> aio.Channel:
        """The channel for unary calls."""
        self._check_use()
        if self._channel is None:
            self._channel = rpc.open_async_channel(self.address)
        return self._channel

    @property
    def stream_channel(self) -> aio.Channel:
        """The channel for streams."""
        self._check_use()
        if self._stream_channel is None:
            self._stream_channel = rpc.open_async_channel(self.address, _OWN_CONNECTION)
        return self._stream_channel

    def _check_use(self) -> None:
        _fork.claim()
        if self._closed:
            raise RuntimeError("This client is closed.")
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise RuntimeError(
                "This client belongs to another event loop, the one of its first call: make one client in "
                "each asyncio.run, or use the blocking Client."
            )

    def wait_for(self, make: Callable[[], Coroutine[Any, Any, R]], instead: str) -> R:
        """Run a coroutine on the event loop that this client belongs to, from another thread, and wait.

        Args:
            make: Makes the coroutine.
            instead: What to do on the event loop itself, which would wait for itself here.

        Raises:
            RuntimeError: This is the event loop's own thread, or the client is closed.
            CancelledException: The client was closed meanwhile.
        """
        _fork.claim()
        if self._closed or self._loop is None:
            raise RuntimeError("This client is closed.")
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is self._loop:
            raise RuntimeError(f"This cannot wait on the client's own event loop: {instead}")
        try:
            return asyncio.run_coroutine_threadsafe(make(), self._loop).result()
        except CancelledError:
            raise CancelledException("The client was closed during the call.") from None

    async def call(
        self, method: aio.UnaryUnaryMultiCallable[Q, A], request: Q, *, timeout: float | None = None
    ) -> A:
        """Make a unary call; again if the service is unavailable and a repetition does no harm.

        Args:
            method: A method of a stub on :attr:`channel`.
            request: Its request; a ``request_id`` is set if it has none.
            timeout: Seconds for all tries together; the client's default if None.

        Raises:
            ModelkeepError: The class of the error's reason.
        """
        ensure_request_id(request)
        deadline = time.monotonic() + (self._timeout_s if timeout is None else timeout)
        backoff = Backoff(FIRST_DELAY_S)
        for tries_left in range(MAX_TRIES - 1, -1, -1):
            try:
                return await method(request, timeout=max(0.001, deadline - time.monotonic()))
            except aio.AioRpcError as error:
                failure = rpc.decode(error, self.address)
                pause = backoff.next(failure.retry_after)
                late = time.monotonic() + pause >= deadline
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not may_repeat(request):
                    raise failure from error
                if not tries_left or late:
                    raise failure from error
            await asyncio.sleep(pause)
        raise AssertionError("unreachable: the last try returns or raises")

    async def pages(self, method: aio.UnaryUnaryMultiCallable[Any, A], request: Any) -> AsyncIterator[A]:
        """The answers to a call that lists something, page by page.

        Raises:
            ModelkeepError: The class of the error's reason.
        """
        request.page_size = _PAGE
        while True:
            answer: Any = await self.call(method, request)
            yield answer
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def stream(
        self, method: aio.UnaryStreamMultiCallable[Q, A], request: Q, *, timeout: float
    ) -> AsyncGenerator[A, None]:
        """Make a streaming call and yield its messages; it is cancelled when the iterator is closed.

        As :meth:`call`, it is made again where a repetition does no harm, as long as nothing has come. Close
        the iterator (``contextlib.aclosing``) if you leave it early.

        Raises:
            ModelkeepError: The class of the error's reason.
        """
        backoff = Backoff(FIRST_DELAY_S)
        for tries_left in range(MAX_TRIES - 1, -1, -1):
            call = method(request, timeout=timeout)
            begun = False
            try:
                async for message in call:
                    begun = True
                    yield message
                return
            except aio.AioRpcError as error:
                failure = rpc.decode(error, self.address)
                away = error.code() is grpc.StatusCode.UNAVAILABLE and not begun
                if not (away and tries_left and may_repeat(request)):
                    raise failure from error
            finally:
                call.cancel()
            await asyncio.sleep(backoff.next(failure.retry_after))

    async def close(self) -> None:
        """Close both channels; calls under way are cancelled. The client cannot be used again."""
        self._closed = True
        channels = [channel for channel in (self._channel, self._stream_channel) if channel is not None]
        self._channel = self._stream_channel = None
        for channel in channels:
            with contextlib.suppress(asyncio.CancelledError):
                await channel.close()


def peers(addresses: Mapping[ServiceName, Address], *, timeout_s: float) -> dict[ServiceName, Peer]:
    """A peer for each address."""
    return {service: Peer(address, timeout_s=timeout_s) for service, address in addresses.items()}
