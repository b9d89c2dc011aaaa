"""The installer's SQLite file: jobs, files that wait for their digests, uninstalls under way.

A job is one row: the columns are what is searched, ``job`` is all of it as JSON. Every change of a job is
one transaction with its entry in the change log, which the watches read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial

from pydantic import TypeAdapter

from modelkeep.exceptions import InstallInProgressException, UnknownJobIDException, WrongStateException
from modelkeep.taxonomy import DigestState
from modelkeep_common.idempotency import replay_or_run, request_id_reused
from modelkeep_common.marks import SourceMarks
from modelkeep_common.sqlite import Connection, Database, Migration, labels
from modelkeep_common.urls import mark_of, shown
from modelkeep_common.watch.sqlite_log import append_change, next_revision, resume_token

from .domain.jobs import FINAL, Job, SourceKind, State
from .domain.ports import DigestWork, RecordFile, Removal
from .domain.requests import JobFilter
from .domain.steering import check_steerable, take_over
from .scan.store import SCHEMA as SCANS

#: The name of the jobs' collection in the change log.
COLLECTION = "installs"

MIGRATIONS: Sequence[Migration] = (
    Migration(
        1,
        """
        CREATE TABLE installs (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            source TEXT NOT NULL,
            state TEXT NOT NULL,
            job TEXT NOT NULL,
            record BLOB NOT NULL DEFAULT x''
        );
        CREATE INDEX installs_active ON installs (source) WHERE state IN ('waiting', 'running', 'paused');
        CREATE INDEX installs_by_state ON installs (state, id);
        CREATE TABLE digest_work (
            key TEXT PRIMARY KEY,
            sequence INTEGER NOT NULL,
            work TEXT NOT NULL
        );
        CREATE TABLE digest_files (
            key TEXT NOT NULL REFERENCES digest_work (key) ON DELETE CASCADE,
            path TEXT NOT NULL,
            state TEXT NOT NULL,
            file TEXT NOT NULL,
            PRIMARY KEY (key, path)
        ) WITHOUT ROWID;
        CREATE TABLE removals (key TEXT PRIMARY KEY, removal TEXT NOT NULL);
        """,
    ),
    Migration(
        2,
        """
        ALTER TABLE digest_files ADD COLUMN size_bytes INTEGER NOT NULL DEFAULT 0;
        UPDATE digest_files SET size_bytes = json_extract(file, '$.size_bytes');
        CREATE INDEX digest_files_pending ON digest_files (size_bytes) WHERE state = 'pending';
        """,
    ),
    Migration(3, labels.schema("installs")),
    Migration(4, SCANS),
)

_JOBS: TypeAdapter[Job] = TypeAdapter(Job)
_WORK: TypeAdapter[DigestWork] = TypeAdapter(DigestWork)
_FILES: TypeAdapter[RecordFile] = TypeAdapter(RecordFile)
_REMOVALS: TypeAdapter[Removal] = TypeAdapter(Removal)

#: A job and the finished record in it, as the wire's resource.
Encode = Callable[[Job, bytes], bytes]


class InstallStore:
    """The jobs and what hangs on them; see ``domain.ports.JobStore``."""

    def __init__(self, db: Database, encode: Encode) -> None:
        self.db = db
        self._encode = encode
        self._marks = SourceMarks()

    # ---- jobs ----------------------------------------------------------------------------------------
    async def create(
        self,
        job: Job,
        mark: bytes,
        *,
        request_id: str,
        fingerprint: bytes,
        principal: str,
        method: str,
        takes_over: int = 0,
    ) -> tuple[Job, bool]:
        def unit(conn: Connection) -> tuple[Job, bool]:
            existing = False

            def run() -> bytes:
                nonlocal existing
                running = self._under_way(conn, job, mark)
                existing = running is not None
                job_id = running.id if running is not None else self._insert(conn, job)
                if takes_over and not existing:
                    self._take_over(conn, takes_over, job_id)
                self._marks.keep(job_id, mark)
                return str(job_id).encode()

            answer, replayed = replay_or_run(
                conn, request_id, fingerprint, run, principal=principal, method=method
            )
            found = _get(conn, int(answer))[0]
            if replayed and self._is_of(found, mark) is False:
                raise request_id_reused(request_id)
            return found, existing or replayed

        return await self.db.write(unit, grows=True)

    def _insert(self, conn: Connection, job: Job) -> int:
        cursor = conn.execute(
            "INSERT INTO installs (source, state, job) VALUES (?, ?, '')", (job.source.text, job.state)
        )
        assert cursor.lastrowid is not None
        labels.keep(conn, cursor.lastrowid, job.labels)
        self._write(conn, replace(job, id=cursor.lastrowid), b"")
        return cursor.lastrowid

    def _take_over(self, conn: Connection, old_id: int, new_id: int) -> None:
        old, record = _get(conn, old_id)
        if old.staged_path:  # else another was quicker
            given, taken = take_over(old, _get(conn, new_id)[0])
            self._write(conn, given, record)
            self._write(conn, taken, b"")

    def _under_way(self, conn: Connection, new: Job, mark: bytes) -> Job | None:
        """The job that a new one would repeat, if one is under way."""
        active = [(job, self._is_of(job, mark)) for job in _active(conn, new.source.text)]
        unknown = [job for job, same in active if same is None]
        found = next((job for job, same in active if same), None)
        if found is None and unknown:
            # after a restart: one whose address was lost takes the new one whole, as if it had always had it
            brought = mark != mark_of(new.source.text)
            found = next((job for job in unknown if brought and job.awaits_secrets), None)
            if found is None:
                raise InstallInProgressException(
                    f"Job {unknown[0].id} installs from an address that is shown alike. What is hidden of it "
                    "went with a restart, so that it may be another: wait for that job, or cancel it first.",
                    metadata={"id": str(unknown[0].id)},
                )
        if found is not None and found.arguments() != new.arguments():
            raise InstallInProgressException(
                f"Job {found.id} installs the same source with other arguments: "
                "wait for it, or cancel it first.",
                metadata={"id": str(found.id)},
            )
        return found

    def _is_of(self, job: Job, mark: bytes) -> bool | None:
        """Whether a job of this shown source is for the very source; None if nothing can tell any more."""
        # a path is shown whole, and so is what a hub has
        return job.source.kind is not SourceKind.URL or self._marks.tells(job.id, job.source.text, mark)

    async def get(self, job_id: int) -> Job:
        return (await self.db.read(partial(_get, job_id=job_id)))[0]

    async def save(self, job: Job, *, record: bytes = b"", digests: DigestWork | None = None) -> Job:
        def unit(conn: Connection) -> Job:
            # what callers ask for may have come between reading and writing; it is never lost
            stored, kept = _get(conn, job.id)
            cancelled = job.cancel_requested or stored.cancel_requested
            merged = replace(job, cancel_requested=cancelled, pause_requested=stored.pause_requested)
            saved = self._write(conn, merged, record or kept)
            if digests is not None:
                _order_digests(conn, digests, saved.revision)
            return saved

        return await self.db.write(unit)

    async def request_cancel(self, job_id: int) -> Job:
        def unit(conn: Connection) -> Job:
            job, record = _get(conn, job_id)
            if job.state is State.CANCELLED or job.cancel_requested:
                return job
            if job.state.final:
                raise WrongStateException(
                    f"Install {job_id} has ended ({job.state}) and cannot be cancelled.",
                    metadata={"id": str(job_id), "state": job.state, "allowed": "waiting,running,paused"},
                )
            return self._write(conn, replace(job, cancel_requested=True), record)

        return await self.db.write(unit)

    async def request_pause(self, job_id: int) -> Job:
        return await self.db.write(partial(self._steer, job_id=job_id, pause=True))

    async def request_resume(self, job_id: int, mark: bytes | None) -> Job:
        if mark is not None:
            self._marks.keep(job_id, mark)
        return await self.db.write(partial(self._steer, job_id=job_id, pause=False))

    def _steer(self, conn: Connection, job_id: int, pause: bool) -> Job:
        job, record = _steerable(conn, job_id)
        if job.pause_requested == pause:
            return job
        return self._write(conn, replace(job, pause_requested=pause), record)

    async def unfinished(self) -> list[Job]:
        return await self.db.read(
            lambda conn: _jobs(conn, "WHERE state IN ('waiting', 'running', 'paused') ORDER BY id")
        )

    async def kept(self, ids: Sequence[int] | None = None) -> list[int]:
        jobs = await self.db.read(lambda conn: _jobs(conn, "WHERE state = 'error'"))
        return [job.staging for job in jobs if job.staged_path and (ids is None or job.id in ids)]

    async def failed(self) -> list[Job]:
        def unit(conn: Connection) -> list[Job]:
            jobs = _jobs(conn, "ORDER BY id")
            retried = {job.retry_of_id for job in jobs}
            return [job for job in jobs if job.state is State.ERROR and job.id not in retried]

        return await self.db.read(unit)

    async def ended(
        self, *, ids: Sequence[int] = (), states: Collection[State] = (), before: float | None = None
    ) -> list[int]:
        def unit(conn: Connection) -> list[int]:
            named = [_get(conn, job_id)[0] for job_id in dict.fromkeys(ids)]
            for job in named:
                if not job.state.final:
                    raise WrongStateException(
                        f"Install {job.id} is {job.state}: cancel it first.",
                        metadata={"id": str(job.id), "state": job.state, "allowed": ",".join(sorted(FINAL))},
                    )
            jobs = named if ids else _jobs(conn, f"WHERE state IN ({_quoted(FINAL)})")
            return [
                job.id
                for job in jobs
                if (not states or job.state in states) and (before is None or (job.end_time or 0.0) <= before)
            ]

        return await self.db.read(unit)

    async def prune(self, ids: Sequence[int]) -> int:
        def unit(conn: Connection) -> int:
            count = 0
            for job_id in ids:
                if conn.execute("DELETE FROM installs WHERE id = ?", (job_id,)).rowcount:
                    append_change(conn, COLLECTION, str(job_id), None)
                    count += 1
                self._marks.forget(job_id)
            return count

        return await self.db.write(unit)

    async def page(
        self, wanted: JobFilter, *, before: int | None, limit: int
    ) -> tuple[list[tuple[Job, bytes]], str]:
        def unit(conn: Connection) -> tuple[list[tuple[Job, bytes]], str]:
            where, values = [], list[str]()
            if wanted.source_contains:
                # of an address with secrets, only the shown form is stored
                where.append("(instr(source, ?) > 0 OR instr(source, ?) > 0)")
                values += [wanted.source_contains, shown(wanted.source_contains)]
            if wanted.states:
                where.append(f"state IN ({_quoted(wanted.states)})")
            for pair in wanted.labels.items():
                where.append(labels.has("installs.id"))
                values += pair
            if before is not None:
                where.append("id < ?")
                values.append(str(before))
            clause = f"WHERE {' AND '.join(where)}" if where else ""
            rows = conn.execute(
                f"SELECT job, record FROM installs {clause} ORDER BY id DESC LIMIT ?", (*values, limit)
            ).fetchall()
            jobs = [(_JOBS.validate_json(row[0]), bytes(row[1])) for row in rows]
            return jobs, resume_token(conn, COLLECTION)

        return await self.db.read(unit)

    async def get_with_record(self, job_id: int) -> tuple[Job, bytes]:
        return await self.db.read(partial(_get, job_id=job_id))

    async def present(self, ids: Sequence[int]) -> list[tuple[Job, bytes]]:
        def unit(conn: Connection) -> list[tuple[Job, bytes]]:
            return [found for job_id in ids if (found := _find(conn, job_id)) is not None]

        return await self.db.read(unit)

    async def any_left(self) -> bool:
        """Whether there is any job."""
        return await self.db.read(
            lambda conn: conn.execute("SELECT 1 FROM installs LIMIT 1").fetchone() is not None
        )

    def snapshot(self, conn: Connection) -> list[tuple[str, bytes]]:
        """Every job as the wire's resource, for a watch."""
        rows = conn.execute("SELECT job, record FROM installs").fetchall()
        jobs = [(_JOBS.validate_json(row[0]), bytes(row[1])) for row in rows]
        return [(str(job.id), self._encode(job, record)) for job, record in jobs]

    def _write(self, conn: Connection, job: Job, record: bytes) -> Job:
        job = replace(job, revision=next_revision(conn))
        conn.execute(
            "UPDATE installs SET source = ?, state = ?, job = ?, record = ? WHERE id = ?",
            (job.source.text, job.state, _JOBS.dump_json(job).decode(), record, job.id),
        )
        append_change(conn, COLLECTION, str(job.id), self._encode(job, record))
        return job

    # ---- digests -------------------------------------------------------------------------------------
    async def pending_digest(self, *, oldest: bool) -> tuple[DigestWork, RecordFile] | None:
        order = "sequence, path" if oldest else "size_bytes, sequence, path"

        def unit(conn: Connection) -> tuple[DigestWork, RecordFile] | None:
            row = conn.execute(
                "SELECT work, file FROM digest_files JOIN digest_work USING (key) WHERE state = 'pending' "
                f"ORDER BY {order} LIMIT 1"
            ).fetchone()
            return None if row is None else (_WORK.validate_json(row[0]), _FILES.validate_json(row[1]))

        return await self.db.read(unit)

    async def order_digests(self, work: DigestWork) -> None:
        await self.db.write(lambda conn: _order_digests(conn, work, next_revision(conn)))

    async def save_digest(self, key: str, file: RecordFile) -> None:
        await self.db.write(lambda conn: _put_file(conn, key, file, only_if_known=True))

    async def digested(self) -> list[DigestWork]:
        return await self.db.read(
            lambda conn: _work(
                conn,
                "WHERE key NOT IN (SELECT key FROM digest_files WHERE state = 'pending') ORDER BY sequence",
            )
        )

    async def drop_digests(self, key: str) -> None:
        await self.db.write(
            lambda conn: conn.execute("DELETE FROM digest_work WHERE key = ?", (key,)) and None
        )

    # ---- uninstalls ----------------------------------------------------------------------------------
    async def add_removal(self, removal: Removal) -> None:
        values = (removal.key, _REMOVALS.dump_json(removal).decode())
        await self.db.write(
            lambda conn: conn.execute("INSERT OR REPLACE INTO removals VALUES (?, ?)", values) and None
        )

    async def removals(self) -> list[Removal]:
        rows = await self.db.read(lambda conn: conn.execute("SELECT removal FROM removals").fetchall())
        return [_REMOVALS.validate_json(row[0]) for row in rows]

    async def drop_removal(self, key: str) -> None:
        await self.db.write(lambda conn: conn.execute("DELETE FROM removals WHERE key = ?", (key,)) and None)


