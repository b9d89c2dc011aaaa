"""How full the loader is, for as long as somebody watches."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from modelkeep.client._transport import Peer
from modelkeep.client._watch import Away, WatchEvent, WatchFrame, reopened
from modelkeep.loader.v1 import capacity_pb2
from modelkeep.loader.v1.loader_service_pb2_grpc import LoaderServiceStub


async def watched_capacity(peer: Peer) -> AsyncGenerator[WatchFrame[capacity_pb2.GetCapacityResponse]]:
    """One event a frame: the host by its boot id, and how it is now. There is nothing to resume.

    Raises:
        UnavailableException: The service was away for too long.
        ModelkeepError: Whatever a new try would not mend.
    """
    answers = reopened(
        peer, lambda to: LoaderServiceStub(to).WatchCapacity, capacity_pb2.WatchCapacityRequest()
    )
    async with contextlib.aclosing(answers):
        async for answer in answers:
            if isinstance(answer, Away):
                yield WatchFrame((), "live", False, "", away_s=answer.seconds)
            elif answer.HasField("capacity"):
                event = WatchEvent(answer.capacity.boot_id, answer.capacity)
                yield WatchFrame((event,), "live", False, "")
            else:
                yield WatchFrame((), "live", False, "")
