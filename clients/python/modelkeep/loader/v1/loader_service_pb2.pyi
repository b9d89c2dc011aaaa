import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from modelkeep.loader.v1 import resident_pb2 as _resident_pb2
from modelkeep.model.v1 import taxonomy_pb2 as _taxonomy_pb2
from modelkeep.server.v1 import job_pb2 as _job_pb2
from modelkeep.server.v1 import watch_pb2 as _watch_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Delivery(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DELIVERY_UNSPECIFIED: _ClassVar[Delivery]
    DELIVERY_FD: _ClassVar[Delivery]
    DELIVERY_NONE: _ClassVar[Delivery]
DELIVERY_UNSPECIFIED: Delivery
DELIVERY_FD: Delivery
DELIVERY_NONE: Delivery

class HoldModelRequest(_message.Message):
    __slots__ = ("components", "max_wait", "delivery", "boot_id", "label", "lease_id", "lease_secret", "pid")
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECRET_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    components: _containers.RepeatedCompositeFieldContainer[_resident_pb2.ComponentRef]
    max_wait: _duration_pb2.Duration
    delivery: Delivery
    boot_id: str
    label: str
    lease_id: str
    lease_secret: bytes
    pid: int
    def __init__(self, components: _Optional[_Iterable[_Union[_resident_pb2.ComponentRef, _Mapping]]] = ..., max_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., delivery: _Optional[_Union[Delivery, str]] = ..., boot_id: _Optional[str] = ..., label: _Optional[str] = ..., lease_id: _Optional[str] = ..., lease_secret: _Optional[bytes] = ..., pid: _Optional[int] = ...) -> None: ...

class HoldModelResponse(_message.Message):
    __slots__ = ("queued", "progress", "granted", "alive", "lost")
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    queued: HoldQueued
    progress: LoadProgress
    granted: Grant
    alive: HoldAlive
    lost: HoldLost
    def __init__(self, queued: _Optional[_Union[HoldQueued, _Mapping]] = ..., progress: _Optional[_Union[LoadProgress, _Mapping]] = ..., granted: _Optional[_Union[Grant, _Mapping]] = ..., alive: _Optional[_Union[HoldAlive, _Mapping]] = ..., lost: _Optional[_Union[HoldLost, _Mapping]] = ...) -> None: ...

class HoldQueued(_message.Message):
    __slots__ = ("bytes_short", "holder_lease_ids", "holder_count")
    BYTES_SHORT_FIELD_NUMBER: _ClassVar[int]
    HOLDER_LEASE_IDS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_COUNT_FIELD_NUMBER: _ClassVar[int]
    bytes_short: int
    holder_lease_ids: _containers.RepeatedScalarFieldContainer[str]
    holder_count: int
    def __init__(self, bytes_short: _Optional[int] = ..., holder_lease_ids: _Optional[_Iterable[str]] = ..., holder_count: _Optional[int] = ...) -> None: ...

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

class Grant(_message.Message):
    __slots__ = ("lease", "lease_secret", "manifests", "ticket", "socket_path")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECRET_FIELD_NUMBER: _ClassVar[int]
    MANIFESTS_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    SOCKET_PATH_FIELD_NUMBER: _ClassVar[int]
    lease: _resident_pb2.Lease
    lease_secret: bytes
    manifests: _containers.RepeatedCompositeFieldContainer[_resident_pb2.ComponentManifest]
    ticket: bytes
    socket_path: str
    def __init__(self, lease: _Optional[_Union[_resident_pb2.Lease, _Mapping]] = ..., lease_secret: _Optional[bytes] = ..., manifests: _Optional[_Iterable[_Union[_resident_pb2.ComponentManifest, _Mapping]]] = ..., ticket: _Optional[bytes] = ..., socket_path: _Optional[str] = ...) -> None: ...

class HoldAlive(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HoldLost(_message.Message):
    __slots__ = ("error",)
    ERROR_FIELD_NUMBER: _ClassVar[int]
    error: _job_pb2.JobError
    def __init__(self, error: _Optional[_Union[_job_pb2.JobError, _Mapping]] = ...) -> None: ...

class AcquireLeaseRequest(_message.Message):
    __slots__ = ("components", "ttl", "max_wait", "delivery", "boot_id", "label", "pid")
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    components: _containers.RepeatedCompositeFieldContainer[_resident_pb2.ComponentRef]
    ttl: _duration_pb2.Duration
    max_wait: _duration_pb2.Duration
    delivery: Delivery
    boot_id: str
    label: str
    pid: int
    def __init__(self, components: _Optional[_Iterable[_Union[_resident_pb2.ComponentRef, _Mapping]]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., delivery: _Optional[_Union[Delivery, str]] = ..., boot_id: _Optional[str] = ..., label: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class AcquireLeaseResponse(_message.Message):
    __slots__ = ("grant",)
    GRANT_FIELD_NUMBER: _ClassVar[int]
    grant: Grant
    def __init__(self, grant: _Optional[_Union[Grant, _Mapping]] = ...) -> None: ...

class RenewLeaseRequest(_message.Message):
    __slots__ = ("lease_id", "lease_secret", "ttl")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECRET_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    lease_secret: bytes
    ttl: _duration_pb2.Duration
    def __init__(self, lease_id: _Optional[str] = ..., lease_secret: _Optional[bytes] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RenewLeaseResponse(_message.Message):
    __slots__ = ("lease", "ticket")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    lease: _resident_pb2.Lease
    ticket: bytes
    def __init__(self, lease: _Optional[_Union[_resident_pb2.Lease, _Mapping]] = ..., ticket: _Optional[bytes] = ...) -> None: ...

class ReleaseLeaseRequest(_message.Message):
    __slots__ = ("lease_id", "lease_secret")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECRET_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    lease_secret: bytes
    def __init__(self, lease_id: _Optional[str] = ..., lease_secret: _Optional[bytes] = ...) -> None: ...

class ReleaseLeaseResponse(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: _resident_pb2.Lease
    def __init__(self, lease: _Optional[_Union[_resident_pb2.Lease, _Mapping]] = ...) -> None: ...

class RevokeLeaseRequest(_message.Message):
    __slots__ = ("lease_id", "why")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    why: str
    def __init__(self, lease_id: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class RevokeLeaseResponse(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: _resident_pb2.Lease
    def __init__(self, lease: _Optional[_Union[_resident_pb2.Lease, _Mapping]] = ...) -> None: ...

class GetLeaseRequest(_message.Message):
    __slots__ = ("lease_id",)
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    def __init__(self, lease_id: _Optional[str] = ...) -> None: ...

class GetLeaseResponse(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: _resident_pb2.Lease
    def __init__(self, lease: _Optional[_Union[_resident_pb2.Lease, _Mapping]] = ...) -> None: ...

class ListLeasesRequest(_message.Message):
    __slots__ = ("key", "page_size", "page_token")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    key: str
    page_size: int
    page_token: str
    def __init__(self, key: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListLeasesResponse(_message.Message):
    __slots__ = ("leases", "next_page_token")
    LEASES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedCompositeFieldContainer[_resident_pb2.Lease]
    next_page_token: str
    def __init__(self, leases: _Optional[_Iterable[_Union[_resident_pb2.Lease, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class LoadModelRequest(_message.Message):
    __slots__ = ("components", "tier", "context", "max_wait")
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
    components: _containers.RepeatedCompositeFieldContainer[_resident_pb2.ComponentRef]
    tier: _resident_pb2.Tier
    context: _containers.ScalarMap[str, str]
    max_wait: _duration_pb2.Duration
    def __init__(self, components: _Optional[_Iterable[_Union[_resident_pb2.ComponentRef, _Mapping]]] = ..., tier: _Optional[_Union[_resident_pb2.Tier, str]] = ..., context: _Optional[_Mapping[str, str]] = ..., max_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("key", "submodel", "validate_only")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SUBMODEL_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    key: str
    submodel: _taxonomy_pb2.SubModelType
    validate_only: bool
    def __init__(self, key: _Optional[str] = ..., submodel: _Optional[_Union[_taxonomy_pb2.SubModelType, str]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

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

class ListResidentsRequest(_message.Message):
    __slots__ = ("key", "page_size", "page_token")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    key: str
    page_size: int
    page_token: str
    def __init__(self, key: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListResidentsResponse(_message.Message):
    __slots__ = ("residents", "next_page_token", "resume_token")
    RESIDENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    residents: _containers.RepeatedCompositeFieldContainer[_resident_pb2.Resident]
    next_page_token: str
    resume_token: str
    def __init__(self, residents: _Optional[_Iterable[_Union[_resident_pb2.Resident, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., resume_token: _Optional[str] = ...) -> None: ...

class WatchResidentsRequest(_message.Message):
    __slots__ = ("resume_token", "key", "skip_snapshot", "bookmark_interval")
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SKIP_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    resume_token: str
    key: str
    skip_snapshot: bool
    bookmark_interval: _duration_pb2.Duration
    def __init__(self, resume_token: _Optional[str] = ..., key: _Optional[str] = ..., skip_snapshot: _Optional[bool] = ..., bookmark_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchResidentsResponse(_message.Message):
    __slots__ = ("phase", "snapshot_complete", "resume_token", "events")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    phase: _watch_pb2.WatchPhase
    snapshot_complete: bool
    resume_token: str
    events: _containers.RepeatedCompositeFieldContainer[ResidentEvent]
    def __init__(self, phase: _Optional[_Union[_watch_pb2.WatchPhase, str]] = ..., snapshot_complete: _Optional[bool] = ..., resume_token: _Optional[str] = ..., events: _Optional[_Iterable[_Union[ResidentEvent, _Mapping]]] = ...) -> None: ...

class ResidentEvent(_message.Message):
    __slots__ = ("revision", "put", "removed_id", "progress")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_ID_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    put: _resident_pb2.Resident
    removed_id: str
    progress: ResidentProgress
    def __init__(self, revision: _Optional[int] = ..., put: _Optional[_Union[_resident_pb2.Resident, _Mapping]] = ..., removed_id: _Optional[str] = ..., progress: _Optional[_Union[ResidentProgress, _Mapping]] = ...) -> None: ...

class ResidentProgress(_message.Message):
    __slots__ = ("id", "progress")
    ID_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    id: str
    progress: _job_pb2.Progress
    def __init__(self, id: _Optional[str] = ..., progress: _Optional[_Union[_job_pb2.Progress, _Mapping]] = ...) -> None: ...

class GetCapacityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCapacityResponse(_message.Message):
    __slots__ = ("tiers", "devices", "boot_id", "socket_path", "lease_count", "queued_count")
    TIERS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    SOCKET_PATH_FIELD_NUMBER: _ClassVar[int]
    LEASE_COUNT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_COUNT_FIELD_NUMBER: _ClassVar[int]
    tiers: _containers.RepeatedCompositeFieldContainer[_resident_pb2.TierCapacity]
    devices: _containers.RepeatedScalarFieldContainer[str]
    boot_id: str
    socket_path: str
    lease_count: int
    queued_count: int
    def __init__(self, tiers: _Optional[_Iterable[_Union[_resident_pb2.TierCapacity, _Mapping]]] = ..., devices: _Optional[_Iterable[str]] = ..., boot_id: _Optional[str] = ..., socket_path: _Optional[str] = ..., lease_count: _Optional[int] = ..., queued_count: _Optional[int] = ...) -> None: ...
