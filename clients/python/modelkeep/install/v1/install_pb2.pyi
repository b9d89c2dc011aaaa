import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from modelkeep.download.v1 import resolve_pb2 as _resolve_pb2
from modelkeep.model.v1 import default_settings_pb2 as _default_settings_pb2
from modelkeep.model.v1 import model_pb2 as _model_pb2
from modelkeep.model.v1 import taxonomy_pb2 as _taxonomy_pb2
from modelkeep.server.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reuse(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REUSE_UNSPECIFIED: _ClassVar[Reuse]
    REUSE_SAME_SOURCE: _ClassVar[Reuse]
    REUSE_SAME_CONTENT: _ClassVar[Reuse]
    REUSE_NEVER: _ClassVar[Reuse]

class InstallState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INSTALL_STATE_UNSPECIFIED: _ClassVar[InstallState]
    INSTALL_STATE_WAITING: _ClassVar[InstallState]
    INSTALL_STATE_RUNNING: _ClassVar[InstallState]
    INSTALL_STATE_PAUSED: _ClassVar[InstallState]
    INSTALL_STATE_COMPLETED: _ClassVar[InstallState]
    INSTALL_STATE_ERROR: _ClassVar[InstallState]
    INSTALL_STATE_CANCELLED: _ClassVar[InstallState]

class InstallStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INSTALL_STAGE_UNSPECIFIED: _ClassVar[InstallStage]
    INSTALL_STAGE_DOWNLOADING: _ClassVar[InstallStage]
    INSTALL_STAGE_PROBING: _ClassVar[InstallStage]
    INSTALL_STAGE_HASHING: _ClassVar[InstallStage]
    INSTALL_STAGE_MOVING: _ClassVar[InstallStage]
    INSTALL_STAGE_REGISTERING: _ClassVar[InstallStage]
    INSTALL_STAGE_WAITING_FOR_PEER: _ClassVar[InstallStage]
    INSTALL_STAGE_RESOLVING: _ClassVar[InstallStage]

class EvidenceStrength(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVIDENCE_STRENGTH_UNSPECIFIED: _ClassVar[EvidenceStrength]
    EVIDENCE_STRENGTH_CERTAIN: _ClassVar[EvidenceStrength]
    EVIDENCE_STRENGTH_LIKELY: _ClassVar[EvidenceStrength]
    EVIDENCE_STRENGTH_WEAK: _ClassVar[EvidenceStrength]
REUSE_UNSPECIFIED: Reuse
REUSE_SAME_SOURCE: Reuse
REUSE_SAME_CONTENT: Reuse
REUSE_NEVER: Reuse
INSTALL_STATE_UNSPECIFIED: InstallState
INSTALL_STATE_WAITING: InstallState
INSTALL_STATE_RUNNING: InstallState
INSTALL_STATE_PAUSED: InstallState
INSTALL_STATE_COMPLETED: InstallState
INSTALL_STATE_ERROR: InstallState
INSTALL_STATE_CANCELLED: InstallState
INSTALL_STAGE_UNSPECIFIED: InstallStage
INSTALL_STAGE_DOWNLOADING: InstallStage
INSTALL_STAGE_PROBING: InstallStage
INSTALL_STAGE_HASHING: InstallStage
INSTALL_STAGE_MOVING: InstallStage
INSTALL_STAGE_REGISTERING: InstallStage
INSTALL_STAGE_WAITING_FOR_PEER: InstallStage
INSTALL_STAGE_RESOLVING: InstallStage
EVIDENCE_STRENGTH_UNSPECIFIED: EvidenceStrength
EVIDENCE_STRENGTH_CERTAIN: EvidenceStrength
EVIDENCE_STRENGTH_LIKELY: EvidenceStrength
EVIDENCE_STRENGTH_WEAK: EvidenceStrength

class Install(_message.Message):
    __slots__ = ("id", "etag", "source", "inplace", "overrides", "state", "stage", "model_key", "model", "local_path", "progress", "download_id", "error", "probe", "create_time", "start_time", "end_time", "attempt", "revision", "download_attempt", "ended", "installed_already", "same_content_keys", "reuse", "missing_content_keys", "move", "retry_of_id", "labels", "plan")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    INPLACE_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_KEY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LOCAL_PATH_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    INSTALLED_ALREADY_FIELD_NUMBER: _ClassVar[int]
    SAME_CONTENT_KEYS_FIELD_NUMBER: _ClassVar[int]
    REUSE_FIELD_NUMBER: _ClassVar[int]
    MISSING_CONTENT_KEYS_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    RETRY_OF_ID_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    id: int
    etag: str
    source: InstallSource
    inplace: bool
    overrides: ModelOverrides
    state: InstallState
    stage: InstallStage
    model_key: str
    model: _model_pb2.Model
    local_path: str
    progress: _job_pb2.Progress
    download_id: int
    error: _job_pb2.JobError
    probe: ProbeResult
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    attempt: int
    revision: int
    download_attempt: int
    ended: bool
    installed_already: bool
    same_content_keys: _containers.RepeatedScalarFieldContainer[str]
    reuse: Reuse
    missing_content_keys: _containers.RepeatedScalarFieldContainer[str]
    move: bool
    retry_of_id: int
    labels: _containers.ScalarMap[str, str]
    plan: _resolve_pb2.SourcePlan
    def __init__(self, id: _Optional[int] = ..., etag: _Optional[str] = ..., source: _Optional[_Union[InstallSource, _Mapping]] = ..., inplace: _Optional[bool] = ..., overrides: _Optional[_Union[ModelOverrides, _Mapping]] = ..., state: _Optional[_Union[InstallState, str]] = ..., stage: _Optional[_Union[InstallStage, str]] = ..., model_key: _Optional[str] = ..., model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ..., local_path: _Optional[str] = ..., progress: _Optional[_Union[_job_pb2.Progress, _Mapping]] = ..., download_id: _Optional[int] = ..., error: _Optional[_Union[_job_pb2.JobError, _Mapping]] = ..., probe: _Optional[_Union[ProbeResult, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempt: _Optional[int] = ..., revision: _Optional[int] = ..., download_attempt: _Optional[int] = ..., ended: _Optional[bool] = ..., installed_already: _Optional[bool] = ..., same_content_keys: _Optional[_Iterable[str]] = ..., reuse: _Optional[_Union[Reuse, str]] = ..., missing_content_keys: _Optional[_Iterable[str]] = ..., move: _Optional[bool] = ..., retry_of_id: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., plan: _Optional[_Union[_resolve_pb2.SourcePlan, _Mapping]] = ...) -> None: ...

class InstallSource(_message.Message):
    __slots__ = ("local_path", "url", "remote")
    LOCAL_PATH_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    REMOTE_FIELD_NUMBER: _ClassVar[int]
    local_path: str
    url: str
    remote: _resolve_pb2.RemoteSource
    def __init__(self, local_path: _Optional[str] = ..., url: _Optional[str] = ..., remote: _Optional[_Union[_resolve_pb2.RemoteSource, _Mapping]] = ...) -> None: ...

class ModelOverrides(_message.Message):
    __slots__ = ("name", "description", "type", "format", "base", "variant", "prediction_type", "upcast_attention", "vae", "tags", "trigger_phrases", "license", "checkpoint_config", "source", "compatible_bases", "source_type", "family_variant", "submodels", "scaling_factor", "rank", "key_layout", "image_encoder", "labels", "preview_url", "source_url", "default_settings")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_TYPE_FIELD_NUMBER: _ClassVar[int]
    UPCAST_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    VAE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_PHRASES_FIELD_NUMBER: _ClassVar[int]
    LICENSE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_CONFIG_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    COMPATIBLE_BASES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_TYPE_FIELD_NUMBER: _ClassVar[int]
    FAMILY_VARIANT_FIELD_NUMBER: _ClassVar[int]
    SUBMODELS_FIELD_NUMBER: _ClassVar[int]
    SCALING_FACTOR_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    KEY_LAYOUT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ENCODER_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_URL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_URL_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    type: _taxonomy_pb2.ModelType
    format: _taxonomy_pb2.ModelFormat
    base: str
    variant: _taxonomy_pb2.ModelVariant
    prediction_type: _taxonomy_pb2.PredictionType
    upcast_attention: bool
    vae: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    trigger_phrases: _containers.RepeatedScalarFieldContainer[str]
    license: str
    checkpoint_config: str
    source: str
    compatible_bases: _containers.RepeatedScalarFieldContainer[str]
    source_type: _taxonomy_pb2.ModelSourceType
    family_variant: str
    submodels: _containers.RepeatedCompositeFieldContainer[_model_pb2.Submodel]
    scaling_factor: float
    rank: int
    key_layout: str
    image_encoder: str
    labels: _containers.ScalarMap[str, str]
    preview_url: str
    source_url: str
    default_settings: _default_settings_pb2.DefaultSettings
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., type: _Optional[_Union[_taxonomy_pb2.ModelType, str]] = ..., format: _Optional[_Union[_taxonomy_pb2.ModelFormat, str]] = ..., base: _Optional[str] = ..., variant: _Optional[_Union[_taxonomy_pb2.ModelVariant, str]] = ..., prediction_type: _Optional[_Union[_taxonomy_pb2.PredictionType, str]] = ..., upcast_attention: _Optional[bool] = ..., vae: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., trigger_phrases: _Optional[_Iterable[str]] = ..., license: _Optional[str] = ..., checkpoint_config: _Optional[str] = ..., source: _Optional[str] = ..., compatible_bases: _Optional[_Iterable[str]] = ..., source_type: _Optional[_Union[_taxonomy_pb2.ModelSourceType, str]] = ..., family_variant: _Optional[str] = ..., submodels: _Optional[_Iterable[_Union[_model_pb2.Submodel, _Mapping]]] = ..., scaling_factor: _Optional[float] = ..., rank: _Optional[int] = ..., key_layout: _Optional[str] = ..., image_encoder: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., preview_url: _Optional[str] = ..., source_url: _Optional[str] = ..., default_settings: _Optional[_Union[_default_settings_pb2.DefaultSettings, _Mapping]] = ...) -> None: ...

class ProbeResult(_message.Message):
    __slots__ = ("type", "format", "base", "possible_bases", "compatible_bases", "variant", "prediction_type", "submodels", "name", "description", "size_bytes", "file_count", "evidence", "ruled_out", "model")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    POSSIBLE_BASES_FIELD_NUMBER: _ClassVar[int]
    COMPATIBLE_BASES_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_TYPE_FIELD_NUMBER: _ClassVar[int]
    SUBMODELS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    RULED_OUT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    type: _taxonomy_pb2.ModelType
    format: _taxonomy_pb2.ModelFormat
    base: str
    possible_bases: _containers.RepeatedScalarFieldContainer[str]
    compatible_bases: _containers.RepeatedScalarFieldContainer[str]
    variant: _taxonomy_pb2.ModelVariant
    prediction_type: _taxonomy_pb2.PredictionType
    submodels: _containers.RepeatedCompositeFieldContainer[_model_pb2.Submodel]
    name: str
    description: str
    size_bytes: int
    file_count: int
    evidence: _containers.RepeatedCompositeFieldContainer[Evidence]
    ruled_out: _containers.RepeatedCompositeFieldContainer[RuledOut]
    model: _model_pb2.Model
    def __init__(self, type: _Optional[_Union[_taxonomy_pb2.ModelType, str]] = ..., format: _Optional[_Union[_taxonomy_pb2.ModelFormat, str]] = ..., base: _Optional[str] = ..., possible_bases: _Optional[_Iterable[str]] = ..., compatible_bases: _Optional[_Iterable[str]] = ..., variant: _Optional[_Union[_taxonomy_pb2.ModelVariant, str]] = ..., prediction_type: _Optional[_Union[_taxonomy_pb2.PredictionType, str]] = ..., submodels: _Optional[_Iterable[_Union[_model_pb2.Submodel, _Mapping]]] = ..., name: _Optional[str] = ..., description: _Optional[str] = ..., size_bytes: _Optional[int] = ..., file_count: _Optional[int] = ..., evidence: _Optional[_Iterable[_Union[Evidence, _Mapping]]] = ..., ruled_out: _Optional[_Iterable[_Union[RuledOut, _Mapping]]] = ..., model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("finding", "observation", "strength")
    FINDING_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    finding: str
    observation: str
    strength: EvidenceStrength
    def __init__(self, finding: _Optional[str] = ..., observation: _Optional[str] = ..., strength: _Optional[_Union[EvidenceStrength, str]] = ...) -> None: ...

class RuledOut(_message.Message):
    __slots__ = ("kind", "reason")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    kind: str
    reason: str
    def __init__(self, kind: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
