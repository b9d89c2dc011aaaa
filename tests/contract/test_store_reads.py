"""What every store of records answers: by key, by name, files, tags, counts."""

from __future__ import annotations

import asyncio
import time
import uuid

import pytest

from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep.model.v1.taxonomy_pb2 import MODEL_TYPE_LORA, MODEL_TYPE_VAE
from modelkeep_record.stores.store import RecordStore
from support.records import vae
from support.recordstores import Kind, create, delete, get, mark_missing, update

NOBODY = "f" * 32


async def test_a_store_says_what_it_is(store: RecordStore, kind: Kind) -> None:
    assert store.backend == kind.name
    assert (await store.info()).store_id == store.store_id == str(uuid.UUID(store.store_id))
    assert store.log.collection == "models"


async def test_a_record_is_read_as_it_was_stored(store: RecordStore) -> None:
    model = vae("a", tags=["x", "y"], labels={"k": "v"}, description="d", vae={"scaling_factor": 0.5})
    model.MergeFromString(b"\xc2\xbb\x01\x03new")  # a field of a newer version
    made = await create(store, model)
    message = await store.get(made.key)
    assert message is not None
    assert b"\xc2\xbb\x01\x03new" in message
    assert Model.FromString(message) == made
    assert await store.get(NOBODY) is None
    assert await store.get("") is None


async def test_many_are_read_at_once_and_those_that_are_not_there_are_left_out(store: RecordStore) -> None:
    made = [await create(store, vae(f"m{number}")) for number in range(30)]
    keys = [model.key for model in made]
    found = await store.get_many([*keys[::-1], NOBODY, keys[0]])
    assert {key: Model.FromString(message) for key, message in found.items()} == dict(
        zip(keys, made, strict=True)
    )
    assert await store.get_many([]) == await store.get_many([NOBODY]) == {}
    answers = await asyncio.gather(*(store.get(key) for key in (*keys, NOBODY, *keys)))
    assert answers == [*(found[key] for key in keys), None, *(found[key] for key in keys)]


async def test_a_name_base_and_type_are_compared_exactly(store: RecordStore) -> None:
    one = await create(store, vae("Name", compatible_bases=["sd-2"]))
    await create(store, vae("twice", path="/1"))
    await create(store, vae("twice", path="/2"))
    count, message = await store.find("Name", "sd-1", MODEL_TYPE_VAE)
    assert (count, Model.FromString(message)) == (1, one)
    count, message = await store.find("twice", "sd-1", MODEL_TYPE_VAE)
    assert (count, Model.FromString(message).name) == (2, "twice")
    for name, base, type_ in [
        ("name", "sd-1", MODEL_TYPE_VAE),
        ("Name", "sd-2", MODEL_TYPE_VAE),
        ("Name", "sd-1", MODEL_TYPE_LORA),
        ("Na", "sd-1", MODEL_TYPE_VAE),
    ]:
        assert await store.find(name, base, type_) == (0, b"")


async def test_files_come_by_path_in_pages_of_so_many_and_so_many_bytes(store: RecordStore) -> None:
    files = [ModelFile(path=path, size_bytes=size, sha256="ab" * 32) for size, path in enumerate("dbéca")]
    made = await create(store, vae(), files)
    other = await create(store, vae("other"), [ModelFile(path="z")])
    in_order = sorted(files, key=lambda file: file.path)
    page = await store.files(made.key, "", 1000, 1 << 20)
    assert page is not None
    assert ([ModelFile.FromString(message) for message in page.messages], page.position) == (in_order, [])
    for limit, max_bytes in ((2, 1 << 20), (1000, 1), (1, 1 << 20)):
        found: list[ModelFile] = []
        after = ""
        while True:
            page = await store.files(made.key, after, limit, max_bytes)
            assert page is not None
            assert len(page.messages) == min(limit if max_bytes > 1 else 1, len(files) - len(found))
            found += map(ModelFile.FromString, page.messages)
            if not page.position:
                break
            (after,) = map(str, page.position)
        assert found == in_order
    past = await store.files(other.key, "z", 10, 1 << 20)
    assert past is not None
    assert (past.messages, past.position) == ([], [])
    assert await store.files(NOBODY, "", 10, 1 << 20) is None


