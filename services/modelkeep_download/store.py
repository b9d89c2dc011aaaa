"""Jobs in SQLite, behind `JobStore`. A change of a job and its change-log row are one transaction.

A job is one row: the columns are what is searched, `job` is all of it as JSON, but for what is said of each
file of several: that is `files`, which a list does not read.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from modelkeep_common.marks import SourceMarks
from modelkeep_common.sqlite import Connection, Database, labels
from modelkeep_common.watch.sqlite_log import append_change, next_revision
from modelkeep_download.domain.job import (
    FileFacts,
    FileSpec,
    Job,
    JobSpec,
    JobState,
    SecretKind,
    SourceKind,
    destination_promised,
    unknown_job,
)
from modelkeep_download.domain.transitions import (
    adopted,
    begun,
    check_over,
    stamped,
)

#: Name of the jobs in the change log.
COLLECTION = "downloads"

_JOBS: TypeAdapter[Job] = TypeAdapter(Job)


class _Files(NamedTuple):
    """What a row says of each file of several."""

    specs: tuple[FileSpec, ...] = ()
    facts: tuple[FileFacts, ...] = ()


_FILES: TypeAdapter[_Files] = TypeAdapter(_Files)


#: The states of jobs that have not ended.
OPEN = tuple(state for state in JobState if not state.terminal)


class JobFilter(NamedTuple):
    """Which jobs are meant. None means all."""

    queue: str | None = None
    states: Collection[JobState] | None = None
    ids: Collection[int] | None = None
    #: All of these pairs.
    labels: Mapping[str, str] = {}
    #: A Unix time.
    ended_before: float | None = None


class JobStore:
    """Jobs by id. Each method is a unit of work on a connection, for `Database.read` and `.write`.

    Args:
        encode: Turns a job into the payload of its change-log row.
    """

    def __init__(self, encode: Callable[[Job], bytes]) -> None:
        self._encode = encode
        #: What tells apart jobs whose sources are shown alike.
        self.marks = SourceMarks()

    def insert(
        self,
        conn: Connection,
        spec: JobSpec,
        secret: SecretKind,
        mark: bytes,
        *,
        retry_of: Job | None = None,
    ) -> Job:
        """Make a job, IDLE or ENQUEUED as the spec says; it takes over the partial file of a failed one.

        `mark` is that of its source, see `SourceMarks`.
        """
        leftover = self.leftover(conn, spec, mark)
        if leftover is None and retry_of is not None:
            old = self.get(conn, retry_of.id)
            leftover = old if old.staging and _goes_on(spec, old) else None
        if leftover is not None:
            self.change(conn, leftover.id, lambda job: replace(job, staging=""))
        now = time.time()
        job = Job(
            id=0,
            spec=spec,
            state=JobState.ENQUEUED if spec.start else JobState.IDLE,
            secret=secret,
            priority=spec.priority,
            preserve_partial=spec.preserve_partial,
            max_bytes_per_second=spec.max_bytes_per_second,
            name=spec.filename or (Path(spec.source).name if spec.kind is SourceKind.PATH else ""),
            file_count=len(spec.files),
            retry_of=0 if retry_of is None else retry_of.id,
            enqueue_order=self.next_order(conn) if spec.start else 0,
            create_time=now,
            update_time=now,
            revision=next_revision(conn),
        )
        if leftover is not None:
            job = adopted(job, leftover)
        cursor = conn.execute(
            "INSERT INTO downloads (queue, source, destination, state, staging, job)"
            " VALUES (?, ?, ?, '', '', '')",
            (spec.queue, spec.source, str(spec.destination)),
        )
        job = replace(job, id=cursor.lastrowid or 0)
        self.marks.keep(job.id, mark)
        self._write(conn, job, before=None)
        labels.keep(conn, job.id, spec.labels)
        return job

    def get(self, conn: Connection, job_id: int) -> Job:
        """One job.

        Raises:
            UnknownJobIDException: There is none.
        """
        row = conn.execute(f"{_SELECT_WHOLE} WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise unknown_job(job_id)
        return _job(*row)

    def list(
        self, conn: Connection, wanted: JobFilter, *, after: int = 0, limit: int = -1, whole: bool = False
    ) -> Iterator[Job]:
        """Jobs by ascending id, from the one after `after`; -1 is no limit.

        Those of several files say no more of them than their number, unless they are read `whole`.
        """
        select = _SELECT_WHOLE if whole else _SELECT
        rows = self._matching(conn, select, wanted, after, limit)
        return itertools.starmap(_job, rows)

    def ids(self, conn: Connection, wanted: JobFilter, *, after: int = 0, limit: int = -1) -> Sequence[int]:
        """The ids of jobs, as `list` has them."""
        rows = self._matching(conn, "SELECT id FROM downloads", wanted, after, limit)
        return [job_id for (job_id,) in rows]

    @staticmethod
    def _matching(
        conn: Connection, select: str, wanted: JobFilter, after: int, limit: int
    ) -> Iterable[tuple[Any, ...]]:
        where, values = ["id > ?"], [after]  # type: tuple[list[str], list[object]]
        if wanted.queue is not None:
            where.append("queue = ?")
            values.append(wanted.queue)
        for column, allowed in (("state", wanted.states), ("id", wanted.ids)):
            if allowed is not None:
                where.append(f"{column} IN {_VALUES}")
                values.append(json.dumps(list(allowed)))
        for pair in wanted.labels.items():
            where.append(labels.has("downloads.id"))
            values += pair
        if wanted.ended_before is not None:
            where.append("json_extract(job, '$.end_time') <= ?")
            values.append(wanted.ended_before)
        return conn.execute(f"{select} WHERE {' AND '.join(where)} ORDER BY id LIMIT ?", (*values, limit))

    def change(self, conn: Connection, job_id: int, transition: Callable[[Job], Job]) -> Job:
        """Apply a transition to a job; writes, and logs the change, only if something changed.

        Raises:
            UnknownJobIDException: There is no such job; and whatever the transition raises.
        """
        before = self.get(conn, job_id)
        after = transition(before)
        if after == before:
            return before
        after = stamped(after, before, time.time(), next_revision(conn))
        self._write(conn, after, before)
        return after

    def settle(self, conn: Connection) -> None:
        """Write what changes nothing, so that the commit makes durable what was written before it."""
        conn.execute("UPDATE meta SET value = value WHERE key = 'enqueue_order'")

    def prune(self, conn: Connection, wanted: JobFilter) -> Sequence[Job]:
        """Forget jobs that have ended; returns them.

        Raises:
            UnknownJobIDException, WrongStateException: One that is named by its id.
        """
        for job_id in wanted.ids or ():
            check_over(self.get(conn, job_id))
        jobs = list(self.list(conn, wanted))
        for job in jobs:
            conn.execute("DELETE FROM downloads WHERE id = ?", (job.id,))
            append_change(conn, COLLECTION, resource_id(job.id), None)
            self.marks.forget(job.id)
        return jobs

    def staging_folders(self, conn: Connection) -> set[str]:
        """The staging folders that jobs know of."""
        return {folder for (folder,) in conn.execute("SELECT staging FROM downloads WHERE staging != ''")}

    def fewer_open_than(self, conn: Connection, most: int) -> bool:
        """Whether fewer jobs than so many have not ended; mostly costs the same, however many there are.

        There are no more than ids from the first of them on. Only where that is too many they are counted.
        """
        (last,) = conn.execute("SELECT max(id) FROM downloads").fetchone()
        first = "SELECT min(id) FROM downloads WHERE state = ?"
        firsts = [id for state in OPEN for (id,) in conn.execute(first, (state,)) if id is not None]
        if not firsts or last - min(firsts) + 1 < most:
            return True
        query = f"SELECT count(*) FROM downloads WHERE state IN {_OPEN}"
        return int(conn.execute(query).fetchone()[0]) < most

    def leftover(self, conn: Connection, spec: JobSpec, mark: bytes) -> Job | None:
        """The newest failed job of the same source and destination that kept its partial file.

        One whose source is only shown like this one is not meant, and neither is one that may be such.
        Jobs of several files take over nothing.
        """
        rows = conn.execute(
            f"{_SELECT} WHERE source = ? AND destination = ? AND state = 'error' AND staging != ''"
            " ORDER BY id DESC",
            (spec.source, str(spec.destination)),
        )

        def fits(job: Job) -> bool:
            one_file = SourceKind.FILES not in (job.spec.kind, spec.kind)
            same = one_file and job.spec.filename == spec.filename and self.is_of(job, mark)
            return bool(same and job.validator and job.have.size)

        return next(filter(fits, itertools.starmap(_job, rows)), None)

    def is_of(self, job: Job, mark: bytes) -> bool | None:
        """Whether a job of this shown source is for the very source; None if nothing can tell any more."""
        return job.spec.kind is SourceKind.PATH or self.marks.tells(job.id, job.spec.source, mark)

    def next_order(self, conn: Connection) -> int:
        """A place in the queue behind everybody who has one."""
        return self._next(conn, "enqueue_order")

    def next_sequence(self, conn: Connection) -> int:
        """The number of the next job that is taken off the queue."""
        return self._next(conn, "job_sequence")

    def _write(self, conn: Connection, job: Job, before: Job | None) -> None:
        """Write a job's row, and its change-log row.

        Raises:
            DestinationExistsException: Another job that has not ended is to bring a file that it brings.
        """
        document = replace(job, spec=replace(job.spec, files=()), file_facts=())
        conn.execute(
            "UPDATE downloads SET source = ?, state = ?, staging = ?, job = ? WHERE id = ?",
            (job.spec.source, job.state, job.staging, _JOBS.dump_json(document).decode(), job.id),
        )
        files = _Files(job.spec.files, job.file_facts)
        if files != (_Files() if before is None else _Files(before.spec.files, before.file_facts)):
            text = _FILES.dump_json(files).decode()
            conn.execute("UPDATE downloads SET files = ? WHERE id = ?", (text, job.id))
        if before is None or _claim(job) != _claim(before):
            self._claim_targets(conn, job)
        append_change(conn, COLLECTION, resource_id(job.id), self._encode(job))

    @staticmethod
    def _claim_targets(conn: Connection, job: Job) -> None:
        """Make a job's targets its own, until it ends."""
        conn.execute("DELETE FROM targets WHERE job = ?", (job.id,))
        if job.state.terminal:
            return
        targets = [str(target) for target in job.targets]
        taken = f"SELECT min(job) FROM targets WHERE target IN {_VALUES}"
        (other,) = conn.execute(taken, (json.dumps(targets, ensure_ascii=False),)).fetchone()
        if other is not None:
            row = conn.execute(f"{_SELECT_WHOLE} WHERE id = ?", (other,)).fetchone()
            raise destination_promised(_job(*row), set(targets))
        conn.executemany("INSERT INTO targets (target, job) VALUES (?, ?)", ((t, job.id) for t in targets))

    def _next(self, conn: Connection, counter: str) -> int:
        row = conn.execute("SELECT value FROM meta WHERE key = ?", (counter,)).fetchone()
        value = (int(row[0]) if row else 0) + 1
        conn.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (counter, value))
        return value


