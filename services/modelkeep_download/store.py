"""Jobs in SQLite, behind `JobStore`. A change of a job and its change-log row are one transaction.

A job is one row: the columns are what is searched, `job` is all of it as JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from modelkeep_common.marks import SourceMarks
from modelkeep_common.sqlite import Connection, Database, Migration, labels
from modelkeep_common.watch.sqlite_log import append_change, next_revision
from modelkeep_download.domain.job import (
    Job,
    JobSpec,
    JobState,
    SecretKind,
    SourceKind,
    destination_promised,
    unknown_job,
)
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.transitions import (
    adopted,
    begun,
    check_over,
    stamped,
)

#: Name of the jobs in the change log.
COLLECTION = "downloads"

MIGRATIONS = (
    Migration(
        1,
        """
        CREATE TABLE downloads (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            queue TEXT NOT NULL,
            kind TEXT NOT NULL,
            source TEXT NOT NULL,
            destination TEXT NOT NULL,
            destination_is_folder INTEGER NOT NULL,
            filename TEXT NOT NULL,
            root TEXT NOT NULL,
            copy INTEGER NOT NULL,
            expected_sha256 TEXT NOT NULL,
            labels TEXT NOT NULL,
            start INTEGER NOT NULL,
            initial_priority INTEGER NOT NULL,
            initial_preserve_partial INTEGER NOT NULL,
            state TEXT NOT NULL,
            stage TEXT NOT NULL,
            secret TEXT NOT NULL,
            priority INTEGER NOT NULL,
            preserve_partial INTEGER NOT NULL,
            bytes_done INTEGER NOT NULL,
            bytes_total INTEGER,
            staging TEXT NOT NULL,
            validator TEXT NOT NULL,
            final_url TEXT NOT NULL,
            content_type TEXT NOT NULL,
            name TEXT NOT NULL,
            staged_device INTEGER,
            staged_inode INTEGER,
            delivered_path TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            verified INTEGER NOT NULL,
            attempt INTEGER NOT NULL,
            restarts INTEGER NOT NULL,
            changes INTEGER NOT NULL,
            failure TEXT,
            enqueue_order INTEGER NOT NULL,
            job_sequence INTEGER NOT NULL,
            create_time REAL NOT NULL,
            start_time REAL,
            end_time REAL,
            update_time REAL NOT NULL,
            version INTEGER NOT NULL,
            revision INTEGER NOT NULL
        );
        CREATE INDEX downloads_by_queue ON downloads (queue, id);
        CREATE INDEX downloads_by_state ON downloads (state, id);
        CREATE INDEX downloads_by_source ON downloads (source, destination);
        """,
    ),
    Migration(
        2,
        # A real number in SQLite's JSON has 15 digits; printf writes all that tell a moment.
        """
        ALTER TABLE downloads RENAME TO downloads_1;
        DROP INDEX downloads_by_queue;
        DROP INDEX downloads_by_state;
        DROP INDEX downloads_by_source;
        CREATE TABLE downloads (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            queue TEXT NOT NULL,
            source TEXT NOT NULL,
            destination TEXT NOT NULL,
            state TEXT NOT NULL,
            staging TEXT NOT NULL,
            job TEXT NOT NULL
        );
        INSERT INTO sqlite_sequence (name, seq)
            SELECT 'downloads', seq FROM sqlite_sequence WHERE name = 'downloads_1';
        INSERT INTO downloads SELECT id, queue, source, destination, state, staging, json_object(
            'id', id,
            'spec', json_object(
                'queue', queue,
                'kind', kind,
                'source', source,
                'destination', destination,
                'destination_is_folder', json(CASE WHEN destination_is_folder THEN 'true' ELSE 'false' END),
                'filename', filename,
                'root', root,
                'priority', initial_priority,
                'preserve_partial', json(CASE WHEN initial_preserve_partial THEN 'true' ELSE 'false' END),
                'copy', json(CASE WHEN copy THEN 'true' ELSE 'false' END),
                'expected_sha256', expected_sha256,
                'start', json(CASE WHEN start THEN 'true' ELSE 'false' END),
                'labels', json(labels)
            ),
            'state', state,
            'stage', stage,
            'secret', secret,
            'priority', priority,
            'preserve_partial', json(CASE WHEN preserve_partial THEN 'true' ELSE 'false' END),
            'have', json_object('ranges', json(
                CASE WHEN bytes_done > 0 THEN json_array(json_array(0, bytes_done)) ELSE json_array() END
            )),
            'bytes_total', bytes_total,
            'staging', staging,
            'validator', validator,
            'final_url', final_url,
            'content_type', content_type,
            'name', name,
            'staged_inode', json(
                CASE WHEN staged_inode IS NULL THEN 'null' ELSE json_array(staged_device, staged_inode) END
            ),
            'delivered_path', delivered_path,
            'sha256', sha256,
            'verified', json(CASE WHEN verified THEN 'true' ELSE 'false' END),
            'attempt', attempt,
            'restarts', restarts,
            'changes', changes,
            'failure', json(coalesce(failure, 'null')),
            'enqueue_order', enqueue_order,
            'job_sequence', job_sequence,
            'create_time', json(printf('%!.17g', create_time)),
            'start_time', json(
                CASE WHEN start_time IS NULL THEN 'null' ELSE printf('%!.17g', start_time) END
            ),
            'end_time', json(CASE WHEN end_time IS NULL THEN 'null' ELSE printf('%!.17g', end_time) END),
            'update_time', json(printf('%!.17g', update_time)),
            'version', version,
            'revision', revision
        ) FROM downloads_1;
        DROP TABLE downloads_1;
        CREATE INDEX downloads_by_queue ON downloads (queue, id);
        CREATE INDEX downloads_by_state ON downloads (state, id);
        CREATE INDEX downloads_by_source ON downloads (source, destination);
        """,
    ),
    Migration(
        3,
        labels.schema("downloads")
        + """
        INSERT INTO labels (owner, key, value)
            SELECT downloads.id, pair.key, pair.value
            FROM downloads, json_each(downloads.job, '$.spec.labels') pair;
        CREATE INDEX downloads_by_destination ON downloads (destination);
        """,
    ),
    Migration(
        4,
        # Of jobs that have not ended, and whose file's name is known: where that goes.
        """
        DROP INDEX downloads_by_destination;
        ALTER TABLE downloads ADD COLUMN target TEXT NOT NULL DEFAULT '';
        UPDATE downloads SET target = CASE
            WHEN NOT json_extract(job, '$.spec.destination_is_folder') THEN destination
            WHEN json_extract(job, '$.spec.filename') != ''
                THEN rtrim(destination, '/') || '/' || json_extract(job, '$.spec.filename')
            WHEN json_extract(job, '$.name') != ''
                THEN rtrim(destination, '/') || '/' || json_extract(job, '$.name')
            ELSE '' END
        WHERE state NOT IN ('completed', 'error', 'cancelled');
        CREATE INDEX downloads_by_target ON downloads (target) WHERE target != '';
        """,
    ),
)

_JOBS: TypeAdapter[Job] = TypeAdapter(Job)
_RANGES: TypeAdapter[ByteRanges] = TypeAdapter(ByteRanges)


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

    def insert(self, conn: Connection, spec: JobSpec, secret: SecretKind, mark: bytes) -> Job:
        """Make a job, IDLE or ENQUEUED as the spec says; it takes over the partial file of a failed one.

        `mark` is that of its source, see `SourceMarks`.
        """
        leftover = self.leftover(conn, spec, mark)
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
            name=spec.filename or (Path(spec.source).name if spec.kind is SourceKind.PATH else ""),
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
        self._check_target(conn, job)
        self._write(conn, job)
        labels.keep(conn, job.id, spec.labels)
        return job

    def get(self, conn: Connection, job_id: int) -> Job:
        """One job.

        Raises:
            UnknownJobIDException: There is none.
        """
        row = conn.execute(f"{_SELECT} WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise unknown_job(job_id)
        return _job(row)

    def list(self, conn: Connection, wanted: JobFilter, *, after: int = 0, limit: int = -1) -> Iterator[Job]:
        """Jobs by ascending id, from the one after `after`; -1 is no limit."""
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
        rows = conn.execute(f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY id LIMIT ?", (*values, limit))
        return map(_job, rows)

    def change(self, conn: Connection, job_id: int, transition: Callable[[Job], Job]) -> Job:
        """Apply a transition to a job; writes, and logs the change, only if something changed.

        Raises:
            UnknownJobIDException: There is no such job; and whatever the transition raises.
        """
        before = self.get(conn, job_id)
        after = transition(before)
        if after == before:
            return before
        if after.known_target not in (None, before.known_target):
            self._check_target(conn, after)
        after = stamped(after, before, time.time(), next_revision(conn))
        self._write(conn, after)
        return after

    def checkpoint(self, conn: Connection, job_id: int, have: ByteRanges) -> None:
        """Record the bytes that are durable. Progress only: no revision, no change-log row."""
        conn.execute(
            "UPDATE downloads SET job = json_set(job, '$.have', json(?)) WHERE id = ?",
            (_RANGES.dump_json(have).decode(), job_id),
        )

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

    def open_count(self, conn: Connection) -> int:
        """How many jobs have not ended."""
        query = f"SELECT count(*) FROM downloads WHERE state IN {_OPEN}"
        return int(conn.execute(query).fetchone()[0])

    def open_ids(
        self, conn: Connection, *, queue: str | None = None, ids: Collection[int] | None = None
    ) -> Sequence[int]:
        """The jobs of a queue, or of these ids, that have not ended, in ascending order."""
        query = f"SELECT id FROM downloads WHERE state IN {_OPEN}"
        if ids is not None:
            rows = conn.execute(f"{query} AND id IN {_VALUES} ORDER BY id", (json.dumps(list(ids)),))
        else:
            rows = conn.execute(f"{query} AND queue = ? ORDER BY id", (queue,))
        return [job_id for (job_id,) in rows]

    def leftover(self, conn: Connection, spec: JobSpec, mark: bytes) -> Job | None:
        """The newest failed job of the same source and destination that kept its partial file.

        One whose source is only shown like this one is not meant, and neither is one that may be such.
        """
        rows = conn.execute(
            f"{_SELECT} WHERE source = ? AND destination = ? AND state = 'error' AND staging != ''"
            " ORDER BY id DESC",
            (spec.source, str(spec.destination)),
        )

        def fits(job: Job) -> bool:
            same = job.spec.filename == spec.filename and self.is_of(job, mark)
            return bool(same and job.validator and job.have.size)

        return next(filter(fits, map(_job, rows)), None)

    def is_of(self, job: Job, mark: bytes) -> bool | None:
        """Whether a job of this shown source is for the very source; None if nothing can tell any more."""
        return job.spec.kind is SourceKind.PATH or self.marks.tells(job.id, job.spec.source, mark)

    def next_order(self, conn: Connection) -> int:
        """A place in the queue behind everybody who has one."""
        return self._next(conn, "enqueue_order")

    def next_sequence(self, conn: Connection) -> int:
        """The number of the next job that is taken off the queue."""
        return self._next(conn, "job_sequence")

    def _check_target(self, conn: Connection, job: Job) -> None:
        """Raise DestinationExistsException if another job that has not ended is to bring the same file."""
        others = conn.execute(
            f"{_SELECT} WHERE target = ? AND target != '' AND id != ? ORDER BY id", (_target(job), job.id)
        )
        for other in map(_job, others):
            raise destination_promised(other)

    def _write(self, conn: Connection, job: Job) -> None:
        conn.execute(
            "UPDATE downloads SET source = ?, state = ?, staging = ?, target = ?, job = ? WHERE id = ?",
            (job.spec.source, job.state, job.staging, _target(job), _JOBS.dump_json(job).decode(), job.id),
        )
        append_change(conn, COLLECTION, resource_id(job.id), self._encode(job))

    def _next(self, conn: Connection, counter: str) -> int:
        row = conn.execute("SELECT value FROM meta WHERE key = ?", (counter,)).fetchone()
        value = (int(row[0]) if row else 0) + 1
        conn.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (counter, value))
        return value


def _target(job: Job) -> str:
    """Where a job's file goes, if its name is known and the job has not ended; else ""."""
    return "" if job.known_target is None or job.state.terminal else str(job.known_target)


