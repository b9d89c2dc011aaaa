"""Waits for what becomes of jobs. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence

from modelkeep_common.sqlite import Changed, Database
from modelkeep_download.domain.job import JobState, Stage
from modelkeep_download.store import COLLECTION, OPEN, JobFilter, JobStore


class Waits:
    """Waits for changes of jobs that others commit."""

    def __init__(self, db: Database, store: JobStore) -> None:
        self._db, self._store = db, store
        #: Set, and replaced, by every commit.
        self._changed = asyncio.Event()
        #: Jobs that changed since each of those who wait has looked.
        self._news: dict[object, set[int]] = {}
        db.add_commit_listener(self._wake)

    @contextlib.contextmanager
    def noting(self) -> Iterator[set[int]]:
        """A set that the jobs are put into which change from now on."""
        key, news = object(), set[int]()
        self._news[key] = news
        try:
            yield news
        finally:
            del self._news[key]

    async def until_paused(self, pausing: set[int], news: set[int]) -> None:
        """Return when none of the jobs is on its way to a pause any more; see `noting`."""
        await self._until_none(pausing, news, self._still_pausing)

    async def until_ended(
        self, queue: str, ids: Sequence[int], timeout_s: float
    ) -> tuple[Sequence[int], bool]:
        """Return when the jobs have ended, or at the time-out.

        Args:
            queue: All jobs of this queue that have not ended, if there are no ids.
            ids: These jobs.
            timeout_s: Longest wait in seconds.

        Returns:
            The jobs waited for, and whether all have ended (or were pruned since).

        Raises:
            UnknownJobIDException: One of the ids is no job's.
        """
        with self.noting() as news:
            wanted: Sequence[int] = sorted(set(ids))
            if wanted:
                await self._db.read(lambda conn: [self._store.get(conn, job_id) for job_id in wanted])
                pending = await self._still_open(wanted)
            else:
                of_queue = JobFilter(queue=queue, states=OPEN)
                wanted = await self._db.read(lambda conn: self._store.ids(conn, of_queue))
                pending = set(wanted)
            try:
                async with asyncio.timeout(timeout_s):
                    await self._until_none(pending, news, self._still_open)
            except TimeoutError:
                pending = await self._still_open(pending)
        return wanted, not pending

    async def _until_none(
        self, pending: set[int], news: set[int], still: Callable[[Collection[int]], Awaitable[set[int]]]
    ) -> None:
        """Return when `still` keeps none of the pending jobs; the others are taken out of the set."""
        while pending:
            changed, moved = self._changed, pending & news
            news.clear()
            if moved:  # ask for these only: of ten thousand jobs, one ends at a time
                pending -= moved - await still(moved)
            else:
                await changed.wait()

    async def _still_open(self, ids: Collection[int]) -> set[int]:
        """Those of the jobs that have not ended."""
        wanted = JobFilter(ids=ids, states=OPEN)
        return set(await self._db.read(lambda conn: self._store.ids(conn, wanted)))

    async def _still_pausing(self, ids: Collection[int]) -> set[int]:
        """Those of the jobs that run, though they have been told to pause."""
        wanted = JobFilter(ids=ids, states=[JobState.RUNNING])
        jobs = await self._db.read(lambda conn: list(self._store.list(conn, wanted)))
        return {job.id for job in jobs if job.stage is Stage.PAUSING}

    def _wake(self, changed: Changed) -> None:
        ids = {int(name) for collection, name in changed if collection == COLLECTION}
        for news in self._news.values():
            news |= ids
        self._changed.set()
        self._changed = asyncio.Event()
