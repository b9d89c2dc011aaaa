"""Roots of InvokeAI that InvokeAI itself makes, in an environment of its own; run there as a script.

``python invokeai_real.py FOLDER`` makes a root of each release in the folder, with the tables that it had, by
InvokeAI's own migrations, and writes what it has put there to standard output as JSON: for the newest release
a record of every class of its configurations with every field filled, related models and a picture; for older
ones records as they were then.
"""

from __future__ import annotations

import datetime
import enum
import json
import logging
import os
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Number of the last migration of a release; none for the newest.
LAST = {"3.7": 6, "4.2": 11, "5.6": 19, "6.14": None}


def main(folder: Path) -> None:
    """Make the roots."""
    folder.mkdir(exist_ok=True)
    os.environ["INVOKEAI_ROOT"] = str(folder / "6.14")
    sys.argv = sys.argv[:1]  # importing InvokeAI reads it
    from invokeai.app.services.config.config_default import get_config

    config = get_config()
    told = {}
    for release, last in LAST.items():
        config._root = folder / release
        told[release] = _make(folder / release, release, last, config)
    print(json.dumps(told, indent=1, sort_keys=True))


def _make(root: Path, release: str, last: int | None, config: Any) -> dict[str, Any]:
    db = opened(root, last, config)
    told = _newest(root, db) if last is None else _older(db, release)
    return {"database": str(config.db_path), **told}


def opened(root: Path, last: int | None, config: Any) -> Any:
    """The database of a root, brought up to a release as InvokeAI does at its start."""
    from invokeai.app.services.image_files.image_files_disk import DiskImageFileStorage
    from invokeai.app.services.shared.sqlite.sqlite_database import SqliteDatabase
    from invokeai.app.services.shared.sqlite_migrator.migration_loader import (
        MigrationBuildContext,
        build_migrations,
    )
    from invokeai.app.services.shared.sqlite_migrator.sqlite_migrator_impl import SqliteMigrator

    root.mkdir(exist_ok=True)
    log = logging.getLogger("invokeai")
    images = DiskImageFileStorage(root / "outputs" / "images")
    db = SqliteDatabase(config.db_path, log, verbose=False)
    migrator = SqliteMigrator(db)
    context = MigrationBuildContext(app_config=config, logger=log, image_files=images)
    for migration in build_migrations(context):
        if last is None or (migration.to_version or last + 1) <= last:
            migrator.register_migration(migration)
    migrator.run_migrations()
    return db


def _newest(root: Path, db: Any) -> dict[str, Any]:
    from invokeai.app.services.model_images.model_images_default import ModelImageFileStorageDisk
    from invokeai.app.services.model_records.model_records_sql import ModelRecordServiceSQL
    from invokeai.app.services.model_relationship_records.model_relationship_records_sqlite import (
        SqliteModelRelationshipRecordStorage,
    )
    from invokeai.backend.model_manager.configs.base import Config_Base
    from PIL import Image

    store = ModelRecordServiceSQL(db, logging.getLogger("records"))
    classes = sorted(Config_Base.CONFIG_CLASSES, key=lambda cls: cls.__name__)
    for number, cls in enumerate(classes, 1):
        store.add_model(cls(**_filled(cls, number)))
    relations = SqliteModelRelationshipRecordStorage(db)
    relations.add_model_relationship(_key(1), _key(2))
    relations.add_model_relationship(_key(3), _key(1))
    pictures = ModelImageFileStorageDisk(root / "models" / "model_images")
    pictures.save(Image.new("RGB", (64, 48), (200, 30, 60)), _key(1))
    # as they are stored: the store reads some as another class, with fewer fields
    with db.transaction() as cursor:
        stored = dict(cursor.execute("SELECT id, config FROM models").fetchall())
    records = {cls.__name__: json.loads(stored[_key(number)]) for number, cls in enumerate(classes, 1)}
    return {"records": records, "related": {_key(1): [_key(2), _key(3)]}, "picture": _key(1)}


