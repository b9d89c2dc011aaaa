"""The question of a list as SQL.

Where one of the filters leaves few records, those are fetched and sorted; else the index of the order
is walked and each record tested, which soon fills a page. Which of the two is decided by looking for
the matches of each filter in its index, up to a limit: SQLite's planner cannot know. Where what is asked
for comes late in the order, the beginning of the walk does not fill a page: then many are sorted, too.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple

from modelkeep_common.paging import Key
from modelkeep_common.sqlite import labels

from ...domain.query import NO_BOUNDS, Bounds, Order, Query

_FEW = 2000
#: Matches that are looked at in an index, and records that are sorted at most, where a walk seems long.
_MANY, _SORTED = 20_000, 8000
#: Records of the order that are tested before it is asked whether many had better be sorted.
_BEGINNING = 2500
#: Folders of a model that may lie in each other.
_DEEPEST = 64
#: Shorter words have no trigram.
_TRIGRAM = 3


#: As a limit: every record.
ALL: Final = sys.maxsize


class _Filter(NamedTuple):
    """One restriction: a test of row ``m``, and the ids that pass it as an indexed query (or "")."""

    test: str
    test_values: tuple[Any, ...]
    ids: str = ""
    ids_values: tuple[Any, ...] = ()


def select_models(
    conn: sqlite3.Connection,
    query: Query,
    order: Order,
    descending: bool,
    after: Sequence[Key],
    limit: int,
) -> Iterable[tuple[Any, ...]]:
    """Rows (message, sort key …) of the records asked for, in order, after a sort key."""
    walk = _Walk(list(_filters(query)), order, descending, after)
    ids = _few(conn, walk, limit)
    source, values = ("models m", ()) if ids is None else (_THESE, (json.dumps(ids),))
    return conn.execute(
        f"SELECT m.message, {walk.columns} FROM {source} {walk.where} ORDER BY {walk.ordered} LIMIT ?",
        (*values, *walk.values, limit),
    )


#: The records of a list of ids, in place of all.
_THESE = "json_each(?) c CROSS JOIN models m ON m.id = c.value"


class _Walk:
    """What a list asks of each record, and in which order it comes, as parts of a statement."""

    def __init__(
        self, filters: Sequence[_Filter], order: Order, descending: bool, after: Sequence[Key]
    ) -> None:
        self.filters = filters
        self.columns = ", ".join(f"m.{column}" for column in order.value)
        direction = " DESC" if descending else ""
        self.ordered = ", ".join(f"m.{column}{direction}" for column in order.value)
        marks = ", ".join("?" * len(order.value))
        self.after = [f"({self.columns}) {'<' if descending else '>'} ({marks})"] if after else []
        self.tests = [f.test for f in filters]
        every = [*self.tests, *self.after]
        self.where = f"WHERE {' AND '.join(every)}" if every else ""
        self.values = (*(value for f in filters for value in f.test_values), *after)

    def begin(self, conn: sqlite3.Connection, limit: int) -> list[int]:
        """The first ids that are asked for, of those among the next records of the order."""
        after = f"WHERE {self.after[0]}" if self.after else ""
        rows = conn.execute(
            f"SELECT m.id, {' AND '.join(self.tests)} FROM models m {after} ORDER BY {self.ordered} LIMIT ?",
            (*self.values, _BEGINNING),
        )
        return list(islice((model_id for model_id, passes in rows if passes), limit))


def _few(conn: sqlite3.Connection, walk: _Walk, limit: int) -> list[int] | None:
    """Ids among which the records asked for are, if they are few enough to be sorted; else None."""
    if not walk.filters:
        return None
    ids = _passing(conn, walk.filters, _FEW)
    if ids is None:
        ids = walk.begin(conn, limit)
        if len(ids) < limit:
            # Several filters may leave few together, though none does alone.
            several = sum(bool(f.ids) for f in walk.filters) > 1
            ids = _passing(conn, walk.filters, _MANY if several else _SORTED)
    return None if ids is None or len(ids) > max(_SORTED, limit) else ids


def _passing(conn: sqlite3.Connection, filters: Iterable[_Filter], limit: int) -> list[int] | None:
    """The ids that pass the filters, or more, if at least one of them alone leaves so few."""
    passing: set[int] | None = None
    for f in filters:
        if f.ids:
            rows = conn.execute(f"SELECT * FROM ({f.ids}) LIMIT ?", (*f.ids_values, limit + 1))
            ids = {model_id for (model_id,) in rows}
            if len(ids) <= limit:
                passing = ids if passing is None else passing & ids
    return None if passing is None else sorted(passing)


def _filters(query: Query) -> Iterator[_Filter]:
    if query.name:
        yield _column("name", [query.name])
    if query.types:
        yield _column("type", sorted(query.types))
    if query.formats:
        yield _column("format", sorted(query.formats))
    if query.source:
        yield _column("source", [query.source])
    if query.bases:
        yield _joined("model_bases", "base", sorted(query.effective_bases))
    for tag in sorted(query.tags):
        yield _joined("model_tags", "tag", [tag])
    if query.related_to:
        yield _joined("model_related", "related_key", [query.related_to])
    for pair in query.labels:
        yield _Filter(labels.has("m.id"), pair, labels.OWNERS, pair)
    if query.paths:
        yield _column("path", sorted(query.paths))
        if query.root_id:
            yield _Filter("m.root_id IN ('', ?)", (query.root_id,))
    elif query.root_id and not query.files:
        yield _column("root_id", [query.root_id])
    if query.hash:
        yield _hash(query.hash)
    yield from _words(query.words)
    if query.keys:
        yield _column("key", sorted(query.keys))
    if query.key_prefix:
        yield _between("key", query.key_prefix, f"{query.key_prefix}g")  # "g" follows the last hex digit
    if query.name_folded:
        yield _column("name_folded", [query.name_folded])
    if query.missing is not None:
        gone = "missing_time_us != 0"
        yield (
            _Filter(f"+m.{gone}", (), f"SELECT id FROM models WHERE {gone}")
            if query.missing
            else _Filter("m.missing_time_us = 0", ())
        )
    for column in ("size_bytes", "create_time_us", "update_time_us"):
        bounds: Bounds = getattr(query, column)
        if bounds != NO_BOUNDS:
            yield _between(column, bounds.least, bounds.most)
    if query.files:
        yield _listed(sorted(query.files), query.root_id)


def _column(column: str, allowed: Sequence[Any]) -> _Filter:
    marks = ", ".join("?" * len(allowed))
    # The index of a column that is often empty leaves the empty ones out.
    partial = f" AND {column} != ''" if column in ("source", "root_id") else ""
    return _Filter(
        f"+m.{column} IN ({marks})",
        tuple(allowed),
        f"SELECT id FROM models WHERE {column} IN ({marks}){partial}",
        tuple(allowed),
    )


def _between(column: str, least: Any, most: Any) -> _Filter:
    bounds = [(sign, value) for sign, value in ((">=", least), ("<=", most)) if value is not None]
    values = tuple(value for _, value in bounds)
    test = " AND ".join(f"+m.{column} {sign} ?" for sign, _ in bounds)
    indexed = " AND ".join(f"{column} {sign} ?" for sign, _ in bounds)
    return _Filter(test, values, f"SELECT id FROM models WHERE {indexed}", values)


def _listed(files: Sequence[str], root_id: str) -> _Filter:
    """The records that list one of these files: each folder around one may be a model's."""
    places = [place for file in files for place in _places(file)]
    ids = (
        "SELECT f.model_id FROM json_each(?) p CROSS JOIN models m ON m.path = p.value ->> 0 "
        "JOIN model_files f ON f.model_id = m.id AND f.path = p.value ->> 1 WHERE m.root_id IN ('', ?)"
    )
    values = (json.dumps(places), root_id)
    return _Filter(f"m.id IN ({ids})", values, ids, values)


