from buf.validate import validate_pb2 as _validate_pb2
from modelkeep.download.v1 import download_pb2 as _download_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RetryDownloadRequest(_message.Message):
    __slots__ = ("id", "access_token", "source_url", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SOURCE_URL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    access_token: str
    source_url: str
    request_id: str
    def __init__(self, id: _Optional[int] = ..., access_token: _Optional[str] = ..., source_url: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class RetryDownloadResponse(_message.Message):
    __slots__ = ("download",)
    DOWNLOAD_FIELD_NUMBER: _ClassVar[int]
    download: _download_pb2.Download
    def __init__(self, download: _Optional[_Union[_download_pb2.Download, _Mapping]] = ...) -> None: ...
