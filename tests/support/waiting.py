"""Waiting for what nobody tells: looked at again and again, for so long at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], timeout_s: float = 15) -> None:
    """Wait on an event loop until something is so."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  what is waited for is on the other side of a socket
            await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], object], what: str = "never so", timeout_s: float = 20) -> None:
    """The same where there is no event loop; ``what`` is said when it does not come to that."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)
