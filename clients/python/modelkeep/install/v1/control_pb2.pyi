from buf.validate import validate_pb2 as _validate_pb2
from modelkeep.install.v1 import install_pb2 as _install_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PauseInstallRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class PauseInstallResponse(_message.Message):
    __slots__ = ("install",)
    INSTALL_FIELD_NUMBER: _ClassVar[int]
    install: _install_pb2.Install
    def __init__(self, install: _Optional[_Union[_install_pb2.Install, _Mapping]] = ...) -> None: ...

class ResumeInstallRequest(_message.Message):
    __slots__ = ("id", "access_token", "source_url")
    ID_FIELD_NUMBER: _ClassVar[int]
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SOURCE_URL_FIELD_NUMBER: _ClassVar[int]
    id: int
    access_token: str
    source_url: str
    def __init__(self, id: _Optional[int] = ..., access_token: _Optional[str] = ..., source_url: _Optional[str] = ...) -> None: ...

class ResumeInstallResponse(_message.Message):
    __slots__ = ("install",)
    INSTALL_FIELD_NUMBER: _ClassVar[int]
    install: _install_pb2.Install
    def __init__(self, install: _Optional[_Union[_install_pb2.Install, _Mapping]] = ...) -> None: ...

class RetryInstallRequest(_message.Message):
    __slots__ = ("ids", "all_failed", "access_token", "source_url", "request_id")
    IDS_FIELD_NUMBER: _ClassVar[int]
    ALL_FAILED_FIELD_NUMBER: _ClassVar[int]
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SOURCE_URL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    all_failed: bool
    access_token: str
    source_url: str
    request_id: str
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., all_failed: _Optional[bool] = ..., access_token: _Optional[str] = ..., source_url: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class RetryInstallResponse(_message.Message):
    __slots__ = ("installs", "needs_secrets_ids")
    INSTALLS_FIELD_NUMBER: _ClassVar[int]
    NEEDS_SECRETS_IDS_FIELD_NUMBER: _ClassVar[int]
    installs: _containers.RepeatedCompositeFieldContainer[_install_pb2.Install]
    needs_secrets_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, installs: _Optional[_Iterable[_Union[_install_pb2.Install, _Mapping]]] = ..., needs_secrets_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class DeleteInstallRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class DeleteInstallResponse(_message.Message):
    __slots__ = ("install",)
    INSTALL_FIELD_NUMBER: _ClassVar[int]
    install: _install_pb2.Install
    def __init__(self, install: _Optional[_Union[_install_pb2.Install, _Mapping]] = ...) -> None: ...
