"""Jobs in SQLite, behind `JobStore`. A change of a job and its change-log row are one transaction."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from modelkeep_common.marks import SourceMarks
from modelkeep_common.sqlite import Migration
from modelkeep_common.watch.sqlite_log import append_change, next_revision
from modelkeep_download.domain.job import (
    Failure,
    Job,
    JobSpec,
    JobState,
    SecretKind,
    SourceKind,
    Stage,
    adopted,
    unknown_job,
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
)

#: Columns that never change after the job was made, in the order of `_fixed`.
_FIXED = (
    *("queue", "kind", "source", "destination", "destination_is_folder", "filename", "root", "copy"),
    *("expected_sha256", "labels", "start", "initial_priority", "initial_preserve_partial"),
)
#: The others, in the order of `_changing`.
_CHANGING = (
    *(
        "state",
        "stage",
        "secret",
        "priority",
        "preserve_partial",
        "bytes_done",
        "bytes_total",
        "staging",
        "validator",
    ),
    *("final_url", "content_type", "name", "staged_device", "staged_inode", "delivered_path", "sha256"),
    *("verified", "attempt", "restarts", "changes", "failure", "enqueue_order", "job_sequence"),
    *("create_time", "start_time", "end_time", "update_time", "version", "revision"),
)


class JobFilter(NamedTuple):
    """Which jobs a list has. None means all."""

    queue: str | None = None
    states: Collection[JobState] | None = None
    ids: Collection[int] | None = None


class JobStore:
    """Jobs by id. Each method is a unit of work on a connection, for `Database.read` and `.write`.

    Args:
        encode: Turns a job into the payload of its change-log row.
    """

    def __init__(self, encode: Callable[[Job], bytes]) -> None:
        self._encode = encode
        #: What tells apart jobs whose sources are shown alike.
        self.marks = SourceMarks()

    def insert(self, conn: sqlite3.Connection, spec: JobSpec, secret: SecretKind, mark: bytes) -> Job:
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
        columns = (*_FIXED, *_CHANGING)
        cursor = conn.execute(
            f"INSERT INTO downloads ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
            (*_fixed(spec), *_changing(job)),
        )
        job = replace(job, id=cursor.lastrowid or 0)
        self.marks.keep(job.id, mark)
        append_change(conn, COLLECTION, resource_id(job.id), self._encode(job))
        return job

    def get(self, conn: sqlite3.Connection, job_id: int) -> Job:
        """One job.

        Raises:
            UnknownJobIDException: There is none.
        """
        row = conn.execute(f"{_SELECT} WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise unknown_job(job_id)
        return _job(row)

    def list(
        self, conn: sqlite3.Connection, wanted: JobFilter, *, after: int = 0, limit: int = -1
    ) -> Iterator[Job]:
        """Jobs by ascending id, from the one after `after`; -1 is no limit."""
        where, values = ["id > ?"], [after]  # type: tuple[list[str], list[object]]
        if wanted.queue is not None:
            where.append("queue = ?")
            values.append(wanted.queue)
        for column, allowed in (("state", wanted.states), ("id", wanted.ids)):
            if allowed is not None:
                where.append(f"{column} IN {_VALUES}")
                values.append(json.dumps(list(allowed)))
        rows = conn.execute(f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY id LIMIT ?", (*values, limit))
        return map(_job, rows)

    def change(self, conn: sqlite3.Connection, job_id: int, transition: Callable[[Job], Job]) -> Job:
        """Apply a transition to a job; writes, and logs the change, only if something changed.

        Raises:
            UnknownJobIDException: There is no such job; and whatever the transition raises.
        """
        before = self.get(conn, job_id)
        after = transition(before)
        if after == before:
            return before
        after = replace(
            after, update_time=time.time(), version=before.version + 1, revision=next_revision(conn)
        )
        conn.execute(
            f"UPDATE downloads SET {', '.join(f'{c} = ?' for c in _CHANGING)} WHERE id = ?",
            (*_changing(after), job_id),
        )
        append_change(conn, COLLECTION, resource_id(job_id), self._encode(after))
        return after

    def checkpoint(self, conn: sqlite3.Connection, job_id: int, bytes_done: int) -> None:
        """Record that so many bytes are durable. Progress only: no revision, no change-log row."""
        conn.execute("UPDATE downloads SET bytes_done = ? WHERE id = ?", (bytes_done, job_id))

    def prune(self, conn: sqlite3.Connection, queue: str) -> Sequence[Job]:
        """Forget the ended jobs of a queue; returns them."""
        jobs = self.ended(conn, queue)
        for job in jobs:
            conn.execute("DELETE FROM downloads WHERE id = ?", (job.id,))
            append_change(conn, COLLECTION, resource_id(job.id), None)
            self.marks.forget(job.id)
        return jobs

    def ended(self, conn: sqlite3.Connection, queue: str) -> Sequence[Job]:
        """The jobs of a queue that have ended."""
        return list(self.list(conn, JobFilter(queue, [state for state in JobState if state.terminal])))

    def staging_folders(self, conn: sqlite3.Connection) -> set[str]:
        """The staging folders that jobs know of."""
        return {folder for (folder,) in conn.execute("SELECT staging FROM downloads WHERE staging != ''")}

    def open_count(self, conn: sqlite3.Connection) -> int:
        """How many jobs have not ended."""
        query = f"SELECT count(*) FROM downloads WHERE state IN {_OPEN}"
        return int(conn.execute(query).fetchone()[0])

    def open_ids(
        self, conn: sqlite3.Connection, *, queue: str | None = None, ids: Collection[int] | None = None
    ) -> Sequence[int]:
        """The jobs of a queue, or of these ids, that have not ended, in ascending order."""
        query = f"SELECT id FROM downloads WHERE state IN {_OPEN}"
        if ids is not None:
            rows = conn.execute(f"{query} AND id IN {_VALUES} ORDER BY id", (json.dumps(list(ids)),))
        else:
            rows = conn.execute(f"{query} AND queue = ? ORDER BY id", (queue,))
        return [job_id for (job_id,) in rows]

    def leftover(self, conn: sqlite3.Connection, spec: JobSpec, mark: bytes) -> Job | None:
        """The newest failed job of the same source and destination that kept its partial file.

        One whose source is only shown like this one is not meant, and neither is one that may be such.
        """
        rows = conn.execute(
            f"{_SELECT} WHERE source = ? AND destination = ? AND filename = ? AND state = 'error'"
            " AND staging != '' AND validator != '' AND bytes_done > 0 ORDER BY id DESC",
            (spec.source, str(spec.destination), spec.filename),
        )
        return next((job for job in map(_job, rows) if self.is_of(job, mark)), None)

    def is_of(self, job: Job, mark: bytes) -> bool | None:
        """Whether a job of this shown source is for the very source; None if nothing can tell any more."""
        return job.spec.kind is SourceKind.PATH or self.marks.tells(job.id, job.spec.source, mark)

    def next_order(self, conn: sqlite3.Connection) -> int:
        """A place in the queue behind everybody who has one."""
        return self._next(conn, "enqueue_order")

    def next_sequence(self, conn: sqlite3.Connection) -> int:
        """The number of the next job that is taken off the queue."""
        return self._next(conn, "job_sequence")

    def _next(self, conn: sqlite3.Connection, counter: str) -> int:
        row = conn.execute("SELECT value FROM meta WHERE key = ?", (counter,)).fetchone()
        value = (int(row[0]) if row else 0) + 1
        conn.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (counter, value))
        return value


def resource_id(job_id: int) -> str:
    """A job's name in the change log; sorts as the ids do."""
    return f"{job_id:019d}"


