"""Running one install: its steps, each of which a restart may repeat.

::

    URL:            download → probe → hash → place → register
    path, copied:   probe → copy → hash → place → register
    path, in place: probe → hash → register

What a step found is stored before the next begins. The steps that touch the outside are idempotent:
a download and a record are asked for with a request id made of the job and the step, and a model gets
its final name by one rename from the staging folder.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from modelkeep.exceptions import (
    DiskFullException,
    DuplicateModelException,
    ModelkeepError,
    UnknownModelException,
)
from modelkeep_common.room import Claim, Room

from . import files
from .domain.draft import check_known, draft_of_job, name_of_source
from .domain.jobs import FileFacts, Job, JobError, Progress, SourceKind, Stage, State, moved
from .domain.ports import DigestWork, DownloadPort, JobStore, RecordFile, RecordPort, StoredModel
from .domain.roots import ModelRoots
from .hashing import Interrupted, sampled_hash, sampled_hash_of_folder
from .probe import ProbeResult, probe
from .steps.download import DownloadFailed, Downloading
from .system_errors import writing
from .waits import (
    FIRST_RETRY_S,
    LAST_RETRY_S,
    Cancelled,
    Control,
    KeyedLocks,
    Steps,
    T,
    in_thread,
)

_log = logging.getLogger(__name__)


class Runner(Steps):
    """Runs jobs; one call of :meth:`run` a job."""

    def __init__(
        self,
        store: JobStore,
        records: RecordPort,
        downloads: DownloadPort,
        roots: ModelRoots,
        *,
        room: Room,
        saved: Callable[[Job], None],
        progressed: Callable[[Job], None],
        hashes_wanted: Callable[[], None],
    ) -> None:
        super().__init__(store, saved=saved, progressed=progressed)
        self._records = records
        self._downloading = Downloading(store, downloads, roots, saved=saved, progressed=progressed)
        self._roots = roots
        self._room = room
        self._hashes_wanted = hashes_wanted
        self._paths = KeyedLocks()
        # two pools: a copy of many gigabytes must not keep a probe waiting
        self._quick = ThreadPoolExecutor(4, thread_name_prefix="install")
        self._copies = ThreadPoolExecutor(2, thread_name_prefix="copy")

    async def quick(self, work: Callable[[], T]) -> T:
        """Does short work with files off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._quick, work)

    async def close(self) -> None:
        """Ends the threads; running jobs must have been stopped before."""
        await self._downloading.close()
        await asyncio.to_thread(self._quick.shutdown)
        await asyncio.to_thread(self._copies.shutdown)

    async def run(self, job: Job, control: Control) -> Job:
        """Takes a job to its end, from wherever it is. CancelledError leaves it for the next start."""
        try:
            job = await self._save(
                replace(
                    moved(job, State.RUNNING),
                    attempt=job.attempt + 1,
                    start_time=job.start_time or time.time(),
                )
            )
            if job.failure is not None:
                return await self._end_failed(job, job.failure)
            self._check(control)
            if job.source.kind is SourceKind.URL:
                job = await self._downloading.download(job, control)
                job = await self._place_staged(job, control)
            else:
                async with self._paths.hold(job.source.text):
                    job = await self._take_local(job, control)
            return await self._register(job, control)
        except (Cancelled, Interrupted):
            if not control.cancel.is_set() and control.stop.is_set():
                raise asyncio.CancelledError from None  # a drain stopped the copy, not a caller
            return await self._end_cancelled(await self._store.get(job.id))
        except DownloadFailed as failed:
            return await self._end_failed(await self._store.get(job.id), failed.error)
        except ModelkeepError as error:
            return await self._end_failed(await self._store.get(job.id), JobError.of(error))
        except Exception as error:
            _log.exception("install %s failed by a defect", job.id)
            return await self._end_failed(await self._store.get(job.id), JobError.of(error))

    # ---- steps ---------------------------------------------------------------------------------------
    async def _take_local(self, job: Job, control: Control) -> Job:
        """Probes a local model and, unless it stays, copies it to its place."""
        source = Path(job.source.text)
        if job.probe is None or job.inplace:  # what stays where it is may have changed before a restart
            job = await self._stage(job, Stage.PROBING)
            found = await self._probe(source, job)
            job = await self._save(replace(job, probe=found))
        self._check(control)
        if job.inplace:
            return await self._hash(replace(job, local_path=job.source.text), source, control)
        if not job.staged_path:
            job = await self._copy(job, source, control)
        return await self._place_staged(job, control)

    async def _copy(self, job: Job, source: Path, control: Control) -> Job:
        """Copies a local model into the staging folder, whole and durable before it is noted."""
        job = await self._stage(job, Stage.MOVING)
        assert job.probe is not None
        found = job.probe
        staging = self._roots.staging(job.id)
        name = files.check_name(name_of_source(job))
        done = 0
        begun = last = time.monotonic()
        loop = asyncio.get_running_loop()
        current = job

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            if time.monotonic() - last > 0.25:
                last = time.monotonic()
                rate = int(done / (last - begun)) if last > begun else 0
                moving = replace(current, progress=Progress(done, found.size_bytes, rate))
                loop.call_soon_threadsafe(self._progressed, moving)

        def copy(claim: Claim) -> None:
            files.remove_tree(staging)  # what a kill left of an earlier try
            files.make_folder(staging)
            how = files.Copying(
                self._roots.open,
                advance,
                stop=control.stop.is_set,
                ask=lambda: claim.want(max(1, found.size_bytes - done)),
            )
            if source.is_dir():
                files.check_relative(found.files)
                files.copy_tree(source, found.files, staging / name, how)
            else:
                files.copy_file(source, staging / name, how)
            with writing(staging):
                files.sync_folder(staging)

        def copy_whole_or_nothing() -> None:
            try:
                with self._room.claim() as claim:
                    try:
                        copy(claim)
                    except DiskFullException:
                        claim.want(max(1, found.size_bytes - done))  # says how much is missing
                        raise
            except BaseException:
                files.remove_tree(staging)  # before the end is noted, which may need the room
                raise

        await in_thread(self._copies, copy_whole_or_nothing, control)
        # the source may have changed since: the record tells of what was copied
        copied = await self._probe(staging / name, job, named=source)
        total = copied.size_bytes
        return await self._save(
            replace(job, probe=copied, staged_path=str(staging / name), progress=Progress(total, total))
        )

    async def _place_staged(self, job: Job, control: Control) -> Job:
        """Probes and hashes what is staged, and gives it its final name."""
        staged = Path(job.staged_path)
        target = self._roots.home(job.key) / staged.name
        if not job.files:
            if job.probe is None:
                job = await self._stage(job, Stage.PROBING)
                job = await self._save(replace(job, probe=await self._probe(staged, job)))
            self._check(control)
            job = await self._hash(job, staged, control)
        self._check(control)
        job = await self._stage(job, Stage.MOVING)
        await self.quick(lambda: files.place(staged, target))
        return await self._save(replace(job, local_path=str(target)))

    async def _probe(self, path: Path, job: Job, *, named: Path | None = None) -> ProbeResult:
        def work() -> ProbeResult:
            opener, check = self._roots.open, self._roots.readable
            return probe(path, job.overrides.hints, opener=opener, check=check, named=named)

        found = await self.quick(work)
        check_known(found, named or path)
        return found

    async def _hash(self, job: Job, path: Path, control: Control) -> Job:
        """The sampled hash and the facts of every file."""
        job = await self._stage(job, Stage.HASHING)
        self._check(control)
        assert job.probe is not None
        names = list(job.probe.files)

        def work() -> tuple[str, tuple[FileFacts, ...]]:
            if path.is_dir():
                facts = tuple(FileFacts(name, *files.file_facts(path / name)) for name in names)
                return sampled_hash_of_folder(path, names, self._roots.open), facts
            return sampled_hash(path, self._roots.open), (FileFacts(path.name, *files.file_facts(path)),)

        hash_, facts = await self.quick(work)
        if {file.path: file.size_bytes for file in facts} != dict(job.probe.files):
            raise files.source_changed(path)
        return await self._save(replace(job, hash=hash_, files=facts))

    async def _register(self, job: Job, control: Control) -> Job:
        """Writes the record."""
        self._check(control)
        job = await self._stage(replace(job, registering=True), Stage.REGISTERING)
        draft = draft_of_job(job, self._roots.models_dir, self._roots.root_id)
        listed = [RecordFile(file.path, file.size_bytes, file.modify_time) for file in job.files]

        async def create() -> StoredModel:
            try:
                return await self._records.create(draft, listed, job.request_id("create-model"))
            except DuplicateModelException as error:
                # our own record, after longer than request ids are kept
                if error.metadata.get("key") != job.key:
                    raise
                return await self._records.get(job.key)

        stored, job = await self._with_peer(job, control, create)
        return await self._complete(job, stored)

    async def _complete(self, job: Job, stored: StoredModel) -> Job:
        listed = tuple(RecordFile(file.path, file.size_bytes, file.modify_time) for file in job.files)
        expected = job.expected_sha256 if len(job.files) == 1 else ""
        work = DigestWork(job.key, job.uid, job.local_path, not self._is_file(job), expected, listed)
        await self.quick(lambda: files.remove_tree(self._roots.staging(job.id)))  # empty by now
        job = await self._save(
            replace(moved(job, State.COMPLETED), end_time=time.time(), staged_path=""),
            record=stored.message,
            digests=work,
        )
        self._hashes_wanted()
        return job

    @staticmethod
    def _is_file(job: Job) -> bool:
        return len(job.files) == 1 and job.files[0].path == Path(job.local_path).name

    # ---- ends ----------------------------------------------------------------------------------------
    async def _registered(self, job: Job) -> StoredModel | None:
        """The record, if a call whose answer was lost has made it."""
        delay = FIRST_RETRY_S
        while job.registering:
            try:
                return await self._records.get(job.key)
            except UnknownModelException:
                break
            except ModelkeepError as error:  # any other: without the answer the job cannot end
                job = await self._wait_for_peer(job, error, delay)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LAST_RETRY_S)
        return None

    async def _end_cancelled(self, job: Job) -> Job:
        """Takes the download and everything staged away, then notes the end."""
        stored = await self._registered(job)
        if stored is not None:
            return await self._complete(job, stored)
        job = await self._downloading.cancel(job)
        await self.quick(lambda: self._remove_files(job))
        return await self._save(
            replace(moved(job, State.CANCELLED), end_time=time.time(), staged_path="", local_path="")
        )

    async def _end_failed(self, job: Job, error: JobError) -> Job:
        """Keeps a finished download, says where, and removes everything else."""
        if job.failure is None:
            try:
                job = await self._save(replace(job, failure=error))
            except DiskFullException:
                if job.source.kind is SourceKind.URL:
                    raise
                # a copy is no loss, and what it took may be what is missing
                await self.quick(lambda: files.remove_tree(self._roots.staging(job.id)))
                job = await self._save(replace(job, failure=error))
        else:
            error = job.failure  # what went wrong since, as noting the end, is not why it fails
        stored = await self._registered(job)
        if stored is not None:
            return await self._complete(job, stored)
        kept = ""
        if job.source.kind is SourceKind.URL and job.staged_path:
            kept = await self.quick(lambda: self._keep_download(job))
        else:
            if job.download_id or job.ordering:
                job = await self._downloading.cancel(job)
            await self.quick(lambda: self._remove_files(job))
        if kept:
            error = replace(
                error,
                message=f"{error.message} The download is kept until the job is pruned: install from {kept}.",
                metadata={**error.metadata, "kept_path": kept},
            )
        return await self._save(
            replace(
                moved(job, State.ERROR, error=error),
                end_time=time.time(),
                staged_path=kept,
                local_path=kept or (job.source.text if job.source.kind is SourceKind.PATH else ""),
            )
        )

    def _keep_download(self, job: Job) -> str:
        staged = Path(job.staged_path)
        placed = self._roots.home(job.key) / staged.name
        if placed.exists() and not staged.exists():
            staged.parent.mkdir(parents=True, exist_ok=True)
            placed.rename(staged)
        files.remove_empty(placed.parent, above=self._roots.models_dir)
        return str(staged) if staged.exists() else ""

    def _remove_files(self, job: Job) -> None:
        files.remove_tree(self._roots.staging(job.id))
        if not (job.inplace and job.source.kind is SourceKind.PATH):
            files.remove_tree(self._roots.home(job.key))
