"""What a record says of its files: its digests are claims, and its list is what may be lent."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from modelkeep.exceptions import ChecksumMismatchException, InvalidModelException
from modelkeep_loader.domain.plan import Planner
from modelkeep_loader.domain.records import FileFacts
from support.plans import KEY, OTHER, WEIGHTS, Shelf, hashed, pipeline, plan, planner_of, record, weights

HONEST, LYING = KEY, OTHER


def two_models(shelf: Shelf) -> tuple[Path, Path]:
    """An honest model and a lying one: other weights of the same size and time, the honest one's digests."""
    good, evil = pipeline(shelf.models / "good"), pipeline(shelf.models / "evil")
    weights(evil / "vae" / WEIGHTS, fill=0x42)
    for path in good.rglob("*"):
        os.utime(path, (1000, 1000))
        os.utime(evil / path.relative_to(good), (1000, 1000))
    shelf.records = {HONEST: record("good"), LYING: record("evil", key=LYING)}
    shelf.listed = {HONEST: hashed(good), LYING: hashed(good)}
    return good, evil


@pytest.mark.parametrize("order", [(HONEST, LYING), (LYING, HONEST)])
async def test_whoever_claims_anothers_digest_is_refused_whichever_is_asked_for_first(
    planner: Planner, shelf: Shelf, order: tuple[str, str]
) -> None:
    two_models(shelf)
    ids = []
    for key in (*order, *order):
        if key == LYING:
            with pytest.raises(ChecksumMismatchException) as raised:
                await plan(planner, key=key)
            assert raised.value.metadata["path"].endswith("evil/vae/" + WEIGHTS)
            assert raised.value.metadata["expected"] != raised.value.metadata["actual"]
        else:
            ids.append((await plan(planner, key=key)).id)
    assert len(set(ids)) == 1


@pytest.mark.parametrize("function", ["sha256", "blake3"])
async def test_either_kind_of_digest_is_checked(planner: Planner, shelf: Shelf, function: str) -> None:
    good, evil = two_models(shelf)

    def digest(path: Path) -> str:
        data = path.read_bytes()
        return hashlib.sha256(data).hexdigest() if function == "sha256" else blake3(data).hexdigest()

    for key, folder in ((HONEST, good), (LYING, evil)):
        shelf.listed[key] = {
            name: dataclasses.replace(facts, digest=f"{function}:{digest(folder / name)}")
            for name, facts in hashed(folder).items()
        }
    first, second = await plan(planner, key=HONEST), await plan(planner, key=LYING)
    assert first.id != second.id
    shelf.listed[LYING] = shelf.listed[HONEST]
    shelf.records[LYING] = dataclasses.replace(shelf.records[LYING], revision=2)
    with pytest.raises(ChecksumMismatchException):
        await plan(planner, key=LYING)


@pytest.mark.parametrize("claims", ["no digests", "other times", "no times", "other sizes"])
async def test_claims_that_cannot_be_compared_do_not_make_two_files_one(
    planner: Planner, shelf: Shelf, claims: str
) -> None:
    two_models(shelf)
    changes: dict[str, dict[str, Any]] = {
        "no digests": {"digest": ""},
        "other times": {"modify_time": 5.0},
        "no times": {"modify_time": None},
        "other sizes": {"size_bytes": 1},
    }
    shelf.listed[LYING] = {
        name: dataclasses.replace(facts, **changes[claims]) for name, facts in shelf.listed[LYING].items()
    }
    honest = await plan(planner, key=HONEST)
    if claims == "no times":  # then it speaks of the file as it is
        with pytest.raises(ChecksumMismatchException):
            await plan(planner, key=LYING)
    else:
        assert (await plan(planner, key=LYING)).id != honest.id


async def test_the_configuration_that_is_used_is_the_one_in_the_file_and_must_be_the_recorded_one(
    planner: Planner, shelf: Shelf
) -> None:
    _good, evil = two_models(shelf)
    weights(evil / "vae" / WEIGHTS)
    os.utime(evil / "vae" / WEIGHTS, (1000, 1000))
    config = evil / "vae" / "config.json"
    config.write_text(json.dumps({"_class_name": "AutoencoderKL", "sample_size": 2}))
    os.utime(config, (1000, 1000))
    with pytest.raises(ChecksumMismatchException) as raised:
        await plan(planner, key=LYING)
    assert raised.value.metadata["path"] == str(config)
    os.utime(config, (2000, 2000))  # edited since, and the record does not claim anything else
    assert (await plan(planner, key=LYING)).id != (await plan(planner, key=HONEST)).id


