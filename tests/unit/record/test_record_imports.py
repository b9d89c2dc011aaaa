"""The rules of imports by themselves: no database, no server."""

from __future__ import annotations

from typing import Any

import pytest

from modelkeep.exceptions import (
    DuplicateModelException,
    DuplicatePathException,
    FieldInvalidException,
    FieldViolation,
    UnknownModelException,
)
from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep.record.v1 import exports_pb2 as pb
from modelkeep_record.domain import rules
from modelkeep_record.domain.imports import MAX_FILES, Entry, Rehearsal, import_models
from support.recordshelf import Shelf

KEY, OTHER = "a" * 32, "b" * 32
SKIP, REPLACE, FAIL = pb.IMPORT_CONFLICT_SKIP, pb.IMPORT_CONFLICT_REPLACE, pb.IMPORT_CONFLICT_FAIL
NOW = 100.0


def vae(key: str = KEY, *files: ModelFile, more: dict[str, Any] | None = None, **fields: Any) -> Entry:
    values: dict[str, Any] = {
        "key": key,
        "name": "v",
        "type": "MODEL_TYPE_VAE",
        "format": "MODEL_FORMAT_DIFFUSERS",
        "base": "sd-1",
        "path": f"/{key[:2]}",
        "create_time": {"seconds": 5},
        "update_time": {"seconds": 6},
    }
    return Entry(pb.ExportedModel(model=Model(**(values | fields)), files=files, **(more or {})))


def a_file(path: str = "a.safetensors", size: int = 1) -> ModelFile:
    return ModelFile(path=path, size_bytes=size)


async def outcomes(records: rules.Records, conflict: pb.ImportConflict, *entries: Entry) -> list[str]:
    """What becomes of each, with the reason."""
    results = await import_models(records, entries, conflict, NOW)
    names = [pb.ImportOutcome.Name(result.outcome).removeprefix("IMPORT_OUTCOME_") for result in results]
    return [
        " ".join(filter(None, (name, result.reason))) for name, result in zip(names, results, strict=True)
    ]


async def test_a_record_keeps_its_key_hashes_files_and_times_and_gets_its_own_etag_and_revision() -> None:
    shelf = Shelf()
    shelf.revision = 40
    entry = vae(
        KEY,
        a_file(),
        etag='"theirs"',
        revision=7,
        original_hash="h",
        missing_time={"seconds": 9},
        size_bytes=1,
    )
    assert await outcomes(shelf, FAIL, entry) == ["CREATED"]
    stored = shelf.models[KEY]
    assert (stored.revision, stored.original_hash, stored.size_bytes) == (41, "h", 1)
    assert [time.seconds for time in (stored.create_time, stored.update_time, stored.missing_time)] == [
        5,
        6,
        9,
    ]
    assert stored.etag not in ("", '"theirs"')
    assert stored.WhichOneof("config") == "vae"
    assert shelf.listed[KEY] == [a_file()]
    assert entry.exported.model.etag == '"theirs"'  # a unit of work may be run again


@pytest.mark.parametrize("conflict", [SKIP, REPLACE, FAIL])
async def test_the_same_again_changes_nothing(conflict: pb.ImportConflict) -> None:
    shelf = Shelf()
    entries = [vae(KEY, a_file("b"), a_file("a")), vae(OTHER)]
    await outcomes(shelf, conflict, *entries)
    shelf.models[KEY].missing_time.FromSeconds(77)  # what is seen of the disk is no other record
    before = shelf.models[KEY].SerializeToString()
    assert await outcomes(shelf, conflict, *entries) == ["UNCHANGED", "UNCHANGED"]
    assert (shelf.models[KEY].SerializeToString(), shelf.revision) == (before, 2)


async def test_a_record_without_times_is_of_now_and_equal_to_itself() -> None:
    shelf = Shelf()
    entry = vae(create_time=None, update_time=None)
    assert await outcomes(shelf, FAIL, entry) == ["CREATED"]
    assert shelf.models[KEY].create_time.seconds == shelf.models[KEY].update_time.seconds == NOW
    assert (await import_models(shelf, [entry], FAIL, 200.0))[0].outcome == pb.IMPORT_OUTCOME_UNCHANGED
    await import_models(shelf, [vae(name="w", create_time=None, update_time=None)], REPLACE, 300.0)
    stored = shelf.models[KEY]
    assert (stored.name, stored.create_time.seconds, stored.update_time.seconds) == ("w", 100, 300)


