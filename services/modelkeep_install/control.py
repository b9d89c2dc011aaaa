"""What callers do to a job under way: let it stand still, and let it go on."""

from __future__ import annotations

import contextlib

from modelkeep.exceptions import UnknownJobIDException, WrongStateException

from .domain.jobs import Job, State
from .domain.ports import DownloadPort, JobStore
from .domain.steering import brought, check_secrets, check_steerable
from .runs import Calls, Runs


class Control:
    """Pauses jobs, and lets them go on."""

    def __init__(self, store: JobStore, runs: Runs, calls: Calls, downloads: DownloadPort) -> None:
        self._store = store
        self._runs = runs
        self._calls = calls
        self._downloads = downloads

    async def pause(self, job_id: int, patience_s: float) -> None:
        """Lets a job stand still, and waits so long until it does.

        Raises:
            UnknownJobIDException: There is no such job.
            WrongStateException: It has ended, or is being cancelled.
        """
        await self._calls.whole(self._pause(job_id))
        await self._runs.idle(job_id, patience_s)

    async def _pause(self, job_id: int) -> None:
        job = await self._store.request_pause(job_id)
        run = self._runs.get(job_id)
        if run is not None:
            run.hold()
        elif job.state is not State.PAUSED:
            self._runs.launch(job)  # it had stopped by a defect

    async def resume(self, job_id: int, access_token: str, source_url: str) -> None:
        """Lets a paused job go on, with secrets in place of those before; does nothing to one that is not.

        Raises:
            UnknownJobIDException: There is no such job.
            WrongStateException: It has ended, or is being cancelled.
            TokenRequiredException: It lacks secrets.
            FieldInvalidException: What is brought is another source's, or for none.
            ModelkeepError: DownloadService does not answer.
        """
        job = await self._store.get(job_id)
        check_steerable(job)
        if job.state is not State.PAUSED and not job.pause_requested:
            return
        url, mark = brought(job, access_token, source_url)
        await self._calls.whole(self.go_on(job, url, access_token, mark))

    async def go_on(self, job: Job, url: str, access_token: str, mark: bytes | None) -> None:
        """As :meth:`resume`, once it is known what is brought."""
        run = self._runs.get(job.id)
        self._check_secrets(job, url, access_token)
        if job.download_id and not job.staged_path:
            # Before the job is said to go on: what DownloadService refuses is the caller's to know. That it
            # has ended meanwhile, or is forgotten, the job finds out.
            with contextlib.suppress(WrongStateException, UnknownJobIDException):
                await self._downloads.start(job.download_id, access_token, url)
                url = access_token = ""
        held = job.pause_requested
        job = await self._store.request_resume(job.id, mark)
        if run is None:
            if held:
                self._runs.launch(job, url=url, access_token=access_token)
        elif held:
            run.go_on(url, access_token)
        else:
            run.bring(url, access_token)
        if (run := self._runs.get(job.id)) is not None:
            await run.went_on()  # else whoever watches it sees it paused still, and leaves

    def _check_secrets(self, job: Job, url: str, access_token: str) -> None:
        """TokenRequiredException if a job that has not asked for its source yet lacks what that takes."""
        kept_url, kept_token = self._runs.secrets(job.id)
        if job.awaits_secrets:
            check_secrets(job, {"access_token": access_token or kept_token, "source_url": url or kept_url})
