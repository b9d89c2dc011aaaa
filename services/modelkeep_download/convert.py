"""Between the wire's messages and the domain's types; the only file that knows both."""

from __future__ import annotations

from modelkeep.download.v1 import all_downloads_pb2, download_pb2, download_service_pb2, limits_pb2, retry_pb2
from modelkeep.server.v1 import job_pb2, watch_pb2
from modelkeep_common.auth import Principal
from modelkeep_common.urls import is_address, parse_url
from modelkeep_common.urls import shown as shown_source
from modelkeep_common.watch import Event, Frame
from modelkeep_common.wire import to_seconds, to_timestamp
from modelkeep_download.domain.job import Failure, FileFacts, FileStanding, Job, JobState, SourceKind, Stage
from modelkeep_download.domain.limits import Limits, LimitsChange
from modelkeep_download.domain.sets import AskedFile
from modelkeep_download.engine.requests import Again, NewDownload
from modelkeep_download.resolve import wire
from modelkeep_download.resolve.plans import Asked
from modelkeep_download.store import JobFilter

_STATE_TO_PROTO = {
    JobState.IDLE: download_pb2.DOWNLOAD_STATE_IDLE,
    JobState.ENQUEUED: download_pb2.DOWNLOAD_STATE_ENQUEUED,
    JobState.RUNNING: download_pb2.DOWNLOAD_STATE_RUNNING,
    JobState.PAUSED: download_pb2.DOWNLOAD_STATE_PAUSED,
    JobState.COMPLETED: download_pb2.DOWNLOAD_STATE_COMPLETED,
    JobState.ERROR: download_pb2.DOWNLOAD_STATE_ERROR,
    JobState.CANCELLED: download_pb2.DOWNLOAD_STATE_CANCELLED,
}
_STATE_FROM_PROTO = {value: state for state, value in _STATE_TO_PROTO.items()}
_STAGE_TO_PROTO = {
    Stage.NONE: download_pb2.DOWNLOAD_STAGE_UNSPECIFIED,
    Stage.CONNECTING: download_pb2.DOWNLOAD_STAGE_CONNECTING,
    Stage.TRANSFERRING: download_pb2.DOWNLOAD_STAGE_TRANSFERRING,
    Stage.WAITING: download_pb2.DOWNLOAD_STAGE_WAITING,
    Stage.VERIFYING: download_pb2.DOWNLOAD_STAGE_VERIFYING,
    Stage.PAUSING: download_pb2.DOWNLOAD_STAGE_STOPPING,
    Stage.CANCELLING: download_pb2.DOWNLOAD_STAGE_STOPPING,
}
_PHASES = {"SNAPSHOT": watch_pb2.WATCH_PHASE_SNAPSHOT, "LIVE": watch_pb2.WATCH_PHASE_LIVE}


def job_to_proto(job: Job, *, whole: bool = False) -> download_pb2.Download:
    """The job as the wire has it; `whole`: with each of several files."""
    spec = job.spec
    message = download_pb2.Download(
        id=job.id,
        etag=job.etag,
        queue=spec.queue,
        destination=str(spec.destination),
        path=job.delivered_path or str(job.known_target or ""),
        state=_STATE_TO_PROTO[job.state],
        stage=_STAGE_TO_PROTO[job.stage],
        priority=job.priority,
        preserve_partial=job.preserve_partial,
        progress=job_pb2.Progress(
            bytes_done=job.bytes_done,
            bytes_total=job.bytes_total,
            bytes_per_second=job.bytes_per_second,
            files=[
                job_pb2.FileProgress(path=file.path, bytes_done=file.bytes_done, bytes_total=file.bytes_total)
                for file in job.standing
            ],
        ),
        expected_sha256=spec.expected_sha256,
        sha256=job.sha256,
        verified=job.verified,
        sequence=job.job_sequence,
        attempt=job.attempt,
        final_url=job.final_url,
        content_type=job.content_type,
        revision=job.revision,
        labels=dict(spec.labels),
        restarts=job.restarts,
        ended=job.state.terminal,
        max_bytes_per_second=job.max_bytes_per_second,
        file_count=job.file_count,
        retry_of_id=job.retry_of,
        replace_existing=spec.replace_existing,
        files=_files_to_proto(job) if whole else (),
    )
    if (remote := spec.remote) is not None:
        found = message.source.remote
        found.source, found.variant, found.revision = remote.source, remote.variant, remote.revision
    elif spec.kind is SourceKind.URL:
        message.source.url = spec.source
    elif spec.kind is SourceKind.FILES:
        message.source.files.files.add(url=spec.source)
    else:
        message.source.local_path.path = spec.source
        message.source.local_path.move = not spec.copy
    if job.failure is not None:
        message.error.CopyFrom(_failure_to_proto(job.failure))
    for field, moment in (
        (message.create_time, job.create_time),
        (message.start_time, job.start_time),
        (message.end_time, job.end_time),
    ):
        if moment is not None:
            field.CopyFrom(to_timestamp(moment))
    return message


