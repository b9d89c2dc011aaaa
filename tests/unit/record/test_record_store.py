"""The store: SQL answers as the rules in Python do, and gets that come together share a read."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep_common.at_once import run_at_once
from modelkeep_common.sqlite import Books, Connection
from modelkeep_record.domain.query import Bounds, Order, Query, folded, search_text, split_words
from modelkeep_record.stores.sqlite import SqliteRecordStore, Transaction, reads, sql
from modelkeep_record.stores.sqlite.gather import Gatherer
from modelkeep_record.stores.sqlite.schema import MIGRATIONS, to_columns
from support.recordshelf import database

WORDS = ["Red", "redder", "blüe", "GREEN", "a", 'qu"ote', "x%y", "ınk"]
BASES = ["sd-1", "sd-2", "any", "flux"]
KEYS = [f"{number:032x}" for number in range(2)]
TEXT = st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join)


def some(values: Sequence[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), max_size=2, unique=True)


MODELS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(WORDS),
            "base": st.sampled_from(BASES),
            "compatible_bases": some(BASES),
            "type": st.integers(1, 3),
            "format": st.integers(1, 2),
            "tags": some(WORDS),
            "labels": st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy")),
            "root_id": st.sampled_from(["", "r1", "r2"]),
            "size_bytes": st.integers(0, 3),
            "original_hash": st.sampled_from(["", "h1", "h2"]),
            "current_hash": st.sampled_from(["", "h1", "h2"]),
            "source": st.sampled_from(["", "s1", "s2"]),
            "description": TEXT,
            "related_keys": some(KEYS),
        }
    ),
    max_size=12,
)
QUERIES = st.builds(
    Query,
    name=st.just("") | st.sampled_from(WORDS),
    bases=some(BASES).map(frozenset),
    types=some([1, 2]).map(frozenset),
    formats=some([1, 2]).map(frozenset),
    tags=some(WORDS).map(frozenset),
    labels=st.sampled_from([(), (("a", "x"),), (("a", "x"), ("b", "y"))]),
    paths=some(["/0", "1", "2"]).map(frozenset),
    root_id=st.sampled_from(["", "r1"]),
    hash=st.sampled_from(["", "h1"]),
    source=st.sampled_from(["", "s1"]),
    key_prefix=st.sampled_from(["", "0000", f"{3:032x}"]),
    related_to=st.sampled_from(["", *KEYS]),
    keys=st.sampled_from([(), (2, 5)]).map(lambda numbers: frozenset(f"{n:032x}" for n in numbers)),
    name_folded=st.sampled_from(["", "red", "ink"]),
    missing=st.sampled_from([None, True, False]),
    size_bytes=st.builds(Bounds, st.sampled_from([None, 1]), st.sampled_from([None, 2])),
    create_time_us=st.builds(Bounds, st.sampled_from([None, 1]), st.sampled_from([None, 3])),
    words=(TEXT | st.sampled_from(["RED", "DER", "lü", "I"])).map(split_words),
)


def test_records_of_an_older_schema_are_found_by_what_it_did_not_have() -> None:
    connection = database(schema=1)
    model = Model(key="k" * 32, name="Größe", base="sd-1", path="/p", tags=["t"])
    columns = to_columns(model)
    for later in ("name_folded", "missing_time_us"):
        del columns[later]
    marks = ", ".join("?" * len(columns))
    connection.execute(f"INSERT INTO models ({', '.join(columns)}) VALUES ({marks})", tuple(columns.values()))
    for migration in MIGRATIONS[1:]:
        connection.executescript(migration.sql)
    for query in (Query(name_folded=folded("GRÖSSE")), Query(missing=False)):
        assert len(list(sql.select_models(connection, query, Order.NAME, False, (), 10))) == 1
    assert not list(sql.select_models(connection, Query(labels=(("a", ""),)), Order.NAME, False, (), 10))


@pytest.mark.parametrize("few", [0, 2, 2000])  # always walk, walk or sort, always sort
def test_a_list_is_what_the_rules_say_in_every_order_and_page_size(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "_FEW", few)
    monkeypatch.setattr(sql, "_MANY", few * 2)
    monkeypatch.setattr(sql, "_SORTED", few * 2)
    monkeypatch.setattr(sql, "_BEGINNING", few + 1)
    revisions = itertools.count(1)  # key and revision name a stored record, here as in a store

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(MODELS, QUERIES, st.sampled_from(Order), st.booleans(), st.integers(1, 5))
    def check(
        records: list[dict[str, Any]], query: Query, order: Order, descending: bool, limit: int
    ) -> None:
        connection = database()
        models = []
        for number, fields in enumerate(records):
            model = Model(key=f"{number:032x}", revision=next(revisions), **fields)
            model.path = f"{'' if model.root_id else '/'}{number}"
            model.create_time.FromMicroseconds(number // 2)
            if model.size_bytes == 1:
                model.missing_time.FromMicroseconds(number + 1)
            run_at_once(Transaction(connection).put(model, []))
            models.append(model)
        found: list[str] = []
        after: Sequence[Any] = ()
        while rows := list(sql.select_models(connection, query, order, descending, after, limit)):
            found += [Model.FromString(row[0]).key for row in rows]
            after = rows[-1][1:]
        expected = [model for model in models if query.matches(model)]
        expected.sort(
            key=lambda model: tuple(to_columns(model)[column] for column in order.value),
            reverse=descending,
        )
        assert found == [model.key for model in expected]
        connection.close()

    check()


def test_a_changed_record_is_found_by_its_new_values_only() -> None:
    connection = database()
    transaction = Transaction(connection)
    model = Model(key="k", name="old", base="sd-1", path="/p", tags=["t1"], description="first words")
    run_at_once(transaction.put(model, []))
    model.name, model.base, model.description = "new", "sdxl", "second words"
    model.tags[:] = ["t2"]
    run_at_once(transaction.put(model, None))

    def count(**fields: Any) -> int:
        rows = sql.select_models(connection, Query(**fields), Order.NAME, False, (), 10)
        return len(list(rows))

    olds: list[dict[str, Any]] = [
        {"name": "old"},
        {"bases": frozenset(["sd-1"])},
        {"tags": frozenset(["t1"])},
        {"words": ("first",)},
    ]
    news: list[dict[str, Any]] = [
        {"name": "new"},
        {"bases": frozenset(["sdxl"])},
        {"tags": frozenset(["t2"])},
        {"words": ("second",)},
    ]
    assert [count(**old) for old in olds] == [0, 0, 0, 0]
    assert [count(**new) for new in news] == [1, 1, 1, 1]
    run_at_once(transaction.remove("k"))
    assert count() == count(words=("second",)) == 0
    for table in ("model_bases", "model_tags", "model_files"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    connection.close()


def test_a_connection_of_somebody_else_is_written_in_their_transaction_and_read(tmp_path: Path) -> None:
    own = database()
    own.execute("INSERT INTO meta VALUES ('store_id', 'a store')")
    own.commit()
    with contextlib.closing(sqlite3.connect(tmp_path / "theirs.db")) as plain:
        own.backup(plain)
        own.close()
        books = Books()
        records = Transaction(plain, books)
        model = Model(key="k" * 32, name="n", base="sd-1", path="/p", tags=["t"])
        run_at_once(records.put(model, [ModelFile(path="f")]))
        assert plain.in_transaction
        assert run_at_once(records.get(model.key)) == model
        plain.rollback()
        assert reads.get(plain, model.key) is None
        records = Transaction(plain, books)
        run_at_once(records.put(model, []))
        plain.commit()
        page = reads.page(plain, Query(tags=frozenset("t")), Order.NAME, False, (), 10, 1000)
        assert [Model.FromString(message) for message in page.messages] == [model]
        assert list(reads.every(plain)) == [(model.key, model)]
        assert (reads.tags(plain, "", "", 10), run_at_once(records.next_revision())) == ([("t", 1)], 2)
        assert books.appended == [("models", model.key)] * 2


def test_the_first_text_after_a_prefix() -> None:
    last = chr(sys.maxunicode)
    for prefix, begun, after in [("x", f"x{last}z", "y"), (f"x{last}", f"x{last}{last}", "y")]:
        assert reads.after_all(prefix) == after
        assert prefix <= begun < after
    assert reads.after_all("\ud7ff") == "\ue000"
    assert reads.after_all("") == reads.after_all(last) == ""


def test_words_are_folded_and_text_is_limited() -> None:
    assert split_words("  STRASSE straße x ") == ("strasse", "x")
    assert "straße".casefold() in search_text(Model(name="Große STRASSE"))
    assert len(search_text(Model(description="x" * 100_000))) == 65_536


async def test_gets_that_come_together_share_a_read_and_each_sees_what_was_there_before_it() -> None:
    stored = {"a": b"1"}
    reads: list[list[str]] = []

    async def read_many(keys: Sequence[str]) -> Mapping[str, bytes]:
        reads.append(sorted(keys))
        seen = dict(stored)
        await asyncio.sleep(0.01)
        return seen

    gatherer = Gatherer(read_many)
    first = asyncio.gather(*(gatherer.get(key) for key in ("a", "b", "a")))
    await asyncio.sleep(0.005)
    stored["b"] = b"2"
    second = asyncio.gather(*(gatherer.get(key) for key in ("a", "b")))
    assert await first == [b"1", None, b"1"]
    assert await second == [b"1", b"2"]
    assert reads == [["a", "b"], ["a", "b"]]
    await asyncio.sleep(0.005)
    assert await gatherer.get("b") == b"2"


async def test_a_failed_or_cancelled_get_harms_no_other() -> None:
    fail = True

    async def read_many(keys: Sequence[str]) -> Mapping[str, bytes]:
        await asyncio.sleep(0.005)
        if fail:
            raise RuntimeError("no")
        return dict.fromkeys(keys, b"x")

    gatherer = Gatherer(read_many)
    results = await asyncio.gather(gatherer.get("a"), gatherer.get("b"), return_exceptions=True)
    assert [type(result) for result in results] == [RuntimeError, RuntimeError]
    fail = False
    leaving = asyncio.ensure_future(gatherer.get("a"))
    staying = asyncio.ensure_future(gatherer.get("a"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == b"x"


async def test_batches_of_any_size_are_read(data_dir: Any) -> None:
    store = await SqliteRecordStore.open(data_dir / "r.db")

    def fill(conn: Connection) -> None:
        for number in range(1500):
            model = Model(key=f"{number:032x}", name="n", path=f"/{number}")
            run_at_once(Transaction(conn).put(model, None))

    await store.db.write(fill)
    keys = [f"{number:032x}" for number in range(1500)]
    assert list(await store.get_many(keys)) == keys
    assert await store.get_many(["missing"]) == {}
    found = await asyncio.gather(*(store.get(key) for key in (*keys, "missing")))
    assert [Model.FromString(message).key for message in found if message is not None] == keys
    assert found[-1] is None
    await store.close()
