"""Writing a watch to the wire, and ending it when its reader stalls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from modelkeep.exceptions import FieldInvalidException, FieldViolation, WatcherTooSlowException

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
    written = watch.token
    try:
        async for frame in watch:
            data = frame.encoded(build_response)
            await write_in_time(
                context,
                data,
                watch.stall_s,
                {"resume_token": written},
                remedy="Watch again from the resume token, and read faster.",
            )
            written = frame.resume_token
            if until is not None and await until(frame):
                return
            del frame, data  # the next may be long in coming
    finally:
        watch.close()


async def write_in_time(
    context: grpc.aio.ServicerContext[Any, Any],
    data: bytes,
    stall_s: float,
    metadata: Mapping[str, str],
    *,
    remedy: str,
) -> None:
    """Write one message of a stream.

    Raises:
        WatcherTooSlowException: The reader took nothing for ``stall_s``.
    """
    try:
        async with asyncio.timeout(stall_s):
            await context.write(data)
    except TimeoutError:
        raise WatcherTooSlowException(
            f"The reader took nothing for {stall_s:g} s. {remedy}",
            metadata=metadata,
            retry_after=1,
            remedy=remedy,
        ) from None


class _AsksForEnd(Protocol):
    @property
    def until_ended(self) -> bool: ...
    @property
    def ids(self) -> Sequence[int]: ...


def until_ended(
    request: _AsksForEnd, last_changes: Callable[[Sequence[int]], Awaitable[Iterable[tuple[bool, int]]]]
) -> Callable[[Frame[M]], Awaitable[bool]] | None:
    """Tells of each frame of a watch whether, with it, the end of all jobs of a request has been told.

    Args:
        request: The watch's. Where it does not ask for that, the answer is None.
        last_changes: (whether it has ended, revision of its last change) of those of the jobs that are there.

    Raises:
        FieldInvalidException: It names no jobs.
    """
    if not request.until_ended:
        return None
    if not request.ids:
        raise FieldInvalidException(
            "until_ended takes ids: a watch of all jobs has no end.",
            violations=[FieldViolation("ids", "must be set for until_ended")],
        )
    ids = request.ids

    async def over(frame: Frame[M]) -> bool:
        if frame.phase == "SNAPSHOT" and not frame.snapshot_complete:
            return False
        if frame.events and all(event.progress for event in frame.events):
            return False
        told = revision_in(frame.resume_token)
        return all(ended and revision <= told for ended, revision in await last_changes(ids))

    return over
