import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from modelkeep.download.v1 import resolve_pb2 as _resolve_pb2
from modelkeep.install.v1 import check_pb2 as _check_pb2
from modelkeep.install.v1 import control_pb2 as _control_pb2
from modelkeep.install.v1 import install_pb2 as _install_pb2
from modelkeep.install.v1 import invokeai_pb2 as _invokeai_pb2
from modelkeep.install.v1 import paths_pb2 as _paths_pb2
from modelkeep.install.v1 import relink_pb2 as _relink_pb2
from modelkeep.install.v1 import scan_pb2 as _scan_pb2
from modelkeep.server.v1 import job_pb2 as _job_pb2
from modelkeep.server.v1 import watch_pb2 as _watch_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UninstallFiles(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNINSTALL_FILES_UNSPECIFIED: _ClassVar[UninstallFiles]
    UNINSTALL_FILES_KEEP: _ClassVar[UninstallFiles]
    UNINSTALL_FILES_OWNED: _ClassVar[UninstallFiles]
    UNINSTALL_FILES_ANY_ALLOWED_ROOT: _ClassVar[UninstallFiles]
UNINSTALL_FILES_UNSPECIFIED: UninstallFiles
UNINSTALL_FILES_KEEP: UninstallFiles
UNINSTALL_FILES_OWNED: UninstallFiles
UNINSTALL_FILES_ANY_ALLOWED_ROOT: UninstallFiles

class ImportModelRequest(_message.Message):
    __slots__ = ("source", "inplace", "overrides", "access_token", "expected_sha256", "priority", "request_id", "reuse", "labels", "validate_only", "move")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    INPLACE_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SHA256_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REUSE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    source: _install_pb2.InstallSource
    inplace: bool
    overrides: _install_pb2.ModelOverrides
    access_token: str
    expected_sha256: str
    priority: int
    request_id: str
    reuse: _install_pb2.Reuse
    labels: _containers.ScalarMap[str, str]
    validate_only: bool
    move: bool
    def __init__(self, source: _Optional[_Union[_install_pb2.InstallSource, _Mapping]] = ..., inplace: _Optional[bool] = ..., overrides: _Optional[_Union[_install_pb2.ModelOverrides, _Mapping]] = ..., access_token: _Optional[str] = ..., expected_sha256: _Optional[str] = ..., priority: _Optional[int] = ..., request_id: _Optional[str] = ..., reuse: _Optional[_Union[_install_pb2.Reuse, str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., validate_only: _Optional[bool] = ..., move: _Optional[bool] = ...) -> None: ...

class ImportModelResponse(_message.Message):
    __slots__ = ("install", "existing", "plan")
    INSTALL_FIELD_NUMBER: _ClassVar[int]
    EXISTING_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    install: _install_pb2.Install
    existing: bool
    plan: _resolve_pb2.SourcePlan
    def __init__(self, install: _Optional[_Union[_install_pb2.Install, _Mapping]] = ..., existing: _Optional[bool] = ..., plan: _Optional[_Union[_resolve_pb2.SourcePlan, _Mapping]] = ...) -> None: ...

class GetInstallRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class GetInstallResponse(_message.Message):
    __slots__ = ("install",)
    INSTALL_FIELD_NUMBER: _ClassVar[int]
    install: _install_pb2.Install
    def __init__(self, install: _Optional[_Union[_install_pb2.Install, _Mapping]] = ...) -> None: ...

class ListInstallsRequest(_message.Message):
    __slots__ = ("source_contains", "states", "page_size", "page_token", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SOURCE_CONTAINS_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    source_contains: str
    states: _containers.RepeatedScalarFieldContainer[_install_pb2.InstallState]
    page_size: int
    page_token: str
    labels: _containers.ScalarMap[str, str]
    def __init__(self, source_contains: _Optional[str] = ..., states: _Optional[_Iterable[_Union[_install_pb2.InstallState, str]]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ListInstallsResponse(_message.Message):
    __slots__ = ("installs", "next_page_token", "resume_token")
    INSTALLS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    installs: _containers.RepeatedCompositeFieldContainer[_install_pb2.Install]
    next_page_token: str
    resume_token: str
    def __init__(self, installs: _Optional[_Iterable[_Union[_install_pb2.Install, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., resume_token: _Optional[str] = ...) -> None: ...

class CancelInstallRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class CancelInstallResponse(_message.Message):
    __slots__ = ("install",)
    INSTALL_FIELD_NUMBER: _ClassVar[int]
    install: _install_pb2.Install
    def __init__(self, install: _Optional[_Union[_install_pb2.Install, _Mapping]] = ...) -> None: ...

class PruneInstallsRequest(_message.Message):
    __slots__ = ("ids", "states", "min_age")
    IDS_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    MIN_AGE_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    states: _containers.RepeatedScalarFieldContainer[_install_pb2.InstallState]
    min_age: _duration_pb2.Duration
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., states: _Optional[_Iterable[_Union[_install_pb2.InstallState, str]]] = ..., min_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class PruneInstallsResponse(_message.Message):
    __slots__ = ("pruned_count",)
    PRUNED_COUNT_FIELD_NUMBER: _ClassVar[int]
    pruned_count: int
    def __init__(self, pruned_count: _Optional[int] = ...) -> None: ...

class WatchInstallsRequest(_message.Message):
    __slots__ = ("resume_token", "ids", "skip_snapshot", "bookmark_interval", "until_ended", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    SKIP_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    UNTIL_ENDED_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    resume_token: str
    ids: _containers.RepeatedScalarFieldContainer[int]
    skip_snapshot: bool
    bookmark_interval: _duration_pb2.Duration
    until_ended: bool
    labels: _containers.ScalarMap[str, str]
    def __init__(self, resume_token: _Optional[str] = ..., ids: _Optional[_Iterable[int]] = ..., skip_snapshot: _Optional[bool] = ..., bookmark_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., until_ended: _Optional[bool] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class WatchInstallsResponse(_message.Message):
    __slots__ = ("phase", "snapshot_complete", "resume_token", "events")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    phase: _watch_pb2.WatchPhase
    snapshot_complete: bool
    resume_token: str
    events: _containers.RepeatedCompositeFieldContainer[InstallEvent]
    def __init__(self, phase: _Optional[_Union[_watch_pb2.WatchPhase, str]] = ..., snapshot_complete: _Optional[bool] = ..., resume_token: _Optional[str] = ..., events: _Optional[_Iterable[_Union[InstallEvent, _Mapping]]] = ...) -> None: ...

class InstallEvent(_message.Message):
    __slots__ = ("revision", "put", "removed_id", "progress")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_ID_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    put: _install_pb2.Install
    removed_id: int
    progress: _job_pb2.JobProgress
    def __init__(self, revision: _Optional[int] = ..., put: _Optional[_Union[_install_pb2.Install, _Mapping]] = ..., removed_id: _Optional[int] = ..., progress: _Optional[_Union[_job_pb2.JobProgress, _Mapping]] = ...) -> None: ...

class WaitInstallsRequest(_message.Message):
    __slots__ = ("ids", "timeout")
    IDS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    timeout: _duration_pb2.Duration
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WaitInstallsResponse(_message.Message):
    __slots__ = ("installs", "done")
    INSTALLS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    installs: _containers.RepeatedCompositeFieldContainer[_install_pb2.Install]
    done: bool
    def __init__(self, installs: _Optional[_Iterable[_Union[_install_pb2.Install, _Mapping]]] = ..., done: _Optional[bool] = ...) -> None: ...

class ProbeModelRequest(_message.Message):
    __slots__ = ("path", "overrides")
    PATH_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    path: str
    overrides: _install_pb2.ModelOverrides
    def __init__(self, path: _Optional[str] = ..., overrides: _Optional[_Union[_install_pb2.ModelOverrides, _Mapping]] = ...) -> None: ...

class ProbeModelResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: _install_pb2.ProbeResult
    def __init__(self, result: _Optional[_Union[_install_pb2.ProbeResult, _Mapping]] = ...) -> None: ...

class UninstallModelRequest(_message.Message):
    __slots__ = ("key", "files", "etag", "validate_only", "force")
    KEY_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    key: str
    files: UninstallFiles
    etag: str
    validate_only: bool
    force: bool
    def __init__(self, key: _Optional[str] = ..., files: _Optional[_Union[UninstallFiles, str]] = ..., etag: _Optional[str] = ..., validate_only: _Optional[bool] = ..., force: _Optional[bool] = ...) -> None: ...

class UninstallModelResponse(_message.Message):
    __slots__ = ("deleted_paths", "deleted_bytes", "revision", "deleted_count", "lease_ids", "leases_known", "shared_files")
    DELETED_PATHS_FIELD_NUMBER: _ClassVar[int]
    DELETED_BYTES_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DELETED_COUNT_FIELD_NUMBER: _ClassVar[int]
    LEASE_IDS_FIELD_NUMBER: _ClassVar[int]
    LEASES_KNOWN_FIELD_NUMBER: _ClassVar[int]
    SHARED_FILES_FIELD_NUMBER: _ClassVar[int]
    deleted_paths: _containers.RepeatedScalarFieldContainer[str]
    deleted_bytes: int
    revision: int
    deleted_count: int
    lease_ids: _containers.RepeatedScalarFieldContainer[str]
    leases_known: bool
    shared_files: _containers.RepeatedCompositeFieldContainer[SharedFile]
    def __init__(self, deleted_paths: _Optional[_Iterable[str]] = ..., deleted_bytes: _Optional[int] = ..., revision: _Optional[int] = ..., deleted_count: _Optional[int] = ..., lease_ids: _Optional[_Iterable[str]] = ..., leases_known: _Optional[bool] = ..., shared_files: _Optional[_Iterable[_Union[SharedFile, _Mapping]]] = ...) -> None: ...

class SharedFile(_message.Message):
    __slots__ = ("path", "keys")
    PATH_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    path: str
    keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, path: _Optional[str] = ..., keys: _Optional[_Iterable[str]] = ...) -> None: ...
