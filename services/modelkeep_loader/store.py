"""The history of residents, for watches: a file that begins anew with each start of the loader.

Residents live in memory and die with the process, so nothing here is worth keeping; it is a file because
the watch hub, with its tokens and its window, works on one. Changes are written behind the caller's back,
several at once: no grant waits for a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from pathlib import Path
from typing import NamedTuple

from modelkeep.loader.v1 import resident_pb2
from modelkeep.reserve import DEFAULT_BYTES
from modelkeep_common.sqlite import Database, Migration, StoreLimits
from modelkeep_common.watch import WatchHub
from modelkeep_common.watch.sqlite_log import append_change, current_revision, next_revision, read_epochs

_log = logging.getLogger(__name__)

COLLECTION = "residents"
MIGRATIONS = (
    Migration(
        1,
        "CREATE TABLE residents (id TEXT PRIMARY KEY, revision INTEGER NOT NULL, payload BLOB NOT NULL) "
        "WITHOUT ROWID;",
    ),
)


class _Change(NamedTuple):
    """What a resident became; no message: it is gone."""

    id: str
    message: resident_pb2.Resident | None

    def is_outdone_by(self, later: _Change) -> bool:
        """Whether the later change of the same resident leaves its state as it was."""
        if self.message is None or later.message is None:
            return False
        return self.id == later.id and self.message.state == later.message.state


class ResidentHistory:
    """Writes the changes of residents, and serves their watch."""

    def __init__(self, db: Database) -> None:
        self.hub = WatchHub[resident_pb2.Resident](
            db, collection=COLLECTION, parse=resident_pb2.Resident.FromString
        )
        self._db = db
        self._changes: list[_Change] = []
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._writer = asyncio.get_running_loop().create_task(self._write_behind(), name="resident history")

    @classmethod
    async def open(
        cls, path: Path, *, reserve_bytes: int = DEFAULT_BYTES, limits: StoreLimits | None = None
    ) -> ResidentHistory:
        """Begin a new history in a file; what an earlier process left there is removed.

        Raises:
            StartupError: The file cannot be written.
        """
        await asyncio.to_thread(_remove, path)
        return cls(
            await Database.open(path, MIGRATIONS, "loader", reserve_bytes=reserve_bytes, limits=limits)
        )

    @property
    def store_id(self) -> str:
        """Id of this history; another one after each start."""
        return self._db.store_id

    def changed(self, resident_id: str, message: resident_pb2.Resident | None) -> None:
        """A resident is now so; None: it is gone. Every change of its state is written; of changes of
        leases alone that come quickly only the last.
        """
        change = _Change(resident_id, message)
        if self._changes and self._changes[-1].is_outdone_by(change):
            self._changes.pop()
        self._changes.append(change)
        self._wake.set()

    def progress(self, message: resident_pb2.Resident) -> None:
        """The loading of a resident went on."""
        if not any(change.id == message.id for change in self._changes):
            self.hub.progress(message.id, message)

    async def flush(self) -> str:
        """Write what there is to write.

        Returns:
            A resume token from after that.
        """
        async with self._turn:
            changes, self._changes = self._changes, []
            if changes:
                try:
                    await self._db.write(lambda conn: _write(conn, changes))
                except Exception:
                    # Kept for the next time; of each resident only the last, for that may be long.
                    self._changes[:0] = {change.id: change for change in changes}.values()
                    self._wake.set()
                    raise
        revision, epochs = await self._db.read(lambda conn: (current_revision(conn), read_epochs(conn)))
        return self.hub.token(revision, epochs)

    async def revisions(self) -> dict[str, int]:
        """Residents that have been written, with the revision of their last change."""
        return await self._db.read(lambda conn: dict(conn.execute("SELECT id, revision FROM residents")))

    async def close(self) -> None:
        """Stop writing and close the file."""
        self._writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writer
        await self._db.close()

    async def _write_behind(self) -> None:
        while True:
            await self._wake.wait()
            # What comes in a burst is written at once: leases come and go in milliseconds.
            await asyncio.sleep(0.02)
            self._wake.clear()
            try:
                await self.flush()
            except Exception as error:
                _log.warning("changes of residents cannot be written: %s", error)
                await asyncio.sleep(1.0)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            path.with_name(path.name + suffix).unlink()


def read_residents(conn: sqlite3.Connection) -> list[tuple[str, resident_pb2.Resident]]:
    """Every resident of the history."""
    rows = conn.execute("SELECT id, payload FROM residents ORDER BY id")
    return [(row[0], resident_pb2.Resident.FromString(row[1])) for row in rows]


def _write(conn: sqlite3.Connection, changes: list[_Change]) -> None:
    for resident_id, message in changes:
        if message is None:
            gone = conn.execute("DELETE FROM residents WHERE id = ?", (resident_id,)).rowcount
            if gone:
                append_change(conn, COLLECTION, resident_id, None)
            continue
        message.revision = next_revision(conn)
        payload = message.SerializeToString()
        conn.execute(
            "INSERT OR REPLACE INTO residents (id, revision, payload) VALUES (?, ?, ?)",
            (resident_id, message.revision, payload),
        )
        append_change(conn, COLLECTION, resident_id, payload)
