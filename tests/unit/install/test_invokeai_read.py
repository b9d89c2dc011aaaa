"""InvokeAI's database, read while nobody has it open, and while somebody opens it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from modelkeep_install.invokeai.read import open_database
from support.invokeai import InvokeAI


def beside(root: InvokeAI) -> set[str]:
    return {path.name for path in root.database.parent.iterdir()}


async def test_a_database_that_nobody_has_open_gets_no_files_beside_it(tmp_path: Path) -> None:
    root = InvokeAI(tmp_path / "invokeai")
    root.add(1, there=False)
    async with open_database(root.database) as database:
        assert await database.count() == 1
        assert [len(page) async for page in database.pages()] == [1]
        assert beside(root) == {"invokeai.db"}


@pytest.mark.parametrize("stays", [True, False])
async def test_InvokeAI_may_start_while_it_is_read(tmp_path: Path, stays: bool) -> None:
    root = InvokeAI(tmp_path / "invokeai")
    root.insert(*(root.config(number) for number in range(1, 301)))
    with contextlib.ExitStack() as opened:
        async with open_database(root.database) as database:
            pages = database.pages()
            names = [source.config["name"] for source in await anext(pages)]
            if stays:
                db = opened.enter_context(contextlib.closing(sqlite3.connect(root.database)))
                with db:
                    db.execute("UPDATE models SET config = json_set(config, '$.name', 'later')")
            else:
                root.update(f"{300:032x}", name="later")
            async for page in pages:
                names += [source.config["name"] for source in page]
    assert len(names) == 300
    assert names[:100] == [f"model {number}" for number in range(1, 101)]
    assert names.count("later") == (200 if stays else 1)


async def test_what_InvokeAI_would_not_write_ends_the_read_all_the_same(tmp_path: Path) -> None:
    root = InvokeAI(tmp_path / "invokeai", "3.7")
    config = root.add(1, there=False)
    root.database.unlink()
    with contextlib.closing(sqlite3.connect(root.database)) as db, db:
        for table in (
            *("model_config (id, config, created_at, updated_at, odd)", "model_metadata (id, metadata)"),
            *("model_tags (model_id, tag_id)", "tags (tag_id, tag_text)"),
            "model_relationships (model_key_1, model_key_2)",
        ):
            db.execute(f"CREATE TABLE {table}")
        rows: list[tuple[Any, ...]] = [(None, "{}", None, None, None)] * 150
        rows += [
            (config["key"], json.dumps(config), b"x", 5, "https://u:p@h/"),
            (b"\xff", "{}", None, None, 1e999),
        ]
        db.executemany("INSERT INTO model_config VALUES (?, ?, ?, ?, ?)", rows)
        db.execute("INSERT INTO model_metadata VALUES (?, 5)", (config["key"],))
        db.execute("INSERT INTO model_tags VALUES (?, 1), (?, 2)", (config["key"],) * 2)
        db.execute("INSERT INTO tags VALUES (1, 7), (2, NULL)")
        db.execute("INSERT INTO model_relationships VALUES (?, 9), (?, NULL)", (config["key"],) * 2)
    async with open_database(root.database) as database:
        [page] = [page async for page in database.pages()]
    [one] = [source for source in page if source.key == config["key"]]
    assert (one.tags, one.related) == (["7"], ["9"])
    assert (one.config["model_metadata"], one.config["odd"]) == (5, "https://h/")


def test_the_journal_of_the_roots_for_tests_is_InvokeAIs(tmp_path: Path) -> None:
    assert InvokeAI(tmp_path / "invokeai").database.read_bytes()[18] == 2
    assert os.listdir(tmp_path / "invokeai" / "databases") == ["invokeai.db"]
