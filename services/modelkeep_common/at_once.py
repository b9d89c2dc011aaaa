"""Running a coroutine that never waits, where there is no event loop.

Units of work on a store are coroutine functions, since a store over a network has to wait. One that has its
data at hand does not: there such a function is driven to its end by the thread that calls, at the cost of a
plain call.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_at_once(work: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns, or raises.

    Raises:
        RuntimeError: It waited for something else than its store, which only an event loop could bring.
    """
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("a unit of work waited for something else than its store")
