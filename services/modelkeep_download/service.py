"""The wire of DownloadService: a few lines a method, no policy."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.message import Message

from modelkeep.download.v1 import all_downloads_pb2 as all_pb
from modelkeep.download.v1 import (
    download_pb2,
    download_service_pb2_grpc,
    fail_pb2,
    limits_pb2,
    resolve_pb2,
    retry_pb2,
)
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep_common.auth import ADMIN, INSTALL
from modelkeep_common.calls import current_call
from modelkeep_common.idempotency import fingerprint, replay_or_run, request_id_reused
from modelkeep_common.labels import have
from modelkeep_common.masks import apply_update
from modelkeep_common.paging import AskedPage, fitting
from modelkeep_common.sqlite import Connection
from modelkeep_common.watch import WatchHub, stream_frames, until_ended
from modelkeep_common.wire import to_seconds
from modelkeep_download import convert
from modelkeep_download.domain.job import Job, check_etag
from modelkeep_download.engine.downloads import Downloads, Once
from modelkeep_download.resolve import wire
from modelkeep_download.resolve.resolving import Resolving
from modelkeep_download.store import resource_id

_MUTABLE = frozenset({"priority", "preserve_partial", "max_bytes_per_second"})


class DownloadServicer(download_service_pb2_grpc.DownloadServiceServicer):
    """See download_service.proto."""

    def __init__(
        self, downloads: Downloads, hub: WatchHub[download_pb2.Download], resolving: Resolving
    ) -> None:
        self._downloads = downloads
        self._hub = hub
        self._resolving = resolving

    async def ResolveSource(
        self, request: resolve_pb2.ResolveSourceRequest, context: Any
    ) -> resolve_pb2.ResolveSourceResponse:
        """See the .proto."""
        named_by = current_call().principal
        plan = await self._resolving.resolve(wire.asked(request.source, request.access_token, named_by))
        return resolve_pb2.ResolveSourceResponse(plan=wire.plan_to_proto(plan))

    async def CreateDownload(
        self, request: pb.CreateDownloadRequest, context: Any
    ) -> pb.CreateDownloadResponse:
        """See the .proto."""
        call, url = current_call(), convert.address_in(request.source)
        once = self._once(request.request_id, convert.without_secrets(request), url)
        new = convert.new_download(request, call.principal, installs=call.principal.has(INSTALL, ADMIN))
        return pb.CreateDownloadResponse.FromString(await self._downloads.create(new, once, _made))

    async def RetryDownload(
        self, request: retry_pb2.RetryDownloadRequest, context: Any
    ) -> retry_pb2.RetryDownloadResponse:
        """See the .proto."""
        call, url = current_call(), request.source_url
        once = self._once(request.request_id, convert.retry_without_secrets(request), url)
        again = convert.again(request, call.principal, installs=call.principal.has(INSTALL, ADMIN))
        answer = await self._downloads.retry(request.id, again, once, _made)
        return retry_pb2.RetryDownloadResponse.FromString(answer)

    def _once(self, request_id: str, shown: Message, url: str) -> Once:
        """How a job is made at most once; `shown` is the request without its secrets, `url` the one in it."""
        call, mark = current_call(), fingerprint(shown)

        def once(conn: Connection, run: Callable[[], bytes]) -> tuple[bytes, bool]:
            answer, replayed = replay_or_run(
                conn, request_id, mark, run, method=call.method, principal=call.principal.name
            )
            job = pb.CreateDownloadResponse.FromString(answer).download
            if replayed and url and job.source.url and not self._downloads.repeats(job.id, url):
                raise request_id_reused(request_id)
            return answer, replayed

        return once

    async def GetDownload(self, request: pb.GetDownloadRequest, context: Any) -> pb.GetDownloadResponse:
        """See the .proto."""
        job = await self._downloads.whole(request.id)
        return pb.GetDownloadResponse(download=convert.job_to_proto(job, whole=True))

    async def ListDownloads(self, request: pb.ListDownloadsRequest, context: Any) -> pb.ListDownloadsResponse:
        """See the .proto."""
        asked = AskedPage(request, int)
        jobs, token = await self._downloads.list_page(
            convert.list_filter(request), after=asked.after or 0, limit=asked.limit
        )
        page, more = asked.of(jobs, convert.job_to_proto, lambda message: message.id)
        # It covers what changes while the other pages are read.
        first = token if not request.page_token else ""
        return pb.ListDownloadsResponse(downloads=page, next_page_token=more, resume_token=first)

    async def StartDownload(self, request: pb.StartDownloadRequest, context: Any) -> pb.StartDownloadResponse:
        """See the .proto."""
        job = await self._downloads.start(
            request.id, access_token=request.access_token, source_url=request.source_url
        )
        return pb.StartDownloadResponse(download=convert.job_to_proto(job))

    async def PauseDownload(self, request: pb.PauseDownloadRequest, context: Any) -> pb.PauseDownloadResponse:
        """See the .proto."""
        return pb.PauseDownloadResponse(
            download=convert.job_to_proto(await self._downloads.pause(request.id))
        )

    async def CancelDownload(
        self, request: pb.CancelDownloadRequest, context: Any
    ) -> pb.CancelDownloadResponse:
        """See the .proto."""
        return pb.CancelDownloadResponse(
            download=convert.job_to_proto(await self._downloads.cancel(request.id))
        )

    async def FailDownload(
        self, request: fail_pb2.FailDownloadRequest, context: Any
    ) -> fail_pb2.FailDownloadResponse:
        """See the .proto."""
        job = await self._downloads.fail(request.id, request.message)
        return fail_pb2.FailDownloadResponse(download=convert.job_to_proto(job))

    async def StartAllDownloads(
        self, request: all_pb.StartAllDownloadsRequest, context: Any
    ) -> all_pb.StartAllDownloadsResponse:
        """See the .proto."""
        started, lacking = await self._downloads.start_all(convert.all_filter(request))
        return all_pb.StartAllDownloadsResponse(started_count=started, token_required_count=lacking)

    async def PauseAllDownloads(
        self, request: all_pb.PauseAllDownloadsRequest, context: Any
    ) -> all_pb.PauseAllDownloadsResponse:
        """See the .proto."""
        paused = await self._downloads.pause_all(convert.all_filter(request))
        return all_pb.PauseAllDownloadsResponse(paused_count=paused)

    async def CancelAllDownloads(
        self, request: all_pb.CancelAllDownloadsRequest, context: Any
    ) -> all_pb.CancelAllDownloadsResponse:
        """See the .proto."""
        cancelled = await self._downloads.cancel_all(convert.all_filter(request))
        return all_pb.CancelAllDownloadsResponse(cancelled_count=cancelled)

    async def UpdateDownload(
        self, request: pb.UpdateDownloadRequest, context: Any
    ) -> pb.UpdateDownloadResponse:
        """See the .proto."""
        update = request.download
        if update.id <= 0:
            raise FieldInvalidException(
                "", violations=[FieldViolation("download.id", "must be greater than 0")]
            )
        named = {field.name for field, _ in update.ListFields()} - {"id", "etag"}
        if not named and not request.update_mask.paths:
            raise FieldInvalidException(
                "The update names nothing to change.",
                violations=[FieldViolation("update_mask", "names nothing, and no field but the id is set")],
            )
        job = await self._downloads.get(update.id)
        etag, current = update.etag, convert.job_to_proto(job)
        check_etag(job, etag)
        update.ClearField("etag")
        mask = request.update_mask if request.HasField("update_mask") else None
        immutable = frozenset(field.name for field in current.DESCRIPTOR.fields) - _MUTABLE
        changed = apply_update(current, update, mask, mutable=_MUTABLE, immutable=immutable)
        job = await self._downloads.update(
            update.id,
            etag=etag,
            priority=current.priority if "priority" in changed else None,
            preserve_partial=current.preserve_partial if "preserve_partial" in changed else None,
            max_bytes_per_second=current.max_bytes_per_second if "max_bytes_per_second" in changed else None,
        )
        return pb.UpdateDownloadResponse(download=convert.job_to_proto(job))

    async def GetLimits(
        self, request: limits_pb2.GetLimitsRequest, context: Any
    ) -> limits_pb2.GetLimitsResponse:
        """See the .proto."""
        return limits_pb2.GetLimitsResponse(limits=convert.limits_to_proto(self._downloads.limits()))

    async def SetLimits(
        self, request: limits_pb2.SetLimitsRequest, context: Any
    ) -> limits_pb2.SetLimitsResponse:
        """See the .proto."""
        limits = await self._downloads.set_limits(convert.limits_change(request))
        return limits_pb2.SetLimitsResponse(limits=convert.limits_to_proto(limits))

    async def PruneDownloads(
        self, request: pb.PruneDownloadsRequest, context: Any
    ) -> pb.PruneDownloadsResponse:
        """See the .proto."""
        wanted = convert.prune_filter(request, time.time())
        return pb.PruneDownloadsResponse(pruned_count=await self._downloads.prune(wanted))

    async def WatchDownloads(  # type: ignore[override]  # writes to the context, where the stub expects yields
        self, request: pb.WatchDownloadsRequest, context: Any
    ) -> None:
        """See the .proto."""
        everything = request.all_queues and not request.ids and not request.labels
        until = until_ended(request, self._downloads.last_changes)
        watch = self._hub.watch(
            resume_token=request.resume_token,
            matches=None if everything else _matcher(request),
            snapshot=self._snapshot,
            skip_snapshot=request.skip_snapshot,
            bookmark_interval_s=to_seconds(request.bookmark_interval),
        )
        await stream_frames(context, watch, convert.frame_to_proto, until=until)

    async def WaitDownloads(self, request: pb.WaitDownloadsRequest, context: Any) -> pb.WaitDownloadsResponse:
        """See the .proto."""
        asked = to_seconds(request.timeout) if request.HasField("timeout") else None
        patience = current_call().patience(asked)
        jobs, done = await self._downloads.wait(request.queue, request.ids, patience)
        return pb.WaitDownloadsResponse(downloads=fitting(map(convert.job_to_proto, jobs)), done=done)

    async def _snapshot(self, conn: Connection) -> AsyncIterator[tuple[str, download_pb2.Download]]:
        for job in self._downloads.snapshot(conn):
            yield resource_id(job.id), convert.job_to_proto(job)


def _made(job: Job) -> bytes:
    """The answer of a call that makes a job: both have it in the same field."""
    return pb.CreateDownloadResponse(download=convert.job_to_proto(job)).SerializeToString()


def _matcher(request: pb.WatchDownloadsRequest) -> Callable[[download_pb2.Download], bool]:
    ids, queue, all_queues = frozenset(request.ids), request.queue, request.all_queues
    labels = dict(request.labels)

    def matches(download: download_pb2.Download) -> bool:
        in_queue = all_queues or download.queue == queue
        return in_queue and (not ids or download.id in ids) and have(download.labels, labels)

    return matches
