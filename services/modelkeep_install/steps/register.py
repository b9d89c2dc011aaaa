"""The last step: the record, and with it the end of a job that succeeded."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from modelkeep.exceptions import DuplicateModelException, DuplicatePathException, UnknownModelException

from .. import files
from ..domain.draft import digests_of, draft_of_job, listed
from ..domain.jobs import State
from ..domain.ports import StoredModel
from ..run import Run
from . import moving
from .known import path_taken


async def register(run: Run) -> None:
    """Writes the record, and ends the job."""
    roots, records = run.tools.roots, run.tools.records
    draft = draft_of_job(run.job, roots.models_dir, roots.root_id)
    run.job = job = replace(run.job, registering=True)
    await run.save()
    try:
        create = partial(records.create, draft, listed(job), job.request_id("create-model"))
        stored = await run.ask(create)
    except DuplicateModelException as error:
        # our own record, after longer than request ids are kept
        if error.metadata.get("key") != job.key:
            if isinstance(error, DuplicatePathException):
                raise path_taken(error.metadata["path"], error.metadata["key"]) from error
            raise
        stored = await run.ask(partial(records.get, job.key))
    await complete(run, stored)


async def complete(run: Run, stored: StoredModel) -> None:
    """Ends the job as COMPLETED, and with that write orders the digests of its files."""
    if run.job.move:
        await moving.leave(run)
    job = run.job
    await asyncio.to_thread(files.remove_tree, run.tools.roots.staging(job.staging))  # empty by now
    run.job = replace(job, end_time=run.tools.now(), staged_path="")
    await run.enter(State.COMPLETED, record=stored.message, digests=digests_of(job, job.key))


async def registered(run: Run) -> StoredModel | None:
    """The record, if a call whose answer was lost has made it."""

    async def get() -> StoredModel | None:
        try:
            return await run.tools.records.get(run.job.key)
        except UnknownModelException:
            return None

    return await run.ask(get, ending=True) if run.job.registering else None
