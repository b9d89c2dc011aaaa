import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from modelkeep.model.v1 import taxonomy_pb2 as _taxonomy_pb2
from modelkeep.server.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MemoryFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MEMORY_FORMAT_UNSPECIFIED: _ClassVar[MemoryFormat]
    MEMORY_FORMAT_CONTIGUOUS: _ClassVar[MemoryFormat]
    MEMORY_FORMAT_CHANNELS_LAST: _ClassVar[MemoryFormat]

class WeightForm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WEIGHT_FORM_UNSPECIFIED: _ClassVar[WeightForm]
    WEIGHT_FORM_AUTO: _ClassVar[WeightForm]
    WEIGHT_FORM_AS_STORED: _ClassVar[WeightForm]
    WEIGHT_FORM_DEQUANTISED: _ClassVar[WeightForm]
    WEIGHT_FORM_FLOAT8: _ClassVar[WeightForm]

class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRECISION_UNSPECIFIED: _ClassVar[Precision]
    PRECISION_AUTO: _ClassVar[Precision]
    PRECISION_FLOAT32: _ClassVar[Precision]
    PRECISION_FLOAT16: _ClassVar[Precision]
    PRECISION_BFLOAT16: _ClassVar[Precision]

class Tier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIER_UNSPECIFIED: _ClassVar[Tier]
    TIER_DISK: _ClassVar[Tier]
    TIER_RAM: _ClassVar[Tier]
    TIER_VRAM: _ClassVar[Tier]

class ResidentState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESIDENT_STATE_UNSPECIFIED: _ClassVar[ResidentState]
    RESIDENT_STATE_QUEUED: _ClassVar[ResidentState]
    RESIDENT_STATE_LOCALIZING: _ClassVar[ResidentState]
    RESIDENT_STATE_READING: _ClassVar[ResidentState]
    RESIDENT_STATE_CONVERTING: _ClassVar[ResidentState]
    RESIDENT_STATE_RESIDENT: _ClassVar[ResidentState]
    RESIDENT_STATE_EVICTING: _ClassVar[ResidentState]
    RESIDENT_STATE_FAILED: _ClassVar[ResidentState]
    RESIDENT_STATE_PROMOTING: _ClassVar[ResidentState]

class ManifestKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MANIFEST_KIND_UNSPECIFIED: _ClassVar[ManifestKind]
    MANIFEST_KIND_MODULE: _ClassVar[ManifestKind]
    MANIFEST_KIND_STATE_DICT: _ClassVar[ManifestKind]
    MANIFEST_KIND_OBJECT: _ClassVar[ManifestKind]

