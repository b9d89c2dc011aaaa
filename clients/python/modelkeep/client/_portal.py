"""From blocking code into an event loop that runs in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from modelkeep.client import _fork
from modelkeep.exceptions import CancelledException
from modelkeep.loops import GrpcEventLoop

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")

#: An interruption that nothing has noticed is noticed after this, in seconds.
_WAIT_S = 1.0


class Portal:
    """An event loop in a daemon thread; started with the first call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *arguments: P.args, **named: P.kwargs
    ) -> R:
        """Call a coroutine function in the loop and wait for it; an interruption (Ctrl-C) cancels it.

        The coroutine is made by the loop: one made here would be lost by an interruption before its start.
        """
        call = _Call(lambda: function(*arguments, **named))
        try:
            self._start(call.begin)
            return call.result()
        except asyncio.CancelledError:
            raise CancelledException("The client was closed during the call.") from None
        except BaseException:
            if (loop := self._loop) is not None:
                loop.call_soon_threadsafe(call.cancel)
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
                    yield self.run(step)
                except StopAsyncIteration:
                    return
        finally:
            if not self._closed and not _fork.is_forked():
                self.run(close)

    def close(self) -> None:
        """Stop the loop and wait for its thread."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _start(self, begin: Callable[[], None]) -> None:
        """Have the loop call a function soon."""
        _fork.claim()  # before the lock, which a thread of the parent may have held
        with self._lock:
            if self._closed:
                raise RuntimeError("This client is closed.")
            if threading.current_thread() is self._thread:
                raise RuntimeError(
                    "A coroutine on the client's own event loop may not call the blocking client: "
                    "it would wait for itself. Make the handler a plain function, or use AsyncClient."
                )
            if self._loop is None:
                loop = GrpcEventLoop()
                thread = threading.Thread(target=_serve, args=(loop,), name="modelkeep-client", daemon=True)
                with _uninterrupted():
                    thread.start()
                self._loop, self._thread = loop, thread  # not before: without its thread a loop calls nothing
            self._loop.call_soon_threadsafe(begin)


class _Call(Generic[R]):
    """One call of a coroutine function in the loop, for which another thread waits.

    Not by a Future of concurrent.futures: an interruption in the midst of its condition leaves that locked,
    and the loop would wait on it for ever. A plain lock is taken or not.
    """

    def __init__(self, function: Callable[[], Coroutine[Any, Any, R]]) -> None:
        self._function = function
        self._task: asyncio.Task[R] | None = None
        self._under_way = threading.Lock()
        self._under_way.acquire()

    def begin(self) -> None:
        """Start it; in the loop."""
        self._task = asyncio.ensure_future(self._run())
        self._task.add_done_callback(lambda _: self._under_way.release())

    def cancel(self) -> None:
        """Cancel it, if it began; in the loop."""
        if self._task is not None:
            self._task.cancel()

    def result(self) -> R:
        """Wait for its end, in another thread, and give what came of it."""
        # Not without an end: an interruption right before the wait begins is noticed when it is over.
        while not self._under_way.acquire(timeout=_WAIT_S):
            pass
        assert self._task is not None
        return self._task.result()

    async def _run(self) -> R:
        return await self._function()


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


def close_inside(close: Callable[[], Coroutine[Any, Any, None]], portal: Portal) -> None:
    """Close what lives in a portal's loop, and the portal; in a forked process nothing."""
    if _fork.is_forked():  # what is open is the parent's, and its threads are not here
        return
    try:
        portal.run(close)
    finally:
        portal.close()


class _AsyncCloses(Protocol):
    async def close(self) -> None: ...


class _Closes(Protocol):
    def close(self) -> None: ...


def close_part(inner: _AsyncCloses, peer: _AsyncCloses, events: _Closes, portal: Portal) -> None:
    """Close a part of a client that stands by itself: then its events, its connection and its portal."""

    async def close() -> None:
        await inner.close()
        events.close()
        await peer.close()

    close_inside(close, portal)


class Facade(Generic[A_co]):
    """A blocking face of an asynchronous object."""

    def __init__(self, inner: A_co, portal: Portal, lifeline: Lifeline) -> None:
        self._inner = inner
        self._portal = portal
        self._lifeline = lifeline


def blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Facade[A], P], R]:
    """The blocking form of a coroutine method: same name, arguments, result and documentation."""

    @functools.wraps(method)
    def call(self: Facade[A], /, *arguments: P.args, **named: P.kwargs) -> R:
        return self._portal.run(method, self._inner, *arguments, **named)

    return call


def iterating(
    method: Callable[Concatenate[A, P], AsyncGenerator[R]],
) -> Callable[Concatenate[Facade[A], P], Generator[R]]:
    """The blocking form of a method that answers with an asynchronous generator."""

    @functools.wraps(method)
    def call(self: Facade[A], /, *arguments: P.args, **named: P.kwargs) -> Generator[R]:
        return self._portal.iterate(method(self._inner, *arguments, **named), self)

    return call
