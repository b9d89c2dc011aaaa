"""InvokeAI's database, read only and a page at a time, while InvokeAI may be writing to it.

Each page is a short read of its own: in a database without a write-ahead log, as the first versions have
it, a long one would keep InvokeAI from writing. Pages follow the keys, so that no record is told twice or
left out by what InvokeAI changes meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiosqlite

from modelkeep.exceptions import (
    FieldInvalidException,
    FieldViolation,
    InvalidModelConfigException,
    ModelkeepError,
    UpstreamUnavailableException,
)

from .cleaning import cleaned, cleaned_text
from .source import Source

T = TypeVar("T")
#: Inode, size in bytes, and time of the last change in nanoseconds.
_Facts = tuple[int, int, int]

#: Where the head of a database says that it has a write-ahead log.
_WAL_AT = 18
#: Records of a page, and bytes after which it is cut.
_PAGE, _PAGE_BYTES = 100, 4 << 20
#: A record may have this many characters.
_MAX_CONFIG = 4 << 20
#: While InvokeAI writes, a database without a write-ahead log is locked: it is waited so long, in seconds.
_PATIENCE_S = 10.0
#: The last changes of the schema that this version knows: by their number, and, since 6.14, by their date.
_LAST_NUMBER, _LAST_DATED = 33, "2026_08_08"
_DATED = re.compile(r"\d{4}_\d\d_\d\d_")
#: Where records are: since 4.0 (migration 7), and in 3.4 to 3.7.
_TABLES = ("models", "model_config")
_OWN_COLUMNS = frozenset({"id", "config", "created_at", "updated_at"})
#: ``PRAGMA table_xinfo`` says so of generated columns: they repeat what `config` has.
_GENERATED = frozenset({2, 3})


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database has.

    Attributes:
        name: Its last change.
        is_newer: It is newer than this version knows.
        table: Where records are; empty where there are none.
        columns: Further columns of that table.
        others: Further tables.
    """

    name: str
    is_newer: bool
    table: str
    columns: tuple[str, ...]
    others: frozenset[str]


class _Link(NamedTuple):
    """A connection; if nobody else had the database open, also what that was like then."""

    connection: aiosqlite.Connection
    unopened: _Facts | None = None


