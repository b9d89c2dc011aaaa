import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from modelkeep.loader.v1 import resident_pb2 as _resident_pb2
from modelkeep.model.v1 import taxonomy_pb2 as _taxonomy_pb2
from modelkeep.server.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LoadProgress(_message.Message):
    __slots__ = ("component", "stage", "progress", "index", "count")
    COMPONENT_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    component: _resident_pb2.ComponentRef
    stage: _resident_pb2.ResidentState
    progress: _job_pb2.Progress
    index: int
    count: int
    def __init__(self, component: _Optional[_Union[_resident_pb2.ComponentRef, _Mapping]] = ..., stage: _Optional[_Union[_resident_pb2.ResidentState, str]] = ..., progress: _Optional[_Union[_job_pb2.Progress, _Mapping]] = ..., index: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class LoadModelRequest(_message.Message):
    __slots__ = ("components", "tier", "context", "max_wait", "keep_alive", "max_vram_bytes")
    class ContextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_FIELD_NUMBER: _ClassVar[int]
    MAX_VRAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    components: _containers.RepeatedCompositeFieldContainer[_resident_pb2.ComponentRef]
    tier: _resident_pb2.Tier
    context: _containers.ScalarMap[str, str]
    max_wait: _duration_pb2.Duration
    keep_alive: _duration_pb2.Duration
    max_vram_bytes: int
    def __init__(self, components: _Optional[_Iterable[_Union[_resident_pb2.ComponentRef, _Mapping]]] = ..., tier: _Optional[_Union[_resident_pb2.Tier, str]] = ..., context: _Optional[_Mapping[str, str]] = ..., max_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., keep_alive: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_vram_bytes: _Optional[int] = ...) -> None: ...

class LoadModelResponse(_message.Message):
    __slots__ = ("progress", "resident", "plan", "context")
    class ContextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    progress: LoadProgress
    resident: _resident_pb2.Resident
    plan: LoadPlan
    context: _containers.ScalarMap[str, str]
    def __init__(self, progress: _Optional[_Union[LoadProgress, _Mapping]] = ..., resident: _Optional[_Union[_resident_pb2.Resident, _Mapping]] = ..., plan: _Optional[_Union[LoadPlan, _Mapping]] = ..., context: _Optional[_Mapping[str, str]] = ...) -> None: ...

class LoadPlan(_message.Message):
    __slots__ = ("manifests",)
    MANIFESTS_FIELD_NUMBER: _ClassVar[int]
    manifests: _containers.RepeatedCompositeFieldContainer[_resident_pb2.ComponentManifest]
    def __init__(self, manifests: _Optional[_Iterable[_Union[_resident_pb2.ComponentManifest, _Mapping]]] = ...) -> None: ...

class EvictModelRequest(_message.Message):
    __slots__ = ("key", "submodel", "validate_only", "tier", "device")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SUBMODEL_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    key: str
    submodel: _taxonomy_pb2.SubModelType
    validate_only: bool
    tier: _resident_pb2.Tier
    device: str
    def __init__(self, key: _Optional[str] = ..., submodel: _Optional[_Union[_taxonomy_pb2.SubModelType, str]] = ..., validate_only: _Optional[bool] = ..., tier: _Optional[_Union[_resident_pb2.Tier, str]] = ..., device: _Optional[str] = ...) -> None: ...

class EvictModelResponse(_message.Message):
    __slots__ = ("evicted", "freed_bytes", "zombie_bytes", "evicted_count")
    EVICTED_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ZOMBIE_BYTES_FIELD_NUMBER: _ClassVar[int]
    EVICTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    evicted: _containers.RepeatedCompositeFieldContainer[_resident_pb2.Resident]
    freed_bytes: int
    zombie_bytes: int
    evicted_count: int
    def __init__(self, evicted: _Optional[_Iterable[_Union[_resident_pb2.Resident, _Mapping]]] = ..., freed_bytes: _Optional[int] = ..., zombie_bytes: _Optional[int] = ..., evicted_count: _Optional[int] = ...) -> None: ...
