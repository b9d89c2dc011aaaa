"""Scans and what they find, in the installer's SQLite file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from modelkeep.exceptions import UnknownJobIDException, WrongStateException
from modelkeep_common.idempotency import replay_or_run
from modelkeep_common.sqlite import Connection, Database

from ..domain.requests import Caller
from .found import MAX_KEPT, MAX_KEYS, Finding, FindingKind, Scan, ScanState
from .known import Seen

SCHEMA = """
    CREATE TABLE scans (id INTEGER PRIMARY KEY AUTOINCREMENT, ended INTEGER NOT NULL, scan TEXT NOT NULL);
    CREATE TABLE scan_findings (
        scan INTEGER NOT NULL REFERENCES scans (id) ON DELETE CASCADE,
        path TEXT NOT NULL,
        kind TEXT NOT NULL,
        key TEXT NOT NULL,
        finding TEXT NOT NULL,
        PRIMARY KEY (scan, path)
    ) WITHOUT ROWID;
    CREATE TABLE scan_seen (
        path TEXT PRIMARY KEY,
        facts TEXT NOT NULL,
        key TEXT NOT NULL,
        copied INTEGER NOT NULL
    ) WITHOUT ROWID;
"""

_SCANS: TypeAdapter[Scan] = TypeAdapter(Scan)
_FINDINGS: TypeAdapter[Finding] = TypeAdapter(Finding)


class ScanStore:
    """Scans, their findings, and what they have seen. Writes are durable when they return."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, scan: Scan, caller: Caller) -> Scan:
        """Stores a scan that has not run, and forgets the oldest that have ended beyond what is kept.

        Raises:
            RequestIdReusedException: The request id was used for another request.
        """

        def unit(conn: Connection) -> Scan:
            def run() -> bytes:
                conn.execute(
                    "DELETE FROM scans WHERE ended AND id NOT IN "
                    "(SELECT id FROM scans WHERE ended ORDER BY id DESC LIMIT ?)",
                    (MAX_KEPT,),
                )
                cursor = conn.execute("INSERT INTO scans (ended, scan) VALUES (0, '')")
                assert cursor.lastrowid is not None
                _write(conn, replace(scan, id=cursor.lastrowid))
                return str(cursor.lastrowid).encode()

            answer, _ = replay_or_run(
                conn,
                caller.request_id,
                caller.fingerprint,
                run,
                principal=caller.principal.name,
                method=caller.method,
            )
            return _get(conn, int(answer))

        return await self._db.write(unit, grows=True)

    async def get(self, scan_id: int) -> Scan:
        """One scan; UnknownJobIDException if there is none."""
        return await self._db.read(lambda conn: _get(conn, scan_id))

    async def save(self, scan: Scan) -> Scan:
        """Stores a changed scan; a cancel that came meanwhile is kept."""

        def unit(conn: Connection) -> Scan:
            asked = _get(conn, scan.id).cancel_requested
            return _write(conn, replace(scan, cancel_requested=scan.cancel_requested or asked))

        return await self._db.write(unit)

    async def end(self, scan: Scan) -> Scan:
        """Stores a scan that ends, with the numbers and keys that its findings have."""

        def unit(conn: Connection) -> Scan:
            rows = conn.execute(
                "SELECT kind, count(*) FROM scan_findings WHERE scan = ? GROUP BY kind", (scan.id,)
            )
            kinds = {FindingKind(kind): int(count) for kind, count in rows}
            keys = conn.execute(
                "SELECT key FROM scan_findings WHERE scan = ? AND kind = 'new' AND key != '' "
                "ORDER BY path LIMIT ?",
                (scan.id, MAX_KEYS),
            )
            counts = replace(scan.counts, kinds=kinds)
            return _write(conn, replace(scan, counts=counts, keys=tuple(key for (key,) in keys)))

        return await self._db.write(unit)

    async def request_cancel(self, scan_id: int) -> Scan:
        """Notes that a scan shall end; WrongStateException if it has."""

        def unit(conn: Connection) -> Scan:
            scan = _get(conn, scan_id)
            if scan.state is ScanState.CANCELLED or scan.cancel_requested:
                return scan
            if scan.state.final:
                raise WrongStateException(
                    f"Scan {scan_id} has ended ({scan.state}) and cannot be cancelled.",
                    metadata={"id": str(scan_id), "state": scan.state, "allowed": "waiting,running"},
                )
            return _write(conn, replace(scan, cancel_requested=True))

        return await self._db.write(unit)

    async def unfinished(self) -> list[Scan]:
        """The scans that have not ended, oldest first."""
        return await self._db.read(lambda conn: _scans(conn, "WHERE NOT ended ORDER BY id"))

    async def page(self, *, before: int | None, limit: int) -> list[Scan]:
        """At most ``limit`` scans, newest first."""
        where = "" if before is None else f"WHERE id < {before:d}"
        return await self._db.read(lambda conn: _scans(conn, f"{where} ORDER BY id DESC LIMIT {limit:d}"))

    # ---- findings ------------------------------------------------------------------------------------
    async def add_findings(self, scan_id: int, findings: Iterable[Finding]) -> None:
        """Stores findings, each in place of what was found at its path before."""
        rows = [(scan_id, f.path, f.kind, f.key, _FINDINGS.dump_json(f).decode()) for f in findings]

        def unit(conn: Connection) -> None:
            conn.executemany("INSERT OR REPLACE INTO scan_findings VALUES (?, ?, ?, ?, ?)", rows)

        if rows:
            await self._db.write(unit, grows=True)

    async def begin_anew(self, scan_id: int) -> list[Finding]:
        """Forgets a scan's findings but for what it has registered; answers with that."""

        def unit(conn: Connection) -> list[Finding]:
            conn.execute(
                "DELETE FROM scan_findings WHERE scan = ? AND (kind != 'new' OR key = '')", (scan_id,)
            )
            rows = conn.execute("SELECT finding FROM scan_findings WHERE scan = ?", (scan_id,)).fetchall()
            return [_FINDINGS.validate_json(row[0]) for row in rows]

        return await self._db.write(unit)

    async def findings(
        self, scan_id: int, kinds: Collection[FindingKind], *, after: str, limit: int
    ) -> list[Finding]:
        """At most ``limit`` findings, in the order of their paths; UnknownJobIDException."""
        of_kind = f"AND kind IN ({', '.join('?' * len(kinds))})" if kinds else ""

        def unit(conn: Connection) -> list[Finding]:
            _get(conn, scan_id)
            rows = conn.execute(
                f"SELECT finding FROM scan_findings WHERE scan = ? AND path > ? {of_kind} "
                "ORDER BY path LIMIT ?",
                (scan_id, after, *kinds, limit),
            ).fetchall()
            return [_FINDINGS.validate_json(row[0]) for row in rows]

        return await self._db.read(unit)

    # ---- what was seen -------------------------------------------------------------------------------
    async def seen(self, folders: Sequence[Path]) -> dict[str, Seen]:
        """What earlier scans knew of the paths beneath folders."""

        def unit(conn: Connection) -> dict[str, Seen]:
            found = {}
            for folder in folders:
                begin = f"{folder}/".replace("//", "/")
                rows = conn.execute(
                    "SELECT path, facts, key, copied FROM scan_seen WHERE path = ? OR path >= ? AND path < ?",
                    (str(folder), begin, f"{begin[:-1]}0"),  # "0" comes after "/"
                ).fetchall()
                found.update({path: Seen(facts, key, bool(copied)) for path, facts, key, copied in rows})
            return found

        return await self._db.read(unit)

    async def change_seen(self, put: Mapping[str, Seen], gone: Iterable[str] = ()) -> None:
        """Keeps what is known of paths, and forgets others."""
        rows = [(path, seen.facts, seen.key, seen.copied) for path, seen in put.items()]
        paths = [(path,) for path in gone]

        def unit(conn: Connection) -> None:
            conn.executemany("DELETE FROM scan_seen WHERE path = ?", paths)
            conn.executemany("INSERT OR REPLACE INTO scan_seen VALUES (?, ?, ?, ?)", rows)

        if rows or paths:
            await self._db.write(unit, grows=bool(rows))


def _write(conn: Connection, scan: Scan) -> Scan:
    conn.execute(
        "UPDATE scans SET ended = ?, scan = ? WHERE id = ?",
        (scan.state.final, _SCANS.dump_json(scan).decode(), scan.id),
    )
    return scan


def _get(conn: Connection, scan_id: int) -> Scan:
    found = _scans(conn, f"WHERE id = {scan_id:d}")
    if not found:
        raise UnknownJobIDException(f"There is no scan {scan_id}.", metadata={"id": str(scan_id)})
    return found[0]


def _scans(conn: Connection, clause: str) -> list[Scan]:
    return [
        _SCANS.validate_json(row[0]) for row in conn.execute(f"SELECT scan FROM scans {clause}").fetchall()
    ]
