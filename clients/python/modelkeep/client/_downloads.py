"""DownloadService under the original's names: a queue of jobs with event handlers."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep.client._download_jobs import (
    DEFAULT_PRIORITY,
    DownloadEventHandler,
    DownloadJobBase,
    DownloadJobStatus,
    is_active,
    job_of,
    make_job,
    status_of,
)
from modelkeep.client._install_requests import no_repository
from modelkeep.client._jobs import Jobs
from modelkeep.client._tracker import EventThread, chain, refresh
from modelkeep.client._transport import Peer
from modelkeep.client._watch import WatchFrame
from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.download.v1.download_service_pb2_grpc import DownloadServiceStub
from modelkeep.exceptions import UnknownJobIDException
from modelkeep.messages import made

if TYPE_CHECKING:
    from modelkeep.download.v1.download_service_pb2_grpc import DownloadServiceAsyncStub

_log = logging.getLogger("modelkeep.client.downloads")


class AsyncDownloadQueue:
    """A named queue of downloads; the default one has the name "".

    Job objects follow their jobs once this client has begun to: with the first submission, or the first
    :meth:`join`. Handlers run one after the other, the job's own first, then the queue's, on a thread of
    the client's own; a handler may call the blocking client, or be a coroutine function. During a handler
    the job's fields are as of the event. What a handler raises is logged, and changes nothing.

    Args:
        peer: The download service.
        events: The thread of the handlers.
        queue: Name of the queue; None: every queue, and new jobs go into the default one.
        event_handlers: Called for every job of the queue, after the job's own.
        quiet: Do not log where downloads start and end.
    """

    def __init__(
        self,
        peer: Peer,
        events: EventThread,
        queue: str | None = "",
        event_handlers: Sequence[DownloadEventHandler] = (),
        quiet: bool = False,
    ) -> None:
        self._peer = peer
        self._events = events
        self._queue = queue
        self._handlers = list(event_handlers)
        self._quiet = quiet
        self._jobs: Jobs[DownloadJobBase, download_pb2.Download] = Jobs(
            peer, lambda to: DownloadServiceStub(to).WatchDownloads, self._watched, self._own, self._tell
        )

    @property
    def _stub(self) -> DownloadServiceAsyncStub:
        return DownloadServiceStub(self._peer.channel)

    # -- making jobs --------------------------------------------------------------------------------------

    async def create_download_job(
        self,
        source: str | os.PathLike[str] | Any,
        destdir: str | os.PathLike[str],
        filename: str | os.PathLike[str] | None = None,
        start: bool = True,
        priority: int = DEFAULT_PRIORITY,
        access_token: str | None = None,
        event_handlers: Sequence[DownloadEventHandler] = (),
        expected_sha256: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> DownloadJobBase:
        """Make a job of the class that fits the source, and submit it.

        Args:
            source: An http(s) address, or the path of a file or folder on the service's host.
            destdir: Folder that the file goes into; made if it is not there.
            filename: Name of the file in there; by default the name that the source gives.
            start: Whether to put the job into the queue at once.
            priority: Lower runs first.
            access_token: Token for the source's host.
            event_handlers: Handlers of this job.
            expected_sha256: Hash that the file must have.
            labels: Pairs of texts to find the job by.

        Raises:
            FieldInvalidException: The address is malformed.
            DestinationExistsException: There is such a file, or another job is to bring it.
            ForbiddenPathException: The folder, or a local source, is outside those allowed.
        """
        fields: dict[str, Any] = {} if access_token is None else {"access_token": access_token}
        job = make_job(
            source,
            destination=Path(destdir),
            destination_is_folder=True,
            filename=os.fspath(filename) if filename is not None else None,
            priority=priority,
            event_handlers=list(event_handlers),
            expected_sha256=expected_sha256,
            labels=dict(labels or {}),
            **fields,
        )
        return await self.submit_download_job(job, start)

    async def submit_download_job(self, job: DownloadJobBase, start: bool = True) -> DownloadJobBase:
        """Submit a job that the caller made; answers with that very object.

        Args:
            job: A job that was not submitted before.
            start: Whether to put it into the queue at once.
        """
        request = made(
            pb.CreateDownloadRequest,
            source=job.source_message(),
            destination=job.destination_text(),
            filename=job.filename or "",
            queue=self._queue or "",
            priority=job.priority,
            start=start,
            preserve_partial=job.preserve_partial_downloads,
            expected_sha256=job.expected_sha256 or "",
            access_token=str(getattr(job, "access_token", None) or ""),
            labels=job.labels,
        )
        tracker = await self._jobs.following()
        path = str(job.source) if request.source.HasField("local_path") else None
        with no_repository(path):
            async with tracker.creating():
                answer = await self._peer.call(self._stub.CreateDownload, request)
                job._owner = self
                return tracker.adopt(answer.download, job)

    # -- looking at jobs ----------------------------------------------------------------------------------

    async def list_jobs(self, labels: Mapping[str, str] | None = None) -> list[DownloadJobBase]:
        """All jobs of the queue that were not pruned, ordered by number; of those with all `labels`."""
        request = made(
            pb.ListDownloadsRequest,
            queue=self._queue or "",
            all_queues=self._queue is None,
            labels=dict(labels or {}),
        )
        pages = self._peer.pages(self._stub.ListDownloads, request)
        return [self._jobs.of(message) async for page in pages for message in page.downloads]

    async def id_to_job(self, id: int) -> DownloadJobBase:
        """The job of this queue that has a number.

        Raises:
            UnknownJobIDException: There is none, or it is another queue's.
        """
        answer = await self._peer.call(self._stub.GetDownload, made(pb.GetDownloadRequest, id=id))
        if self._queue is not None and answer.download.queue != self._queue:
            raise _unknown(id)
        return self._jobs.of(answer.download)

    async def join(self, timeout: float | None = None) -> None:
        """Wait until no job of the queue is enqueued, running or stopping, and all its handlers have run.

        Raises:
            DeadlineExceededException: Some still are, after `timeout` seconds.
        """
        tracker = await self._jobs.following()

        def idle() -> bool:
            told = (tracker.told(id) for id in tracker.jobs)
            return all(message is not None and not is_active(message) for message in told)

        await tracker.until(idle, timeout, "downloads that have not ended")

    async def prune_jobs(
        self,
        jobs: Sequence[DownloadJobBase | int] = (),
        *,
        statuses: Collection[DownloadJobStatus | str] = (),
        older_than: float = 0.0,
    ) -> int:
        """Forget jobs of the queue that have ended; answers how many. Files stay.

        Args:
            jobs: Only these, which must have ended; none: all.
            statuses: Only those that ended so, such as "error"; none: all.
            older_than: Only those that ended so many seconds ago, or longer.

        Raises:
            UnknownJobIDException: One is no job of this queue.
            WrongStateException: One of `jobs` has not ended.
        """
        request = made(
            pb.PruneDownloadsRequest,
            queue=self._queue or "",
            all_queues=self._queue is None,
            states=[f"DOWNLOAD_STATE_{DownloadJobStatus(status).name}" for status in statuses],
            ids=[await self._id(job) for job in jobs],
        )
        if older_than:
            request.min_age.FromTimedelta(timedelta(seconds=older_than))
        answer = await self._peer.call(self._stub.PruneDownloads, request)
        return int(answer.pruned_count)

    def watch(
        self,
        ids: Sequence[int] = (),
        *,
        resume_token: str = "",
        skip_snapshot: bool = False,
        until_ended: bool = False,
    ) -> AsyncGenerator[WatchFrame[DownloadJobBase]]:
        """A snapshot of the jobs, then every change and progress; goes on by itself.

        Args:
            ids: Only these jobs; none: all of the queue.
            resume_token: Place to go on from, out of an earlier frame; empty: a snapshot first.
            skip_snapshot: Without a token: only changes from now on.
            until_ended: End once all of `ids` have ended, or are gone.
        """
        return self._jobs.watch(ids, resume_token, skip_snapshot, until_ended=until_ended)

    # -- controlling jobs ---------------------------------------------------------------------------------

    async def start_job(
        self, job: DownloadJobBase | int, access_token: str | None = None, source_url: str | None = None
    ) -> DownloadJobBase:
        """Put an idle or paused job into the queue; it goes on where it stopped.

        Args:
            job: The job, or its number.
            access_token: A token anew, for a job that waits for one.
            source_url: The address anew, for a job that lost its secrets, or whose address has run out.

        Raises:
            UnknownJobIDException: It is no job of this queue.
            WrongStateException: It has ended.
        """
        request = made(
            pb.StartDownloadRequest,
            id=await self._id(job),
            access_token=access_token or "",
            source_url=source_url or "",
        )
        answer = await self._peer.call(self._stub.StartDownload, request)
        return self._refreshed(job, answer.download)

    async def pause_job(self, job: DownloadJobBase | int) -> DownloadJobBase:
        """Pause a job; its bytes stay.

        Raises:
            UnknownJobIDException: It is no job of this queue.
            WrongStateException: It has ended.
        """
        request = made(pb.PauseDownloadRequest, id=await self._id(job))
        answer = await self._peer.call(self._stub.PauseDownload, request)
        return self._refreshed(job, answer.download)

    async def cancel_job(self, job: DownloadJobBase | int) -> DownloadJobBase:
        """Cancel a job and remove its temporary files; it ends soon, in status cancelled.

        Raises:
            UnknownJobIDException: It is no job of this queue.
            WrongStateException: It is completed or has failed.
        """
        request = made(pb.CancelDownloadRequest, id=await self._id(job))
        answer = await self._peer.call(self._stub.CancelDownload, request)
        return self._refreshed(job, answer.download)

    async def close(self) -> None:
        """Stop following. Jobs go on in the service."""
        await self._jobs.close()

    # -- inside -------------------------------------------------------------------------------------------

    async def _id(self, job: DownloadJobBase | int) -> int:
        """The number of a job of this queue."""
        if isinstance(job, int):
            return job if self._queue is None else (await self.id_to_job(job)).id
        if job._owner is not self or not job.id:
            raise _unknown(job.id)
        return job.id

    def _own(self, message: download_pb2.Download) -> DownloadJobBase:
        job = job_of(message)
        job._owner = self
        return job

    def _refreshed(self, job: DownloadJobBase | int, message: download_pb2.Download) -> DownloadJobBase:
        if isinstance(job, int):
            return self._jobs.of(message)
        refresh(job, message)
        return job

    def _watched(self, ids: Sequence[int]) -> pb.WatchDownloadsRequest:
        return made(
            pb.WatchDownloadsRequest, queue=self._queue or "", all_queues=self._queue is None, ids=ids
        )

    async def _tell(
        self,
        job: DownloadJobBase,
        before: download_pb2.Download | None,
        message: download_pb2.Download,
        first: bool,
    ) -> None:
        """Run the handlers for a change of status, or for progress."""
        status = status_of(message)
        if first or status is DownloadJobStatus.IDLE:
            return
        news = before is None or status_of(before) is not status
        if not news and (before is None or before.progress == message.progress):
            return
        if news and not self._quiet:
            self._note(job, status)
        for handler in chain(job.event_handlers, self._handlers):
            await self._events.run(handler, job)

    @staticmethod
    def _note(job: DownloadJobBase, status: DownloadJobStatus) -> None:
        if status is DownloadJobStatus.RUNNING:
            _log.info("Download %d of %s is running.", job.id, job.source)
        elif status is DownloadJobStatus.ERROR:
            _log.error("Download %d of %s failed: %s", job.id, job.source, job.error)
        elif job.ended:
            _log.info("Download %d of %s is %s.", job.id, job.source, status.value)


def _unknown(id: int) -> UnknownJobIDException:
    text = f"Download {id} is no job of this queue." if id else "This job was not submitted to the queue."
    return UnknownJobIDException(text, metadata={"id": str(id)})
