"""The server's own deadline, for unary calls that state none.

One timer looks after all of them: a timer per call would cost more than the rest of the chain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from modelkeep.exceptions import DeadlineExceededException

T = TypeVar("T")


class Limiter:
    """Cancels tasks that take longer than ``limit_s`` seconds, to about a tenth of it (at most 1 s)."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._every = min(1.0, limit_s / 10)
        self._until: dict[asyncio.Task[Any], float] = {}
        self._expired: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, work: Awaitable[T]) -> T:
        """What ``work`` returns, if that takes no longer.

        Raises:
            DeadlineExceededException: It does.
        """
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        self._until[task] = loop.time() + self.limit_s
        if self._timer is None:
            self._timer = loop.call_later(self._every, self._look, loop)
        try:
            return await work
        except asyncio.CancelledError:
            late = self._took_too_long(task)
            if late is None:
                raise
            raise late from None
        finally:
            self._until.pop(task, None)
            self._expired.discard(task)

    def _took_too_long(self, task: asyncio.Task[Any]) -> DeadlineExceededException | None:
        """The error to answer with, if it was this that cancelled ``task``; takes the cancellation back."""
        if task not in self._expired:
            return None
        self._expired.discard(task)
        if task.uncancel() > 0:
            return None  # the client left as well
        return DeadlineExceededException(
            f"The call took longer than {self.limit_s:g} s, which is what a call without a deadline gets.",
            metadata={"limit_seconds": f"{self.limit_s:g}"},
        )

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task, until in list(self._until.items()):
            if until <= now:
                del self._until[task]
                self._expired.add(task)
                task.cancel()
        self._timer = loop.call_later(self._every, self._look, loop) if self._until else None
