"""An install, from top to bottom: what is done, in which order, and how it ends.

Every step may be repeated, so that a restart goes on with the one that was interrupted. Those that touch
the outside can be: a download and a record are asked for with a request id made of the job and the step, and
a model gets its final name by one rename from the staging folder.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from modelkeep.exceptions import ModelkeepError

from ..domain.jobs import Job, JobError, SourceKind, Stage
from ..domain.ports import StoredModel
from ..hashing import Interrupted
from ..run import Cancelled, Failed, InstalledAlready, Rehearsal, Run, Step, blocking
from . import download, ends, known, place, probe, register

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
#: From a path, where it lies. It may have changed before a restart, which looks again.
IN_PLACE = (
    Step(Stage.NONE, known.same_source),
    Step(Stage.PROBING, blocking(probe.identify)),
    Step(Stage.HASHING, blocking(probe.take_hash)),
    Step(Stage.NONE, known.same_content),
    Step(Stage.REGISTERING, register.register),
)


async def install(run: Run) -> None:
    """Takes a job to its end, from wherever it is. CancelledError leaves it for the next start."""
    try:
        await run.through(steps_of(run.job))
    except (Cancelled, Interrupted):
        if not run.cancelled.is_set() and run.stopped.is_set():
            raise asyncio.CancelledError from None  # a drain stopped the copy, not a caller
        await ends.cancelled(run)
    except InstalledAlready as found:
        await ends.known(run, found)
    except Failed as failed:
        await ends.failed(run, failed.error)
    except ModelkeepError as error:
        await ends.failed(run, JobError.of(error))
    except Exception as error:
        _log.exception("install %s failed by a defect", run.job.id)
        await ends.failed(run, JobError.of(error))


def steps_of(job: Job) -> tuple[Step, ...]:
    """The steps that a job takes."""
    if job.source.kind is SourceKind.URL:
        return FETCHED
    return IN_PLACE if job.inplace else COPIED


async def rehearse(run: Rehearsal) -> StoredModel | None:
    """Leaves in the job what can be told of an install without fetching or copying anything.

    Returns:
        The model that the job would end with, where it is installed already.

    Raises:
        ModelkeepError: The job would fail with that.
    """
    local = run.job.source.kind is SourceKind.PATH
    models_dir = run.tools.roots.models_dir
    try:
        await known.same_source(run)
        if local:
            await blocking(probe.identify)(run)
            await blocking(probe.take_hash)(run)
            await known.same_content(run)
            await known.check_path(run)
    except InstalledAlready as found:
        model = found.model
        location = run.tools.roots.locate(model.path, model.root_id)
        run.job = replace(run.job, known_key=model.key, local_path=str(location))
        return model
    if not (local and run.job.inplace):
        run.job = replace(run.job, local_path=str(models_dir))
    if local:
        await blocking(place.check_room)(run)
    return None
