"""What is read of records in SQLite, as functions of a connection.

Each belongs inside one read transaction; none of them needs this package's own connections or threads.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator, Sequence

from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep_common.paging import Key
from modelkeep_common.watch.sqlite_log import current_revision, history_floor, read_epochs, resume_token

from ...domain.covers import Cover
from ...domain.query import Order, Query
from ..store import COLLECTION, Page, Stored, StoreInfo, cut
from .sql import ALL, select_models

#: The last character of all, and those that no text has.
_LAST = chr(sys.maxunicode)
_SURROGATES = range(0xD800, 0xE000)

#: In two parts, since SQLite's sum() fails beyond 64 bits.
_KINDS = """
    SELECT type, format, base, count(*), sum(size_bytes >> 20), sum(size_bytes & 0xFFFFF)
    FROM models GROUP BY 2, 1, 3
"""


def get(conn: sqlite3.Connection, key: str) -> bytes | None:
    """The record of a key."""
    row = conn.execute("SELECT message FROM models WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def get_many(conn: sqlite3.Connection, keys: Sequence[str]) -> dict[str, bytes]:
    """The records of those keys that have one."""
    if len(keys) == 1:
        return dict(conn.execute("SELECT key, message FROM models WHERE key = ?", keys))
    # One statement for any number of keys, so that it is prepared once.
    return dict(
        conn.execute(
            "SELECT m.key, m.message FROM json_each(?) k CROSS JOIN models m ON m.key = k.value",
            (json.dumps(keys),),
        )
    )


def key_at_path(conn: sqlite3.Connection, path: str, root_id: str) -> str | None:
    """The key of the record that has a path."""
    row = conn.execute("SELECT key FROM models WHERE path = ? AND root_id = ?", (path, root_id)).fetchone()
    return None if row is None else row[0]


def keys_naming(conn: sqlite3.Connection, key: str) -> list[str]:
    """The keys of the records whose related keys have a key, sorted."""
    rows = conn.execute(
        "SELECT m.key FROM model_related r JOIN models m ON m.id = r.model_id WHERE r.related_key = ? "
        "ORDER BY m.key",
        (key,),
    )
    return [naming for (naming,) in rows]


def find(conn: sqlite3.Connection, name: str, base: str, type: int) -> tuple[int, bytes]:
    """How many records have exactly this name, base and type, and one of them (b"" if none)."""
    count, first = conn.execute(
        "SELECT count(*), min(id) FROM models WHERE type = ? AND base = ? AND name = ?", (type, base, name)
    ).fetchone()
    row = conn.execute("SELECT message FROM models WHERE id = ?", (first,)).fetchone()
    return count, row[0] if row else b""


def page(
    conn: sqlite3.Connection,
    query: Query,
    order: Order,
    descending: bool,
    after: Sequence[Key],
    limit: int,
    max_bytes: int,
) -> Page:
    """The records after a position, at most ``limit`` and about ``max_bytes``, at least one."""
    rows = select_models(conn, query, order, descending, after, limit + 1)
    return cut(rows, limit, max_bytes, resume_token(conn, COLLECTION))


def whole_list(conn: sqlite3.Connection, query: Query, order: Order, descending: bool) -> list[bytes]:
    """All records that a query asks for, in order."""
    return [message for message, *_ in select_models(conn, query, order, descending, (), ALL)]


def files(conn: sqlite3.Connection, key: str, after: str, limit: int, max_bytes: int) -> Page | None:
    """A model's files after a path; None if there is no such model."""
    model_id = id_of(conn, key)
    if model_id is None:
        return None
    rows = conn.execute(
        "SELECT message, path FROM model_files WHERE model_id = ? AND path > ? ORDER BY path LIMIT ?",
        (model_id, after, limit + 1),
    )
    return cut(rows, limit, max_bytes, "")


def all_files(conn: sqlite3.Connection, key: str) -> list[ModelFile]:
    """A model's files, ordered by path."""
    rows = conn.execute(
        "SELECT message FROM model_files WHERE model_id = ? ORDER BY path", (id_of(conn, key),)
    )
    return [ModelFile.FromString(message) for (message,) in rows]


def stored(conn: sqlite3.Connection, query: Query, *, with_covers: bool) -> Iterator[Stored]:
    """The records that a query is about, by key, with their files, and their pictures if these are meant."""
    for message, key in select_models(conn, query, Order.KEY, False, (), ALL):
        rows = conn.execute(
            "SELECT message FROM model_files WHERE model_id = ? ORDER BY path", (id_of(conn, key),)
        )
        picture = cover(conn, key) if with_covers else None
        yield Stored(message, [file for (file,) in rows], b"" if picture is None else picture.image)


def tags(conn: sqlite3.Connection, prefix: str, after: str, limit: int) -> list[tuple[str, int]]:
    """Tags that begin with a text, after one of them, each with the number of records that have it."""
    end = after_all(prefix)
    below, bounds = ("AND tag < ?", [end]) if end else ("", [])
    return conn.execute(
        f"SELECT tag, count(*) FROM model_tags WHERE tag >= ? AND tag > ? {below} "
        "GROUP BY tag ORDER BY tag LIMIT ?",
        (prefix, after, *bounds, limit),
    ).fetchall()


def after_all(prefix: str) -> str:
    """The first text after all those that begin with a prefix; "" if there is none."""
    begun = prefix.rstrip(_LAST)
    if not begun:
        return ""
    following = ord(begun[-1]) + 1
    return begun[:-1] + chr(_SURROGATES.stop if following in _SURROGATES else following)


def cover(conn: sqlite3.Connection, key: str) -> Cover | None:
    """The picture that stands for a model."""
    row = conn.execute(
        "SELECT c.media_type, c.sha256, c.image FROM models m JOIN model_covers c ON c.model_id = m.id "
        "WHERE m.key = ?",
        (key,),
    ).fetchone()
    return None if row is None else Cover(*row)


def info(conn: sqlite3.Connection) -> StoreInfo:
    """What the store is and has."""
    made = conn.execute("SELECT min(apply_time) FROM schema_migrations").fetchone()
    kinds = {
        (type_, format_, base): (count, (high << 20) + low)
        for type_, format_, base, count, high, low in conn.execute(_KINDS)
    }
    (missing,) = conn.execute("SELECT count(*) FROM models WHERE missing_time_us != 0").fetchone()
    return StoreInfo(
        read_epochs(conn).store_id,
        current_revision(conn),
        history_floor(conn),
        float(made[0] or 0),
        kinds,
        missing,
    )


def every(conn: sqlite3.Connection) -> Iterator[tuple[str, Model]]:
    """Every record with its key, in any order."""
    for key, message in conn.execute("SELECT key, message FROM models"):
        yield key, Model.FromString(message)


def id_of(conn: sqlite3.Connection, key: str) -> int | None:
    """The number of a record's row."""
    row = conn.execute("SELECT id FROM models WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]