def _files_to_proto(job: Job) -> list[download_pb2.DownloadFile]:
    facts = job.file_facts or (FileFacts(),) * len(job.spec.files)
    standing = job.every_standing or tuple(FileStanding(file.path, 0, file.size) for file in job.spec.files)
    return [
        download_pb2.DownloadFile(
            path=file.path,
            url=file.source,
            bytes_total=there.bytes_total,
            bytes_done=there.bytes_done,
            sha256=known.sha256,
            expected_sha256=file.expected_sha256,
            verified=known.sha256 != "" and known.sha256 == file.expected_sha256,
            done=job.state is JobState.COMPLETED,
        )
        for file, known, there in zip(job.spec.files, facts, standing, strict=True)
    ]


def encode_job(job: Job) -> bytes:
    """The job as its change-log row has it."""
    return job_to_proto(job).SerializeToString()


def new_download(
    request: download_service_pb2.CreateDownloadRequest, named_by: Principal, *, installs: bool = False
) -> NewDownload:
    """What a CreateDownload of this caller asks for; `installs`: he may fill the staging of an install."""
    return NewDownload(
        named_by=named_by,
        asked=_asked(request, named_by),
        url=request.source.url,
        path=request.source.local_path.path,
        files=[
            AskedFile(
                file.url,
                file.path,
                file.expected_sha256,
                file.size_bytes if file.HasField("size_bytes") else None,
                file.local_copy,
            )
            for file in request.source.files.files
        ],
        of_several=request.source.HasField("files"),
        copy=not request.source.local_path.move,
        destination=request.destination,
        filename=request.filename,
        queue=request.queue,
        priority=request.priority if request.HasField("priority") else 10,
        start=request.start if request.HasField("start") else True,
        preserve_partial=request.preserve_partial,
        expected_sha256=request.expected_sha256,
        access_token=request.access_token,
        max_bytes_per_second=request.max_bytes_per_second,
        replace_existing=request.replace_existing,
        labels=dict(request.labels),
        installs=installs,
    )


def _asked(request: download_service_pb2.CreateDownloadRequest, named_by: Principal) -> Asked | None:
    if not request.source.HasField("remote"):
        return None
    return wire.asked(request.source.remote, request.access_token, named_by)


def address_in(source: download_pb2.DownloadSource) -> str:
    """The address that a source is, with its secrets; "" if it is none."""
    return source.url or (source.remote.source if is_address(source.remote.source) else "")


def without_secrets(
    request: download_service_pb2.CreateDownloadRequest,
) -> download_service_pb2.CreateDownloadRequest:
    """The request as two of the same request_id are compared: with what is stored of its source."""
    shown = download_service_pb2.CreateDownloadRequest()
    shown.CopyFrom(request)
    shown.ClearField("access_token")
    if is_address(request.source.url):
        shown.source.url = parse_url(request.source.url, "source.url").shown
    if request.source.HasField("remote"):
        shown.source.remote.source = shown_source(request.source.remote.source)
    return shown


def again(request: retry_pb2.RetryDownloadRequest, named_by: Principal, *, installs: bool) -> Again:
    """What a RetryDownload of this caller brings; `installs`: he may fill the staging of an install."""
    return Again(request.access_token, request.source_url, installs, named_by)


def retry_without_secrets(request: retry_pb2.RetryDownloadRequest) -> retry_pb2.RetryDownloadRequest:
    """The request as two of the same request_id are compared."""
    shown = retry_pb2.RetryDownloadRequest()
    shown.CopyFrom(request)
    shown.ClearField("access_token")
    if is_address(request.source_url):
        shown.source_url = parse_url(request.source_url, "source_url").shown
    return shown


