"""Between the wire's messages and the domain's words."""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from weakref import WeakKeyDictionary

from google.protobuf.duration_pb2 import Duration

from modelkeep.exceptions import FieldInvalidException, FieldViolation, ModelkeepError
from modelkeep.loader.v1 import loader_service_pb2 as pb
from modelkeep.loader.v1 import resident_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.server.v1 import job_pb2, watch_pb2
from modelkeep_common.watch import Frame
from modelkeep_common.wire import clamped_int, to_seconds, to_timestamp
from modelkeep_loader.domain.cache import MOST_NAMED
from modelkeep_loader.domain.components import ComponentRef, Plan, Resident, Stage
from modelkeep_loader.domain.demand import Demand, Usage
from modelkeep_loader.domain.digests import Reading
from modelkeep_loader.domain.leases import Lease, LeaseState
from modelkeep_loader.domain.lending import Capacity
from modelkeep_loader.domain.requests import (
    Alive,
    Granted,
    Identifying,
    Loaded,
    Loading,
    Lost,
    News,
    Planned,
    Queued,
    Wish,
)

DEVICE = "cpu"
#: Bytes of manifests in a grant: with the rest well under the 4 MiB that clients receive by default.
_MAX_GRANT_BYTES = 3 << 20
#: Names that a component is listed under.
_MOST_COMPONENTS = 256

_PRECISIONS = {
    resident_pb2.PRECISION_UNSPECIFIED: "auto",
    resident_pb2.PRECISION_AUTO: "auto",
    resident_pb2.PRECISION_FLOAT32: "float32",
    resident_pb2.PRECISION_FLOAT16: "float16",
    resident_pb2.PRECISION_BFLOAT16: "bfloat16",
}
_PRECISION_OF = {name: value for value, name in _PRECISIONS.items() if value}
_STAGES = {
    Stage.QUEUED: resident_pb2.RESIDENT_STATE_QUEUED,
    Stage.READING: resident_pb2.RESIDENT_STATE_READING,
    Stage.CONVERTING: resident_pb2.RESIDENT_STATE_CONVERTING,
    Stage.RESIDENT: resident_pb2.RESIDENT_STATE_RESIDENT,
    Stage.EVICTING: resident_pb2.RESIDENT_STATE_EVICTING,
    Stage.FAILED: resident_pb2.RESIDENT_STATE_FAILED,
}
_LEASE_STATES = {
    LeaseState.ACTIVE: resident_pb2.LEASE_STATE_ACTIVE,
    LeaseState.DETACHED: resident_pb2.LEASE_STATE_DETACHED,
    LeaseState.ENDED: resident_pb2.LEASE_STATE_ENDED,
}

#: The part of a resident's manifest that is the same for all holders; made once, for it can be long.
_contents: WeakKeyDictionary[Resident, resident_pb2.ComponentManifest] = WeakKeyDictionary()

# Inwards.


def to_wish(request: pb.HoldModelRequest | pb.AcquireLeaseRequest, principal: str) -> Wish:
    """What somebody wants to hold.

    Raises:
        FieldInvalidException: The request names a component twice.
    """
    held = request if isinstance(request, pb.HoldModelRequest) else pb.HoldModelRequest()
    return Wish(
        refs=to_refs(request.components),
        brief=partial(grant_manifests, delivery=request.delivery),
        boot_id=request.boot_id,
        principal=principal,
        label=request.label,
        claimed_pid=request.pid,
        max_wait_s=seconds(request.max_wait),
        with_ticket=request.delivery != pb.DELIVERY_NONE,
        lease_id=held.lease_id,
        lease_secret=held.lease_secret,
    )


def to_refs(components: Iterable[resident_pb2.ComponentRef]) -> list[ComponentRef]:
    """What a request names.

    Raises:
        FieldInvalidException: It names a component twice.
    """
    refs = [ComponentRef(c.key, submodel_name(c.submodel), _PRECISIONS[c.precision]) for c in components]
    if len(set(refs)) != len(refs):
        raise FieldInvalidException(
            "A component is named twice.", violations=[FieldViolation("components", "must differ")]
        )
    return refs