class LeaseChange(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEASE_CHANGE_UNSPECIFIED: _ClassVar[LeaseChange]
    LEASE_CHANGE_GRANTED: _ClassVar[LeaseChange]
    LEASE_CHANGE_STREAM_OPENED: _ClassVar[LeaseChange]
    LEASE_CHANGE_CONNECTED: _ClassVar[LeaseChange]
    LEASE_CHANGE_RENEWED: _ClassVar[LeaseChange]
    LEASE_CHANGE_UNBOUND: _ClassVar[LeaseChange]
    LEASE_CHANGE_DETACHED: _ClassVar[LeaseChange]
    LEASE_CHANGE_TAKEN_UP: _ClassVar[LeaseChange]
    LEASE_CHANGE_REVOKE_REQUESTED: _ClassVar[LeaseChange]
    LEASE_CHANGE_ENDED: _ClassVar[LeaseChange]
    LEASE_CHANGE_READOPTED: _ClassVar[LeaseChange]
    LEASE_CHANGE_DEMOTED: _ClassVar[LeaseChange]
    LEASE_CHANGE_PROMOTED: _ClassVar[LeaseChange]

class LeaseEnd(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEASE_END_UNSPECIFIED: _ClassVar[LeaseEnd]
    LEASE_END_RELEASED: _ClassVar[LeaseEnd]
    LEASE_END_EXPIRED: _ClassVar[LeaseEnd]
    LEASE_END_DETACHED: _ClassVar[LeaseEnd]
    LEASE_END_HOLDER_DIED: _ClassVar[LeaseEnd]
    LEASE_END_REVOKED: _ClassVar[LeaseEnd]
    LEASE_END_DRAINED: _ClassVar[LeaseEnd]
    LEASE_END_DEVICE_LOST: _ClassVar[LeaseEnd]

class LeaseState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEASE_STATE_UNSPECIFIED: _ClassVar[LeaseState]
    LEASE_STATE_ACTIVE: _ClassVar[LeaseState]
    LEASE_STATE_DETACHED: _ClassVar[LeaseState]
    LEASE_STATE_ENDED: _ClassVar[LeaseState]
    LEASE_STATE_REVOKING: _ClassVar[LeaseState]
MEMORY_FORMAT_UNSPECIFIED: MemoryFormat
MEMORY_FORMAT_CONTIGUOUS: MemoryFormat
MEMORY_FORMAT_CHANNELS_LAST: MemoryFormat
WEIGHT_FORM_UNSPECIFIED: WeightForm
WEIGHT_FORM_AUTO: WeightForm
WEIGHT_FORM_AS_STORED: WeightForm
WEIGHT_FORM_DEQUANTISED: WeightForm
WEIGHT_FORM_FLOAT8: WeightForm
PRECISION_UNSPECIFIED: Precision
PRECISION_AUTO: Precision
PRECISION_FLOAT32: Precision
PRECISION_FLOAT16: Precision
PRECISION_BFLOAT16: Precision
TIER_UNSPECIFIED: Tier
TIER_DISK: Tier
TIER_RAM: Tier
TIER_VRAM: Tier
RESIDENT_STATE_UNSPECIFIED: ResidentState
RESIDENT_STATE_QUEUED: ResidentState
RESIDENT_STATE_LOCALIZING: ResidentState
RESIDENT_STATE_READING: ResidentState
RESIDENT_STATE_CONVERTING: ResidentState
RESIDENT_STATE_RESIDENT: ResidentState
RESIDENT_STATE_EVICTING: ResidentState
RESIDENT_STATE_FAILED: ResidentState
RESIDENT_STATE_PROMOTING: ResidentState
MANIFEST_KIND_UNSPECIFIED: ManifestKind
MANIFEST_KIND_MODULE: ManifestKind
MANIFEST_KIND_STATE_DICT: ManifestKind
MANIFEST_KIND_OBJECT: ManifestKind
LEASE_CHANGE_UNSPECIFIED: LeaseChange
LEASE_CHANGE_GRANTED: LeaseChange
LEASE_CHANGE_STREAM_OPENED: LeaseChange
LEASE_CHANGE_CONNECTED: LeaseChange
LEASE_CHANGE_RENEWED: LeaseChange
LEASE_CHANGE_UNBOUND: LeaseChange
LEASE_CHANGE_DETACHED: LeaseChange
LEASE_CHANGE_TAKEN_UP: LeaseChange
LEASE_CHANGE_REVOKE_REQUESTED: LeaseChange
LEASE_CHANGE_ENDED: LeaseChange
LEASE_CHANGE_READOPTED: LeaseChange
LEASE_CHANGE_DEMOTED: LeaseChange
LEASE_CHANGE_PROMOTED: LeaseChange
LEASE_END_UNSPECIFIED: LeaseEnd
LEASE_END_RELEASED: LeaseEnd
LEASE_END_EXPIRED: LeaseEnd
LEASE_END_DETACHED: LeaseEnd
LEASE_END_HOLDER_DIED: LeaseEnd
LEASE_END_REVOKED: LeaseEnd
LEASE_END_DRAINED: LeaseEnd
LEASE_END_DEVICE_LOST: LeaseEnd
LEASE_STATE_UNSPECIFIED: LeaseState
LEASE_STATE_ACTIVE: LeaseState
LEASE_STATE_DETACHED: LeaseState
LEASE_STATE_ENDED: LeaseState
LEASE_STATE_REVOKING: LeaseState

class ComponentRef(_message.Message):
    __slots__ = ("key", "submodel", "precision", "weights", "memory_format", "device")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SUBMODEL_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FORMAT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    key: str
    submodel: _taxonomy_pb2.SubModelType
    precision: Precision
    weights: WeightForm
    memory_format: MemoryFormat
    device: str
    def __init__(self, key: _Optional[str] = ..., submodel: _Optional[_Union[_taxonomy_pb2.SubModelType, str]] = ..., precision: _Optional[_Union[Precision, str]] = ..., weights: _Optional[_Union[WeightForm, str]] = ..., memory_format: _Optional[_Union[MemoryFormat, str]] = ..., device: _Optional[str] = ...) -> None: ...

class Resident(_message.Message):
    __slots__ = ("id", "content_addressed", "components", "class_name", "library", "precision", "device", "tier", "state", "size_bytes", "tensor_count", "lease_ids", "load_seconds", "load_time", "last_use_time", "progress", "error", "revision", "lease_count", "display_name", "model_removed", "pinned", "keep_until_time", "memory_format", "weights")
    ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_ADDRESSED_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TENSOR_COUNT_FIELD_NUMBER: _ClassVar[int]
    LEASE_IDS_FIELD_NUMBER: _ClassVar[int]
    LOAD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LOAD_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_USE_TIME_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LEASE_COUNT_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_REMOVED_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    KEEP_UNTIL_TIME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FORMAT_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    content_addressed: bool
    components: _containers.RepeatedCompositeFieldContainer[ComponentRef]
    class_name: str
    library: str
    precision: Precision
    device: str
    tier: Tier
    state: ResidentState
    size_bytes: int
    tensor_count: int
    lease_ids: _containers.RepeatedScalarFieldContainer[str]
    load_seconds: float
    load_time: _timestamp_pb2.Timestamp
    last_use_time: _timestamp_pb2.Timestamp
    progress: _job_pb2.Progress
    error: _job_pb2.JobError
    revision: int
    lease_count: int
    display_name: str
    model_removed: bool
    pinned: bool
    keep_until_time: _timestamp_pb2.Timestamp
    memory_format: MemoryFormat
    weights: WeightForm
    def __init__(self, id: _Optional[str] = ..., content_addressed: _Optional[bool] = ..., components: _Optional[_Iterable[_Union[ComponentRef, _Mapping]]] = ..., class_name: _Optional[str] = ..., library: _Optional[str] = ..., precision: _Optional[_Union[Precision, str]] = ..., device: _Optional[str] = ..., tier: _Optional[_Union[Tier, str]] = ..., state: _Optional[_Union[ResidentState, str]] = ..., size_bytes: _Optional[int] = ..., tensor_count: _Optional[int] = ..., lease_ids: _Optional[_Iterable[str]] = ..., load_seconds: _Optional[float] = ..., load_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_use_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., progress: _Optional[_Union[_job_pb2.Progress, _Mapping]] = ..., error: _Optional[_Union[_job_pb2.JobError, _Mapping]] = ..., revision: _Optional[int] = ..., lease_count: _Optional[int] = ..., display_name: _Optional[str] = ..., model_removed: _Optional[bool] = ..., pinned: _Optional[bool] = ..., keep_until_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., memory_format: _Optional[_Union[MemoryFormat, str]] = ..., weights: _Optional[_Union[WeightForm, str]] = ...) -> None: ...

class TensorEntry(_message.Message):
    __slots__ = ("name", "dtype", "shape", "offset", "size_bytes", "is_buffer", "strides")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IS_BUFFER_FIELD_NUMBER: _ClassVar[int]
    STRIDES_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    offset: int
    size_bytes: int
    is_buffer: bool
    strides: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., offset: _Optional[int] = ..., size_bytes: _Optional[int] = ..., is_buffer: _Optional[bool] = ..., strides: _Optional[_Iterable[int]] = ...) -> None: ...

class QuantisedTensor(_message.Message):
    __slots__ = ("name", "scheme", "shape", "dtype", "parts")
    class PartsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    scheme: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    parts: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., scheme: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., parts: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TensorAlias(_message.Message):
    __slots__ = ("name", "target")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    name: str
    target: str
    def __init__(self, name: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class ComponentManifest(_message.Message):
    __slots__ = ("component", "resident_id", "class_name", "library", "config_json", "precision", "device", "file_size_bytes", "tensors", "aliases", "descriptor_index", "location", "hash", "name", "base", "type", "kind", "object_paths", "quantisation", "quantised_tensors", "device_descriptor_index", "vram_bytes", "device_uuid", "weights")
    COMPONENT_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    FILE_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTOR_INDEX_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OBJECT_PATHS_FIELD_NUMBER: _ClassVar[int]
    QUANTISATION_FIELD_NUMBER: _ClassVar[int]
    QUANTISED_TENSORS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_DESCRIPTOR_INDEX_FIELD_NUMBER: _ClassVar[int]
    VRAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_UUID_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    component: ComponentRef
    resident_id: str
    class_name: str
    library: str
    config_json: str
    precision: Precision
    device: str
    file_size_bytes: int
    tensors: _containers.RepeatedCompositeFieldContainer[TensorEntry]
    aliases: _containers.RepeatedCompositeFieldContainer[TensorAlias]
    descriptor_index: int
    location: str
    hash: str
    name: str
    base: str
    type: _taxonomy_pb2.ModelType
    kind: ManifestKind
    object_paths: _containers.RepeatedScalarFieldContainer[str]
    quantisation: str
    quantised_tensors: _containers.RepeatedCompositeFieldContainer[QuantisedTensor]
    device_descriptor_index: int
    vram_bytes: int
    device_uuid: str
    weights: WeightForm
    def __init__(self, component: _Optional[_Union[ComponentRef, _Mapping]] = ..., resident_id: _Optional[str] = ..., class_name: _Optional[str] = ..., library: _Optional[str] = ..., config_json: _Optional[str] = ..., precision: _Optional[_Union[Precision, str]] = ..., device: _Optional[str] = ..., file_size_bytes: _Optional[int] = ..., tensors: _Optional[_Iterable[_Union[TensorEntry, _Mapping]]] = ..., aliases: _Optional[_Iterable[_Union[TensorAlias, _Mapping]]] = ..., descriptor_index: _Optional[int] = ..., location: _Optional[str] = ..., hash: _Optional[str] = ..., name: _Optional[str] = ..., base: _Optional[str] = ..., type: _Optional[_Union[_taxonomy_pb2.ModelType, str]] = ..., kind: _Optional[_Union[ManifestKind, str]] = ..., object_paths: _Optional[_Iterable[str]] = ..., quantisation: _Optional[str] = ..., quantised_tensors: _Optional[_Iterable[_Union[QuantisedTensor, _Mapping]]] = ..., device_descriptor_index: _Optional[int] = ..., vram_bytes: _Optional[int] = ..., device_uuid: _Optional[str] = ..., weights: _Optional[_Union[WeightForm, str]] = ...) -> None: ...

class Holder(_message.Message):
    __slots__ = ("pid", "uid", "label", "principal")
    PID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    pid: int
    uid: int
    label: str
    principal: str
    def __init__(self, pid: _Optional[int] = ..., uid: _Optional[int] = ..., label: _Optional[str] = ..., principal: _Optional[str] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("id", "state", "components", "resident_ids", "holder", "create_time", "expire_time", "stream_bound", "descriptor_connections", "size_bytes", "end", "end_message", "display_names", "activation_bytes", "labels", "revoke_deadline_time", "last_change", "last_change_time", "revision", "vram_bytes", "demoted")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_IDS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    STREAM_BOUND_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTOR_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    END_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAMES_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_BYTES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    REVOKE_DEADLINE_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_CHANGE_FIELD_NUMBER: _ClassVar[int]
    LAST_CHANGE_TIME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    VRAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEMOTED_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: LeaseState
    components: _containers.RepeatedCompositeFieldContainer[ComponentRef]
    resident_ids: _containers.RepeatedScalarFieldContainer[str]
    holder: Holder
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    stream_bound: bool
    descriptor_connections: int
    size_bytes: int
    end: LeaseEnd
    end_message: str
    display_names: _containers.RepeatedScalarFieldContainer[str]
    activation_bytes: int
    labels: _containers.ScalarMap[str, str]
    revoke_deadline_time: _timestamp_pb2.Timestamp
    last_change: LeaseChange
    last_change_time: _timestamp_pb2.Timestamp
    revision: int
    vram_bytes: int
    demoted: bool
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[LeaseState, str]] = ..., components: _Optional[_Iterable[_Union[ComponentRef, _Mapping]]] = ..., resident_ids: _Optional[_Iterable[str]] = ..., holder: _Optional[_Union[Holder, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stream_bound: _Optional[bool] = ..., descriptor_connections: _Optional[int] = ..., size_bytes: _Optional[int] = ..., end: _Optional[_Union[LeaseEnd, str]] = ..., end_message: _Optional[str] = ..., display_names: _Optional[_Iterable[str]] = ..., activation_bytes: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., revoke_deadline_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_change: _Optional[_Union[LeaseChange, str]] = ..., last_change_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revision: _Optional[int] = ..., vram_bytes: _Optional[int] = ..., demoted: _Optional[bool] = ...) -> None: ...

class TierCapacity(_message.Message):
    __slots__ = ("tier", "device", "budget_bytes", "used_bytes", "leased_bytes", "zombie_bytes", "resident_count", "reserved_bytes", "high_watermark_bytes", "hit_count", "miss_count", "eviction_count", "pinned_bytes")
    TIER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    BUDGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LEASED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ZOMBIE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    RESERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    HIGH_WATERMARK_BYTES_FIELD_NUMBER: _ClassVar[int]
    HIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    MISS_COUNT_FIELD_NUMBER: _ClassVar[int]
    EVICTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    PINNED_BYTES_FIELD_NUMBER: _ClassVar[int]
    tier: Tier
    device: str
    budget_bytes: int
    used_bytes: int
    leased_bytes: int
    zombie_bytes: int
    resident_count: int
    reserved_bytes: int
    high_watermark_bytes: int
    hit_count: int
    miss_count: int
    eviction_count: int
    pinned_bytes: int
    def __init__(self, tier: _Optional[_Union[Tier, str]] = ..., device: _Optional[str] = ..., budget_bytes: _Optional[int] = ..., used_bytes: _Optional[int] = ..., leased_bytes: _Optional[int] = ..., zombie_bytes: _Optional[int] = ..., resident_count: _Optional[int] = ..., reserved_bytes: _Optional[int] = ..., high_watermark_bytes: _Optional[int] = ..., hit_count: _Optional[int] = ..., miss_count: _Optional[int] = ..., eviction_count: _Optional[int] = ..., pinned_bytes: _Optional[int] = ...) -> None: ...
