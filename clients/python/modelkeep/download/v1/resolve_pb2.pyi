import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SourceKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_KIND_UNSPECIFIED: _ClassVar[SourceKind]
    SOURCE_KIND_HUGGING_FACE: _ClassVar[SourceKind]
    SOURCE_KIND_CIVITAI: _ClassVar[SourceKind]
    SOURCE_KIND_URL: _ClassVar[SourceKind]
    SOURCE_KIND_LOCAL_PATH: _ClassVar[SourceKind]
SOURCE_KIND_UNSPECIFIED: SourceKind
SOURCE_KIND_HUGGING_FACE: SourceKind
SOURCE_KIND_CIVITAI: SourceKind
SOURCE_KIND_URL: SourceKind
SOURCE_KIND_LOCAL_PATH: SourceKind

class RemoteSource(_message.Message):
    __slots__ = ("source", "subfolder", "variant", "revision")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SUBFOLDER_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    source: str
    subfolder: str
    variant: str
    revision: str
    def __init__(self, source: _Optional[str] = ..., subfolder: _Optional[str] = ..., variant: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...

class ResolveSourceRequest(_message.Message):
    __slots__ = ("source", "access_token")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    source: RemoteSource
    access_token: str
    def __init__(self, source: _Optional[_Union[RemoteSource, _Mapping]] = ..., access_token: _Optional[str] = ...) -> None: ...

class ResolveSourceResponse(_message.Message):
    __slots__ = ("plan",)
    PLAN_FIELD_NUMBER: _ClassVar[int]
    plan: SourcePlan
    def __init__(self, plan: _Optional[_Union[SourcePlan, _Mapping]] = ...) -> None: ...

class SourcePlan(_message.Message):
    __slots__ = ("kind", "source", "revision", "name", "is_folder", "files", "bytes_total", "source_bytes_total", "variant", "reasons", "choices", "metadata", "digest", "code_files")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IS_FOLDER_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CODE_FILES_FIELD_NUMBER: _ClassVar[int]
    kind: SourceKind
    source: str
    revision: str
    name: str
    is_folder: bool
    files: _containers.RepeatedCompositeFieldContainer[PlannedFile]
    bytes_total: int
    source_bytes_total: int
    variant: str
    reasons: _containers.RepeatedScalarFieldContainer[str]
    choices: _containers.RepeatedCompositeFieldContainer[SourceChoice]
    metadata: SourceMetadata
    digest: str
    code_files: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kind: _Optional[_Union[SourceKind, str]] = ..., source: _Optional[str] = ..., revision: _Optional[str] = ..., name: _Optional[str] = ..., is_folder: _Optional[bool] = ..., files: _Optional[_Iterable[_Union[PlannedFile, _Mapping]]] = ..., bytes_total: _Optional[int] = ..., source_bytes_total: _Optional[int] = ..., variant: _Optional[str] = ..., reasons: _Optional[_Iterable[str]] = ..., choices: _Optional[_Iterable[_Union[SourceChoice, _Mapping]]] = ..., metadata: _Optional[_Union[SourceMetadata, _Mapping]] = ..., digest: _Optional[str] = ..., code_files: _Optional[_Iterable[str]] = ...) -> None: ...

class PlannedFile(_message.Message):
    __slots__ = ("url", "path", "size_bytes", "sha256", "cached_path")
    URL_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    CACHED_PATH_FIELD_NUMBER: _ClassVar[int]
    url: str
    path: str
    size_bytes: int
    sha256: str
    cached_path: str
    def __init__(self, url: _Optional[str] = ..., path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., cached_path: _Optional[str] = ...) -> None: ...

class SourceChoice(_message.Message):
    __slots__ = ("kind", "value", "source", "bytes_total", "chosen")
    KIND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    kind: str
    value: str
    source: str
    bytes_total: int
    chosen: bool
    def __init__(self, kind: _Optional[str] = ..., value: _Optional[str] = ..., source: _Optional[str] = ..., bytes_total: _Optional[int] = ..., chosen: _Optional[bool] = ...) -> None: ...

class SourceMetadata(_message.Message):
    __slots__ = ("name", "description", "author", "license", "tags", "trigger_phrases", "type", "base", "page_url", "preview_url", "nsfw_level", "publish_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    LICENSE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_PHRASES_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    PAGE_URL_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_URL_FIELD_NUMBER: _ClassVar[int]
    NSFW_LEVEL_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    author: str
    license: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    trigger_phrases: _containers.RepeatedScalarFieldContainer[str]
    type: str
    base: str
    page_url: str
    preview_url: str
    nsfw_level: int
    publish_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., author: _Optional[str] = ..., license: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., trigger_phrases: _Optional[_Iterable[str]] = ..., type: _Optional[str] = ..., base: _Optional[str] = ..., page_url: _Optional[str] = ..., preview_url: _Optional[str] = ..., nsfw_level: _Optional[int] = ..., publish_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
