"""The wire of LoaderService: a few lines a method, no policy."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

from google.protobuf.message import Message

from modelkeep.exceptions import (
    FieldInvalidException,
    FieldViolation,
    ServerDrainingException,
)
from modelkeep.loader.v1 import loader_service_pb2 as pb
from modelkeep.loader.v1 import loader_service_pb2_grpc, resident_pb2
from modelkeep_common.calls import current_call
from modelkeep_common.idempotency import fingerprint
from modelkeep_common.paging import (
    MAX_PAGE_BYTES,
    MAX_PAGE_SIZE,
    clamp_page_size,
    decode_page_token,
    encode_page_token,
)
from modelkeep_common.watch import stream_frames
from modelkeep_loader import convert
from modelkeep_loader.domain.cache import Demand
from modelkeep_loader.domain.components import ComponentRef
from modelkeep_loader.domain.digests import Reading
from modelkeep_loader.domain.leases import Lease, LeaseEnd, ended
from modelkeep_loader.domain.lending import Lending
from modelkeep_loader.store import ResidentHistory, read_residents

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Message)
_Manifests: TypeAlias = Sequence[resident_pb2.ComponentManifest]

#: Seconds between two frames while something is loading: five a second.
_FRAME_S = 0.2
#: Seconds that working out what to load may take before the first frame.
_PLAN_S = 0.15
#: Seconds between two signs of life of a held lease.
_ALIVE_S = 15.0


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
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """End the open streams with SERVER_DRAINING."""
        self._draining.set()

    async def HoldModel(  # type: ignore[override]  # writes its frames instead of yielding them
        self, request: pb.HoldModelRequest, context: Any
    ) -> None:
        """See the .proto."""
        self._lending.check_host(request.boot_id)
        refs = convert.to_refs(request.components)
        if request.lease_id:
            lease, manifests = self._take_up(request, refs)
        else:
            lease, manifests = await self._hold(request, refs, context)
        binding = self._lending.leases.bind_stream(lease)
        try:
            granted = self._granted(lease, manifests, request.delivery)
            await context.write(pb.HoldModelResponse(granted=granted))
            while not await self._until(lease.ended, _ALIVE_S):
                await context.write(pb.HoldModelResponse(alive=pb.HoldAlive()))
            if lease.end is not LeaseEnd.RELEASED:
                lost = pb.HoldLost(error=convert.error_message(ended(lease)))
                await context.write(pb.HoldModelResponse(lost=lost))
        finally:
            self._lending.leases.unbind(lease, binding)

    async def AcquireLease(self, request: pb.AcquireLeaseRequest, context: Any) -> pb.AcquireLeaseResponse:
        """See the .proto."""
        self._lending.check_host(request.boot_id)
        ttl = convert.ttl_seconds(request)
        principal = current_call().principal.name
        with self._lending.leases.room_for(principal):
            demand = await self._demand(context, convert.to_refs(request.components), is_lease=True)
            await self._fetch(context, demand, convert.seconds(request.max_wait))
            lease, manifests = self._grant(demand, request, principal)
            self._lending.leases.bind_ttl(lease, ttl)
        return pb.AcquireLeaseResponse(grant=self._granted(lease, manifests, request.delivery))

    async def RenewLease(self, request: pb.RenewLeaseRequest, context: Any) -> pb.RenewLeaseResponse:
        """See the .proto."""
        lease = self._lending.leases.authorise(request.lease_id, request.lease_secret)
        self._lending.leases.bind_ttl(lease, convert.ttl_seconds(request))
        ticket = self._lending.tickets.issue(lease.id)
        return pb.RenewLeaseResponse(lease=convert.lease_message(lease), ticket=ticket)

    async def ReleaseLease(self, request: pb.ReleaseLeaseRequest, context: Any) -> pb.ReleaseLeaseResponse:
        """See the .proto."""
        lease = self._lending.leases.authorise(request.lease_id, request.lease_secret)
        self._lending.leases.release(lease)
        return pb.ReleaseLeaseResponse(lease=convert.lease_message(lease))

    async def RevokeLease(self, request: pb.RevokeLeaseRequest, context: Any) -> pb.RevokeLeaseResponse:
        """See the .proto."""
        lease = self._lending.leases.revoke(request.lease_id, request.why)
        _log.warning("%s revoked the lease %s", current_call().principal.name or "a caller", lease.id)
        return pb.RevokeLeaseResponse(lease=convert.lease_message(lease))

    async def GetLease(self, request: pb.GetLeaseRequest, context: Any) -> pb.GetLeaseResponse:
        """See the .proto."""
        return pb.GetLeaseResponse(lease=convert.lease_message(self._lending.leases.get(request.lease_id)))

    async def ListLeases(self, request: pb.ListLeasesRequest, context: Any) -> pb.ListLeasesResponse:
        """See the .proto."""
        mark = fingerprint(request, without=("page_token", "page_size"))
        after = tuple(decode_page_token(request.page_token, mark, (float, str)))
        leases = [
            lease
            for lease in sorted(self._lending.leases.alive(), key=lambda held: (held.create_time, held.id))
            if (not request.key or any(ref.key == request.key for ref in lease.refs))
            and (lease.create_time, lease.id) > after
        ]
        page = _page(map(convert.lease_message, leases), clamp_page_size(request.page_size))
        last = leases[len(page) - 1] if len(leases) > len(page) else None
        more = encode_page_token([last.create_time, last.id], mark) if last is not None else ""
        return pb.ListLeasesResponse(leases=page, next_page_token=more)

    async def LoadModel(  # type: ignore[override]  # writes its frames instead of yielding them
        self, request: pb.LoadModelRequest, context: Any
    ) -> None:
        """See the .proto."""
        if request.tier not in (resident_pb2.TIER_UNSPECIFIED, resident_pb2.TIER_RAM):
            raise FieldInvalidException(
                "This host has no such tier.", violations=[FieldViolation("tier", "must be TIER_RAM here")]
            )
        demand = await self._demand(
            context,
            convert.to_refs(request.components),
            is_lease=False,
            frame=lambda progress: pb.LoadModelResponse(progress=progress),
        )

        def frame(rate: int) -> pb.LoadModelResponse:
            return pb.LoadModelResponse(progress=convert.progress_message(demand, rate))

        first = pb.LoadModelResponse(plan=convert.plan_message(demand), context=request.context)
        await context.write(first)
        try:
            await self._fetch(context, demand, convert.seconds(request.max_wait), frame)
            for resident in demand.residents[:-1]:
                await context.write(pb.LoadModelResponse(resident=convert.resident_message(resident)))
            last = convert.resident_message(demand.residents[-1])
            await context.write(pb.LoadModelResponse(resident=last, context=request.context))
        finally:
            self._lending.cache.give_back(demand.holder)

    async def EvictModel(self, request: pb.EvictModelRequest, context: Any) -> pb.EvictModelResponse:
        """See the .proto."""
        done = self._lending.cache.evict(request.key, convert.submodel_name(request.submodel))
        return pb.EvictModelResponse(
            evicted=_page(map(convert.resident_message, done.residents), MAX_PAGE_SIZE),
            evicted_count=len(done.residents),
            freed_bytes=done.freed,
            zombie_bytes=done.zombie,
        )

    async def ListResidents(self, request: pb.ListResidentsRequest, context: Any) -> pb.ListResidentsResponse:
        """See the .proto."""
        mark = fingerprint(request, without=("page_token", "page_size"))
        position = decode_page_token(request.page_token, mark, (str,))
        after = str(position[0]) if position else ""
        size = clamp_page_size(request.page_size)
        # The token first: what changes after it may be in the list already, but is never missed.
        token = self._history.flush()
        revisions = self._history.revisions()
        found = [
            resident
            for resident in self._lending.cache.residents()
            if resident.id > after
            and (not request.key or any(ref.key == request.key for ref in resident.refs))
        ]
        page = _page(map(convert.resident_message, found), size)
        for message in page:
            message.revision = revisions.get(message.id, 0)
        more = encode_page_token([page[-1].id], mark) if len(found) > len(page) else ""
        first = (
            token if not request.page_token else ""
        )  # it covers what changes while the other pages are read
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
        usage = self._lending.cache.usage()
        return pb.GetCapacityResponse(
            tiers=[convert.capacity_message(usage)],
            devices=[convert.DEVICE],
            boot_id=self._lending.boot_id,
            socket_path=self._socket_path,
            lease_count=len(self._lending.leases.alive()),
            queued_count=usage.waiting,
        )

    async def _hold(
        self, request: pb.HoldModelRequest, refs: Sequence[ComponentRef], context: Any
    ) -> tuple[Lease, _Manifests]:
        principal = current_call().principal.name
        with self._lending.leases.room_for(principal):
            demand = await self._demand(
                context, refs, is_lease=True, frame=lambda progress: pb.HoldModelResponse(progress=progress)
            )

            def frame(rate: int) -> pb.HoldModelResponse:
                if demand.residents:
                    return pb.HoldModelResponse(progress=convert.progress_message(demand, rate))
                holders = self._lending.cache.holders()
                return pb.HoldModelResponse(queued=convert.queued_message(demand, *holders))

            await self._fetch(context, demand, convert.seconds(request.max_wait), frame)
            return self._grant(demand, request, principal)

    def _grant(
        self, demand: Demand, request: pb.HoldModelRequest | pb.AcquireLeaseRequest, principal: str
    ) -> tuple[Lease, _Manifests]:
        """Begin the lease that a met demand is for, if what it gives can be told. Bind it at once."""
        try:
            manifests = convert.grant_manifests(demand.plans, demand.residents, request.delivery)
        except BaseException:
            self._lending.cache.give_back(demand.holder)
            raise
        lease = self._lending.grant(demand, label=request.label, claimed_pid=request.pid, principal=principal)
        return lease, manifests

    def _take_up(
        self, request: pb.HoldModelRequest, refs: Sequence[ComponentRef]
    ) -> tuple[Lease, _Manifests]:
        lease = self._lending.leases.authorise(request.lease_id, request.lease_secret)
        manifests = convert.grant_manifests(lease.plans, lease.residents, request.delivery)
        self._lending.take_up(lease, refs, claimed_pid=request.pid)
        return lease, manifests

    def _granted(self, lease: Lease, manifests: _Manifests, delivery: pb.Delivery) -> pb.Grant:
        """What a lease gives, once it has its binding."""
        ticket = b"" if delivery == pb.DELIVERY_NONE else self._lending.tickets.issue(lease.id)
        return convert.grant_message(lease, manifests, ticket, self._socket_path)

    async def _demand(
        self,
        context: Any,
        refs: Sequence[ComponentRef],
        *,
        is_lease: bool,
        frame: Callable[[pb.LoadProgress], Any] | None = None,
    ) -> Demand:
        """Work out what a request wants, and write frames while files are read for that.

        Raises:
            ServerDrainingException: The server drains first.
            ModelkeepError: See :meth:`modelkeep_loader.domain.plan.Planner.plan`.
        """
        reading = Reading()
        work = asyncio.ensure_future(self._lending.demand(refs, is_lease=is_lease, reading=reading))
        tell = None if frame is None else lambda: frame(convert.reading_message(refs, reading))
        await self._follow(context, work, tell, patience_s=_PLAN_S)
        return work.result()

    async def _fetch(
        self, context: Any, demand: Demand, max_wait_s: float, frame: Callable[[int], Any] | None = None
    ) -> None:
        """Meet a demand, and write frames while that takes time. Holds nothing if it raises.

        Raises:
            ServerDrainingException: The server drains first.
            ModelkeepError: See :meth:`modelkeep_loader.domain.cache.RamCache.acquire`.
        """
        cache = self._lending.cache
        if cache.take_now(demand) is not None:
            return
        done_before, when = 0, time.monotonic()

        def tell() -> Any:
            nonlocal done_before, when
            done, now = sum(r.bytes_done for r in demand.residents), time.monotonic()
            rate = int((done - done_before) / (now - when)) if now > when and done > done_before else 0
            done_before, when = done, now
            assert frame is not None
            return frame(rate)

        work = asyncio.ensure_future(cache.acquire(demand, max_wait_s=max_wait_s))
        try:
            await self._follow(context, work, None if frame is None else tell)
            work.result()
        except BaseException:
            # Nobody else knows the holder of a lease that never was.
            cache.give_back(demand.holder)
            raise

    async def _follow(
        self, context: Any, work: asyncio.Future[Any], frame: Callable[[], Any] | None, patience_s: float = 0
    ) -> None:
        """Wait until work is done, and write frames after some patience. Cancels it if it raises itself."""
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            # Without patience it begins all the same, so that the first frame has something to say.
            await asyncio.wait({work, draining}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            while not work.done():
                if draining.done():
                    raise ServerDrainingException("The loader is shutting down.", retry_after=1.0)
                if frame is not None:
                    await context.write(frame())
                await asyncio.wait({work, draining}, timeout=_FRAME_S, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            work.cancel()
            await asyncio.wait({work})
            raise
        finally:
            draining.cancel()

    async def _until(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Wait for an event; False if it did not come in time.

        Raises:
            ServerDrainingException: The server drains first.
        """
        waits = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._draining.wait())}
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not event.is_set() and self._draining.is_set():
            raise ServerDrainingException(
                "The loader is shutting down. What is mapped stays valid; take a new lease when it is back.",
                retry_after=1.0,
            )
        return event.is_set()


def _page(messages: Iterator[_M], size: int) -> list[_M]:
    """The first few, as many as a page holds by number and by bytes; at least one if there is one."""
    page: list[_M] = []
    room = MAX_PAGE_BYTES
    for message in itertools.islice(messages, size):
        room -= message.ByteSize()
        if room < 0 and page:
            break
        page.append(message)
    return page
