"""How many downloads run at once, how fast, and over how many connections."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.duration_pb2 import Duration

from modelkeep.client._transport import Peer
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.download.v1 import limits_pb2
from modelkeep.download.v1.download_service_pb2_grpc import DownloadServiceStub
from modelkeep.exceptions import ModelkeepError
from modelkeep.messages import made

#: Seconds that a closing client waits for a service that may be away.
_PATIENCE_S: Final = 2.0


@dataclass(frozen=True)
class DownloadLimits:
    """The limits of a download service."""

    #: Downloads at once, of all queues together.
    max_parallel_downloads: int
    #: Bytes a second from the network, of all downloads together; 0: no limit.
    max_bytes_per_second: int
    #: Downloads at once of the queues that have a number of their own.
    queues: Mapping[str, int]
    #: Connections at once: for one file, to one host over all downloads, and in all.
    max_connections_per_file: int
    max_connections_per_host: int
    max_connections: int
    #: As the service said it.
    message: limits_pb2.Limits = field(repr=False, compare=False)


async def get_limits(peer: Peer) -> DownloadLimits:
    """The limits that count now."""
    stub = DownloadServiceStub(peer.channel)
    return _limits((await peer.call(stub.GetLimits, limits_pb2.GetLimitsRequest())).limits)


def queue_limits(queues: Mapping[str, int]) -> list[limits_pb2.QueueLimits]:
    """The numbers of queues as a request has them."""
    return [
        made(limits_pb2.QueueLimits, queue=queue, max_parallel_downloads=most)
        for queue, most in queues.items()
    ]


async def set_limits(peer: Peer, request: limits_pb2.SetLimitsRequest) -> DownloadLimits:
    """Set limits; see `AsyncDownloadQueue.set_limits`."""
    stub = DownloadServiceStub(peer.channel)
    return _limits((await peer.call(stub.SetLimits, request)).limits)


class OwnLimit:
    """How many downloads of a queue may run at once, as one object of that queue wants it.

    Args:
        peer: The service.
        queue: Name of the queue.
        at_once: The number; None: what the service allows.
        passing: Nobody can come back to the queue.
    """

    def __init__(self, peer: Peer, queue: str, at_once: int | None, *, passing: bool) -> None:
        self._peer, self._queue, self._at_once, self._passing = peer, queue, at_once, passing
        self._is_set = False

    async def set(self) -> None:
        """Tell the service, once; before the queue's first job."""
        if self._at_once is not None and not self._is_set:
            queues = queue_limits({self._queue: self._at_once})
            await set_limits(self._peer, made(limits_pb2.SetLimitsRequest, queues=queues))
            self._is_set = True

    async def take_away(self) -> None:
        """Leave no limit behind of a queue that has nothing left to do and that nobody can come back to.

        One that cannot be taken away stays; the service keeps 1,000.
        """
        if not self._is_set or not self._passing:
            return
        stub = DownloadServiceStub(self._peer.channel)
        asked = made(pb.WaitDownloadsRequest, queue=self._queue, timeout=Duration())
        with contextlib.suppress(ModelkeepError):
            if (await self._peer.call(stub.WaitDownloads, asked, timeout=_PATIENCE_S)).done:
                change = made(limits_pb2.SetLimitsRequest, queues=queue_limits({self._queue: 0}))
                await self._peer.call(stub.SetLimits, change, timeout=_PATIENCE_S)


def _limits(message: limits_pb2.Limits) -> DownloadLimits:
    queues = {one.queue: one.max_parallel_downloads for one in message.queues}
    return DownloadLimits(
        message.max_parallel_downloads,
        message.max_bytes_per_second,
        queues,
        message.max_connections_per_file,
        message.max_connections_per_host,
        message.max_connections,
        message,
    )
