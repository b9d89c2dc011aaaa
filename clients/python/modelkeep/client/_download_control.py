"""What is done to the jobs of a queue: to one, to all of them, and to how many run at once."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from modelkeep.client._download_jobs import DownloadJobBase, DownloadJobStatus
from modelkeep.client._download_limits import DownloadLimits, get_limits, queue_limits, set_limits
from modelkeep.client._tracker import refresh
from modelkeep.client._transport import Peer
from modelkeep.download.v1 import all_downloads_pb2 as all_pb
from modelkeep.download.v1 import download_pb2, fail_pb2, limits_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.download.v1.download_service_pb2_grpc import DownloadServiceStub
from modelkeep.exceptions import UnknownJobIDException
from modelkeep.messages import made

if TYPE_CHECKING:
    from modelkeep.download.v1.download_service_pb2_grpc import DownloadServiceAsyncStub

#: Characters of a text that FailDownload takes.
_LONGEST_TEXT: Final = 4096


class DownloadControl(abc.ABC):
    """A named queue of downloads, as far as its jobs exist already; see `AsyncDownloadQueue`.

    Args:
        peer: The download service.
        queue: Name of the queue; None: every queue.
    """

    def __init__(self, peer: Peer, queue: str | None) -> None:
        self._peer = peer
        self._queue = queue

    @property
    def _stub(self) -> DownloadServiceAsyncStub:
        return DownloadServiceStub(self._peer.channel)

    @abc.abstractmethod
    async def _told(self, message: download_pb2.Download) -> DownloadJobBase:
        """As `_live`, once the job's handlers have heard of what the message says."""

    @abc.abstractmethod
    def _live(self, message: download_pb2.Download) -> DownloadJobBase:
        """The live object of a job if there is one, brought up to date; else a new one."""

    async def id_to_job(self, id: int) -> DownloadJobBase:
        """The job of this queue that has a number.

        Raises:
            UnknownJobIDException: There is none, or it is another queue's.
        """
        answer = await self._peer.call(self._stub.GetDownload, made(pb.GetDownloadRequest, id=id))
        if self._queue is not None and answer.download.queue != self._queue:
            raise _unknown(id)
        return self._live(answer.download)

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
        return await self._refreshed(job, answer.download)

    async def pause_job(self, job: DownloadJobBase | int) -> DownloadJobBase:
        """Pause a job; its bytes stay.

        Raises:
            UnknownJobIDException: It is no job of this queue.
            WrongStateException: It has ended.
        """
        request = made(pb.PauseDownloadRequest, id=await self._id(job))
        answer = await self._peer.call(self._stub.PauseDownload, request)
        return await self._refreshed(job, answer.download)

    async def cancel_job(self, job: DownloadJobBase | int) -> DownloadJobBase:
        """Cancel a job and remove its temporary files; it ends soon, in status cancelled.

        Raises:
            UnknownJobIDException: It is no job of this queue.
            WrongStateException: It is completed or has failed.
        """
        request = made(pb.CancelDownloadRequest, id=await self._id(job))
        answer = await self._peer.call(self._stub.CancelDownload, request)
        return await self._refreshed(job, answer.download)

    async def update_job(
        self,
        job: DownloadJobBase | int,
        *,
        priority: int | None = None,
        preserve_partial_downloads: bool | None = None,
        max_bytes_per_second: int | None = None,
    ) -> DownloadJobBase:
        """Change a job that has not ended; what is None stays.

        Args:
            job: The job, or its number.
            priority: Lower runs first; a job that runs makes room for a better one that waits.
            preserve_partial_downloads: Whether the partial file stays after an error.
            max_bytes_per_second: Most bytes a second from the network; 0: as many as all together may.

        Raises:
            UnknownJobIDException: It is no job of this queue.
            WrongStateException: It has ended.
        """
        changed = made(download_pb2.Download, id=await self._id(job))
        request = made(pb.UpdateDownloadRequest, download=changed)
        if priority is not None:
            request.download.priority = priority
            request.update_mask.paths.append("priority")
        if preserve_partial_downloads is not None:
            request.download.preserve_partial = preserve_partial_downloads
            request.update_mask.paths.append("preserve_partial")
        if max_bytes_per_second is not None:
            limit = made(download_pb2.Download, max_bytes_per_second=max_bytes_per_second)
            request.download.MergeFrom(limit)
            request.update_mask.paths.append("max_bytes_per_second")
        answer = await self._peer.call(self._stub.UpdateDownload, request)
        return await self._refreshed(job, answer.download)

    def change(self, job: DownloadJobBase, name: str, value: Any) -> None:
        """What setting a field of a submitted job does: :meth:`update_job`, and wait for it.

        Raises:
            RuntimeError: On the event loop itself.
        """
        self._peer.wait_for(
            lambda: self.update_job(job, **{name: value}),
            f"await queue.update_job(job, {name}={value!r}) instead of setting job.{name}.",
        )

    async def fail_job(self, job: DownloadJobBase | int, error: Exception | str = "") -> DownloadJobBase:
        """Put a job that has not ended into status error; it ends soon.

        Its `error` is then a FailedByCallerException; in the object `job` itself it is the exception given.

        Args:
            job: The job, or its number.
            error: Why. Of the text, or that of the exception, one line of at most 200 characters is kept.

        Raises:
            UnknownJobIDException: It is no job of this queue.
            WrongStateException: It has ended otherwise.
        """
        text = error if isinstance(error, str) else str(error) or type(error).__name__
        request = made(fail_pb2.FailDownloadRequest, id=await self._id(job), message=text[:_LONGEST_TEXT])
        answer = await self._peer.call(self._stub.FailDownload, request)
        if isinstance(job, DownloadJobBase) and isinstance(error, Exception):
            job.failed_with(error)
        return await self._refreshed(job, answer.download)

    async def start_all_jobs(self, labels: Mapping[str, str] | None = None) -> int:
        """Put all idle and paused jobs, those with all `labels`, into the queue; answers how many.

        Jobs that lost their secrets in a restart of the service stay paused; see :meth:`start_job`.
        """
        request = made(
            all_pb.StartAllDownloadsRequest,
            queue=self._queue or "",
            all_queues=self._queue is None,
            labels=dict(labels or {}),
        )
        answer = await self._peer.call(self._stub.StartAllDownloads, request)
        return int(answer.started_count)

    async def pause_all_jobs(self, labels: Mapping[str, str] | None = None) -> int:
        """Pause all enqueued and running jobs, those with all `labels`; answers how many.

        When it answers, none of them runs any more.
        """
        request = made(
            all_pb.PauseAllDownloadsRequest,
            queue=self._queue or "",
            all_queues=self._queue is None,
            labels=dict(labels or {}),
        )
        answer = await self._peer.call(self._stub.PauseAllDownloads, request)
        return int(answer.paused_count)

    async def cancel_all_jobs(self, labels: Mapping[str, str] | None = None) -> int:
        """Cancel all jobs of the queue that have not ended, those with all `labels`; answers how many."""
        request = made(
            all_pb.CancelAllDownloadsRequest,
            queue=self._queue or "",
            all_queues=self._queue is None,
            labels=dict(labels or {}),
        )
        answer = await self._peer.call(self._stub.CancelAllDownloads, request)
        return int(answer.cancelled_count)

    # -- limits -------------------------------------------------------------------------------------------

    async def get_limits(self) -> DownloadLimits:
        """How many downloads of the service run at once, and how fast."""
        return await get_limits(self._peer)

    async def set_limits(
        self,
        *,
        max_parallel_downloads: int | None = None,
        max_bytes_per_second: int | None = None,
        queues: Mapping[str, int] | None = None,
        reset: bool = False,
        max_connections_per_file: int | None = None,
        max_connections_per_host: int | None = None,
        max_connections: int | None = None,
    ) -> DownloadLimits:
        """Limit the downloads of the service, from now on; what is None stays. Answers with what counts then.

        Args:
            max_parallel_downloads: Downloads at once, of all queues together; 0: as its settings say.
            max_bytes_per_second: Of all downloads together; 0: no limit.
            queues: Downloads at once of these queues; 0 takes a queue's number away.
            reset: Forget first all that was set before.
            max_connections_per_file: Connections at once for one file; 0: as its settings say.
            max_connections_per_host: The same to one host, over all downloads.
            max_connections: The same in all.

        Raises:
            FieldInvalidException: A number is out of range.
        """
        request = made(
            limits_pb2.SetLimitsRequest,
            queues=queue_limits(queues or {}),
            reset=reset,
            max_parallel_downloads=max_parallel_downloads,
            max_bytes_per_second=max_bytes_per_second,
            max_connections_per_file=max_connections_per_file,
            max_connections_per_host=max_connections_per_host,
            max_connections=max_connections,
        )
        return await set_limits(self._peer, request)

    async def _id(self, job: DownloadJobBase | int) -> int:
        """The number of a job of this queue."""
        if isinstance(job, int):
            return job if self._queue is None else (await self.id_to_job(job)).id
        if job._owner is not self or not job.id:
            raise _unknown(job.id)
        return job.id

    async def _refreshed(self, job: DownloadJobBase | int, message: download_pb2.Download) -> DownloadJobBase:
        live = await self._told(message)
        if isinstance(job, int):
            return live
        refresh(job, message)
        return job

    async def _steer(self, job: DownloadJobBase, wish: DownloadJobStatus) -> None:
        """Do what a handler wants by the status that it has set."""
        if wish is DownloadJobStatus.PAUSED:
            await self.pause_job(job)
        elif wish is DownloadJobStatus.CANCELLED:
            await self.cancel_job(job)
        elif wish is DownloadJobStatus.ERROR:
            await self.fail_job(job, job.error or "")


def _unknown(id: int) -> UnknownJobIDException:
    text = f"Download {id} is no job of this queue." if id else "This job was not submitted to the queue."
    return UnknownJobIDException(text, metadata={"id": str(id)})
