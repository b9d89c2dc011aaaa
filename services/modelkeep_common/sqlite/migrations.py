"""Making and migrating a database: whose file it is, which schema it has, what to run.

A file carries SQLite's ``application_id`` (all of the suite's files have the same) and in table
``meta`` the kind of store (``record``, ``download``, …), so that a service given another's file says
so instead of writing to it. The migrations of one opening are one transaction; ``user_version`` holds the
service's schema version, and a file whose schema is newer than the release knows is refused.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from modelkeep.defaults import EXIT_DATA

from ..startup import StartupError

#: "MKEP" as SQLite's application id.
APPLICATION_ID = 0x4D4B4550
#: How long another process may take to make the same file.
_SWITCH_S = 10.0
_VERSION = "schema_version"


class Migration(NamedTuple):
    """One step of a schema: its number, ascending from 1 without gaps, and its SQL statements."""

    version: int
    sql: str


#: What tells whose file it is and which schema it has.
TABLES = """
    CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, apply_time REAL NOT NULL);
"""
#: Tables of every service's database; versioned on their own, in ``meta.common_version``.
COMMON: tuple[Migration, ...] = (
    Migration(
        1,
        """
        CREATE TABLE changes (
            revision INTEGER PRIMARY KEY AUTOINCREMENT,
            collection TEXT NOT NULL,
            resource_id TEXT NOT NULL,
            removed INTEGER NOT NULL,
            payload BLOB,
            create_time REAL NOT NULL
        );
        CREATE INDEX changes_by_resource ON changes (collection, resource_id, revision);
        CREATE TABLE epochs (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            epoch TEXT NOT NULL,
            first_revision INTEGER NOT NULL
        );
        CREATE TABLE requests (
            principal TEXT NOT NULL,
            method TEXT NOT NULL,
            request_id TEXT NOT NULL,
            fingerprint BLOB NOT NULL,
            response BLOB NOT NULL,
            create_time REAL NOT NULL,
            PRIMARY KEY (principal, method, request_id)
        ) WITHOUT ROWID;
        CREATE INDEX requests_by_time ON requests (create_time);
        """,
    ),
)


def migrate(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration], application: str
) -> tuple[str, str]:
    """Bring the file up to date and open a new epoch in it.

    Returns:
        The store's id, and the id of this opening.

    Raises:
        StartupError: 65 if the file is another's, or of a newer schema.
    """
    # In one statement: another process may be making the file right now.
    marker, tables = connection.execute(
        "SELECT application_id, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id"
    ).fetchone()
    if marker != APPLICATION_ID and (marker or tables):
        raise StartupError(EXIT_DATA, f"{path} is the database of another program: set another folder")
    if not tables:
        # Only a new file can be told to give pages back.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    _use_wal(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        store_id = bring_up(connection, path, migrations, application)
        epoch = open_epoch(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return store_id, epoch


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging; SQLite's own busy time-out does not count for this statement."""
    deadline = time.monotonic() + _SWITCH_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def bring_up(
    connection: sqlite3.Connection,
    path: Path,
    migrations: Sequence[Migration],
    application: str,
    *,
    in_meta: bool = False,
) -> str:
    """Make the tables and bring them up to date; inside a write transaction.

    Args:
        connection: That of the transaction.
        path: The file, for messages.
        migrations: The store's own.
        application: The marker of this kind of store.
        in_meta: The schema's version is kept in table ``meta`` in place of ``user_version``, which belongs to
            the file as a whole.

    Returns:
        The store's id.

    Raises:
        StartupError: 65 if the tables are another service's, or of a newer schema.
    """
    if [m.version for m in migrations] != list(range(1, len(migrations) + 1)):
        raise ValueError("migrations must be numbered 1, 2, 3, …")
    _run(connection, TABLES)
    store_id = _claim(connection, path, application)
    _apply_all(connection, path, migrations, in_meta)
    return store_id


def is_current(
    connection: sqlite3.Connection,
    path: Path,
    migrations: Sequence[Migration],
    application: str,
    *,
    in_meta: bool = False,
) -> bool:
    """Whether the tables are there, as this release makes them.

    Raises:
        StartupError: 65 if they are another service's, or of a newer schema.
    """
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        return False
    _check_owner(connection, path, application)
    return _versions(connection, path, migrations, in_meta) == (len(COMMON), len(migrations))


def _claim(connection: sqlite3.Connection, path: Path, application: str) -> str:
    meta = _check_owner(connection, path, application)
    store_id = str(meta.get("store_id") or uuid.uuid4())
    for key, value in (("application", application), ("store_id", store_id), ("common_version", 0)):
        connection.execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", (key, value))
    return store_id


def _check_owner(connection: sqlite3.Connection, path: Path, application: str) -> dict[str, Any]:
    meta: dict[str, Any] = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    owner = meta.get("application", application)
    if owner != application:
        raise StartupError(EXIT_DATA, f"{path} belongs to the {owner} service, not to {application}")
    return meta


def _versions(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration], in_meta: bool
) -> tuple[int, int]:
    """Of the common tables and of the store's own."""
    meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    common = int(meta.get("common_version", 0))
    if in_meta:
        version = int(meta.get(_VERSION, 0))
    else:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if common > len(COMMON) or version > len(migrations):
        raise StartupError(
            EXIT_DATA,
            f"{path} has schema {version}, newer than the {len(migrations)} that this release knows: "
            "start the newer release, or restore a back-up",
        )
    return common, version


def _apply_all(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration], in_meta: bool
) -> None:
    common, version = _versions(connection, path, migrations, in_meta)
    for migration in COMMON[common:]:
        _run(connection, migration.sql)
        connection.execute("UPDATE meta SET value = ? WHERE key = 'common_version'", (migration.version,))
    for migration in migrations[version:]:
        _run(connection, migration.sql)
        connection.execute("INSERT INTO schema_migrations VALUES (?, ?)", (migration.version, time.time()))
        if in_meta:
            connection.execute(
                "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_VERSION, migration.version)
            )
        else:
            connection.execute(f"PRAGMA user_version = {migration.version}")


def _run(connection: sqlite3.Connection, script: str) -> None:
    # Not executescript: that commits, and the whole migration is one transaction.
    for statement in split_statements(script):
        connection.execute(statement)


def split_statements(sql: str) -> Iterator[str]:
    """The single statements of a script; knows strings, comments and trigger bodies."""
    statement = ""
    for part in sql.split(";"):
        statement += part + ";"
        if sqlite3.complete_statement(statement):
            if statement.strip(" \n\t;"):
                yield statement
            statement = ""
    if statement.strip(" \n\t;"):
        yield statement


def open_epoch(connection: sqlite3.Connection) -> str:
    """Note in the history that somebody opened the store; inside a write transaction.

    Returns:
        The id of this opening.
    """
    epoch = secrets.token_hex(4)
    row = connection.execute("SELECT seq FROM main.sqlite_sequence WHERE name = 'changes'").fetchone()
    first = (int(row[0]) if row else 0) + 1
    # An earlier opening that wrote nothing is shadowed by this one.
    connection.execute("DELETE FROM epochs WHERE first_revision = ?", (first,))
    connection.execute("INSERT INTO epochs (epoch, first_revision) VALUES (?, ?)", (epoch, first))
    return epoch
