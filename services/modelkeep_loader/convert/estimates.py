"""What loading would take, as a message."""

from __future__ import annotations

from modelkeep.loader.v1 import estimate_pb2, resident_pb2
from modelkeep_common.paging import fitting
from modelkeep_common.wire import clamped_int
from modelkeep_loader.convert.residents import resident_message
from modelkeep_loader.convert.words import PRECISION_OF, STAGES, TIERS, WEIGHTS_OF, error_message, ref_message
from modelkeep_loader.domain.components import Stage
from modelkeep_loader.domain.estimate import ComponentEstimate, Estimate


def estimate_response(found: Estimate) -> estimate_pb2.EstimateLoadResponse:
    """What a demand would take."""
    return estimate_pb2.EstimateLoadResponse(
        components=map(_component, found.components),
        needed_bytes=clamped_int(found.needed_bytes),
        evicted=fitting(map(resident_message, found.victims)),
        evicted_count=len(found.victims),
        bytes_short=clamped_int(found.bytes_short),
        fits_now=found.fits_now,
        fits_at_all=found.fits_at_all,
        load_seconds=found.load_seconds,
        devices=[
            estimate_pb2.DeviceEstimate(
                device=one.device,
                needed_bytes=clamped_int(one.needed_bytes),
                bytes_short=clamped_int(one.bytes_short),
            )
            for one in found.devices
        ],
    )


def _component(one: ComponentEstimate) -> estimate_pb2.ComponentEstimate:
    plan, resident = one.plan, one.resident
    message = estimate_pb2.ComponentEstimate(
        component=ref_message(plan.ref),
        resident_id=plan.id,
        class_name=plan.class_name,
        precision=PRECISION_OF[plan.precision],
        size_bytes=clamped_int(one.size_bytes),
        dequantised_size_bytes=clamped_int(plan.dequantised_bytes or one.size_bytes),
        file_size_bytes=clamped_int(sum(file.size_bytes for file in plan.files)),
        load_seconds=one.load_seconds,
        display_name=plan.display_name,
        device=plan.device,
        vram_bytes=clamped_int(one.vram_bytes),
        weights=WEIGHTS_OF[resident.weights if resident is not None else plan.weights]
        if plan.precision
        else None,
    )
    if one.is_on_disk:
        message.tier = resident_pb2.TIER_DISK
    if resident is not None:
        message.state = STAGES[resident.stage]
        if resident.stage is Stage.RESIDENT:
            message.tier = TIERS[resident.tier]
    if one.error is not None:
        message.error.CopyFrom(error_message(one.error, one.retry_in_s))
    return message
