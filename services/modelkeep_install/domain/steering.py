"""What may be done to a job in its state, and with which secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from modelkeep.exceptions import (
    FieldInvalidException,
    FieldViolation,
    TokenRequiredException,
    WrongStateException,
)
from modelkeep_common.urls import parse_url

from .jobs import Job, SourceKind, State, needs_of


def check_steerable(job: Job) -> None:
    """WrongStateException for a job that can neither be paused nor go on."""
    if job.state.final or job.cancel_requested:
        what = f"has ended ({job.state})" if job.state.final else "is being cancelled"
        raise WrongStateException(
            f"Install {job.id} {what}: it can neither be paused nor go on.",
            metadata={"id": str(job.id), "state": job.state, "allowed": "waiting,running,paused"},
        )


def check_retry(job: Job) -> None:
    """WrongStateException for a job that is not made anew."""
    if job.state not in (State.ERROR, State.CANCELLED):
        raise WrongStateException(
            f"Install {job.id} is {job.state}: only what failed or was cancelled is made anew.",
            metadata={"id": str(job.id), "state": job.state, "allowed": "error,cancelled"},
        )


def again(job: Job, *, uid: str, key: str, now: float, url: str, access_token: str) -> Job:
    """A job that asks for the same as one that ended, with secrets anew; it is not stored yet."""
    return Job(
        id=0,
        uid=uid,
        source=job.source,
        remote=job.remote,
        inplace=job.inplace,
        overrides=job.overrides,
        key=key,
        create_time=now,
        expected_sha256=job.expected_sha256,
        move=job.move,
        priority=job.priority,
        reuse=job.reuse,
        labels=job.labels,
        has_secret=bool(url or access_token),
        needs=needs_of(url, access_token),
        local_path=job.source.text if job.source.kind is SourceKind.PATH else "",
        retry_of_id=job.id,
    )


def take_over(old: Job, new: Job) -> tuple[Job, Job]:
    """(the old job, the new one) after the finished download of the old has become the new one's."""
    new = replace(
        new,
        staging_id=old.staging,
        staged_path=old.staged_path,
        local_path=old.staged_path,
        plan=old.plan,
        sha256=old.sha256,
        digests=old.digests,
        progress=old.progress,
    )
    # as it failed, before it was said where the download is kept
    return replace(old, staged_path="", local_path="", error=old.failure or old.error), new


def check_secrets(job: Job, has: Mapping[str, str]) -> None:
    """TokenRequiredException if a job's source takes secrets that are not at hand.

    Args:
        job: The job.
        has: What there is, by the names of :attr:`Job.needs`; an empty text is nothing.
    """
    needed = (job.needs or "access_token").split(",") if job.has_secret else []
    missing = [name for name in needed if not has[name]]
    if missing:
        needs = " and ".join(missing)
        raise TokenRequiredException(
            f"The credentials of install {job.id} were held in memory only, and are gone: give {needs}.",
            metadata={"id": str(job.id), "source": job.source.text, "needs": ",".join(missing)},
            remedy=f"Send the request again with {needs}.",
        )


def brought(job: Job, access_token: str, source_url: str) -> tuple[str, bytes | None]:
    """The address that a caller brings for a job, and what tells it from its like if it is the job's own.

    Raises:
        FieldInvalidException: It is another source's, or the source takes no secrets.
    """
    if job.source.kind is SourceKind.PATH and (access_token or source_url):
        field = "access_token" if access_token else "source_url"
        raise FieldInvalidException(
            "A local source takes no secrets: leave them out.",
            violations=[FieldViolation(field, "is for a source that is downloaded")],
        )
    if not source_url:
        return "", None
    if job.source.kind is not SourceKind.URL:
        raise FieldInvalidException(
            "A hub's source has no address to bring: give access_token.",
            violations=[FieldViolation("source_url", "is for an address")],
        )
    parsed = parse_url(source_url, "source_url")
    if parsed.shown == job.source.text:
        return source_url, parsed.mark
    if job.error is not None and job.error.reason == "ADDRESS_EXPIRED":
        return source_url, None
    raise FieldInvalidException(
        f"Install {job.id} is of {job.source.text}: give that address.",
        violations=[FieldViolation("source_url", "is not the job's own source")],
    )
