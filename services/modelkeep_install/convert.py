"""Messages to domain values and back; the only file that knows both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from modelkeep.configs.fields import fill, readable_values, values_of
from modelkeep.download.v1 import download_pb2, resolve_pb2
from modelkeep.exceptions import FieldInvalidException, ModelkeepError
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.loader.v1 import resident_pb2
from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1.exports_pb2 import (
    IMPORT_OUTCOME_REFUSED,
    IMPORT_OUTCOME_SKIPPED,
    ImportedModel,
)
from modelkeep.record.v1.record_service_pb2 import WatchModelsResponse
from modelkeep.rpc import exception_of
from modelkeep.server.v1 import job_pb2, watch_pb2
from modelkeep.taxonomy import DigestState, wire_name
from modelkeep_common.urls import page_violations, shown
from modelkeep_common.watch import Frame
from modelkeep_common.wire import to_seconds, to_timestamp

from .domain.draft import draft_of
from .domain.jobs import FileProgress, Job, JobError, Overrides, Progress, Reuse, SourceKind, State
from .domain.plans import Hub, Metadata, Plan, PlannedFile, Remote
from .domain.ports import (
    DownloadNews,
    DownloadOrder,
    DownloadState,
    DownloadStatus,
    LeaseHeld,
    OrderedFile,
    Place,
    RecordFile,
    RecordNews,
    StoredModel,
)
from .domain.requests import FilePolicy, ImportRequest
from .probe import Match, ProbeResult

_STATES_BACK = {install_pb2.InstallState.Value(f"INSTALL_STATE_{state.name}"): state for state in State}
_POLICIES = {
    pb.UNINSTALL_FILES_KEEP: FilePolicy.KEEP,
    pb.UNINSTALL_FILES_OWNED: FilePolicy.OWNED,
    pb.UNINSTALL_FILES_ANY_ALLOWED_ROOT: FilePolicy.ANY_ALLOWED_ROOT,
}
_REUSES = {install_pb2.REUSE_UNSPECIFIED: Reuse.SAME_SOURCE} | {
    install_pb2.Reuse.Value(f"REUSE_{reuse.name}"): reuse for reuse in Reuse
}
_DOWNLOADS = {
    download_pb2.DownloadState.Value(f"DOWNLOAD_STATE_{state.name}"): state for state in DownloadState
}
_HUBS = {
    resolve_pb2.SOURCE_KIND_HUGGING_FACE: Hub.HUGGING_FACE,
    resolve_pb2.SOURCE_KIND_CIVITAI: Hub.CIVITAI,
}
#: Of a description, in characters.
_MAX_TEXT = 65_536


def _wire(prefix: str, value: str) -> str:
    """The name of a value on the wire; messages take names as well as numbers."""
    return f"{prefix}_{(value or 'unspecified').upper()}"


def overrides_of(message: install_pb2.ModelOverrides) -> Overrides:
    """What a caller wants in the record.

    Raises:
        FieldInvalidException: A value that a record cannot have.
    """
    values = values_of(message)
    if wrong := page_violations(values.get("source_url", ""), "overrides.source_url"):
        raise FieldInvalidException("", violations=wrong)
    addresses = ("source", "preview_url", "source_url")
    return values | {name: shown(values[name]) for name in addresses if name in values}


def _overrides_message(overrides: Overrides) -> install_pb2.ModelOverrides:
    message = install_pb2.ModelOverrides()
    fill(message, overrides)
    return message


# ---- requests ---------------------------------------------------------------------------------------------
def import_request_of(message: pb.ImportModelRequest) -> ImportRequest:
    """What ImportModel asks for."""
    source = message.source
    return ImportRequest(
        local_path=source.local_path,
        url=source.url,
        remote=_remote_of(source.remote) if source.HasField("remote") else None,
        inplace=message.inplace if message.HasField("inplace") else not message.move,
        move=message.move,
        overrides=overrides_of(message.overrides),
        access_token=message.access_token,
        expected_sha256=message.expected_sha256,
        priority=message.priority if message.HasField("priority") else None,
        reuse=_REUSES[message.reuse],
        labels=dict(message.labels),
    )


def _remote_of(message: resolve_pb2.RemoteSource) -> Remote:
    return Remote(message.source.strip(), message.subfolder, message.variant, message.revision)


def states_of(numbers: Iterable[int]) -> list[State]:
    """The states that a filter names."""
    return [_STATES_BACK[number] for number in numbers]


def policy_of(number: pb.UninstallFiles) -> FilePolicy:
    """What UninstallModel does with the files."""
    return _POLICIES[number]


# ---- answers ----------------------------------------------------------------------------------------------
def install_message(job: Job, record: bytes = b"") -> install_pb2.Install:
    """A job as the wire's resource."""
    source = install_pb2.InstallSource()
    if job.remote is not None:
        source.remote.CopyFrom(remote_message(job.remote))
    elif job.source.kind is SourceKind.URL:
        source.url = job.source.text
    else:
        source.local_path = job.source.text
    message = install_pb2.Install(
        id=job.id,
        etag=f'"{job.revision}"',
        source=source,
        inplace=job.inplace,
        move=job.move,
        retry_of_id=job.retry_of_id,
        overrides=_overrides_message(job.overrides),
        state=_wire("INSTALL_STATE", job.state),
        stage=_wire("INSTALL_STAGE", job.stage),
        model_key=job.known_key or job.key,
        local_path=job.local_path,
        download_id=job.download_id,
        attempt=job.attempt,
        download_attempt=job.download_attempt,
        ended=job.state.final,
        installed_already=bool(job.known_key),
        same_content_keys=job.same_content,
        missing_content_keys=job.missing_content,
        reuse=_wire("REUSE", job.reuse),
        labels=job.labels,
        revision=job.revision,
        create_time=to_timestamp(job.create_time),
        progress=job_pb2.Progress(
            bytes_done=job.progress.bytes_done,
            bytes_total=job.progress.bytes_total,
            bytes_per_second=job.progress.bytes_per_second,
            files=[
                job_pb2.FileProgress(path=file.path, bytes_done=file.bytes_done, bytes_total=file.bytes_total)
                for file in job.progress.files
            ],
        ),
        plan=None if job.plan is None else resolve_pb2.SourcePlan.FromString(job.plan.message),
    )
    if record:
        message.model.MergeFromString(record)
    if job.error is not None:
        message.error.CopyFrom(error_message(job.error))
    if job.probe is not None:
        message.probe.CopyFrom(probe_message(job.probe, job.overrides))
    if job.start_time is not None:
        message.start_time.CopyFrom(to_timestamp(job.start_time))
    if job.end_time is not None:
        message.end_time.CopyFrom(to_timestamp(job.end_time))
    return message


