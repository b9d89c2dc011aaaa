"""Objects and bare tensors: from a model's folder to a plan, and what is refused. Real files, no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from modelkeep.exceptions import (
    ChecksumMismatchException,
    InvalidModelException,
    ModelNotFoundException,
    UnsafeFormatException,
)
from modelkeep.worker.manifest import Kind
from modelkeep.worker.objectclasses import OBJECT_FILES, OBJECTS
from modelkeep_loader.domain.plan import Planner
from modelkeep_loader.domain.records import FileFacts
from support.plans import KEY, OTHER, Shelf, hashed, pipeline, plan, record, weights

SETTINGS = {"_class_name": "DDIMScheduler", "prediction_type": "epsilon", "num_train_timesteps": 1000}


@pytest.fixture
def folder(shelf: Shelf, tmp_path: Path) -> Path:
    """A pipeline with a scheduler and a tokenizer."""
    place = pipeline(tmp_path / "models" / "one")
    index = json.loads((place / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "CLIPTokenizer"]
    (place / "model_index.json").write_text(json.dumps(index))
    for name, text in {
        "scheduler/scheduler_config.json": json.dumps(SETTINGS),
        "tokenizer/vocab.json": "{}",
        "tokenizer/merges.txt": "#version: 0.2\n",
        "tokenizer/README.md": "of no use",
    }.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
    shelf.records[KEY] = record("one")
    return place


async def test_an_object_is_the_files_that_its_class_is_made_of(planner: Planner, folder: Path) -> None:
    found = await plan(planner, "tokenizer")
    assert (found.kind, found.library, found.class_name) == (Kind.OBJECT, "transformers", "CLIPTokenizer")
    assert found.names == ("vocab.json", "merges.txt")
    assert [file.path for file in found.files] == [folder / "tokenizer" / name for name in found.names]
    assert found.precision == ""
    assert (await plan(planner, "tokenizer", "float16")).id == found.id, "it has no weights to be of another"


async def test_models_share_an_object_whose_files_are_the_same_and_no_other(
    planner: Planner, shelf: Shelf, folder: Path, tmp_path: Path
) -> None:
    shelf.records[OTHER] = record("two", key=OTHER)
    two = pipeline(tmp_path / "models" / "two")
    (two / "scheduler").mkdir()
    (two / "scheduler" / "scheduler_config.json").write_text(json.dumps(SETTINGS))
    first = await plan(planner, "scheduler")
    assert first.content_addressed
    assert (await plan(planner, "scheduler", key=OTHER)).id == first.id
    (two / "scheduler" / "scheduler_config.json").write_text(json.dumps(SETTINGS | {"steps_offset": 1}))
    assert (await plan(planner, "scheduler", key=OTHER)).id != first.id


async def test_the_names_of_its_files_are_part_of_what_an_object_is(planner: Planner, folder: Path) -> None:
    before = await plan(planner, "tokenizer")
    (folder / "tokenizer" / "vocab.json").rename(folder / "tokenizer" / "added_tokens.json")
    (folder / "tokenizer" / "vocab.txt").write_text("{}")
    (folder / "tokenizer" / "added_tokens.json").unlink()
    after = await plan(planner, "tokenizer")
    assert sorted(one.blake3 for one in before.digests) == sorted(one.blake3 for one in after.digests)
    assert before.id != after.id


async def test_a_record_that_says_what_the_model_predicts_is_obeyed_by_its_scheduler(
    planner: Planner, shelf: Shelf, folder: Path
) -> None:
    plain = await plan(planner, "scheduler")
    assert plain.overrides == {}
    shelf.records[KEY] = record("one", revision=2, prediction_type="v_prediction")
    told = await plan(planner, "scheduler")
    assert told.overrides == {"prediction_type": "v_prediction"}
    assert told.id != plain.id
    # A flow-matching scheduler has no such setting.
    other = {name: value for name, value in SETTINGS.items() if name != "prediction_type"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(other))
    assert (await plan(planner, "scheduler")).overrides == {}


@pytest.mark.parametrize(
    "settings", [{"num_train_timesteps": 10**12}, {"trained_betas": [0.1] * 100_000}, {"a": {"b": 1}}]
)
async def test_a_scheduler_with_settings_beyond_reason_is_refused(
    planner: Planner, folder: Path, settings: dict[str, object]
) -> None:
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SETTINGS | settings))
    with pytest.raises(InvalidModelException, match=next(iter(settings))):
        await plan(planner, "scheduler")


async def test_files_of_an_object_that_are_not_what_the_record_says_are_refused(
    planner: Planner, shelf: Shelf, folder: Path
) -> None:
    listed = hashed(folder)
    vocabulary = listed["tokenizer/vocab.json"]
    wrong = f"sha256:{hashlib.sha256(b'other').hexdigest()}"
    listed["tokenizer/vocab.json"] = FileFacts(vocabulary.size_bytes, vocabulary.modify_time, wrong)
    shelf.listed[KEY] = listed
    with pytest.raises(ChecksumMismatchException, match=r"vocab\.json"):
        await plan(planner, "tokenizer")
    # What the record does not list does not belong to the model.
    shelf.listed[KEY] = {n: f for n, f in hashed(folder).items() if n != "tokenizer/merges.txt"}
    shelf.records[KEY] = record("one", revision=2)
    assert (await plan(planner, "tokenizer")).names == ("vocab.json",)


async def test_an_object_without_its_files_is_missing(planner: Planner, folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ModelNotFoundException, match=r"scheduler_config\.json"):
        await plan(planner, "scheduler")


async def test_an_object_of_a_class_that_is_not_listed_is_refused(planner: Planner, folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["some_package", "CLIPTokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidModelException, match="CLIPTokenizer of some_package"):
        await plan(planner, "tokenizer")


def test_every_object_has_files_and_every_file_a_plain_name() -> None:
    assert set(OBJECTS.values()) == OBJECT_FILES.keys()
    assert not any("/" in name for names in OBJECT_FILES.values() for name in names)


async def test_a_lora_is_its_tensors_each_as_it_is_in_the_file(
    planner: Planner, shelf: Shelf, tmp_path: Path
) -> None:
    weights(tmp_path / "models" / "lora.safetensors", dtype="BF16")
    shelf.records[KEY] = record("lora.safetensors", type="lora", format="lycoris")
    found = await plan(planner, "")
    assert (found.kind, found.library, found.class_name, found.config) == (Kind.STATE_DICT, "", "", {})
    assert (found.precision, found.cast) == ("bfloat16", False)
    cast = await plan(planner, "", "bfloat16")
    assert cast.cast
    assert cast.id != found.id


async def test_a_folder_of_bare_tensors_has_one_file_that_is_meant(
    planner: Planner, shelf: Shelf, tmp_path: Path
) -> None:
    place = tmp_path / "models" / "lora"
    (place / "sub").mkdir(parents=True)
    shelf.records[KEY] = record("lora", type="lora", format="diffusers")
    with pytest.raises(ModelNotFoundException):
        await plan(planner, "")
    (place / "pytorch_lora_weights.bin").write_bytes(b"pickle")
    with pytest.raises(UnsafeFormatException):
        await plan(planner, "")
    weights(place / "some.safetensors")
    assert (await plan(planner, "")).names == ("some.safetensors",)
    weights(place / "other.safetensors")
    with pytest.raises(InvalidModelException, match="2 weight files"):
        await plan(planner, "")
    weights(place / "pytorch_lora_weights.safetensors")
    assert (await plan(planner, "")).names == ("pytorch_lora_weights.safetensors",)
