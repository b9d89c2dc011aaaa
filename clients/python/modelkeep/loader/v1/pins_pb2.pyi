import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from modelkeep.loader.v1 import resident_pb2 as _resident_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PinModelRequest(_message.Message):
    __slots__ = ("components", "load", "max_wait")
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    components: _containers.RepeatedCompositeFieldContainer[_resident_pb2.ComponentRef]
    load: bool
    max_wait: _duration_pb2.Duration
    def __init__(self, components: _Optional[_Iterable[_Union[_resident_pb2.ComponentRef, _Mapping]]] = ..., load: _Optional[bool] = ..., max_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class PinModelResponse(_message.Message):
    __slots__ = ("pins",)
    PINS_FIELD_NUMBER: _ClassVar[int]
    pins: _containers.RepeatedCompositeFieldContainer[Pin]
    def __init__(self, pins: _Optional[_Iterable[_Union[Pin, _Mapping]]] = ...) -> None: ...

class Pin(_message.Message):
    __slots__ = ("component", "resident_id", "size_bytes", "resident")
    COMPONENT_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_FIELD_NUMBER: _ClassVar[int]
    component: _resident_pb2.ComponentRef
    resident_id: str
    size_bytes: int
    resident: bool
    def __init__(self, component: _Optional[_Union[_resident_pb2.ComponentRef, _Mapping]] = ..., resident_id: _Optional[str] = ..., size_bytes: _Optional[int] = ..., resident: _Optional[bool] = ...) -> None: ...

class UnpinModelRequest(_message.Message):
    __slots__ = ("components",)
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    components: _containers.RepeatedCompositeFieldContainer[_resident_pb2.ComponentRef]
    def __init__(self, components: _Optional[_Iterable[_Union[_resident_pb2.ComponentRef, _Mapping]]] = ...) -> None: ...

class UnpinModelResponse(_message.Message):
    __slots__ = ("components",)
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    components: _containers.RepeatedCompositeFieldContainer[_resident_pb2.ComponentRef]
    def __init__(self, components: _Optional[_Iterable[_Union[_resident_pb2.ComponentRef, _Mapping]]] = ...) -> None: ...
