"""What every store of records finds: each filter, each order both ways, in pages of any size."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import pytest

from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep.model.v1.taxonomy_pb2 import MODEL_FORMAT_CHECKPOINT, MODEL_FORMAT_DIFFUSERS, MODEL_TYPE_MAIN
from modelkeep_record.domain.query import Bounds, Order, Query, folded, split_words
from modelkeep_record.stores.store import RecordStore
from support.records import vae
from support.recordstores import create, get, listed, mark_missing
from support.slowstore import Stored, matches, sort_key

SHA, BLAKE = "ab" * 32, "cd" * 32
KEYS = {name: f"{number:x}" * 32 for number, name in enumerate(["a", "b", "c", "d", "e"], start=10)}


async def shelve(store: RecordStore) -> None:
    """Five records, called by the first letter of their keys."""
    await create(
        store,
        vae(
            "Größe",
            key=KEYS["a"],
            tags=["t1", "t2"],
            labels={"team": "x", "stage": "1"},
            compatible_bases=["sd-2"],
            size_bytes=30,
            source="org/alpha",
            original_hash="h1",
            current_hash="h2",
            description="Blurry Ünïcode 100% décor",
            trigger_phrases=["magic word"],
        ),
        now=1,
    )
    await create(
        store, vae("grösse", key=KEYS["b"], base="sdxl", tags=["t1"], size_bytes=10, path="/m/b"), now=2
    )
    await create(
        store,
        vae(
            "gamma", key=KEYS["c"], base="any", size_bytes=20, path="in/c", root_id="r1", labels={"team": "x"}
        ),
        [ModelFile(path="unet/w.bin", sha256=SHA), ModelFile(path="c", blake3=BLAKE)],
        now=3,
    )
    main = {"type": MODEL_TYPE_MAIN, "format": MODEL_FORMAT_CHECKPOINT}
    await create(
        store,
        vae("delta", key=KEYS["d"], size_bytes=40, path="in/d.ckpt", root_id="r2", **main),
        [ModelFile(path="d.ckpt", sha256=SHA)],
        now=4,
    )
    related = vae("Größe", key=KEYS["e"], path="/second", base="flux", size_bytes=30)
    related.related_keys.append(KEYS["d"])
    await create(store, related, now=4)
    await mark_missing(store, KEYS["e"])


def some(*values: Any) -> frozenset[Any]:
    return frozenset(values)


#: What is asked, and the records that are found.
CASES: list[tuple[dict[str, Any], str]] = [
    ({}, "abcde"),
    ({"name": "Größe"}, "ae"),
    ({"name": "größe"}, ""),
    ({"name_folded": folded("GRÖSSE")}, "abe"),
    ({"bases": some("sd-2")}, "ac"),
    ({"bases": some("sdxl", "flux")}, "bce"),
    ({"bases": some("any")}, "c"),
    ({"types": some(MODEL_TYPE_MAIN)}, "d"),
    ({"formats": some(MODEL_FORMAT_DIFFUSERS, 99)}, "abce"),
    ({"tags": some("t1")}, "ab"),
    ({"tags": some("t1", "t2")}, "a"),
    ({"tags": some("t")}, ""),
    ({"labels": (("team", "x"),)}, "ac"),
    ({"labels": (("stage", "1"), ("team", "x"))}, "a"),
    ({"labels": (("team", "1"),)}, ""),
    ({"paths": some("/m/b", "in/c", "in/d.ckpt")}, "bcd"),
    ({"paths": some("/m/b", "in/c", "in/d.ckpt"), "root_id": "r1"}, "bc"),
    ({"root_id": "r2"}, "d"),
    ({"hash": "h1"}, "a"),
    ({"hash": "h2"}, "a"),
    ({"hash": SHA}, "cd"),
    ({"hash": BLAKE}, "c"),
    ({"hash": "h3"}, ""),
    ({"source": "org/alpha"}, "a"),
    ({"source": "org"}, ""),
    ({"keys": some(KEYS["b"], KEYS["d"], "f" * 32)}, "bd"),
    ({"key_prefix": "cccc"}, "c"),
    ({"key_prefix": KEYS["a"]}, "a"),
    ({"related_to": KEYS["d"]}, "e"),
    ({"related_to": KEYS["e"]}, "d"),
    ({"related_to": KEYS["a"]}, ""),
    ({"missing": True}, "e"),
    ({"missing": False}, "abcd"),
    ({"size_bytes": Bounds(20, 30)}, "ace"),
    ({"size_bytes": Bounds(most=10)}, "b"),
    ({"create_time_us": Bounds(2_000_000, 3_000_000)}, "bc"),
    ({"update_time_us": Bounds(least=4_000_000)}, "de"),
    ({"update_time_us": Bounds(least=4_000_001)}, ""),
    ({"files": some("in/c/unet/w.bin"), "root_id": "r1"}, "c"),
    ({"files": some("in/c/unet/w.bin"), "root_id": "r2"}, ""),
    ({"files": some("in/d.ckpt", "/nowhere"), "root_id": "r2"}, "d"),
    ({"files": some("in/c/unet")}, ""),
    ({"words": split_words("GRÖSSE")}, "abe"),
    ({"words": split_words("magic WORD")}, "a"),
    ({"words": split_words("rösse ünïcode")}, "a"),
    ({"words": split_words("0% dé")}, "a"),
    ({"words": split_words("lta")}, "d"),
    ({"words": split_words("d")}, "ade"),
    ({"words": split_words('"grösse"')}, ""),
    ({"words": split_words("org/alpha")}, "a"),
    ({"words": split_words("t2")}, "a"),
    ({"words": split_words("magic nothing")}, ""),
    ({"name": "Größe", "bases": some("flux"), "missing": True}, "e"),
    ({"tags": some("t1"), "words": split_words("grösse"), "size_bytes": Bounds(most=10)}, "b"),
    ({"bases": some("sd-1"), "types": some(MODEL_TYPE_MAIN), "root_id": "r1"}, ""),
]


def found(models: Sequence[Model]) -> str:
    return "".join(sorted(model.key[0] for model in models))


async def test_each_filter_lets_through_what_it_says_and_together_they_all_hold(store: RecordStore) -> None:
    assert {name for asked, _ in CASES for name in asked} == {f.name for f in dataclasses.fields(Query)}
    await shelve(store)
    answers = [(asked, found(await listed(store, Query(**asked)))) for asked, _ in CASES]
    assert answers == CASES


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("descending", [False, True], ids=["ascending", "descending"])
async def test_pages_of_any_size_are_the_whole_list_in_order(
    store: RecordStore, order: Order, descending: bool
) -> None:
    await shelve(store)
    whole = await listed(store, order=order, descending=descending)
    assert whole == sorted(whole, key=lambda model: sort_key(model, order), reverse=descending)
    assert len(whole) == 5
    for size in range(1, 6):
        assert await listed(store, order=order, descending=descending, size=size) == whole


async def test_a_page_is_cut_by_bytes_and_never_empty(store: RecordStore) -> None:
    made = [await create(store, vae(f"m{number}", description="x" * 1000)) for number in range(5)]
    for max_bytes, expected in ((1, 1), (2300, 2), (1 << 20, 5)):
        page = await store.page(Query(), Order.NAME, False, [], 1000, max_bytes)
        assert [Model.FromString(message) for message in page.messages] == made[:expected]
        assert bool(page.position) == (expected < 5)
    past = await store.page(Query(), Order.NAME, False, ["z", ""], 10, 1000)
    assert (past.messages, past.position) == ([], [])


async def test_a_position_is_found_again_when_its_record_has_gone(store: RecordStore) -> None:
    for name in "ac":
        await create(store, vae(name))
    page = await store.page(Query(), Order.NAME, False, ["b", "f" * 32], 10, 1000)
    assert [Model.FromString(message).name for message in page.messages] == ["c"]
    page = await store.page(Query(), Order.NAME, True, ["b", "f" * 32], 10, 1000)
    assert [Model.FromString(message).name for message in page.messages] == ["a"]


#: Among them what a search may stumble over: operators of FTS5, wild cards, case that changes lengths, NUL.
WORDS = [
    *("Red", "redder", "blüe", "GREEN", "a", 'qu"ote', "x%y", "ınk", "ab_c"),
    *("Straße", "İstanbul", "ﬁne", "Σ", "日本語", "😀abc", "e\u0301", "N\0L", "tab\tx", "line\nbreak"),
    *("*", "^a", "NEAR(", "AND", "o'k", "\\", "a:b", "-"),
]
BASES = ["sd-1", "sd-2", "any", "flux"]
HASHES = ["", "h1", "h2"]
FILES = ["b", "b/c.safetensors", "c.safetensors"]


def any_record(dice: random.Random, number: int) -> tuple[Model, list[ModelFile]]:
    inside = dice.random() < 0.5
    files = [
        ModelFile(path=path, sha256=dice.choice(HASHES), blake3=dice.choice(HASHES))
        for path in sorted(dice.sample(FILES, dice.randrange(3)))
    ]
    model = vae(
        dice.choice(WORDS),
        path=f"{'in' if inside else '/out'}/{number}{dice.choice(['', '/b', '/c.safetensors'])}",
        root_id=dice.choice(["r1", "r2"]) if inside else "",
        format=dice.choice([MODEL_FORMAT_CHECKPOINT, MODEL_FORMAT_DIFFUSERS]),
        base=dice.choice(BASES),
        compatible_bases=dice.sample(BASES, dice.randrange(3)),
        tags=dice.sample(WORDS, dice.randrange(3)),
        trigger_phrases=dice.sample(WORDS, dice.randrange(2)),
        labels={key: dice.choice("xy") for key in dice.sample("ab", dice.randrange(3))},
        size_bytes=dice.randrange(4),
        original_hash=dice.choice(HASHES),
        source=dice.choice(["", "s1"]),
        description=" ".join(dice.sample(WORDS, dice.randrange(4))),
    )
    return model, files


def any_query(dice: random.Random, known: Sequence[Stored]) -> Query:
    one = dice.choice(known).model
    said = dice.choice([*WORDS, one.description or "e", one.path, one.name.upper()])
    start = dice.randrange(len(said))
    text = dice.choice(["re e", "ü", "D", "n", "%", "_ e", '"', said, said[start : start + 4]])
    asked: dict[str, Any] = {
        "name": dice.choice(WORDS),
        "name_folded": folded(dice.choice(WORDS)),
        "types": frozenset({dice.choice([one.type, MODEL_TYPE_MAIN])}),
        "formats": frozenset({one.format}),
        "bases": frozenset(dice.sample(BASES, 2)),
        "tags": frozenset(dice.sample(WORDS, 1)),
        "labels": tuple(sorted({key: dice.choice("xy") for key in dice.sample("ab", 1)}.items())),
        "paths": frozenset({one.path, "/nowhere"}),
        "files": frozenset(f"{one.path}{below}" for below in ("", "/b", "/b/c.safetensors")),
        "root_id": "r1",
        "hash": dice.choice(HASHES[1:]),
        "source": "s1",
        "keys": frozenset({one.key, "f" * 32}),
        "key_prefix": dice.choice("0123456789abcdef"),
        "related_to": dice.choice(list(one.related_keys) or [one.key]),
        "missing": dice.random() < 0.5,
        "size_bytes": Bounds(1, dice.choice([None, 2])),
        "create_time_us": Bounds(dice.choice([None, 20_000_000]), 40_000_000),
        "update_time_us": Bounds(dice.choice([None, 20_000_000]), 40_000_000),
        "words": split_words(text),
    }
    names = sorted(asked) + ["words"] * 5
    return Query(**{name: asked[name] for name in dice.sample(names, dice.randrange(1, 4))})


async def any_records(store: RecordStore, dice: random.Random) -> list[Stored]:
    """Sixty records; some are related, and the files of some are gone."""
    keys: list[str] = []
    listed_files: dict[str, list[ModelFile]] = {}
    for number in range(60):
        model, files = any_record(dice, number)
        model.related_keys[:] = sorted(dice.sample(keys, min(len(keys), dice.randrange(2))))
        keys.append((await create(store, model, files, now=number)).key)
        listed_files[keys[-1]] = files
        if dice.random() < 0.3:
            await mark_missing(store, keys[-1], now=number)
    models = [await get(store, key) for key in keys]
    return [
        Stored(
            model.SerializeToString(),
            {file.path: file.SerializeToString() for file in listed_files[model.key]},
        )
        for model in models
        if model is not None
    ]


async def test_any_list_is_the_one_that_the_rules_make(store: RecordStore) -> None:
    dice = random.Random(12)
    stored = await any_records(store, dice)
    some_found = 0
    for _ in range(300):
        query, order, descending = any_query(dice, stored), dice.choice(list(Order)), dice.random() < 0.5
        expected = sorted(
            (one.model for one in stored if matches(query, one)),
            key=lambda model: sort_key(model, order),
            reverse=descending,
        )
        size = dice.randrange(1, 20)
        assert await listed(store, query, order, descending, size=size) == expected, query
        some_found += bool(expected)
    assert some_found > 100
