"""Related models by the rules of records: each names the other, after every change."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkeep.exceptions import DuplicateModelException, FieldInvalidException, UnknownModelException
from modelkeep.model.v1.model_pb2 import Model
from modelkeep.record.v1.exports_pb2 import (
    IMPORT_CONFLICT_REPLACE,
    IMPORT_CONFLICT_SKIP,
    IMPORT_OUTCOME_UNCHANGED,
    ExportedModel,
    ImportConflict,
)
from modelkeep_common.at_once import run_at_once
from modelkeep_record.domain import imports, related, rules
from modelkeep_record.domain.query import Order, Query
from modelkeep_record.stores.sqlite import Transaction, reads, sql
from support.recordshelf import Shelf, change, database, vae


def key(number: int) -> str:
    return f"{number:032x}"


async def made(shelf: Shelf, number: int, *related_to: int, **more: Any) -> Model:
    record = vae(path=f"/{number}", key=key(number), related_keys=map(key, related_to), **more)
    return await rules.create(shelf, record, [], 5.0)


def relations(shelf: Shelf) -> dict[int, list[int]]:
    return {int(k, 16): [int(one, 16) for one in m.related_keys] for k, m in shelf.models.items()}


async def test_a_new_record_is_named_by_those_that_it_names() -> None:
    shelf = Shelf()
    first, second = await made(shelf, 1), await made(shelf, 2)
    third = await made(shelf, 3, 2, 1)
    assert relations(shelf) == {1: [3], 2: [3], 3: [1, 2]}
    others = [shelf.models[key(number)] for number in (1, 2)]
    assert [other.etag for other in others] != [first.etag, second.etag]
    assert sorted(other.revision for other in others) == [3, 4]
    assert third.revision == 5, "who has seen the revision of the answer has seen every change of the call"


async def test_an_update_changes_both_sides() -> None:
    shelf = Shelf()
    for number in range(1, 5):
        await made(shelf, number)
    await change(shelf, key(1), related_keys=[key(3), key(2)])
    assert relations(shelf) == {1: [2, 3], 2: [1], 3: [1], 4: []}
    untouched = shelf.models[key(3)].etag
    await change(shelf, key(1), related_keys=[key(4), key(3)])
    assert relations(shelf) == {1: [3, 4], 2: [], 3: [1], 4: [1]}
    assert shelf.models[key(3)].etag == untouched
    revision = shelf.revision
    await change(shelf, key(1), related_keys=[key(4), key(3)])
    assert shelf.revision == revision, "in another order they are the same"
    await change(shelf, key(1), "related_keys")
    assert relations(shelf) == {1: [], 2: [], 3: [], 4: []}


async def test_a_rehearsal_changes_neither_side() -> None:
    shelf = Shelf()
    await made(shelf, 1)
    await made(shelf, 2)
    update = Model(key=key(1), related_keys=[key(2)])
    model, _ = await rules.update(shelf, update, None, None, 9.0, validate_only=True)
    assert list(model.related_keys) == [key(2)]
    assert relations(shelf) == {1: [], 2: []}


async def test_records_that_go_leave_the_lists_of_those_that_stay() -> None:
    shelf = Shelf()
    for number in range(1, 6):
        await made(shelf, number, *range(1, number))
    _, revision = await rules.delete(shelf, key(5), "", 9.0)
    assert revision == shelf.revision
    assert relations(shelf) == {1: [2, 3, 4], 2: [1, 3, 4], 3: [1, 2, 4], 4: [1, 2, 3]}
    before = shelf.revision
    assert await rules.delete_many(shelf, [key(1), key(9), key(3)], 9.0) == ([key(1), key(3)], [key(9)])
    assert relations(shelf) == {2: [4], 4: [2]}
    assert shelf.revision - before == 4, "each of two that stay changed once, and two went"


async def test_what_cannot_be_related_is_told_by_its_key() -> None:
    shelf = Shelf()
    await made(shelf, 1)
    for attempt in (change(shelf, key(1), related_keys=[key(1)]), made(shelf, 2, 2)):
        with pytest.raises(FieldInvalidException, match="related_keys has the model's own key"):
            await attempt
    for attempt in (change(shelf, key(1), related_keys=[key(7), key(8)]), made(shelf, 2, 7, 1, 8)):
        with pytest.raises(FieldInvalidException) as caught:
            await attempt
        assert [(one.field, one.description) for one in caught.value.violations] == [
            ("model.related_keys", f"has {key(7)}, which no model has"),
            ("model.related_keys", f"has {key(8)}, which no model has"),
        ]
    assert relations(shelf) == {1: []}


async def test_one_has_no_more_relations_than_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(related, "MAX_RELATED", 2)
    shelf = Shelf()
    for number in range(1, 5):
        await made(shelf, number)
    await change(shelf, key(1), related_keys=[key(2), key(3)])
    with pytest.raises(FieldInvalidException, match=f"related_keys has {key(1)}, which has 2 related models"):
        await change(shelf, key(4), related_keys=[key(1)])
    assert relations(shelf)[4] == []


async def test_a_record_that_is_full_is_not_made_larger_by_another() -> None:
    shelf = Shelf()
    full = await made(shelf, 1, extra_fields={f"{n}": f'"{"x" * 262_000}"' for n in range(3)})
    await change(shelf, full.key, description="x" * (rules.MAX_RECORD_BYTES - full.ByteSize() - 20))
    with pytest.raises(FieldInvalidException, match="too full to name another"):
        await made(shelf, 2, 1)


async def test_one_that_was_named_before_it_came_names_those_that_do() -> None:
    shelf = Shelf()
    await made(shelf, 1)
    await made(shelf, 2)
    shelf.models[key(1)].related_keys[:] = [key(8)]  # as an import leaves it
    changed, _ = await change(shelf, key(1), related_keys=[key(8), key(2)])
    assert list(changed.related_keys) == [key(2), key(8)], "it names no new key without a record"
    await made(shelf, 8, 2)
    assert relations(shelf) == {1: [2, 8], 2: [1, 8], 8: [1, 2]}


async def test_an_import_may_name_what_is_not_there_yet() -> None:
    shelf = Shelf()
    await made(shelf, 1)
    model = vae(key=key(2), related_keys=[key(9), key(1)])
    others = await related.settle(shelf, model, None, max_bytes=1 << 20, may_be_missing=True)
    assert list(model.related_keys) == [key(1), key(9)]
    assert [(other.key, list(other.related_keys)) for other in others] == [(key(1), [key(2)])]
    model.related_keys.append(key(2))
    with pytest.raises(FieldInvalidException, match="own key"):
        await related.settle(shelf, model, None, max_bytes=1 << 20, may_be_missing=True)


def exported(number: int, *related_to: int) -> imports.Entry:
    model = vae(path=f"/{number}", key=key(number), related_keys=map(key, related_to))
    model.update_time.seconds = model.create_time.seconds = 3
    return imports.Entry(ExportedModel(model=model))


@pytest.mark.parametrize(
    "entries",
    [
        [exported(1, 2, 9), exported(2, 1), exported(3)],
        [exported(1, 2), exported(2), exported(3)],
        [exported(1), exported(2, 1, 3), exported(3)],
    ],
    ids=["both", "the first", "the second"],
)
@pytest.mark.parametrize("conflict", [IMPORT_CONFLICT_SKIP, IMPORT_CONFLICT_REPLACE])
async def test_relations_of_an_import_do_not_depend_on_its_order(
    entries: list[imports.Entry], conflict: ImportConflict
) -> None:
    told = []
    for order in itertools.permutations(entries):
        shelf = Shelf()
        rehearsed = await imports.import_models(imports.Rehearsal(shelf), order, conflict, 9.0)
        assert await imports.import_models(shelf, order, conflict, 9.0) == rehearsed
        told.append(relations(shelf))
        assert {model.update_time.seconds for model in shelf.models.values()} == {3}
        again = await imports.import_models(shelf, order, conflict, 9.0)
        assert {result.outcome for result in again} == {IMPORT_OUTCOME_UNCHANGED}
    assert told == [told[0]] * len(told)
    for number, names in told[0].items():
        assert all(number in told[0][name] for name in names if name != 9)


RELATED = st.sets(st.integers(0, 4), max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["create", "update", "import"]), st.integers(0, 4), RELATED),
        st.tuples(st.just("delete"), st.sets(st.integers(0, 4), min_size=1, max_size=3)),
    ),
    max_size=12,
)


async def step(records: rules.Records, name: str, *how: Any) -> None:
    """One change; what cannot be done changes nothing."""
    if name == "delete":
        await rules.delete_many(records, [key(number) for number in sorted(how[0])], 9.0)
        return
    number, others = how
    model = vae(path=f"/{number}", key=key(number), related_keys=[key(other) for other in others])
    if name == "import":
        await imports.import_models(
            records, [imports.Entry(ExportedModel(model=model))], IMPORT_CONFLICT_REPLACE, 9.0
        )
        return
    with contextlib.suppress(FieldInvalidException, DuplicateModelException, UnknownModelException):
        if name == "create":
            await rules.create(records, model, [], 9.0)
        else:
            mask = FieldMask(paths=["related_keys"])
            await rules.update(records, model, mask, None, 9.0)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(STEPS)
def test_whatever_happens_each_of_two_names_the_other_and_a_table_knows_it(steps: list[Any]) -> None:
    connection = database()
    records, shelf = Transaction(connection), Shelf()
    for one in steps:
        run_at_once(step(records, *one))
        run_at_once(step(shelf, *one))
        named = relations(shelf)
        for number, names in named.items():
            assert number not in names
            assert names == sorted(set(names))
            assert all(number in named[name] for name in names if name in named)
    kept = {int(k, 16): [int(r, 16) for r in m.related_keys] for k, m in reads.every(connection)}
    assert kept == relations(shelf)
    for number in range(5):
        naming = [name for name, names in sorted(kept.items()) if number in names]
        assert [int(k, 16) for k in reads.keys_naming(connection, key(number))] == naming
        rows = sql.select_models(connection, Query(related_to=key(number)), Order.PATH, False, (), 9)
        assert [int(Model.FromString(row[0]).key, 16) for row in rows] == naming
    connection.close()