async def test_what_is_there_stays_is_replaced_or_makes_the_import_fail() -> None:
    shelf = Shelf()
    await outcomes(shelf, FAIL, vae(KEY, a_file()))
    other = vae(KEY, a_file("b"), name="w", update_time={"seconds": 60})
    assert await outcomes(shelf, SKIP, other) == ["SKIPPED DUPLICATE_MODEL"]
    with pytest.raises(DuplicateModelException, match=KEY):
        await outcomes(shelf, FAIL, other)
    assert shelf.models[KEY].name == "v"
    assert await outcomes(shelf, REPLACE, other) == ["REPLACED"]
    assert (shelf.models[KEY].name, shelf.models[KEY].update_time.seconds) == ("w", 60)
    assert shelf.listed[KEY] == [a_file("b")]
    assert await outcomes(shelf, SKIP, vae(KEY, name="w", update_time={"seconds": 60})) == [
        "SKIPPED DUPLICATE_MODEL"
    ], "other files are another state"


async def test_a_path_that_another_record_has_is_never_taken_from_it() -> None:
    shelf = Shelf()
    await outcomes(shelf, FAIL, vae(KEY, path="/p"))
    for conflict, expected in ((SKIP, "SKIPPED"), (REPLACE, "REFUSED")):
        assert await outcomes(shelf, conflict, vae(OTHER, path="/p")) == [f"{expected} DUPLICATE_PATH"]
    with pytest.raises(DuplicatePathException, match="/p"):
        await outcomes(shelf, FAIL, vae(OTHER, path="/p"))
    await outcomes(shelf, FAIL, vae(OTHER, path="/q"))
    assert await outcomes(shelf, REPLACE, vae(OTHER, path="/p")) == ["REFUSED DUPLICATE_PATH"]
    assert shelf.models[OTHER].path == "/q"


async def test_what_cannot_be_stored_keeps_no_other_back() -> None:
    bad = [
        vae("", name="without a key"),
        vae("c" * 32, name=""),
        vae("d" * 32, a_file("../up")),
        Entry(vae("e" * 32).exported, [FieldViolation("model.base", "must be in lower case")]),
        vae("f" * 32, lora={"rank": 4}),
    ]
    shelf = Shelf()
    found = await outcomes(shelf, SKIP, *bad, vae())
    assert found == [*["REFUSED FIELD_INVALID"] * 4, "REFUSED INVALID_MODEL_CONFIG", "CREATED"]
    results = await import_models(shelf, bad, SKIP, NOW)
    assert [result.message for result in results[:2]] == ["key must be set", "name must be set"]
    for place, entry in enumerate(bad):
        with pytest.raises(Exception, match=r"models\[1\]\.(model|files\[0\])\.") as caught:
            await outcomes(shelf, FAIL, vae(), entry)
        assert caught.value.violations[0].field.startswith("models[1]."), place  # type: ignore[attr-defined]  # one of ours


async def test_what_a_newer_version_wrote_is_stored_as_it_is_and_told() -> None:
    unknown_field = b"\xc2\xbb\x01\x03new"
    newer = [
        vae(KEY, type=999),
        vae(OTHER, format=999),
        vae("c" * 32, base="sd-9"),
        vae("d" * 32, format="MODEL_FORMAT_LYCORIS"),
        vae("e" * 32, vae={"checkpoint_config": "c"}),
    ]
    for entry in newer:
        entry.exported.model.MergeFromString(unknown_field)
    shelf = Shelf()
    odd = "CREATED INVALID_MODEL_CONFIG"
    assert await outcomes(shelf, FAIL, *newer) == [odd, odd, "CREATED", odd, odd]
    for entry in newer:
        stored = shelf.models[entry.exported.model.key].SerializeToString()
        assert unknown_field in stored
    assert (shelf.models[KEY].type, shelf.models[OTHER].format) == (999, 999)
    again = await import_models(shelf, newer, FAIL, NOW)
    assert {result.outcome for result in again} == {pb.IMPORT_OUTCOME_UNCHANGED}
    assert "does not know such a model" in again[0].message


