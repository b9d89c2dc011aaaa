"""Writing a watch to the wire, and ending it when its reader stalls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from modelkeep.exceptions import WatcherTooSlowException

from .frames import Frame, Serializable
from .watch import Watch

if TYPE_CHECKING:
    import grpc.aio

M = TypeVar("M")


async def stream_frames(
    context: grpc.aio.ServicerContext[Any, Any],
    watch: Watch[M],
    build_response: Callable[[Frame[M]], Serializable],
) -> None:
    """Write every frame of ``watch`` until the client leaves or the watch ends.

    The body of a Watch handler::

        async def WatchModels(self, request, context):
            await stream_frames(context, self._hub.watch(...), to_response)

    Args:
        context: The call's.
        watch: What to write; closed at the end, however that comes.
        build_response: Turns a frame into the response message; see :meth:`Frame.encoded`.

    Raises:
        WatcherTooSlowException: A write made no headway for the hub's ``stall_s``.
        ServerDrainingException: The server is shutting down.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    stalled = False

    def stall() -> None:
        nonlocal stalled
        stalled = True
        task.cancel()

    written = watch.token
    try:
        async for frame in watch:
            data = frame.encoded(build_response)
            timer = loop.call_later(watch.stall_s, stall)
            try:
                await context.write(data)
            finally:
                timer.cancel()
            written = frame.resume_token
            del frame, data  # the next may be long in coming
    except asyncio.CancelledError:
        if not stalled:
            raise
        task.uncancel()
        raise WatcherTooSlowException(
            f"The reader took nothing for {watch.stall_s:g} s: read faster, or go on from the resume token.",
            metadata={"resume_token": written},
            retry_after=1,
        ) from None
    finally:
        watch.close()
