"""How an install from elsewhere fetches: a download into the job's staging folder, followed to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from modelkeep.exceptions import (
    FieldInvalidException,
    ForbiddenPathException,
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
from ..domain.jobs import Job, JobError, SourceKind, Stage, State
from ..domain.plans import Plan
from ..domain.ports import (
    OF_SOMEBODY,
    TRY_AGAIN,
    DownloadOrder,
    DownloadState,
    DownloadStatus,
    OrderedFile,
)
from ..follow import ENDED
from ..run import Cancelled, Failed, Run, backoff

#: Label of a download: the uid of the job that it is for.
_LABEL = "modelkeep.dev/install"


#: Errors of a hub's download that somebody can do something about.
_OF_SOMEBODY = frozenset(error.reason for error in OF_SOMEBODY)


async def fetch(run: Run) -> None:
    """Ends with ``staged_path`` filled: what was fetched is whole and durable in the staging folder."""
    while not run.job.staged_path:
        if not run.job.download_id:
            await await_secrets(run, Stage.DOWNLOADING)
            await _order(run)
        if not run.job.download_id:
            continue  # refused, as it was asked for
        try:
            await _follow(run)
        except UnknownJobIDException:
            await _begin_again(run)  # DownloadService's store was lost
        except Failed as failed:
            if run.job.source.kind is not SourceKind.HUB or failed.error.reason not in _OF_SOMEBODY:
                raise
            await _begin_again(run)  # first: whoever lets the job go on wants another try
            await await_caller(run, failed.error, Stage.DOWNLOADING)


async def _begin_again(run: Run) -> None:
    """Forgets the download; the next one has a request id of its own."""
    await asyncio.to_thread(files.remove_tree, run.tools.roots.staging(run.job.staging))
    generation = run.job.download_generation + 1
    run.job = replace(run.job, download_id=0, ordering=False, download_generation=generation)
    await run.save()


async def await_caller(run: Run, error: JobError, stage: Stage) -> None:
    """Waits until a caller imports the same again, with what is missing or once it is there."""
    await run.enter(State.PAUSED, error=error)
    await run.unless_cancelled(run.token.wait())
    run.token.clear()
    await run.enter(State.RUNNING, stage)


async def pause(run: Run) -> None:
    """Pauses the job's download, if it has one, unless the job shall go on or end meanwhile."""
    waits = backoff()
    while run.held.is_set() and not run.cancelled.is_set():
        try:
            await _pause(run)
            return
        except TRY_AGAIN as error:
            await run.wait_for_peer(error, waits, ending=True)


async def _pause(run: Run) -> None:
    lost = run.job.has_secret and not (run.url or run.access_token)
    if run.job.ordering and not run.job.download_id and not lost:
        # asked for, and the answer was lost: asking again tells its number
        try:
            await _create(run)
        except QueueFullException:
            return  # there is none
    if run.job.download_id and not run.job.staged_path:
        # it has delivered or ended, or DownloadService has forgotten it: told when the job goes on
        with contextlib.suppress(UnknownJobIDException, WrongStateException):
            await run.tools.downloads.pause(run.job.download_id)


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


async def await_secrets(run: Run, stage: Stage) -> None:
    """Pauses until a caller brings what the source takes, if that went with a restart."""
    while run.job.has_secret and not (run.url or run.access_token):
        await await_caller(run, JobError.of(_secrets_gone(run.job)), stage)


async def _order(run: Run) -> None:
    """Asks for the download; ends without one where it must be asked for otherwise."""
    await asyncio.to_thread(files.make_folder, run.tools.roots.staging(run.job.staging))
    run.job = replace(run.job, ordering=True)
    await run.save()
    try:
        await run.ask(partial(_create, run))
    except ForbiddenPathException:
        if not (fewer := _with_fewer_copies(run.job.plan)):
            raise
        # what InstallService may read DownloadService need not be allowed to: then it is fetched
        run.job = replace(run.job, plan=fewer)
        await _begin_again(run)


