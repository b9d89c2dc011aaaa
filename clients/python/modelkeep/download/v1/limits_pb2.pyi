from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Limits(_message.Message):
    __slots__ = ("max_parallel_downloads", "max_bytes_per_second", "queues", "max_connections_per_file", "max_connections_per_host", "max_connections")
    MAX_PARALLEL_DOWNLOADS_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    MAX_CONNECTIONS_PER_FILE_FIELD_NUMBER: _ClassVar[int]
    MAX_CONNECTIONS_PER_HOST_FIELD_NUMBER: _ClassVar[int]
    MAX_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    max_parallel_downloads: int
    max_bytes_per_second: int
    queues: _containers.RepeatedCompositeFieldContainer[QueueLimits]
    max_connections_per_file: int
    max_connections_per_host: int
    max_connections: int
    def __init__(self, max_parallel_downloads: _Optional[int] = ..., max_bytes_per_second: _Optional[int] = ..., queues: _Optional[_Iterable[_Union[QueueLimits, _Mapping]]] = ..., max_connections_per_file: _Optional[int] = ..., max_connections_per_host: _Optional[int] = ..., max_connections: _Optional[int] = ...) -> None: ...

class QueueLimits(_message.Message):
    __slots__ = ("queue", "max_parallel_downloads")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    MAX_PARALLEL_DOWNLOADS_FIELD_NUMBER: _ClassVar[int]
    queue: str
    max_parallel_downloads: int
    def __init__(self, queue: _Optional[str] = ..., max_parallel_downloads: _Optional[int] = ...) -> None: ...

class GetLimitsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetLimitsResponse(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: Limits
    def __init__(self, limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class SetLimitsRequest(_message.Message):
    __slots__ = ("max_parallel_downloads", "max_bytes_per_second", "queues", "reset", "max_connections_per_file", "max_connections_per_host", "max_connections")
    MAX_PARALLEL_DOWNLOADS_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    MAX_CONNECTIONS_PER_FILE_FIELD_NUMBER: _ClassVar[int]
    MAX_CONNECTIONS_PER_HOST_FIELD_NUMBER: _ClassVar[int]
    MAX_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    max_parallel_downloads: int
    max_bytes_per_second: int
    queues: _containers.RepeatedCompositeFieldContainer[QueueLimits]
    reset: bool
    max_connections_per_file: int
    max_connections_per_host: int
    max_connections: int
    def __init__(self, max_parallel_downloads: _Optional[int] = ..., max_bytes_per_second: _Optional[int] = ..., queues: _Optional[_Iterable[_Union[QueueLimits, _Mapping]]] = ..., reset: _Optional[bool] = ..., max_connections_per_file: _Optional[int] = ..., max_connections_per_host: _Optional[int] = ..., max_connections: _Optional[int] = ...) -> None: ...

class SetLimitsResponse(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: Limits
    def __init__(self, limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...
