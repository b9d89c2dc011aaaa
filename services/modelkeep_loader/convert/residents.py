"""Residents, the tiers that they are in, and their watch, as messages."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from modelkeep.loader.v1 import capacity_pb2, resident_pb2, residents_pb2
from modelkeep.server.v1 import watch_pb2
from modelkeep.worker.manifest import Kind
from modelkeep_common.watch import Frame
from modelkeep_common.wire import clamped_int, to_timestamp
from modelkeep_loader.convert.words import (
    MEMORY_FORMAT_OF,
    PRECISION_OF,
    STAGES,
    TIERS,
    WEIGHTS_OF,
    error_message,
    ref_message,
    resident_progress,
)
from modelkeep_loader.domain.components import CPU, Resident, Stage
from modelkeep_loader.domain.demand import Usage
from modelkeep_loader.domain.devices import DeviceCapacity
from modelkeep_loader.domain.holders import MOST_NAMED
from modelkeep_loader.domain.lending import Capacity

#: Names that a component is listed under.
_MOST_COMPONENTS = 256


def resident_message(resident: Resident, *, retry_in: float | None = None) -> resident_pb2.Resident:
    """A resident. ``retry_in``: seconds until a failed one may be tried again."""
    plan, built = resident.plan, resident.built
    # A file on the disk is as it is, whatever will be made of it.
    has_weights = plan.kind is not Kind.OBJECT and bool(plan.precision)
    message = resident_pb2.Resident(
        id=resident.id,
        content_addressed=plan.content_addressed,
        components=map(
            ref_message,
            heapq.nsmallest(
                _MOST_COMPONENTS,
                resident.refs,
                key=lambda r: (r.key, r.submodel, r.precision, r.weights, r.memory_format, r.device),
            ),
        ),
        class_name=plan.class_name,
        library=plan.library,
        precision=PRECISION_OF[plan.precision],
        weights=WEIGHTS_OF[resident.weights] if has_weights else None,
        memory_format=MEMORY_FORMAT_OF[plan.memory_format] if has_weights else None,
        device=plan.device,
        tier=TIERS[resident.tier],
        state=STAGES[resident.stage],
        size_bytes=clamped_int(resident.size_bytes),
        tensor_count=len(built.tensors) if built is not None else 0,
        lease_ids=heapq.nsmallest(MOST_NAMED, resident.leases),
        lease_count=len(resident.leases),
        display_name=resident.display_name,
        model_removed=resident.is_orphan,
        load_seconds=resident.load_seconds or None,
        progress=resident_progress(resident),
        pinned=bool(resident.pins),
    )
    if resident.load_time:
        message.load_time.CopyFrom(to_timestamp(resident.load_time))
    if resident.use_time:
        message.last_use_time.CopyFrom(to_timestamp(resident.use_time))
    if (until := resident.keep_until) is not None:
        message.keep_until_time.CopyFrom(to_timestamp(until))
    if resident.stage is Stage.FAILED and resident.error is not None:
        message.error.CopyFrom(error_message(resident.failure(plan), retry_in))
    return message


def capacity_response(capacity: Capacity, socket_path: str) -> capacity_pb2.GetCapacityResponse:
    """The host, and the bytes of each of its tiers."""
    return capacity_pb2.GetCapacityResponse(
        tiers=[
            capacity_message("ram", capacity.usage),
            *([capacity_message("disk", capacity.disk)] if capacity.disk is not None else ()),
            *(capacity_message("vram", one.usage, one.facts.name) for one in capacity.devices),
        ],
        devices=[CPU, *(one.facts.name for one in capacity.devices if not one.refusal)],
        accelerators=map(_accelerator, capacity.devices),
        boot_id=capacity.boot_id,
        socket_path=socket_path,
        lease_count=capacity.lease_count,
        queued_count=capacity.usage.waiting,
        draining=capacity.out_of_service is not None,
        drain_reason=capacity.out_of_service,
    )


def capacity_frame(capacity: Capacity | None, socket_path: str) -> capacity_pb2.WatchCapacityResponse:
    """A frame of the watch; None: nothing has changed."""
    if capacity is None:
        return capacity_pb2.WatchCapacityResponse()
    return capacity_pb2.WatchCapacityResponse(capacity=capacity_response(capacity, socket_path))


def _accelerator(one: DeviceCapacity) -> capacity_pb2.Accelerator:
    return capacity_pb2.Accelerator(
        name=one.facts.name,
        product=one.facts.product,
        uuid=one.facts.uuid,
        total_bytes=clamped_int(one.facts.total_bytes),
        free_bytes=clamped_int(one.free_bytes),
        refusal=one.refusal,
        from_files_bytes=clamped_int(one.from_files_bytes),
        from_ram_bytes=clamped_int(one.from_ram_bytes),
    )


def capacity_message(tier: str, usage: Usage, device: str = "") -> resident_pb2.TierCapacity:
    """The bytes of a tier."""
    return resident_pb2.TierCapacity(
        tier=TIERS[tier],
        device=device,
        budget_bytes=usage.budget,
        used_bytes=usage.used,
        leased_bytes=usage.leased,
        zombie_bytes=usage.zombie,
        resident_count=usage.residents,
        reserved_bytes=clamped_int(usage.reserved),
        high_watermark_bytes=clamped_int(usage.high_watermark),
        hit_count=usage.hits,
        miss_count=usage.misses,
        eviction_count=usage.evictions,
        pinned_bytes=usage.pinned,
    )


def watch_response(frame: Frame[resident_pb2.Resident]) -> residents_pb2.WatchResidentsResponse:
    """A frame of the watch."""
    response = residents_pb2.WatchResidentsResponse(
        phase=watch_pb2.WATCH_PHASE_SNAPSHOT if frame.phase == "SNAPSHOT" else watch_pb2.WATCH_PHASE_LIVE,
        snapshot_complete=frame.snapshot_complete,
        resume_token=frame.resume_token,
    )
    for event in frame.events:
        message = response.events.add(revision=event.revision)
        if event.removed or event.put is None:
            message.removed_id = event.resource_id
        elif event.progress:
            message.progress.id = event.put.id
            message.progress.progress.CopyFrom(event.put.progress)
        else:
            message.put.CopyFrom(event.put)
    return response


def is_about(key: str, components: Sequence[resident_pb2.ComponentRef]) -> bool:
    """Whether one of the components is of this model; "" is every model's."""
    return not key or any(component.key == key for component in components)