async def _create(run: Run) -> None:
    """Asks for the download, and notes its number; its secrets are DownloadService's then."""
    order = _order_of(run, url=run.url, access_token=run.access_token)
    try:
        status = await run.tools.downloads.create(order)
    except ModelkeepError as error:
        if not isinstance(error, TRY_AGAIN):
            run.job = replace(run.job, ordering=False)  # refused: there is none to cancel
            await run.save()
        raise
    run.url = run.access_token = ""
    run.job = replace(run.job, download_id=status.id, ordering=False)
    await run.save()


def _with_fewer_copies(plan: Plan | None) -> Plan | None:
    """The plan without those local copies that are nearest to being refused; None where it has none."""
    if plan is None or not any(file.local_copy for file in plan.files):
        return None
    cached = any(file.local_copy == file.cached_path != "" for file in plan.files)
    kept = tuple(
        replace(file, local_copy="") if not cached or file.local_copy == file.cached_path else file
        for file in plan.files
    )
    return replace(plan, files=kept)


def _order_of(run: Run, *, url: str = "", access_token: str = "") -> DownloadOrder:
    """The order of a job's download: the same request at every repetition, with secrets or without."""
    job = run.job
    several = _files_of(job.plan)
    planned = job.plan is not None and not several
    return DownloadOrder(
        url="" if several else url or (job.plan.files[0].url if job.plan is not None else job.source.text),
        folder=f"{run.tools.roots.staging(job.staging)}/",
        access_token=access_token,
        expected_sha256="" if several else job.one_sha256,
        priority=job.priority,
        request_id=job.request_id(f"download/{job.download_generation}"),
        labels={**job.labels, _LABEL: job.uid},
        filename=job.plan.file_name if job.plan is not None and planned else "",
        files=several,
    )


def _files_of(plan: Plan | None) -> tuple[OrderedFile, ...]:
    """What is ordered as several files: those of a folder, or one that is copied from here."""
    if plan is None or not (plan.is_folder or plan.files[0].local_copy):
        return ()
    home = f"{plan.file_name}/"
    return tuple(
        OrderedFile(
            file.url,
            f"{home}{file.path}" if plan.is_folder else plan.file_name,
            file.size_bytes,
            file.sha256,
            file.local_copy,
        )
        for file in plan.files
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
    if run.access_token or run.url or run.is_paused:
        # it went on, or ended, meanwhile; or this is not what it waits for
        with contextlib.suppress(WrongStateException, TokenRequiredException, FieldInvalidException):
            await run.tools.downloads.start(run.job.download_id, run.access_token, run.url)
    run.token.clear()
    run.url = run.access_token = ""


async def _take(run: Run, status: DownloadStatus) -> None:
    """Takes what was delivered, if it is there, and where it shall be."""
    delivered, staging, plan = Path(status.path), run.tools.roots.staging(run.job.staging), run.job.plan
    several = plan is not None and bool(_files_of(plan))
    if (delivered if several else delivered.parent) != staging:
        raise InvalidModelException(
            f"DownloadService delivered to {delivered}, not into {staging}.",
            metadata={"path": str(delivered), "detail": "outside the staging folder"},
            remedy="Give both services the same models folder, then install again.",
        )
    if plan is not None and several:
        delivered /= plan.file_name
        # each file's SHA-256 is told of a single download alone
        status = await run.ask(partial(run.tools.downloads.get, run.job.download_id))
    files.check_name(delivered.name)
    if not await asyncio.to_thread(os.path.lexists, delivered):
        raise SourceNotFoundException(
            f"DownloadService delivered {delivered}, and nothing is there: install it again, and see "
            "that both services have the same models_dir.",
            metadata={"source": run.job.source.text, "path": str(delivered)},
        )
    progress = replace(status.progress, bytes_per_second=0)
    run.job = replace(run.job, staged_path=str(delivered), local_path=str(delivered), progress=progress)
    if plan is not None and several and plan.is_folder:
        home = f"{plan.file_name}/"
        digests = {path.removeprefix(home): sha256 for path, sha256 in status.digests.items()}
        run.job = replace(run.job, digests=digests)
    else:
        run.job = replace(run.job, sha256=status.sha256 or next(iter(status.digests.values()), ""))


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
