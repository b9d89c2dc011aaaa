"""What a holder is told of the components that he gets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.headers import Tensor
from modelkeep.loader.v1 import hold_pb2, load_pb2, resident_pb2
from modelkeep.worker.manifest import Kind, channels_last_strides
from modelkeep_common.wire import clamped_int
from modelkeep_loader.convert.words import KINDS, PRECISION_OF, WEIGHTS_OF, ref_message, wire_text
from modelkeep_loader.domain.components import Built, Plan, Resident
from modelkeep_loader.domain.demand import Demand

#: Bytes of manifests in a grant: with the rest well under the 4 MiB that clients receive by default.
_MAX_GRANT_BYTES = 3 << 20
#: The part of a resident's manifest that is the same for all holders, as it goes over the wire; made once,
#: for it can be long.
_contents: WeakKeyDictionary[Resident, bytes] = WeakKeyDictionary()


def grant_manifests(
    plans: Sequence[Plan], residents: Sequence[Resident], delivery: hold_pb2.Delivery
) -> list[bytes]:
    """What a lease on these components tells of them, each a ComponentManifest as it goes over the wire;
    little, where nothing is delivered.

    Raises:
        FieldInvalidException: It would not fit into an answer.
    """
    made: list[bytes] = []
    on_devices = 0
    for index, (plan, resident) in enumerate(zip(plans, residents, strict=True)):
        memory = resident.on_device
        size = memory.file_bytes if memory is not None else resident.size_bytes
        manifest = _outline(plan, size, resident.weights)
        _describe(manifest, plan, index)
        if memory is not None:
            manifest.vram_bytes, manifest.device_uuid = memory.device_bytes, memory.uuid
            if delivery != hold_pb2.DELIVERY_NONE:
                manifest.device_descriptor_index = len(plans) + on_devices
            on_devices += 1
        # Two messages of a kind, one behind the other, are one that has the fields of both.
        contents = _contents_of(resident) if delivery != hold_pb2.DELIVERY_NONE else b""
        made.append(manifest.SerializeToString() + contents)
    size = sum(map(len, made))
    if size > _MAX_GRANT_BYTES:
        fewer = "fewer components at once, or with " if len(made) > 1 else ""
        raise FieldInvalidException(
            f"What there is to tell of these components takes {size} bytes, and an answer holds "
            f"{_MAX_GRANT_BYTES}: ask for {fewer}DELIVERY_NONE.",
            violations=[FieldViolation("components", "have too much to tell for one answer")],
        )
    return made


def plan_message(demand: Demand) -> load_pb2.LoadPlan:
    """What is about to be loaded."""
    response = load_pb2.LoadPlan()
    for index, plan in enumerate(demand.plans):
        manifest = response.manifests.add()
        manifest.CopyFrom(_outline(plan, plan.source.size_bytes, plan.weights))
        _describe(manifest, plan, index)
    return response


def _outline(plan: Plan, size_bytes: int, weights: str) -> resident_pb2.ComponentManifest:
    return resident_pb2.ComponentManifest(
        resident_id=plan.id,
        class_name=plan.class_name,
        library=plan.library,
        precision=PRECISION_OF[plan.precision],
        quantisation=plan.quantisation,
        device=plan.device,
        file_size_bytes=clamped_int(size_bytes),
        kind=KINDS[plan.kind],
        weights=WEIGHTS_OF[weights] if plan.precision else None,
    )


def _contents_of(resident: Resident) -> bytes:
    if (kept := _contents.get(resident)) is not None:
        return kept
    built = resident.built
    assert built is not None, "only residents are granted"
    message = resident_pb2.ComponentManifest(
        config_json=json.dumps(dict(built.config), sort_keys=True),
        tensors=[_entry(tensor, built) for tensor in built.tensors],
        quantised_tensors=[
            resident_pb2.QuantisedTensor(
                name=name, scheme=weight.scheme, shape=weight.shape, dtype=weight.dtype, parts=weight.parts
            )
            for name, weight in built.quantised.items()
        ],
        aliases=[resident_pb2.TensorAlias(name=n, target=t) for n, t in sorted(built.aliases.items())],
    )
    data = _contents[resident] = message.SerializeToString()
    return data


def _entry(tensor: Tensor, built: Built) -> resident_pb2.TensorEntry:
    entry = resident_pb2.TensorEntry(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        offset=tensor.begin,
        size_bytes=tensor.size_bytes,
        is_buffer=tensor.name in built.buffers,
    )
    if tensor.name in built.channels_last:
        batch, height, width, channels = tensor.shape
        entry.shape[:] = shape = (batch, channels, height, width)
        entry.strides[:] = channels_last_strides(shape)
    return entry


def _describe(manifest: resident_pb2.ComponentManifest, plan: Plan, index: int) -> None:
    is_object = plan.kind is Kind.OBJECT
    manifest.MergeFrom(
        resident_pb2.ComponentManifest(
            component=ref_message(plan.ref),
            descriptor_index=index,
            location=wire_text(str(plan.model.location)),
            hash=plan.model.hash,
            name=plan.model.name,
            base=plan.model.base,
            type=f"MODEL_TYPE_{plan.model.type.upper()}",
            object_paths=[wire_text(str(file.path)) for file in plan.files] if is_object else (),
        )
    )
