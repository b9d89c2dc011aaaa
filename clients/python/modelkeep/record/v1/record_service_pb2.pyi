import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from modelkeep.model.v1 import model_pb2 as _model_pb2
from modelkeep.model.v1 import taxonomy_pb2 as _taxonomy_pb2
from modelkeep.record.v1 import backups_pb2 as _backups_pb2
from modelkeep.record.v1 import batch_delete_pb2 as _batch_delete_pb2
from modelkeep.record.v1 import covers_pb2 as _covers_pb2
from modelkeep.record.v1 import exports_pb2 as _exports_pb2
from modelkeep.record.v1 import marks_pb2 as _marks_pb2
from modelkeep.record.v1 import tags_pb2 as _tags_pb2
from modelkeep.server.v1 import watch_pb2 as _watch_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelView(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_VIEW_UNSPECIFIED: _ClassVar[ModelView]
    MODEL_VIEW_BASIC: _ClassVar[ModelView]
    MODEL_VIEW_FULL: _ClassVar[ModelView]

class ModelOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_ORDER_UNSPECIFIED: _ClassVar[ModelOrder]
    MODEL_ORDER_NAME: _ClassVar[ModelOrder]
    MODEL_ORDER_TYPE: _ClassVar[ModelOrder]
    MODEL_ORDER_SIZE: _ClassVar[ModelOrder]
    MODEL_ORDER_CREATE_TIME: _ClassVar[ModelOrder]
    MODEL_ORDER_UPDATE_TIME: _ClassVar[ModelOrder]
    MODEL_ORDER_PATH: _ClassVar[ModelOrder]
MODEL_VIEW_UNSPECIFIED: ModelView
MODEL_VIEW_BASIC: ModelView
MODEL_VIEW_FULL: ModelView
MODEL_ORDER_UNSPECIFIED: ModelOrder
MODEL_ORDER_NAME: ModelOrder
MODEL_ORDER_TYPE: ModelOrder
MODEL_ORDER_SIZE: ModelOrder
MODEL_ORDER_CREATE_TIME: ModelOrder
MODEL_ORDER_UPDATE_TIME: ModelOrder
MODEL_ORDER_PATH: ModelOrder

class ModelFilter(_message.Message):
    __slots__ = ("name", "bases", "types", "formats", "tags", "paths", "root_id", "hash", "source", "text", "labels", "keys", "key_prefix", "name_caseless", "missing", "min_size_bytes", "max_size_bytes", "create_time_from", "create_time_before", "update_time_from", "update_time_before", "files", "related_to")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    BASES_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    FORMATS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    ROOT_ID_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    KEY_PREFIX_FIELD_NUMBER: _ClassVar[int]
    NAME_CASELESS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    MIN_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FROM_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_BEFORE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FROM_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_BEFORE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    RELATED_TO_FIELD_NUMBER: _ClassVar[int]
    name: str
    bases: _containers.RepeatedScalarFieldContainer[str]
    types: _containers.RepeatedScalarFieldContainer[_taxonomy_pb2.ModelType]
    formats: _containers.RepeatedScalarFieldContainer[_taxonomy_pb2.ModelFormat]
    tags: _containers.RepeatedScalarFieldContainer[str]
    paths: _containers.RepeatedScalarFieldContainer[str]
    root_id: str
    hash: str
    source: str
    text: str
    labels: _containers.ScalarMap[str, str]
    keys: _containers.RepeatedScalarFieldContainer[str]
    key_prefix: str
    name_caseless: str
    missing: bool
    min_size_bytes: int
    max_size_bytes: int
    create_time_from: _timestamp_pb2.Timestamp
    create_time_before: _timestamp_pb2.Timestamp
    update_time_from: _timestamp_pb2.Timestamp
    update_time_before: _timestamp_pb2.Timestamp
    files: _containers.RepeatedScalarFieldContainer[str]
    related_to: str
    def __init__(self, name: _Optional[str] = ..., bases: _Optional[_Iterable[str]] = ..., types: _Optional[_Iterable[_Union[_taxonomy_pb2.ModelType, str]]] = ..., formats: _Optional[_Iterable[_Union[_taxonomy_pb2.ModelFormat, str]]] = ..., tags: _Optional[_Iterable[str]] = ..., paths: _Optional[_Iterable[str]] = ..., root_id: _Optional[str] = ..., hash: _Optional[str] = ..., source: _Optional[str] = ..., text: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., keys: _Optional[_Iterable[str]] = ..., key_prefix: _Optional[str] = ..., name_caseless: _Optional[str] = ..., missing: _Optional[bool] = ..., min_size_bytes: _Optional[int] = ..., max_size_bytes: _Optional[int] = ..., create_time_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., create_time_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., files: _Optional[_Iterable[str]] = ..., related_to: _Optional[str] = ...) -> None: ...

class CreateModelRequest(_message.Message):
    __slots__ = ("model", "files", "request_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.Model
    files: _containers.RepeatedCompositeFieldContainer[_model_pb2.ModelFile]
    request_id: str
    def __init__(self, model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ..., files: _Optional[_Iterable[_Union[_model_pb2.ModelFile, _Mapping]]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateModelResponse(_message.Message):
    __slots__ = ("model", "revision")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.Model
    revision: int
    def __init__(self, model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.Model
    def __init__(self, model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ...) -> None: ...

class BatchGetModelsRequest(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, keys: _Optional[_Iterable[str]] = ...) -> None: ...

class BatchGetModelsResponse(_message.Message):
    __slots__ = ("models", "missing_keys", "deferred_keys")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    MISSING_KEYS_FIELD_NUMBER: _ClassVar[int]
    DEFERRED_KEYS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[_model_pb2.Model]
    missing_keys: _containers.RepeatedScalarFieldContainer[str]
    deferred_keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, models: _Optional[_Iterable[_Union[_model_pb2.Model, _Mapping]]] = ..., missing_keys: _Optional[_Iterable[str]] = ..., deferred_keys: _Optional[_Iterable[str]] = ...) -> None: ...

class FindModelRequest(_message.Message):
    __slots__ = ("name", "base", "type")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    base: str
    type: _taxonomy_pb2.ModelType
    def __init__(self, name: _Optional[str] = ..., base: _Optional[str] = ..., type: _Optional[_Union[_taxonomy_pb2.ModelType, str]] = ...) -> None: ...

class FindModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.Model
    def __init__(self, model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("filter", "view", "order", "descending", "page_size", "page_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    DESCENDING_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: ModelFilter
    view: ModelView
    order: ModelOrder
    descending: bool
    page_size: int
    page_token: str
    def __init__(self, filter: _Optional[_Union[ModelFilter, _Mapping]] = ..., view: _Optional[_Union[ModelView, str]] = ..., order: _Optional[_Union[ModelOrder, str]] = ..., descending: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token", "resume_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[_model_pb2.Model]
    next_page_token: str
    resume_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[_model_pb2.Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., resume_token: _Optional[str] = ...) -> None: ...

class ListModelFilesRequest(_message.Message):
    __slots__ = ("key", "page_size", "page_token")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    key: str
    page_size: int
    page_token: str
    def __init__(self, key: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelFilesResponse(_message.Message):
    __slots__ = ("files", "next_page_token")
    FILES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[_model_pb2.ModelFile]
    next_page_token: str
    def __init__(self, files: _Optional[_Iterable[_Union[_model_pb2.ModelFile, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateModelRequest(_message.Message):
    __slots__ = ("model", "update_mask", "files", "replace_files", "request_id", "validate_only")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FILES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.Model
    update_mask: _field_mask_pb2.FieldMask
    files: _containers.RepeatedCompositeFieldContainer[_model_pb2.ModelFile]
    replace_files: bool
    request_id: str
    validate_only: bool
    def __init__(self, model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., files: _Optional[_Iterable[_Union[_model_pb2.ModelFile, _Mapping]]] = ..., replace_files: _Optional[bool] = ..., request_id: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class UpdateModelResponse(_message.Message):
    __slots__ = ("model", "revision", "lost_fields")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELDS_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.Model
    revision: int
    lost_fields: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ..., revision: _Optional[int] = ..., lost_fields: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteModelRequest(_message.Message):
    __slots__ = ("key", "etag", "request_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    key: str
    etag: str
    request_id: str
    def __init__(self, key: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteModelResponse(_message.Message):
    __slots__ = ("model", "revision")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.Model
    revision: int
    def __init__(self, model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class ExportModelsRequest(_message.Message):
    __slots__ = ("filter", "with_covers")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    WITH_COVERS_FIELD_NUMBER: _ClassVar[int]
    filter: ModelFilter
    with_covers: bool
    def __init__(self, filter: _Optional[_Union[ModelFilter, _Mapping]] = ..., with_covers: _Optional[bool] = ...) -> None: ...

class WatchModelsRequest(_message.Message):
    __slots__ = ("resume_token", "filter", "skip_snapshot", "bookmark_interval")
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    SKIP_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    resume_token: str
    filter: ModelFilter
    skip_snapshot: bool
    bookmark_interval: _duration_pb2.Duration
    def __init__(self, resume_token: _Optional[str] = ..., filter: _Optional[_Union[ModelFilter, _Mapping]] = ..., skip_snapshot: _Optional[bool] = ..., bookmark_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchModelsResponse(_message.Message):
    __slots__ = ("phase", "snapshot_complete", "resume_token", "events")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    phase: _watch_pb2.WatchPhase
    snapshot_complete: bool
    resume_token: str
    events: _containers.RepeatedCompositeFieldContainer[ModelEvent]
    def __init__(self, phase: _Optional[_Union[_watch_pb2.WatchPhase, str]] = ..., snapshot_complete: _Optional[bool] = ..., resume_token: _Optional[str] = ..., events: _Optional[_Iterable[_Union[ModelEvent, _Mapping]]] = ...) -> None: ...

class ModelEvent(_message.Message):
    __slots__ = ("revision", "put", "removed_key")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_KEY_FIELD_NUMBER: _ClassVar[int]
    revision: int
    put: _model_pb2.Model
    removed_key: str
    def __init__(self, revision: _Optional[int] = ..., put: _Optional[_Union[_model_pb2.Model, _Mapping]] = ..., removed_key: _Optional[str] = ...) -> None: ...

class GetStoreInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStoreInfoResponse(_message.Message):
    __slots__ = ("schema_version", "backend", "store_id", "revision", "model_count", "unreadable_count", "counts", "size_bytes", "oldest_revision", "create_time", "missing_count")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    MODEL_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OLDEST_REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    MISSING_COUNT_FIELD_NUMBER: _ClassVar[int]
    schema_version: str
    backend: str
    store_id: str
    revision: int
    model_count: int
    unreadable_count: int
    counts: _containers.RepeatedCompositeFieldContainer[TypeCount]
    size_bytes: int
    oldest_revision: int
    create_time: _timestamp_pb2.Timestamp
    missing_count: int
    def __init__(self, schema_version: _Optional[str] = ..., backend: _Optional[str] = ..., store_id: _Optional[str] = ..., revision: _Optional[int] = ..., model_count: _Optional[int] = ..., unreadable_count: _Optional[int] = ..., counts: _Optional[_Iterable[_Union[TypeCount, _Mapping]]] = ..., size_bytes: _Optional[int] = ..., oldest_revision: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., missing_count: _Optional[int] = ...) -> None: ...

class TypeCount(_message.Message):
    __slots__ = ("type", "count")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    type: _taxonomy_pb2.ModelType
    count: int
    def __init__(self, type: _Optional[_Union[_taxonomy_pb2.ModelType, str]] = ..., count: _Optional[int] = ...) -> None: ...
