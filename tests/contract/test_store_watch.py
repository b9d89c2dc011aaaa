"""The change log of every store of records: what a hub reads of it, and where a watch may go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import ResumeTokenExpiredException, ResumeTokenForeignException
from modelkeep.model.v1.model_pb2 import Model
from modelkeep_common.limits import StoreLimits
from modelkeep_common.watch import Event, Frame, Watch, WatchHub
from modelkeep_common.watch.log import LogView
from modelkeep_record.domain import rules
from modelkeep_record.domain.query import Order, Query
from modelkeep_record.stores.store import RecordStore
from support.records import vae
from support.recordstores import ANYBODY, Kind, create, delete, listed, update


@pytest.fixture
async def hub(store: RecordStore) -> AsyncIterator[WatchHub[Model]]:
    async with hub_of(store) as made:
        yield made


@contextlib.asynccontextmanager
async def hub_of(store: RecordStore) -> AsyncIterator[WatchHub[Model]]:
    made = WatchHub(store.log, parse=Model.FromString, chunk_events=3)
    yield made
    await made.drain(0.1)


def watch(hub: WatchHub[Model], store: RecordStore, token: str = "", **options: Any) -> Watch[Model]:
    return hub.watch(resume_token=token, snapshot=store.snapshot, **options)


async def following(watching: Watch[Model]) -> Frame[Model]:
    async with asyncio.timeout(20):
        return await anext(watching)


async def snapshot_of(watching: Watch[Model]) -> list[Frame[Model]]:
    frames = [await following(watching)]
    while not frames[-1].snapshot_complete:
        frames.append(await following(watching))
    return frames


async def events(watching: Watch[Model], count: int) -> list[Event[Model]]:
    found: list[Event[Model]] = []
    while len(found) < count:
        found += (await following(watching)).events
    return found


async def token_of(store: RecordStore) -> str:
    return (await store.page(Query(), Order.NAME, False, [], 1, 1000)).resume_token


async def test_a_watch_begins_with_every_record_and_goes_on_with_every_change(
    store: RecordStore, hub: WatchHub[Model]
) -> None:
    made = [await create(store, vae(f"m{number}")) for number in range(7)]
    watching = watch(hub, store)
    frames = await snapshot_of(watching)
    assert [len(frame.events) for frame in frames] == [3, 3, 1]
    assert [event.put for frame in frames for event in frame.events] == sorted(made, key=lambda m: m.key)
    new = await create(store, vae("new"))
    changed = await update(store, new.key, name="newer")
    gone = await delete(store, made[0].key)
    assert await events(watching, 3) == [
        Event(8, new.key, put=new),
        Event(9, new.key, put=changed),
        Event(gone, made[0].key, removed=True),
    ]


async def test_a_watch_goes_on_from_a_list_and_from_every_frame(
    store: RecordStore, hub: WatchHub[Model]
) -> None:
    first = await create(store, vae("a"))
    listed_at = await token_of(store)
    second = await create(store, vae("b"))
    third = await create(store, vae("c"))
    assert [event.put for event in await events(watch(hub, store, listed_at), 2)] == [second, third]
    (whole,) = await snapshot_of(watch(hub, store))
    await delete(store, first.key)
    (event,) = await events(watch(hub, store, whole.resume_token), 1)
    assert (event.resource_id, event.removed) == (first.key, True)


async def test_what_was_sent_of_an_interrupted_snapshot_is_not_sent_again_unless_it_changed(
    store: RecordStore, hub: WatchHub[Model]
) -> None:
    made = sorted(
        [await create(store, vae(f"m{number}")) for number in range(7)], key=lambda model: model.key
    )
    first = await following(watch(hub, store))
    assert [event.put for event in first.events] == made[:3]
    changed = await update(store, made[0].key, name="changed")
    await delete(store, made[1].key)
    rest = await snapshot_of(watch(hub, store, first.resume_token))
    assert [event for frame in rest for event in frame.events] == [
        Event(0, made[0].key, put=changed),
        Event(0, made[1].key, removed=True),
        *(Event(0, model.key, put=model) for model in made[3:]),
    ]


async def test_a_filter_sees_what_enters_and_what_leaves(store: RecordStore, hub: WatchHub[Model]) -> None:
    inside = await create(store, vae("in", tags=["t"]))
    outside = await create(store, vae("out"))
    watching = watch(hub, store, matches=Query(tags=frozenset(["t"])).matches)
    assert [[event.put for event in frame.events] for frame in await snapshot_of(watching)] == [[inside]]
    await update(store, outside.key, name="still out")
    entered = await update(store, outside.key, tags=["t"])
    left = await update(store, inside.key, tags=["u"])
    await update(store, inside.key, name="farther out")
    gone = await delete(store, outside.key)
    assert await events(watching, 3) == [
        Event(entered.revision, outside.key, put=entered),
        Event(left.revision, inside.key, removed=True),
        Event(gone, outside.key, removed=True),
    ]


async def test_a_unit_of_work_is_told_whole_after_it_was_stored_and_not_if_it_raises(
    store: RecordStore, hub: WatchHub[Model]
) -> None:
    told: list[Collection[str]] = []
    store.log.listen(told.append)
    watching = watch(hub, store, skip_snapshot=True)
    await following(watching)

    async def unit(records: rules.Records) -> bytes:
        for name in "abc":
            await rules.create(records, vae(name), [], 5)
        assert not any(told)
        return b""

    async def fail(records: rules.Records) -> bytes:
        await unit(records)
        raise LookupError

    with pytest.raises(LookupError):
        await store.write(fail, ANYBODY)
    await store.write(unit, ANYBODY)
    keys = [model.key for model in await listed(store)]
    assert sorted(key for ids in told for key in ids) == sorted(keys)
    frame = await following(watching)
    assert [event.resource_id for event in frame.events] == keys
    assert [event.revision for event in frame.events] == [1, 2, 3]


async def test_a_snapshot_is_of_one_moment_while_others_write(store: RecordStore) -> None:
    made = [await create(store, vae(f"m{number}", description="0")) for number in range(20)]

    async def write(rounds: int) -> None:
        for number in range(1, rounds + 1):

            async def unit(records: rules.Records, text: str = str(number)) -> bytes:
                for model in made:
                    await rules.update(records, Model(key=model.key, description=text), None, None, 9)
                return b""

            await store.write(unit, ANYBODY)

    async def read(view: LogView) -> tuple[int, set[str], int, list[int]]:
        before = await view.revision()
        models = [model async for _, model in store.snapshot(view.source)]
        changes = [row.revision async for row in view.changes(0)]
        assert await view.revision() == before
        return before, {model.description for model in models}, max(m.revision for m in models), changes

    writing = asyncio.ensure_future(write(15))
    while not writing.done():
        await asyncio.sleep(0)  # some stores answer without ever waiting
        for reading in (store.log.read, store.log.read_all):
            revision, texts, latest, changes = await reading(read)
            assert len(texts) == 1
            assert latest == revision == changes[-1]
            assert changes == list(range(1, revision + 1))
    await writing


async def test_the_log_has_each_change_with_what_was_before_it(store: RecordStore) -> None:
    made = await create(store, vae("a"))
    changed = await update(store, made.key, name="b")
    await delete(store, made.key)

    async def read(view: LogView) -> tuple[list[tuple[Any, ...]], int, int]:
        return [tuple(row) async for row in view.changes(0)], await view.revision(), await view.floor()

    (rows, revision, floor) = await store.log.read(read)
    parsed = [
        (number, key, *(None if one is None else Model.FromString(one) for one in (payload, previous)))
        for number, key, payload, previous in rows
    ]
    assert parsed == [
        (1, made.key, made, None),
        (2, made.key, changed, made),
        (3, made.key, None, changed),
    ]
    assert (revision, floor) == (3, 0)


async def test_a_reader_of_the_log_that_fails_harms_nobody(store: RecordStore) -> None:
    async def fail(view: LogView) -> None:
        async for _ in view.changes(0):
            raise LookupError

    await create(store, vae("a"))
    for reading in (store.log.read, store.log.read_all):
        with pytest.raises(LookupError):
            await reading(fail)
    await create(store, vae("b"))
    assert await store.log.read(lambda view: view.revision()) == 2


async def test_a_token_of_another_store_or_of_nothing_is_foreign(
    store: RecordStore, hub: WatchHub[Model], kind: Kind, data_dir: Path
) -> None:
    (data_dir / "other").mkdir()
    other = await kind.open(data_dir / "other", StoreLimits())
    for token in (await token_of(other), "nonsense", (await token_of(store))[:-2]):
        with pytest.raises(ResumeTokenForeignException):
            await following(watch(hub, store, token))
    await other.close()


async def test_a_token_older_than_the_history_is_expired(kind: Kind, data_dir: Path) -> None:
    store = await kind.open(data_dir, StoreLimits(history_bytes=50_000))
    made = await create(store, vae("a"))
    old = await token_of(store)
    for number in range(20):
        await update(store, made.key, description=f"{number}" + "x" * 10_000)
    late = await token_of(store)
    changed = await update(store, made.key, name="b")
    async with hub_of(store) as hub:
        with pytest.raises(ResumeTokenExpiredException):
            await following(watch(hub, store, old))
        assert [event.put for event in await events(watch(hub, store, late), 1)] == [changed]
    assert 10 < (await store.info()).oldest_revision <= 21
    await store.close()


async def test_what_a_store_keeps_is_there_when_it_is_opened_again(kind: Kind, data_dir: Path) -> None:
    store = await kind.open(data_dir, StoreLimits())
    made = await create(store, vae("a", tags=["t"]))
    token, id_ = await token_of(store), store.store_id
    await store.close()
    again = await kind.open(data_dir, StoreLimits())
    assert await listed(again, Query(tags=frozenset(["t"]))) == ([made] if kind.keeps_records else [])
    assert (again.store_id == id_) == kind.keeps_history
    new = await create(again, vae("b"))
    async with hub_of(again) as hub:
        watching = watch(hub, again, token)
        if kind.keeps_history:
            assert [event.put for event in await events(watching, 1)] == [new]
        else:
            with pytest.raises(ResumeTokenForeignException):
                await following(watching)
    await again.close()
