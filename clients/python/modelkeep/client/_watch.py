"""Watches that go on by themselves: across lost connections, restarts and their own deadline."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar, cast

from google.protobuf.duration_pb2 import Duration
from grpc import aio

from modelkeep import rpc
from modelkeep.backoff import Backoff
from modelkeep.client._transport import FIRST_DELAY_S, Peer
from modelkeep.exceptions import (
    DeadlineExceededException,
    ModelkeepError,
    ResumeTokenExpiredException,
    ResumeTokenForeignException,
    ServerBusyException,
    UnavailableException,
    WatcherTooSlowException,
)
from modelkeep.server.v1 import watch_pb2

T = TypeVar("T")
F = TypeVar("F", bound="ServerFrame")
M = TypeVar("M")

#: A stream is opened anew after this many seconds: no call is without a deadline.
STREAM_DEADLINE_S: Final = 3600.0
#: After this long without any frame, bookmarks included, the connection is taken for dead.
SILENCE_S: Final = 60.0
#: How long a service may be away before the first frame: a wrong address should show soon.
PATIENCE_AT_START_S: Final = 1.0
#: How long it may be away later: a restart, an update.
PATIENCE_S: Final = 60.0
#: A shorter absence is not told.
AWAY_S: Final = 1.0
_LONGEST_DELAY_S: Final = 5.0
_BOOKMARK: Final = Duration(seconds=15)

Phase: TypeAlias = Literal["snapshot", "live"]
#: A method that watches, on a channel.
WatchMethod: TypeAlias = Callable[[aio.Channel], aio.UnaryStreamMultiCallable[Any, F]]


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[T]):
    """One resource as it is now, or that it is gone.

    Attributes:
        id: Its key or number.
        put: The resource; None if it was removed or left the filter.
        progress: Whether only its progress moved on.
        revision: The change's revision; 0 in a snapshot and for progress.
    """

    id: Any
    put: T | None
    progress: bool = False
    revision: int = 0

    @property
    def removed(self) -> bool:
        """Whether the resource is gone, or outside the filter."""
        return self.put is None


@dataclass(frozen=True, slots=True)
class WatchFrame(Generic[T]):
    """Some events at once; without events it is a bookmark.

    Attributes:
        events: The changes, in order.
        phase: Whether they are part of the snapshot of what exists.
        snapshot_complete: True on the last frame of a snapshot: what it did not name does not exist.
        resume_token: Place to go on from after this frame, also in another process.
        restarted: True on the first frame after history was lost (the token was too old, or of another
            store): a new snapshot begins, and forget what it does not name.
        away_s: For how many seconds the service has not answered, in a frame that says nothing else; None:
            it does.
    """

    events: Sequence[WatchEvent[T]]
    phase: Phase
    snapshot_complete: bool
    resume_token: str
    restarted: bool = False
    away_s: float | None = None


class ServerFrame(Protocol):
    """What the response messages of all watches have in common."""

    @property
    def phase(self) -> watch_pb2.WatchPhase:
        """Snapshot or live."""
        ...

    @property
    def snapshot_complete(self) -> bool:
        """Whether the snapshot ends here."""
        ...

    @property
    def resume_token(self) -> str:
        """Place after this frame."""
        ...


def events_with_progress() -> Callable[[Any], list[WatchEvent[Any]]]:
    """What makes events of the frames of one watch of jobs or residents.

    Progress comes without its resource: here it is told with the resource as it was told last. That of a
    resource which this watch has not named yet is left out.
    """
    last: dict[Any, Any] = {}

    def convert(frame: Any) -> list[WatchEvent[Any]]:
        events: list[WatchEvent[Any]] = []
        for event in frame.events:
            change = event.WhichOneof("change")
            if change == "removed_id":
                last.pop(event.removed_id, None)
                events.append(WatchEvent(event.removed_id, None, revision=event.revision))
            elif change == "put":
                last[event.put.id] = event.put
                events.append(WatchEvent(event.put.id, event.put, revision=event.revision))
            elif change == "progress" and (moved := _moved(last, event.progress)) is not None:
                events.append(WatchEvent(moved.id, moved, progress=True))
        return events

    return convert


def _moved(last: dict[Any, Any], progress: Any) -> Any:
    """The resource with new progress; None if that is out of date, or of a resource that is not known."""
    known = last.get(progress.id)
    if known is None or getattr(progress, "revision", known.revision) < known.revision:
        return None
    moved = type(known)()
    moved.CopyFrom(known)
    moved.progress.CopyFrom(progress.progress)
    last[progress.id] = moved
    return moved


@dataclass(frozen=True, slots=True)
class Away:
    """The service has not answered for so many seconds."""

    seconds: float


async def follow(
    peer: Peer,
    method: WatchMethod[F],
    request: Any,
    convert: Callable[[F], Sequence[WatchEvent[T]]],
    *,
    patience_s: float = PATIENCE_S,
) -> AsyncGenerator[WatchFrame[T]]:
    """The frames of a watch, for as long as the caller wants them.

    Args:
        peer: The service.
        method: The method that watches, on a channel.
        request: Its request, which says where to begin; it is kept up to date with where to go on.
        convert: The events of a response.
        patience_s: Seconds without any answer after which the watch gives up, once it has begun.

    Raises:
        UnavailableException: The service was away for too long.
        ModelkeepError: Whatever a new try would not mend.
    """
    restarted = False

    def begin_anew(failure: ModelkeepError) -> bool:
        nonlocal restarted
        lost = isinstance(failure, ResumeTokenExpiredException | ResumeTokenForeignException)
        if lost and request.resume_token:
            request.resume_token, request.skip_snapshot, restarted = "", False, True
            return True
        request.resume_token = failure.metadata.get("resume_token") or request.resume_token
        return False

    answers = reopened(peer, method, request, mends=begin_anew, patience_s=patience_s)
    async with contextlib.aclosing(answers):
        async for frame in answers:
            if isinstance(frame, Away):
                yield WatchFrame((), "live", False, request.resume_token, away_s=frame.seconds)
                continue
            request.resume_token = frame.resume_token or request.resume_token
            yield WatchFrame(
                events=convert(frame),
                phase="snapshot" if frame.phase == watch_pb2.WATCH_PHASE_SNAPSHOT else "live",
                snapshot_complete=frame.snapshot_complete,
                resume_token=request.resume_token,
                restarted=restarted,
            )
            restarted = False


async def reopened(
    peer: Peer,
    method: Callable[[aio.Channel], aio.UnaryStreamMultiCallable[Any, M]],
    request: Any,
    *,
    mends: Callable[[ModelkeepError], bool] = lambda failure: False,
    patience_s: float = PATIENCE_S,
) -> AsyncGenerator[M | Away]:
    """The answers of a stream that never ends, which is opened again when it does.

    Args:
        peer: The service.
        method: The method, on a channel.
        request: Its request, read at each opening; its `bookmark_interval` is set.
        mends: Told why the stream ended; whether it has changed the request so that it can be opened at once.
        patience_s: Seconds without any answer after which this gives up, once it has begun.

    Raises:
        UnavailableException: The service was away for too long.
        ModelkeepError: Whatever a new try would not mend.
    """
    request.bookmark_interval.CopyFrom(_BOOKMARK)
    patience = PATIENCE_AT_START_S
    away_since: float | None = None
    backoff = Backoff(FIRST_DELAY_S, _LONGEST_DELAY_S)
    while True:
        call = method(peer.stream_channel)(request, timeout=STREAM_DEADLINE_S)
        try:
            while True:
                # Not asyncio.wait_for: before Python 3.12 it may swallow a cancellation.
                async with asyncio.timeout(SILENCE_S):
                    answer = await call.read()
                if answer is aio.EOF and getattr(request, "until_ended", False):
                    return
                if answer is aio.EOF:
                    failure: ModelkeepError = rpc.unreachable(peer.address, "the stream ended")
                    break
                away_since, patience = None, patience_s
                backoff.reset()
                yield cast(M, answer)
        except TimeoutError:
            failure = rpc.unreachable(peer.address, f"nothing was heard of it for {SILENCE_S:g} s")
        except aio.AioRpcError as error:
            failure = rpc.decode(error, peer.address)
            if mends(failure):
                continue
            if not _passes(failure):
                raise failure from error
        finally:
            call.cancel()
        now = time.monotonic()
        away_since = now if away_since is None else away_since
        if now - away_since > patience:
            raise failure
        if now - away_since >= AWAY_S:
            yield Away(now - away_since)
        await asyncio.sleep(backoff.next(failure.retry_after))


def _passes(failure: ModelkeepError) -> bool:
    """Whether a watch that ended so is opened again."""
    return isinstance(
        failure,
        UnavailableException | WatcherTooSlowException | ServerBusyException | DeadlineExceededException,
    )
