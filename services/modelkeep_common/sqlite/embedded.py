"""A store on one connection of this process, without threads of its own: what an application embeds.

The connection may be the application's, to a database with tables of its own. There the names of our tables,
indexes and triggers begin with ``modelkeep_``, so that none is one of the application's: its ``models`` and
``meta`` are not ours. Statements stay as they are written for a file of our own; they get those names on
their way to the connection, in one place. Nothing that belongs to the connection or to the file as a whole is
changed: no pragma, no setting, no marker in the file's header.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from modelkeep.defaults import EXIT_DATA
from modelkeep.reserve import Reserve

from ..limits import StoreLimits
from ..startup import StartupError
from .connections import Books, Connection, connect, make_file, not_opened, open_connections, translated
from .migrations import APPLICATION_ID, COMMON, TABLES, Migration, bring_up, is_current, open_epoch

T = TypeVar("T")

#: What the names of our tables begin with in a database of somebody else.
PREFIX = "modelkeep_"
_POINT = "modelkeep_unit"
_MADE = re.compile(
    r"\b(?:CREATE (?:UNIQUE |VIRTUAL )?(?:TABLE|INDEX|TRIGGER|VIEW)(?: IF NOT EXISTS)?|RENAME TO) (\w+)"
)


class Embedded:
    """A store's tables on an open connection.

    A unit of work is a function of a connection, as for :class:`modelkeep_common.sqlite.Database`. Inside a
    transaction that the application has begun it is a part of that, and is not committed here; else it is a
    transaction of its own. Whoever calls holds the lock of the connection.

    Args:
        connection: The application's, or one's own.
        migrations: The store's own, as for a file.
        application: The marker of this kind of store, as ``record``.

    Raises:
        StartupError: 65 if the tables in there are another service's, or of a newer schema.
        ServerBusyException: Another process held the database for longer than the connection waits.
    """

    def __init__(
        self, connection: sqlite3.Connection, migrations: Sequence[Migration], application: str
    ) -> None:
        #: Where the database is; ``:memory:`` if it is in no file.
        self.path = _path_of(connection)
        self.books = Books()
        self._connection = connection
        self._migrations = migrations
        self._application = application
        try:
            #: A file of the suite's own has the names as they are written.
            self._is_adopted = _application_id(connection) != APPLICATION_ID
        except sqlite3.OperationalError as error:
            raise translated(error, self.path) from error
        statements = _Statements(connection, _names(tuple(migrations)) if self._is_adopted else None)
        # The functions of a store are written for a connection, and use of it what this has.
        self._statements = cast(sqlite3.Connection, statements)
        self._is_sure = False
        self._epoch = ""
        self.read(lambda conn: None)  # makes them, if need be

    @classmethod
    def open(
        cls, path: Path, migrations: Sequence[Migration], application: str, *, adopt: bool = False
    ) -> Self:
        """Open a file, making and migrating it as needed.

        Args:
            path: The database file.
            migrations: As for the constructor.
            application: As for the constructor.
            adopt: Also the database of another program, or one that it is still to make.

        Raises:
            StartupError: 65 for a newer schema or a file of another kind, 73 if it cannot be written.
        """
        opened: list[Connection] = []
        make_file(path)
        try:
            connection = connect(path, opened)
            marker, tables = connection.execute(
                "SELECT application_id, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id"
            ).fetchone()
            if marker == APPLICATION_ID or not (marker or tables or adopt):
                connection.close()
                connection, _, _, epoch = open_connections(
                    path, migrations, application, 0, Reserve(path.parent, 0), StoreLimits()
                )
                opened.append(connection)
                own = cls(connection, migrations, application)
                own._epoch = epoch
                return own
            if not adopt and not _has_tables(connection):
                raise StartupError(
                    EXIT_DATA,
                    f"{path} is the database of another program, without a store's tables in it",
                )
            return cls(connection, migrations, application)
        except BaseException as error:
            for connection in opened:
                connection.close()
            if isinstance(error, sqlite3.DatabaseError):
                raise not_opened(error, path) from None
            raise

    def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``fn`` in one read transaction, or in that of the application."""
        return self._run(fn, writes=False)

    def write(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``fn`` in one write transaction, or in the application's; no trace is left if it raises.

        Raises:
            DiskFullException: There is no room.
            ServerBusyException: Another process held the database for longer than the connection waits.
        """

        def work(conn: sqlite3.Connection) -> T:
            self._see_to_epoch()
            return fn(conn)

        return self._run(work, writes=True)

    def close(self) -> None:
        """Close the connection; only for one that was opened here."""
        self._connection.close()

    def _run(self, fn: Callable[[sqlite3.Connection], T], *, writes: bool) -> T:
        try:
            with _texts_as(self._connection, str):
                if not self._is_sure and not is_current(
                    self._statements, self.path, self._migrations, self._application, in_meta=self._is_adopted
                ):
                    self._transact(self._make, writes=True)
                # What was made inside the application's transaction goes if that is rolled back.
                self._is_sure = self._is_sure or not self._connection.in_transaction
                return self._transact(fn, writes=writes)
        except sqlite3.OperationalError as error:
            raise translated(error, self.path) from error
        finally:
            self.books.appended.clear()

    def _transact(self, fn: Callable[[sqlite3.Connection], T], *, writes: bool) -> T:
        inside = self._connection.in_transaction
        self._statements.execute(
            f"SAVEPOINT {_POINT}" if inside else "BEGIN IMMEDIATE" if writes else "BEGIN"
        )
        try:
            result = fn(self._statements)
            self._statements.execute(f"RELEASE {_POINT}" if inside else "COMMIT")
        except BaseException:
            self._undo(inside)
            raise
        return result

    def _undo(self, inside: bool) -> None:
        if not self._connection.in_transaction:
            return  # a full disk makes SQLite roll back all by itself
        if inside:
            self._statements.execute(f"ROLLBACK TO {_POINT}")
            self._statements.execute(f"RELEASE {_POINT}")
        else:
            self._statements.execute("ROLLBACK")

    def _make(self, conn: sqlite3.Connection) -> None:
        bring_up(conn, self.path, self._migrations, self._application, in_meta=self._is_adopted)

    def _see_to_epoch(self) -> None:
        """This opening has an id of its own in the history, as every opening of a file has."""
        if not self._statements.execute("SELECT 1 FROM epochs WHERE epoch = ?", (self._epoch,)).fetchone():
            self._epoch = open_epoch(self._statements)


class _Statements:
    """What the functions of a store use of a connection, with rows as plain tuples."""

    def __init__(self, connection: sqlite3.Connection, names: re.Pattern[str] | None) -> None:
        self._connection = connection
        self._names = names

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        return self._cursor().execute(_named(sql, self._names), parameters)

    def executemany(self, sql: str, parameters: Iterable[Any]) -> sqlite3.Cursor:
        return self._cursor().executemany(_named(sql, self._names), parameters)

    def _cursor(self) -> sqlite3.Cursor:
        # Not the connection's cursor(), which makes the application's kind of cursor and of rows.
        return sqlite3.Cursor(self._connection)


@lru_cache(1024)
def _named(sql: str, names: re.Pattern[str] | None) -> str:
    """A statement with the names that our tables have in a database of somebody else."""
    return sql if names is None else names.sub(rf"{PREFIX}\g<0>", sql)


@cache
def _names(migrations: tuple[Migration, ...]) -> re.Pattern[str]:
    """Any name that a migration has ever given to something."""
    scripts = (TABLES, *(migration.sql for migration in (*COMMON, *migrations)))
    names = {name for script in scripts for name in _MADE.findall(script)}
    return re.compile(rf"\b({'|'.join(sorted(names, key=len, reverse=True))})\b")


def _has_tables(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (f"{PREFIX}meta",)).fetchone()
    return found is not None


def _application_id(connection: sqlite3.Connection) -> int:
    return int(sqlite3.Cursor(connection).execute("PRAGMA application_id").fetchone()[0])


def _path_of(connection: sqlite3.Connection) -> Path:
    # Not by pragma_database_list, which waits for who holds the database.
    with _texts_as(connection, os.fsdecode):
        databases = sqlite3.Cursor(connection).execute("PRAGMA database_list").fetchall()
    return Path(next(file for _, name, file in databases if name == "main") or ":memory:")


@contextlib.contextmanager
def _texts_as(connection: sqlite3.Connection, text_factory: Any) -> Iterator[None]:
    """Texts are read so for a while, whatever the application has them made into."""
    before = connection.text_factory
    if before is not text_factory:
        connection.text_factory = text_factory
    try:
        yield
    finally:
        if before is not text_factory:
            connection.text_factory = before