def submodel_name(value: taxonomy_pb2.SubModelType) -> str:
    """ "vae" of SUB_MODEL_TYPE_VAE; "" of the unspecified."""
    name = taxonomy_pb2.SubModelType.Name(value).removeprefix("SUB_MODEL_TYPE_").lower()
    return "" if name == "unspecified" else name


def seconds(duration: Duration) -> float:
    """A duration in seconds, not below 0."""
    return max(0.0, to_seconds(duration))


def ttl_seconds(request: pb.AcquireLeaseRequest | pb.RenewLeaseRequest) -> float | None:
    """The life that a request asks for, in seconds; None if it does not say."""
    return seconds(request.ttl) if request.HasField("ttl") else None


def check_tier(request: pb.LoadModelRequest) -> None:
    """Refuse a tier that there is not.

    Raises:
        FieldInvalidException: It is not the RAM tier.
    """
    if request.tier not in (resident_pb2.TIER_UNSPECIFIED, resident_pb2.TIER_RAM):
        raise FieldInvalidException(
            "This host has no such tier.", violations=[FieldViolation("tier", "must be TIER_RAM here")]
        )


# Outwards.


def ref_message(ref: ComponentRef) -> resident_pb2.ComponentRef:
    """A component as a caller named it."""
    return resident_pb2.ComponentRef(
        key=ref.key,
        submodel=f"SUB_MODEL_TYPE_{(ref.submodel or 'unspecified').upper()}",
        precision=_PRECISION_OF[ref.precision],
    )


def error_message(error: ModelkeepError, retry_in: float | None = None) -> job_pb2.JobError:
    """An error as part of a message."""
    message = job_pb2.JobError(
        code=error.code,
        reason=error.reason,
        message=_text(error.message),
        metadata={_text(key): _text(value) for key, value in error.facts.items()},
    )
    if retry_in is not None:
        message.retry_time.CopyFrom(to_timestamp(time.time() + retry_in))
    return message


def resident_message(resident: Resident, *, retry_in: float | None = None) -> resident_pb2.Resident:
    """A resident. ``retry_in``: seconds until a failed one may be tried again."""
    plan, built = resident.plan, resident.built
    message = resident_pb2.Resident(
        id=resident.id,
        content_addressed=plan.content_addressed,
        components=map(
            ref_message,
            heapq.nsmallest(_MOST_COMPONENTS, resident.refs, key=lambda r: (r.key, r.submodel, r.precision)),
        ),
        class_name=plan.class_name,
        library=plan.library,
        precision=_PRECISION_OF[plan.precision],
        device=DEVICE,
        tier=resident_pb2.TIER_RAM,
        state=_STAGES[resident.stage],
        size_bytes=clamped_int(resident.size_bytes),
        tensor_count=len(built.tensors) if built is not None else 0,
        lease_ids=heapq.nsmallest(MOST_NAMED, resident.leases),
        lease_count=len(resident.leases),
        display_name=resident.display_name,
        model_removed=resident.is_orphan,
        load_seconds=resident.load_seconds or None,
        progress=_progress(resident),
    )
    if resident.load_time:
        message.load_time.CopyFrom(to_timestamp(resident.load_time))
    if resident.use_time:
        message.last_use_time.CopyFrom(to_timestamp(resident.use_time))
    if resident.stage is Stage.FAILED and resident.error is not None:
        message.error.CopyFrom(error_message(resident.failure(plan), retry_in))
    return message


def lease_message(lease: Lease) -> resident_pb2.Lease:
    """A lease, without its secret."""
    message = resident_pb2.Lease(
        id=lease.id,
        state=_LEASE_STATES[lease.state],
        components=map(ref_message, lease.refs),
        resident_ids=lease.resident_ids,
        holder=resident_pb2.Holder(pid=lease.pid, label=lease.label, principal=lease.principal),
        create_time=to_timestamp(lease.create_time),
        stream_bound=bool(lease.streams),
        descriptor_connections=len(lease.connections),
        size_bytes=clamped_int(lease.size_bytes),
        end=f"LEASE_END_{lease.end.name}" if lease.end is not None else None,
        end_message=lease.end_message,
        display_names=lease.display_names,
    )
    if lease.uid is not None:
        message.holder.uid = lease.uid
    if lease.expires_at is not None and lease.expire_time is not None:
        message.expire_time.CopyFrom(to_timestamp(lease.expire_time))
    return message


