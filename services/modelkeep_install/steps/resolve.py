"""The first step of an install from a hub: DownloadService looks the source up."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import PurePosixPath

from modelkeep.backoff import Backoff
from modelkeep.exceptions import (
    ChecksumMismatchException,
    FieldInvalidException,
    FieldViolation,
    ModelkeepError,
    RateLimitedException,
    UnsafeFormatException,
    UpstreamUnavailableException,
)

from .. import files
from ..domain.jobs import JobError, Stage, State
from ..domain.plans import Plan
from ..domain.ports import OF_SOMEBODY
from ..probe import lone_pickle, pickle_in
from ..run import Run
from . import download

#: A hub that does not answer is asked so often, each time by several tries of DownloadService's.
TRIES = 5
#: Seconds before the second time, doubled for each further one.
_FIRST_WAIT_S, _LAST_WAIT_S = 1.0, 30.0
#: A hub that was asked too much, and does not say when to come back, is left alone for so long.
_RATE_LIMITED_S = 60.0


class _HubAway(Exception):
    """The hub does not answer, as opposed to DownloadService."""

    def __init__(self, error: UpstreamUnavailableException) -> None:
        super().__init__(error.message)
        self.error = error


async def look_up(run: Run) -> None:
    """Ends with ``plan`` filled.

    What a caller can bring pauses the job, and what the hub asks to wait for is waited for.

    Raises:
        ModelkeepError: The source cannot be had so.
    """
    waits, left = Backoff(_FIRST_WAIT_S, _LAST_WAIT_S), TRIES
    while run.job.plan is None:
        await download.await_secrets(run, Stage.RESOLVING)
        try:
            # a hub that hangs keeps nobody from pausing or cancelling the job
            plan = await run.ask(lambda: run.unless_cancelled(_resolve(run)))
        except OF_SOMEBODY as error:
            await download.await_caller(run, JobError.of(error), Stage.RESOLVING)
        except _HubAway as away:
            left -= 1
            # what is worth a single try is no better soon: a name that leads nowhere, as without a network
            if not left or away.error.metadata.get("max_attempts") == "1":
                raise away.error from None
            await _wait(run, away.error, waits.next(away.error.retry_after))
        except RateLimitedException as error:
            await _wait(run, error, error.retry_after or _RATE_LIMITED_S)
        else:
            assert plan is not None
            _take(run, plan)
    run.token.clear()


async def rehearse(run: Run) -> None:
    """The same, once: whatever is in its way is raised."""
    assert run.job.remote is not None
    _take(run, await run.tools.downloads.resolve(run.job.remote, run.access_token))


async def _resolve(run: Run) -> Plan:
    assert run.job.remote is not None
    try:
        return await run.tools.downloads.resolve(run.job.remote, run.access_token)
    except UpstreamUnavailableException as error:
        if "service" in error.metadata:
            raise
        raise _HubAway(error) from error


async def _wait(run: Run, error: ModelkeepError, seconds: float) -> None:
    waiting = JobError.of(error, retry_time=run.tools.now() + seconds)
    await run.enter(State.RUNNING, Stage.RESOLVING, error=waiting)
    # a token that comes meanwhile may be what the hub gives more to
    await run.unless_cancelled(asyncio.sleep(seconds), wake=run.token)
    run.token.clear()


def _take(run: Run, plan: Plan) -> None:
    """Keeps a plan that can be installed."""
    _check_pickles(run, plan)
    expected = run.job.expected_sha256
    if plan.is_folder:
        files.check_relative(file.path for file in plan.files)
        if expected:
            raise FieldInvalidException(
                f"{plan.source} comes to {len(plan.files)} files: leave expected_sha256 out.",
                violations=[FieldViolation("expected_sha256", "is for a single file")],
            )
    elif expected and plan.files[0].sha256 not in ("", expected):
        raise ChecksumMismatchException(
            f"{plan.source} has the SHA-256 {plan.files[0].sha256}, not {expected}.",
            metadata={"path": plan.files[0].path, "expected": expected, "actual": plan.files[0].sha256},
        )
    run.job = replace(run.job, plan=plan)


def _check_pickles(run: Run, plan: Plan) -> None:
    """Refuses before a byte is fetched what the probe would refuse for the names of its files."""
    if run.job.hints.type:
        return  # the caller knows more than names tell, and the bytes will
    names = [file.path for file in plan.files]
    if pickle := pickle_in(names) if plan.is_folder else lone_pickle(names):
        raise UnsafeFormatException(
            f"By its name {pickle} of {plan.source} is a pickle, which may run code when it is read, and no"
            " safetensors are beside it: nothing was fetched.",
            metadata={"path": pickle, "format": PurePosixPath(pickle).suffix.lower()},
            remedy="Take a variant or a model with safetensors. If it is no pickle in spite of its name, say"
            " what type of model it is (`--set type=lora`), and its bytes decide.",
        )
