"""Sharded folders: what an index of shards names must be there, and every component has its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import InvalidModelException
from modelkeep_install.probe import probe
from support.modelshapes import table, write_pipeline, write_safetensors, write_vae_folder

INDEX = "diffusion_pytorch_model.safetensors.index.json"
SHARDS = [f"diffusion_pytorch_model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]


def write_index(folder: Path, weight_map: Any, name: str = INDEX) -> None:
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def write_sharded_pipeline(folder: Path) -> Path:
    """An SD-1 folder whose UNet lies in three shards, as ``save_pretrained`` with a small limit writes it."""
    write_pipeline(folder, "sd-1")
    unet = folder / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    tensors = list(table("unet.sd-1.diffusers").items())
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(SHARDS):
        part = dict(tensors[number::3])
        write_safetensors(unet / shard, part)
        weight_map |= dict.fromkeys(part, shard)
    write_index(unet, weight_map)
    return folder


def test_a_folder_with_all_its_shards_is_a_main_model(tmp_path: Path) -> None:
    result = probe(write_sharded_pipeline(tmp_path / "m"))
    assert (result.type, result.base, result.match.settings["variant"]) == ("main", "sd-1", "normal")
    assert {f"unet/{shard}" for shard in SHARDS} < set(result.files)


def test_missing_shards_are_named_with_what_to_do(tmp_path: Path) -> None:
    folder = write_sharded_pipeline(tmp_path / "m")
    for shard in SHARDS[1:]:
        (folder / "unet" / shard).unlink()
    with pytest.raises(InvalidModelException, match="fetch the missing files") as caught:
        probe(folder)
    assert caught.value.metadata["path"] == str(folder / "unet" / INDEX)
    for shard in SHARDS:
        assert (shard in caught.value.metadata["detail"]) == (shard != SHARDS[0])


@pytest.mark.parametrize(
    "shard", ["../vae/diffusion_pytorch_model.safetensors", "/etc/passwd", "..", "", "a\\b"]
)
def test_a_shard_outside_the_folder_of_its_index_is_refused(tmp_path: Path, shard: str) -> None:
    folder = write_sharded_pipeline(tmp_path / "m")
    write_index(folder / "unet", {"conv_in.weight": SHARDS[0], "conv_in.bias": shard})
    with pytest.raises(InvalidModelException, match="no plain file names") as caught:
        probe(folder)
    assert repr(shard) in caught.value.metadata["detail"]


@pytest.mark.parametrize(
    "weight_map",
    [None, {}, [], {"a": 1}, {"a": None}, "x"],
    ids=["none", "empty", "list", "int", "null", "text"],
)
def test_an_index_that_lists_no_files_is_refused(tmp_path: Path, weight_map: Any) -> None:
    folder = write_sharded_pipeline(tmp_path / "m")
    write_index(folder / "unet", weight_map)
    with pytest.raises(InvalidModelException, match="weight_map"):
        probe(folder)


def test_the_index_of_a_variant_counts_like_any_other(tmp_path: Path) -> None:
    folder = write_sharded_pipeline(tmp_path / "m")
    name = "diffusion_pytorch_model.safetensors.index.fp16.json"
    write_index(folder / "unet", {"conv_in.weight": "lost.fp16-00001-of-00002.safetensors"}, name)
    with pytest.raises(InvalidModelException, match=r"lost\.fp16-00001-of-00002"):
        probe(folder)


def test_a_vae_folder_and_a_folder_of_transformers_have_their_shards_checked_too(tmp_path: Path) -> None:
    vae = write_vae_folder(tmp_path / "vae")
    write_index(vae, {"encoder.conv_in.weight": SHARDS[0]})
    text = tmp_path / "text"
    write_safetensors(text / "model-00001-of-00002.safetensors", {"a": [1]})
    (text / "config.json").write_text('{"architectures": ["CLIPTextModel"]}')
    second = "model-00002-of-00002.safetensors"
    write_index(text, {"a": "model-00001-of-00002.safetensors", "b": second}, "model.safetensors.index.json")
    for folder, missing in ((vae, SHARDS[0]), (text, second)):
        with pytest.raises(InvalidModelException) as caught:
            probe(folder)
        assert missing in caught.value.metadata["detail"]


def test_an_index_of_hundreds_of_missing_shards_answers_shortly(tmp_path: Path) -> None:
    folder = write_sharded_pipeline(tmp_path / "m")
    write_index(folder / "unet", {f"t{n}": f"part-{n:05}.safetensors" for n in range(5000)})
    with pytest.raises(InvalidModelException, match=r"part-00000\.safetensors.*and 4,990 more") as caught:
        probe(folder)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_a_component_that_has_a_config_and_no_weights_is_refused(tmp_path: Path, component: str) -> None:
    folder = write_pipeline(tmp_path / "m", "sd-1")
    for file in (folder / component).glob("*.safetensors"):
        file.unlink()
    with pytest.raises(InvalidModelException, match="no safetensors weights") as caught:
        probe(folder)
    assert caught.value.metadata["path"] == str(folder / component)
