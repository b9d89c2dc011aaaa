"""What is made of the news of a queue's jobs: handlers are called, starts and ends are logged."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from modelkeep.client._download_jobs import DownloadJobBase, DownloadJobStatus, status_of
from modelkeep.client._tracker import EventThread
from modelkeep.download.v1 import download_pb2
from modelkeep.exceptions import ModelkeepError

_log = logging.getLogger("modelkeep.client.downloads")


class DownloadEvents:
    """Calls the handlers of the jobs of a queue, and logs where they start and end.

    Args:
        events: The thread of the handlers of jobs that do not run.
        quiet: Log nothing at INFO and above.
        steer: Does what a handler wants by the status that it has set.
    """

    def __init__(
        self,
        events: EventThread,
        quiet: bool,
        steer: Callable[[DownloadJobBase, DownloadJobStatus], Awaitable[None]],
    ) -> None:
        self._events = events
        self._quiet = quiet
        self._steer = steer
        #: Of the jobs that run: a handler that takes its time holds up its own job alone.
        self._threads: dict[int, EventThread] = {}

    async def tell(
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
        was = None if before is None else status_of(before)
        if status is DownloadJobStatus.RUNNING:
            self._threads.setdefault(job.id, EventThread(f"modelkeep-download-{job.id}"))
        try:
            if was is not status:
                await self._tell_status(job, was, status)
            elif (
                status is DownloadJobStatus.RUNNING
                and before is not None
                and before.progress != message.progress
            ):
                await self._run_handlers(job)
        finally:
            if status is not DownloadJobStatus.RUNNING and (thread := self._threads.pop(job.id, None)):
                thread.close()

    async def _tell_status(
        self, job: DownloadJobBase, was: DownloadJobStatus | None, status: DownloadJobStatus
    ) -> None:
        if status is DownloadJobStatus.ENQUEUED and was not in (None, DownloadJobStatus.IDLE):
            return  # in the original's sequence a job is enqueued once
        if status is DownloadJobStatus.RUNNING:
            self._note(logging.INFO, "Download %d of %s is running.", job.id, job.source)
        elif status is DownloadJobStatus.ERROR:
            self._note(logging.ERROR, "Download %d of %s failed: %s", job.id, job.source, job.error)
        elif job.ended:
            self._note(logging.INFO, "Download %d of %s is %s.", job.id, job.source, status.value)
        await self._run_handlers(job)

    async def _run_handlers(self, job: DownloadJobBase) -> None:
        thread = self._threads.get(job.id, self._events)
        job.begin_event()
        for handler in list(job.event_handlers):  # a copy, since handlers may change it
            await thread.run(handler, job, quiet=self._quiet)
        wish = job.end_event()
        if wish is None:
            return
        try:
            await self._steer(job, wish)
        except ModelkeepError as error:
            job.update(job.message)
            text = "Download %d of %s cannot be made %s, as a handler wants: %s"
            self._note(logging.WARNING, text, job.id, job.source, wish.value, error)

    def _note(self, level: int, text: str, *arguments: object) -> None:
        if not self._quiet:
            _log.log(level, text, *arguments)

    def close(self) -> None:
        """Let the threads end after the handlers that run now."""
        for thread in self._threads.values():
            thread.close()
        self._threads.clear()
