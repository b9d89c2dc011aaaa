"""Between the wire's messages and the domain's types; the only file that knows both."""

from __future__ import annotations

from modelkeep.download.v1 import download_pb2, download_service_pb2
from modelkeep.server.v1 import job_pb2, watch_pb2
from modelkeep_common.auth import Principal
from modelkeep_common.urls import is_address, parse_url
from modelkeep_common.watch import Event, Frame
from modelkeep_common.wire import to_seconds, to_timestamp
from modelkeep_download.domain.job import Failure, Job, JobState, SourceKind, Stage
from modelkeep_download.engine.requests import NewDownload
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


def job_to_proto(job: Job) -> download_pb2.Download:
    """The job as the wire has it."""
    spec = job.spec
    message = download_pb2.Download(
        id=job.id,
        etag=job.etag,
        queue=spec.queue,
        destination=str(spec.destination),
        path=job.delivered_path or (str(job.target) if job.name or not spec.destination_is_folder else ""),
        state=_STATE_TO_PROTO[job.state],
        stage=_STAGE_TO_PROTO[job.stage],
        priority=job.priority,
        preserve_partial=job.preserve_partial,
        progress=job_pb2.Progress(
            bytes_done=job.bytes_done,
            bytes_total=job.bytes_total,
            bytes_per_second=job.bytes_per_second,
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
    )
    if spec.kind is SourceKind.URL:
        message.source.url = spec.source
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


def encode_job(job: Job) -> bytes:
    """The job as its change-log row has it."""
    return job_to_proto(job).SerializeToString()


def new_download(
    request: download_service_pb2.CreateDownloadRequest, named_by: Principal, *, installs: bool = False
) -> NewDownload:
    """What a CreateDownload of this caller asks for; `installs`: he may fill the staging of an install."""
    return NewDownload(
        named_by=named_by,
        url=request.source.url,
        path=request.source.local_path.path,
        copy=not request.source.local_path.move,
        destination=request.destination,
        filename=request.filename,
        queue=request.queue,
        priority=request.priority if request.HasField("priority") else 10,
        start=request.start if request.HasField("start") else True,
        preserve_partial=request.preserve_partial,
        expected_sha256=request.expected_sha256,
        access_token=request.access_token,
        labels=dict(request.labels),
        installs=installs,
    )


def without_secrets(
    request: download_service_pb2.CreateDownloadRequest,
) -> download_service_pb2.CreateDownloadRequest:
    """The request as two of the same request_id are compared: with what is stored of its source."""
    shown = download_service_pb2.CreateDownloadRequest()
    shown.CopyFrom(request)
    shown.ClearField("access_token")
    if is_address(request.source.url):
        shown.source.url = parse_url(request.source.url, "source.url").shown
    return shown


def list_filter(request: download_service_pb2.ListDownloadsRequest) -> JobFilter:
    """Which jobs a ListDownloads asks for."""
    states = [_STATE_FROM_PROTO[state] for state in request.states if state in _STATE_FROM_PROTO]
    return JobFilter(
        queue=None if request.all_queues else request.queue,
        states=states if request.states else None,
        labels=dict(request.labels),
    )


def prune_filter(request: download_service_pb2.PruneDownloadsRequest, now: float) -> JobFilter:
    """Which jobs a PruneDownloads forgets."""
    states = [_STATE_FROM_PROTO[state] for state in request.states]
    return JobFilter(
        queue=None if request.all_queues or request.ids else request.queue,
        ids=sorted(set(request.ids)) or None,
        states=states or [state for state in JobState if state.terminal],
        ended_before=now - to_seconds(request.min_age) if request.HasField("min_age") else None,
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
