"""What every store of records does with a unit of work: whole or not at all, in turn, once."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from modelkeep.exceptions import (
    DuplicateModelException,
    DuplicatePathException,
    EtagMismatchException,
    RequestIdReusedException,
    UnknownModelException,
)
from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep_record.domain import rules
from modelkeep_record.domain.query import Query
from modelkeep_record.stores.store import Once, RecordStore
from support.records import vae
from support.recordstores import ANYBODY, create, delete, get, listed, once, update

ID = "00000000-0000-4000-8000-000000000001"


class Failed(Exception):
    """What a unit of work of these tests raises."""


async def test_every_change_has_the_next_revision_and_a_new_etag(store: RecordStore) -> None:
    made = await create(store, vae("a"))
    changed = await update(store, made.key, name="b")
    same = await update(store, made.key, name="b")
    assert [made.revision, changed.revision, same.revision] == [1, 2, 2]
    assert len({made.etag, changed.etag}) == 2
    assert same.etag == changed.etag
    assert (changed.create_time.seconds, changed.update_time.seconds) == (5, 9)
    assert await get(store, made.key) == changed
    assert await delete(store, made.key) == 3
    assert (await store.info()).revision == 3


async def test_a_stale_etag_a_taken_key_and_a_taken_path_are_refused_and_change_nothing(
    store: RecordStore,
) -> None:
    made = await create(store, vae("a"))
    changed = await update(store, made.key, name="b", etag=made.etag)
    with pytest.raises(EtagMismatchException):
        await update(store, made.key, name="c", etag=made.etag)
    with pytest.raises(DuplicateModelException):
        await create(store, vae("other", key=made.key))
    with pytest.raises(DuplicatePathException):
        await create(store, vae("a"))
    with pytest.raises(UnknownModelException):
        await update(store, "f" * 32, name="c")
    assert await listed(store) == [changed]
    assert (await store.info()).revision == 2


async def test_a_path_is_free_in_another_root_and_once_its_record_is_gone(store: RecordStore) -> None:
    first = await create(store, vae("a", path="x", root_id="r1"))
    second = await create(store, vae("b", path="x", root_id="r2"))
    await delete(store, first.key)
    await update(store, second.key, root_id="r1")
    third = await create(store, vae("c", path="x", root_id="r2"))

    async def keys(records: rules.Records) -> bytes:
        found = [await records.key_at_path("x", root) for root in ("r1", "r2", "")]
        assert found == [second.key, third.key, None]
        return b"seen"

    assert await store.look(keys) == b"seen"


async def test_a_unit_of_work_sees_what_it_has_done_itself(store: RecordStore) -> None:
    async def unit(records: rules.Records) -> bytes:
        assert await records.next_revision() == 1
        made = await rules.create(records, vae("a"), [ModelFile(path="f")], 5)
        assert await records.get(made.key) == made
        assert [file.path for file in await records.files(made.key)] == ["f"]
        assert await records.key_at_path(made.path, "") == made.key
        assert await records.next_revision() == made.revision + 1 == 2
        changed, _ = await rules.update(records, Model(key=made.key, path="/new"), None, None, 9)
        assert await records.key_at_path("/models/a", "") is None
        assert await records.key_at_path("/new", "") == made.key
        await records.remove(made.key)
        assert await records.get(made.key) is None
        assert await records.files(made.key) == []
        await rules.create(records, vae("a", key=made.key), [], 7)
        return str(changed.revision).encode()

    assert await store.write(unit, ANYBODY) == b"2"
    assert [model.revision for model in await listed(store)] == [4]


async def test_the_records_that_name_a_key_are_found_until_they_name_it_no_more(store: RecordStore) -> None:
    first, second = await create(store, vae("a")), await create(store, vae("b"))
    third = await create(store, vae("c", related_keys=[first.key, second.key]))

    async def naming() -> list[str]:
        async def unit(records: rules.Records) -> bytes:
            return " ".join(await records.keys_naming(first.key)).encode()

        return (await store.look(unit)).decode().split()

    assert await naming() == [third.key]
    await update(store, second.key, related_keys=[first.key])
    assert await naming() == sorted([second.key, third.key])
    await delete(store, third.key)
    assert await naming() == [second.key]
    await delete(store, second.key)
    assert await naming() == []


async def test_one_that_raises_leaves_no_trace(store: RecordStore) -> None:
    kept = await create(store, vae("kept", tags=["t"]), [ModelFile(path="f")])
    told: list[Collection[str]] = []
    store.log.listen(told.append)

    async def unit(records: rules.Records) -> bytes:
        await rules.create(records, vae("new", tags=["new"]), [ModelFile(path="g")], 5)
        await rules.update(records, Model(key=kept.key, name="other", tags=["u"]), None, [], 9)
        await rules.delete(records, kept.key, "", 9)
        raise Failed

    with pytest.raises(Failed):
        await store.write(unit, once(ID))
    assert await listed(store) == [kept]
    assert await store.tags("", "", 10) == [("t", 1)]
    page = await store.files(kept.key, "", 10, 1000)
    assert page is not None
    assert len(page.messages) == 1
    assert (await store.info()).revision == 1
    assert not any(told)
    # Its request id is as good as new.
    assert await store.write(answer, once(ID)) == b"answer"


async def answer(records: rules.Records) -> bytes:
    return b"answer"


async def test_those_beside_one_that_raises_go_through(store: RecordStore) -> None:
    async def fail(records: rules.Records) -> bytes:
        await rules.create(records, vae("never"), [], 5)
        raise Failed

    done = await asyncio.gather(
        *(
            store.write(fail, ANYBODY) if number % 3 == 0 else create(store, vae(f"m{number}"))
            for number in range(30)
        ),
        return_exceptions=True,
    )
    assert [isinstance(one, Failed) for one in done] == [number % 3 == 0 for number in range(30)]
    found = await listed(store)
    assert {model.name for model in found} == {f"m{number}" for number in range(30) if number % 3}
    assert sorted(model.revision for model in found) == list(range(1, 21))


async def test_units_of_work_take_turns(store: RecordStore) -> None:
    made = await create(store, vae("a", description="0"))

    async def count(records: rules.Records) -> bytes:
        model = await records.get(made.key)
        assert model is not None
        number = str(int(model.description) + 1)
        changed, _ = await rules.update(records, Model(key=made.key, description=number), None, None, 9)
        return str(changed.revision).encode()

    answers = await asyncio.gather(*(store.write(count, ANYBODY) for _ in range(40)))
    assert sorted(map(int, answers)) == list(range(2, 42))
    now = await get(store, made.key)
    assert now is not None
    assert now.description == "40"


async def test_a_request_that_comes_again_is_answered_as_before_and_not_carried_out(
    store: RecordStore,
) -> None:
    async def unit(records: rules.Records) -> bytes:
        return (await rules.create(records, vae("a"), [], 5)).SerializeToString()

    first = await store.write(unit, once(ID))
    assert await store.write(unit, once(ID)) == first
    both = await asyncio.gather(*(store.write(unit, once(ID)) for _ in range(5)))
    assert set(both) == {first}
    await delete(store, Model.FromString(first).key)
    assert await store.write(unit, once(ID)) == first
    assert await listed(store) == []


async def test_a_request_id_is_of_one_request_one_method_and_one_caller(store: RecordStore) -> None:
    runs = 0

    async def unit(records: rules.Records) -> bytes:
        nonlocal runs
        runs += 1
        return str(runs).encode()

    for who in (once(ID), once(ID, method="n"), once(ID, principal="q"), once(ID, method="n", principal="q")):
        assert await store.write(unit, who) == await store.write(unit, who)
    assert runs == 4
    with pytest.raises(RequestIdReusedException):
        await store.write(unit, once(ID, fingerprint=b"other"))
    assert runs == 4
    for nameless in (once(""), once(""), Once("", b"other", "m", "p")):
        await store.write(unit, nameless)
    assert runs == 7


async def test_a_write_whose_caller_has_gone_is_carried_through(store: RecordStore) -> None:
    leaving = [asyncio.ensure_future(create(store, vae(f"m{number}"))) for number in range(5)]
    await asyncio.sleep(0)
    for write in leaving:
        write.cancel()
    assert all(
        isinstance(one, asyncio.CancelledError)
        for one in await asyncio.gather(*leaving, return_exceptions=True)
    )
    await create(store, vae("last"))
    assert {model.name for model in await listed(store)} == {*(f"m{n}" for n in range(5)), "last"}


async def test_a_look_answers_of_one_moment_and_may_fail(store: RecordStore) -> None:
    made = await create(store, vae("a"))

    async def look(records: rules.Records) -> bytes:
        would_be, _ = await rules.update(
            records, Model(key=made.key, name="b"), None, None, 9, validate_only=True
        )
        return would_be.SerializeToString()

    assert Model.FromString(await store.look(look)).name == "b"
    assert await get(store, made.key) == made

    async def fail(records: rules.Records) -> bytes:
        raise Failed

    with pytest.raises(Failed):
        await store.look(fail)


async def test_a_change_is_found_by_its_new_values_only(store: RecordStore) -> None:
    made = await create(store, vae("old", tags=["t1"], labels={"a": "x"}, description="first words"))
    await update(
        store, made.key, name="new", base="sdxl", tags=["t2"], labels={"b": "y"}, description="second words"
    )
    old = [
        Query(name="old"),
        Query(name_folded="old"),
        Query(bases=frozenset(["sd-1"])),
        Query(tags=frozenset(["t1"])),
        Query(labels=(("a", "x"),)),
        Query(words=("first",)),
    ]
    new = [
        Query(name="new"),
        Query(name_folded="new"),
        Query(bases=frozenset(["sdxl"])),
        Query(tags=frozenset(["t2"])),
        Query(labels=(("b", "y"),)),
        Query(words=("second",)),
    ]
    assert [len(await listed(store, query)) for query in (*old, *new)] == [0] * 6 + [1] * 6
    await delete(store, made.key)
    assert [len(await listed(store, query)) for query in (*new, Query())] == [0] * 7