#: Any number of values out of one JSON array: a statement takes a limited number of parameters.
_VALUES = "(SELECT value FROM json_each(?))"
_OPEN = "(" + ", ".join(f"'{state.value}'" for state in JobState if not state.terminal) + ")"
_SELECT = f"SELECT id, {', '.join((*_FIXED, *_CHANGING))} FROM downloads"


def _fixed(spec: JobSpec) -> tuple[object, ...]:
    return (
        *(spec.queue, spec.kind, spec.source, str(spec.destination), spec.destination_is_folder),
        *(spec.filename, str(spec.root), spec.copy, spec.expected_sha256, json.dumps(dict(spec.labels))),
        *(spec.start, spec.priority, spec.preserve_partial),
    )


def _changing(job: Job) -> tuple[object, ...]:
    failure = None if job.failure is None else json.dumps(asdict(job.failure))
    return (
        *(
            job.state,
            job.stage,
            job.secret,
            job.priority,
            job.preserve_partial,
            job.bytes_done,
            job.bytes_total,
        ),
        *(job.staging, job.validator, job.final_url, job.content_type, job.name),
        *(job.staged_inode or (None, None)),
        *(job.delivered_path, job.sha256, job.verified, job.attempt, job.restarts, job.changes, failure),
        *(job.enqueue_order, job.job_sequence, job.create_time, job.start_time, job.end_time),
        *(job.update_time, job.version, job.revision),
    )


def _job(row: Sequence[Any]) -> Job:
    value = dict(zip(("id", *_FIXED, *_CHANGING), row, strict=True))
    device, inode = value.pop("staged_device"), value.pop("staged_inode")
    failure = value.pop("failure")
    spec = JobSpec(
        queue=value["queue"],
        kind=SourceKind(value["kind"]),
        source=value["source"],
        destination=Path(value["destination"]),
        destination_is_folder=bool(value["destination_is_folder"]),
        filename=value["filename"],
        root=Path(value["root"]),
        priority=value["initial_priority"],
        preserve_partial=bool(value["initial_preserve_partial"]),
        copy=bool(value["copy"]),
        expected_sha256=value["expected_sha256"],
        start=bool(value["start"]),
        labels=json.loads(value["labels"]),
    )
    own = {name: value[name] for name in ("id", *_CHANGING) if name in value}
    own.update(
        state=JobState(value["state"]),
        stage=Stage(value["stage"]),
        secret=SecretKind(value["secret"]),
        preserve_partial=bool(value["preserve_partial"]),
        verified=bool(value["verified"]),
    )
    return Job(
        spec=spec,
        staged_inode=(device, inode) if inode is not None else None,
        failure=_failure(failure) if failure is not None else None,
        **own,
    )


def _failure(text: str) -> Failure:
    """A stored failure; what only an older version wrote into it is left out."""
    known = Failure.__dataclass_fields__
    return Failure(**{name: value for name, value in json.loads(text).items() if name in known})
