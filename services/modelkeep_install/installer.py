"""The installer: takes imports, runs them, and finds after a restart what it left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from modelkeep.exceptions import (
    DiskFullException,
    FieldInvalidException,
    FieldViolation,
    ModelkeepError,
    UnknownJobIDException,
)
from modelkeep_common.auth import Principal
from modelkeep_common.hash_forms import sha256_of
from modelkeep_common.pages import refuse_page
from modelkeep_common.paths import STAGING
from modelkeep_common.room import Room
from modelkeep_common.urls import parse_url

from . import files
from .control import Control
from .digests import DigestWorker
from .domain.jobs import Job, Overrides, Source, SourceKind, State, needs_of
from .domain.ports import DownloadPort, JobStore, LeasePort, RecordPort, StoredModel
from .domain.requests import Caller, FilePolicy, ImportRequest, JobFilter
from .domain.roots import ModelRoots
from .domain.sources import named
from .domain.system_errors import reading
from .follow import DownloadFollower
from .probe import Hints, ProbeResult, probe
from .relink import relink
from .retrying import Retrying
from .run import Rehearsal, Tools
from .runs import CALLS_END_S, Calls, Runs
from .steps import rehearse
from .steps.moving import check_movable
from .uninstall import Uninstalled, Uninstalling

_log = logging.getLogger(__name__)

T = TypeVar("T")

_NO_PATH = "Give a repository (owner/name) or an address as source.remote, and a path as an absolute one."
#: Of an install from an address: its download has one more.
MAX_LABELS = 31


class _Draft(NamedTuple):
    """A job that is not stored, and what of its source is held in memory only."""

    job: Job
    #: The address, if that has secrets.
    url: str
    access_token: str
    #: Tells the source from others that are shown alike.
    mark: bytes


class Installer:
    """All that InstallService does, without the wire."""

    def __init__(
        self,
        store: JobStore,
        records: RecordPort,
        downloads: DownloadPort,
        roots: ModelRoots,
        *,
        room: Room,
        loader: LeasePort | None = None,
        mirrors: Collection[str] = (),
        news: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self._store = store
        self._roots = roots
        self._mirrors = mirrors
        self._digests = DigestWorker(store, records, roots)
        self._uninstalling = Uninstalling(store, records, roots, loader)
        follower, spare = DownloadFollower(downloads), self._uninstalling.spare
        self._tools = Tools(store, records, downloads, follower, roots, room, news, spare)
        self._calls = Calls()
        self._runs = Runs(store, self._tools, self._digests.wake)
        self.retrying = Retrying(store, self._runs, self._calls, roots)
        self.control = Control(store, self._runs, self._calls, downloads)

    # ---- life ----------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Sweeps what no job owns, and goes on with every job that has not ended."""
        await self._sweep()
        for job in await self._store.unfinished():
            if not job.is_held:
                self._runs.launch(job)
        self._digests.start()
        self._uninstalling.start()

    async def stop(self) -> None:
        """Stops every job where it is; the next start goes on."""
        await self._runs.stop()
        await self._calls.end()
        await self._uninstalling.close()
        await self._digests.close()
        self._runs.wake()

    async def close(self) -> None:
        """Ends the threads, after :meth:`stop`."""
        await self._tools.follower.close()
        await asyncio.to_thread(self._tools.quick.shutdown)
        await asyncio.to_thread(self._tools.copies.shutdown)

    async def _sweep(self) -> None:
        """Removes staging folders that no job owns, as those of pruned jobs."""
        # looked at before the jobs are: one that is made meanwhile keeps its own
        found = await self._quick(self._staged)
        owned = {job.staging for job in await self._store.unfinished()} | set(await self._store.kept())
        await self._remove_staged(found - owned)

    async def _remove_staged(self, job_ids: Iterable[int]) -> None:
        for job_id in job_ids:
            folder = self._roots.staging(job_id)
            _log.info("removing a staging folder that no job owns: %s", folder.name)
            await self._quick(partial(files.remove_tree, folder))

    def _staged(self) -> set[int]:
        staging = self._roots.models_dir / STAGING
        if not staging.is_dir():
            return set()
        # others there are DownloadService's own
        return {int(folder.name) for folder in staging.iterdir() if re.fullmatch("[1-9][0-9]*", folder.name)}

    async def _quick(self, work: Callable[[], T]) -> T:
        """Does short work with files off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._tools.quick, work)

    # ---- jobs ----------------------------------------------------------------------------------------
    async def get(self, job_id: int) -> tuple[Job, bytes]:
        """A job as of now, with its record; UnknownJobIDException if there is none."""
        return self._as_of_now(*await self._store.get_with_record(job_id))

    async def page(
        self, wanted: JobFilter, *, before: int | None, limit: int
    ) -> tuple[list[tuple[Job, bytes]], str]:
        """At most ``limit`` jobs as of now with their records, newest first, and a token for a watch."""
        jobs, token = await self._store.page(wanted, before=before, limit=limit)
        return [self._as_of_now(*found) for found in jobs], token

    async def last_changes(self, ids: Sequence[int]) -> list[tuple[bool, int]]:
        """(whether it has ended, revision of its last change) of those of the jobs that are there."""
        return [(job.state.final, job.revision) for job, _ in await self._store.present(ids)]

    async def import_model(self, request: ImportRequest, caller: Caller) -> tuple[Job, bool]:
        """Makes a job, or answers with the one under way (True) for the same source and arguments.

        Raises:
            FieldInvalidException, ForbiddenPathException, SourceNotFoundException: The source is bad.
            InstallInProgressException: The same source is under way with other arguments.
            RequestIdReusedException: The request id was used for another request.
        """
        draft = await self._draft(request, caller)
        return await self._calls.whole(self._submit(draft, caller))

    async def submitted(self) -> None:
        """Waits until the imports begun by now are stored as jobs, those of callers that left included."""
        await self._calls.end()

    async def rehearse(self, request: ImportRequest, caller: Caller) -> tuple[Job, bytes]:
        """The job that an import would make, with what can be told of its end; makes none.

        Raises:
            ModelkeepError: As :meth:`import_model`, or as the job would fail.
        """
        draft = await self._draft(request, caller)
        run = Rehearsal(draft.job, self._tools, url=draft.url, access_token=draft.access_token)
        found = await rehearse(run)
        return run.job, found.message if found is not None else b""

    async def _draft(self, request: ImportRequest, caller: Caller) -> _Draft:
        """A job that is not stored."""
        asked = named(request, self._mirrors)
        secret_url, mark, inplace = "", b"", False
        if asked.kind is SourceKind.PATH:
            if request.expected_sha256:
                violation = FieldViolation("expected_sha256", "is for a file that is downloaded")
                raise FieldInvalidException(
                    "The hash of a local model is not checked: leave expected_sha256 out.",
                    violations=[violation],
                )
            if request.move and request.inplace:
                violation = FieldViolation("move", "excludes inplace")
                raise FieldInvalidException("What is moved does not stay in place.", violations=[violation])
            path, staged = await self._quick(lambda: self._local(asked.text, caller.principal))
            # what lies in a staging folder goes with its job: it can only be copied
            text, inplace = str(path), request.inplace and not staged
            if request.move:
                await self._quick(partial(check_movable, path, self._roots))
        else:
            if request.move:
                violation = FieldViolation("move", "is for a local source")
                raise FieldInvalidException(
                    "What is fetched is not moved: leave move out.", violations=[violation]
                )
            if len(request.labels) > MAX_LABELS:
                violation = FieldViolation("labels", f"may have {MAX_LABELS} pairs for what is downloaded")
                raise FieldInvalidException("There are too many labels.", violations=[violation])
            text = asked.text
        if asked.kind is SourceKind.URL:
            parsed = parse_url(asked.text, "source.url")
            refuse_page(parsed.url)
            text, mark = parsed.shown, parsed.mark
            secret_url = asked.text if parsed.has_secret else ""
        token = request.access_token or asked.access_token
        job = Job(
            id=0,
            uid=str(uuid.uuid4()),
            source=Source(asked.kind, text),
            remote=asked.remote,
            inplace=inplace,
            move=request.move,
            overrides=request.overrides,
            key=secrets.token_hex(16),
            create_time=time.time(),
            expected_sha256=sha256_of(request.expected_sha256),
            priority=request.priority,
            reuse=request.reuse,
            labels=request.labels,
            has_secret=bool(secret_url or token),
            needs=needs_of(secret_url, token),
            local_path=text if asked.kind is SourceKind.PATH else "",
        )
        return _Draft(job, secret_url, token, mark)

    async def _submit(self, draft: _Draft, caller: Caller) -> tuple[Job, bool]:
        """Stores the job and lets it run; never one without the other."""
        job, existing = await self._store.create(
            draft.job,
            draft.mark,
            request_id=caller.request_id,
            fingerprint=caller.fingerprint,
            principal=caller.principal.name,
            method=caller.method,
        )
        run = self._runs.get(job.id)
        if job.pause_requested:
            await self.control.go_on(job, draft.url, draft.access_token, draft.mark)
        elif run is not None:
            if draft.access_token or draft.url or run.is_paused:
                run.bring(draft.url, draft.access_token)
        elif not job.state.final:
            self._runs.launch(job, url=draft.url, access_token=draft.access_token)
        if job.state is State.PAUSED and (run := self._runs.get(job.id)) is not None:
            await run.went_on()  # else whoever joins it sees it paused still, and leaves
            job = run.job
        return job, existing

    def _local(self, text: str, named_by: Principal) -> tuple[Path, bool]:
        path = self._roots.requested(text, "source.local_path", named_by, remedy=_NO_PATH)
        with reading(path):
            path.stat()
        return path, self._roots.is_staged(path)

    async def cancel(self, job_id: int) -> Job:
        """Asks a job to end; it does soon."""
        return await self._calls.whole(self._cancel(job_id))

    async def _cancel(self, job_id: int) -> Job:
        try:
            job = await self._store.request_cancel(job_id)
        except DiskFullException:
            await self._make_room(job_id)
            job = await self._store.request_cancel(job_id)
        run = self._runs.get(job_id)
        if run is not None:
            run.request_cancel()
        elif not job.state.final:
            self._runs.launch(job)  # it is paused, or had stopped by a defect
        return job

    async def _make_room(self, job_id: int) -> None:
        """Stops a job whose cancel cannot be noted: what it had copied goes, and makes the room for that."""
        run = self._runs.get(job_id)
        if run is not None:
            run.request_cancel()
            await self._runs.idle(job_id, CALLS_END_S)

    async def prune(
        self, *, ids: Sequence[int] = (), states: Collection[State] = (), age_s: float = 0.0
    ) -> int:
        """Forgets ended jobs, with the downloads that failed ones kept; answers how many.

        Args:
            ids: Only these; none: all.
            states: Only those in one of these; none: all.
            age_s: Only those that ended so many seconds ago, or longer.

        Raises:
            UnknownJobIDException, WrongStateException: Of an id; nothing was forgotten.
        """
        before = time.time() - age_s if age_s else None
        return await self._calls.whole(
            self._prune(await self._store.ended(ids=ids, states=states, before=before))
        )

    async def _prune(self, ids: Sequence[int]) -> int:
        try:
            count = await self._store.prune(ids)
        except DiskFullException:
            # what these jobs kept goes first, where it has to make the room
            await self._remove_staged(await self._store.kept(ids))
            count = await self._store.prune(ids)
        await self._sweep()
        for job_id in ids:
            self._runs.forget(job_id)
        self._runs.wake()
        if not await self._store.any_left():
            # with them, files of a wrong hash that DownloadService set apart; a job under way may still
            # want to know how its download ended, so that those wait for a later call
            with contextlib.suppress(ModelkeepError):
                await self._tools.downloads.prune()
        return count

    async def wait(self, ids: Iterable[int], timeout_s: float) -> list[tuple[Job, bytes]]:
        """Waits until the jobs have ended or were pruned, or the time is over; without ids for all.

        Returns:
            Those that are still there, as of now, with their records.

        Raises:
            UnknownJobIDException: One of them is not there.
        """
        wanted = list(dict.fromkeys(ids))
        for job_id in wanted:
            await self._store.get(job_id)
        wanted = wanted or [job.id for job in await self._store.unfinished()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for job_id in wanted:
                    with contextlib.suppress(UnknownJobIDException):
                        await self._runs.ended(job_id)
        return [self._as_of_now(*found) for found in await self._store.present(wanted)]

    def _as_of_now(self, job: Job, record: bytes) -> tuple[Job, bytes]:
        """The job with its bytes as of now; the store has those of its last step."""
        run = self._runs.get(job.id)
        if run is not None and not job.state.final:
            job = replace(job, progress=run.job.progress)
        return job, record

    # ---- models --------------------------------------------------------------------------------------
    async def probe(self, path: str, overrides: Overrides, named_by: Principal) -> ProbeResult:
        """What a local path holds; changes nothing."""

        def work() -> ProbeResult:
            allowed = self._roots.requested(path, "path", named_by)
            return probe(allowed, Hints.of(overrides), opener=self._roots.open, check=self._roots.readable)

        return await self._quick(work)

    async def uninstall(
        self, key: str, policy: FilePolicy, etag: str, *, validate_only: bool = False, force: bool = False
    ) -> Uninstalled:
        """Deletes a record and, as the policy says, its files; see :mod:`.uninstall`."""
        work = self._uninstalling.uninstall(key, policy, etag, validate_only=validate_only, force=force)
        return await self._calls.whole(work)

    async def relink(
        self, key: str, path: str, named_by: Principal, *, etag: str, validate_only: bool
    ) -> StoredModel:
        """Says anew where a model is; see :mod:`.relink`."""
        work = relink(
            self._tools.records,
            self._store,
            self._roots,
            key,
            path,
            named_by,
            etag=etag,
            validate_only=validate_only,
        )
        stored = await self._calls.whole(work)
        self._digests.wake()
        return stored