def resource_id(job_id: int) -> str:
    """A job's name in the change log; sorts as the ids do."""
    return f"{job_id:019d}"


#: Any number of values out of one JSON array: a statement takes a limited number of parameters.
_VALUES = "(SELECT value FROM json_each(?))"
_OPEN = "(" + ", ".join(f"'{state.value}'" for state in JobState if not state.terminal) + ")"
_SELECT = "SELECT job FROM downloads"


def _job(row: tuple[str]) -> Job:
    return _JOBS.validate_json(row[0])


class StoredJobs:
    """The scheduler's rows: `modelkeep_download.engine.ports.Jobs` in a database."""

    def __init__(self, db: Database, store: JobStore) -> None:
        self._db, self._store = db, store

    async def get(self, job_id: int) -> Job:
        """See `Jobs`."""
        return await self._db.read(lambda conn: self._store.get(conn, job_id))

    async def unfinished(self) -> list[Job]:
        """See `Jobs`."""
        wanted = JobFilter(states=[state for state in JobState if not state.terminal])
        return await self._db.read(lambda conn: list(self._store.list(conn, wanted)))

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

    async def checkpoint(self, job_id: int, have: ByteRanges) -> None:
        """See `Jobs`."""
        await self._db.write(lambda conn: self._store.checkpoint(conn, job_id, have), grows=True)
