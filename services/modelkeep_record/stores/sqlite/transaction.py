"""The records as one write transaction of a connection sees them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence, Set
from typing import Any

from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep_common.sqlite import Books, labels
from modelkeep_common.watch.sqlite_log import append_change, next_revision

from ...domain.covers import Cover
from ..store import COLLECTION
from . import reads
from .schema import PARTS, SETS, to_columns


class Transaction:
    """:class:`modelkeep_record.domain.rules.Records` on a connection; none of its methods ever waits.

    One for each unit of work: it remembers what it has read.

    Args:
        conn: In a transaction that somebody else begins and ends; any connection to a file with the tables.
        books: What the connection has added to the history; None: those of one of this suite's connections.
    """

    def __init__(self, conn: sqlite3.Connection, books: Books | None = None) -> None:
        self._conn = conn
        self._books = books
        #: Rows as they are now, by key: of what is changed, much has just been read.
        self._rows: dict[str, tuple[int, bytes]] = {}

    async def get(self, key: str) -> Model | None:
        row = self._row(key)
        return None if row is None else Model.FromString(row[1])

    async def key_at_path(self, path: str, root_id: str) -> str | None:
        return reads.key_at_path(self._conn, path, root_id)

    async def files(self, key: str) -> list[ModelFile]:
        return reads.all_files(self._conn, key)

    async def keys_naming(self, key: str) -> list[str]:
        return reads.keys_naming(self._conn, key)

    async def cover(self, key: str) -> Cover | None:
        return reads.cover(self._conn, key)

    async def next_revision(self) -> int:
        return next_revision(self._conn)

    async def put(self, model: Model, files: Sequence[ModelFile] | None) -> None:
        row = self._row(model.key)
        new = to_columns(model)
        model_id = self._insert(model, new) if row is None else self._update(*row, model, new)
        self._rows[model.key] = (model_id, new["message"])
        if files is not None:
            if row is not None:
                self._conn.execute("DELETE FROM model_files WHERE model_id = ?", (model_id,))
            self._conn.executemany(
                "INSERT INTO model_files (model_id, path, sha256, blake3, message) VALUES (?, ?, ?, ?, ?)",
                [(model_id, f.path, f.sha256, f.blake3, f.SerializeToString()) for f in files],
            )
        append_change(self._conn, COLLECTION, model.key, new["message"], books=self._books)

    async def put_cover(self, key: str, cover: Cover | None) -> None:
        model_id = reads.id_of(self._conn, key)
        if cover is None:
            self._conn.execute("DELETE FROM model_covers WHERE model_id = ?", (model_id,))
        else:
            self._conn.execute(
                "INSERT OR REPLACE INTO model_covers (model_id, media_type, sha256, image) "
                "VALUES (?, ?, ?, ?)",
                (model_id, cover.media_type, cover.sha256, cover.image),
            )

    async def remove(self, key: str) -> None:
        # By name, since an application's connection may not enforce foreign keys, which would cascade.
        model_id = reads.id_of(self._conn, key)
        for table, column in PARTS:
            self._conn.execute(f"DELETE FROM {table} WHERE {column} = ?", (model_id,))
        self._conn.execute("DELETE FROM models WHERE id = ?", (model_id,))
        self._rows.pop(key, None)
        append_change(self._conn, COLLECTION, key, None, books=self._books)

    def _row(self, key: str) -> tuple[int, bytes] | None:
        """Number and message of a record."""
        row = self._rows.get(key)
        if row is None:
            row = self._conn.execute("SELECT id, message FROM models WHERE key = ?", (key,)).fetchone()
            if row is not None:
                self._rows[key] = row
        return row

    def _insert(self, model: Model, new: Mapping[str, Any]) -> int:
        names, marks = ", ".join(new), ", ".join("?" * len(new))
        cursor = self._conn.execute(f"INSERT INTO models ({names}) VALUES ({marks})", tuple(new.values()))
        model_id = cursor.lastrowid
        assert model_id is not None
        for table, (column, values_of) in SETS.items():
            self._add(table, column, model_id, values_of(model))
        labels.keep(self._conn, model_id, model.labels)
        return model_id

    def _update(self, model_id: int, message: bytes, model: Model, new: Mapping[str, Any]) -> int:
        before = Model.FromString(message)
        old = to_columns(before)
        # Naming a column rewrites its indexes, also with the value it has.
        changed = {name: value for name, value in new.items() if value != old[name]}
        if changed:
            assignments = ", ".join(f"{name} = ?" for name in changed)
            self._conn.execute(f"UPDATE models SET {assignments} WHERE id = ?", (*changed.values(), model_id))
        for table, (column, values_of) in SETS.items():
            kept, wanted = values_of(before), values_of(model)
            if kept != wanted:
                self._conn.executemany(
                    f"DELETE FROM {table} WHERE {column} = ? AND model_id = ?",
                    [(value, model_id) for value in kept - wanted],
                )
                self._add(table, column, model_id, wanted - kept)
        if before.labels != model.labels:
            labels.keep(self._conn, model_id, model.labels)
        return model_id

    def _add(self, table: str, column: str, model_id: int, values: Set[str]) -> None:
        if values:
            self._conn.executemany(
                f"INSERT INTO {table} ({column}, model_id) VALUES (?, ?)",
                [(value, model_id) for value in values],
            )
