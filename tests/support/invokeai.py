"""Roots of InvokeAI for tests, made from what is known of its schemas; tests/interop makes them by itself."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: Generated columns of the table of models: name, and whether it may be null.
_COLUMNS = {
    "models": (
        *(
            ("hash", False),
            ("base", False),
            ("type", False),
            ("path", False),
            ("format", False),
            ("name", False),
        ),
        *(("description", True), ("source", False), ("source_type", False), ("source_api_response", True)),
        ("trigger_phrases", True),
    ),
    "model_config": (("base", False), ("type", False), ("name", False), ("path", False), ("format", False)),
}
_TIME = "DATETIME NOT NULL DEFAULT(STRFTIME('%Y-%m-%d %H:%M:%f', 'NOW'))"
#: Releases: the number of the last migration, and since 6.14 the dated ones.
RELEASES: Mapping[str, tuple[int, str]] = {
    "3.7": (6, ""),
    "4.2": (11, ""),
    "5.6": (19, ""),
    "6.14": (33, "2026_08_08_demote_system_user"),
}
#: A picture of one pixel.
WEBP = bytes.fromhex(
    "52494646240000005745425056503820180000003001009d012a0100010001401c25a400036e01fefce7f80000"
)


def _generated(name: str) -> str:
    return f"GENERATED ALWAYS AS (json_extract(config, '$.{name}')) VIRTUAL"


class InvokeAI:
    """A root of some release; ``models.yaml`` alone for ``release`` "3.0" and "2.3"."""

    def __init__(self, path: Path, release: str = "6.14", *, journal: str = "wal") -> None:
        self.path = path
        self.models = path / "models"
        self.release = release
        self.models.mkdir(parents=True)
        self._configure()
        if release in RELEASES:
            (path / "databases").mkdir()
            self._make(journal)

    @property
    def database(self) -> Path:
        return self.path / "databases" / "invokeai.db"

    @property
    def table(self) -> str:
        return "model_config" if self.release.startswith("3.") else "models"

    @property
    def _number(self) -> int:
        return RELEASES[self.release][0]

    def _configure(self) -> None:
        paths = {"models_dir": "models", "db_dir": "databases", "conf_path": "configs/models.yaml"}
        text = "InvokeAI:\n  Paths:\n" + "".join(f"    {name}: {path}\n" for name, path in paths.items())
        if self.release[0] not in "23":
            text = "schema_version: 4.0.2\n"
        (self.path / "invokeai.yaml").write_text(text)

    def _make(self, journal: str) -> None:
        generated = "".join(
            f"{name} TEXT {_generated(name)}{'' if null else ' NOT NULL'},"
            for name, null in _COLUMNS[self.table]
        )
        if self._number >= 19:
            generated += f"file_size INTEGER {_generated('file_size')} NOT NULL,"
        original = "original_hash TEXT," if self.table == "model_config" else ""
        unique = "UNIQUE(path)" if self._number >= 22 else "UNIQUE(name, base, type)"
        statements = [
            f"PRAGMA journal_mode = {journal}",
            f"CREATE TABLE {self.table} (id TEXT NOT NULL PRIMARY KEY, {generated} {original}"
            f" config TEXT NOT NULL, created_at {_TIME}, updated_at {_TIME}, {unique})",
            f"CREATE TRIGGER updated AFTER UPDATE ON {self.table} FOR EACH ROW BEGIN UPDATE {self.table} SET"
            " updated_at = STRFTIME('%Y-%m-%d %H:%M:%f', 'NOW') WHERE id = old.id; END",
            f"CREATE TABLE migrations (version INTEGER PRIMARY KEY, migrated_at {_TIME})",
            "CREATE TABLE images (image_name TEXT NOT NULL PRIMARY KEY)",
        ]
        if self.table == "model_config":
            statements += [
                "CREATE TABLE model_metadata (id TEXT NOT NULL PRIMARY KEY, metadata TEXT NOT NULL)",
                "CREATE TABLE model_tags (model_id TEXT NOT NULL, tag_id INTEGER NOT NULL)",
                "CREATE TABLE tags (tag_id INTEGER NOT NULL PRIMARY KEY, tag_text TEXT NOT NULL UNIQUE)",
            ]
        if self._number >= 20:
            statements.append(
                "CREATE TABLE model_relationships (model_key_1 TEXT NOT NULL, model_key_2 TEXT NOT NULL,"
                f" created_at {_TIME}, PRIMARY KEY (model_key_1, model_key_2))"
            )
        with self.open() as db:
            for statement in statements:
                db.execute(statement)
            db.executemany(
                "INSERT INTO migrations (version) VALUES (?)", [(n,) for n in range(self._number + 1)]
            )
            if dated := RELEASES[self.release][1]:
                db.execute(
                    "CREATE TABLE applied_migrations (migration_id TEXT PRIMARY KEY, legacy_version INTEGER)"
                )
                db.execute("INSERT INTO applied_migrations VALUES (?, NULL)", (dated,))

    @contextlib.contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """A connection that writes, as InvokeAI's own; committed at the end."""
        with contextlib.closing(sqlite3.connect(self.database)) as db, db:
            yield db

    def config(self, number: int, **fields: Any) -> dict[str, Any]:
        """Fields of a record that every release has, and these."""
        name = fields.get("name", f"model {number}")
        found = {
            "key": f"{number:032x}",
            "hash": f"blake3:{number:064x}",
            "path": f"{number:032x}/{name}.safetensors",
            "name": name,
            "base": "sd-1",
            "type": "lora",
            "format": "lycoris",
            "description": None,
            "source": f"https://models.example.com/{number}.safetensors",
            "source_type": "url",
            "source_api_response": None,
            "cover_image": None,
            "file_size": 7,
        }
        return found | fields

    def add(self, number: int, *, there: bool = True, **fields: Any) -> dict[str, Any]:
        """A record, and its file of seven bytes if it is ``there``; answers with its fields."""
        config = self.config(number, **fields)
        self.insert(config)
        if there:
            self.put(config["path"])
        return config

    def insert(self, *configs: dict[str, Any]) -> None:
        """Records as they are."""
        with self.open() as db:
            db.executemany(
                f"INSERT INTO {self.table} (id, config, created_at, updated_at)"
                " VALUES (?, ?, '2024-03-01 10:00:00.500', '2024-04-02 11:30:00.000')",
                [(config["key"], json.dumps(config)) for config in configs],
            )

    def put(self, path: str, data: bytes = b"weights") -> Path:
        """A file of a model, by its path in the folder of models."""
        file = self.models / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    def update(self, key: str, **fields: Any) -> None:
        """Change fields of a record, as InvokeAI does."""
        with self.open() as db:
            [(text,)] = db.execute(f"SELECT config FROM {self.table} WHERE id = ?", (key,)).fetchall()
            db.execute(
                f"UPDATE {self.table} SET config = ? WHERE id = ?",
                (json.dumps(json.loads(text) | fields), key),
            )

    def relate(self, one: str, other: str) -> None:
        """Relate two models."""
        with self.open() as db:
            db.execute(
                "INSERT INTO model_relationships (model_key_1, model_key_2) VALUES (?, ?)",
                sorted((one, other)),
            )

    def picture(self, key: str, data: bytes = WEBP) -> Path:
        """The cover picture of a model."""
        return self.put(f"model_images/{key}.webp", data)

    def yaml(self, text: str) -> Path:
        """Its models.yaml."""
        file = self.path / "configs" / "models.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file
