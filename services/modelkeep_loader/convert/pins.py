"""Pins, as messages."""

from __future__ import annotations

from collections.abc import Sequence

from modelkeep.loader.v1 import pins_pb2
from modelkeep_common.wire import clamped_int
from modelkeep_loader.convert.words import ref_message
from modelkeep_loader.domain.components import ComponentRef, Plan, Resident, Stage


def pin_response(pinned: Sequence[tuple[Plan, Resident | None]]) -> pins_pb2.PinModelResponse:
    """What is pinned, and what is there of it."""
    response = pins_pb2.PinModelResponse()
    for plan, resident in pinned:
        there = resident is not None and resident.stage is Stage.RESIDENT
        size = resident.size_bytes if resident is not None and there else plan.size_bytes
        response.pins.add(
            component=ref_message(plan.ref), resident_id=plan.id, size_bytes=clamped_int(size), resident=there
        )
    return response


def unpin_response(refs: Sequence[ComponentRef]) -> pins_pb2.UnpinModelResponse:
    """What is pinned no more."""
    return pins_pb2.UnpinModelResponse(components=map(ref_message, refs))
