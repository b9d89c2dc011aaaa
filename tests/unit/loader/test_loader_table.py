"""The table of docs/loader.md: every type has its row, and each row is what the loader does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelkeep.exceptions import ModelkeepError
from modelkeep.taxonomy import ModelType
from modelkeep.worker.manifest import Kind
from modelkeep_loader.domain.plan import Planner
from support import torchfiles
from support.plans import KEY, Shelf, pipeline, plan, record, weights

DOCS = Path(__file__).resolve().parents[3] / "docs" / "loader.md"
KINDS = {"module": Kind.MODULE, "state dict": Kind.STATE_DICT}
#: Type → a class that a folder of it has; others are VAEs.
CLASSES = {
    "controlnet": "ControlNetModel",
    "t2i_adapter": "T2IAdapter",
    "clip_vision": "CLIPVisionModelWithProjection",
    "clip_embed": "CLIPTextModel",
    "siglip": "SiglipVisionModel",
    "t5_encoder": "T5EncoderModel",
    "wan_t5_encoder": "UMT5EncoderModel",
    "gemma2_encoder": "Gemma2Model",
    "qwen3_encoder": "Qwen3ForCausalLM",
    "qwen_vl_encoder": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl_encoder": "Qwen3VLForConditionalGeneration",
    "mistral_encoder": "MistralForCausalLM",
    "text_llm": "LlamaForCausalLM",
    "prompt_enhancer": "Qwen2ForCausalLM",
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
}
OF_DIFFUSERS = {"controlnet", "t2i_adapter", "vae", "unknown", "onnx", "external_image_generator"}


def rows() -> dict[str, tuple[str, str]]:
    """Type → what a folder of it is, and what one file of it is."""
    text = DOCS.read_text("utf-8").partition("| type | folder |")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines()[2:]]
    return {kind.strip("`"): (folder, file) for kind, folder, file in cells}


def test_every_type_has_its_row() -> None:
    assert rows().keys() == {str(kind) for kind in ModelType}


async def outcome(planner: Planner, submodel: str = "") -> str:
    try:
        found = await plan(planner, submodel)
    except ModelkeepError as error:
        return error.reason
    return next(word for word, kind in KINDS.items() if kind is found.kind)


@pytest.mark.parametrize("kind", sorted({str(kind) for kind in ModelType}))
async def test_a_row_is_what_the_loader_does(
    planner: Planner, shelf: Shelf, tmp_path: Path, kind: str
) -> None:
    folder, file = rows()[kind]
    models = tmp_path / "models"
    if kind == "main":
        # Of one file, tests/contract/test_loader_checkpoints.py has all families.
        assert (folder, file) == ("components", "components")
        pipeline(models / "one")
        shelf.records[KEY] = record("one")
        assert await outcome(planner) == "SUBMODEL_REQUIRED"
        assert await outcome(planner, "vae") == "module"
        return
    name = CLASSES.get(kind, "AutoencoderKL")
    told = {"_class_name": name} if kind in OF_DIFFUSERS else {"architectures": [name]}
    weights(models / "folder" / "model.safetensors")
    (models / "folder" / "config.json").write_text(json.dumps(told))
    shelf.records[KEY] = record("folder", type=kind)
    assert await outcome(planner) == folder
    weights(models / "file.safetensors")
    shelf.records[KEY] = record("file.safetensors", type=kind, revision=2)
    assert await outcome(planner) == file


@pytest.mark.parametrize(
    "kind", sorted({str(kind) for kind in ModelType} - {"onnx", "external_image_generator"})
)
@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt", ".pth"])
async def test_a_bare_pickle_is_refused_whatever_it_is_a_model_of(
    planner: Planner, shelf: Shelf, tmp_path: Path, kind: str, suffix: str
) -> None:
    (tmp_path / "models" / f"file{suffix}").write_bytes(b"\x80\x02}q\x00.")
    shelf.records[KEY] = record(f"file{suffix}", type=kind)
    assert await outcome(planner, "vae" if kind == "main" else "") == "UNSAFE_FORMAT"


@pytest.mark.parametrize("kind", sorted({str(kind) for kind in ModelType} - {"main"}))
async def test_tensors_of_torch_save_are_what_the_row_says_of_safetensors(
    planner: Planner, shelf: Shelf, tmp_path: Path, kind: str
) -> None:
    folder, file = rows()[kind]
    models = tmp_path / "models"
    name = CLASSES.get(kind, "AutoencoderKL")
    told = {"_class_name": name} if kind in OF_DIFFUSERS else {"architectures": [name]}
    stem = "diffusion_pytorch_model" if kind in OF_DIFFUSERS else "pytorch_model"
    torchfiles.tiny(models / "folder" / f"{stem}.bin")
    (models / "folder" / "config.json").write_text(json.dumps(told))
    shelf.records[KEY] = record("folder", type=kind)
    assert await outcome(planner) == folder
    torchfiles.tiny(models / "file.ckpt")
    shelf.records[KEY] = record("file.ckpt", type=kind, revision=2)
    assert await outcome(planner) == file


async def test_safetensors_beside_a_pickle_win_and_shards_of_pickles_are_found(
    planner: Planner, shelf: Shelf, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "folder"
    shards = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    for tensor, shard in shards.items():
        torchfiles.tiny(folder / shard, tensor)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / "training_args.bin").write_bytes(torchfiles.archive(b"\x80\x02cos\nabort\n)R."))
    (folder / "config.json").write_text('{"architectures": ["T5EncoderModel"]}')
    shelf.records[KEY] = record("folder", type="t5_encoder")
    found = await plan(planner, "")
    assert [file.name for file in found.files] == sorted(shards.values())
    weights(folder / "model.safetensors")
    assert [file.name for file in (await plan(planner, "")).files] == ["model.safetensors"]
    (folder / "model.safetensors").unlink()
    (folder / shards["b"]).write_bytes(torchfiles.archive(b"\x80\x02cos\nabort\n)R."))
    assert await outcome(planner) == "UNSAFE_FORMAT"