def _goes_on(spec: JobSpec, old: Job) -> bool:
    """Whether a retry goes on from what the old job kept, though no other job of its source would.

    Of one whose address ran out, what the new one serves will tell. Of several files, those that are there
    are not asked for again: what a token gave is given to nobody else.
    """
    if spec.kind is SourceKind.FILES:
        return spec.files == old.spec.files and old.secret is SecretKind.NONE and old.have.size > 0
    return spec.source != old.spec.source and bool(old.validator) and old.have.size > 0


def _claim(job: Job) -> tuple[Path | None, bool]:
    """What a job's targets depend on."""
    return job.known_target, job.state.terminal


def resource_id(job_id: int) -> str:
    """A job's name in the change log; sorts as the ids do."""
    return f"{job_id:019d}"


#: Any number of values out of one JSON array: a statement takes a limited number of parameters.
_VALUES = "(SELECT value FROM json_each(?))"
_OPEN = "(" + ", ".join(f"'{state.value}'" for state in OPEN) + ")"
_SELECT = "SELECT job FROM downloads"
_SELECT_WHOLE = "SELECT job, files FROM downloads"


def _job(document: str, files: str = "") -> Job:
    job = _JOBS.validate_json(document)
    if not files:
        return job
    found = _FILES.validate_json(files)
    return replace(job, spec=replace(job.spec, files=found.specs), file_facts=found.facts)


