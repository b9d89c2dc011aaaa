"""Event loops in threads of their own, and what other threads ask of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import queue
import signal
import threading
import time
from typing import Any

import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from modelkeep.client._portal import Portal
from modelkeep.client._transport import Peer
from modelkeep.exceptions import CancelledException
from modelkeep.loops import GrpcEventLoop
from modelkeep.rpc import Address


def test_a_closed_loop_takes_what_grpc_tells_it_late_and_nothing_else() -> None:
    loop = GrpcEventLoop()
    loop.close()
    loop.call_soon_threadsafe(cygrpc._handle_callback_wrapper, None, 0)
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon_threadsafe(print)


def test_another_thread_waits_for_the_clients_loop_until_that_is_closed() -> None:
    peer, portal = Peer(Address("download", "127.0.0.1:1", "the test")), Portal()
    begun, ended = threading.Event(), threading.Event()

    async def answer() -> int:
        return 7

    async def belong() -> None:
        assert peer.channel
        with pytest.raises(RuntimeError, match="cannot wait on the client's own event loop: do it there"):
            peer.wait_for(answer, "do it there")

    async def forever() -> None:
        begun.set()
        await asyncio.Event().wait()

    def wait() -> None:
        with pytest.raises(CancelledException):
            peer.wait_for(forever, "")
        ended.set()

    portal.run(belong)
    assert peer.wait_for(answer, "") == 7
    waiting = threading.Thread(target=wait)
    waiting.start()
    assert begun.wait(5)
    portal.run(peer.close)
    portal.close()
    waiting.join(5)
    assert ended.is_set()
    with pytest.raises(RuntimeError, match="closed"):
        peer.wait_for(answer, "")


@pytest.mark.filterwarnings("error::RuntimeWarning", "error::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_at_any_time_loses_no_coroutine_and_leaves_none_running() -> None:
    portal = Portal()
    begun: set[asyncio.Task[Any] | None] = set()

    async def forever() -> None:
        begun.add(asyncio.current_task())
        await asyncio.Event().wait()

    async def end() -> None:
        await asyncio.gather(*filter(None, begun), return_exceptions=True)
        begun.clear()

    main = threading.main_thread().ident
    assert main is not None
    delays: queue.SimpleQueue[float | None] = queue.SimpleQueue()

    def interrupt() -> None:
        while (delay := delays.get()) is not None:
            time.sleep(delay)
            signal.pthread_kill(main, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    portal.run(end)  # a loop whose making is interrupted is not closed, and nothing is lost with it
    for microseconds in range(0, 1500, 5):
        with contextlib.suppress(KeyboardInterrupt):
            delays.put(microseconds / 1e6)
            portal.run(forever)
        portal.run(end)
    delays.put(None)
    interrupter.join()
    gc.collect()
    portal.close()
