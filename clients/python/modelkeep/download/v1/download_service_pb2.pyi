import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from modelkeep.download.v1 import all_downloads_pb2 as _all_downloads_pb2
from modelkeep.download.v1 import download_pb2 as _download_pb2
from modelkeep.download.v1 import fail_pb2 as _fail_pb2
from modelkeep.download.v1 import limits_pb2 as _limits_pb2
from modelkeep.download.v1 import resolve_pb2 as _resolve_pb2
from modelkeep.download.v1 import retry_pb2 as _retry_pb2
from modelkeep.server.v1 import job_pb2 as _job_pb2
from modelkeep.server.v1 import watch_pb2 as _watch_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateDownloadRequest(_message.Message):
    __slots__ = ("source", "destination", "filename", "queue", "priority", "start", "preserve_partial", "expected_sha256", "access_token", "labels", "request_id", "max_bytes_per_second", "replace_existing")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    PRESERVE_PARTIAL_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SHA256_FIELD_NUMBER: _ClassVar[int]
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    REPLACE_EXISTING_FIELD_NUMBER: _ClassVar[int]
    source: _download_pb2.DownloadSource
    destination: str
    filename: str
    queue: str
    priority: int
    start: bool
    preserve_partial: bool
    expected_sha256: str
    access_token: str
    labels: _containers.ScalarMap[str, str]
    request_id: str
    max_bytes_per_second: int
    replace_existing: bool
    def __init__(self, source: _Optional[_Union[_download_pb2.DownloadSource, _Mapping]] = ..., destination: _Optional[str] = ..., filename: _Optional[str] = ..., queue: _Optional[str] = ..., priority: _Optional[int] = ..., start: _Optional[bool] = ..., preserve_partial: _Optional[bool] = ..., expected_sha256: _Optional[str] = ..., access_token: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., request_id: _Optional[str] = ..., max_bytes_per_second: _Optional[int] = ..., replace_existing: _Optional[bool] = ...) -> None: ...

class CreateDownloadResponse(_message.Message):
    __slots__ = ("download",)
    DOWNLOAD_FIELD_NUMBER: _ClassVar[int]
    download: _download_pb2.Download
    def __init__(self, download: _Optional[_Union[_download_pb2.Download, _Mapping]] = ...) -> None: ...

class GetDownloadRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class GetDownloadResponse(_message.Message):
    __slots__ = ("download",)
    DOWNLOAD_FIELD_NUMBER: _ClassVar[int]
    download: _download_pb2.Download
    def __init__(self, download: _Optional[_Union[_download_pb2.Download, _Mapping]] = ...) -> None: ...

