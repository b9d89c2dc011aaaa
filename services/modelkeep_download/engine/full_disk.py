"""Jobs that paused since their disk was full: they go on by themselves when there is room again."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from modelkeep.backoff import wait_after
from modelkeep_download.config import DownloadSettings
from modelkeep_download.domain.job import Job
from modelkeep_download.engine.ports import Clock, Timer, Tries


class FullDisk:
    """Looks for room now and then, ever more seldom as long as there is none. Belongs to the event loop.

    Args:
        to_come: Bytes that running jobs will still write to a file system, by its device.
        go_on: Puts a job for which there is room into the queue again.
        spawn: Carries work out; a drain waits for it.
    """

    def __init__(
        self,
        tries: Tries,
        clock: Clock,
        settings: DownloadSettings,
        to_come: Callable[[int], int],
        go_on: Callable[[int], Coroutine[Any, Any, None]],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._tries, self._clock, self._settings = tries, clock, settings
        self._to_come, self._go_on, self._spawn = to_come, go_on, spawn
        self._waiting: dict[int, Job] = {}
        #: Bytes that each job had when it paused last; a job that comes back with no more waits longer.
        self._had: dict[int, int] = {}
        self._looks = 0
        self._timer: Timer | None = None
        self._looking = False
        self._closed = False

    def heed(self, job: Job) -> None:
        """Take note of a job as it is now."""
        if job.awaits_room:
            if job.id not in self._waiting and job.bytes_done > self._had.get(job.id, -1):
                self._looks = 0
            self._waiting[job.id], self._had[job.id] = job, job.bytes_done
            self._look_later()
        else:
            self._waiting.pop(job.id, None)
            if job.state.terminal:
                self._had.pop(job.id, None)

    def close(self) -> None:
        """Look no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _look_later(self) -> None:
        if self._timer is None and not self._looking and self._waiting and not self._closed:
            self._looks += 1
            wait = wait_after(self._looks, self._settings.retry_base_s, self._settings.retry_cap_s)
            self._timer = self._clock.call_later(wait, self._begin_to_look)

    def _begin_to_look(self) -> None:
        self._timer = None
        if not self._closed:
            self._looking = True
            self._spawn(self._look())

    async def _look(self) -> None:
        try:
            # The better ones first: there may not be room for all.
            jobs = sorted(self._waiting.values(), key=lambda job: (job.priority, job.enqueue_order))
            reserve = self._settings.disk_reserve_bytes
            for job_id in await self._tries.with_room(jobs, reserve, self._to_come):
                if job_id in self._waiting and not self._closed:
                    await self._go_on(job_id)
        finally:
            self._looking = False
            self._look_later()