class StoredJobs:
    """The scheduler's rows: `modelkeep_download.engine.ports.Jobs` in a database."""

    def __init__(self, db: Database, store: JobStore) -> None:
        self._db, self._store = db, store

    async def get(self, job_id: int) -> Job:
        """See `Jobs`."""
        return await self._db.read(lambda conn: self._store.get(conn, job_id))

    async def unfinished(self) -> list[Job]:
        """See `Jobs`."""
        wanted = JobFilter(states=OPEN)
        return await self._db.read(lambda conn: list(self._store.list(conn, wanted, whole=True)))

    async def staging_folders(self) -> set[str]:
        """See `Jobs`."""
        return await self._db.read(self._store.staging_folders)

    async def change(self, job_id: int, transition: Callable[[Job], Job], *, synced: bool = True) -> Job:
        """See `Jobs`."""
        return await self._db.write(lambda conn: self._store.change(conn, job_id, transition), synced=synced)

    async def change_all(self, ids: Sequence[int], transition: Callable[[Job], Job]) -> dict[int, Job]:
        """See `Jobs`."""
        return await self._db.write(
            lambda conn: {job_id: self._store.change(conn, job_id, transition) for job_id in ids}
        )

    async def begin(self, job_id: int, *, has_secrets: bool) -> Job:
        """See `Jobs`."""

        def unit(conn: Connection) -> Job:
            enqueued = self._store.get(conn, job_id).state is JobState.ENQUEUED
            sequence = self._store.next_sequence(conn) if enqueued else 0
            return self._store.change(conn, job_id, lambda job: begun(job, sequence, has_secrets=has_secrets))

        # Not synced: after a power cut the job is in the queue again, which is as good.
        return await self._db.write(unit, synced=False)
