"""Records in an application's own database and process, whatever the application does beside them."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import (
    DiskFullException,
    DuplicatePathException,
    FieldInvalidException,
    ServerBusyException,
    UnknownModelException,
)
from modelkeep_record.store import ModelRecordServiceBase, ModelRecordServiceSQL
from modelkeep_record.stores.sqlite.schema import PARTS
from support import applicationdb
from support.applicationdb import of_the_application
from support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
TABLE_OF_MODELS = applicationdb.TABLES.index("models")


def lora(number: int, **fields: Any) -> dict[str, Any]:
    kind = {"model_type": "lora", "model_format": "lycoris", "base_model": "sd-1"}
    return {**kind, "name": f"lora {number}", "path": f"/loras/{number}", **fields}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The application's database."""
    return applicationdb.make(tmp_path / "databases" / "invokeai.db")


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    """The application's connection, as InvokeAI makes it."""
    with contextlib.closing(sqlite3.connect(path, check_same_thread=False)) as opened:
        yield opened


@pytest.fixture
def store(connection: sqlite3.Connection) -> ModelRecordServiceSQL:
    return ModelRecordServiceSQL.from_connection(connection, threading.RLock())


def names(store: ModelRecordServiceSQL) -> set[str]:
    return {model.name for model in store.all_models()}


def orphans(connection: sqlite3.Connection) -> list[Any]:
    """Rows of ours that belong to no record."""
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = []
    for table in (name for name in tables if name.startswith("modelkeep_")):
        for key in connection.execute(f"PRAGMA foreign_key_list({table})").fetchall():
            missing = f"SELECT * FROM {table} WHERE {key[3]} NOT IN (SELECT {key[4]} FROM {key[2]})"
            found += connection.execute(missing).fetchall()
    return found


def test_the_applications_tables_stay_as_they_are(
    path: Path, connection: sqlite3.Connection, store: ModelRecordServiceSQL
) -> None:
    before = of_the_application(connection)
    assert before[1][TABLE_OF_MODELS] == []
    made = store.add_model(None, lora(1, tags=["sfw", "scenery"], labels={"a": "b"}))
    store.update_model(made.key, {"name": "renamed", "description": "a sunset"})
    assert store.list_models(text="sunse") == store.search_by_tag(["scenery", "sfw"]) == store.all_models()
    store.del_model(made.key)
    assert of_the_application(connection) == before
    with applicationdb.opened(path) as other:
        assert of_the_application(other) == before
        assert other.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert orphans(connection) == []


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.timeout(120)
def test_another_process_that_writes_meanwhile_finds_exactly_what_it_wrote(
    tmp_path: Path, journal: str
) -> None:
    path = applicationdb.make(tmp_path / "invokeai.db", journal=journal)
    script = ROOT / "tests" / "support" / "applicationdb.py"
    writer = subprocess.Popen([sys.executable, script, path], stdout=subprocess.PIPE)
    kept: list[str] = []
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
        store = ModelRecordServiceSQL.from_connection(connection, threading.Lock())

        def images() -> int:
            (count,) = connection.execute("SELECT count(*) FROM images").fetchone()
            return int(count)

        for number in range(60):
            before = images()
            kept.append(store.add_model(None, lora(number, tags=["x"])).key)
            if number % 3 == 0:
                store.del_model(kept.pop(0))
            store.update_model(kept[-1], {"description": f"number {number}"}) if kept else None
            if number % 10 == 0:
                wait_until(lambda before=before: images() > before)  # type: ignore[misc]
        path.with_suffix(".stop").touch()
        told, _ = writer.communicate()
        assert writer.returncode == 0
        assert {model.key for model in store.all_models()} == set(kept)
        mine = of_the_application(connection)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert orphans(connection) == []
    alone = applicationdb.make(tmp_path / "alone.db", journal=journal)
    assert int(told) > 5
    with applicationdb.opened(alone) as other:
        for number in range(int(told)):
            applicationdb.write(other, number)
        assert without_times(mine) == without_times(of_the_application(other))


def without_times(found: list[Any]) -> list[Any]:
    schema, rows, *marks = found
    # (rowid, id, name, base, path, config, times …) of the models
    rows = [
        [row[:6] for row in table] if index == TABLE_OF_MODELS else table for index, table in enumerate(rows)
    ]
    return [schema, rows, *marks]


