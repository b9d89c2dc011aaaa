"""From records to plans: identities, choice of files, and what is refused. Real files, no torch."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import (
    FieldInvalidException,
    ForbiddenPathException,
    InvalidModelException,
    ModelNotFoundException,
    SubmodelRequiredException,
    UnknownSubmodelException,
    UnsafeFormatException,
)
from modelkeep_loader.domain.plan import Planner
from support.plans import KEY, Shelf, facts_of, hashed, pipeline, plan, record, weights


async def test_the_same_bytes_have_the_same_id_whatever_the_model_is_called(
    planner: Planner, shelf: Shelf, tmp_path: Path
) -> None:
    other = "cd" * 16
    for key, name in ((KEY, "one"), (other, "two")):
        folder = pipeline(tmp_path / "models" / name)
        shelf.records[key] = record(name, key=key)
        shelf.listed[key] = hashed(folder)
    config = tmp_path / "models" / "two" / "vae" / "config.json"
    config.write_text(json.dumps({"sample_size": 1, "_class_name": "AutoencoderKL", "x": "of no class"}))
    first, second = await plan(planner), await plan(planner, key=other)
    assert first.id == second.id
    assert first.content_addressed
    assert (await plan(planner, precision="bfloat16")).id != first.id
    assert (await plan(planner, precision="float32")).id == first.id
    # What the class is told counts.
    config.write_text(json.dumps({"sample_size": 2, "_class_name": "AutoencoderKL"}))
    shelf.records[other] = dataclasses.replace(shelf.records[other], revision=2)
    assert (await plan(planner, key=other)).id != first.id


async def test_precision_auto_is_that_of_the_files(planner: Planner, shelf: Shelf, tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "models" / "one")
    weights(folder / "vae" / "diffusion_pytorch_model.safetensors", dtype="BF16")
    shelf.records[KEY] = record("one")
    assert (await plan(planner)).precision == "bfloat16"
    single = await plan(planner, precision="float32")
    assert single.size_bytes > 2 * 64 * 4


async def test_shards_and_variants_are_found(planner: Planner, shelf: Shelf, tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "models" / "one") / "vae"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    weights(folder / "diffusion_pytorch_model.fp16.safetensors", dtype="F16")
    weights(folder / "diffusion_pytorch_model.bf16.safetensors", dtype="BF16")
    shelf.records[KEY] = record("one")
    assert [f.path.name for f in (await plan(planner)).files] == ["diffusion_pytorch_model.fp16.safetensors"]
    shards = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, tensor in zip(shards, ("a", "b"), strict=True):
        weights(folder / name, names=(tensor,))
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    shelf.records[KEY] = record("one", revision=2)
    assert [f.path.name for f in (await plan(planner)).files] == shards
    many = {"weight_map": {str(i): f"{i}.safetensors" for i in range(254)}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(many))
    shelf.records[KEY] = record("one", revision=3)
    with pytest.raises(InvalidModelException, match="254 files"):
        await plan(planner)
    odd_names: list[Any] = [["a"], {}, None, 1, "../a"]
    for revision, shard in enumerate(odd_names, 4):
        odd = json.dumps({"weight_map": {"a": shard}})
        (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(odd)
        shelf.records[KEY] = record("one", revision=revision)
        with pytest.raises(InvalidModelException, match="does not list files"):
            await plan(planner)


@pytest.mark.parametrize(
    ("submodel", "error"),
    [
        ("", SubmodelRequiredException),
        ("scheduler", ModelNotFoundException),
        ("safety_checker", UnknownSubmodelException),
        ("transformer", UnknownSubmodelException),
    ],
)
async def test_a_main_model_lends_only_components_that_it_has(
    planner: Planner, shelf: Shelf, tmp_path: Path, submodel: str, error: type[Exception]
) -> None:
    pipeline(tmp_path / "models" / "one")
    shelf.records[KEY] = record("one")
    with pytest.raises(error) as raised:
        await plan(planner, submodel)
    if error is SubmodelRequiredException:
        assert raised.value.metadata["available"] == "scheduler,unet,vae"  # type: ignore[attr-defined]  # of this class


async def test_of_weights_for_two_libraries_those_of_the_class_are_taken(
    planner: Planner, shelf: Shelf, tmp_path: Path
) -> None:
    folder = pipeline(tmp_path / "models" / "one")
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder"] = ["transformers", "CLIPTextModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    for part in ("vae", "text_encoder"):
        weights(folder / part / "diffusion_pytorch_model.safetensors")
        weights(folder / part / "model.safetensors", fill=1)
    (folder / "text_encoder" / "config.json").write_text(json.dumps({"architectures": ["CLIPTextModel"]}))
    shelf.records[KEY] = record("one")
    taken = [(await plan(planner, part)).files[0].name for part in ("vae", "text_encoder")]
    assert taken == ["diffusion_pytorch_model.safetensors", "model.safetensors"]


async def test_a_record_of_a_name_that_no_file_can_have_is_no_error_of_the_loader(
    planner: Planner, shelf: Shelf, tmp_path: Path
) -> None:
    pipeline(tmp_path / "models" / "one")
    shelf.listed[KEY] = {}
    shelf.records[KEY] = record("x" * 300)
    with pytest.raises(ModelNotFoundException, match="is missing"):
        await plan(planner)
    for revision, field in enumerate(("vae", "checkpoint_config"), 2):
        shelf.records[KEY] = record("one", revision=revision, type="main", **{field: "a\0b"})
        with pytest.raises(ForbiddenPathException if field == "vae" else InvalidModelException):
            await plan(planner)


async def test_what_points_out_of_the_roots_is_refused(
    planner: Planner, shelf: Shelf, tmp_path: Path
) -> None:
    outside = pipeline(tmp_path / "outside")
    models = tmp_path / "models"
    shelf.records[KEY] = record(str(outside), root_id="")
    with pytest.raises(ForbiddenPathException):
        await plan(planner)
    shelf.records[KEY] = record("../outside", revision=2)
    with pytest.raises(ForbiddenPathException):
        await plan(planner)
    inside = pipeline(models / "one")
    file = inside / "vae" / "diffusion_pytorch_model.safetensors"
    file.unlink()
    file.symlink_to(outside / "vae" / "diffusion_pytorch_model.safetensors")
    shelf.records[KEY] = record("one", revision=3)
    with pytest.raises(ForbiddenPathException):
        await plan(planner)
    file.unlink()
    file.symlink_to(models / "blob")
    weights(models / "blob")
    shelf.listed[KEY] = hashed(inside)
    assert (await plan(planner)).content_addressed, "a link inside the roots is as good as a file"
    shelf.records[KEY] = record("one", revision=4, vae=str(outside / "vae"))
    with pytest.raises(ForbiddenPathException):
        await plan(planner)


async def test_what_is_missing_unsafe_or_of_another_kind_is_told_apart(
    planner: Planner, shelf: Shelf, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    revision = 0

    async def attempt(path: str, submodel: str = "", **more: Any) -> None:
        nonlocal revision
        revision += 1
        shelf.records[KEY] = record(path, revision=revision, **more)
        await plan(planner, submodel)

    with pytest.raises(ModelNotFoundException):
        await attempt("gone", "vae")
    with pytest.raises(ModelNotFoundException):
        await attempt("gone.safetensors", type="vae")
    pipeline(models / "one")
    (models / "one" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelNotFoundException):
        await attempt("one", "vae")
    (models / "one" / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UnsafeFormatException):
        await attempt("one", "vae")
    (models / "vae.ckpt").write_bytes(b"pickle")
    with pytest.raises(UnsafeFormatException):
        await attempt("vae.ckpt", type="vae")
    weights(models / "vae.ckpt")  # the bytes decide, not the suffix
    await attempt("vae.ckpt", type="vae")
    weights(models / "main.safetensors")
    with pytest.raises(InvalidModelException):
        await attempt("main.safetensors", "vae")
    with pytest.raises(InvalidModelException):
        await attempt("main.safetensors", type="onnx")
    with pytest.raises(FieldInvalidException):
        await attempt("main.safetensors", "unet", type="vae")
    (models / "one" / "unet" / "config.json").write_text("[]")
    with pytest.raises(InvalidModelException):
        await attempt("one", "unet")
    (models / "one" / "model_index.json").write_text(json.dumps({"vae": [], "unet": ["diffusers", "X"]}))
    with pytest.raises(SubmodelRequiredException) as raised:
        await attempt("one")
    assert raised.value.metadata["available"] == "unet"
    with pytest.raises(UnknownSubmodelException):
        await attempt("one", "vae")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "name", ["model_index.json", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
async def test_what_is_no_regular_file_is_refused_and_not_waited_for(
    planner: Planner, shelf: Shelf, tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    odd = pipeline(tmp_path / "models" / "one") / name
    odd.unlink()
    make(odd)
    shelf.records[KEY] = record("one")
    with pytest.raises(InvalidModelException) as raised:
        await plan(planner)
    assert "not a regular file" in raised.value.message


async def test_the_records_upcast_attention_changes_the_identity(
    planner: Planner, shelf: Shelf, tmp_path: Path
) -> None:
    pipeline(tmp_path / "models" / "one")
    shelf.records[KEY] = record("one")
    before = await plan(planner, "unet")
    shelf.records[KEY] = record("one", upcast_attention=True)
    planner._kept.clear()
    after = await plan(planner, "unet")
    assert after.overrides == {"upcast_attention": True}
    assert after.id != before.id
    assert (await plan(planner, "vae")).overrides == {}
    # Configurations of older libraries leave the entry out.
    config = {"_class_name": "UNet2DConditionModel"}
    (tmp_path / "models" / "one" / "unet" / "config.json").write_text(json.dumps(config))
    assert (await plan(planner, "unet")).overrides == {"upcast_attention": True}


async def test_what_the_record_names_as_vae_must_be_one(
    planner: Planner, shelf: Shelf, tmp_path: Path
) -> None:
    pipeline(tmp_path / "models" / "one")
    shelf.records[KEY] = record("one", vae="one/vae")
    assert (await plan(planner, "vae")).class_name == "AutoencoderKL"
    shelf.records[KEY] = record("one", vae="one/unet", revision=2)
    with pytest.raises(InvalidModelException, match="UNet2DConditionModel"):
        await plan(planner, "vae")


async def test_a_plan_is_kept_until_a_file_that_it_was_made_from_changes(
    planner: Planner, shelf: Shelf, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    folder = pipeline(models / "one")
    shelf.records[KEY] = record("one")
    first = await plan(planner)
    assert await plan(planner) is first
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps({"_class_name": "AutoencoderKL", "sample_size": 3}))
    second = await plan(planner)
    assert second.config is not None
    assert second.config["sample_size"] == 3
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"vae": [None, None]}))
    with pytest.raises(UnknownSubmodelException):
        await plan(planner)


async def test_a_link_that_leads_to_other_weights_is_a_change(
    planner: Planner, shelf: Shelf, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    weights(models / "blobs" / "old")
    weights(models / "blobs" / "new", fill=1)
    os.utime(models / "blobs" / "new", (1, 1))
    single = models / "vae.safetensors"
    single.symlink_to("blobs/old")
    in_folder = pipeline(models / "one") / "vae" / "diffusion_pytorch_model.safetensors"
    in_folder.unlink()
    in_folder.symlink_to(models / "blobs" / "old")
    other = "cd" * 16
    shelf.records = {KEY: record("one"), other: record("vae.safetensors", key=other, type="vae")}
    shelf.listed[other] = {"vae.safetensors": facts_of(models / "blobs" / "old")}
    before = [await plan(planner), await plan(planner, "", key=other)]
    assert before[1].content_addressed, "a file is listed by its own name, wherever it leads"
    assert [await plan(planner), await plan(planner, "", key=other)] == before
    for link in (single, in_folder):
        link.unlink()
        link.symlink_to(models / "blobs" / "new")
    after = [await plan(planner), await plan(planner, "", key=other)]
    assert [one.files[0].path.name for one in after] == ["new", "new"]


async def test_another_choice_of_files_is_a_change_though_the_old_ones_are_still_there(
    planner: Planner, shelf: Shelf, tmp_path: Path
) -> None:
    folder = pipeline(tmp_path / "models" / "one") / "vae"
    shelf.records[KEY] = record("one")
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "old.safetensors")
    weights(folder / "newer.safetensors", fill=1)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    for name in ("old", "newer"):
        index.write_text(json.dumps({"weight_map": {"a": f"{name}.safetensors"}}))
        assert [f.path.name for f in (await plan(planner)).files] == [f"{name}.safetensors"]
    # One file goes before shards.
    whole = weights(folder / "diffusion_pytorch_model.safetensors", fill=2)
    os.utime(folder, (1, 1))  # a coarse clock may not have gone on since the folder's last change
    assert [f.path for f in (await plan(planner)).files] == [whole]
