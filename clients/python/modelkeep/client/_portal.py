"""From blocking code into an event loop that runs in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import CancelledError
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from modelkeep.client import _fork
from modelkeep.exceptions import CancelledException

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")


class Portal:
    """An event loop in a daemon thread; started with the first call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine in the loop and wait for it; an interruption (Ctrl-C) cancels it."""
        loop = self._start(coroutine)
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            return future.result()
        except CancelledError:
            raise CancelledException("The client was closed during the call.") from None
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncGenerator[R], owner: object) -> Generator[R]:
        """The items of an asynchronous generator, which is closed with this one; keeps `owner` alive."""
        # A step that was interrupted still winds up in the loop when the generator is to be closed.
        one_at_a_time = asyncio.Lock()

        async def step() -> R:
            async with one_at_a_time:
                return await anext(items)

        async def close() -> None:
            async with one_at_a_time:
                await items.aclose()

        try:
            while True:
                try:
                    yield self.run(step())
                except StopAsyncIteration:
                    return
        finally:
            if not self._closed and not _fork.is_forked():
                self.run(close())

    def close(self) -> None:
        """Stop the loop and wait for its thread."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.AbstractEventLoop:
        try:
            _fork.claim()  # before the lock, which a thread of the parent may have held
        except RuntimeError:
            coroutine.close()
            raise
        with self._lock:
            if self._closed or threading.current_thread() is self._thread:
                coroutine.close()
                raise RuntimeError(
                    "This client is closed."
                    if self._closed
                    else "A coroutine on the client's own event loop may not call the blocking client: "
                    "it would wait for itself. Make the handler a plain function, or use AsyncClient."
                )
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name="modelkeep-client", daemon=True
                )
                with _uninterrupted():
                    self._thread.start()
            return self._loop


@contextlib.contextmanager
def _uninterrupted() -> Generator[None]:
    """Ctrl-C waits: in the midst of a thread's start it leaves a lock behind on which that thread hangs."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


class Lifeline:
    """What a client and its parts hold together: when none of them is left, the client is closed."""


class Facade(Generic[A]):
    """A blocking face of an asynchronous object."""

    def __init__(self, inner: A, portal: Portal, lifeline: Lifeline) -> None:
        self._inner = inner
        self._portal = portal
        self._lifeline = lifeline


def blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Facade[A], P], R]:
    """The blocking form of a coroutine method: same name, arguments, result and documentation."""

    @functools.wraps(method)
    def call(self: Facade[A], /, *arguments: P.args, **named: P.kwargs) -> R:
        return self._portal.run(method(self._inner, *arguments, **named))

    return call


def iterating(
    method: Callable[Concatenate[A, P], AsyncGenerator[R]],
) -> Callable[Concatenate[Facade[A], P], Generator[R]]:
    """The blocking form of a method that answers with an asynchronous generator."""

    @functools.wraps(method)
    def call(self: Facade[A], /, *arguments: P.args, **named: P.kwargs) -> Generator[R]:
        return self._portal.iterate(method(self._inner, *arguments, **named), self)

    return call
