"""The wire of LoaderService: map the request, call one method of the core, map the answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from google.protobuf.message import Message

from modelkeep.loader.v1 import loader_service_pb2 as pb
from modelkeep.loader.v1 import loader_service_pb2_grpc, resident_pb2
from modelkeep_common.calls import current_call
from modelkeep_common.idempotency import fingerprint
from modelkeep_common.paging import AskedPage, clamp_page_size, decode_page_token, encode_page_token, fitting
from modelkeep_common.watch import stream_frames
from modelkeep_loader import convert
from modelkeep_loader.domain.lending import Lending
from modelkeep_loader.domain.requests import News, Tell
from modelkeep_loader.store import ResidentHistory, read_residents


class LoaderServicer(loader_service_pb2_grpc.LoaderServiceServicer):
    """See loader_service.proto.

    Args:
        lending: The core.
        history: For lists and watches of residents.
        socket_path: The descriptor socket.
    """

    def __init__(self, lending: Lending, history: ResidentHistory, socket_path: str) -> None:
        self._lending = lending
        self._history = history
        self._socket_path = socket_path

    async def HoldModel(  # type: ignore[override]  # writes its frames instead of yielding them
        self, request: pb.HoldModelRequest, context: Any
    ) -> None:
        """See the .proto."""
        wish = convert.to_wish(request, current_call().principal.name)
        await self._lending.hold(wish, _teller(context, partial(convert.hold_response, self._socket_path)))

    async def AcquireLease(self, request: pb.AcquireLeaseRequest, context: Any) -> pb.AcquireLeaseResponse:
        """See the .proto."""
        wish = convert.to_wish(request, current_call().principal.name)
        granted = await self._lending.acquire(wish, convert.ttl_seconds(request))
        return pb.AcquireLeaseResponse(grant=convert.grant_message(self._socket_path, granted))

    async def RenewLease(self, request: pb.RenewLeaseRequest, context: Any) -> pb.RenewLeaseResponse:
        """See the .proto."""
        ttl_s = convert.ttl_seconds(request)
        lease, ticket = self._lending.renew(request.lease_id, request.lease_secret, ttl_s)
        return pb.RenewLeaseResponse(lease=convert.lease_message(lease), ticket=ticket)

    async def ReleaseLease(self, request: pb.ReleaseLeaseRequest, context: Any) -> pb.ReleaseLeaseResponse:
        """See the .proto."""
        lease = self._lending.release(request.lease_id, request.lease_secret)
        return pb.ReleaseLeaseResponse(lease=convert.lease_message(lease))

    async def RevokeLease(self, request: pb.RevokeLeaseRequest, context: Any) -> pb.RevokeLeaseResponse:
        """See the .proto."""
        lease = self._lending.revoke(request.lease_id, request.why, by=current_call().principal.name)
        return pb.RevokeLeaseResponse(lease=convert.lease_message(lease))

    async def GetLease(self, request: pb.GetLeaseRequest, context: Any) -> pb.GetLeaseResponse:
        """See the .proto."""
        return pb.GetLeaseResponse(lease=convert.lease_message(self._lending.leases.get(request.lease_id)))

    async def ListLeases(self, request: pb.ListLeasesRequest, context: Any) -> pb.ListLeasesResponse:
        """See the .proto."""
        mark = fingerprint(request, without=("page_token", "page_size"))
        after = decode_page_token(request.page_token, mark, (float, str))
        leases = self._lending.find_leases(request.key, tuple(after))
        page = fitting(map(convert.lease_message, leases), clamp_page_size(request.page_size))
        last = leases[len(page) - 1] if len(leases) > len(page) else None
        more = encode_page_token([last.create_time, last.id], mark) if last is not None else ""
        return pb.ListLeasesResponse(leases=page, next_page_token=more)

    async def LoadModel(  # type: ignore[override]  # writes its frames instead of yielding them
        self, request: pb.LoadModelRequest, context: Any
    ) -> None:
        """See the .proto."""
        convert.check_tier(request)
        tell = _teller(context, partial(convert.load_response, request.context))
        await self._lending.load(convert.to_refs(request.components), convert.seconds(request.max_wait), tell)

    async def EvictModel(self, request: pb.EvictModelRequest, context: Any) -> pb.EvictModelResponse:
        """See the .proto."""
        submodel = convert.submodel_name(request.submodel)
        done = self._lending.evict(request.key, submodel, validate_only=request.validate_only)
        return pb.EvictModelResponse(
            evicted=fitting(map(convert.resident_message, done.residents)),
            evicted_count=len(done.residents),
            freed_bytes=done.freed,
            zombie_bytes=done.zombie,
        )

    async def ListResidents(self, request: pb.ListResidentsRequest, context: Any) -> pb.ListResidentsResponse:
        """See the .proto."""
        asked = AskedPage(request, str)
        # The token first: what changes after it may be in the list already, but is never missed.
        token = self._history.flush()
        revisions = self._history.revisions()
        found = self._lending.find_residents(request.key, after=asked.after or "")
        page, more = asked.of(found, convert.resident_message, lambda message: message.id)
        for message in page:
            message.revision = revisions.get(message.id, 0)
        # It covers what changes while the other pages are read.
        first = token if not request.page_token else ""
        return pb.ListResidentsResponse(residents=page, next_page_token=more, resume_token=first)

    async def WatchResidents(  # type: ignore[override]  # writes its frames instead of yielding them
        self, request: pb.WatchResidentsRequest, context: Any
    ) -> None:
        """See the .proto."""
        matches: Callable[[resident_pb2.Resident], bool] | None = None
        if request.key:

            def matches(resident: resident_pb2.Resident) -> bool:
                return convert.is_about(request.key, resident.components)

        self._history.flush()
        watch = self._history.hub.watch(
            resume_token=request.resume_token,
            matches=matches,
            snapshot=read_residents,
            skip_snapshot=request.skip_snapshot,
            bookmark_interval_s=min(convert.seconds(request.bookmark_interval), 30.0),
        )
        await stream_frames(context, watch, convert.watch_response)

    async def GetCapacity(self, request: pb.GetCapacityRequest, context: Any) -> pb.GetCapacityResponse:
        """See the .proto."""
        return convert.capacity_response(self._lending.capacity(), self._socket_path)


def _teller(context: Any, response: Callable[[News], Message]) -> Tell:
    """What writes the news of a request to its stream."""

    async def tell(news: News) -> None:
        await context.write(response(news))

    return tell