def _places(file: str) -> Iterator[tuple[str, str]]:
    """(path of a record, path in its list) that make this path of a file together."""
    path = PurePosixPath(file)
    yield str(path), path.name  # a model that is this one file
    for folder in islice(path.parents, _DEEPEST):
        yield str(folder), str(path.relative_to(folder))


def _joined(table: str, column: str, allowed: Sequence[str]) -> _Filter:
    marks = ", ".join("?" * len(allowed))
    return _Filter(
        f"EXISTS (SELECT 1 FROM {table} j WHERE j.model_id = m.id AND j.{column} IN ({marks}))",
        tuple(allowed),
        f"SELECT model_id FROM {table} WHERE {column} IN ({marks})",
        tuple(allowed),
    )


def _hash(digest: str) -> _Filter:
    ids = (
        "SELECT id FROM models WHERE original_hash = ? AND original_hash != '' "
        "UNION SELECT id FROM models WHERE current_hash = ? AND current_hash != '' "
        "UNION SELECT model_id FROM model_files WHERE sha256 = ? AND sha256 != '' "
        "UNION SELECT model_id FROM model_files WHERE blake3 = ? AND blake3 != ''"
    )
    return _Filter(f"m.id IN ({ids})", (digest,) * 4, ids, (digest,) * 4)


def _words(words: Sequence[str]) -> Iterator[_Filter]:
    for word in words:
        quoted = '"' + word.replace('"', '""') + '"'
        indexed = len(word) >= _TRIGRAM
        yield _Filter(
            "instr(m.search, ?) > 0",
            (word,),
            "SELECT rowid FROM models_text WHERE models_text MATCH ?" if indexed else "",
            (quoted,) if indexed else (),
        )
