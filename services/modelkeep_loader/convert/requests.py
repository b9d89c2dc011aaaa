"""From the messages of requests to what the core is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from google.protobuf.duration_pb2 import Duration

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.loader.v1 import capacity_pb2, hold_pb2, load_pb2, resident_pb2
from modelkeep_common.wire import to_seconds
from modelkeep_loader.convert.manifests import grant_manifests
from modelkeep_loader.convert.words import MEMORY_FORMATS, PRECISIONS, WEIGHTS, submodel_name
from modelkeep_loader.domain.components import CPU, ComponentRef
from modelkeep_loader.domain.demand import Terms
from modelkeep_loader.domain.requests import Wish
from modelkeep_loader.domain.tier import TierName


def to_wish(request: hold_pb2.HoldModelRequest | hold_pb2.AcquireLeaseRequest, principal: str) -> Wish:
    """What somebody wants to hold.

    Raises:
        FieldInvalidException: The request names a component twice.
    """
    held = request if isinstance(request, hold_pb2.HoldModelRequest) else hold_pb2.HoldModelRequest()
    return Wish(
        refs=to_refs(request.components),
        brief=partial(grant_manifests, delivery=request.delivery),
        boot_id=request.boot_id,
        principal=principal,
        label=request.label,
        labels=dict(request.labels),
        claimed_pid=request.pid,
        max_wait_s=seconds(request.max_wait),
        terms=Terms(request.activation_bytes, keep_alive_seconds(request), request.max_vram_bytes),
        with_ticket=request.delivery in (hold_pb2.DELIVERY_UNSPECIFIED, hold_pb2.DELIVERY_FD),
        with_paths=request.delivery == hold_pb2.DELIVERY_PATH,
        lease_id=held.lease_id,
        lease_secret=held.lease_secret,
    )


def to_promotion(request: hold_pb2.PromoteLeaseRequest) -> Wish:
    """What somebody wants whose lease is to go back to its accelerators."""
    return Wish(
        refs=(),
        brief=partial(grant_manifests, delivery=hold_pb2.DELIVERY_FD),
        max_wait_s=seconds(request.max_wait),
        lease_id=request.lease_id,
        lease_secret=request.lease_secret,
    )


def to_refs(components: Iterable[resident_pb2.ComponentRef]) -> list[ComponentRef]:
    """What a request names.

    Raises:
        FieldInvalidException: It names a component twice.
    """
    refs = [
        ComponentRef(
            c.key,
            submodel_name(c.submodel),
            PRECISIONS[c.precision],
            WEIGHTS[c.weights],
            MEMORY_FORMATS[c.memory_format],
            c.device or "auto",
        )
        for c in components
    ]
    if len(set(refs)) != len(refs):
        raise FieldInvalidException(
            "A component is named twice.", violations=[FieldViolation("components", "must differ")]
        )
    return refs


def to_pinned_refs(components: Iterable[resident_pb2.ComponentRef]) -> list[ComponentRef]:
    """What a request takes pins off: without a memory format, in whichever.

    Raises:
        FieldInvalidException: It names a component twice.
    """
    named = list(components)
    return [
        ref if one.memory_format else replace(ref, memory_format="")
        for ref, one in zip(to_refs(named), named, strict=True)
    ]


def seconds(duration: Duration) -> float:
    """A duration in seconds, not below 0."""
    return max(0.0, to_seconds(duration))


def ttl_seconds(request: hold_pb2.AcquireLeaseRequest | hold_pb2.RenewLeaseRequest) -> float | None:
    """The life that a request asks for, in seconds; None if it does not say."""
    return seconds(request.ttl) if request.HasField("ttl") else None


def keep_alive_seconds(
    request: hold_pb2.HoldModelRequest | hold_pb2.AcquireLeaseRequest | load_pb2.LoadModelRequest,
) -> float | None:
    """How long a request wants components to be kept, in seconds; None if it does not say."""
    return to_seconds(request.keep_alive) if request.HasField("keep_alive") else None


def to_tier(tier: resident_pb2.Tier) -> TierName:
    """The tier that a request is about; RAM if it does not say."""
    return {resident_pb2.TIER_DISK: TierName.DISK, resident_pb2.TIER_VRAM: TierName.VRAM}.get(
        tier, TierName.RAM
    )


def refs_in_tier(request: load_pb2.LoadModelRequest) -> list[ComponentRef]:
    """What a request names, where its tier says that it is to be.

    Raises:
        FieldInvalidException: It names a component twice, or one for the host's own memory in TIER_VRAM.
    """
    refs = to_refs(request.components)
    if request.tier in (resident_pb2.TIER_RAM, resident_pb2.TIER_DISK):
        return [replace(ref, device=CPU) for ref in refs]
    if request.tier == resident_pb2.TIER_VRAM and any(ref.device == CPU for ref in refs):
        raise FieldInvalidException(
            "What is to be on an accelerator is named for the host's own memory.",
            violations=[FieldViolation("components.device", "must be an accelerator with TIER_VRAM")],
        )
    return refs


def submodel_to_evict(request: load_pb2.EvictModelRequest) -> str:
    """The component that is to go; "" for all.

    Raises:
        FieldInvalidException: A component of no model.
    """
    submodel = submodel_name(request.submodel)
    if submodel and not request.key:
        raise FieldInvalidException(
            "A component is to be dropped, and of no model.",
            violations=[FieldViolation("submodel", "must be unset without a key")],
        )
    return submodel


def capacity_intervals(request: capacity_pb2.WatchCapacityRequest) -> tuple[float, float]:
    """Shortest and longest time between two frames, in seconds."""
    least = seconds(request.min_interval) if request.HasField("min_interval") else 0.5
    most = seconds(request.bookmark_interval) or 15.0
    return min(max(least, 0.1), 60.0), min(max(most, 1.0), 30.0)
