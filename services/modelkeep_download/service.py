"""The wire of DownloadService: a few lines a method, no policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from modelkeep.download.v1 import download_pb2, download_service_pb2_grpc
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep_common.auth import ADMIN, INSTALL
from modelkeep_common.calls import current_call
from modelkeep_common.idempotency import fingerprint, replay_or_run, request_id_reused
from modelkeep_common.labels import have
from modelkeep_common.masks import apply_update
from modelkeep_common.paging import (
    clamp_page_size,
    decode_page_token,
    encode_page_token,
    fitting,
)
from modelkeep_common.sqlite import Connection
from modelkeep_common.watch import WatchHub, stream_frames, until_ended
from modelkeep_common.wire import to_seconds
from modelkeep_download import convert
from modelkeep_download.domain.job import Job, check_etag
from modelkeep_download.engine.downloads import Downloads
from modelkeep_download.store import resource_id

_MUTABLE = frozenset({"priority", "preserve_partial"})


class DownloadServicer(download_service_pb2_grpc.DownloadServiceServicer):
    """See download_service.proto."""

    def __init__(self, downloads: Downloads, hub: WatchHub[download_pb2.Download]) -> None:
        self._downloads = downloads
        self._hub = hub

    async def CreateDownload(
        self, request: pb.CreateDownloadRequest, context: Any
    ) -> pb.CreateDownloadResponse:
        """See the .proto."""
        call, mark = current_call(), fingerprint(convert.without_secrets(request))

        def once(conn: Connection, run: Callable[[], bytes]) -> tuple[bytes, bool]:
            answer, replayed = replay_or_run(
                conn, request.request_id, mark, run, method=call.method, principal=call.principal.name
            )
            job = pb.CreateDownloadResponse.FromString(answer).download
            if replayed and job.source.url and not self._downloads.repeats(job.id, request.source.url):
                raise request_id_reused(request.request_id)
            return answer, replayed

        def encode(job: Job) -> bytes:
            return pb.CreateDownloadResponse(download=convert.job_to_proto(job)).SerializeToString()

        new = convert.new_download(request, call.principal, installs=call.principal.has(INSTALL, ADMIN))
        answer = await self._downloads.create(new, once, encode)
        return pb.CreateDownloadResponse.FromString(answer)

    async def GetDownload(self, request: pb.GetDownloadRequest, context: Any) -> pb.GetDownloadResponse:
        """See the .proto."""
        return pb.GetDownloadResponse(download=convert.job_to_proto(await self._downloads.get(request.id)))

    async def ListDownloads(self, request: pb.ListDownloadsRequest, context: Any) -> pb.ListDownloadsResponse:
        """See the .proto."""
        mark = fingerprint(request, without=("page_token", "page_size"))
        position = decode_page_token(request.page_token, mark, (int,))
        size = clamp_page_size(request.page_size)
        after = int(position[0]) if position else 0
        jobs, token = await self._downloads.list_page(
            convert.list_filter(request), after=after, limit=size + 1
        )
        page = fitting(map(convert.job_to_proto, jobs[:size]))
        more = encode_page_token([page[-1].id], mark) if len(jobs) > len(page) else ""
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
        )
        return pb.UpdateDownloadResponse(download=convert.job_to_proto(job))

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
        if request.until_ended and not request.ids:
            raise FieldInvalidException(
                "until_ended takes ids: a watch of all jobs has no end.",
                violations=[FieldViolation("ids", "must be set for until_ended")],
            )
        watch = self._hub.watch(
            resume_token=request.resume_token,
            matches=None if everything else _matcher(request),
            snapshot=self._snapshot,
            skip_snapshot=request.skip_snapshot,
            bookmark_interval_s=to_seconds(request.bookmark_interval),
        )
        until = until_ended(request.ids, self._downloads.last_changes) if request.until_ended else None
        await stream_frames(context, watch, convert.frame_to_proto, until=until)

    async def WaitDownloads(self, request: pb.WaitDownloadsRequest, context: Any) -> pb.WaitDownloadsResponse:
        """See the .proto."""
        asked = to_seconds(request.timeout) if request.HasField("timeout") else None
        patience = current_call().patience(asked)
        jobs, done = await self._downloads.wait(request.queue, request.ids, patience)
        return pb.WaitDownloadsResponse(downloads=fitting(map(convert.job_to_proto, jobs)), done=done)

    def _snapshot(self, conn: Connection) -> Iterable[tuple[str, download_pb2.Download]]:
        return [(resource_id(job.id), convert.job_to_proto(job)) for job in self._downloads.snapshot(conn)]


def _matcher(request: pb.WatchDownloadsRequest) -> Callable[[download_pb2.Download], bool]:
    ids, queue, all_queues = frozenset(request.ids), request.queue, request.all_queues
    labels = dict(request.labels)

    def matches(download: download_pb2.Download) -> bool:
        in_queue = all_queues or download.queue == queue
        return in_queue and (not ids or download.id in ids) and have(download.labels, labels)

    return matches