def _find(conn: Connection, job_id: int) -> tuple[Job, bytes] | None:
    row = conn.execute("SELECT job, record FROM installs WHERE id = ?", (job_id,)).fetchone()
    return None if row is None else (_JOBS.validate_json(row[0]), bytes(row[1]))


def _get(conn: Connection, job_id: int) -> tuple[Job, bytes]:
    found = _find(conn, job_id)
    if found is None:
        raise UnknownJobIDException(f"There is no install {job_id}.", metadata={"id": str(job_id)})
    return found


def _steerable(conn: Connection, job_id: int) -> tuple[Job, bytes]:
    """A job that may be paused or go on, with its record."""
    job, record = _get(conn, job_id)
    check_steerable(job)
    return job, record


def _jobs(conn: Connection, clause: str) -> list[Job]:
    return [
        _JOBS.validate_json(row[0]) for row in conn.execute(f"SELECT job FROM installs {clause}").fetchall()
    ]


def _active(conn: Connection, source: str) -> list[Job]:
    """The jobs of a shown source that are under way, newest first; not those that were cancelled and have yet
    to end."""
    rows = conn.execute(
        "SELECT job FROM installs WHERE source = ? AND state IN ('waiting', 'running', 'paused') "
        "ORDER BY id DESC",
        (source,),
    ).fetchall()
    jobs = (_JOBS.validate_json(row[0]) for row in rows)
    return [job for job in jobs if not job.cancel_requested]


