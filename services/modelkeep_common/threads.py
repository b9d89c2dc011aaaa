"""What blocks, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

T = TypeVar("T")


async def to_its_end(work: Callable[..., T], *arguments: object) -> T:
    """Run what blocks on a thread and wait until it is over, even for a caller that is cancelled meanwhile.

    For work whose traces the caller takes away: a thread cannot be stopped, so ``asyncio.to_thread`` would
    leave it at work while, or after, they are taken away.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        if not running.cancelled():
            running.exception()
        raise


@contextlib.asynccontextmanager
async def in_thread(manager: contextlib.AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a context manager that blocks, each on a thread; it is not told of exceptions."""
    entered: list[T] = []
    try:
        await to_its_end(lambda: entered.append(manager.__enter__()))
        yield entered[0]
    finally:
        if entered:
            await to_its_end(manager.__exit__, None, None, None)
