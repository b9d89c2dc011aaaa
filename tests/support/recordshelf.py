"""Records in memory, for the rules of records by themselves."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep_common.sqlite import Connection
from modelkeep_common.sqlite.migrations import COMMON
from modelkeep_record.domain import rules
from modelkeep_record.domain.covers import Cover
from modelkeep_record.stores.sqlite.schema import MIGRATIONS


def database(schema: int = len(MIGRATIONS)) -> Connection:
    """The tables of a store in memory, as they were after so many migrations."""
    connection = sqlite3.connect(":memory:", factory=Connection)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL)")
    for migration in (*COMMON, *MIGRATIONS[:schema]):
        connection.executescript(migration.sql)
    return connection


class Shelf:
    """:class:`modelkeep_record.domain.rules.Records` in memory."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.listed: dict[str, list[ModelFile]] = {}
        self.covers: dict[str, Cover] = {}
        self.revision = 0

    async def get(self, key: str) -> Model | None:
        found = self.models.get(key)
        return None if found is None else Model.FromString(found.SerializeToString())

    async def key_at_path(self, path: str, root_id: str) -> str | None:
        found = (key for key, one in self.models.items() if (one.path, one.root_id) == (path, root_id))
        return next(found, None)

    async def files(self, key: str) -> list[ModelFile]:
        return self.listed.get(key, [])

    async def keys_naming(self, key: str) -> list[str]:
        return sorted(one.key for one in self.models.values() if key in one.related_keys)

    async def cover(self, key: str) -> Cover | None:
        return self.covers.get(key)

    async def put_cover(self, key: str, cover: Cover | None) -> None:
        assert key in self.models
        self.covers.pop(key, None)
        if cover is not None:
            self.covers[key] = cover

    async def next_revision(self) -> int:
        return self.revision + 1

    async def put(self, model: Model, files: Sequence[ModelFile] | None) -> None:
        self.revision += 1
        kept = Model()
        kept.CopyFrom(model)
        self.models[model.key] = kept
        if files is not None:
            self.listed[model.key] = list(files)

    async def remove(self, key: str) -> None:
        self.revision += 1
        del self.models[key]
        self.covers.pop(key, None)


async def change(shelf: rules.Records, key: str, *mask: str, **fields: Any) -> tuple[Model, list[str]]:
    """An update of some fields, by a mask if one is given."""
    paths = FieldMask(paths=mask) if mask else None
    return await rules.update(shelf, Model(key=key, **fields), paths, None, 9.0)


def vae(**more: object) -> Model:
    """A record that may be stored."""
    fields = {"name": "v", "path": "/v", "base": "sd-1", "type": "MODEL_TYPE_VAE"}
    return Model(**{**fields, "format": "MODEL_FORMAT_CHECKPOINT", **more})  # type: ignore[arg-type]  # by name
