"""The table of docs/loader.md: every type has its row, and each row is what the loader does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelkeep.exceptions import ModelkeepError
from modelkeep.taxonomy import ModelType
from modelkeep.worker.manifest import Kind
from modelkeep_loader.domain.plan import Planner
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
async def test_a_pickle_is_refused_whatever_it_is_a_model_of(
    planner: Planner, shelf: Shelf, tmp_path: Path, kind: str, suffix: str
) -> None:
    (tmp_path / "models" / f"file{suffix}").write_bytes(b"\x80\x02}q\x00.")
    shelf.records[KEY] = record(f"file{suffix}", type=kind)
    assert await outcome(planner, "vae" if kind == "main" else "") == "UNSAFE_FORMAT"