def test_what_is_called_inside_the_applications_transaction_is_a_part_of_it(
    path: Path, connection: sqlite3.Connection, store: ModelRecordServiceSQL
) -> None:
    kept = store.add_model(None, lora(0))
    connection.execute("INSERT INTO images VALUES ('a.png', 1, 0)")  # begins one by itself
    store.add_model(None, lora(1))
    store.update_model(kept.key, {"name": "changed"})
    assert names(store) == {"changed", "lora 1"}
    assert connection.in_transaction
    connection.rollback()
    assert store.all_models() == [kept]
    assert connection.execute("SELECT count(*) FROM images").fetchone() == (0,)

    connection.execute("BEGIN")
    store.del_model(kept.key)
    with pytest.raises(DuplicatePathException):
        store.add_model(None, lora(2) | {"path": store.add_model(None, lora(3)).path})
    connection.execute("INSERT INTO images VALUES ('b.png', 1, 0)")
    with applicationdb.opened(path) as other:
        assert other.execute("SELECT count(*) FROM modelkeep_models").fetchone() == (1,)
    connection.commit()
    assert names(store) == {"lora 3"}
    assert connection.execute("SELECT image_name FROM images").fetchall() == [("b.png",)]
    assert orphans(connection) == []


def test_every_table_of_what_belongs_to_a_record_is_known(connection: sqlite3.Connection) -> None:
    ModelRecordServiceSQL.from_connection(connection, threading.RLock())
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'modelkeep%'"
    ).fetchall()
    parts = {
        (table.removeprefix("modelkeep_"), key[3])
        for (table,) in tables
        for key in connection.execute(f"PRAGMA foreign_key_list({table})")
        if key[2] == "modelkeep_models"
    }
    assert set(PARTS) == parts
    assert ("model_tags", "model_id") in parts


def test_a_savepoint_of_the_application_takes_what_was_done_inside_along(
    connection: sqlite3.Connection, store: ModelRecordServiceSQL
) -> None:
    connection.execute("BEGIN")
    store.add_model(None, lora(1))
    connection.execute("SAVEPOINT theirs")
    store.add_model(None, lora(2))
    connection.execute("ROLLBACK TO theirs")
    store.add_model(None, lora(3))
    connection.commit()
    assert names(store) == {"lora 1", "lora 3"}


def test_tables_that_were_made_inside_a_transaction_that_is_rolled_back_are_made_again(
    connection: sqlite3.Connection,
) -> None:
    before = of_the_application(connection)
    connection.execute("BEGIN")
    store = ModelRecordServiceSQL.from_connection(connection, threading.RLock())
    store.add_model(None, lora(1))
    connection.rollback()
    tables = connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'modelkeep%'").fetchall()
    assert tables == []
    assert store.all_models() == []
    store.add_model(None, lora(2))
    assert names(store) == {"lora 2"}
    assert of_the_application(connection) == before


def as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def in_capitals(text: bytes) -> str:
    return text.decode().upper()


@pytest.mark.parametrize("isolation", [None, "", "IMMEDIATE"], ids=str)
@pytest.mark.parametrize("rows", [None, sqlite3.Row, as_dict], ids=["tuple", "row", "dict"])
@pytest.mark.parametrize("texts", [str, bytes, in_capitals], ids=["str", "bytes", "capitals"])
def test_the_connections_settings_matter_nothing_and_stay(
    path: Path, isolation: Any, rows: Any, texts: Any
) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=isolation)) as connection:
        connection.row_factory, connection.text_factory = rows, texts
        connection.execute("PRAGMA foreign_keys = OFF")
        pragmas = ("foreign_keys", "synchronous", "cache_size", "busy_timeout", "query_only", "journal_mode")

        def settings() -> list[Any]:
            values = [list(sqlite3.Cursor(connection).execute(f"PRAGMA {name}")) for name in pragmas]
            return [connection.isolation_level, connection.row_factory, connection.text_factory, *values]

        before = settings()
        store = ModelRecordServiceSQL.from_connection(connection, threading.Lock())
        other = store.add_model(None, lora(2)).key
        made = store.add_model(None, lora(1, tags=["Ä"], labels={"a": "b"}, related_keys=[other]))
        assert store.get_model(other).related_keys == [made.key]
        assert store.get_model(made.key).name == "lora 1"
        assert store.search_by_tag("Ä") == store.search_by_name("lora 1") == [made]
        assert store.update_model(made.key, {"tags": []}).tags == []
        store.del_model(made.key)
        with pytest.raises(UnknownModelException):
            store.get_model(made.key)
        assert not connection.in_transaction
        assert settings() == before
    with applicationdb.opened(path) as looked:
        assert orphans(looked) == []


@pytest.mark.timeout(120)
def test_a_row_that_the_application_is_reading_is_not_disturbed(
    connection: sqlite3.Connection, store: ModelRecordServiceSQL
) -> None:
    connection.executemany("INSERT INTO images VALUES (?, 1, 0)", [(f"{n}.png",) for n in range(5)])
    connection.commit()
    seen = []
    for (name,) in connection.execute("SELECT image_name FROM images ORDER BY 1"):
        seen.append(name)
        store.add_model(None, lora(len(seen)))
        with pytest.raises(FieldInvalidException):
            store.add_model("no key", lora(99))
        assert len(store.all_models()) == len(seen)
    assert seen == [f"{n}.png" for n in range(5)]


