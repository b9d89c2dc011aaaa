"""The first step of an install from a URL: a download into the job's staging folder, followed to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from modelkeep.exceptions import (
    FieldInvalidException,
    InvalidModelException,
    ModelkeepError,
    SourceNotFoundException,
    TokenRequiredException,
    UnknownJobIDException,
    WrongStateException,
)
from modelkeep_common.urls import may_hide_objects

from .. import files
from ..domain.jobs import Job, JobError, Stage, State, moved
from ..domain.ports import DownloadOrder, DownloadPort, DownloadState, DownloadStatus, JobStore
from ..domain.roots import ModelRoots
from ..follow import ENDED, DownloadFollower
from ..waits import FIRST_RETRY_S, LAST_RETRY_S, TRY_AGAIN, Cancelled, Control, Steps, or_cancel

#: Label of a download: the uid of the job that it is for.
_LABEL = "modelkeep.dev/install"


class DownloadFailed(Exception):
    """The download ended in ERROR; its error becomes the install's."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


def _secrets_gone(job: Job) -> TokenRequiredException:
    remedy, then = "import the same source again with access_token", "this job goes on"
    if not job.awaits_secrets and may_hide_objects(job.source.text):
        # it cannot be told any more whether an address that is shown alike is the one that was asked for
        remedy, then = "cancel this install, and import the source again", "cancel this job first"
    return TokenRequiredException(
        "The source's credentials were held in memory and went with a restart: install it again with them; "
        f"{then}.",
        metadata={"source": job.source.text, "remedy": remedy},
    )


