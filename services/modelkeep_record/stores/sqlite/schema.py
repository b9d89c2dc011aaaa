"""The tables of a record store on SQLite.

``models.message`` is the record as it is sent: it is stored and read whole, so that nothing of it is lost.
The columns beside it are for searching and ordering only; ``search`` is its text in lower case, indexed by
trigrams, so that any part of a word is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from modelkeep.model.v1.model_pb2 import Model
from modelkeep_common.sqlite import Migration, labels
from modelkeep_common.wire import to_micros

from ...domain.query import folded, search_text

MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        1,
        """
        CREATE TABLE models (
            id INTEGER PRIMARY KEY,
            key TEXT NOT NULL UNIQUE,
            message BLOB NOT NULL,
            name TEXT NOT NULL,
            type INTEGER NOT NULL,
            format INTEGER NOT NULL,
            base TEXT NOT NULL,
            path TEXT NOT NULL,
            root_id TEXT NOT NULL,
            size_bytes INTEGER NOT NULL,
            original_hash TEXT NOT NULL,
            current_hash TEXT NOT NULL,
            source TEXT NOT NULL,
            create_time_us INTEGER NOT NULL,
            update_time_us INTEGER NOT NULL,
            search TEXT NOT NULL
        );
        CREATE INDEX models_by_name ON models (name, key);
        CREATE INDEX models_by_type ON models (type, base, name, format, key);
        CREATE INDEX models_by_kind ON models (format, type, base, size_bytes);
        CREATE UNIQUE INDEX models_by_path ON models (path, root_id);
        CREATE INDEX models_by_root ON models (root_id) WHERE root_id != '';
        CREATE INDEX models_by_size ON models (size_bytes, key);
        CREATE INDEX models_by_original_hash ON models (original_hash) WHERE original_hash != '';
        CREATE INDEX models_by_current_hash ON models (current_hash) WHERE current_hash != '';
        CREATE INDEX models_by_source ON models (source) WHERE source != '';
        CREATE INDEX models_by_create_time ON models (create_time_us, key);
        CREATE INDEX models_by_update_time ON models (update_time_us, key);

        CREATE TABLE model_bases (
            base TEXT NOT NULL,
            model_id INTEGER NOT NULL REFERENCES models (id) ON DELETE CASCADE,
            PRIMARY KEY (base, model_id)
        ) WITHOUT ROWID;
        CREATE INDEX model_bases_by_model ON model_bases (model_id);

        CREATE TABLE model_tags (
            tag TEXT NOT NULL,
            model_id INTEGER NOT NULL REFERENCES models (id) ON DELETE CASCADE,
            PRIMARY KEY (tag, model_id)
        ) WITHOUT ROWID;
        CREATE INDEX model_tags_by_model ON model_tags (model_id);

        CREATE TABLE model_files (
            model_id INTEGER NOT NULL REFERENCES models (id) ON DELETE CASCADE,
            path TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            blake3 TEXT NOT NULL,
            message BLOB NOT NULL,
            PRIMARY KEY (model_id, path)
        ) WITHOUT ROWID;
        CREATE INDEX model_files_by_sha256 ON model_files (sha256) WHERE sha256 != '';
        CREATE INDEX model_files_by_blake3 ON model_files (blake3) WHERE blake3 != '';

        CREATE VIRTUAL TABLE models_text USING fts5 (
            search, content = 'models', content_rowid = 'id', tokenize = 'trigram'
        );
        CREATE TRIGGER models_text_insert AFTER INSERT ON models BEGIN
            INSERT INTO models_text (rowid, search) VALUES (new.id, new.search);
        END;
        CREATE TRIGGER models_text_delete AFTER DELETE ON models BEGIN
            INSERT INTO models_text (models_text, rowid, search) VALUES ('delete', old.id, old.search);
        END;
        CREATE TRIGGER models_text_update AFTER UPDATE OF search ON models BEGIN
            INSERT INTO models_text (models_text, rowid, search) VALUES ('delete', old.id, old.search);
            INSERT INTO models_text (rowid, search) VALUES (new.id, new.search);
        END;
        """,
    ),
    Migration(2, labels.schema("models")),
    # The search text of a record begins with its name, folded, as its first line.
    Migration(
        3,
        """
        ALTER TABLE models ADD COLUMN name_folded TEXT NOT NULL DEFAULT '';
        UPDATE models SET name_folded = substr(search, 1, instr(search || char(10), char(10)) - 1);
        CREATE INDEX models_by_name_folded ON models (name_folded);
        ALTER TABLE models ADD COLUMN missing_time_us INTEGER NOT NULL DEFAULT 0;
        CREATE INDEX models_missing ON models (missing_time_us) WHERE missing_time_us != 0;
        """,
    ),
    Migration(
        4,
        """
        CREATE TABLE model_related (
            related_key TEXT NOT NULL,
            model_id INTEGER NOT NULL REFERENCES models (id) ON DELETE CASCADE,
            PRIMARY KEY (related_key, model_id)
        ) WITHOUT ROWID;
        CREATE INDEX model_related_by_model ON model_related (model_id);
        """,
    ),
    # Of its own, so that a read of records never reads a picture.
    Migration(
        5,
        """
        CREATE TABLE model_covers (
            model_id INTEGER PRIMARY KEY REFERENCES models (id) ON DELETE CASCADE,
            media_type TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            image BLOB NOT NULL
        );
        """,
    ),
)

#: The tables of what belongs to a record, and their column for the number of its row.
PARTS: tuple[tuple[str, str], ...] = tuple(
    part
    for migration in MIGRATIONS
    for part in re.findall(
        r"CREATE TABLE (\w+) \([^;]*?(\w+) INTEGER[A-Z ]* REFERENCES models \(id\)", migration.sql
    )
)


def to_columns(model: Model) -> dict[str, Any]:
    """A record as the columns of table ``models``."""
    return {
        "key": model.key,
        "message": model.SerializeToString(),
        "name": model.name,
        "type": model.type,
        "format": model.format,
        "base": model.base,
        "path": model.path,
        "root_id": model.root_id,
        "size_bytes": model.size_bytes,
        "original_hash": model.original_hash,
        "current_hash": model.current_hash,
        "source": model.source,
        "create_time_us": to_micros(model.create_time),
        "update_time_us": to_micros(model.update_time),
        "search": search_text(model),
        "name_folded": folded(model.name),
        "missing_time_us": to_micros(model.missing_time),
    }


#: The tables that find a record by one of several texts: their column, and the texts of a record.
SETS: Mapping[str, tuple[str, Callable[[Model], set[str]]]] = {
    "model_bases": ("base", lambda model: {model.base, *model.compatible_bases}),
    "model_tags": ("tag", lambda model: set(model.tags)),
    "model_related": ("related_key", lambda model: set(model.related_keys)),
}