def encode_install(job: Job, record: bytes) -> bytes:
    """The same, serialised: what the change log keeps."""
    return install_message(job, record).SerializeToString()


def probe_message(probe: ProbeResult, overrides: Overrides) -> install_pb2.ProbeResult:
    """What a probe found."""
    match: Match = probe.match
    model, _ = draft_of(probe, overrides)
    message = install_pb2.ProbeResult(
        base=match.base,
        possible_bases=match.possible_bases,
        compatible_bases=match.compatible_bases,
        name=probe.name,
        description=probe.description,
        size_bytes=probe.size_bytes,
        file_count=len(probe.files),
        evidence=[
            install_pb2.Evidence(
                finding=e.finding, observation=e.observation, strength=_wire("EVIDENCE_STRENGTH", e.strength)
            )
            for e in match.evidence
        ],
        ruled_out=[
            install_pb2.RuledOut(kind=r.candidate, reason=f"{r.why}. {r.remedy}" if r.remedy else r.why)
            for r in match.ruled_out
        ],
        model=model,
    )
    fill(message, {"type": match.type, "format": match.format, **match.settings})
    return message


def watch_response(frame: Frame[install_pb2.Install]) -> pb.WatchInstallsResponse:
    """One frame of a watch."""
    response = pb.WatchInstallsResponse(
        phase=f"WATCH_PHASE_{frame.phase}",
        snapshot_complete=frame.snapshot_complete,
        resume_token=frame.resume_token,
    )
    for event in frame.events:
        added = response.events.add(revision=event.revision)
        if event.removed:
            added.removed_id = int(event.resource_id)
        elif event.put is not None:
            job = event.put
            if event.progress:
                moved = job_pb2.JobProgress(id=job.id, revision=job.revision, progress=job.progress)
                added.progress.CopyFrom(moved)
            else:
                added.put.CopyFrom(job)
    return response


