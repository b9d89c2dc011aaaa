"""How a scan waits: for peers, for threads, and no longer when it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from modelkeep.backoff import Backoff

from ..domain.jobs import JobError
from ..domain.ports import TRY_AGAIN

T = TypeVar("T")

_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 5.0


class Cancelled(Exception):
    """The scan was asked to end."""


class Course:
    """What a scan under way waits with.

    Attributes:
        cancelled: Set when it shall end.
        stopped: It shall leave everything where it is; read by its thread.
        waiting: What it waits for; None if it does not.
    """

    def __init__(self, name: str, now: Callable[[], float] = time.time) -> None:
        self.cancelled = asyncio.Event()
        self.stopped = False
        self.waiting: JobError | None = None
        self._now = now
        # A file system that hangs keeps this thread waiting, and no other scan.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    def close(self) -> None:
        """Leaves the thread behind; what it does ends at the next folder."""
        self.stopped = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def check(self) -> None:
        """Cancelled, if that was asked for."""
        if self.cancelled.is_set():
            raise Cancelled

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Calls a peer until it answers; ``waiting`` tells meanwhile that it does not."""
        waits = Backoff(_FIRST_RETRY_S, _LAST_RETRY_S)
        while True:
            self.check()
            try:
                answer = await call()
            except TRY_AGAIN as error:
                wait = waits.next(error.retry_after)
                self.waiting = JobError.of(error, retry_time=self._now() + wait)
                await self.unless_cancelled(asyncio.sleep(wait))
            else:
                self.waiting = None
                return answer

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Work with files, on a thread of the scan's own."""
        return await self.unless_cancelled(asyncio.get_running_loop().run_in_executor(self._thread, work))

    async def unless_cancelled(self, awaitable: Awaitable[T]) -> T:
        """The result, or Cancelled if that comes first. A result that is there is never lost."""
        work, cancelled = asyncio.ensure_future(awaitable), asyncio.ensure_future(self.cancelled.wait())
        try:
            await asyncio.wait({work, cancelled}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.check()
            return work.result()
        finally:
            for task in (work, cancelled):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await cancelled
