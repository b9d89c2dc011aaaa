from buf.validate import validate_pb2 as _validate_pb2
from modelkeep.server.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InvokeAIOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INVOKE_AI_OUTCOME_UNSPECIFIED: _ClassVar[InvokeAIOutcome]
    INVOKE_AI_OUTCOME_NEW: _ClassVar[InvokeAIOutcome]
    INVOKE_AI_OUTCOME_UNCHANGED: _ClassVar[InvokeAIOutcome]
    INVOKE_AI_OUTCOME_UPDATED: _ClassVar[InvokeAIOutcome]
    INVOKE_AI_OUTCOME_KEPT: _ClassVar[InvokeAIOutcome]
    INVOKE_AI_OUTCOME_SKIPPED: _ClassVar[InvokeAIOutcome]
    INVOKE_AI_OUTCOME_FAILED: _ClassVar[InvokeAIOutcome]
INVOKE_AI_OUTCOME_UNSPECIFIED: InvokeAIOutcome
INVOKE_AI_OUTCOME_NEW: InvokeAIOutcome
INVOKE_AI_OUTCOME_UNCHANGED: InvokeAIOutcome
INVOKE_AI_OUTCOME_UPDATED: InvokeAIOutcome
INVOKE_AI_OUTCOME_KEPT: InvokeAIOutcome
INVOKE_AI_OUTCOME_SKIPPED: InvokeAIOutcome
INVOKE_AI_OUTCOME_FAILED: InvokeAIOutcome

class ImportInvokeAIRequest(_message.Message):
    __slots__ = ("root", "validate_only", "skip_missing", "overwrite")
    ROOT_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    SKIP_MISSING_FIELD_NUMBER: _ClassVar[int]
    OVERWRITE_FIELD_NUMBER: _ClassVar[int]
    root: str
    validate_only: bool
    skip_missing: bool
    overwrite: bool
    def __init__(self, root: _Optional[str] = ..., validate_only: _Optional[bool] = ..., skip_missing: _Optional[bool] = ..., overwrite: _Optional[bool] = ...) -> None: ...

class ImportInvokeAIResponse(_message.Message):
    __slots__ = ("started", "models", "ended")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    started: InvokeAIRoot
    models: InvokeAIModels
    ended: InvokeAICounts
    def __init__(self, started: _Optional[_Union[InvokeAIRoot, _Mapping]] = ..., models: _Optional[_Union[InvokeAIModels, _Mapping]] = ..., ended: _Optional[_Union[InvokeAICounts, _Mapping]] = ...) -> None: ...

class InvokeAIRoot(_message.Message):
    __slots__ = ("path", "models_dir", "database_path", "models_yaml_path", "schema", "is_newer", "model_count")
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODELS_DIR_FIELD_NUMBER: _ClassVar[int]
    DATABASE_PATH_FIELD_NUMBER: _ClassVar[int]
    MODELS_YAML_PATH_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    IS_NEWER_FIELD_NUMBER: _ClassVar[int]
    MODEL_COUNT_FIELD_NUMBER: _ClassVar[int]
    path: str
    models_dir: str
    database_path: str
    models_yaml_path: str
    schema: str
    is_newer: bool
    model_count: int
    def __init__(self, path: _Optional[str] = ..., models_dir: _Optional[str] = ..., database_path: _Optional[str] = ..., models_yaml_path: _Optional[str] = ..., schema: _Optional[str] = ..., is_newer: _Optional[bool] = ..., model_count: _Optional[int] = ...) -> None: ...

class InvokeAIModels(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[InvokeAIModel]
    def __init__(self, models: _Optional[_Iterable[_Union[InvokeAIModel, _Mapping]]] = ...) -> None: ...

class InvokeAIModel(_message.Message):
    __slots__ = ("invokeai_key", "key", "name", "type", "base", "path", "outcome", "is_missing", "is_unknown", "changed_fields", "error")
    INVOKEAI_KEY_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    IS_MISSING_FIELD_NUMBER: _ClassVar[int]
    IS_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    invokeai_key: str
    key: str
    name: str
    type: str
    base: str
    path: str
    outcome: InvokeAIOutcome
    is_missing: bool
    is_unknown: bool
    changed_fields: _containers.RepeatedScalarFieldContainer[str]
    error: _job_pb2.JobError
    def __init__(self, invokeai_key: _Optional[str] = ..., key: _Optional[str] = ..., name: _Optional[str] = ..., type: _Optional[str] = ..., base: _Optional[str] = ..., path: _Optional[str] = ..., outcome: _Optional[_Union[InvokeAIOutcome, str]] = ..., is_missing: _Optional[bool] = ..., is_unknown: _Optional[bool] = ..., changed_fields: _Optional[_Iterable[str]] = ..., error: _Optional[_Union[_job_pb2.JobError, _Mapping]] = ...) -> None: ...

class InvokeAICounts(_message.Message):
    __slots__ = ("total_count", "new_count", "unchanged_count", "updated_count", "kept_count", "skipped_count", "failed_count", "missing_count", "unknown_count")
    TOTAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    NEW_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_COUNT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_COUNT_FIELD_NUMBER: _ClassVar[int]
    KEPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_COUNT_FIELD_NUMBER: _ClassVar[int]
    FAILED_COUNT_FIELD_NUMBER: _ClassVar[int]
    MISSING_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_COUNT_FIELD_NUMBER: _ClassVar[int]
    total_count: int
    new_count: int
    unchanged_count: int
    updated_count: int
    kept_count: int
    skipped_count: int
    failed_count: int
    missing_count: int
    unknown_count: int
    def __init__(self, total_count: _Optional[int] = ..., new_count: _Optional[int] = ..., unchanged_count: _Optional[int] = ..., updated_count: _Optional[int] = ..., kept_count: _Optional[int] = ..., skipped_count: _Optional[int] = ..., failed_count: _Optional[int] = ..., missing_count: _Optional[int] = ..., unknown_count: _Optional[int] = ...) -> None: ...