# ---- peers ------------------------------------------------------------------------------------------------
def stored_model_of(message: model_pb2.Model) -> StoredModel:
    """A record as RecordService answered it."""
    return StoredModel(
        key=message.key,
        etag=message.etag,
        path=message.path,
        root_id=message.root_id,
        message=message.SerializeToString(),
        revision=message.revision,
        source=message.source,
        original_hash=message.original_hash,
        current_hash=message.current_hash,
        size_bytes=message.size_bytes,
    )


def file_message(file: RecordFile) -> model_pb2.ModelFile:
    """One file for a record."""
    return model_pb2.ModelFile(
        path=file.path,
        size_bytes=file.size_bytes,
        modify_time=to_timestamp(file.modify_time),
        sha256=file.sha256,
        blake3=file.blake3,
        digest_state=wire_name(file.state),
    )


def file_of(message: model_pb2.ModelFile) -> RecordFile:
    """One file of a record."""
    state = readable_values(message, ("digest_state",))  # one of a newer version is taken as pending
    return RecordFile(
        path=message.path,
        size_bytes=message.size_bytes,
        modify_time=to_seconds(message.modify_time),
        sha256=message.sha256,
        blake3=message.blake3,
        state=DigestState(state.get("digest_state", DigestState.Pending)),
    )


def lease_of(message: resident_pb2.Lease) -> LeaseHeld:
    """A lease as LoaderService lists it."""
    holder = message.holder
    named = holder.label or holder.principal or "somebody"
    return LeaseHeld(message.id, f"{named} (pid {holder.pid})" if holder.pid else named)


def order_fields(order: DownloadOrder) -> dict[str, Any]:
    """The fields of a CreateDownloadRequest."""
    source = download_pb2.DownloadSource(url=order.url)
    if order.files:
        source = download_pb2.DownloadSource(
            files=download_pb2.FileSet(files=[_source_file(file) for file in order.files])
        )
    return {
        "source": source,
        "destination": order.folder,
        "filename": order.filename,
        "priority": order.priority,
        "expected_sha256": order.expected_sha256,
        "access_token": order.access_token,
        "labels": dict(order.labels),
        "request_id": order.request_id,
    }


def _source_file(file: OrderedFile) -> download_pb2.SourceFile:
    return download_pb2.SourceFile(
        url=file.url,
        path=file.path,
        size_bytes=file.size_bytes,
        expected_sha256=file.sha256,
        local_copy=file.local_copy,
    )


def download_of(message: download_pb2.Download) -> DownloadStatus:
    """A download as DownloadService reports it."""
    return DownloadStatus(
        id=message.id,
        state=_DOWNLOADS[message.state],
        path=message.path,
        progress=_progress_of(message.progress),
        error=_error_of(message.error) if message.HasField("error") else None,
        attempt=message.attempt,
        sha256=message.sha256,
        digests={file.path: file.sha256 for file in message.files},
        labels=dict(message.labels),
    )


def remote_message(remote: Remote) -> resolve_pb2.RemoteSource:
    """A source at a hub on the wire."""
    return resolve_pb2.RemoteSource(
        source=remote.source, subfolder=remote.subfolder, variant=remote.variant, revision=remote.revision
    )


