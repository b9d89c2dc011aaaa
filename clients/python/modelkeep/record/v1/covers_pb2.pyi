from buf.validate import validate_pb2 as _validate_pb2
from modelkeep.model.v1 import cover_image_pb2 as _cover_image_pb2
from modelkeep.model.v1 import model_pb2 as _model_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SetCoverImageRequest(_message.Message):
    __slots__ = ("key", "image", "etag", "request_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    key: str
    image: bytes
    etag: str
    request_id: str
    def __init__(self, key: _Optional[str] = ..., image: _Optional[bytes] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class SetCoverImageResponse(_message.Message):
    __slots__ = ("model", "revision")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.Model
    revision: int
    def __init__(self, model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class GetCoverImageRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class GetCoverImageResponse(_message.Message):
    __slots__ = ("cover_image", "image")
    COVER_IMAGE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    cover_image: _cover_image_pb2.CoverImage
    image: bytes
    def __init__(self, cover_image: _Optional[_Union[_cover_image_pb2.CoverImage, _Mapping]] = ..., image: _Optional[bytes] = ...) -> None: ...

class DeleteCoverImageRequest(_message.Message):
    __slots__ = ("key", "etag", "request_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    key: str
    etag: str
    request_id: str
    def __init__(self, key: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteCoverImageResponse(_message.Message):
    __slots__ = ("model", "revision")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.Model
    revision: int
    def __init__(self, model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...