def hold_response(socket_path: str, news: News) -> pb.HoldModelResponse:
    """What a HoldModel stream says."""
    match news:
        case Queued():
            return pb.HoldModelResponse(queued=queued_message(news.demand, news.holders, news.holder_count))
        case Identifying() | Loading():
            return pb.HoldModelResponse(progress=_progress_of(news))
        case Granted():
            return pb.HoldModelResponse(granted=grant_message(socket_path, news))
        case Lost():
            return pb.HoldModelResponse(lost=pb.HoldLost(error=error_message(news.error)))
        case Alive():
            return pb.HoldModelResponse(alive=pb.HoldAlive())
        case Planned() | Loaded():
            raise AssertionError("news of LoadModel")


def load_response(context: Mapping[str, str], news: News) -> pb.LoadModelResponse:
    """What a LoadModel stream says; the caller's context comes with its first and last word."""
    match news:
        case Planned():
            return pb.LoadModelResponse(plan=plan_message(news.demand), context=context)
        case Queued() | Identifying() | Loading():
            return pb.LoadModelResponse(progress=_progress_of(news))
        case Loaded():
            echo = context if news.is_last else None
            return pb.LoadModelResponse(resident=resident_message(news.resident), context=echo)
        case Granted() | Lost() | Alive():
            raise AssertionError("news of HoldModel")


def _progress_of(news: Queued | Identifying | Loading) -> pb.LoadProgress:
    match news:
        case Identifying():
            return reading_message(news.refs, news.reading)
        case Loading():
            return progress_message(news.demand, news.bytes_per_second)
        case Queued():
            return progress_message(news.demand)


def grant_message(socket_path: str, granted: Granted) -> pb.Grant:
    """What a granted lease gives."""
    return pb.Grant(
        lease=lease_message(granted.lease),
        lease_secret=granted.lease.secret,
        manifests=granted.brief,
        ticket=granted.ticket,
        socket_path=socket_path if granted.ticket else "",
    )


def grant_manifests(
    plans: Sequence[Plan], residents: Sequence[Resident], delivery: pb.Delivery
) -> list[resident_pb2.ComponentManifest]:
    """What a lease on these components tells of them; little, where nothing is delivered.

    Raises:
        FieldInvalidException: It would not fit into an answer.
    """
    made: list[resident_pb2.ComponentManifest] = []
    for index, (plan, resident) in enumerate(zip(plans, residents, strict=True)):
        manifest = _outline(plan, resident.size_bytes)
        if delivery != pb.DELIVERY_NONE:
            manifest.MergeFrom(_contents_of(resident))
        _describe(manifest, plan, index)
        made.append(manifest)
    size = sum(manifest.ByteSize() for manifest in made)
    if size > _MAX_GRANT_BYTES:
        fewer = "fewer components at once, or with " if len(made) > 1 else ""
        raise FieldInvalidException(
            f"What there is to tell of these components takes {size} bytes, and an answer holds "
            f"{_MAX_GRANT_BYTES}: ask for {fewer}DELIVERY_NONE.",
            violations=[FieldViolation("components", "have too much to tell for one answer")],
        )
    return made


def _outline(plan: Plan, size_bytes: int) -> resident_pb2.ComponentManifest:
    return resident_pb2.ComponentManifest(
        resident_id=plan.id,
        class_name=plan.class_name,
        library=plan.library,
        precision=_PRECISION_OF[plan.precision],
        device=DEVICE,
        file_size_bytes=clamped_int(size_bytes),
    )


def _contents_of(resident: Resident) -> resident_pb2.ComponentManifest:
    if (kept := _contents.get(resident)) is not None:
        return kept
    built = resident.built
    assert built is not None, "only residents are granted"
    message = resident_pb2.ComponentManifest(
        config_json=json.dumps(dict(built.config), sort_keys=True),
        tensors=[
            resident_pb2.TensorEntry(
                name=tensor.name,
                dtype=tensor.dtype,
                shape=tensor.shape,
                offset=tensor.begin,
                size_bytes=tensor.size_bytes,
                is_buffer=tensor.name in built.buffers,
            )
            for tensor in built.tensors
        ],
        aliases=[resident_pb2.TensorAlias(name=n, target=t) for n, t in sorted(built.aliases.items())],
    )
    _contents[resident] = message
    return message