def plan_of(message: resolve_pb2.SourcePlan) -> Plan:
    """What a source comes to, as DownloadService answered it."""
    said, without_files = message.metadata, resolve_pb2.SourcePlan()
    without_files.CopyFrom(message)
    without_files.ClearField("files")
    return Plan(
        hub=_HUBS.get(message.kind, Hub.OTHER),
        source=message.source,
        name=message.name,
        files=tuple(
            PlannedFile(
                file.url,
                file.path,
                file.size_bytes if file.HasField("size_bytes") else None,
                file.sha256,
                file.cached_path,
            )
            for file in message.files
        ),
        is_folder=message.is_folder,
        revision=message.revision,
        metadata=Metadata(
            name=said.name[:512].strip(),
            description=said.description[:_MAX_TEXT],
            license=said.license[:_MAX_TEXT],
            tags=tuple(tag[:256] for tag in said.tags if tag)[:256],
            trigger_phrases=tuple(phrase[:4096] for phrase in said.trigger_phrases)[:1024],
            base=said.base,
            preview_url=said.preview_url[:8192],
            source_url=said.page_url if len(said.page_url) <= 8192 else "",
        ),
        message=without_files.SerializeToString(),
    )


def plan_message(plan: Plan) -> resolve_pb2.SourcePlan:
    """A plan on the wire, with its files, and where each is on this host already."""
    message = resolve_pb2.SourcePlan.FromString(plan.message)
    for file in plan.files:
        message.files.add(
            url=file.url,
            path=file.path,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            cached_path=file.local_copy or file.cached_path,
        )
    return message


def news_of(message: Any, told: dict[int, DownloadStatus]) -> DownloadNews:
    """One frame of WatchDownloads.

    Args:
        message: The frame.
        told: What was told last of each download, which is kept here: progress tells nothing else.
    """
    statuses, removed = [], []
    for event in message.events:
        change = event.WhichOneof("change")
        if change == "removed_id":
            removed.append(event.removed_id)
            told.pop(event.removed_id, None)
        elif change == "put":
            statuses.append(download_of(event.put))
            told[event.put.id] = statuses[-1]
        elif change == "progress" and event.progress.id in told:
            moved = replace(told[event.progress.id], progress=_progress_of(event.progress.progress))
            statuses.append(moved)
    return DownloadNews(message.resume_token, tuple(statuses), tuple(removed))


def _progress_of(message: job_pb2.Progress) -> Progress:
    return Progress(
        bytes_done=message.bytes_done,
        bytes_total=message.bytes_total if message.HasField("bytes_total") else None,
        bytes_per_second=message.bytes_per_second,
        files=tuple(
            FileProgress(
                file.path, file.bytes_done, file.bytes_total if file.HasField("bytes_total") else None
            )
            for file in message.files
        ),
    )


def error_message(error: JobError) -> job_pb2.JobError:
    message = job_pb2.JobError(
        code=error.code,
        reason=error.reason,
        message=error.message,
        metadata=error.metadata,
        detail=error.detail,
    )
    if error.retry_time is not None:
        message.retry_time.CopyFrom(to_timestamp(error.retry_time))
    return message


def _error_of(message: job_pb2.JobError) -> JobError:
    return JobError(
        code=message.code,
        reason=message.reason,
        message=message.message,
        metadata=dict(message.metadata),
        retry_time=to_seconds(message.retry_time) if message.HasField("retry_time") else None,
        detail=message.detail,
    )


def record_news_of(frame: WatchModelsResponse) -> RecordNews:
    """A frame of RecordService's watch: where models are."""
    puts = [event.put for event in frame.events if event.HasField("put")]
    return RecordNews(
        frame.resume_token,
        frame.snapshot_complete or frame.phase == watch_pb2.WATCH_PHASE_LIVE,
        {m.key: Place(m.path, m.root_id, m.HasField("missing_time")) for m in puts},
        [event.removed_key for event in frame.events if not event.HasField("put")],
    )


def import_error_of(result: ImportedModel) -> ModelkeepError | None:
    """Why a record of an import was not stored; None if it was, or was there already."""
    if result.outcome not in (IMPORT_OUTCOME_SKIPPED, IMPORT_OUTCOME_REFUSED):
        return None
    return exception_of(job_pb2.JobError(reason=result.reason, message=result.message))
