import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from modelkeep.server.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScanKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCAN_KIND_UNSPECIFIED: _ClassVar[ScanKind]
    SCAN_KIND_DIRECTORY: _ClassVar[ScanKind]
    SCAN_KIND_SYNC: _ClassVar[ScanKind]

class ScanState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCAN_STATE_UNSPECIFIED: _ClassVar[ScanState]
    SCAN_STATE_WAITING: _ClassVar[ScanState]
    SCAN_STATE_RUNNING: _ClassVar[ScanState]
    SCAN_STATE_COMPLETED: _ClassVar[ScanState]
    SCAN_STATE_ERROR: _ClassVar[ScanState]
    SCAN_STATE_CANCELLED: _ClassVar[ScanState]

class ScanFindingKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCAN_FINDING_KIND_UNSPECIFIED: _ClassVar[ScanFindingKind]
    SCAN_FINDING_KIND_NEW: _ClassVar[ScanFindingKind]
    SCAN_FINDING_KIND_KNOWN: _ClassVar[ScanFindingKind]
    SCAN_FINDING_KIND_UNKNOWN: _ClassVar[ScanFindingKind]
    SCAN_FINDING_KIND_UNREADABLE: _ClassVar[ScanFindingKind]
    SCAN_FINDING_KIND_MOVED: _ClassVar[ScanFindingKind]
    SCAN_FINDING_KIND_ORPHAN: _ClassVar[ScanFindingKind]
    SCAN_FINDING_KIND_FAILED: _ClassVar[ScanFindingKind]
SCAN_KIND_UNSPECIFIED: ScanKind
SCAN_KIND_DIRECTORY: ScanKind
SCAN_KIND_SYNC: ScanKind
SCAN_STATE_UNSPECIFIED: ScanState
SCAN_STATE_WAITING: ScanState
SCAN_STATE_RUNNING: ScanState
SCAN_STATE_COMPLETED: ScanState
SCAN_STATE_ERROR: ScanState
SCAN_STATE_CANCELLED: ScanState
SCAN_FINDING_KIND_UNSPECIFIED: ScanFindingKind
SCAN_FINDING_KIND_NEW: ScanFindingKind
SCAN_FINDING_KIND_KNOWN: ScanFindingKind
SCAN_FINDING_KIND_UNKNOWN: ScanFindingKind
SCAN_FINDING_KIND_UNREADABLE: ScanFindingKind
SCAN_FINDING_KIND_MOVED: ScanFindingKind
SCAN_FINDING_KIND_ORPHAN: ScanFindingKind
SCAN_FINDING_KIND_FAILED: ScanFindingKind

