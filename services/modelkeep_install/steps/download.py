"""The first step of an install from a URL: a download into the job's staging folder, followed to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from modelkeep.exceptions import (
    FieldInvalidException,
    InvalidModelException,
    ModelkeepError,
    QueueFullException,
    SourceNotFoundException,
    TokenRequiredException,
    UnknownJobIDException,
    WrongStateException,
)
from modelkeep_common.urls import may_hide_objects

from .. import files
from ..domain.jobs import Job, JobError, Stage, State
from ..domain.ports import TRY_AGAIN, DownloadOrder, DownloadState, DownloadStatus
from ..follow import ENDED
from ..run import Cancelled, Failed, Run, backoff

#: Label of a download: the uid of the job that it is for.
_LABEL = "modelkeep.dev/install"


async def fetch(run: Run) -> None:
    """Ends with ``staged_path`` filled: the file is whole and durable in the staging folder."""
    while not run.job.staged_path:
        if not run.job.download_id:
            await _await_secrets(run)
            await _order(run)
        try:
            await _follow(run)
        except UnknownJobIDException:
            # DownloadService's store was lost: begin again, with a request id of its own
            await asyncio.to_thread(files.remove_tree, run.tools.roots.staging(run.job.id))
            generation = run.job.download_generation + 1
            run.job = replace(run.job, download_id=0, ordering=False, download_generation=generation)
            await run.save()


async def cancel(run: Run) -> None:
    """Cancels the job's download, if it has one; returns when that has ended.

    Until then it may still deliver, into a folder that is gone.
    """
    if run.job.download_id or run.job.ordering:
        await run.ask(partial(_cancel, run), ending=True)


async def _cancel(run: Run) -> None:
    if not run.job.download_id:
        # asked for, and the answer was lost: asking again tells its number
        try:
            download_id = (await run.tools.downloads.create(_order_of(run))).id
        except ModelkeepError as error:
            refused = not isinstance(error, TRY_AGAIN) and error.code != "INTERNAL"
            if refused or isinstance(error, QueueFullException):
                return  # there is none
            raise
        run.job = replace(run.job, download_id=download_id)
    with contextlib.suppress(UnknownJobIDException):  # DownloadService has forgotten it
        await _cancel_and_follow(run)


async def _cancel_and_follow(run: Run) -> None:
    asked = False
    async with contextlib.aclosing(run.tools.follower.follow(run.job.download_id)) as statuses:
        async for status in statuses:
            _check_ours(status, run.job)
            if status.state not in ENDED and not asked:
                await run.tools.downloads.cancel(run.job.download_id)
                asked = True


def _check_ours(status: DownloadStatus, job: Job) -> None:
    """UnknownJobIDException if the number was given anew by a store that does not know our download."""
    if status.labels.get(_LABEL) != job.uid:
        raise UnknownJobIDException("This download is another job's.", metadata={"id": str(status.id)})


async def _await_secrets(run: Run) -> None:
    """Pauses until a caller brings what the source takes, if that went with a restart."""
    if run.job.has_secret and not (run.url or run.access_token):
        await run.enter(State.PAUSED, error=JobError.of(_secrets_gone(run.job)))
        await run.unless_cancelled(run.token.wait())
        run.token.clear()
        await run.enter(State.RUNNING, Stage.DOWNLOADING)


async def _order(run: Run) -> None:
    await asyncio.to_thread(files.make_folder, run.tools.roots.staging(run.job.id))
    run.job = replace(run.job, ordering=True)
    await run.save()
    order = _order_of(run, url=run.url, access_token=run.access_token)

    async def create() -> DownloadStatus:
        try:
            return await run.tools.downloads.create(order)
        except ModelkeepError as error:
            if not isinstance(error, TRY_AGAIN):
                run.job = replace(run.job, ordering=False)  # refused: there is none to cancel
                await run.save()
            raise

    status = await run.ask(create)
    run.url = run.access_token = ""
    run.job = replace(run.job, download_id=status.id, ordering=False)
    await run.save()


def _order_of(run: Run, *, url: str = "", access_token: str = "") -> DownloadOrder:
    """The order of a job's download: the same request at every repetition, with secrets or without."""
    job = run.job
    return DownloadOrder(
        url=url or job.source.text,
        folder=f"{run.tools.roots.staging(job.id)}/",
        access_token=access_token,
        expected_sha256=job.expected_sha256,
        priority=job.priority,
        request_id=job.request_id(f"download/{job.download_generation}"),
        labels={**job.labels, _LABEL: job.uid},
    )


async def _follow(run: Run) -> None:
    """Mirrors the download until it has delivered."""
    waits = backoff()
    while True:
        statuses = run.tools.follower.follow(run.job.download_id)
        try:
            while True:
                if run.token.is_set():
                    await _bring_token(run)
                wake = run.token if run.job.state is State.PAUSED else None
                status = await run.unless_cancelled(anext(statuses), wake=wake)
                if status is None:
                    break  # a token came: say it, and look again
                _check_ours(status, run.job)
                if status.state is DownloadState.COMPLETED:
                    return await _take(run, status)
                await _mirror(run, status)
                waits.reset()
        except TRY_AGAIN as error:
            await run.wait_for_peer(error, waits)
        finally:
            await statuses.aclose()


async def _bring_token(run: Run) -> None:
    """Lets the paused download go on, with what a caller brought."""
    if run.access_token or run.url or run.download_is_paused:
        # it went on, or ended, meanwhile; or this is not what it waits for
        with contextlib.suppress(WrongStateException, TokenRequiredException, FieldInvalidException):
            await run.tools.downloads.start(run.job.download_id, run.access_token, run.url)
    run.token.clear()
    run.url = run.access_token = ""


async def _take(run: Run, status: DownloadStatus) -> None:
    """Takes what was delivered, if it is there, and where it shall be."""
    delivered, staging = Path(status.path), run.tools.roots.staging(run.job.id)
    if delivered.parent != staging:
        raise InvalidModelException(
            f"DownloadService delivered to {delivered}, not into {staging}.",
            metadata={"path": str(delivered), "detail": "outside the staging folder"},
            remedy="Give both services the same models folder, then install again.",
        )
    files.check_name(delivered.name)
    if not await asyncio.to_thread(os.path.lexists, delivered):
        raise SourceNotFoundException(
            f"DownloadService delivered {delivered}, and nothing is there: install it again, and see "
            "that both services have the same models_dir.",
            metadata={"source": run.job.source.text, "path": str(delivered)},
        )
    progress = replace(status.progress, bytes_per_second=0)
    run.job = replace(run.job, staged_path=status.path, local_path=status.path, progress=progress)
    run.job = replace(run.job, sha256=status.sha256)


async def _mirror(run: Run, status: DownloadStatus) -> None:
    if status.state is DownloadState.ERROR:
        raise Failed(status.error or JobError.of(RuntimeError("no error given")))
    if status.state is DownloadState.CANCELLED:
        raise Cancelled
    paused = status.state in (DownloadState.PAUSED, DownloadState.IDLE)
    state = State.PAUSED if paused else State.RUNNING
    told = (run.job.state, run.job.stage, run.job.error, run.job.download_attempt)
    if told != (state, Stage.DOWNLOADING, status.error, status.attempt):
        run.job = replace(run.job, download_attempt=status.attempt)
        await run.enter(state, Stage.DOWNLOADING, error=status.error)
    run.progressed(status.progress)


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
