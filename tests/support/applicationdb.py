"""The database of an application, as InvokeAI's is, and a process that goes on writing to it.

Its tables have InvokeAI's names (models, images, migrations), and others that a store of records has in a
file of its own.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = """
    CREATE TABLE models (
        id TEXT NOT NULL PRIMARY KEY,
        name TEXT GENERATED ALWAYS AS (json_extract(config, '$.name')) VIRTUAL NOT NULL,
        base TEXT GENERATED ALWAYS AS (json_extract(config, '$.base')) VIRTUAL NOT NULL,
        path TEXT GENERATED ALWAYS AS (json_extract(config, '$.path')) VIRTUAL NOT NULL,
        config TEXT NOT NULL,
        created_at DATETIME NOT NULL DEFAULT(STRFTIME('%Y-%m-%d %H:%M:%f', 'NOW')),
        updated_at DATETIME NOT NULL DEFAULT(STRFTIME('%Y-%m-%d %H:%M:%f', 'NOW')),
        UNIQUE(path)
    );
    CREATE INDEX models_by_name ON models (name);
    CREATE TRIGGER models_updated_at AFTER UPDATE ON models FOR EACH ROW BEGIN
        UPDATE models SET updated_at = STRFTIME('%Y-%m-%d %H:%M:%f', 'NOW') WHERE id = old.id;
    END;
    CREATE TABLE migrations (version INTEGER PRIMARY KEY, migrated_at DATETIME NOT NULL);
    CREATE TABLE images (image_name TEXT NOT NULL PRIMARY KEY, width INTEGER NOT NULL, starred BOOLEAN);
    CREATE TABLE model_tags (model_id TEXT NOT NULL, tag_id INTEGER NOT NULL, UNIQUE(model_id, tag_id));
    CREATE TABLE changes (number INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT);
    CREATE TABLE meta (name TEXT PRIMARY KEY);
    CREATE TABLE labels (label TEXT);
    CREATE VIEW requests AS SELECT image_name FROM images;
    INSERT INTO migrations VALUES (1, '2024-01-01'), (2, '2024-02-01');
    INSERT INTO changes (what) VALUES ('made'), ('used');
    INSERT INTO meta VALUES ('theirs');
    PRAGMA user_version = 7;
    PRAGMA application_id = 17;
"""
TABLES = ("models", "migrations", "images", "model_tags", "changes", "meta", "labels")


def make(path: Path, *, journal: str = "delete") -> Path:
    """Make the application's database."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened(path) as conn:
        conn.execute(f"PRAGMA journal_mode = {journal}")
        conn.executescript(SCHEMA)
    return path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for looking or changing; committed and closed at the end."""
    with contextlib.closing(sqlite3.connect(path)) as conn, conn:
        yield conn


def of_the_application(conn: sqlite3.Connection) -> list[Any]:
    """All that is the application's own: what its tables, indexes, triggers and views are, and every row."""
    made = conn.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'modelkeep%' "
        "AND name NOT LIKE 'sqlite_autoindex_modelkeep%' ORDER BY name"
    ).fetchall()
    rows = [
        [tuple(row) for row in conn.execute(f"SELECT rowid, * FROM {table} ORDER BY 1")] for table in TABLES
    ]
    sequence = conn.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchall()
    marks = [conn.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id")]
    return [[tuple(row) for row in made], rows, [tuple(row) for row in sequence], marks]


def write_on(path: Path) -> int:
    """Add models and images, each in a transaction of its own, until there is a file ``….stop``.

    Returns:
        How often it did.
    """
    number = 0
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as conn:
        while not path.with_suffix(".stop").exists():
            with conn:
                write(conn, number)
            number += 1
            time.sleep(0.002)  # others get their turn, too
    return number


def write(conn: sqlite3.Connection, number: int) -> None:
    """Add one model and one image, and change an earlier model."""
    config = json.dumps({"name": f"model {number}", "base": "sd-1", "path": f"{number}.safetensors"})
    conn.execute("INSERT INTO models (id, config) VALUES (?, ?)", (f"m{number}", config))
    conn.execute("INSERT INTO images VALUES (?, ?, ?)", (f"{number}.png", number, number % 2))
    conn.execute("UPDATE models SET config = config WHERE id = ?", (f"m{number // 2}",))


if __name__ == "__main__":
    print(write_on(Path(sys.argv[1])))