def _describe(manifest: resident_pb2.ComponentManifest, plan: Plan, index: int) -> None:
    manifest.MergeFrom(
        resident_pb2.ComponentManifest(
            component=ref_message(plan.ref),
            descriptor_index=index,
            location=_text(str(plan.model.location)),
            hash=plan.model.hash,
            name=plan.model.name,
            base=plan.model.base,
            type=f"MODEL_TYPE_{plan.model.type.upper()}",
        )
    )


def plan_message(demand: Demand) -> pb.LoadPlan:
    """What is about to be loaded."""
    response = pb.LoadPlan()
    for index, plan in enumerate(demand.plans):
        manifest = response.manifests.add()
        manifest.CopyFrom(_outline(plan, plan.size_bytes))
        _describe(manifest, plan, index)
    return response


def queued_message(demand: Demand, holders: Sequence[str], count: int) -> pb.HoldQueued:
    """A demand that waits for room."""
    return pb.HoldQueued(
        bytes_short=clamped_int(demand.bytes_short), holder_lease_ids=holders, holder_count=count
    )


def progress_message(demand: Demand, rate: int = 0) -> pb.LoadProgress:
    """How far a demand is: the first of its components that is not resident yet."""
    count = len(demand.plans)
    for index, resident in enumerate(demand.residents):
        if resident.stage is not Stage.RESIDENT:
            progress = _progress(resident)
            progress.bytes_per_second = rate
            return pb.LoadProgress(
                component=ref_message(demand.plans[index].ref),
                stage=_STAGES[resident.stage],
                progress=progress,
                index=index,
                count=count,
            )
    waiting = not demand.residents
    index = 0 if waiting else count - 1
    size = clamped_int(demand.plans[0].size_bytes if waiting else demand.residents[-1].size_bytes)
    return pb.LoadProgress(
        component=ref_message(demand.plans[index].ref),
        stage=resident_pb2.RESIDENT_STATE_QUEUED if waiting else resident_pb2.RESIDENT_STATE_RESIDENT,
        progress=job_pb2.Progress(bytes_done=0 if waiting else size, bytes_total=size),
        index=index,
        count=count,
    )


def reading_message(refs: Sequence[ComponentRef], reading: Reading) -> pb.LoadProgress:
    """How far files are read to know what they are."""
    return pb.LoadProgress(
        component=ref_message(refs[0]),
        stage=resident_pb2.RESIDENT_STATE_READING,
        progress=job_pb2.Progress(
            bytes_done=clamped_int(reading.done), bytes_total=clamped_int(reading.total) or None
        ),
        count=len(refs),
    )


def capacity_response(capacity: Capacity, socket_path: str) -> pb.GetCapacityResponse:
    """The host, and the bytes of each of its tiers."""
    return pb.GetCapacityResponse(
        tiers=[capacity_message(capacity.usage)],
        devices=[DEVICE],
        boot_id=capacity.boot_id,
        socket_path=socket_path,
        lease_count=capacity.lease_count,
        queued_count=capacity.usage.waiting,
    )


def capacity_message(usage: Usage) -> resident_pb2.TierCapacity:
    """The bytes of the RAM tier."""
    return resident_pb2.TierCapacity(
        tier=resident_pb2.TIER_RAM,
        budget_bytes=usage.budget,
        used_bytes=usage.used,
        leased_bytes=usage.leased,
        zombie_bytes=usage.zombie,
        resident_count=usage.residents,
    )


def watch_response(frame: Frame[resident_pb2.Resident]) -> pb.WatchResidentsResponse:
    """A frame of the watch."""
    response = pb.WatchResidentsResponse(
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


def _progress(resident: Resident) -> job_pb2.Progress:
    return job_pb2.Progress(
        bytes_done=clamped_int(min(resident.bytes_done, resident.size_bytes)),
        bytes_total=clamped_int(resident.size_bytes),
    )


def _text(text: str) -> str:
    """What protobuf can carry: a model's files may hold lone surrogates, a path bytes that are no UTF-8."""
    return text.encode("utf-8", "replace").decode()
