"""DownloadService under the original's names: a queue of jobs with event handlers."""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelkeep.client._download_control import DownloadControl
from modelkeep.client._download_events import DownloadEvents
from modelkeep.client._download_jobs import (
    DEFAULT_PRIORITY,
    DownloadEventHandler,
    DownloadJobBase,
    DownloadJobStatus,
    is_active,
    job_class_of,
    job_of,
    make_job,
)
from modelkeep.client._download_limits import OwnLimit
from modelkeep.client._jobs import Jobs
from modelkeep.client._tracker import EventThread
from modelkeep.client._transport import Peer
from modelkeep.client._watch import WatchFrame
from modelkeep.download.v1 import download_pb2, resolve_pb2, retry_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.download.v1.download_service_pb2_grpc import DownloadServiceStub
from modelkeep.messages import duration, made
from modelkeep.values import absolute, is_url, names_hub


class AsyncDownloadQueue(DownloadControl):
    """A named queue of downloads; the default one has the name "".

    Job objects follow their jobs once this client has begun to: with the first submission, or the first
    :meth:`join`. The queue's handlers are appended to those of each job. They are called in order, one
    after the other: while a job runs, on a thread that it has for itself in this client, so that a slow
    handler holds up no other job; else on one thread for all. A handler may call the blocking client, or be
    a coroutine function. During a handler the job's fields are as of the event, until it calls what changes
    them. What a handler raises is logged, and changes nothing. A job that goes back into the queue, to go on
    or to be tried again, is told as running again, and not as enqueued.

    What starts, pauses, cancels, fails or changes a job returns when its handlers have heard of that, unless
    it is a handler that calls, or they take more than five seconds.

    Args:
        peer: The download service.
        events: The thread of the handlers.
        queue: Name of the queue; None: every queue, and new jobs go into the default one.
        event_handlers: Called for every job of the queue, after the job's own.
        quiet: Log nothing at INFO and above: neither where downloads start, end and fail, nor what a handler
            raises.
        max_parallel_dl: Most downloads of the queue at once, within what the service allows all of them; set
            with the first job. None: only the latter.
        passing: Nobody can come back to this queue: its limit goes when it is closed and has nothing left to
            do.
    """

    def __init__(
        self,
        peer: Peer,
        events: EventThread,
        queue: str | None = "",
        event_handlers: Sequence[DownloadEventHandler] = (),
        quiet: bool = False,
        *,
        max_parallel_dl: int | None = None,
        passing: bool = False,
    ) -> None:
        super().__init__(peer, queue)
        self._events = DownloadEvents(events, quiet, self._steer)
        self._handlers = list(event_handlers)
        self._chooser: Callable[[], Callable[[Any], type[DownloadJobBase]] | None] = lambda: None
        self._own_limit = OwnLimit(peer, queue or "", max_parallel_dl, passing=passing)
        self._jobs: Jobs[DownloadJobBase, download_pb2.Download] = Jobs(
            peer,
            lambda to: DownloadServiceStub(to).WatchDownloads,
            self._watched,
            self._own,
            self._events.tell,
            side_by_side=True,
        )

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
        max_bytes_per_second: int = 0,
        replace_existing: bool | None = None,
        subfolder: str | None = None,
        variant: str | None = None,
        revision: str | None = None,
    ) -> DownloadJobBase:
        """Make a job of the class that :meth:`job_class` says, and submit it.

        Args:
            source: An http(s) address; the path of a file or folder on the service's host; what a hub names
                (``owner/name``, ``owner/name:subfolder``, a page of Hugging Face or Civitai), of which
                several files make up a folder at `destdir`. A path that exists is a path, however it is
                spelt.
            destdir: Folder that the file goes into; made if it is not there.
            filename: Name of the file in there; by default the name that the source gives.
            start: Whether to put the job into the queue at once.
            priority: Lower runs first.
            access_token: Token for the source's host.
            event_handlers: Handlers of this job.
            expected_sha256: Hash that the file must have.
            labels: Pairs of texts to find the job by.
            max_bytes_per_second: Most bytes a second from the network; 0: as many as all together may.
            replace_existing: Whether a file that is there is replaced, once the new one is checked. None: as
                in the original, if there is a `filename`; not where the source gives the name.
            subfolder: Folder, or one file, of a repository.
            variant: Which files of a repository or a model, where there are several, such as "fp16".
            revision: Branch, tag or commit of a repository.

        Raises:
            FieldInvalidException: The address is malformed.
            DestinationExistsException: There is such a file, or another job is to bring it.
            ForbiddenPathException: The folder, or a local source, is outside those allowed.
            ModelkeepError: Of what a hub names, what :meth:`resolve_source` raises.
        """
        optional = {
            "access_token": access_token,
            "subfolder": subfolder,
            "variant": variant,
            "revision": revision,
        }
        fields: dict[str, Any] = {name: value for name, value in optional.items() if value is not None}
        choose = self._chooser()
        job = make_job(
            (choose or self.job_class)(source),
            source,
            destination=Path(destdir),
            destination_is_folder=True,
            filename=os.fspath(filename) if filename is not None else None,
            priority=priority,
            event_handlers=list(event_handlers),
            expected_sha256=expected_sha256,
            labels=dict(labels or {}),
            max_bytes_per_second=max_bytes_per_second,
            replace_existing=replace_existing,
            **fields,
        )
        return await self.submit_download_job(job, start)

    def job_class(self, source: Any) -> type[DownloadJobBase]:
        """The class of :meth:`create_download_job`'s job for a source; subclasses may override it."""
        return job_class_of(source)

    def chosen_by(self, method: Callable[[Any], type[DownloadJobBase]]) -> None:
        """Let an object's method say the classes of jobs from now on, as long as the object is there."""
        self._chooser = weakref.WeakMethod(method)

    async def resolve_source(
        self,
        source: str | os.PathLike[str],
        *,
        subfolder: str | None = None,
        variant: str | None = None,
        revision: str | None = None,
        access_token: str | None = None,
    ) -> resolve_pb2.SourcePlan:
        """What a source comes to: its files and their sizes, why these, and what else there is. Fetches none.

        Args:
            source: As :meth:`create_download_job` takes it.
            subfolder: Folder, or one file, of a repository.
            variant: Which files, where there are several, such as "fp16".
            revision: Branch, tag or commit of a repository.
            access_token: Token for the source's host.

        Raises:
            FieldInvalidException: The source is of no known kind.
            SourceNotFoundException: There is none.
            ModelkeepError: It cannot be had so; see ResolveSource.
        """
        local = not (is_url(source) or names_hub(source))
        asked = made(
            resolve_pb2.RemoteSource,
            source=str(absolute(os.fspath(source)) if local else source),
            subfolder=subfolder or "",
            variant=variant or "",
            revision=revision or "",
        )
        request = made(resolve_pb2.ResolveSourceRequest, source=asked, access_token=access_token or "")
        return (await self._peer.call(self._stub.ResolveSource, request)).plan

    async def submit_download_job(self, job: DownloadJobBase, start: bool = True) -> DownloadJobBase:
        """Submit a job that the caller made; answers with that very object.

        Args:
            job: A job that was not submitted before.
            start: Whether to put it into the queue at once.

        Raises:
            ValueError: It was.
        """
        if job.id:
            raise ValueError(f"This job was submitted before, as download {job.id}: make a new one.")
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
            max_bytes_per_second=job.max_bytes_per_second,
            replace_existing=job.replaces(),
        )
        await self._own_limit.set()
        tracker = await self._jobs.following()
        async with tracker.creating():
            answer = await self._peer.call(self._stub.CreateDownload, request)
            job.belong_to(self, self._handlers)
            return tracker.adopt(answer.download, job)

    async def retry_job(
        self, job: DownloadJobBase | int, access_token: str | None = None, source_url: str | None = None
    ) -> DownloadJobBase:
        """Make a job that failed or was cancelled anew; answers with the new job, which has its handlers.

        Args:
            job: The job, or its number.
            access_token: A token anew, for a job that had one.
            source_url: The address with its secrets anew, or, where the old one ran out, another one.

        Raises:
            UnknownJobIDException: It is no job of this queue.
            WrongStateException: It has not ended, or is completed.
            TokenRequiredException: It had secrets, which must be brought.
        """
        request = made(
            retry_pb2.RetryDownloadRequest,
            id=await self._id(job),
            access_token=access_token or "",
            source_url=source_url or "",
        )
        tracker = await self._jobs.following()
        async with tracker.creating():
            answer = await self._peer.call(self._stub.RetryDownload, request)
            again = self._own(answer.download)
            if isinstance(job, DownloadJobBase):
                again.event_handlers = list(job.event_handlers)  # those of the queue are among them
            return tracker.adopt(answer.download, again)

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

    async def join(self, timeout: float | None = None) -> None:
        """Wait until no job of the queue is enqueued, running or stopping, and all its handlers have run.

        Raises:
            DeadlineExceededException: Some still are, after `timeout` seconds.
        """
        tracker = await self._jobs.following()

        def is_busy(id: int) -> bool:
            message = tracker.told(id)
            return message is None or is_active(message)

        last = 0

        def idle() -> bool:
            # Asked at each news: with many jobs, the one that was busy last mostly still is.
            nonlocal last
            if last not in tracker.jobs or not is_busy(last):
                last = next((id for id in reversed(tracker.jobs) if is_busy(id)), 0)
            return not last

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
            request.min_age.CopyFrom(duration(older_than, "older_than"))
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

    async def close(self) -> None:
        """Stop following. Jobs go on in the service."""
        await self._jobs.close()
        self._events.close()
        await self._own_limit.take_away()

    # -- inside -------------------------------------------------------------------------------------------

    async def _told(self, message: download_pb2.Download) -> DownloadJobBase:
        return await self._jobs.told(message)

    def _live(self, message: download_pb2.Download) -> DownloadJobBase:
        return self._jobs.of(message)

    def _own(self, message: download_pb2.Download) -> DownloadJobBase:
        job = job_of(message)
        job.belong_to(self, self._handlers)
        return job

    def _watched(self, ids: Sequence[int]) -> pb.WatchDownloadsRequest:
        return made(
            pb.WatchDownloadsRequest, queue=self._queue or "", all_queues=self._queue is None, ids=ids
        )
