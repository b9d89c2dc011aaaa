from buf.validate import validate_pb2 as _validate_pb2
from modelkeep.model.v1 import model_pb2 as _model_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ImportConflict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMPORT_CONFLICT_UNSPECIFIED: _ClassVar[ImportConflict]
    IMPORT_CONFLICT_SKIP: _ClassVar[ImportConflict]
    IMPORT_CONFLICT_REPLACE: _ClassVar[ImportConflict]
    IMPORT_CONFLICT_FAIL: _ClassVar[ImportConflict]

class ImportOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMPORT_OUTCOME_UNSPECIFIED: _ClassVar[ImportOutcome]
    IMPORT_OUTCOME_CREATED: _ClassVar[ImportOutcome]
    IMPORT_OUTCOME_UNCHANGED: _ClassVar[ImportOutcome]
    IMPORT_OUTCOME_SKIPPED: _ClassVar[ImportOutcome]
    IMPORT_OUTCOME_REPLACED: _ClassVar[ImportOutcome]
    IMPORT_OUTCOME_REFUSED: _ClassVar[ImportOutcome]
IMPORT_CONFLICT_UNSPECIFIED: ImportConflict
IMPORT_CONFLICT_SKIP: ImportConflict
IMPORT_CONFLICT_REPLACE: ImportConflict
IMPORT_CONFLICT_FAIL: ImportConflict
IMPORT_OUTCOME_UNSPECIFIED: ImportOutcome
IMPORT_OUTCOME_CREATED: ImportOutcome
IMPORT_OUTCOME_UNCHANGED: ImportOutcome
IMPORT_OUTCOME_SKIPPED: ImportOutcome
IMPORT_OUTCOME_REPLACED: ImportOutcome
IMPORT_OUTCOME_REFUSED: ImportOutcome

class ExportedModel(_message.Message):
    __slots__ = ("model", "files", "cover_image", "is_continued", "is_continuation")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    COVER_IMAGE_FIELD_NUMBER: _ClassVar[int]
    IS_CONTINUED_FIELD_NUMBER: _ClassVar[int]
    IS_CONTINUATION_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.Model
    files: _containers.RepeatedCompositeFieldContainer[_model_pb2.ModelFile]
    cover_image: bytes
    is_continued: bool
    is_continuation: bool
    def __init__(self, model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ..., files: _Optional[_Iterable[_Union[_model_pb2.ModelFile, _Mapping]]] = ..., cover_image: _Optional[bytes] = ..., is_continued: _Optional[bool] = ..., is_continuation: _Optional[bool] = ...) -> None: ...

class ExportModelsResponse(_message.Message):
    __slots__ = ("models", "revision")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ExportedModel]
    revision: int
    def __init__(self, models: _Optional[_Iterable[_Union[ExportedModel, _Mapping]]] = ..., revision: _Optional[int] = ...) -> None: ...

class ImportModelsRequest(_message.Message):
    __slots__ = ("models", "on_conflict", "validate_only", "request_id")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    ON_CONFLICT_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ExportedModel]
    on_conflict: ImportConflict
    validate_only: bool
    request_id: str
    def __init__(self, models: _Optional[_Iterable[_Union[ExportedModel, _Mapping]]] = ..., on_conflict: _Optional[_Union[ImportConflict, str]] = ..., validate_only: _Optional[bool] = ..., request_id: _Optional[str] = ...) -> None: ...

class ImportModelsResponse(_message.Message):
    __slots__ = ("results", "revision")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ImportedModel]
    revision: int
    def __init__(self, results: _Optional[_Iterable[_Union[ImportedModel, _Mapping]]] = ..., revision: _Optional[int] = ...) -> None: ...

class ImportedModel(_message.Message):
    __slots__ = ("key", "outcome", "reason", "message")
    KEY_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    key: str
    outcome: ImportOutcome
    reason: str
    message: str
    def __init__(self, key: _Optional[str] = ..., outcome: _Optional[_Union[ImportOutcome, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
