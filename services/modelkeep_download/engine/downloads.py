"""The calls of DownloadService on domain types: what each may do, and in which transaction. Knows no gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

from modelkeep.exceptions import (
    DiskFullException,
    FailedByCallerException,
    ModelkeepError,
    QueueFullException,
    UnknownJobIDException,
    WrongStateException,
)
from modelkeep_common.sqlite import Connection, Database
from modelkeep_common.urls import mark_of, parse_url
from modelkeep_common.watch.sqlite_log import resume_token
from modelkeep_download.domain.checks import bad_source
from modelkeep_download.domain.job import (
    Failure,
    Job,
    JobState,
    SecretKind,
    SourceKind,
    Stage,
    check_etag,
)
from modelkeep_download.domain.limits import Limits, LimitsChange
from modelkeep_download.domain.refusals import clean
from modelkeep_download.domain.transitions import (
    started_over,
    to_cancel,
    to_fail,
    to_pause,
    to_start,
    to_update,
)
from modelkeep_download.engine import files
from modelkeep_download.engine.places import Places
from modelkeep_download.engine.requests import Again, NewDownload, asked_again, check_target, renewed, spec_of
from modelkeep_download.engine.scheduler import Scheduler
from modelkeep_download.engine.standing import standing_of
from modelkeep_download.engine.tokens import NO_TOKENS, SourceTokens
from modelkeep_download.engine.waits import Waits
from modelkeep_download.limits import change_limits
from modelkeep_download.resolve.remote import looked_up
from modelkeep_download.resolve.resolving import Resolving
from modelkeep_download.store import COLLECTION, OPEN, JobFilter, JobStore

#: Jobs that one answer of `wait` holds at most.
MAX_WAITED = 1000
#: Jobs that one transaction changes at most: nobody else writes meanwhile.
AT_ONCE = 500


#: Runs the work inside a transaction, or replays an earlier answer: (answer, whether it was replayed).
Once = Callable[[Connection, Callable[[], bytes]], tuple[bytes, bool]]


class _UnansweredError(Exception):
    """No such request was answered before."""


class Downloads:
    """The jobs of one service.

    Args:
        places: Where downloads may go, and local sources may lie.
        resolving: Looks remote sources up.
        max_jobs: How many jobs may not have ended.
    """

    def __init__(
        self,
        db: Database,
        store: JobStore,
        scheduler: Scheduler,
        *,
        places: Places,
        resolving: Resolving,
        max_jobs: int,
        tokens: SourceTokens = NO_TOKENS,
    ) -> None:
        self._db, self._store, self._scheduler = db, store, scheduler
        self._places, self._resolving, self._max_jobs = places, resolving, max_jobs
        self._tokens, self._waits = tokens, Waits(db, store)

    async def create(self, new: NewDownload, once: Once, encode: Callable[[Job], bytes]) -> bytes:
        """Make a job, or answer as the same request was answered before; returns the encoded answer.

        Raises:
            FieldInvalidException, ForbiddenPathException, SourceNotFoundException,
            DestinationExistsException, QueueFullException, RequestIdReusedException
            ModelkeepError: What a lookup of the source raises; see `Resolving.resolve`.
        """

        async def ask() -> tuple[NewDownload, Job | None]:
            return await looked_up(new, self._resolving), None

        if new.asked is not None and (answer := await self._answered(once)) is not None:
            return answer
        return await self._make(ask, once, encode)

    async def _answered(self, once: Once) -> bytes | None:
        """What the same request was answered before, if it was."""

        def run() -> bytes:
            raise _UnansweredError

        try:
            return await self._db.write(lambda conn: once(conn, run)[0])
        except _UnansweredError:
            return None

    async def retry(self, job_id: int, again: Again, once: Once, encode: Callable[[Job], bytes]) -> bytes:
        """Make a job that failed or was cancelled anew; as `create`.

        Raises:
            UnknownJobIDException, WrongStateException, TokenRequiredException: And what `create` raises.
        """

        async def ask() -> tuple[NewDownload, Job | None]:
            job = await self.get(job_id)
            new = asked_again(job, again, kept=await self._has_token(job))
            if again.source_url and not job.awaits_address:
                self._begins_anew(job, parse_url(new.url, "source_url").url)
            return new, job

        return await self._make(ask, once, encode)

    async def _make(
        self,
        ask: Callable[[], Awaitable[tuple[NewDownload, Job | None]]],
        once: Once,
        encode: Callable[[Job], bytes],
    ) -> bytes:
        """Make the job that is asked for, as a retry of another one if that is given."""
        refused: ModelkeepError | None = None
        try:
            new, old = await ask()
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
                if not self._store.fewer_open_than(conn, self._max_jobs):
                    raise QueueFullException(
                        f"{self._max_jobs} downloads have not ended yet; cancel some, or wait",
                        metadata={"limit": str(self._max_jobs)},
                        retry_after=60,
                    )
                made[:] = [self._store.insert(conn, spec, secret, mark, retry_of=old)]
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

    async def whole(self, job_id: int) -> Job:
        """As `get`, with how far each of several files is."""
        job = await self.get(job_id)
        if not job.spec.files:
            return job
        standing = self._scheduler.standing(job_id) or await asyncio.to_thread(standing_of, job)
        return replace(job, every_standing=standing)

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
        kept = await self._has_token(job)
        source, credentials, secret = renewed(job, held, access_token, source_url, kept=kept)

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
        """Pause a job; returns when its connection is closed, and its bytes outlive the process."""
        # Of a job that runs it is the end of its stop that must outlive a power cut, before the call answers.
        runs = self._scheduler.stop_early(job_id)
        with self._waits.noting() as news:
            job = await self._change(job_id, to_pause, synced=not runs)
            if job.stage is not Stage.PAUSING:
                if runs:  # its try has just ended
                    await self._db.write(self._store.settle)
                return job
            await self._waits.until_paused({job_id}, news)
        return await self.get(job_id)

    async def cancel(self, job_id: int) -> Job:
        """Cancel a job; it may still be on its way to CANCELLED."""
        self._scheduler.stop_early(job_id)
        try:
            return await self._change(job_id, to_cancel)
        except DiskFullException:  # the cancel itself is what makes room
            await self._scheduler.make_room(job_id)
            return await self._change(job_id, to_cancel)

    async def fail(self, job_id: int, message: str) -> Job:
        """End a job as failed, in a caller's words; it may still be on its way there.

        Raises:
            UnknownJobIDException, WrongStateException
        """
        held = self._scheduler.credentials.get(job_id)
        said = clean(message, held.secrets if held is not None else ()) or "a caller has failed it"
        verdict = Failure.of(FailedByCallerException(said, metadata={"id": str(job_id)}))
        return await self._change(job_id, lambda job: to_fail(job, verdict))

    async def start_all(self, wanted: JobFilter) -> tuple[int, int]:
        """Start jobs that are idle or paused; (how many were, how many lack their secrets)."""
        lacking: set[int] = set()

        def start(conn: Connection, job: Job) -> Job:
            if job.state is JobState.RUNNING and job.stage is not Stage.PAUSING:
                return job
            if job.stage is Stage.CANCELLING:
                return job
            known = job.id in self._scheduler.credentials or job.complete
            if job.secret is not SecretKind.NONE and not known:
                if job.secret.in_url or self._tokens.found(job.spec.source) is None:
                    lacking.add(job.id)
                    return job
                job = replace(job, secret=SecretKind.NONE)
            return to_start(job, self._store.next_order(conn))

        states = [JobState.IDLE, JobState.PAUSED, JobState.RUNNING]
        started = 0
        async for jobs in self._change_all(wanted._replace(states=states), start):
            started += len(jobs)
        return started, len(lacking)

    async def pause_all(self, wanted: JobFilter) -> int:
        """Pause jobs that are enqueued or run; returns how many when none of them runs any more."""

        def pause(_: Connection, job: Job) -> Job:
            return job if job.stage is Stage.CANCELLING else to_pause(job)

        paused, stopping = 0, set[int]()
        with self._waits.noting() as news:
            async for jobs in self._change_all(wanted._replace(states=OPEN), pause):
                paused += len(jobs)
                stopping |= {job.id for job in jobs if job.stage is Stage.PAUSING}
            await self._waits.until_paused(stopping, news)
        return paused

    async def cancel_all(self, wanted: JobFilter) -> int:
        """Cancel jobs that have not ended; returns how many, though some may be on their way."""
        wanted, done = wanted._replace(states=OPEN), 0
        try:
            async for jobs in self._change_all(wanted, lambda _, job: to_cancel(job)):
                done += len(jobs)
        except DiskFullException:  # one after the other makes the room
            for job_id in await self._db.read(lambda conn: self._store.ids(conn, wanted)):
                with contextlib.suppress(UnknownJobIDException, WrongStateException):
                    await self.cancel(job_id)
                    done += 1
        return done

    async def update(
        self,
        job_id: int,
        *,
        etag: str,
        priority: int | None,
        preserve_partial: bool | None,
        max_bytes_per_second: int | None,
    ) -> Job:
        """Change a job's priority, what happens to its partial file, or how fast it may be."""

        def transition(job: Job) -> Job:
            check_etag(job, etag)
            return to_update(
                job,
                priority=priority,
                preserve_partial=preserve_partial,
                max_bytes_per_second=max_bytes_per_second,
            )

        return await self._change(job_id, transition)

    def limits(self) -> Limits:
        """The limits that count now."""
        return self._scheduler.limits

    async def set_limits(self, change: LimitsChange) -> Limits:
        """Change the limits, at once and for later processes; those that count then."""

        async def carry() -> Limits:
            self._scheduler.limit(await self._db.write(lambda conn: change_limits(conn, change)))
            return self._scheduler.limits

        return await self._scheduler.carried_through(carry())

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
        wanted, done = await self._waits.until_ended(queue, ids, timeout_s)
        jobs = await self._db.read(
            lambda conn: list(self._store.list(conn, JobFilter(ids=wanted[:MAX_WAITED])))
        )
        return [self._scheduler.live(job) for job in jobs], done

    async def last_changes(self, ids: Sequence[int]) -> list[tuple[bool, int]]:
        """(whether it has ended, revision of its last change) of those of the jobs that are there."""
        jobs = await self._db.read(lambda conn: list(self._store.list(conn, JobFilter(ids=ids))))
        return [(job.state.terminal, job.revision) for job in jobs]

    async def _change(self, job_id: int, transition: Callable[[Job], Job], *, synced: bool = True) -> Job:
        def write(conn: Connection) -> Job:
            return self._store.change(conn, job_id, transition)

        async def carry() -> Job:
            try:
                job = await self._db.write(write, synced=synced)
            except BaseException:
                self._scheduler.not_written(job_id)
                raise
            return self._poked(job)

        return await self._scheduler.carried_through(carry())

    async def _change_all(
        self, wanted: JobFilter, transition: Callable[[Connection, Job], Job]
    ) -> AsyncIterator[list[Job]]:
        """Apply a transition to all jobs that are meant, in few transactions; those that each one changed."""

        tried: list[int] = []

        def write(conn: Connection, after: int) -> tuple[list[Job], int]:
            changed: set[int] = set()

            def noted(job: Job) -> Job:
                changed.update([] if (then := transition(conn, job)) == job else [job.id])
                return then

            ids = tried[:] = self._store.ids(conn, wanted, after=after, limit=AT_ONCE)
            jobs = [self._store.change(conn, job_id, noted) for job_id in ids]
            return [job for job in jobs if job.id in changed], ids[-1] if ids else 0

        async def carry(after: int) -> tuple[list[Job], int]:
            try:
                jobs, last = await self._db.write(partial(write, after=after))
            except BaseException:
                for job_id in tried:
                    self._scheduler.not_written(job_id)
                raise
            self._scheduler.poke_all(jobs)
            return jobs, last

        last = 0
        while True:
            jobs, last = await self._scheduler.carried_through(carry(last))
            if not last:
                return
            yield jobs

    async def _has_token(self, job: Job) -> bool:
        """Whether a token is kept for the host that a job asks."""
        if job.spec.kind is SourceKind.PATH:
            return False
        return await asyncio.to_thread(self._tokens.found, job.spec.source) is not None

    def _poked(self, job: Job) -> Job:
        self._scheduler.poke(job)
        return self._scheduler.live(job)

    def _begins_anew(self, job: Job, url: str) -> bool:
        """Whether what a job has may be another object's than that of the address that it gets now.

        Raises:
            FieldInvalidException: The address is only shown like the job's own.
        """
        same = self._store.is_of(job, mark_of(url))
        if same is False or (same is None and not job.secret.in_url):
            raise bad_source("this is not the job's own source", "source_url")
        return same is None and not job.complete
