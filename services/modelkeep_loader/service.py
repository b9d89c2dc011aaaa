"""The wire of LoaderService: map the request, call one method of the core, map the answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from google.protobuf.message import Message

from modelkeep.loader.v1 import (
    capacity_pb2,
    estimate_pb2,
    hold_pb2,
    leases_pb2,
    load_pb2,
    loader_service_pb2_grpc,
    pins_pb2,
    resident_pb2,
    residents_pb2,
)
from modelkeep_common.calls import current_call
from modelkeep_common.idempotency import fingerprint
from modelkeep_common.paging import AskedPage, clamp_page_size, decode_page_token, encode_page_token, fitting
from modelkeep_common.watch import stream_frames
from modelkeep_loader.convert import estimates, leases, news, pins, requests, residents
from modelkeep_loader.domain.demand import Terms
from modelkeep_loader.domain.lending import Capacity, Lending
from modelkeep_loader.domain.requests import News, Tell
from modelkeep_loader.domain.tier import TierName
from modelkeep_loader.store import LeaseJournal, ResidentHistory, read_leases, read_residents


class LoaderServicer(loader_service_pb2_grpc.LoaderServiceServicer):
    """See loader_service.proto.

    Args:
        lending: The core.
        history: For lists and watches of residents.
        journal: For lists and watches of leases.
        socket_path: The descriptor socket.
    """

    def __init__(
        self, lending: Lending, history: ResidentHistory, journal: LeaseJournal, socket_path: str
    ) -> None:
        self._lending = lending
        self._history = history
        self._journal = journal
        self._socket_path = socket_path

    async def HoldModel(  # type: ignore[override]  # writes its frames instead of yielding them
        self, request: hold_pb2.HoldModelRequest, context: Any
    ) -> None:
        """See the .proto."""
        wish = requests.to_wish(request, current_call().principal.name)
        await self._lending.hold(wish, _teller(context, partial(news.hold_response, self._socket_path)))

    async def AcquireLease(  # type: ignore[override]  # answers with what goes over the wire
        self, request: hold_pb2.AcquireLeaseRequest, context: Any
    ) -> bytes:
        """See the .proto."""
        wish = requests.to_wish(request, current_call().principal.name)
        granted = await self._lending.acquire(wish, requests.ttl_seconds(request))
        return news.acquire_response(self._socket_path, granted)

    async def RenewLease(
        self, request: hold_pb2.RenewLeaseRequest, context: Any
    ) -> hold_pb2.RenewLeaseResponse:
        """See the .proto."""
        ttl_s = requests.ttl_seconds(request)
        lease, ticket = self._lending.renew(request.lease_id, request.lease_secret, ttl_s)
        return hold_pb2.RenewLeaseResponse(lease=leases.lease_message(lease), ticket=ticket)

    async def ReleaseLease(
        self, request: hold_pb2.ReleaseLeaseRequest, context: Any
    ) -> hold_pb2.ReleaseLeaseResponse:
        """See the .proto."""
        lease = self._lending.release(request.lease_id, request.lease_secret)
        return hold_pb2.ReleaseLeaseResponse(lease=leases.lease_message(lease))

    async def DemoteLease(
        self, request: hold_pb2.DemoteLeaseRequest, context: Any
    ) -> hold_pb2.DemoteLeaseResponse:
        """See the .proto."""
        lease = await self._lending.demote(request.lease_id, request.lease_secret)
        return hold_pb2.DemoteLeaseResponse(lease=leases.lease_message(lease))

    async def PromoteLease(  # type: ignore[override]  # answers with what goes over the wire
        self, request: hold_pb2.PromoteLeaseRequest, context: Any
    ) -> bytes:
        """See the .proto."""
        granted = await self._lending.promote(requests.to_promotion(request))
        return news.promote_response(self._socket_path, granted)

    async def RevokeLease(
        self, request: leases_pb2.RevokeLeaseRequest, context: Any
    ) -> leases_pb2.RevokeLeaseResponse:
        """See the .proto."""
        lease = self._lending.revoke(
            request.lease_id, request.why, current_call().principal.name, requests.seconds(request.grace)
        )
        return leases_pb2.RevokeLeaseResponse(lease=leases.lease_message(lease))

    async def GetLease(
        self, request: leases_pb2.GetLeaseRequest, context: Any
    ) -> leases_pb2.GetLeaseResponse:
        """See the .proto."""
        lease = self._lending.leases.get(request.lease_id)
        return leases_pb2.GetLeaseResponse(lease=self._numbered(leases.lease_message(lease)))

    async def ListLeases(
        self, request: leases_pb2.ListLeasesRequest, context: Any
    ) -> leases_pb2.ListLeasesResponse:
        """See the .proto."""
        mark = fingerprint(request, without=("page_token", "page_size"))
        after = decode_page_token(request.page_token, mark, (float, str))
        token = self._journal.token() if not request.page_token else ""
        found = self._lending.find_leases(request.key, request.labels, tuple(after))
        page = fitting(
            (self._numbered(leases.lease_message(lease)) for lease in found),
            clamp_page_size(request.page_size),
        )
        last = found[len(page) - 1] if len(found) > len(page) else None
        more = encode_page_token([last.create_time, last.id], mark) if last is not None else ""
        return leases_pb2.ListLeasesResponse(leases=page, next_page_token=more, resume_token=token)

    async def WatchLeases(  # type: ignore[override]  # writes its frames instead of yielding them
        self, request: leases_pb2.WatchLeasesRequest, context: Any
    ) -> None:
        """See the .proto."""
        labels = dict(request.labels)

        def matches(lease: resident_pb2.Lease) -> bool:
            has_all = all(lease.labels.get(name) == value for name, value in labels.items())
            return has_all and residents.is_about(request.key, lease.components)

        watch = self._journal.hub.watch(
            resume_token=request.resume_token,
            matches=matches if labels or request.key else None,
            snapshot=read_leases,
            skip_snapshot=request.skip_snapshot,
            bookmark_interval_s=min(requests.seconds(request.bookmark_interval), 30.0),
        )
        await stream_frames(context, watch, leases.watch_response)

    async def Drain(  # type: ignore[override]  # writes its frames instead of yielding them
        self, request: leases_pb2.DrainRequest, context: Any
    ) -> None:
        """See the .proto."""
        by, timeout_s = current_call().principal.name, requests.seconds(request.timeout)
        async for left in self._lending.take_out(request.why, by, timeout_s=timeout_s, revoke=request.revoke):
            await context.write(leases.drain_response(left))

    async def Undrain(self, request: leases_pb2.UndrainRequest, context: Any) -> leases_pb2.UndrainResponse:
        """See the .proto."""
        return leases_pb2.UndrainResponse(was_drained=self._lending.put_back(current_call().principal.name))

    async def LoadModel(  # type: ignore[override]  # writes its frames instead of yielding them
        self, request: load_pb2.LoadModelRequest, context: Any
    ) -> None:
        """See the .proto."""
        tell = _teller(context, partial(news.load_response, request.context))
        refs, max_wait_s = requests.refs_in_tier(request), requests.seconds(request.max_wait)
        tier = requests.to_tier(request.tier)
        if tier is TierName.DISK:
            await self._lending.load_to_disk(refs, max_wait_s, tell)
        else:
            terms = Terms(
                keep_alive_s=requests.keep_alive_seconds(request), max_vram_bytes=request.max_vram_bytes
            )
            on_devices = tier is TierName.VRAM
            await self._lending.load(refs, max_wait_s, tell, terms, on_devices=on_devices)

    async def PinModel(self, request: pins_pb2.PinModelRequest, context: Any) -> pins_pb2.PinModelResponse:
        """See the .proto."""
        found = await self._lending.pin(
            requests.to_refs(request.components),
            load=request.load,
            max_wait_s=requests.seconds(request.max_wait),
        )
        return pins.pin_response(found)

    async def UnpinModel(
        self, request: pins_pb2.UnpinModelRequest, context: Any
    ) -> pins_pb2.UnpinModelResponse:
        """See the .proto."""
        return pins.unpin_response(self._lending.unpin(requests.to_pinned_refs(request.components)))

    async def EvictModel(
        self, request: load_pb2.EvictModelRequest, context: Any
    ) -> load_pb2.EvictModelResponse:
        """See the .proto."""
        submodel = requests.submodel_to_evict(request)
        tier = requests.to_tier(request.tier)
        how: Any = {"validate_only": request.validate_only, "tier": tier, "device": request.device}
        if request.key:
            done = self._lending.tiers.evict(request.key, submodel, **how)
        else:
            done = self._lending.tiers.evict_idle(**how)
        return load_pb2.EvictModelResponse(
            evicted=fitting(map(residents.resident_message, done.residents)),
            evicted_count=len(done.residents),
            freed_bytes=done.freed,
            zombie_bytes=done.zombie,
        )

    async def ListResidents(
        self, request: residents_pb2.ListResidentsRequest, context: Any
    ) -> residents_pb2.ListResidentsResponse:
        """See the .proto."""
        asked = AskedPage(request, str)
        # The token first: what changes after it may be in the list already, but is never missed.
        token = self._history.flush()
        revisions = self._history.revisions()
        found = self._lending.tiers.find_residents(request.key, after=asked.after or "")
        page, more = asked.of(found, residents.resident_message, lambda message: message.id)
        for message in page:
            message.revision = revisions.get(message.id, 0)
        # It covers what changes while the other pages are read.
        first = token if not request.page_token else ""
        return residents_pb2.ListResidentsResponse(residents=page, next_page_token=more, resume_token=first)

    async def WatchResidents(  # type: ignore[override]  # writes its frames instead of yielding them
        self, request: residents_pb2.WatchResidentsRequest, context: Any
    ) -> None:
        """See the .proto."""
        matches: Callable[[resident_pb2.Resident], bool] | None = None
        if request.key:

            def matches(resident: resident_pb2.Resident) -> bool:
                return residents.is_about(request.key, resident.components)

        self._history.flush()
        watch = self._history.hub.watch(
            resume_token=request.resume_token,
            matches=matches,
            snapshot=read_residents,
            skip_snapshot=request.skip_snapshot,
            bookmark_interval_s=min(requests.seconds(request.bookmark_interval), 30.0),
        )
        await stream_frames(context, watch, residents.watch_response)

    async def GetCapacity(
        self, request: capacity_pb2.GetCapacityRequest, context: Any
    ) -> capacity_pb2.GetCapacityResponse:
        """See the .proto."""
        return residents.capacity_response(self._lending.capacity(), self._socket_path)

    async def EstimateLoad(
        self, request: estimate_pb2.EstimateLoadRequest, context: Any
    ) -> estimate_pb2.EstimateLoadResponse:
        """See the .proto."""
        refs = requests.to_refs(request.components)
        terms = Terms(request.activation_bytes, max_vram_bytes=request.max_vram_bytes)
        return estimates.estimate_response(await self._lending.estimate(refs, terms))

    async def WatchCapacity(  # type: ignore[override]  # writes its frames instead of yielding them
        self, request: capacity_pb2.WatchCapacityRequest, context: Any
    ) -> None:
        """See the .proto."""

        async def tell(capacity: Capacity | None) -> None:
            await context.write(residents.capacity_frame(capacity, self._socket_path))

        least_s, most_s = requests.capacity_intervals(request)
        await self._lending.gauge.watch(tell, least_s=least_s, most_s=most_s)

    def _numbered(self, lease: resident_pb2.Lease) -> resident_pb2.Lease:
        lease.revision = self._journal.revision_of(lease.id)
        return lease


def _teller(context: Any, response: Callable[[News], Message | bytes]) -> Tell:
    """What writes the news of a request to its stream."""

    async def tell(news: News) -> None:
        await context.write(response(news))

    return tell
