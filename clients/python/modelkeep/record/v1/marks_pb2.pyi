from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MarkModelsRequest(_message.Message):
    __slots__ = ("marks",)
    MARKS_FIELD_NUMBER: _ClassVar[int]
    marks: _containers.RepeatedCompositeFieldContainer[ModelMark]
    def __init__(self, marks: _Optional[_Iterable[_Union[ModelMark, _Mapping]]] = ...) -> None: ...

class ModelMark(_message.Message):
    __slots__ = ("key", "path", "missing", "root_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    ROOT_ID_FIELD_NUMBER: _ClassVar[int]
    key: str
    path: str
    missing: bool
    root_id: str
    def __init__(self, key: _Optional[str] = ..., path: _Optional[str] = ..., missing: _Optional[bool] = ..., root_id: _Optional[str] = ...) -> None: ...

class MarkModelsResponse(_message.Message):
    __slots__ = ("changed_count", "revision")
    CHANGED_COUNT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    changed_count: int
    revision: int
    def __init__(self, changed_count: _Optional[int] = ..., revision: _Optional[int] = ...) -> None: ...