def list_filter(request: download_service_pb2.ListDownloadsRequest) -> JobFilter:
    """Which jobs a ListDownloads asks for."""
    states = [_STATE_FROM_PROTO[state] for state in request.states if state in _STATE_FROM_PROTO]
    return JobFilter(
        queue=None if request.all_queues else request.queue,
        states=states if request.states else None,
        labels=dict(request.labels),
    )


def all_filter(
    request: all_downloads_pb2.StartAllDownloadsRequest
    | all_downloads_pb2.PauseAllDownloadsRequest
    | all_downloads_pb2.CancelAllDownloadsRequest,
) -> JobFilter:
    """Which jobs a call for all of them means."""
    return JobFilter(queue=None if request.all_queues else request.queue, labels=dict(request.labels))


def prune_filter(request: download_service_pb2.PruneDownloadsRequest, now: float) -> JobFilter:
    """Which jobs a PruneDownloads forgets."""
    states = [_STATE_FROM_PROTO[state] for state in request.states]
    return JobFilter(
        queue=None if request.all_queues or request.ids else request.queue,
        ids=sorted(set(request.ids)) or None,
        states=states or [state for state in JobState if state.terminal],
        ended_before=now - to_seconds(request.min_age) if request.HasField("min_age") else None,
    )


def limits_change(request: limits_pb2.SetLimitsRequest) -> LimitsChange:
    """What a SetLimits changes; of a queue that is named twice, the last number counts."""
    has = request.HasField
    return LimitsChange(
        max_parallel_downloads=request.max_parallel_downloads if has("max_parallel_downloads") else None,
        max_bytes_per_second=request.max_bytes_per_second if has("max_bytes_per_second") else None,
        queues={one.queue: one.max_parallel_downloads for one in request.queues},
        reset=request.reset,
        max_connections_per_file=request.max_connections_per_file
        if has("max_connections_per_file")
        else None,
        max_connections_per_host=request.max_connections_per_host
        if has("max_connections_per_host")
        else None,
        max_connections=request.max_connections if has("max_connections") else None,
    )


def limits_to_proto(limits: Limits) -> limits_pb2.Limits:
    """The limits as the wire has them."""
    return limits_pb2.Limits(
        max_parallel_downloads=limits.max_parallel_downloads,
        max_bytes_per_second=limits.max_bytes_per_second,
        queues=[
            limits_pb2.QueueLimits(queue=queue, max_parallel_downloads=most)
            for queue, most in sorted(limits.queues.items())
        ],
        max_connections_per_file=limits.max_connections_per_file,
        max_connections_per_host=limits.max_connections_per_host,
        max_connections=limits.max_connections,
    )


def parse_job(payload: bytes) -> download_pb2.Download:
    """A change-log row's job."""
    return download_pb2.Download.FromString(payload)


def frame_to_proto(frame: Frame[download_pb2.Download]) -> download_service_pb2.WatchDownloadsResponse:
    """One frame of a watch."""
    return download_service_pb2.WatchDownloadsResponse(
        phase=_PHASES[frame.phase],
        snapshot_complete=frame.snapshot_complete,
        resume_token=frame.resume_token,
        events=[_event_to_proto(event) for event in frame.events],
    )


def _event_to_proto(event: Event[download_pb2.Download]) -> download_service_pb2.DownloadEvent:
    if event.put is None:
        return download_service_pb2.DownloadEvent(revision=event.revision, removed_id=int(event.resource_id))
    if event.progress:
        job = event.put
        moved = job_pb2.JobProgress(id=job.id, revision=job.revision, progress=job.progress)
        return download_service_pb2.DownloadEvent(progress=moved)
    return download_service_pb2.DownloadEvent(revision=event.revision, put=event.put)


def _failure_to_proto(failure: Failure) -> job_pb2.JobError:
    message = job_pb2.JobError(
        code=failure.code,
        reason=failure.reason,
        message=failure.message,
        metadata=dict(failure.metadata),
    )
    if failure.retry_time is not None:
        message.retry_time.CopyFrom(to_timestamp(failure.retry_time))
    return message