@pytest.mark.timeout(120)
def test_two_threads_under_one_lock_are_both_correct(connection: sqlite3.Connection) -> None:
    lock = threading.Lock()
    store = ModelRecordServiceSQL.from_connection(connection, lock)

    def records(first: int) -> None:
        for number in range(first, first + 40):
            store.update_model(store.add_model(None, lora(number)).key, {"description": "seen"})
            store.all_models()

    def images() -> None:
        for number in range(100):
            with lock, connection:
                connection.execute("INSERT INTO images VALUES (?, 1, 0)", (f"{number}.png",))
                if number % 2:
                    connection.rollback()

    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(records, 0), threads.submit(records, 40), threads.submit(images)]:
            done.result()
    assert {(model.name, model.description) for model in store.all_models()} == {
        (f"lora {number}", "seen") for number in range(80)
    }
    assert connection.execute("SELECT count(*) FROM images").fetchone() == (50,)


def test_the_lock_is_held_during_each_call_and_no_longer(connection: sqlite3.Connection) -> None:
    class Seen:
        def __init__(self) -> None:
            self.held = 0
            self.times = 0

        def __enter__(self) -> None:
            self.held += 1
            self.times += 1

        def __exit__(self, *error: object) -> None:
            self.held -= 1

    seen = Seen()
    used: list[int] = []
    connection.set_trace_callback(lambda statement: used.append(seen.held))
    store = ModelRecordServiceSQL.from_connection(connection, seen)
    key = store.add_model(None, lora(1)).key
    for call in (
        store.get_model,
        store.exists,
        lambda key: store.update_model(key, {"name": "x"}),
        store.del_model,
    ):
        call(key)
    with pytest.raises(UnknownModelException):
        store.get_model(key)
    assert set(used) == {1}
    assert (seen.held, seen.times) == (0, 7)


def test_a_database_in_memory_may_be_the_applications(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(applicationdb.SCHEMA)
        store = ModelRecordServiceSQL.from_connection(connection, threading.RLock())
        store.add_model(None, lora(1))
        assert names(ModelRecordServiceSQL.from_connection(connection, threading.RLock())) == {"lora 1"}


def test_the_connection_stays_open_when_the_store_is_closed(connection: sqlite3.Connection) -> None:
    with ModelRecordServiceSQL.from_connection(connection, threading.RLock()) as store:
        store.add_model(None, lora(1))
    assert connection.execute("SELECT count(*) FROM modelkeep_models").fetchone() == (1,)


def test_a_database_that_another_connection_holds_is_told_as_busy(path: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(path, timeout=0)) as connection,
        contextlib.closing(sqlite3.connect(path)) as other,
    ):
        store_lock = threading.RLock()
        store = ModelRecordServiceSQL.from_connection(connection, store_lock)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ServerBusyException):
            store.add_model(None, lora(1))
        assert store.all_models() == []
        other.rollback()
        other.execute("BEGIN EXCLUSIVE")
        for call in (store.all_models, lambda: ModelRecordServiceSQL.from_connection(connection, store_lock)):
            with pytest.raises(ServerBusyException):
                call()
        other.rollback()
        store.add_model(None, lora(1))


def test_a_connection_that_only_reads_reads(
    path: Path, connection: sqlite3.Connection, store: ModelRecordServiceSQL
) -> None:
    made = store.add_model(None, lora(1))
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as reader:
        only = ModelRecordServiceSQL.from_connection(reader, threading.RLock())
        assert only.all_models() == [made]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            only.del_model(made.key)
    assert store.all_models() == [made]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
def test_a_full_disk_is_told_and_leaves_what_was_there(
    connection: sqlite3.Connection, store: ModelRecordServiceSQL, inside: bool
) -> None:
    kept = store.add_model(None, lora(0))
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 30}")
    if inside:
        connection.execute("BEGIN")
    written = 0
    with contextlib.suppress(DiskFullException):
        for number in range(1, 99):
            store.add_model(None, lora(number, description="much of it " * 3000))
            written = number
    assert written < 90
    # SQLite itself rolls the application's transaction back, and with it what was done inside.
    assert not connection.in_transaction
    assert len(store.all_models()) == 1 + (0 if inside else written)
    assert store.update_model(kept.key, {"name": "changed"}).name == "changed"
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("name", ["records.db", "records.yaml"])
def test_a_store_that_is_closed_says_so_whatever_is_asked_of_it(tmp_path: Path, name: str) -> None:
    store = ModelRecordServiceBase.from_db_file(tmp_path / name)
    store.close()
    store.close()
    with pytest.raises(RuntimeError, match=r"^This store is closed\.$"):
        store.all_models()
    with pytest.raises(RuntimeError, match=r"^This store is closed\.$"):
        store.add_model(None, lora(1))
