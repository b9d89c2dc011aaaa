"""Records in one SQLite file.

A read is one unit of work on a reader thread, a write one transaction on the writer's; nothing here
waits in between.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep.reserve import DEFAULT_BYTES
from modelkeep_common.idempotency import replay_or_run
from modelkeep_common.limits import StoreLimits
from modelkeep_common.paging import Key
from modelkeep_common.sqlite import Connection, Database, labels
from modelkeep_common.watch.sqlite_log import (
    append_change,
    current_revision,
    history_floor,
    next_revision,
    resume_token,
)

from ...domain.query import Order, Query
from ...domain.rules import Records
from .gather import Gatherer
from .schema import MIGRATIONS, to_bases, to_columns
from .sql import select_models

COLLECTION = "models"


#: In two parts, since SQLite's sum() fails beyond 64 bits.
_KINDS = """
    SELECT type, format, base, count(*), sum(size_bytes >> 20), sum(size_bytes & 0xFFFFF)
    FROM models GROUP BY 2, 1, 3
"""


#: Filtered lists are mostly quick, so many may wait for a moment.
_MAX_WAITING_LISTS = 256
_LIST_REMEDY = "add a filter that leaves fewer records, such as a name, a tag or a path"
_SEARCH_REMEDY = "search for words of three letters or more, or narrow it by type, base or tags"


@dataclass(frozen=True)
class Once:
    """Who asks for a write, so that the same request is carried out once."""

    request_id: str
    fingerprint: bytes
    method: str
    principal: str


class Page(NamedTuple):
    """Serialised messages of a page, and the sort key of the last, empty if it is the last page."""

    messages: list[bytes]
    position: list[Key]
    resume_token: str


class StoreInfo(NamedTuple):
    """What GetStoreInfo tells."""

    store_id: str
    revision: int
    oldest_revision: int
    create_time: float
    #: (type, format, base) → (records, bytes)
    kinds: dict[tuple[int, int, str], tuple[int, int]]
    #: Records whose files are gone.
    missing: int


class SqliteRecordStore:
    """Records in one SQLite file; several processes may have it open.

    Messages go in and out in their wire form where nobody needs to look inside.
    """

    def __init__(self, db: Database, *, readers: int = 2, max_searches: int = 4, search_s: float = 2) -> None:
        """See :meth:`open`."""
        self.db = db
        self._gets = Gatherer(self.get_many)
        self._lists = db.lane(
            "list", at_once=readers, waiting=_MAX_WAITING_LISTS, limit_s=search_s, remedy=_LIST_REMEDY
        )
        self._searches = db.lane(
            "search", at_once=max_searches, waiting=max_searches, limit_s=search_s, remedy=_SEARCH_REMEDY
        )

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        readers: int = 2,
        reserve_bytes: int = DEFAULT_BYTES,
        limits: StoreLimits | None = None,
        max_searches: int = 4,
        search_s: float = 2,
    ) -> Self:
        """Open a file, making or migrating it as needed.

        Args:
            path: The database file.
            readers: How many reads, and how many filtered lists, may run at once.
            reserve_bytes: Room that is kept beside the file for when the disk is full.
            limits: How much history and how many kept answers there may be.
            max_searches: How many searches for free text may run at once.
            search_s: How many seconds a search or a filtered list may take.

        Raises:
            StartupError: 65 for a newer schema or a file of another kind, 73 if it cannot be written.
        """
        db = await Database.open(
            path, MIGRATIONS, "record", readers=readers, reserve_bytes=reserve_bytes, limits=limits
        )
        return cls(db, readers=readers, max_searches=max_searches, search_s=search_s)

    async def close(self) -> None:
        """Finish what was asked for and close."""
        await self.db.close()

    async def get(self, key: str) -> bytes | None:
        """The record of a key."""
        return await self._gets.get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The records of those keys that have one."""

        def read(conn: Connection) -> dict[str, bytes]:
            if len(keys) == 1:
                return dict(conn.execute("SELECT key, message FROM models WHERE key = ?", keys))
            # One statement for any number of keys, so that it is prepared once.
            return dict(
                conn.execute(
                    "SELECT m.key, m.message FROM json_each(?) k CROSS JOIN models m ON m.key = k.value",
                    (json.dumps(keys),),
                )
            )

        return await self.db.read_by_key(read)

    async def find(self, name: str, base: str, type: int) -> tuple[int, bytes]:
        """How many records have exactly this name, base and type, and one of them (b"" if none)."""

        def read(conn: Connection) -> tuple[int, bytes]:
            count, first = conn.execute(
                "SELECT count(*), min(id) FROM models WHERE type = ? AND base = ? AND name = ?",
                (type, base, name),
            ).fetchone()
            row = conn.execute("SELECT message FROM models WHERE id = ?", (first,)).fetchone()
            return count, row[0] if row else b""

        return await self.db.read_by_key(read)

    async def page(
        self, query: Query, order: Order, descending: bool, after: Sequence[Key], limit: int, max_bytes: int
    ) -> Page:
        """The records after a position, at most ``limit`` and about ``max_bytes``, at least one."""

        def read(conn: Connection) -> Page:
            rows = select_models(conn, query, order, descending, after, limit + 1)
            return _cut(rows, limit, max_bytes, resume_token(conn, COLLECTION))

        if query.words:
            return await self._searches.run(read)
        if query.restricts:
            return await self._lists.run(read)
        return await self.db.read(read)

    async def files(self, key: str, after: str, limit: int, max_bytes: int) -> Page | None:
        """A model's files after a path; None if there is no such model."""

        def read(conn: Connection) -> Page | None:
            model_id = _id(conn, key)
            if model_id is None:
                return None
            rows = conn.execute(
                "SELECT message, path FROM model_files WHERE model_id = ? AND path > ? ORDER BY path LIMIT ?",
                (model_id, after, limit + 1),
            )
            return _cut(rows, limit, max_bytes, "")

        return await self.db.read_by_key(read)

    async def tags(self, prefix: str, after: str, limit: int) -> list[tuple[str, int]]:
        """Tags that begin with a text, after one of them, each with the number of records that have it."""

        def read(conn: Connection) -> list[tuple[str, int]]:
            return conn.execute(
                "SELECT tag, count(*) FROM model_tags WHERE tag >= ? AND tag < ? AND tag > ? "
                "GROUP BY tag ORDER BY tag LIMIT ?",
                (prefix, f"{prefix}{chr(sys.maxunicode)}", after, limit),
            ).fetchall()

        return await self._lists.run(read)

    async def look(self, unit: Callable[[Records], bytes]) -> bytes:
        """Run a unit of work that writes nothing, on records as they are now."""
        return await self.db.read(lambda conn: unit(_Transaction(conn)))

    async def write(self, unit: Callable[[Records], bytes], once: Once, *, grows: bool = False) -> bytes:
        """Run a unit of work in a write transaction, or answer as an earlier request with the same id.

        With ``grows`` it does not use the room that is kept for a full disk.
        """

        def work(conn: Connection) -> bytes:
            return replay_or_run(
                conn,
                once.request_id,
                once.fingerprint,
                lambda: unit(_Transaction(conn)),
                method=once.method,
                principal=once.principal,
            )[0]

        return await self.db.write(work, grows=grows)

    async def info(self) -> StoreInfo:
        """What the store is and has."""

        def read(conn: Connection) -> StoreInfo:
            made = conn.execute("SELECT min(apply_time) FROM schema_migrations").fetchone()
            kinds = {
                (type_, format_, base): (count, (high << 20) + low)
                for type_, format_, base, count, high, low in conn.execute(_KINDS)
            }
            (missing,) = conn.execute("SELECT count(*) FROM models WHERE missing_time_us != 0").fetchone()
            return StoreInfo(
                self.db.store_id,
                current_revision(conn),
                history_floor(conn),
                float(made[0] or 0),
                kinds,
                missing,
            )

        return await self.db.read(read)

    def snapshot(self, conn: Connection) -> Iterator[tuple[str, Model]]:
        """Every record by key, for the watch hub; inside a read transaction."""
        for key, message in conn.execute("SELECT key, message FROM models"):
            yield key, Model.FromString(message)