async def test_files_go_with_their_record_and_stay_when_an_update_does_not_name_them(
    store: RecordStore,
) -> None:
    made = await create(store, vae(), [ModelFile(path="a", size_bytes=1)])

    async def paths() -> list[str] | None:
        page = await store.files(made.key, "", 10, 1 << 20)
        return None if page is None else [ModelFile.FromString(message).path for message in page.messages]

    await update(store, made.key, description="d")
    assert await paths() == ["a"]
    changed = await update(store, made.key, files=[ModelFile(path="b", size_bytes=5), ModelFile(path="c")])
    assert (await paths(), changed.size_bytes) == (["b", "c"], 5)
    await update(store, made.key, files=[])
    assert await paths() == []
    await delete(store, made.key)
    assert await paths() is None


async def test_tags_are_counted_by_records_and_follow_every_change(store: RecordStore) -> None:
    first = await create(store, vae("a", tags=["x", "y", "Größe"]))
    await create(store, vae("b", tags=["x", "xa", "x\U0010ffffz"]))
    last = "x\U0010ffffz"
    assert await store.tags("", "", 10) == [("Größe", 1), ("x", 2), ("xa", 1), (last, 1), ("y", 1)]
    assert await store.tags("x", "", 10) == [("x", 2), ("xa", 1), (last, 1)]
    assert await store.tags("x", "x", 1) == [("xa", 1)]
    assert await store.tags("", last, 10) == [("y", 1)]
    assert await store.tags("nothing", "", 10) == []
    await update(store, first.key, tags=["z"])
    assert await store.tags("", "xa", 10) == [(last, 1), ("z", 1)]
    await delete(store, first.key)
    assert await store.tags("", "", 10) == [("x", 1), ("xa", 1), (last, 1)]


async def test_what_there_is_is_counted_by_kind(store: RecordStore) -> None:
    empty = await store.info()
    assert (empty.revision, empty.oldest_revision, empty.kinds, empty.missing) == (0, 0, {}, 0)
    assert abs(empty.create_time - time.time()) < 60
    first = await create(store, vae("a"), [ModelFile(path="a", size_bytes=1)])
    huge = 1 << 62
    for name in "bcd":
        await create(store, vae(name, size_bytes=huge))
    lora = vae("e", type=MODEL_TYPE_LORA, format="MODEL_FORMAT_LYCORIS", base="sdxl", size_bytes=7)
    made = await create(store, lora)
    info = await store.info()
    assert info.kinds == {
        (first.type, first.format, "sd-1"): (4, first.size_bytes + 3 * huge),
        (made.type, made.format, "sdxl"): (1, 7),
    }
    assert info.revision == 5
    await mark_missing(store, first.key)
    assert (await store.info()).missing == 1
    await mark_missing(store, first.key, missing=False)
    assert (await store.info()).missing == 0
    await delete(store, made.key)
    after = await store.info()
    assert (len(after.kinds), after.revision) == (1, 8)


async def test_a_record_of_the_largest_size_is_kept_whole(store: RecordStore) -> None:
    made = await create(store, vae(description="x" * ((1 << 20) - 500)))
    assert await get(store, made.key) == made


@pytest.mark.parametrize(
    "text", ["", "a\nb", "tab\t", "'; DROP TABLE models; --", "\u202e", "é́", "𝔘", "{}[]:,#&*!|>%@`"]
)
async def test_any_text_comes_back_as_it_was(store: RecordStore, text: str) -> None:
    made = await create(
        store,
        vae(f"n{text}", description=text, tags=[f"t{text}"], labels={"k": text}, path=f"/p{text}"),
        [ModelFile(path=f"f{text}")],
    )
    assert await get(store, made.key) == made
    assert (made.description, made.labels["k"]) == (text, text)
    page = await store.files(made.key, "", 1, 1000)
    assert page is not None
    assert ModelFile.FromString(page.messages[0]).path == f"f{text}"
    assert await store.tags(f"t{text}", "", 1) == [(f"t{text}", 1)]
