from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class StartAllDownloadsRequest(_message.Message):
    __slots__ = ("queue", "all_queues", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    ALL_QUEUES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    queue: str
    all_queues: bool
    labels: _containers.ScalarMap[str, str]
    def __init__(self, queue: _Optional[str] = ..., all_queues: _Optional[bool] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class StartAllDownloadsResponse(_message.Message):
    __slots__ = ("started_count", "token_required_count")
    STARTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_REQUIRED_COUNT_FIELD_NUMBER: _ClassVar[int]
    started_count: int
    token_required_count: int
    def __init__(self, started_count: _Optional[int] = ..., token_required_count: _Optional[int] = ...) -> None: ...

class PauseAllDownloadsRequest(_message.Message):
    __slots__ = ("queue", "all_queues", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    ALL_QUEUES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    queue: str
    all_queues: bool
    labels: _containers.ScalarMap[str, str]
    def __init__(self, queue: _Optional[str] = ..., all_queues: _Optional[bool] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class PauseAllDownloadsResponse(_message.Message):
    __slots__ = ("paused_count",)
    PAUSED_COUNT_FIELD_NUMBER: _ClassVar[int]
    paused_count: int
    def __init__(self, paused_count: _Optional[int] = ...) -> None: ...

class CancelAllDownloadsRequest(_message.Message):
    __slots__ = ("queue", "all_queues", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    ALL_QUEUES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    queue: str
    all_queues: bool
    labels: _containers.ScalarMap[str, str]
    def __init__(self, queue: _Optional[str] = ..., all_queues: _Optional[bool] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class CancelAllDownloadsResponse(_message.Message):
    __slots__ = ("cancelled_count",)
    CANCELLED_COUNT_FIELD_NUMBER: _ClassVar[int]
    cancelled_count: int
    def __init__(self, cancelled_count: _Optional[int] = ...) -> None: ...