class _Transaction:
    """:class:`Records` on the connection of a write transaction."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def get(self, key: str) -> Model | None:
        row = self._conn.execute("SELECT message FROM models WHERE key = ?", (key,)).fetchone()
        return None if row is None else Model.FromString(row[0])

    def key_at_path(self, path: str, root_id: str) -> str | None:
        row = self._conn.execute(
            "SELECT key FROM models WHERE path = ? AND root_id = ?", (path, root_id)
        ).fetchone()
        return None if row is None else row[0]

    def files(self, key: str) -> list[ModelFile]:
        rows = self._conn.execute(
            "SELECT message FROM model_files WHERE model_id = ? ORDER BY path", (_id(self._conn, key),)
        )
        return [ModelFile.FromString(message) for (message,) in rows]

    def next_revision(self) -> int:
        return next_revision(self._conn)

    def put(self, model: Model, files: Sequence[ModelFile] | None) -> None:
        new = to_columns(model)
        names = ", ".join(new)
        model_id = _id(self._conn, model.key)
        if model_id is None:
            marks = ", ".join("?" * len(new))
            cursor = self._conn.execute(f"INSERT INTO models ({names}) VALUES ({marks})", tuple(new.values()))
            assert cursor.lastrowid is not None
            model_id = cursor.lastrowid
        else:
            row = self._conn.execute(f"SELECT {names} FROM models WHERE id = ?", (model_id,)).fetchone()
            # Naming a column rewrites its indexes, also with the value it has.
            changed = {
                name: value for (name, value), old in zip(new.items(), row, strict=True) if value != old
            }
            assignments = ", ".join(f"{name} = ?" for name in changed)
            self._conn.execute(f"UPDATE models SET {assignments} WHERE id = ?", (*changed.values(), model_id))
        self._replace("model_bases", "base", model_id, to_bases(model))
        self._replace("model_tags", "tag", model_id, set(model.tags))
        labels.keep(self._conn, model_id, model.labels)
        if files is not None:
            self._conn.execute("DELETE FROM model_files WHERE model_id = ?", (model_id,))
            self._conn.executemany(
                "INSERT INTO model_files (model_id, path, sha256, blake3, message) VALUES (?, ?, ?, ?, ?)",
                [(model_id, f.path, f.sha256, f.blake3, f.SerializeToString()) for f in files],
            )
        append_change(self._conn, COLLECTION, model.key, new["message"])

    def remove(self, key: str) -> None:
        self._conn.execute("DELETE FROM models WHERE key = ?", (key,))
        append_change(self._conn, COLLECTION, key, None)

    def _replace(self, table: str, column: str, model_id: int, values: set[str]) -> None:
        rows = self._conn.execute(f"SELECT {column} FROM {table} WHERE model_id = ?", (model_id,))
        old = {value for (value,) in rows}
        for value in old - values:
            self._conn.execute(f"DELETE FROM {table} WHERE {column} = ? AND model_id = ?", (value, model_id))
        for value in values - old:
            self._conn.execute(f"INSERT INTO {table} ({column}, model_id) VALUES (?, ?)", (value, model_id))


def _id(conn: Connection, key: str) -> int | None:
    row = conn.execute("SELECT id FROM models WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def _cut(rows: Iterable[tuple[Any, ...]], limit: int, max_bytes: int, token: str) -> Page:
    """A page of rows (message, sort key …): at most ``limit``, about ``max_bytes``, at least one."""
    messages: list[bytes] = []
    position: list[Key] = []
    size = 0
    for message, *key in rows:
        size += len(message)
        if messages and (len(messages) == limit or size > max_bytes):
            return Page(messages, position, token)
        messages.append(message)
        position = key
    return Page(messages, [], token)
