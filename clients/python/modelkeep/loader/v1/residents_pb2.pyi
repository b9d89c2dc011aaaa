import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from modelkeep.loader.v1 import resident_pb2 as _resident_pb2
from modelkeep.server.v1 import job_pb2 as _job_pb2
from modelkeep.server.v1 import watch_pb2 as _watch_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListResidentsRequest(_message.Message):
    __slots__ = ("key", "page_size", "page_token")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    key: str
    page_size: int
    page_token: str
    def __init__(self, key: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListResidentsResponse(_message.Message):
    __slots__ = ("residents", "next_page_token", "resume_token")
    RESIDENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    residents: _containers.RepeatedCompositeFieldContainer[_resident_pb2.Resident]
    next_page_token: str
    resume_token: str
    def __init__(self, residents: _Optional[_Iterable[_Union[_resident_pb2.Resident, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., resume_token: _Optional[str] = ...) -> None: ...

class WatchResidentsRequest(_message.Message):
    __slots__ = ("resume_token", "key", "skip_snapshot", "bookmark_interval")
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SKIP_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    resume_token: str
    key: str
    skip_snapshot: bool
    bookmark_interval: _duration_pb2.Duration
    def __init__(self, resume_token: _Optional[str] = ..., key: _Optional[str] = ..., skip_snapshot: _Optional[bool] = ..., bookmark_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchResidentsResponse(_message.Message):
    __slots__ = ("phase", "snapshot_complete", "resume_token", "events")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    phase: _watch_pb2.WatchPhase
    snapshot_complete: bool
    resume_token: str
    events: _containers.RepeatedCompositeFieldContainer[ResidentEvent]
    def __init__(self, phase: _Optional[_Union[_watch_pb2.WatchPhase, str]] = ..., snapshot_complete: _Optional[bool] = ..., resume_token: _Optional[str] = ..., events: _Optional[_Iterable[_Union[ResidentEvent, _Mapping]]] = ...) -> None: ...

class ResidentEvent(_message.Message):
    __slots__ = ("revision", "put", "removed_id", "progress")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_ID_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    put: _resident_pb2.Resident
    removed_id: str
    progress: ResidentProgress
    def __init__(self, revision: _Optional[int] = ..., put: _Optional[_Union[_resident_pb2.Resident, _Mapping]] = ..., removed_id: _Optional[str] = ..., progress: _Optional[_Union[ResidentProgress, _Mapping]] = ...) -> None: ...

class ResidentProgress(_message.Message):
    __slots__ = ("id", "progress")
    ID_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    id: str
    progress: _job_pb2.Progress
    def __init__(self, id: _Optional[str] = ..., progress: _Optional[_Union[_job_pb2.Progress, _Mapping]] = ...) -> None: ...
