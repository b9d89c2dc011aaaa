"""What the clients of both kinds of jobs share: live objects of jobs, and watches of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Final, Generic

from modelkeep.client._tracker import J, JobTracker, M, refresh
from modelkeep.client._transport import Peer
from modelkeep.client._watch import WatchEvent, WatchFrame, WatchMethod, events_with_progress, follow

#: Seconds that a call waits for handlers to hear of what it has done.
PATIENCE_WITH_HANDLERS_S: Final = 5.0


class Jobs(Generic[J, M]):
    """The jobs of one service.

    Args:
        peer: The service.
        method: The method that watches jobs, on a channel.
        request: Makes its request for the jobs with these numbers; without any: for all.
        make: Makes a job object of a message.
        on_change: Called for each change of a job, as :class:`JobTracker` says.
        side_by_side: As :class:`JobTracker` says.
    """

    def __init__(
        self,
        peer: Peer,
        method: WatchMethod[Any],
        request: Callable[[Sequence[int]], Any],
        make: Callable[[M], J],
        on_change: Callable[[J, M | None, M, bool], Awaitable[None]],
        *,
        side_by_side: bool = False,
    ) -> None:
        self._peer = peer
        self._method = method
        self._request = request
        self._make = make
        self._on_change = on_change
        self._side_by_side = side_by_side
        self._tracker: JobTracker[J, M] | None = None

    async def following(self) -> JobTracker[J, M]:
        """The tracker of all jobs, begun if it was not.

        Raises:
            ModelkeepError: The service cannot be watched.
        """
        if self._tracker is None:
            self._tracker = JobTracker(
                lambda: follow(self._peer, self._method, self._request(()), events_with_progress()),
                self._make,
                self._on_change,
                side_by_side=self._side_by_side,
            )
        await self._tracker.start()
        return self._tracker

    def of(self, message: M) -> J:
        """The live object of a job if there is one, brought up to date; else a new one."""
        live = self._tracker.jobs.get(message.id) if self._tracker is not None else None
        if live is None:
            return self._make(message)
        refresh(live, message)
        return live

    async def told(self, message: M) -> J:
        """The live object of a job that an answer describes, once its handlers have heard of that.

        They are waited for as in one program, where they would have run before the call returns; but not for
        long.
        """
        if self._tracker is not None:
            await self._tracker.reached(message.id, message.revision, PATIENCE_WITH_HANDLERS_S)
        return self.of(message)

    def watch(
        self, ids: Sequence[int], resume_token: str, skip_snapshot: bool, *, until_ended: bool = False
    ) -> AsyncGenerator[WatchFrame[J]]:
        """A watch of its own; each event has a new object, which stays as it is."""
        events = events_with_progress()

        def convert(frame: Any) -> list[WatchEvent[J]]:
            return [
                WatchEvent(e.id, self._make(e.put) if e.put else None, e.progress, e.revision)
                for e in events(frame)
            ]

        request = self._request(ids)
        request.resume_token, request.skip_snapshot = resume_token, skip_snapshot
        if until_ended:
            request.until_ended = True
        return follow(self._peer, self._method, request, convert)

    async def close(self) -> None:
        """Stop following. Jobs go on in the service."""
        if self._tracker is not None:
            await self._tracker.close()