class Downloading(Steps):
    """Orders a job's download, mirrors it, and orders it anew if DownloadService has forgotten it."""

    def __init__(
        self,
        store: JobStore,
        downloads: DownloadPort,
        roots: ModelRoots,
        *,
        saved: Callable[[Job], None],
        progressed: Callable[[Job], None],
    ) -> None:
        super().__init__(store, saved=saved, progressed=progressed)
        self._downloads = downloads
        self._follower = DownloadFollower(downloads)
        self._roots = roots

    async def close(self) -> None:
        """Ends the watch of downloads."""
        await self._follower.close()

    async def cancel(self, job: Job) -> Job:
        """Cancels the job's download; returns when it has ended.

        Until then it may still deliver, into a folder that is gone.
        """
        delay = FIRST_RETRY_S
        while job.download_id or job.ordering:
            try:
                download_id = job.download_id
                if not download_id:
                    # asked for, and the answer was lost: asking again tells its number
                    download_id = (await self._downloads.create(self._order_of(job))).id
                await self._end(download_id, job)
                return replace(job, download_id=download_id)
            except UnknownJobIDException:
                return job  # DownloadService has forgotten it
            except ModelkeepError as error:
                if not job.download_id and not isinstance(error, TRY_AGAIN) and error.code != "INTERNAL":
                    return job  # refused: there is none
                job = await self._wait_for_peer(job, error, delay)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LAST_RETRY_S)
        return job

    async def _end(self, download_id: int, job: Job) -> None:
        """Cancels a download and follows it to its end."""
        asked = False
        async with contextlib.aclosing(self._follower.follow(download_id)) as statuses:
            async for status in statuses:
                self._check_ours(status, job)
                if status.state not in ENDED and not asked:
                    await self._downloads.cancel(download_id)
                    asked = True

    @staticmethod
    def _check_ours(status: DownloadStatus, job: Job) -> None:
        """UnknownJobIDException if the number was given anew by a store that does not know our download."""
        if status.labels.get(_LABEL) != job.uid:
            raise UnknownJobIDException("This download is another job's.", metadata={"id": str(status.id)})

    async def download(self, job: Job, control: Control) -> Job:
        """Ends with ``staged_path`` set: the file is whole and durable in the staging folder."""
        if job.staged_path:
            return job
        staging = self._roots.staging(job.id)
        job = await self._stage(job, Stage.DOWNLOADING)
        while not job.staged_path:
            if not job.download_id:
                job = await self._order(job, control, staging)
            try:
                job = await self._follow(job, control, staging)
            except UnknownJobIDException:
                # DownloadService's store was lost: begin again, with a request id of its own
                await asyncio.to_thread(files.remove_tree, staging)
                job = await self._save(
                    replace(
                        job,
                        download_id=0,
                        ordering=False,
                        download_generation=job.download_generation + 1,
                    )
                )
        return job

    async def _order(self, job: Job, control: Control, staging: Path) -> Job:
        if job.has_secret and not (control.url or control.access_token):
            required = _secrets_gone(job)
            job = await self._save(moved(job, State.PAUSED, error=JobError.of(required)))
            await or_cancel(control.token.wait(), control)
            control.token.clear()
            job = await self._save(moved(job, State.RUNNING, Stage.DOWNLOADING))
        await asyncio.to_thread(files.make_folder, staging)
        asking = job = await self._save(replace(job, ordering=True))
        order = self._order_of(job, url=control.url, access_token=control.access_token)

        async def create() -> DownloadStatus:
            try:
                return await self._downloads.create(order)
            except ModelkeepError as error:
                if not isinstance(error, TRY_AGAIN):
                    await self._save(replace(asking, ordering=False))  # refused: there is none to cancel
                raise

        status, job = await self._with_peer(job, control, create)
        control.url = control.access_token = ""
        return await self._save(replace(job, download_id=status.id, ordering=False))

    def _order_of(self, job: Job, *, url: str = "", access_token: str = "") -> DownloadOrder:
        """The order of a job's download: the same request at every repetition, with secrets or without."""
        return DownloadOrder(
            url=url or job.source.text,
            folder=f"{self._roots.staging(job.id)}/",
            access_token=access_token,
            expected_sha256=job.expected_sha256,
            priority=job.priority,
            request_id=job.request_id(f"download/{job.download_generation}"),
            labels={_LABEL: job.uid},
        )

    async def _follow(self, job: Job, control: Control, staging: Path) -> Job:
        """Mirrors the download until it has delivered."""
        delay = FIRST_RETRY_S
        while True:
            statuses = self._follower.follow(job.download_id)
            try:
                while True:
                    if control.token.is_set():
                        await self._bring_token(job, control)
                    status = await or_cancel(
                        anext(statuses), control, wake=control.token if job.state is State.PAUSED else None
                    )
                    if status is None:
                        break  # a token came: say it, and look again
                    job = await self._mirror(job, status, staging)
                    delay = FIRST_RETRY_S
                    if job.staged_path:
                        return job
            except TRY_AGAIN as error:
                job = await self._wait_for_peer(job, error, delay)
                await or_cancel(asyncio.sleep(delay * random.uniform(0.8, 1.2)), control)
                delay = min(2 * delay, LAST_RETRY_S)
            finally:
                await statuses.aclose()

    async def _bring_token(self, job: Job, control: Control) -> None:
        """Hands a token that a caller brought to the paused download."""
        if control.access_token or control.url:
            # it went on, or ended, meanwhile; or this is not what it waits for
            with contextlib.suppress(WrongStateException, TokenRequiredException, FieldInvalidException):
                await self._downloads.start(job.download_id, control.access_token, control.url)
        control.token.clear()
        control.url = control.access_token = ""

    async def _mirror(self, job: Job, status: DownloadStatus, staging: Path) -> Job:
        self._check_ours(status, job)
        if status.state is DownloadState.COMPLETED:
            delivered = Path(status.path)
            if delivered.parent != staging:
                raise InvalidModelException(
                    f"DownloadService delivered to {delivered}, not into {staging}.",
                    metadata={"path": str(delivered), "detail": "outside the staging folder"},
                )
            files.check_name(delivered.name)
            if not await asyncio.to_thread(os.path.lexists, delivered):
                raise SourceNotFoundException(
                    f"DownloadService delivered {delivered}, and nothing is there: install it again, and see "
                    "that both services have the same models_dir.",
                    metadata={"source": job.source.text, "path": str(delivered)},
                )
            return await self._save(
                replace(
                    moved(job, State.RUNNING, Stage.PROBING),
                    staged_path=str(delivered),
                    local_path=str(delivered),
                    progress=replace(status.progress, bytes_per_second=0),
                )
            )
        if status.state is DownloadState.ERROR:
            raise DownloadFailed(status.error or JobError.of(RuntimeError("no error given")))
        if status.state is DownloadState.CANCELLED:
            raise Cancelled
        paused = status.state in (DownloadState.PAUSED, DownloadState.IDLE)
        if paused and (job.state is not State.PAUSED or job.error != status.error):
            job = await self._save(moved(job, State.PAUSED, Stage.DOWNLOADING, error=status.error))
        elif not paused and (job.state is State.PAUSED or job.stage is not Stage.DOWNLOADING):
            job = await self._save(moved(job, State.RUNNING, Stage.DOWNLOADING))
        job = replace(job, progress=status.progress)
        self._progressed(job)
        return job
