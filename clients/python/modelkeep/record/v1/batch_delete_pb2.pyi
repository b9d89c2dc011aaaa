from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class BatchDeleteModelsRequest(_message.Message):
    __slots__ = ("keys", "request_id")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    request_id: str
    def __init__(self, keys: _Optional[_Iterable[str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class BatchDeleteModelsResponse(_message.Message):
    __slots__ = ("deleted_keys", "missing_keys", "revision")
    DELETED_KEYS_FIELD_NUMBER: _ClassVar[int]
    MISSING_KEYS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    deleted_keys: _containers.RepeatedScalarFieldContainer[str]
    missing_keys: _containers.RepeatedScalarFieldContainer[str]
    revision: int
    def __init__(self, deleted_keys: _Optional[_Iterable[str]] = ..., missing_keys: _Optional[_Iterable[str]] = ..., revision: _Optional[int] = ...) -> None: ...