def _older(db: Any, release: str) -> dict[str, Any]:
    """Records as they were then: InvokeAI has no classes for them any more."""
    table = "model_config" if release.startswith("3.") else "models"
    base = {"name": "ink", "base": "sd-1", "type": "main", "format": "checkpoint", "description": "draws"}
    if table == "model_config":
        more: dict[str, Any] = {
            "original_hash": "d" * 32,
            "current_hash": "c" * 32,
            "source": "local",
            "vae": "sd-1/vae/x",
            "config": "configs/stable-diffusion/v1-inference.yaml",
            "ztsnr_training": False,
            "last_modified": 1700000000.5,
        }
    else:
        more = {
            "hash": "blake3:" + "ab" * 32,
            "source": "a/b",
            "source_type": "hf_repo_id",
            "source_api_response": '{"tags": ["ink"]}',
            "cover_image": None,
            "trigger_phrases": ["ink"],
            "default_settings": {"steps": 20, "vae": None},
            "config_path": "stable-diffusion/v1-inference.yaml",
            "upcast_attention": False,
            "converted_at": 1.5,
            "file_size": 7,
        }
    more |= {"variant": "normal", "prediction_type": "epsilon"}
    config = {**base, **more, "key": _key(1), "path": "sd-1/main/ink.safetensors"}
    with db.transaction() as cursor:
        cursor.execute(f"INSERT INTO {table} (id, config) VALUES (?, ?)", (_key(1), json.dumps(config)))
        if table == "model_config":
            cursor.execute(
                "INSERT INTO model_metadata (id, metadata) VALUES (?, ?)",
                (_key(1), '{"name": "Ink", "author": "A"}'),
            )
            cursor.execute("INSERT INTO tags (tag_id, tag_text) VALUES (1, 'style')")
            cursor.execute("INSERT INTO model_tags (model_id, tag_id) VALUES (?, 1)", (_key(1),))
    return {"records": {"record": config}}


#: Values that depend on each other.
_OWN = {"weight_min": -1.0, "weight_max": 2.0}


def _key(number: int) -> str:
    return f"{number:08x}-0b4e-4bd5-9b4a-5c1f1e6f7a80"


def _filled(cls: Any, number: int) -> dict[str, Any]:
    """Values for every field of a class."""
    own = {
        "key": _key(number),
        "path": f"{_key(number)}/weights.safetensors",
        "name": f"model {number}",
        "hash": f"blake3:{number:064x}",
        "config_path": "stable-diffusion/v1-inference.yaml",
        "source_url": f"https://models.example.com/{number}",
        "source_api_response": '{"tags": ["ink"], "bos_token": "<s>"}',
    }
    return {
        name: own[name] if name in own else _value(field.annotation, field.metadata)
        for name, field in cls.model_fields.items()
    }


def _value(annotation: Any, metadata: Any = ()) -> Any:
    """A value that the annotation allows, other than None."""
    from pydantic import TypeAdapter, ValidationError

    allowed = TypeAdapter(typing.Annotated[(annotation, *metadata)] if metadata else annotation)
    for candidate in _candidates(annotation):
        try:
            allowed.validate_python(candidate)
        except ValidationError:
            continue
        return candidate
    raise AssertionError(f"no value for {annotation} {metadata}")


def _candidates(annotation: Any) -> Iterator[Any]:
    from pydantic import BaseModel

    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _candidates(arguments[0])
    elif origin is typing.Literal:
        yield arguments[-1]
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            if argument is not type(None):
                yield from _candidates(argument)
    elif origin in (list, set):
        yield origin([_value(arguments[0])])
    elif origin is dict:
        yield {_value(arguments[0]): _value(arguments[1])}
    elif isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        yield list(annotation)[-1]
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        yield annotation(**{name: _OWN.get(name) or _value(f.annotation, f.metadata) for name, f in fields})
    else:
        plain: dict[Any, list[Any]] = {
            bool: [True],
            int: [64, 3, 1],
            float: [1.5, 0.5],
            str: ["some text"],
            datetime.datetime: [datetime.datetime(2024, 1, 2)],
        }
        yield from plain[annotation]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
