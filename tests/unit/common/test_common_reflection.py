"""Streams of reflection whose callers go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

from modelkeep_common.serving.reflection import Reflection


async def test_a_caller_of_reflection_that_ends_and_goes_at_once_leaves_no_error_in_the_log() -> None:
    asked, ends, told = asyncio.Event(), asyncio.Event(), list[dict[str, Any]]()

    async def requests() -> AsyncIterator[Any]:
        asked.set()
        await ends.wait()
        return
        yield

    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    answer = asyncio.ensure_future(anext(Reflection(()).ServerReflectionInfo(requests(), None)))
    await asked.wait()
    ends.set()
    await asyncio.sleep(0)  # the end is there now, and nobody has heard of it
    answer.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await answer
    del answer
    gc.collect()
    await asyncio.sleep(0)
    assert told == []
