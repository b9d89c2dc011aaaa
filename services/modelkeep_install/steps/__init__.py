"""An install, from top to bottom: what is done, in which order, and how it ends.

Every step may be repeated, so that a restart goes on with the one that was interrupted. Those that touch
the outside can be: a download and a record are asked for with a request id made of the job and the step, and
a model gets its final name by one rename from the staging folder.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial

from modelkeep.exceptions import BY_REASON, ModelkeepError

from ..domain.jobs import Job, JobError, Progress, SourceKind, Stage
from ..domain.ports import StoredModel
from ..domain.traces import trace_of
from ..hashing import Interrupted
from ..run import Cancelled, Failed, Held, InstalledAlready, Rehearsal, Run, Step, blocking
from . import download, ends, known, moving, place, planned, probe, register, resolve

_log = logging.getLogger(__name__)

#: From a URL.
FETCHED = (
    Step(Stage.NONE, known.same_source, fills="download_id"),
    Step(Stage.DOWNLOADING, download.fetch, fills="staged_path"),
    Step(Stage.PROBING, blocking(probe.identify), fills="probe"),
    Step(Stage.HASHING, blocking(probe.take_hash), fills="files"),
    Step(Stage.NONE, known.same_content),
    Step(Stage.MOVING, blocking(place.move)),
    Step(Stage.REGISTERING, register.register),
)
#: From a hub.
PLANNED = (
    Step(Stage.RESOLVING, resolve.look_up, fills="plan"),
    Step(Stage.NONE, planned.same_plan, fills="download_id"),
    *FETCHED[1:],
)
#: From a path, into models_dir.
COPIED = (
    Step(Stage.NONE, known.same_source, fills="staged_path"),
    Step(Stage.PROBING, blocking(probe.identify), fills="probe"),
    Step(Stage.MOVING, blocking(place.copy, copies=True), fills="staged_path"),
    Step(Stage.HASHING, blocking(probe.take_hash), fills="files"),
    Step(Stage.NONE, known.same_content),
    Step(Stage.MOVING, blocking(place.move)),
    Step(Stage.REGISTERING, register.register),
)
#: From a path, into models_dir, and away from there.
MOVED = (
    Step(Stage.NONE, known.same_source, fills="staged_path"),
    Step(Stage.PROBING, blocking(probe.identify), fills="probe"),
    Step(Stage.NONE, moving.check_unlisted, fills="staged_path"),
    Step(Stage.MOVING, blocking(moving.take, copies=True), fills="staged_path"),
    Step(Stage.HASHING, blocking(probe.take_hash), fills="files"),
    Step(Stage.NONE, known.same_content),
    Step(Stage.MOVING, blocking(place.move)),
    Step(Stage.REGISTERING, register.register),
)
#: From a path, where it lies. It may have changed before a restart, which looks again.
IN_PLACE = (
    Step(Stage.NONE, known.same_source),
    Step(Stage.PROBING, blocking(probe.identify)),
    Step(Stage.HASHING, blocking(probe.take_hash)),
    Step(Stage.NONE, known.same_content),
    Step(Stage.REGISTERING, register.register),
)


async def install(run: Run) -> None:
    """Takes a job to its end, or to where it stands still. CancelledError leaves it for the next start."""
    try:
        await run.through(steps_of(run.job))
    except Held:
        await ends.held(run)
    except (Cancelled, Interrupted):
        if not run.cancelled.is_set() and run.stopped.is_set():
            raise asyncio.CancelledError from None  # a drain stopped the copy, not a caller
        await ends.cancelled(run)
    except InstalledAlready as found:
        await ends.known(run, found)
    except Failed as failed:
        # a peer's words, after its own detail: where its news came in
        name = BY_REASON.get(failed.error.reason, ModelkeepError).__name__
        detail = "\n\n".join(filter(None, (failed.error.detail, trace_of(failed, name=name))))
        await ends.failed(run, replace(failed.error, detail=detail))
    except ModelkeepError as error:
        await ends.failed(run, JobError.failure(error))
    except Exception as error:
        _log.exception("install %s failed by a defect", run.job.id)
        await ends.failed(run, JobError.failure(error))


def steps_of(job: Job) -> tuple[Step, ...]:
    """The steps that a job takes."""
    if job.source.kind is SourceKind.URL:
        return FETCHED
    if job.source.kind is SourceKind.HUB:
        return PLANNED
    return IN_PLACE if job.inplace else MOVED if job.move else COPIED


async def rehearse(run: Rehearsal) -> StoredModel | None:
    """Leaves in the job what can be told of an install without fetching or copying anything.

    Returns:
        The model that the job would end with, where it is installed already.

    Raises:
        ModelkeepError: The job would fail with that.
    """
    kind, models_dir = run.job.source.kind, run.tools.roots.models_dir
    local = kind is SourceKind.PATH
    try:
        if kind is SourceKind.HUB:
            await resolve.rehearse(run)
            await planned.same_plan(run)
        else:
            await known.same_source(run)
        if local:
            await blocking(probe.identify)(run)
            await blocking(probe.take_hash)(run)
            await known.same_content(run)
            await known.check_path(run)
            if run.job.move:
                await moving.check_unlisted(run)
    except InstalledAlready as found:
        model = found.model
        location = run.tools.roots.locate(model.path, model.root_id)
        run.job = replace(run.job, known_key=model.key, local_path=str(location))
        return model
    if not (local and run.job.inplace):
        run.job = replace(run.job, local_path=str(models_dir))
    if local:
        is_free = run.job.inplace or moving.is_a_rename(run.job, run.tools.roots)
        await blocking(partial(place.check_room, is_free=is_free))(run)
    elif run.job.plan is not None:
        run.job = replace(run.job, progress=Progress(0, run.job.plan.missing_bytes))
    return None