class Database:
    """An open database; see :func:`open_database`."""

    def __init__(self, path: Path, link: _Link, schema: Schema) -> None:
        self._path = path
        self._link = link
        self.schema = schema

    @property
    def _connection(self) -> aiosqlite.Connection:
        return self._link.connection

    async def close(self) -> None:
        """Close it."""
        await self._connection.close()

    async def count(self) -> int:
        """Number of records; InvokeAI may add to them meanwhile."""
        if not self.schema.table:
            return 0
        with _told(self._path):
            return await self._steady(self._count)

    async def _count(self) -> int:
        [(count,)] = await self._connection.execute_fetchall(f"SELECT count(*) FROM {self.schema.table}")
        return int(count)

    async def _steady(self, read: Callable[[], Awaitable[T]]) -> T:
        """What is read, and read again if InvokeAI opened the database while it was read as nobody's."""
        while True:
            try:
                result = await read()
            except aiosqlite.Error:
                if not await self._was_opened():
                    raise
            else:
                if not await self._was_opened():
                    return result
            await self._connection.close()
            self._link = await _connect(self._path)

    async def _was_opened(self) -> bool:
        unopened = self._link.unopened
        return unopened is not None and await asyncio.to_thread(_unopened, self._path) != unopened

    async def pages(self) -> AsyncGenerator[list[Source]]:
        """All records, ordered by key.

        Raises:
            FieldInvalidException, UpstreamUnavailableException: As :func:`open_database`.
        """
        after: str | None = None
        while self.schema.table:
            with _told(self._path):
                page = await self._steady(partial(self._page, after))
            if not page:
                return
            after = page[-1][0][0]
            yield await asyncio.to_thread(_sources, page)

    async def _page(self, after: str | None) -> list[tuple[Any, ...]]:
        """What :func:`_source` wants to know of each record after a key, in one read."""
        await self._connection.execute("BEGIN")
        try:
            rows = await self._rows(after)
            keys = [row[0] for row in rows]
            related = await self._related(keys)
            tags, metadata = await self._tags(keys), await self._metadata(keys)
        finally:
            await self._connection.execute("ROLLBACK")
        columns = self.schema.columns
        return [
            (row, columns, related.get(row[0], ()), tags.get(row[0], ()), metadata.get(row[0]))
            for row in rows
        ]

    async def _rows(self, after: str | None) -> list[tuple[Any, ...]]:
        columns = "".join(f', "{name}"' for name in self.schema.columns)
        query = (
            f"SELECT id, substr(config, 1, ?), created_at, updated_at{columns} FROM {self.schema.table}"
            " WHERE id IS NOT NULL AND (? IS NULL OR id > ?) ORDER BY id LIMIT ?"
        )
        rows: list[tuple[Any, ...]] = []
        size = 0
        async with self._connection.execute(query, (_MAX_CONFIG + 1, after, after, _PAGE)) as cursor:
            async for row in cursor:
                rows.append(tuple(row))
                size += len(row[1] or "")
                if size > _PAGE_BYTES:
                    break
        return rows

    async def _related(self, keys: Sequence[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        if "model_relationships" in self.schema.others:
            for one, other in await self._of(
                "SELECT model_key_1, CAST(model_key_2 AS TEXT) FROM model_relationships"
                " WHERE model_key_1 IN ({0})"
                " UNION SELECT model_key_2, CAST(model_key_1 AS TEXT) FROM model_relationships"
                " WHERE model_key_2 IN ({0})",
                keys,
                2,
            ):
                found.setdefault(one, []).append(other)
        return found

    async def _tags(self, keys: Sequence[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        if {"model_tags", "tags"} <= self.schema.others:
            for key, tag in await self._of(
                "SELECT model_id, CAST(tag_text AS TEXT) FROM model_tags JOIN tags USING (tag_id)"
                " WHERE model_id IN ({0}) ORDER BY tag_text",
                keys,
            ):
                found.setdefault(key, []).append(tag)
        return found

    async def _metadata(self, keys: Sequence[str]) -> dict[str, str]:
        if "model_metadata" not in self.schema.others:
            return {}
        return dict(
            await self._of("SELECT id, CAST(metadata AS TEXT) FROM model_metadata WHERE id IN ({0})", keys)
        )

    async def _of(self, query: str, keys: Sequence[str], times: int = 1) -> list[tuple[Any, Any]]:
        filled = query.format(",".join("?" * len(keys)))
        async with self._connection.execute(filled, [*keys] * times) as cursor:
            return [(row[0], row[1]) async for row in cursor if row[1] is not None]


@contextlib.asynccontextmanager
async def open_database(path: Path) -> AsyncIterator[Database]:
    """A database of InvokeAI, read only.

    Raises:
        FieldInvalidException: It is no such database.
        UpstreamUnavailableException: InvokeAI keeps it locked.
    """
    link = await _connect(path)
    try:
        with _told(path):
            schema = await _schema_of(link.connection)
    except BaseException:
        await link.connection.close()
        raise
    database = Database(path, link, schema)
    try:
        yield database
    finally:
        await database.close()


async def _connect(path: Path) -> _Link:
    """A connection that can read.

    A reader of a database with a write-ahead log makes files beside it, which are nobody's to make here. So
    as long as nobody else has it open, it is read as one that nobody changes.
    """
    unopened = await asyncio.to_thread(_unopened, path)
    if unopened is not None:
        with _told(path):
            return _Link(await _opened(path, "mode=ro&immutable=1"), unopened)
    try:
        return _Link(await _opened(path, "mode=ro"))
    except aiosqlite.Error as error:
        with _told(path):
            # Where nobody can write, an empty log was left: what is in the database is all there is.
            if error.sqlite_errorname != "SQLITE_CANTOPEN" or await asyncio.to_thread(_has_log, path):
                raise
            return _Link(await _opened(path, "mode=ro&immutable=1"))


def _unopened(path: Path) -> _Facts | None:
    """What a database with a write-ahead log is like that no process has open; None of any other."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            has_mode = file.read(_WAL_AT + 1)[_WAL_AT:] == b"\x02"
    except OSError:
        return None
    # the log is there from the first look of any process into the database to the end of the last one
    if not has_mode or os.path.lexists(_log_of(path)):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


async def _opened(path: Path, how: str) -> aiosqlite.Connection:
    # quoted as a URI wants it: a name may have `?` and `%`
    address = f"{path.absolute().as_uri()}?{how}"
    connection = await aiosqlite.connect(address, uri=True, timeout=_PATIENCE_S, isolation_level=None)
    try:
        connection.text_factory = _text
        await connection.execute_fetchall("SELECT count(*) FROM sqlite_master")
    except BaseException:
        await connection.close()
        raise
    return connection


def _has_log(path: Path) -> bool:
    try:
        return _log_of(path).stat().st_size > 0
    except OSError:
        return False


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


async def _schema_of(connection: aiosqlite.Connection) -> Schema:
    rows = await connection.execute_fetchall("SELECT name FROM sqlite_master WHERE type = 'table'")
    tables = frozenset(str(row[0]) for row in rows)
    table = next((name for name in _TABLES if name in tables), "")
    columns = await connection.execute_fetchall(f"PRAGMA table_xinfo({table})") if table else []
    stored = [str(row[1]) for row in columns if row[6] not in _GENERATED]
    if table and not {"id", "config"} <= set(stored):
        table = ""
    number, dated = 0, ""
    if "migrations" in tables:
        [(last,)] = await connection.execute_fetchall("SELECT max(version) FROM migrations")
        number = int(last or 0)
    if "applied_migrations" in tables:
        rows = await connection.execute_fetchall("SELECT migration_id FROM applied_migrations")
        dated = max((str(row[0]) for row in rows if _DATED.match(str(row[0]))), default="")
    return Schema(
        dated or f"migration_{number}",
        number > _LAST_NUMBER or dated[: len(_LAST_DATED)] > _LAST_DATED,
        table,
        tuple(name for name in stored if name not in _OWN_COLUMNS and '"' not in name),
        tables,
    )


def _sources(page: Sequence[tuple[Any, ...]]) -> list[Source]:
    return [_source(*one) for one in page]


def _source(
    row: Sequence[Any],
    columns: Sequence[str],
    related: Sequence[str],
    tags: Sequence[str],
    metadata: str | None,
) -> Source:
    key = str(row[0])
    try:
        config = _config(row[1])
        for name, value in zip(columns, row[4:], strict=True):
            if value is not None and not isinstance(value, bytes):
                config.setdefault(name, value)
        if metadata is not None:
            config.setdefault("model_metadata", _json_or_text(metadata))
        config = cleaned(config)
    except ModelkeepError as error:
        return Source(key, error=error)
    if config.get("key") == key:
        del config["key"]
    return Source(key, config, _seconds(row[2]), _seconds(row[3]), related, list(map(cleaned_text, tags)))


def _config(text: Any) -> dict[str, Any]:
    if not isinstance(text, str):
        raise _bad_record("has no text of fields")
    if len(text) > _MAX_CONFIG:
        raise _bad_record(f"has more than {_MAX_CONFIG:,} characters")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad_record(f"is no JSON that can be read: {error}") from None
    if not isinstance(config, dict):
        raise _bad_record("is no JSON object")
    return config


def _bad_record(why: str) -> InvalidModelConfigException:
    return InvalidModelConfigException(
        f"The record of InvokeAI {why}.",
        violations=[FieldViolation("config", why)],
        remedy="Mend or remove the model in InvokeAI, and import again.",
    )


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _seconds(text: Any) -> float | None:
    """Seconds since 1970 of a time of the database, which is UTC."""
    try:
        return datetime.fromisoformat(str(text)).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What SQLite raises is told as what a person can do about it."""
    try:
        yield
    except aiosqlite.Error as error:
        if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise UpstreamUnavailableException(
                f"InvokeAI keeps its database locked: {path}. Try again when it is done.",
                metadata={"peer": "invokeai"},
            ) from error
        raise FieldInvalidException(
            f"{path} cannot be read as a database of InvokeAI: {error}.",
            violations=[FieldViolation("root", f"has a database that cannot be read: {error}")],
            remedy="Let InvokeAI itself open it once, or bring back a copy of it that is whole.",
        ) from error
