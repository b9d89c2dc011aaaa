from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class CheckModelsRequest(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, keys: _Optional[_Iterable[str]] = ...) -> None: ...

class CheckModelsResponse(_message.Message):
    __slots__ = ("checked_count", "missing_keys", "changed_count")
    CHECKED_COUNT_FIELD_NUMBER: _ClassVar[int]
    MISSING_KEYS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_COUNT_FIELD_NUMBER: _ClassVar[int]
    checked_count: int
    missing_keys: _containers.RepeatedScalarFieldContainer[str]
    changed_count: int
    def __init__(self, checked_count: _Optional[int] = ..., missing_keys: _Optional[_Iterable[str]] = ..., changed_count: _Optional[int] = ...) -> None: ...
