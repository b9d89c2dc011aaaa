"""Words that both directions of the wire need: precisions, stages, references, errors."""

from __future__ import annotations

import time

from modelkeep.exceptions import ModelkeepError
from modelkeep.loader.v1 import resident_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.server.v1 import job_pb2
from modelkeep.worker.manifest import Kind
from modelkeep_common.wire import clamped_int, to_timestamp
from modelkeep_loader.domain.components import ComponentRef, Resident, Stage

PRECISIONS = {
    resident_pb2.PRECISION_UNSPECIFIED: "auto",
    resident_pb2.PRECISION_AUTO: "auto",
    resident_pb2.PRECISION_FLOAT32: "float32",
    resident_pb2.PRECISION_FLOAT16: "float16",
    resident_pb2.PRECISION_BFLOAT16: "bfloat16",
}
WEIGHTS = {
    resident_pb2.WEIGHT_FORM_UNSPECIFIED: "auto",
    resident_pb2.WEIGHT_FORM_AUTO: "auto",
    resident_pb2.WEIGHT_FORM_AS_STORED: "stored",
    resident_pb2.WEIGHT_FORM_DEQUANTISED: "dequantised",
    resident_pb2.WEIGHT_FORM_FLOAT8: "float8",
}
WEIGHTS_OF = {name: value for value, name in WEIGHTS.items() if value}
MEMORY_FORMATS = {
    resident_pb2.MEMORY_FORMAT_UNSPECIFIED: "contiguous",
    resident_pb2.MEMORY_FORMAT_CONTIGUOUS: "contiguous",
    resident_pb2.MEMORY_FORMAT_CHANNELS_LAST: "channels_last",
}
MEMORY_FORMAT_OF = {name: value for value, name in MEMORY_FORMATS.items() if value}
#: An object has no weights, and so none.
PRECISION_OF = {
    "": resident_pb2.PRECISION_UNSPECIFIED,
    **{name: value for value, name in PRECISIONS.items() if value},
}
KINDS = {
    Kind.MODULE: resident_pb2.MANIFEST_KIND_MODULE,
    Kind.STATE_DICT: resident_pb2.MANIFEST_KIND_STATE_DICT,
    Kind.OBJECT: resident_pb2.MANIFEST_KIND_OBJECT,
}
TIERS = {
    "disk": resident_pb2.TIER_DISK,
    "ram": resident_pb2.TIER_RAM,
    "vram": resident_pb2.TIER_VRAM,
}
STAGES = {
    Stage.QUEUED: resident_pb2.RESIDENT_STATE_QUEUED,
    Stage.LOCALIZING: resident_pb2.RESIDENT_STATE_LOCALIZING,
    Stage.READING: resident_pb2.RESIDENT_STATE_READING,
    Stage.CONVERTING: resident_pb2.RESIDENT_STATE_CONVERTING,
    Stage.PROMOTING: resident_pb2.RESIDENT_STATE_PROMOTING,
    Stage.RESIDENT: resident_pb2.RESIDENT_STATE_RESIDENT,
    Stage.EVICTING: resident_pb2.RESIDENT_STATE_EVICTING,
    Stage.FAILED: resident_pb2.RESIDENT_STATE_FAILED,
}


def submodel_name(value: taxonomy_pb2.SubModelType) -> str:
    """ "vae" of SUB_MODEL_TYPE_VAE; "" of the unspecified."""
    name = taxonomy_pb2.SubModelType.Name(value).removeprefix("SUB_MODEL_TYPE_").lower()
    return "" if name == "unspecified" else name


def ref_message(ref: ComponentRef) -> resident_pb2.ComponentRef:
    """A component as a caller named it."""
    return resident_pb2.ComponentRef(
        key=ref.key,
        submodel=f"SUB_MODEL_TYPE_{(ref.submodel or 'unspecified').upper()}",
        precision=PRECISION_OF[ref.precision],
        # As callers that do not know of it have it.
        weights=None if ref.weights == "auto" else WEIGHTS_OF[ref.weights],
        memory_format=None if ref.memory_format == "contiguous" else MEMORY_FORMAT_OF[ref.memory_format],
        device=None if ref.device == "auto" else ref.device,
    )


def error_message(error: ModelkeepError, retry_in: float | None = None) -> job_pb2.JobError:
    """An error as part of a message."""
    message = job_pb2.JobError(
        code=error.code,
        reason=error.reason,
        message=wire_text(error.message),
        metadata={wire_text(key): wire_text(value) for key, value in error.facts.items()},
    )
    if retry_in is not None:
        message.retry_time.CopyFrom(to_timestamp(time.time() + retry_in))
    return message


def wire_text(text: str) -> str:
    """What protobuf can carry: a model's files may hold lone surrogates, a path bytes that are no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def resident_progress(resident: Resident) -> job_pb2.Progress:
    return job_pb2.Progress(
        bytes_done=clamped_int(min(resident.bytes_done, resident.size_bytes)),
        bytes_total=clamped_int(resident.size_bytes),
    )