async def test_equal_bytes_are_one_component_whatever_the_records_say(planner: Planner, shelf: Shelf) -> None:
    good, evil = two_models(shelf)
    shutil.copy(good / "vae" / WEIGHTS, evil / "vae" / WEIGHTS)
    shelf.listed[LYING] = {name: FileFacts(0, None, "") for name in shelf.listed[LYING]}
    first, second = await plan(planner, key=HONEST), await plan(planner, key=LYING)
    assert first.id == second.id
    assert first.content_addressed
    # A record that changes, or another store's record of the same revision, changes nothing of that.
    changes: list[dict[str, Any]] = [{"revision": 9}, {"hash": "another"}, {"name": "renamed"}]
    for change in changes:
        shelf.records[LYING] = dataclasses.replace(shelf.records[LYING], **change)
        assert (await plan(planner, key=LYING)).id == first.id


async def test_a_file_that_others_may_write_is_lent_as_itself_only(planner: Planner, shelf: Shelf) -> None:
    good, evil = two_models(shelf)
    shutil.copy(good / "vae" / WEIGHTS, evil / "vae" / WEIGHTS)
    os.chmod(evil / "vae" / WEIGHTS, 0o666)
    theirs, ours = await plan(planner, key=LYING), await plan(planner, key=HONEST)
    assert not theirs.content_addressed
    assert theirs.id != ours.id
    os.chmod(evil / "vae" / WEIGHTS, 0o644)
    assert (await plan(planner, key=LYING)).id == ours.id


async def test_a_change_that_keeps_size_and_time_is_noticed(planner: Planner, shelf: Shelf) -> None:
    good, _evil = two_models(shelf)
    before = await plan(planner)
    weights(good / "vae" / WEIGHTS, fill=0x42)
    os.utime(good / "vae" / WEIGHTS, (1000, 1000))
    with pytest.raises(ChecksumMismatchException):
        await plan(planner)
    shelf.listed[KEY] = {name: dataclasses.replace(f, digest="") for name, f in shelf.listed[KEY].items()}
    shelf.records[KEY] = record("good", revision=2)
    assert (await plan(planner)).id != before.id


async def test_a_file_that_the_record_does_not_list_is_not_lent(planner: Planner, shelf: Shelf) -> None:
    folder = pipeline(shelf.models / "one")
    (folder / "vae" / WEIGHTS).rename(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    shelf.records[KEY] = record("one")
    shelf.listed[KEY] = hashed(folder)
    own = await plan(planner)
    # Weights that would be taken first, were they the model's.
    weights(folder / "vae" / WEIGHTS, fill=0x42)
    index = folder / "vae" / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"weight_map": {"a": WEIGHTS}}))
    after = await plan(planner)
    assert (after.id, after.files) == (own.id, own.files)
    # And what a listed index names.
    shelf.listed[KEY] = {n: f for n, f in hashed(folder).items() if "fp16" not in n and n != f"vae/{WEIGHTS}"}
    shelf.records[KEY] = record("one", revision=2)
    with pytest.raises(InvalidModelException, match="not among the files that its record"):
        await plan(planner)


@pytest.mark.parametrize("name", ["model_index.json", "vae/config.json"])
async def test_a_configuration_that_the_record_does_not_list_is_not_used(
    planner: Planner, shelf: Shelf, name: str
) -> None:
    folder = pipeline(shelf.models / "one")
    shelf.records[KEY] = record("one")
    shelf.listed[KEY] = {n: facts for n, facts in hashed(folder).items() if n != name}
    with pytest.raises(InvalidModelException, match="not among the files that its record"):
        await plan(planner)


async def test_a_single_file_must_be_the_one_that_the_record_lists(planner: Planner, shelf: Shelf) -> None:
    weights(shelf.models / "vae.safetensors")
    shelf.records[KEY] = record("vae.safetensors", type="vae", format="checkpoint")
    shelf.listed[KEY] = {}  # its path names it
    assert (await plan(planner, "")).files
    shelf.records[KEY] = dataclasses.replace(shelf.records[KEY], revision=2)
    shelf.listed[KEY] = {"another.safetensors": FileFacts(0, None, "")}
    with pytest.raises(InvalidModelException, match="not among the files that its record"):
        await plan(planner, "")


