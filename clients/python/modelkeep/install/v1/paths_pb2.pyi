from buf.validate import validate_pb2 as _validate_pb2
from modelkeep.install.v1 import install_pb2 as _install_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegisterPathRequest(_message.Message):
    __slots__ = ("path", "overrides", "request_id")
    PATH_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    path: str
    overrides: _install_pb2.ModelOverrides
    request_id: str
    def __init__(self, path: _Optional[str] = ..., overrides: _Optional[_Union[_install_pb2.ModelOverrides, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class RegisterPathResponse(_message.Message):
    __slots__ = ("key", "install")
    KEY_FIELD_NUMBER: _ClassVar[int]
    INSTALL_FIELD_NUMBER: _ClassVar[int]
    key: str
    install: _install_pb2.Install
    def __init__(self, key: _Optional[str] = ..., install: _Optional[_Union[_install_pb2.Install, _Mapping]] = ...) -> None: ...

class InstallPathRequest(_message.Message):
    __slots__ = ("path", "overrides", "request_id", "move")
    PATH_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    path: str
    overrides: _install_pb2.ModelOverrides
    request_id: str
    move: bool
    def __init__(self, path: _Optional[str] = ..., overrides: _Optional[_Union[_install_pb2.ModelOverrides, _Mapping]] = ..., request_id: _Optional[str] = ..., move: _Optional[bool] = ...) -> None: ...

class InstallPathResponse(_message.Message):
    __slots__ = ("key", "install")
    KEY_FIELD_NUMBER: _ClassVar[int]
    INSTALL_FIELD_NUMBER: _ClassVar[int]
    key: str
    install: _install_pb2.Install
    def __init__(self, key: _Optional[str] = ..., install: _Optional[_Union[_install_pb2.Install, _Mapping]] = ...) -> None: ...