class Scan(_message.Message):
    __slots__ = ("id", "kind", "path", "install", "validate_only", "remove_orphans", "force", "labels", "state", "ended", "counts", "registered_keys", "error", "create_time", "start_time", "end_time", "attempt", "at_start")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    INSTALL_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REMOVE_ORPHANS_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_KEYS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    AT_START_FIELD_NUMBER: _ClassVar[int]
    id: int
    kind: ScanKind
    path: str
    install: bool
    validate_only: bool
    remove_orphans: bool
    force: bool
    labels: _containers.ScalarMap[str, str]
    state: ScanState
    ended: bool
    counts: ScanCounts
    registered_keys: _containers.RepeatedScalarFieldContainer[str]
    error: _job_pb2.JobError
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    attempt: int
    at_start: bool
    def __init__(self, id: _Optional[int] = ..., kind: _Optional[_Union[ScanKind, str]] = ..., path: _Optional[str] = ..., install: _Optional[bool] = ..., validate_only: _Optional[bool] = ..., remove_orphans: _Optional[bool] = ..., force: _Optional[bool] = ..., labels: _Optional[_Mapping[str, str]] = ..., state: _Optional[_Union[ScanState, str]] = ..., ended: _Optional[bool] = ..., counts: _Optional[_Union[ScanCounts, _Mapping]] = ..., registered_keys: _Optional[_Iterable[str]] = ..., error: _Optional[_Union[_job_pb2.JobError, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempt: _Optional[int] = ..., at_start: _Optional[bool] = ...) -> None: ...

class ScanCounts(_message.Message):
    __slots__ = ("folder_count", "file_count", "new_count", "known_count", "unknown_count", "unreadable_count", "moved_count", "orphan_count", "failed_count", "removed_count")
    FOLDER_COUNT_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    NEW_COUNT_FIELD_NUMBER: _ClassVar[int]
    KNOWN_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    MOVED_COUNT_FIELD_NUMBER: _ClassVar[int]
    ORPHAN_COUNT_FIELD_NUMBER: _ClassVar[int]
    FAILED_COUNT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_COUNT_FIELD_NUMBER: _ClassVar[int]
    folder_count: int
    file_count: int
    new_count: int
    known_count: int
    unknown_count: int
    unreadable_count: int
    moved_count: int
    orphan_count: int
    failed_count: int
    removed_count: int
    def __init__(self, folder_count: _Optional[int] = ..., file_count: _Optional[int] = ..., new_count: _Optional[int] = ..., known_count: _Optional[int] = ..., unknown_count: _Optional[int] = ..., unreadable_count: _Optional[int] = ..., moved_count: _Optional[int] = ..., orphan_count: _Optional[int] = ..., failed_count: _Optional[int] = ..., removed_count: _Optional[int] = ...) -> None: ...

class ScanFinding(_message.Message):
    __slots__ = ("path", "kind", "key", "error", "same_content_keys", "missing_content_keys", "removed")
    PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SAME_CONTENT_KEYS_FIELD_NUMBER: _ClassVar[int]
    MISSING_CONTENT_KEYS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    path: str
    kind: ScanFindingKind
    key: str
    error: _job_pb2.JobError
    same_content_keys: _containers.RepeatedScalarFieldContainer[str]
    missing_content_keys: _containers.RepeatedScalarFieldContainer[str]
    removed: bool
    def __init__(self, path: _Optional[str] = ..., kind: _Optional[_Union[ScanFindingKind, str]] = ..., key: _Optional[str] = ..., error: _Optional[_Union[_job_pb2.JobError, _Mapping]] = ..., same_content_keys: _Optional[_Iterable[str]] = ..., missing_content_keys: _Optional[_Iterable[str]] = ..., removed: _Optional[bool] = ...) -> None: ...

class ScanDirectoryRequest(_message.Message):
    __slots__ = ("path", "install", "validate_only", "labels", "request_id")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PATH_FIELD_NUMBER: _ClassVar[int]
    INSTALL_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    path: str
    install: bool
    validate_only: bool
    labels: _containers.ScalarMap[str, str]
    request_id: str
    def __init__(self, path: _Optional[str] = ..., install: _Optional[bool] = ..., validate_only: _Optional[bool] = ..., labels: _Optional[_Mapping[str, str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ScanDirectoryResponse(_message.Message):
    __slots__ = ("scan",)
    SCAN_FIELD_NUMBER: _ClassVar[int]
    scan: Scan
    def __init__(self, scan: _Optional[_Union[Scan, _Mapping]] = ...) -> None: ...

class SyncModelsRequest(_message.Message):
    __slots__ = ("validate_only", "remove_orphans", "force", "labels", "request_id")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REMOVE_ORPHANS_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    validate_only: bool
    remove_orphans: bool
    force: bool
    labels: _containers.ScalarMap[str, str]
    request_id: str
    def __init__(self, validate_only: _Optional[bool] = ..., remove_orphans: _Optional[bool] = ..., force: _Optional[bool] = ..., labels: _Optional[_Mapping[str, str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class SyncModelsResponse(_message.Message):
    __slots__ = ("scan",)
    SCAN_FIELD_NUMBER: _ClassVar[int]
    scan: Scan
    def __init__(self, scan: _Optional[_Union[Scan, _Mapping]] = ...) -> None: ...

class GetScanRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class GetScanResponse(_message.Message):
    __slots__ = ("scan",)
    SCAN_FIELD_NUMBER: _ClassVar[int]
    scan: Scan
    def __init__(self, scan: _Optional[_Union[Scan, _Mapping]] = ...) -> None: ...

class ListScansRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListScansResponse(_message.Message):
    __slots__ = ("scans", "next_page_token")
    SCANS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    scans: _containers.RepeatedCompositeFieldContainer[Scan]
    next_page_token: str
    def __init__(self, scans: _Optional[_Iterable[_Union[Scan, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WaitScanRequest(_message.Message):
    __slots__ = ("id", "timeout")
    ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    id: int
    timeout: _duration_pb2.Duration
    def __init__(self, id: _Optional[int] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WaitScanResponse(_message.Message):
    __slots__ = ("scan",)
    SCAN_FIELD_NUMBER: _ClassVar[int]
    scan: Scan
    def __init__(self, scan: _Optional[_Union[Scan, _Mapping]] = ...) -> None: ...

class CancelScanRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class CancelScanResponse(_message.Message):
    __slots__ = ("scan",)
    SCAN_FIELD_NUMBER: _ClassVar[int]
    scan: Scan
    def __init__(self, scan: _Optional[_Union[Scan, _Mapping]] = ...) -> None: ...

class ListScanFindingsRequest(_message.Message):
    __slots__ = ("id", "kinds", "page_size", "page_token")
    ID_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    id: int
    kinds: _containers.RepeatedScalarFieldContainer[ScanFindingKind]
    page_size: int
    page_token: str
    def __init__(self, id: _Optional[int] = ..., kinds: _Optional[_Iterable[_Union[ScanFindingKind, str]]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListScanFindingsResponse(_message.Message):
    __slots__ = ("findings", "next_page_token")
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[ScanFinding]
    next_page_token: str
    def __init__(self, findings: _Optional[_Iterable[_Union[ScanFinding, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