async def test_a_folder_without_a_list_is_lent_from_its_owners_place_and_not_from_the_models_folder(
    shelf: Shelf, tmp_path: Path
) -> None:
    outside = pipeline(tmp_path / "outside")
    planner = await asyncio.to_thread(planner_of, shelf, roots=[outside])
    try:
        pipeline(shelf.models / "one")
        shelf.listed = {KEY: {}, OTHER: {}}
        shelf.records = {KEY: record("one"), OTHER: record(str(outside), key=OTHER)}
        assert (await plan(planner, key=OTHER)).files
        with pytest.raises(InvalidModelException, match="Install the model") as raised:
            await plan(planner)
        assert raised.value.metadata["detail"] == "no list of files"
        link = tmp_path / "outside" / "link"
        link.symlink_to(shelf.models / "one")
        shelf.records[OTHER] = record(str(link), key=OTHER, revision=2)
        with pytest.raises(InvalidModelException, match="Install the model"):
            await plan(planner, key=OTHER)
    finally:
        planner.close()


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("vae", ["other", "sd/vae"])
async def test_the_vae_of_another_model_is_lent_as_that_models_record_lists_it(
    planner: Planner, shelf: Shelf, vae: str, absolute: bool
) -> None:
    pipeline(shelf.models / "one")
    folder = pipeline(shelf.models / "sd") / "vae"
    if vae == "other":
        folder = folder.rename(shelf.models / "other")
    owner = shelf.models / vae.partition("/")[0]
    path = str(shelf.models / vae) if absolute else vae
    shelf.records = {KEY: record("one", vae=path), OTHER: record(owner.name, key=OTHER, type="vae")}
    shelf.listed[OTHER] = hashed(owner)
    assert (await plan(planner)).files[0].path == folder / WEIGHTS
    lying = {n: dataclasses.replace(f, digest="sha256:" + "0" * 64) for n, f in hashed(owner).items()}
    for revision, listed in enumerate([lying, {}], 2):
        shelf.listed[OTHER] = listed
        shelf.records[KEY] = record("one", vae=path, revision=revision)
        with pytest.raises((ChecksumMismatchException, InvalidModelException)):
            await plan(planner)
    del shelf.records[OTHER]
    shelf.records[KEY] = record("one", vae=path, revision=9)
    with pytest.raises(InvalidModelException, match="No record lists"):
        await plan(planner)


async def test_a_kept_plan_notices_that_the_record_of_another_models_vae_has_changed(
    planner: Planner, shelf: Shelf
) -> None:
    pipeline(shelf.models / "one")
    other = pipeline(shelf.models / "sd").joinpath("vae").rename(shelf.models / "other")
    shelf.records = {KEY: record("one", vae="other"), OTHER: record("other", key=OTHER, type="vae")}
    shelf.listed[OTHER] = hashed(other)
    first = await plan(planner)
    assert await plan(planner) is first
    shelf.listed[OTHER] = {n: f for n, f in shelf.listed[OTHER].items() if n != "config.json"}
    shelf.records[OTHER] = record("other", key=OTHER, type="vae", revision=2)
    with pytest.raises(InvalidModelException, match="not among the files that its record"):
        await plan(planner)
    del shelf.records[OTHER]
    with pytest.raises(InvalidModelException, match="No record lists"):
        await plan(planner)


async def test_what_can_never_fit_is_not_read(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*arguments: object, **more: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr("modelkeep_loader.domain.digests.digest_descriptor", read)
    planner = await asyncio.to_thread(planner_of, shelf, budget_bytes=100)
    try:
        pipeline(shelf.models / "one")
        shelf.records[KEY] = record("one")
        assert (await plan(planner)).size_bytes > 100
    finally:
        planner.close()


async def test_plans_are_kept_within_a_bound_of_bytes(
    planner: Planner, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelkeep_loader.domain.plan._KEPT_BYTES", 60_000)
    pipeline(shelf.models / "one")
    for number in range(40):
        key = f"{number:032x}"
        shelf.records[key] = record("one", key=key)
        await plan(planner, key=key)
    assert 1 < len(planner._kept) < 34
    assert planner._kept_weight == sum(one.weight for one in planner._kept.values())
