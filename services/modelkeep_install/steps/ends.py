"""How a job ends that installs nothing: nothing of it stays, but of a failed one the download, for later.

And how one stands still until a caller lets it go on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from modelkeep.exceptions import DiskFullException

from .. import files
from ..domain.jobs import JobError, SourceKind, State
from ..run import InstalledAlready, Run
from . import download, register


async def cancelled(run: Run) -> None:
    """Takes the download and everything staged away, then notes the end."""
    stored = await register.registered(run)
    if stored is not None:
        return await register.complete(run, stored)
    await download.cancel(run)
    await asyncio.to_thread(_remove_files, run)
    run.job = replace(run.job, end_time=run.tools.now(), staged_path="", local_path="")
    return await run.enter(State.CANCELLED)


async def held(run: Run) -> None:
    """Pauses the download, then notes it; does not where the job shall go on or end meanwhile."""
    await download.pause(run)
    if run.held.is_set() and not run.cancelled.is_set():
        await run.enter(State.PAUSED)


async def known(run: Run, found: InstalledAlready) -> None:
    """Ends with a model that was there; what was staged meanwhile goes."""
    roots, model = run.tools.roots, found.model
    if not run.job.staged_path:
        await download.cancel(run)
    run.job = replace(
        run.job,
        known_key=model.key,
        end_time=run.tools.now(),
        staged_path="",
        local_path=str(roots.locate(model.path, model.root_id)),
    )
    await run.enter(State.COMPLETED, record=model.message, digests=found.digests)
    # only now: a restart before that goes on with what is staged, and one after it sweeps it away
    await asyncio.to_thread(files.remove_tree, roots.staging(run.job.staging))


async def failed(run: Run, error: JobError) -> None:
    """Keeps a finished download, says where, and removes everything else."""
    fetched = run.job.source.kind is not SourceKind.PATH
    if run.job.failure is None:
        await _note_failure(run, error)
    else:
        error = run.job.failure  # what went wrong since, as noting the end, is not why it fails
    stored = await register.registered(run)
    if stored is not None:
        return await register.complete(run, stored)
    kept = ""
    if fetched and run.job.staged_path:
        kept = await asyncio.to_thread(_keep_download, run)
    else:
        await download.cancel(run)
        await asyncio.to_thread(_remove_files, run)
    if kept:
        # What no overrides make a model of is only there to look at.
        of_no_use = error.reason in ("INVALID_MODEL", "UNSAFE_FORMAT") and not error.metadata.get("missing")
        where = f", as {kept}." if of_no_use else f": install from {kept}."
        error = replace(
            error,
            message=f"{error.message} The download is kept until the job is pruned{where}",
            metadata={**error.metadata, "kept_path": kept},
        )
    local_path = kept or ("" if fetched else run.job.source.text)
    run.job = replace(run.job, end_time=run.tools.now(), staged_path=kept, local_path=local_path)
    return await run.enter(State.ERROR, error=error)


async def _note_failure(run: Run, error: JobError) -> None:
    """Before anything is cancelled or removed, so that a restart goes on with that."""
    run.job = replace(run.job, failure=error)
    try:
        await run.save()
    except DiskFullException:
        if run.job.source.kind is not SourceKind.PATH:
            raise
        # a copy is no loss, and what it took may be what is missing
        await asyncio.to_thread(files.remove_tree, run.tools.roots.staging(run.job.staging))
        await run.save()


def _keep_download(run: Run) -> str:
    staged = Path(run.job.staged_path)
    placed = run.tools.roots.home(run.job.key) / staged.name
    if placed.exists() and not staged.exists():
        staged.parent.mkdir(parents=True, exist_ok=True)
        placed.rename(staged)
    files.remove_empty(placed.parent, above=run.tools.roots.models_dir)
    return str(staged) if staged.exists() else ""


def _remove_files(run: Run) -> None:
    files.remove_tree(run.tools.roots.staging(run.job.staging))
    if not (run.job.inplace and run.job.source.kind is SourceKind.PATH):
        files.remove_tree(run.tools.roots.home(run.job.key))
