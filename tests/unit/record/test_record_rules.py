"""The rules of records by themselves: no database, no server."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelkeep.exceptions import (
    DuplicatePathException,
    EtagMismatchException,
    FieldInvalidException,
    InvalidModelConfigException,
    UnknownModelException,
)
from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep.model.v1.taxonomy_pb2 import ModelType
from modelkeep_record.domain import rules
from support.recordshelf import Shelf, change, vae


async def test_a_record_is_made_with_a_key_an_etag_and_the_arm_of_its_type() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(etag="mine", revision=77), [], 5.0)
    assert (len(made.key), made.revision, made.WhichOneof("config")) == (32, 1, "vae")
    assert made.etag != "mine"
    assert made.create_time.seconds == made.update_time.seconds == 5
    with pytest.raises(DuplicatePathException):
        await rules.create(shelf, vae(), [], 6.0)


async def test_an_update_that_changes_nothing_makes_no_revision_and_one_of_an_old_state_is_refused() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(), [], 5.0)
    same, _ = await rules.update(shelf, Model(key=made.key, name="v"), None, None, 9.0)
    assert (same.revision, shelf.revision) == (1, 1)
    changed, _ = await rules.update(shelf, Model(key=made.key, name="w", etag=made.etag), None, None, 9.0)
    assert (changed.name, changed.revision, changed.create_time.seconds) == ("w", 2, 5)
    with pytest.raises(EtagMismatchException):
        await rules.update(shelf, Model(key=made.key, name="x", etag=made.etag), None, None, 9.0)
    with pytest.raises(FieldInvalidException, match="names nothing"):
        await rules.update(shelf, Model(key=made.key), None, None, 9.0)


async def test_what_a_newer_version_wrote_survives_an_update_and_is_not_held_against_it() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(), [], 5.0)
    newer = shelf.models[made.key]
    newer.format = 99  # type: ignore[assignment]  # open enum
    unknown_field = b"\xc2\xbb\x01\x03new"
    newer.MergeFromString(unknown_field)
    changed, _ = await rules.update(shelf, Model(key=made.key, name="w"), None, None, 9.0)
    assert changed.format == 99
    assert unknown_field in changed.SerializeToString()
    with pytest.raises(InvalidModelConfigException):
        await rules.update(
            shelf, Model(key=made.key, format="MODEL_FORMAT_LYCORIS"), FieldMask(paths=["format"]), None, 9.0
        )


async def test_who_may_not_say_where_files_lie_may_still_change_the_rest() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(), [], 5.0)

    def refuse(field: str) -> None:
        raise PermissionError(field)

    assert (await rules.update(shelf, Model(key=made.key, name="w"), None, None, 9.0, refuse))[0].name == "w"
    for update in (Model(path="/elsewhere"), Model(current_hash="h"), Model(original_hash="h")):
        update.key = made.key
        with pytest.raises(PermissionError, match=r"model\.(path|current_hash|original_hash)"):
            await rules.update(shelf, update, None, None, 9.0, refuse)
    with pytest.raises(PermissionError, match="files"):
        await rules.update(shelf, Model(key=made.key), None, [ModelFile(path="a")], 9.0, refuse)


async def test_a_record_ends_once() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(), [], 5.0)
    assert (await rules.delete(shelf, made.key, made.etag, 9.0))[1] == 2
    with pytest.raises(UnknownModelException):
        await rules.delete(shelf, made.key, "", 9.0)


async def test_the_type_follows_from_the_arm_where_it_is_not_given() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(type=0, lora={"rank": 4}, format="MODEL_FORMAT_LYCORIS"), [], 5.0)
    assert made.type == ModelType.MODEL_TYPE_LORA
    again, _ = await change(
        shelf, made.key, controlnet={"checkpoint_config": "c"}, format="MODEL_FORMAT_CHECKPOINT"
    )
    assert (again.type, again.controlnet.checkpoint_config) == (ModelType.MODEL_TYPE_CONTROLNET, "c")
    with pytest.raises(InvalidModelConfigException):
        await rules.create(shelf, vae(type="MODEL_TYPE_VAE", lora={}, path="/w"), [], 5.0)


async def test_another_type_keeps_what_it_knows_and_says_what_it_loses() -> None:
    shelf = Shelf()
    settings = {"checkpoint_config": "c.yaml", "vae": "v", "variant": "MODEL_VARIANT_INPAINT"}
    made = await rules.create(shelf, vae(type="MODEL_TYPE_MAIN", main=settings), [], 5.0)
    now, lost = await change(shelf, made.key, type="MODEL_TYPE_VAE")
    assert (now.WhichOneof("config"), now.vae.checkpoint_config) == ("vae", "c.yaml")
    assert lost == ["main.vae", "main.variant"]
    assert (await change(shelf, made.key, name="w"))[1] == []


async def test_what_the_format_of_another_type_does_not_have_is_not_carried_over() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(type="MODEL_TYPE_MAIN", main={"checkpoint_config": "c"}), [], 5.0)
    now, lost = await change(shelf, made.key, type="MODEL_TYPE_VAE", format="MODEL_FORMAT_DIFFUSERS")
    assert (now.vae.checkpoint_config, lost) == ("", ["main.checkpoint_config"])


async def test_what_the_update_says_of_the_new_type_wins() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(type="MODEL_TYPE_MAIN", main={"checkpoint_config": "c"}), [], 5.0)
    given: dict[str, Any] = {"type": "MODEL_TYPE_VAE", "vae": {"checkpoint_config": "d"}}
    assert (await change(shelf, made.key, **given))[0].vae.checkpoint_config == "d"
    back, lost = await change(shelf, made.key, "type", "main", type="MODEL_TYPE_MAIN", main={"vae": "v"})
    assert (back.main.vae, back.main.checkpoint_config, lost) == ("v", "", ["vae.checkpoint_config"])


async def test_a_dry_run_answers_with_what_would_be_and_stores_nothing() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(type="MODEL_TYPE_MAIN", main={"vae": "v"}), [], 5.0)
    update = Model(key=made.key, type="MODEL_TYPE_VAE")
    would_be, lost = await rules.update(shelf, update, None, None, 9.0, validate_only=True)
    assert (would_be.type, would_be.revision, lost) == (ModelType.MODEL_TYPE_VAE, 1, ["main.vae"])
    assert (shelf.models[made.key], shelf.revision) == (made, 1)
    bad = Model(key=made.key, type="MODEL_TYPE_LORA")
    with pytest.raises(InvalidModelConfigException):
        await rules.update(shelf, bad, None, None, 9.0, validate_only=True)


async def test_a_size_follows_the_files_and_is_not_set_by_itself() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(size_bytes=5), [], 5.0)
    for mask in ([], ["size_bytes"]):
        with pytest.raises(FieldInvalidException, match="size_bytes is set by the server"):
            await change(shelf, made.key, *mask, size_bytes=7)
    await change(shelf, made.key, size_bytes=5, name="w")  # what was read may be sent back
    files = [ModelFile(path="a", size_bytes=3), ModelFile(path="b", size_bytes=4)]
    now, _ = await rules.update(shelf, Model(key=made.key), None, files, 9.0)
    assert now.size_bytes == 7


async def test_files_that_are_gone_are_noted_once_and_only_of_the_record_that_was_looked_at() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(), [], 5.0)
    assert not await rules.mark(shelf, "0" * 32, True, None, 7.0)
    assert not await rules.mark(shelf, made.key, True, ("/elsewhere", ""), 7.0)
    assert not await rules.mark(shelf, made.key, False, None, 7.0)
    assert await rules.mark(shelf, made.key, True, ("/v", ""), 7.0)
    assert not await rules.mark(shelf, made.key, True, None, 8.0)
    marked = shelf.models[made.key]
    assert (marked.missing_time.seconds, marked.update_time.seconds, marked.revision) == (7, 5, 2)
    assert marked.etag != made.etag
    assert await rules.mark(shelf, made.key, False, None, 9.0)
    assert not shelf.models[made.key].HasField("missing_time")


async def test_another_place_is_not_missing_until_somebody_has_looked_there() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(missing_time={"seconds": 3}), [], 5.0)
    assert not made.HasField("missing_time")
    await rules.mark(shelf, made.key, True, None, 7.0)
    assert (await change(shelf, made.key, name="w"))[0].HasField("missing_time")
    assert not (await change(shelf, made.key, path="/there"))[0].HasField("missing_time")
    with pytest.raises(FieldInvalidException, match="missing_time is set by the server"):
        await change(shelf, made.key, "missing_time", missing_time={"seconds": 3})
