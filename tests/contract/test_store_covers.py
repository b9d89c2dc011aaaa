"""What every store of records does with the pictures that stand for models."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.model.v1.model_pb2 import Model
from modelkeep_common.limits import StoreLimits
from modelkeep_record.domain import rules
from modelkeep_record.domain.covers import Cover
from modelkeep_record.stores.store import RecordStore
from support.pictures import GIF, JPEG, png
from support.records import vae
from support.recordstores import ANYBODY, Kind, create, delete, get


class Failed(Exception):
    """What a unit of work of these tests raises."""


async def set_cover(store: RecordStore, key: str, image: bytes, *, fails: bool = False) -> Model:
    cover = Cover.of(image) if image else None

    async def unit(records: rules.Records) -> bytes:
        model = await rules.set_cover(records, key, "", cover, 9.0)
        assert await records.cover(key) == cover
        if fails:
            raise Failed
        return model.SerializeToString()

    return Model.FromString(await store.write(unit, ANYBODY, grows=True))


async def test_a_picture_is_kept_replaced_and_taken_away(store: RecordStore) -> None:
    made = await create(store, vae("a"))
    assert await store.cover(made.key) is None
    for image in (png(), JPEG, png(1)):
        told = await set_cover(store, made.key, image)
        assert await store.cover(made.key) == Cover.of(image)
        assert await get(store, made.key) == told
        assert told.cover_image == Cover.of(image).facts
    await set_cover(store, made.key, b"")
    assert await store.cover(made.key) is None
    assert await store.cover("f" * 32) is None


async def test_a_picture_that_two_have_stays_with_one_when_the_other_goes(store: RecordStore) -> None:
    keys = [(await create(store, vae(name))).key for name in "abc"]
    for key in keys:
        await set_cover(store, key, GIF)
    await delete(store, keys[0])
    await set_cover(store, keys[1], b"")
    assert [await store.cover(key) for key in keys] == [None, None, Cover.of(GIF)]


async def test_a_unit_that_fails_leaves_the_picture_as_it_was(store: RecordStore) -> None:
    key = (await create(store, vae("a"))).key
    with pytest.raises(Failed):
        await set_cover(store, key, png(), fails=True)
    assert await store.cover(key) is None
    await set_cover(store, key, png())
    for image in (JPEG, b""):
        with pytest.raises(Failed):
            await set_cover(store, key, image, fails=True)
        assert await store.cover(key) == Cover.of(png())


async def test_a_record_that_comes_again_has_no_picture_of_the_one_that_went(store: RecordStore) -> None:
    made = await create(store, vae("a"))
    await set_cover(store, made.key, png())
    await delete(store, made.key)
    again = await create(store, vae("a", key=made.key))
    assert not again.HasField("cover_image")
    assert await store.cover(made.key) is None


async def test_pictures_are_there_again_with_their_records(kind: Kind, data_dir: Path) -> None:
    store = await kind.open(data_dir, StoreLimits())
    made = await create(store, vae("a"))
    await set_cover(store, made.key, png())
    await store.close()
    again = await kind.open(data_dir, StoreLimits())
    assert await again.cover(made.key) == (Cover.of(png()) if kind.keeps_records else None)
    await again.close()
