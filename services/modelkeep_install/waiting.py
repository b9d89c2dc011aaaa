"""Calls that answer when a job has ended: what installs a path at once, and what forgets a job."""

from __future__ import annotations

import contextlib

from modelkeep.exceptions import (
    BY_REASON,
    CancelledException,
    DeadlineExceededException,
    ModelkeepError,
    WrongStateException,
)

from .domain.jobs import Job, State
from .domain.requests import Caller, ImportRequest
from .installer import Installer


async def install_at_once(
    installer: Installer, request: ImportRequest, caller: Caller, patience_s: float
) -> tuple[Job, bytes]:
    """Makes the job of an import, and waits for its end.

    Returns:
        The job, which has completed, with its record.

    Raises:
        DeadlineExceededException: It goes on; the metadata say its number.
        CancelledException: Somebody cancelled it.
        ModelkeepError: As :meth:`Installer.import_model`, or as the job failed.
    """
    made, _ = await installer.import_model(request, caller)
    for job, record in await installer.wait([made.id], patience_s):
        if job.state is State.COMPLETED:
            return job, record
        if job.error is not None and job.state is State.ERROR:
            failed = BY_REASON.get(job.error.reason, ModelkeepError)
            raise failed(job.error.message, metadata=job.error.metadata)
        if job.state is not State.CANCELLED:
            raise DeadlineExceededException(
                f"Install {job.id} has not ended yet, and goes on: wait for it, or call again.",
                metadata={"id": str(job.id)},
            )
    raise CancelledException(
        f"Install {made.id} was cancelled by somebody.",
        metadata={"id": str(made.id)},
    )


async def delete_install(installer: Installer, job_id: int, patience_s: float) -> tuple[Job, bytes]:
    """Forgets a job, whatever its state; gives it as it was last, with its record.

    Raises:
        UnknownJobIDException: There is no such job.
        DeadlineExceededException: It was cancelled, and has not ended in time.
    """
    job, record = await installer.get(job_id)
    if not job.state.final:
        with contextlib.suppress(WrongStateException):  # it has ended meanwhile
            await installer.cancel(job_id)
        [(job, record)] = await installer.wait([job_id], patience_s) or [(job, record)]
    if not job.state.final:
        raise DeadlineExceededException(
            f"Install {job_id} is being cancelled, and has not ended yet: delete it again.",
            metadata={"id": str(job_id)},
        )
    await installer.prune(ids=[job_id])
    return job, record
