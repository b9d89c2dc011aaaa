from buf.validate import validate_pb2 as _validate_pb2
from modelkeep.loader.v1 import resident_pb2 as _resident_pb2
from modelkeep.server.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EstimateLoadRequest(_message.Message):
    __slots__ = ("components", "activation_bytes", "max_vram_bytes")
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_VRAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    components: _containers.RepeatedCompositeFieldContainer[_resident_pb2.ComponentRef]
    activation_bytes: int
    max_vram_bytes: int
    def __init__(self, components: _Optional[_Iterable[_Union[_resident_pb2.ComponentRef, _Mapping]]] = ..., activation_bytes: _Optional[int] = ..., max_vram_bytes: _Optional[int] = ...) -> None: ...

class EstimateLoadResponse(_message.Message):
    __slots__ = ("components", "needed_bytes", "evicted", "evicted_count", "bytes_short", "fits_now", "fits_at_all", "load_seconds", "devices")
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    NEEDED_BYTES_FIELD_NUMBER: _ClassVar[int]
    EVICTED_FIELD_NUMBER: _ClassVar[int]
    EVICTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTES_SHORT_FIELD_NUMBER: _ClassVar[int]
    FITS_NOW_FIELD_NUMBER: _ClassVar[int]
    FITS_AT_ALL_FIELD_NUMBER: _ClassVar[int]
    LOAD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    components: _containers.RepeatedCompositeFieldContainer[ComponentEstimate]
    needed_bytes: int
    evicted: _containers.RepeatedCompositeFieldContainer[_resident_pb2.Resident]
    evicted_count: int
    bytes_short: int
    fits_now: bool
    fits_at_all: bool
    load_seconds: float
    devices: _containers.RepeatedCompositeFieldContainer[DeviceEstimate]
    def __init__(self, components: _Optional[_Iterable[_Union[ComponentEstimate, _Mapping]]] = ..., needed_bytes: _Optional[int] = ..., evicted: _Optional[_Iterable[_Union[_resident_pb2.Resident, _Mapping]]] = ..., evicted_count: _Optional[int] = ..., bytes_short: _Optional[int] = ..., fits_now: _Optional[bool] = ..., fits_at_all: _Optional[bool] = ..., load_seconds: _Optional[float] = ..., devices: _Optional[_Iterable[_Union[DeviceEstimate, _Mapping]]] = ...) -> None: ...

class DeviceEstimate(_message.Message):
    __slots__ = ("device", "needed_bytes", "bytes_short")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    NEEDED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_SHORT_FIELD_NUMBER: _ClassVar[int]
    device: str
    needed_bytes: int
    bytes_short: int
    def __init__(self, device: _Optional[str] = ..., needed_bytes: _Optional[int] = ..., bytes_short: _Optional[int] = ...) -> None: ...

class ComponentEstimate(_message.Message):
    __slots__ = ("component", "resident_id", "tier", "state", "error", "class_name", "precision", "size_bytes", "dequantised_size_bytes", "file_size_bytes", "load_seconds", "display_name", "device", "vram_bytes", "weights")
    COMPONENT_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEQUANTISED_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILE_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    VRAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    component: _resident_pb2.ComponentRef
    resident_id: str
    tier: _resident_pb2.Tier
    state: _resident_pb2.ResidentState
    error: _job_pb2.JobError
    class_name: str
    precision: _resident_pb2.Precision
    size_bytes: int
    dequantised_size_bytes: int
    file_size_bytes: int
    load_seconds: float
    display_name: str
    device: str
    vram_bytes: int
    weights: _resident_pb2.WeightForm
    def __init__(self, component: _Optional[_Union[_resident_pb2.ComponentRef, _Mapping]] = ..., resident_id: _Optional[str] = ..., tier: _Optional[_Union[_resident_pb2.Tier, str]] = ..., state: _Optional[_Union[_resident_pb2.ResidentState, str]] = ..., error: _Optional[_Union[_job_pb2.JobError, _Mapping]] = ..., class_name: _Optional[str] = ..., precision: _Optional[_Union[_resident_pb2.Precision, str]] = ..., size_bytes: _Optional[int] = ..., dequantised_size_bytes: _Optional[int] = ..., file_size_bytes: _Optional[int] = ..., load_seconds: _Optional[float] = ..., display_name: _Optional[str] = ..., device: _Optional[str] = ..., vram_bytes: _Optional[int] = ..., weights: _Optional[_Union[_resident_pb2.WeightForm, str]] = ...) -> None: ...
