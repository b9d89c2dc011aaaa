"""The installer: takes imports, runs them, and finds after a restart what it left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
import uuid
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from modelkeep.backoff import Backoff
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
from .digests import DigestWorker
from .domain.jobs import Job, Overrides, Source, SourceKind, State
from .domain.ports import DownloadPort, JobStore, LeasePort, RecordPort, StoredModel
from .domain.requests import Caller, FilePolicy, ImportRequest, JobFilter
from .domain.roots import ModelRoots
from .domain.system_errors import reading
from .follow import DownloadFollower
from .probe import Hints, ProbeResult, probe
from .relink import relink
from .run import Rehearsal, Run, Tools
from .steps import install, rehearse
from .uninstall import Uninstalled, Uninstalling

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Between two tries of what a fault of the store or of a peer interrupted, in seconds.
_FIRST_RETRY_S, _LAST_RETRY_S = 0.2, 10.0
#: Of an install from an address: its download has one more.
MAX_LABELS = 31
#: A drain waits so long for what callers have begun; the next start makes up for the rest.
_CALLS_END_S = 5.0


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
        news: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self._store = store
        self._roots = roots
        self._tools = Tools(store, records, downloads, DownloadFollower(downloads), roots, room, news)
        self._digests = DigestWorker(store, records, roots)
        self._uninstalling = Uninstalling(store, records, roots, loader)
        self._calls: set[asyncio.Task[Any]] = set()
        self._running: dict[int, tuple[asyncio.Task[None], Run]] = {}
        #: Set, and replaced, whenever a job begins or ends to run.
        self._changed = asyncio.Event()
        self._stopping = False

    # ---- life ----------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Sweeps what no job owns, and goes on with every job that has not ended."""
        await self._sweep()
        for job in await self._store.unfinished():
            self._launch(job)
        self._digests.start()
        self._uninstalling.start()

    async def stop(self) -> None:
        """Stops every job where it is; the next start goes on."""
        self._stopping = True
        tasks = [task for task, _ in self._running.values()]
        for task, run in list(self._running.values()):
            run.stopped.set()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._calls:
            await asyncio.wait(set(self._calls), timeout=_CALLS_END_S)
        await self._uninstalling.close()
        await self._digests.close()
        self._changed.set()

    async def close(self) -> None:
        """Ends the threads, after :meth:`stop`."""
        await self._tools.follower.close()
        await asyncio.to_thread(self._tools.quick.shutdown)
        await asyncio.to_thread(self._tools.copies.shutdown)

    async def _sweep(self) -> None:
        """Removes staging folders that no job owns, as those of pruned jobs."""
        # looked at before the jobs are: one that is made meanwhile keeps its own
        found = await self._quick(self._staged)
        owned = {job.id for job in await self._store.unfinished()} | set(await self._store.kept())
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

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Does work to its end, also when the caller goes away in its middle."""
        task = asyncio.ensure_future(work)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return await asyncio.shield(task)

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
        return await self._whole(self._submit(request, caller, *draft))

    async def rehearse(self, request: ImportRequest, caller: Caller) -> tuple[Job, bytes]:
        """The job that an import would make, with what can be told of its end; makes none.

        Raises:
            ModelkeepError: As :meth:`import_model`, or as the job would fail.
        """
        job, secret_url, _ = await self._draft(request, caller)
        run = Rehearsal(job, self._tools, url=secret_url, access_token=request.access_token)
        found = await rehearse(run)
        return run.job, found.message if found is not None else b""

    async def _draft(self, request: ImportRequest, caller: Caller) -> tuple[Job, str, bytes]:
        """A job that is not stored, its address if that has secrets, and what tells that from its like."""
        if request.url:
            if len(request.labels) > MAX_LABELS:
                violation = FieldViolation("labels", f"may have {MAX_LABELS} pairs for an address")
                raise FieldInvalidException("There are too many labels.", violations=[violation])
            parsed = parse_url(request.url, "source.url")
            refuse_page(parsed.url)
            source, inplace = Source(SourceKind.URL, parsed.shown), False
            secret_url, mark = request.url if parsed.has_secret else "", parsed.mark
        else:
            if request.expected_sha256:
                violation = FieldViolation("expected_sha256", "is for a file that is downloaded")
                raise FieldInvalidException(
                    "The hash of a local model is not checked: leave expected_sha256 out.",
                    violations=[violation],
                )
            path, staged = await self._quick(lambda: self._local(request.local_path, caller.principal))
            # what lies in a staging folder goes with its job: it can only be copied
            source, inplace = Source(SourceKind.PATH, str(path)), request.inplace and not staged
            secret_url, mark = "", b""
        job = Job(
            id=0,
            uid=str(uuid.uuid4()),
            source=source,
            inplace=inplace,
            overrides=request.overrides,
            key=secrets.token_hex(16),
            create_time=time.time(),
            expected_sha256=sha256_of(request.expected_sha256),
            priority=request.priority,
            reuse=request.reuse,
            labels=request.labels,
            has_secret=bool(secret_url or request.access_token),
            local_path=source.text if source.kind is SourceKind.PATH else "",
        )
        return job, secret_url, mark

    async def _submit(
        self, request: ImportRequest, caller: Caller, job: Job, secret_url: str, mark: bytes
    ) -> tuple[Job, bool]:
        """Stores the job and lets it run; never one without the other."""
        job, existing = await self._store.create(
            job,
            mark,
            request_id=caller.request_id,
            fingerprint=caller.fingerprint,
            principal=caller.principal.name,
            method=caller.method,
        )
        running = self._running.get(job.id)
        if running is not None:
            brings = request.access_token or secret_url
            if brings or running[1].download_is_paused:
                running[1].bring(secret_url, request.access_token)
        elif not job.state.final:
            self._launch(job, url=secret_url, access_token=request.access_token)
        return job, existing

    def _local(self, text: str, named_by: Principal) -> tuple[Path, bool]:
        path = self._roots.requested(text, "source.local_path", named_by)
        with reading(path):
            path.stat()
        return path, self._roots.is_staged(path)

    def _launch(self, job: Job, *, url: str = "", access_token: str = "") -> None:
        if self._stopping:
            return
        run = Run(job, self._tools, url=url, access_token=access_token)
        task = asyncio.create_task(self._run(run), name=f"install-{job.id}")
        self._running[job.id] = (task, run)
        self._wake()

    async def _run(self, run: Run) -> None:
        job_id, waits = run.job.id, Backoff(_FIRST_RETRY_S, _LAST_RETRY_S)
        try:
            while not run.job.state.final:
                try:
                    await install(run)
                except Exception:
                    # not even its end could be noted, as when the disk is full: it must not hang for ever
                    _log.exception("install %s stopped; tried again soon", job_id)
                    await self._find_again(run, waits)
            if run.job.state is State.COMPLETED:
                self._digests.wake()
        except ModelkeepError as error:
            _log.error("install %s is given up: %s", job_id, error)
        finally:
            self._running.pop(job_id, None)
            self._wake()

    async def _find_again(self, run: Run, waits: Backoff) -> None:
        """Waits until the store gives the job as it was stored last."""
        while True:
            await asyncio.sleep(waits.next())
            try:
                run.job = await self._store.get(run.job.id)
                return
            except ModelkeepError:
                raise
            except Exception as error:
                _log.info("the store does not give install %s yet: %s", run.job.id, error)

    async def cancel(self, job_id: int) -> Job:
        """Asks a job to end; it does soon."""
        return await self._whole(self._cancel(job_id))

    async def _cancel(self, job_id: int) -> Job:
        try:
            job = await self._store.request_cancel(job_id)
        except DiskFullException:
            await self._make_room(job_id)
            job = await self._store.request_cancel(job_id)
        running = self._running.get(job_id)
        if running is not None:
            running[1].request_cancel()
        elif not job.state.final:
            self._launch(job)  # it had stopped by a defect
        return job

    async def _make_room(self, job_id: int) -> None:
        """Stops a job whose cancel cannot be noted: what it had copied goes, and makes the room for that."""
        running = self._running.get(job_id)
        if running is not None:
            running[1].request_cancel()
            await asyncio.wait({running[0]}, timeout=_CALLS_END_S)

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
        return await self._whole(self._prune(await self._store.ended(ids=ids, states=states, before=before)))

    async def _prune(self, ids: Sequence[int]) -> int:
        try:
            count = await self._store.prune(ids)
        except DiskFullException:
            # what these jobs kept goes first, where it has to make the room
            await self._remove_staged(set(await self._store.kept()).intersection(ids))
            count = await self._store.prune(ids)
        await self._sweep()
        self._wake()
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
                        await self._ended(job_id)
        return [self._as_of_now(*found) for found in await self._store.present(wanted)]

    async def _ended(self, job_id: int) -> None:
        while True:
            changed = self._changed
            job = await self._store.get(job_id)
            if job.state.final or self._stopping:
                return
            await changed.wait()

    def _as_of_now(self, job: Job, record: bytes) -> tuple[Job, bytes]:
        """The job with its bytes as of now; the store has those of its last step."""
        running = self._running.get(job.id)
        if running is not None and not job.state.final:
            job = replace(job, progress=running[1].job.progress)
        return job, record

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

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
        return await self._whole(work)

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
        stored = await self._whole(work)
        self._digests.wake()
        return stored
