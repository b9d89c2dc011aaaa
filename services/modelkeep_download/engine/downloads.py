"""The calls of DownloadService on domain types: what each may do, and in which transaction. Knows no gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from modelkeep.exceptions import DiskFullException, ModelkeepError, QueueFullException
from modelkeep_common.sqlite import Changed, Connection, Database
from modelkeep_common.urls import mark_of, parse_url
from modelkeep_common.watch.sqlite_log import resume_token
from modelkeep_download.domain.checks import bad_source
from modelkeep_download.domain.job import (
    Job,
    SecretKind,
    Stage,
    check_etag,
)
from modelkeep_download.domain.transitions import (
    started_over,
    to_cancel,
    to_pause,
    to_start,
    to_update,
)
from modelkeep_download.engine import files
from modelkeep_download.engine.places import Places
from modelkeep_download.engine.requests import NewDownload, check_target, renewed, spec_of
from modelkeep_download.engine.scheduler import Scheduler
from modelkeep_download.store import COLLECTION, JobFilter, JobStore

#: Jobs that one answer of `wait` holds at most.
MAX_WAITED = 1000


#: Runs the work inside a transaction, or replays an earlier answer: (answer, whether it was replayed).
Once = Callable[[Connection, Callable[[], bytes]], tuple[bytes, bool]]


class Downloads:
    """The jobs of one service.

    Args:
        places: Where downloads may go, and local sources may lie.
        max_jobs: How many jobs may not have ended.
    """

    def __init__(
        self,
        db: Database,
        store: JobStore,
        scheduler: Scheduler,
        *,
        places: Places,
        max_jobs: int,
    ) -> None:
        self._db, self._store, self._scheduler = db, store, scheduler
        self._places, self._max_jobs = places, max_jobs
        #: Set, and replaced, by every commit.
        self._changed = asyncio.Event()
        #: Jobs that changed since each of those who wait has looked.
        self._news: dict[object, set[int]] = {}
        db.add_commit_listener(self._wake)

    async def create(self, new: NewDownload, once: Once, encode: Callable[[Job], bytes]) -> bytes:
        """Make a job, or answer as the same request was answered before; returns the encoded answer.

        Raises:
            FieldInvalidException, ForbiddenPathException, SourceNotFoundException,
            DestinationExistsException, QueueFullException, RequestIdReusedException
        """
        refused: ModelkeepError | None = None
        try:
            spec, credentials, secret = await asyncio.to_thread(spec_of, new, self._places)
            mark = mark_of(credentials.url)
        except ModelkeepError as error:
            refused = error  # a repeat is answered all the same: its source may have been moved by now
        made: list[Job] = []

        def run_once(conn: Connection) -> bytes:
            def run() -> bytes:
                if refused is not None:
                    raise refused
                check_target(spec)
                if self._store.open_count(conn) >= self._max_jobs:
                    raise QueueFullException(
                        f"{self._max_jobs} downloads have not ended yet; cancel some, or wait",
                        metadata={"limit": str(self._max_jobs)},
                        retry_after=60,
                    )
                made[:] = [self._store.insert(conn, spec, secret, mark)]
                return encode(made[0])

            return once(conn, run)[0]

        async def write() -> bytes:
            answer = await self._db.write(run_once, grows=True)
            for job in made:
                if secret is not SecretKind.NONE:
                    self._scheduler.credentials[job.id] = credentials
                self._scheduler.poke(job)
            return answer

        return await self._scheduler.carried_through(write())

    def repeats(self, job_id: int, url: str) -> bool:
        """Whether a request with this URL can be the one that a job of the same shown form was made by.

        As it is shown, the URL stands for itself: who asks again may have its secrets no more.
        """
        parsed = parse_url(url, "source.url")
        known = self._store.marks.tells(job_id, parsed.shown, parsed.mark)
        return known is not False or parsed.url == parsed.shown

    async def get(self, job_id: int) -> Job:
        """One job, with its live bytes."""
        return self._scheduler.live(await self._db.read(lambda conn: self._store.get(conn, job_id)))

    async def list_page(self, wanted: JobFilter, *, after: int, limit: int) -> tuple[list[Job], str]:
        """Jobs by id after `after`, and the resume token of that moment."""

        def read(conn: Connection) -> tuple[list[Job], str]:
            jobs = list(self._store.list(conn, wanted, after=after, limit=limit))
            return jobs, resume_token(conn, COLLECTION)

        jobs, token = await self._db.read(read)
        return [self._scheduler.live(job) for job in jobs], token

    def snapshot(self, conn: Connection) -> list[Job]:
        """All jobs, for a watch; on a reader's thread."""
        return [self._scheduler.live(job) for job in self._store.list(conn, JobFilter())]

    async def start(self, job_id: int, *, access_token: str = "", source_url: str = "") -> Job:
        """Put a job into the queue, with new secrets if some are given.

        Raises:
            UnknownJobIDException, WrongStateException, FieldInvalidException, TokenRequiredException
        """
        job = await self.get(job_id)
        to_start(job, job.enqueue_order)  # refuse before anything is remembered
        held = self._scheduler.credentials.get(job_id)
        source, credentials, secret = renewed(job, held, access_token, source_url)

        def write(conn: Connection) -> Job:
            order = self._store.next_order(conn)

            def transition(job: Job) -> Job:
                if job.awaits_address:  # whether it is the same file, its answers will tell
                    job = replace(job, spec=replace(job.spec, source=source))
                elif source_url and self._begins_anew(job, credentials.url):
                    job = started_over(job, changed=False)
                return replace(to_start(job, order), secret=secret)

            started = self._store.change(conn, job_id, transition)
            if source_url:
                self._store.marks.keep(job_id, mark_of(credentials.url))
            return started

        async def carry() -> Job:
            job = await self._db.write(write)
            if secret is not SecretKind.NONE and not job.state.terminal:
                self._scheduler.credentials[job_id] = credentials
            elif source_url:
                self._scheduler.credentials.pop(job_id, None)
            return self._poked(job)

        return await self._scheduler.carried_through(carry())

    async def pause(self, job_id: int) -> Job:
        """Pause a job; returns when its connection is closed and its bytes are durable."""
        job = await self._change(job_id, to_pause)
        while job.stage is Stage.PAUSING:
            changed = self._changed
            job = await self.get(job_id)
            if job.stage is Stage.PAUSING:
                await changed.wait()
        return job

    async def cancel(self, job_id: int) -> Job:
        """Cancel a job; it may still be on its way to CANCELLED."""
        try:
            return await self._change(job_id, to_cancel)
        except DiskFullException:  # the cancel itself is what makes room
            await self._scheduler.make_room(job_id)
            return await self._change(job_id, to_cancel)

    async def update(
        self, job_id: int, *, etag: str, priority: int | None, preserve_partial: bool | None
    ) -> Job:
        """Change a job's priority or what happens to its partial file."""

        def transition(job: Job) -> Job:
            check_etag(job, etag)
            return to_update(job, priority=priority, preserve_partial=preserve_partial)

        return await self._change(job_id, transition)

    async def prune(self, wanted: JobFilter) -> int:
        """Forget jobs that have ended, and remove what they left in their staging folders."""
        try:
            jobs = await self._db.write(lambda conn: self._store.prune(conn, wanted))
        except DiskFullException:  # what they left is removed first, where it has to make the room
            for job in await self._db.read(lambda conn: list(self._store.list(conn, wanted))):
                await asyncio.to_thread(files.remove_staging, job.staging)
            jobs = await self._db.write(lambda conn: self._store.prune(conn, wanted))
        for job in jobs:
            if job.staging:
                await asyncio.to_thread(files.remove_staging, job.staging)
        return len(jobs)

    async def wait(self, queue: str, ids: Sequence[int], timeout_s: float) -> tuple[list[Job], bool]:
        """Wait until jobs have ended, or the time-out.

        Args:
            queue: All jobs of this queue that have not ended, if there are no ids.
            ids: These jobs.
            timeout_s: Longest wait in seconds.

        Returns:
            The jobs waited for, at most 1,000 of them, and whether all have ended (or were pruned since).

        Raises:
            UnknownJobIDException: One of the ids is no job's.
        """
        key, news = object(), set[int]()
        self._news[key] = news
        try:
            wanted: Sequence[int] = sorted(set(ids))
            if wanted:
                await self._db.read(lambda conn: [self._store.get(conn, job_id) for job_id in wanted])
                pending = await self._still_open(wanted)
            else:
                wanted = await self._db.read(lambda conn: self._store.open_ids(conn, queue=queue))
                pending = set(wanted)
            try:
                async with asyncio.timeout(timeout_s):
                    while pending:
                        changed, moved = self._changed, pending & news
                        news.clear()
                        if moved:  # ask for these only: of ten thousand jobs, one ends at a time
                            pending -= moved - await self._still_open(moved)
                        else:
                            await changed.wait()
            except TimeoutError:
                pending = await self._still_open(pending)
        finally:
            del self._news[key]
        jobs = await self._db.read(
            lambda conn: list(self._store.list(conn, JobFilter(ids=wanted[:MAX_WAITED])))
        )
        return [self._scheduler.live(job) for job in jobs], not pending

    async def _still_open(self, ids: Collection[int]) -> set[int]:
        """Those of the jobs that have not ended."""
        return set(await self._db.read(lambda conn: self._store.open_ids(conn, ids=ids)))

    async def last_changes(self, ids: Sequence[int]) -> list[tuple[bool, int]]:
        """(whether it has ended, revision of its last change) of those of the jobs that are there."""
        jobs = await self._db.read(lambda conn: list(self._store.list(conn, JobFilter(ids=ids))))
        return [(job.state.terminal, job.revision) for job in jobs]

    async def _change(self, job_id: int, transition: Callable[[Job], Job]) -> Job:
        async def carry() -> Job:
            return self._poked(
                await self._db.write(lambda conn: self._store.change(conn, job_id, transition))
            )

        return await self._scheduler.carried_through(carry())

    def _poked(self, job: Job) -> Job:
        self._scheduler.poke(job)
        return self._scheduler.live(job)

    def _wake(self, changed: Changed) -> None:
        ids = {int(name) for collection, name in changed if collection == COLLECTION}
        for news in self._news.values():
            news |= ids
        self._changed.set()
        self._changed = asyncio.Event()

    def _begins_anew(self, job: Job, url: str) -> bool:
        """Whether what a job has may be another object's than that of the address that it gets now.

        Raises:
            FieldInvalidException: The address is only shown like the job's own.
        """
        same = self._store.is_of(job, mark_of(url))
        if same is False or (same is None and not job.secret.in_url):
            raise bad_source("this is not the job's own source", "source_url")
        return same is None and not job.complete
