import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from modelkeep.loader.v1 import load_pb2 as _load_pb2
from modelkeep.loader.v1 import resident_pb2 as _resident_pb2
from modelkeep.server.v1 import job_pb2 as _job_pb2
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
    DELIVERY_PATH: _ClassVar[Delivery]
DELIVERY_UNSPECIFIED: Delivery
DELIVERY_FD: Delivery
DELIVERY_NONE: Delivery
DELIVERY_PATH: Delivery

class HoldModelRequest(_message.Message):
    __slots__ = ("components", "max_wait", "delivery", "boot_id", "label", "lease_id", "lease_secret", "pid", "labels", "keep_alive", "activation_bytes", "max_vram_bytes")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECRET_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_VRAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    components: _containers.RepeatedCompositeFieldContainer[_resident_pb2.ComponentRef]
    max_wait: _duration_pb2.Duration
    delivery: Delivery
    boot_id: str
    label: str
    lease_id: str
    lease_secret: bytes
    pid: int
    labels: _containers.ScalarMap[str, str]
    keep_alive: _duration_pb2.Duration
    activation_bytes: int
    max_vram_bytes: int
    def __init__(self, components: _Optional[_Iterable[_Union[_resident_pb2.ComponentRef, _Mapping]]] = ..., max_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., delivery: _Optional[_Union[Delivery, str]] = ..., boot_id: _Optional[str] = ..., label: _Optional[str] = ..., lease_id: _Optional[str] = ..., lease_secret: _Optional[bytes] = ..., pid: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., keep_alive: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., activation_bytes: _Optional[int] = ..., max_vram_bytes: _Optional[int] = ...) -> None: ...

class HoldModelResponse(_message.Message):
    __slots__ = ("queued", "progress", "granted", "alive", "lost", "revoke_requested", "demote_requested")
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    REVOKE_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    DEMOTE_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    queued: HoldQueued
    progress: _load_pb2.LoadProgress
    granted: Grant
    alive: HoldAlive
    lost: HoldLost
    revoke_requested: HoldRevokeRequested
    demote_requested: HoldDemoteRequested
    def __init__(self, queued: _Optional[_Union[HoldQueued, _Mapping]] = ..., progress: _Optional[_Union[_load_pb2.LoadProgress, _Mapping]] = ..., granted: _Optional[_Union[Grant, _Mapping]] = ..., alive: _Optional[_Union[HoldAlive, _Mapping]] = ..., lost: _Optional[_Union[HoldLost, _Mapping]] = ..., revoke_requested: _Optional[_Union[HoldRevokeRequested, _Mapping]] = ..., demote_requested: _Optional[_Union[HoldDemoteRequested, _Mapping]] = ...) -> None: ...

class HoldQueued(_message.Message):
    __slots__ = ("bytes_short", "holder_lease_ids", "holder_count")
    BYTES_SHORT_FIELD_NUMBER: _ClassVar[int]
    HOLDER_LEASE_IDS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_COUNT_FIELD_NUMBER: _ClassVar[int]
    bytes_short: int
    holder_lease_ids: _containers.RepeatedScalarFieldContainer[str]
    holder_count: int
    def __init__(self, bytes_short: _Optional[int] = ..., holder_lease_ids: _Optional[_Iterable[str]] = ..., holder_count: _Optional[int] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("lease", "lease_secret", "manifests", "ticket", "socket_path", "paths")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECRET_FIELD_NUMBER: _ClassVar[int]
    MANIFESTS_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    SOCKET_PATH_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    lease: _resident_pb2.Lease
    lease_secret: bytes
    manifests: _containers.RepeatedCompositeFieldContainer[_resident_pb2.ComponentManifest]
    ticket: bytes
    socket_path: str
    paths: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, lease: _Optional[_Union[_resident_pb2.Lease, _Mapping]] = ..., lease_secret: _Optional[bytes] = ..., manifests: _Optional[_Iterable[_Union[_resident_pb2.ComponentManifest, _Mapping]]] = ..., ticket: _Optional[bytes] = ..., socket_path: _Optional[str] = ..., paths: _Optional[_Iterable[str]] = ...) -> None: ...

class HoldAlive(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HoldRevokeRequested(_message.Message):
    __slots__ = ("why", "deadline_time")
    WHY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_TIME_FIELD_NUMBER: _ClassVar[int]
    why: str
    deadline_time: _timestamp_pb2.Timestamp
    def __init__(self, why: _Optional[str] = ..., deadline_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class HoldDemoteRequested(_message.Message):
    __slots__ = ("why", "deadline_time")
    WHY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_TIME_FIELD_NUMBER: _ClassVar[int]
    why: str
    deadline_time: _timestamp_pb2.Timestamp
    def __init__(self, why: _Optional[str] = ..., deadline_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class HoldLost(_message.Message):
    __slots__ = ("error",)
    ERROR_FIELD_NUMBER: _ClassVar[int]
    error: _job_pb2.JobError
    def __init__(self, error: _Optional[_Union[_job_pb2.JobError, _Mapping]] = ...) -> None: ...

class AcquireLeaseRequest(_message.Message):
    __slots__ = ("components", "ttl", "max_wait", "delivery", "boot_id", "label", "pid", "labels", "keep_alive", "activation_bytes", "max_vram_bytes")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_VRAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    components: _containers.RepeatedCompositeFieldContainer[_resident_pb2.ComponentRef]
    ttl: _duration_pb2.Duration
    max_wait: _duration_pb2.Duration
    delivery: Delivery
    boot_id: str
    label: str
    pid: int
    labels: _containers.ScalarMap[str, str]
    keep_alive: _duration_pb2.Duration
    activation_bytes: int
    max_vram_bytes: int
    def __init__(self, components: _Optional[_Iterable[_Union[_resident_pb2.ComponentRef, _Mapping]]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., delivery: _Optional[_Union[Delivery, str]] = ..., boot_id: _Optional[str] = ..., label: _Optional[str] = ..., pid: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., keep_alive: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., activation_bytes: _Optional[int] = ..., max_vram_bytes: _Optional[int] = ...) -> None: ...

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

class DemoteLeaseRequest(_message.Message):
    __slots__ = ("lease_id", "lease_secret")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECRET_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    lease_secret: bytes
    def __init__(self, lease_id: _Optional[str] = ..., lease_secret: _Optional[bytes] = ...) -> None: ...

class DemoteLeaseResponse(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: _resident_pb2.Lease
    def __init__(self, lease: _Optional[_Union[_resident_pb2.Lease, _Mapping]] = ...) -> None: ...

class PromoteLeaseRequest(_message.Message):
    __slots__ = ("lease_id", "lease_secret", "max_wait")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECRET_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    lease_secret: bytes
    max_wait: _duration_pb2.Duration
    def __init__(self, lease_id: _Optional[str] = ..., lease_secret: _Optional[bytes] = ..., max_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class PromoteLeaseResponse(_message.Message):
    __slots__ = ("grant",)
    GRANT_FIELD_NUMBER: _ClassVar[int]
    grant: Grant
    def __init__(self, grant: _Optional[_Union[Grant, _Mapping]] = ...) -> None: ...
