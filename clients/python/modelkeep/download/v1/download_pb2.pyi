import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from modelkeep.download.v1 import resolve_pb2 as _resolve_pb2
from modelkeep.server.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DownloadState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DOWNLOAD_STATE_UNSPECIFIED: _ClassVar[DownloadState]
    DOWNLOAD_STATE_IDLE: _ClassVar[DownloadState]
    DOWNLOAD_STATE_ENQUEUED: _ClassVar[DownloadState]
    DOWNLOAD_STATE_RUNNING: _ClassVar[DownloadState]
    DOWNLOAD_STATE_PAUSED: _ClassVar[DownloadState]
    DOWNLOAD_STATE_COMPLETED: _ClassVar[DownloadState]
    DOWNLOAD_STATE_ERROR: _ClassVar[DownloadState]
    DOWNLOAD_STATE_CANCELLED: _ClassVar[DownloadState]

class DownloadStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DOWNLOAD_STAGE_UNSPECIFIED: _ClassVar[DownloadStage]
    DOWNLOAD_STAGE_CONNECTING: _ClassVar[DownloadStage]
    DOWNLOAD_STAGE_TRANSFERRING: _ClassVar[DownloadStage]
    DOWNLOAD_STAGE_WAITING: _ClassVar[DownloadStage]
    DOWNLOAD_STAGE_VERIFYING: _ClassVar[DownloadStage]
    DOWNLOAD_STAGE_STOPPING: _ClassVar[DownloadStage]
DOWNLOAD_STATE_UNSPECIFIED: DownloadState
DOWNLOAD_STATE_IDLE: DownloadState
DOWNLOAD_STATE_ENQUEUED: DownloadState
DOWNLOAD_STATE_RUNNING: DownloadState
DOWNLOAD_STATE_PAUSED: DownloadState
DOWNLOAD_STATE_COMPLETED: DownloadState
DOWNLOAD_STATE_ERROR: DownloadState
DOWNLOAD_STATE_CANCELLED: DownloadState
DOWNLOAD_STAGE_UNSPECIFIED: DownloadStage
DOWNLOAD_STAGE_CONNECTING: DownloadStage
DOWNLOAD_STAGE_TRANSFERRING: DownloadStage
DOWNLOAD_STAGE_WAITING: DownloadStage
DOWNLOAD_STAGE_VERIFYING: DownloadStage
DOWNLOAD_STAGE_STOPPING: DownloadStage

class Download(_message.Message):
    __slots__ = ("id", "etag", "queue", "source", "destination", "path", "state", "stage", "priority", "preserve_partial", "progress", "expected_sha256", "sha256", "verified", "error", "create_time", "start_time", "end_time", "sequence", "attempt", "final_url", "content_type", "revision", "labels", "restarts", "ended", "file_count", "files", "max_bytes_per_second", "retry_of_id", "replace_existing")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    PRESERVE_PARTIAL_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SHA256_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FINAL_URL_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    RETRY_OF_ID_FIELD_NUMBER: _ClassVar[int]
    REPLACE_EXISTING_FIELD_NUMBER: _ClassVar[int]
    id: int
    etag: str
    queue: str
    source: DownloadSource
    destination: str
    path: str
    state: DownloadState
    stage: DownloadStage
    priority: int
    preserve_partial: bool
    progress: _job_pb2.Progress
    expected_sha256: str
    sha256: str
    verified: bool
    error: _job_pb2.JobError
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    sequence: int
    attempt: int
    final_url: str
    content_type: str
    revision: int
    labels: _containers.ScalarMap[str, str]
    restarts: int
    ended: bool
    file_count: int
    files: _containers.RepeatedCompositeFieldContainer[DownloadFile]
    max_bytes_per_second: int
    retry_of_id: int
    replace_existing: bool
    def __init__(self, id: _Optional[int] = ..., etag: _Optional[str] = ..., queue: _Optional[str] = ..., source: _Optional[_Union[DownloadSource, _Mapping]] = ..., destination: _Optional[str] = ..., path: _Optional[str] = ..., state: _Optional[_Union[DownloadState, str]] = ..., stage: _Optional[_Union[DownloadStage, str]] = ..., priority: _Optional[int] = ..., preserve_partial: _Optional[bool] = ..., progress: _Optional[_Union[_job_pb2.Progress, _Mapping]] = ..., expected_sha256: _Optional[str] = ..., sha256: _Optional[str] = ..., verified: _Optional[bool] = ..., error: _Optional[_Union[_job_pb2.JobError, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sequence: _Optional[int] = ..., attempt: _Optional[int] = ..., final_url: _Optional[str] = ..., content_type: _Optional[str] = ..., revision: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., restarts: _Optional[int] = ..., ended: _Optional[bool] = ..., file_count: _Optional[int] = ..., files: _Optional[_Iterable[_Union[DownloadFile, _Mapping]]] = ..., max_bytes_per_second: _Optional[int] = ..., retry_of_id: _Optional[int] = ..., replace_existing: _Optional[bool] = ...) -> None: ...

class DownloadFile(_message.Message):
    __slots__ = ("path", "url", "bytes_total", "sha256", "expected_sha256", "verified", "done", "bytes_done")
    PATH_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SHA256_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    path: str
    url: str
    bytes_total: int
    sha256: str
    expected_sha256: str
    verified: bool
    done: bool
    bytes_done: int
    def __init__(self, path: _Optional[str] = ..., url: _Optional[str] = ..., bytes_total: _Optional[int] = ..., sha256: _Optional[str] = ..., expected_sha256: _Optional[str] = ..., verified: _Optional[bool] = ..., done: _Optional[bool] = ..., bytes_done: _Optional[int] = ...) -> None: ...

class DownloadSource(_message.Message):
    __slots__ = ("url", "local_path", "files", "remote")
    URL_FIELD_NUMBER: _ClassVar[int]
    LOCAL_PATH_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    REMOTE_FIELD_NUMBER: _ClassVar[int]
    url: str
    local_path: LocalPath
    files: FileSet
    remote: _resolve_pb2.RemoteSource
    def __init__(self, url: _Optional[str] = ..., local_path: _Optional[_Union[LocalPath, _Mapping]] = ..., files: _Optional[_Union[FileSet, _Mapping]] = ..., remote: _Optional[_Union[_resolve_pb2.RemoteSource, _Mapping]] = ...) -> None: ...

class FileSet(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[SourceFile]
    def __init__(self, files: _Optional[_Iterable[_Union[SourceFile, _Mapping]]] = ...) -> None: ...

class SourceFile(_message.Message):
    __slots__ = ("url", "path", "expected_sha256", "size_bytes", "local_copy")
    URL_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOCAL_COPY_FIELD_NUMBER: _ClassVar[int]
    url: str
    path: str
    expected_sha256: str
    size_bytes: int
    local_copy: str
    def __init__(self, url: _Optional[str] = ..., path: _Optional[str] = ..., expected_sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., local_copy: _Optional[str] = ...) -> None: ...

class LocalPath(_message.Message):
    __slots__ = ("path", "move")
    PATH_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    path: str
    move: bool
    def __init__(self, path: _Optional[str] = ..., move: _Optional[bool] = ...) -> None: ...
