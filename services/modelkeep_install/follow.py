"""Following downloads: one watch for all installs, and the state of each for whoever waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from modelkeep.exceptions import UnknownJobIDException
from modelkeep_common.following import follow

from .domain.ports import DownloadNews, DownloadPort, DownloadState, DownloadStatus

#: Asked again after so long without news: a watch that hangs must not hang an install.
_DOUBT_S = 20.0
_LAST_RETRY_S = 5.0
ENDED = frozenset({DownloadState.COMPLETED, DownloadState.ERROR, DownloadState.CANCELLED})


class DownloadFollower:
    """Keeps one watch open while any install downloads, and none otherwise."""

    def __init__(self, downloads: DownloadPort) -> None:
        self._downloads = downloads
        self._queues: dict[int, asyncio.Queue[DownloadStatus | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def follow(self, download_id: int) -> AsyncGenerator[DownloadStatus, None]:
        """The present state and every later one until the download ends.

        Raises:
            UnknownJobIDException: DownloadService has forgotten it.
            UpstreamUnavailableException: DownloadService does not answer; call again later.
        """
        queue: asyncio.Queue[DownloadStatus | None] = asyncio.Queue()
        self._queues[download_id] = queue
        if self._task is None:
            self._task = asyncio.create_task(self._watch(), name="follow-downloads")
        try:
            status: DownloadStatus | None = await self._downloads.get(download_id)
            while status is not None:
                yield status
                if status.state in ENDED:
                    return
                try:
                    async with asyncio.timeout(_DOUBT_S):
                        status = await queue.get()
                except TimeoutError:
                    status = await self._downloads.get(download_id)
            raise UnknownJobIDException(
                f"DownloadService has forgotten download {download_id}.", metadata={"id": str(download_id)}
            )
        finally:
            self._queues.pop(download_id, None)
            if not self._queues:
                await self.close()

    async def close(self) -> None:
        """Ends the watch."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        await follow(self._downloads.watch, self._take, what="downloads", last_retry_s=_LAST_RETRY_S)

    async def _take(self, news: DownloadNews, is_first: bool) -> None:
        for status in news.statuses:
            self._tell(status.id, status)
        for removed in news.removed:
            self._tell(removed, None)

    def _tell(self, download_id: int, status: DownloadStatus | None) -> None:
        queue = self._queues.get(download_id)
        if queue is not None:
            queue.put_nowait(status)
