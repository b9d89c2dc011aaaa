"""Labels in SQLite: kept with the thing itself, and once more in a table that finds things by a pair."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

#: Finds the ids of the things that have a label; takes its key and its value.
OWNERS = "SELECT owner FROM labels WHERE key = ? AND value = ?"


def schema(things: str) -> str:
    """SQL of a migration: the labels of the rows of a table, which has an integer key ``id``."""
    return f"""
        CREATE TABLE labels (
            owner INTEGER NOT NULL REFERENCES {things} (id) ON DELETE CASCADE,
            key TEXT NOT NULL,
            value TEXT NOT NULL,
            PRIMARY KEY (owner, key)
        ) WITHOUT ROWID;
        CREATE INDEX labels_by_pair ON labels (key, value);
    """


def keep(conn: sqlite3.Connection, owner: int, labels: Mapping[str, str]) -> None:
    """Make these the labels of a thing, in a write transaction. They go when its row goes."""
    rows = conn.execute("SELECT key, value FROM labels WHERE owner = ?", (owner,))
    if dict(rows) == dict(labels):
        return
    conn.execute("DELETE FROM labels WHERE owner = ?", (owner,))
    conn.executemany(
        "INSERT INTO labels (owner, key, value) VALUES (?, ?, ?)",
        [(owner, key, value) for key, value in labels.items()],
    )


def has(thing: str) -> str:
    """SQL of a condition: the row whose id is ``thing`` has a label; takes its key and its value."""
    return f"EXISTS (SELECT 1 FROM labels l WHERE l.owner = {thing} AND l.key = ? AND l.value = ?)"
