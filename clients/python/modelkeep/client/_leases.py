"""The leases of the loader: who holds what, and the operator's means to get it back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelkeep.client._transport import Peer
from modelkeep.client._watch import WatchEvent, WatchFrame, follow
from modelkeep.loader.v1 import leases_pb2, resident_pb2
from modelkeep.loader.v1.loader_service_pb2_grpc import LoaderServiceStub
from modelkeep.messages import duration, made

if TYPE_CHECKING:
    from modelkeep.loader.v1.loader_service_pb2_grpc import LoaderServiceAsyncStub

#: Seconds that the answer to a drain may take besides the wait itself.
_SPARE_S = 60.0


class LeaseCalls:
    """What can be done about leases; see `AsyncModelLoader`."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    @property
    def _stub(self) -> LoaderServiceAsyncStub:
        return LoaderServiceStub(self._peer.channel)

    async def leases(
        self, key: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> list[resident_pb2.Lease]:
        """The leases that have not ended.

        Args:
            key: Only leases on this model.
            labels: Only leases that have all of these labels.
        """
        request = made(leases_pb2.ListLeasesRequest, key=key or "", labels=labels)
        pages = self._peer.pages(self._stub.ListLeases, request)
        return [found async for page in pages for found in page.leases]

    async def revoke(self, lease_id: str, why: str = "", *, grace_s: float = 0.0) -> resident_pb2.Lease:
        """End somebody's lease; what its holder has mapped goes on working there.

        Args:
            lease_id: Name of the lease, as :meth:`leases` tells it.
            why: For the holder to read.
            grace_s: Seconds that the holder may go on, and hears that it is asked to end; 0: none.

        Raises:
            UnknownLeaseException: There is none, or it has ended.
        """
        request = made(
            leases_pb2.RevokeLeaseRequest, lease_id=lease_id, why=why, grace=duration(grace_s, "grace_s")
        )
        return (await self._peer.call(self._stub.RevokeLease, request)).lease

    def watch_leases(
        self,
        key: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        resume_token: str = "",
        skip_snapshot: bool = False,
    ) -> AsyncGenerator[WatchFrame[resident_pb2.Lease]]:
        """A snapshot of the leases, then every entry of their journal; goes on by itself.

        The last that is put of a lease says that it has ended, and why; then it is removed.

        Args:
            key: Only leases on this model.
            labels: Only leases that have all of these labels.
            resume_token: Place to go on from, out of an earlier frame; empty: a snapshot first.
            skip_snapshot: Without a token: only changes from now on.
        """
        request = made(
            leases_pb2.WatchLeasesRequest,
            key=key or "",
            labels=labels,
            resume_token=resume_token,
            skip_snapshot=skip_snapshot,
        )
        return follow(self._peer, lambda to: LoaderServiceStub(to).WatchLeases, request, _events)

    async def drain(
        self, *, timeout_s: float = 0.0, revoke: bool = False, why: str = ""
    ) -> AsyncGenerator[leases_pb2.DrainResponse]:
        """Take the loader out of service: no new leases and loads; tells what is still held.

        It stands until :meth:`undrain`, also when the iterator is closed early.

        Args:
            timeout_s: Longest wait for the leases to end; 0: only say what there is.
            revoke: Ask all leases back, with that time as grace.
            why: For those who are refused, and for holders.
        """
        request = made(
            leases_pb2.DrainRequest, timeout=duration(timeout_s, "timeout_s"), revoke=revoke, why=why
        )
        stub = LoaderServiceStub(self._peer.stream_channel)
        async for answer in self._peer.stream(stub.Drain, request, timeout=timeout_s + _SPARE_S):
            yield answer

    async def undrain(self) -> bool:
        """Let the loader give leases again; whether it was drained."""
        return (await self._peer.call(self._stub.Undrain, leases_pb2.UndrainRequest())).was_drained


def _events(frame: leases_pb2.WatchLeasesResponse) -> Sequence[WatchEvent[Any]]:
    events: list[WatchEvent[Any]] = []
    for event in frame.events:
        if event.WhichOneof("change") == "put":
            events.append(WatchEvent(event.put.id, event.put, revision=event.revision))
        else:
            events.append(WatchEvent(event.removed_id, None, revision=event.revision))
    return events
