"""Threads that take one file after another: few where the host is the limit, more where each waits long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Threads to begin with: with files that come at once, more only wait for each other.
_FEW = 4
#: Seconds that one work takes beyond which there are more threads.
_LONG_S = 0.03


class Crew(Generic[T]):
    """Does works, several at once.

    Args:
        works: What there is to do.
        do: Does one of them, on a thread.
        most: How many may be done at once, as the one says that was just done.
        fail: Called once, with the first error: the others had better end.
    """

    def __init__(
        self,
        works: Iterable[T],
        do: Callable[[T], None],
        most: Callable[[T], int],
        fail: Callable[[], None],
    ) -> None:
        self._works, self._do, self._most, self._fail = iter(works), do, most, fail
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Return when all is done.

        Raises:
            BaseException: The first error of a work; those under way have ended, others have not begun.
        """
        for _ in range(_FEW):
            self._hire()
        for thread in self._threads:  # which becomes longer meanwhile
            thread.join()
        if self._error is not None:
            raise self._error

    def _hire(self) -> None:
        thread = threading.Thread(target=self._work, name="modelkeep-file", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (work := self._next()) is not None:
            began = time.monotonic()
            try:
                self._do(work)
            except BaseException as error:
                with self._lock:
                    first, self._error = self._error is None, self._error or error
                if first:
                    self._fail()
                return
            if time.monotonic() - began > _LONG_S:
                with self._lock:
                    if len(self._threads) < self._most(work):
                        self._hire()

    def _next(self) -> T | None:
        with self._lock:
            return None if self._error is not None else next(self._works, None)
