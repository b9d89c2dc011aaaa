import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from modelkeep.loader.v1 import resident_pb2 as _resident_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetCapacityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCapacityResponse(_message.Message):
    __slots__ = ("tiers", "devices", "boot_id", "socket_path", "lease_count", "queued_count", "draining", "drain_reason", "accelerators")
    TIERS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    SOCKET_PATH_FIELD_NUMBER: _ClassVar[int]
    LEASE_COUNT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    DRAIN_REASON_FIELD_NUMBER: _ClassVar[int]
    ACCELERATORS_FIELD_NUMBER: _ClassVar[int]
    tiers: _containers.RepeatedCompositeFieldContainer[_resident_pb2.TierCapacity]
    devices: _containers.RepeatedScalarFieldContainer[str]
    boot_id: str
    socket_path: str
    lease_count: int
    queued_count: int
    draining: bool
    drain_reason: str
    accelerators: _containers.RepeatedCompositeFieldContainer[Accelerator]
    def __init__(self, tiers: _Optional[_Iterable[_Union[_resident_pb2.TierCapacity, _Mapping]]] = ..., devices: _Optional[_Iterable[str]] = ..., boot_id: _Optional[str] = ..., socket_path: _Optional[str] = ..., lease_count: _Optional[int] = ..., queued_count: _Optional[int] = ..., draining: _Optional[bool] = ..., drain_reason: _Optional[str] = ..., accelerators: _Optional[_Iterable[_Union[Accelerator, _Mapping]]] = ...) -> None: ...

class Accelerator(_message.Message):
    __slots__ = ("name", "product", "uuid", "total_bytes", "free_bytes", "refusal", "from_files_bytes", "from_ram_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    FROM_FILES_BYTES_FIELD_NUMBER: _ClassVar[int]
    FROM_RAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    product: str
    uuid: str
    total_bytes: int
    free_bytes: int
    refusal: str
    from_files_bytes: int
    from_ram_bytes: int
    def __init__(self, name: _Optional[str] = ..., product: _Optional[str] = ..., uuid: _Optional[str] = ..., total_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., refusal: _Optional[str] = ..., from_files_bytes: _Optional[int] = ..., from_ram_bytes: _Optional[int] = ...) -> None: ...

class WatchCapacityRequest(_message.Message):
    __slots__ = ("bookmark_interval", "min_interval")
    BOOKMARK_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    MIN_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    bookmark_interval: _duration_pb2.Duration
    min_interval: _duration_pb2.Duration
    def __init__(self, bookmark_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., min_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchCapacityResponse(_message.Message):
    __slots__ = ("capacity",)
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    capacity: GetCapacityResponse
    def __init__(self, capacity: _Optional[_Union[GetCapacityResponse, _Mapping]] = ...) -> None: ...
