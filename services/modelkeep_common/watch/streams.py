"""Writing a watch to the wire, and ending it when its reader stalls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from modelkeep.exceptions import WatcherTooSlowException

from .frames import Frame, Serializable
from .log import revision_in
from .watch import Watch

if TYPE_CHECKING:
    import grpc.aio

M = TypeVar("M")


async def stream_frames(
    context: grpc.aio.ServicerContext[Any, Any],
    watch: Watch[M],
    build_response: Callable[[Frame[M]], Serializable],
    *,
    until: Callable[[Frame[M]], Awaitable[bool]] | None = None,
) -> None:
    """Write every frame of ``watch`` until the client leaves or the watch ends.

    The body of a Watch handler::

        async def WatchModels(self, request, context):
            await stream_frames(context, self._hub.watch(...), to_response)

    Args:
        context: The call's.
        watch: What to write; closed at the end, however that comes.
        build_response: Turns a frame into the response message; see :meth:`Frame.encoded`.
        until: Asked after each frame; true ends the stream, OK. See :func:`until_ended`.

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
            if until is not None and await until(frame):
                return
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


def until_ended(
    ids: Sequence[int], last_changes: Callable[[Sequence[int]], Awaitable[Iterable[tuple[bool, int]]]]
) -> Callable[[Frame[M]], Awaitable[bool]]:
    """Tells of each frame of a watch whether, with it, the end of all these jobs has been told.

    Args:
        ids: The jobs.
        last_changes: (whether it has ended, revision of its last change) of those of them that are there.
    """

    async def over(frame: Frame[M]) -> bool:
        if frame.phase == "SNAPSHOT" and not frame.snapshot_complete:
            return False
        if frame.events and all(event.progress for event in frame.events):
            return False
        told = revision_in(frame.resume_token)
        return all(ended and revision <= told for ended, revision in await last_changes(ids))

    return over