async def test_secrets_of_addresses_do_not_come_along() -> None:
    shelf = Shelf()
    entry = vae(source="https://user:secret@example.com/m", preview_url="https://a:secret@example.com/p")
    assert await outcomes(shelf, FAIL, entry) == ["CREATED"]
    assert b"secret" not in shelf.models[KEY].SerializeToString()
    assert await outcomes(shelf, FAIL, entry) == ["UNCHANGED"]


async def test_a_record_in_several_parts_is_whole_in_the_end_and_the_same_again_changes_nothing() -> None:
    first = vae(KEY, a_file("a"), a_file("b"), more={"is_continued": True}, size_bytes=4)
    part = Entry(pb.ExportedModel(model={"key": KEY}, files=[a_file("c"), a_file("d")], is_continuation=True))
    shelf = Shelf()
    assert await outcomes(shelf, REPLACE, first) == ["CREATED"]
    assert await outcomes(shelf, REPLACE, part) == ["REPLACED"]
    assert [file.path for file in shelf.listed[KEY]] == ["a", "b", "c", "d"]
    assert (shelf.models[KEY].size_bytes, shelf.models[KEY].update_time.seconds) == (4, 6)
    revision = shelf.revision
    assert await outcomes(shelf, REPLACE, first, part) == ["UNCHANGED", "UNCHANGED"]
    assert shelf.revision == revision
    with pytest.raises(UnknownModelException):
        await outcomes(shelf, FAIL, Entry(pb.ExportedModel(model={"key": OTHER}, is_continuation=True)))


async def test_further_parts_of_what_was_left_out_are_left_out_too() -> None:
    shelf = Shelf()
    await outcomes(shelf, FAIL, vae(KEY, name="another"))
    parts = [
        Entry(pb.ExportedModel(model={"key": key}, files=[a_file()], is_continuation=True))
        for key in (KEY, OTHER)
    ]
    first = [vae(KEY, more={"is_continued": True}), vae(OTHER, name="", more={"is_continued": True})]
    assert await outcomes(shelf, SKIP, *first, *parts) == [
        *("SKIPPED DUPLICATE_MODEL", "REFUSED FIELD_INVALID") * 2,
    ]
    assert shelf.listed[KEY] == []


async def test_parts_together_have_no_more_files_than_a_record_may_have() -> None:
    shelf = Shelf()
    await outcomes(shelf, FAIL, vae())
    shelf.listed[KEY] = [a_file(str(number)) for number in range(MAX_FILES)]
    more = Entry(pb.ExportedModel(model={"key": KEY}, files=[a_file("more")], is_continuation=True))
    with pytest.raises(FieldInvalidException, match="at most 20,000 entries in all parts, not 20,001"):
        await outcomes(shelf, FAIL, more)


async def test_a_rehearsal_tells_what_an_import_does_and_stores_nothing() -> None:
    entries = [
        vae(KEY, a_file(), name="new"),
        vae(OTHER, path="/p"),
        vae(OTHER, path="/p"),
        vae("c" * 32, path="/p"),
        vae(OTHER, path="/q"),
        vae("c" * 32, path="/p"),
        Entry(pb.ExportedModel(model={"key": "c" * 32}, files=[a_file()], is_continuation=True)),
        vae("d" * 32, name=""),
    ]
    shelf, real = Shelf(), Shelf()
    for each in (shelf, real):
        await outcomes(each, FAIL, vae(KEY, name="old"))
    told = await outcomes(Rehearsal(shelf), REPLACE, *entries)
    assert told == await outcomes(real, REPLACE, *entries)
    assert told == [
        *("REPLACED", "CREATED", "UNCHANGED", "REFUSED DUPLICATE_PATH", "REPLACED", "CREATED", "REPLACED"),
        "REFUSED FIELD_INVALID",
    ]
    assert (shelf.revision, shelf.models[KEY].name, list(shelf.models)) == (1, "old", [KEY])


async def test_what_a_rehearsal_removes_is_gone_in_it_alone() -> None:
    shelf = Shelf()
    await outcomes(shelf, FAIL, vae(KEY, a_file(), path="/p"))
    rehearsal = Rehearsal(shelf)
    await rehearsal.remove(KEY)
    assert (await rehearsal.get(KEY), await rehearsal.files(KEY)) == (None, [])
    assert await rehearsal.key_at_path("/p", "") is None
    assert list(shelf.models) == [KEY]
