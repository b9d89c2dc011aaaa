"""Jobs that failed or were cancelled, made anew from what they left."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelkeep.exceptions import FieldInvalidException, FieldViolation, TokenRequiredException
from modelkeep_common.auth import Principal
from modelkeep_common.urls import mark_of

from .domain.jobs import Job, SourceKind, State
from .domain.ports import JobStore
from .domain.requests import Caller
from .domain.roots import ModelRoots
from .domain.steering import again, brought, check_retry, check_secrets
from .domain.system_errors import reading
from .runs import Calls, Runs


@dataclass(frozen=True, slots=True)
class _Plan:
    """A job to make: of which, with which secrets, and what tells its source from its like."""

    old: Job
    new: Job
    url: str
    access_token: str
    mark: bytes
    takes_over: bool


class Retrying:
    """Makes jobs anew."""

    def __init__(self, store: JobStore, runs: Runs, calls: Calls, roots: ModelRoots) -> None:
        self._store = store
        self._runs = runs
        self._calls = calls
        self._roots = roots

    async def meant(self, ids: Sequence[int], *, all_failed: bool) -> list[Job]:
        """The jobs that a caller wants anew: those named, or all that failed and were not made anew since.

        Raises:
            FieldInvalidException: Neither or both are said.
            UnknownJobIDException, WrongStateException: Of a job that is named.
        """
        if bool(ids) == all_failed:
            what = "excludes all_failed" if ids else "must be set where all_failed is not"
            raise FieldInvalidException("", violations=[FieldViolation("ids", what)])
        if all_failed:
            return await self._store.failed()
        jobs = [await self._store.get(job_id) for job_id in dict.fromkeys(ids)]
        for job in jobs:
            check_retry(job)
        return jobs

    async def retry(
        self, jobs: Sequence[Job], access_token: str, source_url: str, caller: Caller, *, lenient: bool
    ) -> tuple[list[int], list[int]]:
        """Makes a job for each; (the numbers of these, those of jobs that are left out for want of secrets).

        Args:
            jobs: As :meth:`meant` gives them.
            access_token, source_url: Secrets of the source, for a single job.
            caller: Who asks.
            lenient: Leave out jobs that lack secrets.

        Raises:
            FieldInvalidException: Secrets are given for several jobs, or are another source's.
            TokenRequiredException: A job lacks secrets.
            ForbiddenPathException, SourceNotFoundException: Of a local source. In all cases nothing was made.
        """
        if (access_token or source_url) and len(jobs) != 1:
            field = "access_token" if access_token else "source_url"
            raise FieldInvalidException("", violations=[FieldViolation(field, "is for a single job")])
        plans, left_out = [], []
        for job in jobs:
            try:
                plans.append(await self._plan(job, access_token, source_url, caller.principal))
            except TokenRequiredException:
                if not lenient:
                    raise
                left_out.append(job.id)
        return [await self._calls.whole(self._begin(plan, caller)) for plan in plans], left_out

    async def _plan(self, old: Job, access_token: str, source_url: str, principal: Principal) -> _Plan:
        url, mark = brought(old, access_token, source_url)
        takes_over = bool(old.staged_path) and await asyncio.to_thread(os.path.lexists, old.staged_path)
        if not takes_over:
            check_secrets(old, {"access_token": access_token, "source_url": url})
        if old.source.kind is SourceKind.PATH:
            await asyncio.to_thread(self._look, old.source.text, principal)
        if old.source.kind is not SourceKind.URL:
            mark = b""
        new = again(
            old,
            uid=str(uuid.uuid4()),
            key=secrets.token_hex(16),
            now=time.time(),
            url=url,
            access_token=access_token,
        )
        return _Plan(
            old, new, url, access_token, mark_of(old.source.text) if mark is None else mark, takes_over
        )

    def _look(self, text: str, principal: Principal) -> None:
        path = self._roots.requested(text, "ids", principal)
        with reading(path):
            Path(path).stat()

    async def _begin(self, plan: _Plan, caller: Caller) -> int:
        request_id = (
            str(uuid.uuid5(uuid.UUID(caller.request_id), str(plan.old.id))) if caller.request_id else ""
        )
        job, existing = await self._store.create(
            plan.new,
            plan.mark,
            request_id=request_id,
            fingerprint=caller.fingerprint,
            principal=caller.principal.name,
            method=caller.method,
            takes_over=plan.old.id if plan.takes_over else 0,
        )
        if not existing and job.state is State.WAITING:
            self._runs.launch(job, url=plan.url, access_token=plan.access_token)
        return job.id