def _work(conn: Connection, clause: str) -> list[DigestWork]:
    found = []
    for key, work in conn.execute(f"SELECT key, work FROM digest_work {clause}").fetchall():
        rows = conn.execute("SELECT file FROM digest_files WHERE key = ? ORDER BY path", (key,)).fetchall()
        files = tuple(_FILES.validate_json(row[0]) for row in rows)
        found.append(replace(_WORK.validate_json(work), files=files))
    return found


def _order_digests(conn: Connection, work: DigestWork, sequence: int) -> None:
    conn.execute("DELETE FROM digest_work WHERE key = ?", (work.key,))
    conn.execute(
        "INSERT INTO digest_work (key, sequence, work) VALUES (?, ?, ?)",
        (work.key, sequence, _WORK.dump_json(replace(work, files=())).decode()),
    )
    for file in work.files:
        _put_file(conn, work.key, file)


def _put_file(conn: Connection, key: str, file: RecordFile, *, only_if_known: bool = False) -> None:
    state = "pending" if file.state is DigestState.Pending else "done"
    if only_if_known and not conn.execute("SELECT 1 FROM digest_work WHERE key = ?", (key,)).fetchone():
        return  # uninstalled meanwhile
    conn.execute(
        "INSERT OR REPLACE INTO digest_files (key, path, state, file, size_bytes) VALUES (?, ?, ?, ?, ?)",
        (key, file.path, state, _FILES.dump_json(file).decode(), file.size_bytes),
    )


def _quoted(states: Iterable[State]) -> str:
    return ", ".join(f"'{state.value}'" for state in states)
