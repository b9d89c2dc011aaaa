import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("service", "version", "instance_id", "boot_id", "pid", "start_time", "store_id", "features", "limits", "roots", "devices", "source_tokens")
    class LimitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    ROOTS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    service: str
    version: str
    instance_id: str
    boot_id: str
    pid: int
    start_time: _timestamp_pb2.Timestamp
    store_id: str
    features: _containers.RepeatedScalarFieldContainer[str]
    limits: _containers.ScalarMap[str, int]
    roots: _containers.RepeatedCompositeFieldContainer[Root]
    devices: _containers.RepeatedScalarFieldContainer[str]
    source_tokens: SourceTokens
    def __init__(self, service: _Optional[str] = ..., version: _Optional[str] = ..., instance_id: _Optional[str] = ..., boot_id: _Optional[str] = ..., pid: _Optional[int] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., store_id: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., limits: _Optional[_Mapping[str, int]] = ..., roots: _Optional[_Iterable[_Union[Root, _Mapping]]] = ..., devices: _Optional[_Iterable[str]] = ..., source_tokens: _Optional[_Union[SourceTokens, _Mapping]] = ...) -> None: ...

class SourceTokens(_message.Message):
    __slots__ = ("tokens", "file")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[SourceToken]
    file: str
    def __init__(self, tokens: _Optional[_Iterable[_Union[SourceToken, _Mapping]]] = ..., file: _Optional[str] = ...) -> None: ...

class SourceToken(_message.Message):
    __slots__ = ("host", "kept_in")
    HOST_FIELD_NUMBER: _ClassVar[int]
    KEPT_IN_FIELD_NUMBER: _ClassVar[int]
    host: str
    kept_in: str
    def __init__(self, host: _Optional[str] = ..., kept_in: _Optional[str] = ...) -> None: ...

class Root(_message.Message):
    __slots__ = ("purpose", "path", "root_id")
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    ROOT_ID_FIELD_NUMBER: _ClassVar[int]
    purpose: str
    path: str
    root_id: str
    def __init__(self, purpose: _Optional[str] = ..., path: _Optional[str] = ..., root_id: _Optional[str] = ...) -> None: ...