class ListDownloadsRequest(_message.Message):
    __slots__ = ("queue", "all_queues", "states", "page_size", "page_token", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    ALL_QUEUES_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    queue: str
    all_queues: bool
    states: _containers.RepeatedScalarFieldContainer[_download_pb2.DownloadState]
    page_size: int
    page_token: str
    labels: _containers.ScalarMap[str, str]
    def __init__(self, queue: _Optional[str] = ..., all_queues: _Optional[bool] = ..., states: _Optional[_Iterable[_Union[_download_pb2.DownloadState, str]]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ListDownloadsResponse(_message.Message):
    __slots__ = ("downloads", "next_page_token", "resume_token")
    DOWNLOADS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    downloads: _containers.RepeatedCompositeFieldContainer[_download_pb2.Download]
    next_page_token: str
    resume_token: str
    def __init__(self, downloads: _Optional[_Iterable[_Union[_download_pb2.Download, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., resume_token: _Optional[str] = ...) -> None: ...

class StartDownloadRequest(_message.Message):
    __slots__ = ("id", "access_token", "source_url")
    ID_FIELD_NUMBER: _ClassVar[int]
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SOURCE_URL_FIELD_NUMBER: _ClassVar[int]
    id: int
    access_token: str
    source_url: str
    def __init__(self, id: _Optional[int] = ..., access_token: _Optional[str] = ..., source_url: _Optional[str] = ...) -> None: ...

class StartDownloadResponse(_message.Message):
    __slots__ = ("download",)
    DOWNLOAD_FIELD_NUMBER: _ClassVar[int]
    download: _download_pb2.Download
    def __init__(self, download: _Optional[_Union[_download_pb2.Download, _Mapping]] = ...) -> None: ...

class PauseDownloadRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class PauseDownloadResponse(_message.Message):
    __slots__ = ("download",)
    DOWNLOAD_FIELD_NUMBER: _ClassVar[int]
    download: _download_pb2.Download
    def __init__(self, download: _Optional[_Union[_download_pb2.Download, _Mapping]] = ...) -> None: ...

class CancelDownloadRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class CancelDownloadResponse(_message.Message):
    __slots__ = ("download",)
    DOWNLOAD_FIELD_NUMBER: _ClassVar[int]
    download: _download_pb2.Download
    def __init__(self, download: _Optional[_Union[_download_pb2.Download, _Mapping]] = ...) -> None: ...

class UpdateDownloadRequest(_message.Message):
    __slots__ = ("download", "update_mask")
    DOWNLOAD_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    download: _download_pb2.Download
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, download: _Optional[_Union[_download_pb2.Download, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class UpdateDownloadResponse(_message.Message):
    __slots__ = ("download",)
    DOWNLOAD_FIELD_NUMBER: _ClassVar[int]
    download: _download_pb2.Download
    def __init__(self, download: _Optional[_Union[_download_pb2.Download, _Mapping]] = ...) -> None: ...

class PruneDownloadsRequest(_message.Message):
    __slots__ = ("queue", "all_queues", "states", "min_age", "ids")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    ALL_QUEUES_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    MIN_AGE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    queue: str
    all_queues: bool
    states: _containers.RepeatedScalarFieldContainer[_download_pb2.DownloadState]
    min_age: _duration_pb2.Duration
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, queue: _Optional[str] = ..., all_queues: _Optional[bool] = ..., states: _Optional[_Iterable[_Union[_download_pb2.DownloadState, str]]] = ..., min_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., ids: _Optional[_Iterable[int]] = ...) -> None: ...

class PruneDownloadsResponse(_message.Message):
    __slots__ = ("pruned_count",)
    PRUNED_COUNT_FIELD_NUMBER: _ClassVar[int]
    pruned_count: int
    def __init__(self, pruned_count: _Optional[int] = ...) -> None: ...

class WatchDownloadsRequest(_message.Message):
    __slots__ = ("resume_token", "queue", "all_queues", "ids", "skip_snapshot", "bookmark_interval", "until_ended", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    ALL_QUEUES_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    SKIP_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    UNTIL_ENDED_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    resume_token: str
    queue: str
    all_queues: bool
    ids: _containers.RepeatedScalarFieldContainer[int]
    skip_snapshot: bool
    bookmark_interval: _duration_pb2.Duration
    until_ended: bool
    labels: _containers.ScalarMap[str, str]
    def __init__(self, resume_token: _Optional[str] = ..., queue: _Optional[str] = ..., all_queues: _Optional[bool] = ..., ids: _Optional[_Iterable[int]] = ..., skip_snapshot: _Optional[bool] = ..., bookmark_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., until_ended: _Optional[bool] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class WatchDownloadsResponse(_message.Message):
    __slots__ = ("phase", "snapshot_complete", "resume_token", "events")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    phase: _watch_pb2.WatchPhase
    snapshot_complete: bool
    resume_token: str
    events: _containers.RepeatedCompositeFieldContainer[DownloadEvent]
    def __init__(self, phase: _Optional[_Union[_watch_pb2.WatchPhase, str]] = ..., snapshot_complete: _Optional[bool] = ..., resume_token: _Optional[str] = ..., events: _Optional[_Iterable[_Union[DownloadEvent, _Mapping]]] = ...) -> None: ...

class DownloadEvent(_message.Message):
    __slots__ = ("revision", "put", "removed_id", "progress")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_ID_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    put: _download_pb2.Download
    removed_id: int
    progress: _job_pb2.JobProgress
    def __init__(self, revision: _Optional[int] = ..., put: _Optional[_Union[_download_pb2.Download, _Mapping]] = ..., removed_id: _Optional[int] = ..., progress: _Optional[_Union[_job_pb2.JobProgress, _Mapping]] = ...) -> None: ...

class WaitDownloadsRequest(_message.Message):
    __slots__ = ("queue", "ids", "timeout")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    queue: str
    ids: _containers.RepeatedScalarFieldContainer[int]
    timeout: _duration_pb2.Duration
    def __init__(self, queue: _Optional[str] = ..., ids: _Optional[_Iterable[int]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WaitDownloadsResponse(_message.Message):
    __slots__ = ("downloads", "done")
    DOWNLOADS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    downloads: _containers.RepeatedCompositeFieldContainer[_download_pb2.Download]
    done: bool
    def __init__(self, downloads: _Optional[_Iterable[_Union[_download_pb2.Download, _Mapping]]] = ..., done: _Optional[bool] = ...) -> None: ...
