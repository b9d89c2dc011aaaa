"""The probe against files and folders that are odd, damaged or made to hurt."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from modelkeep.exceptions import InvalidModelException, SourceNotFoundException
from modelkeep_install.probe import Hints, list_files, probe
from support.modelshapes import checkpoint_tensors, prefixed, table, write_pipeline, write_safetensors

BASES = ["sd-1", "sd-2", "sdxl"]


# ---- kinds ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("base", BASES)
def test_an_adapter_that_peft_saved_itself_is_a_lora(tmp_path: Path, base: str) -> None:
    tensors = {
        f"base_model.model.{name.removeprefix('unet.')}": shape
        for name, shape in table(f"lora.{base}.peft").items()
        if name.startswith("unet.")
    }
    result = probe(write_safetensors(tmp_path / "adapter_model.safetensors", tensors))
    assert (result.type, result.base, result.match.settings["key_layout"]) == ("lora", base, "peft")


def test_an_adapter_that_peft_saved_for_a_text_encoder_is_a_lora(tmp_path: Path) -> None:
    layer = "base_model.model.text_model.encoder.layers.0.self_attn.q_proj"
    tensors = {f"{layer}.lora_A.weight": [8, 1024], f"{layer}.lora_B.weight": [1024, 8]}
    result = probe(write_safetensors(tmp_path / "adapter_model.safetensors", tensors))
    assert (result.type, result.base) == ("lora", "sd-2")


def test_a_lora_with_the_old_text_encoder_keys_of_diffusers_is_a_lora(tmp_path: Path) -> None:
    unet = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora"
    text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer"
    tensors = {
        f"{unet}.down.weight": [4, 768],
        f"{unet}.up.weight": [320, 4],
        f"{text}.down.weight": [4, 768],
        f"{text}.up.weight": [768, 4],
    }
    result = probe(write_safetensors(tmp_path / "a.safetensors", tensors))
    assert (result.type, result.base, result.match.settings["key_layout"]) == ("lora", "sd-1", "diffusers")


def test_a_controlnet_that_carries_its_main_model_is_no_main_model(tmp_path: Path) -> None:
    tensors = checkpoint_tensors("sd-1") | prefixed(
        "control_model.", {"zero_convs.0.0.weight": [320, 320, 1, 1]}
    )
    result = probe(write_safetensors(tmp_path / "control_sd15_canny.safetensors", tensors))
    assert result.type == "unknown"
    assert any("ControlNet" in item.why for item in result.match.ruled_out)


@pytest.mark.parametrize(
    "tensors",
    [
        {"emb_params": [4, 768]},
        {"clip_l": [4, 768], "clip_g": [4, 1280]},
        table("text.clip-l.transformers"),
        table("other.llama-8b"),
        table("other.controlnet-sd-1"),
    ],
    ids=["textual inversion", "textual inversion of SDXL", "CLIP alone", "Llama", "ControlNet"],
)
def test_what_no_family_knows_stays_unknown(tmp_path: Path, tensors: dict[str, list[int]]) -> None:
    assert probe(write_safetensors(tmp_path / "sd-1.safetensors", tensors)).type == "unknown"


# ---- what the caller knows --------------------------------------------------------------------------------
def test_a_base_that_the_caller_gives_takes_what_fitted_the_name_along(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "sd-1-vae.safetensors", table("vae.ldm"))
    assert probe(path).match.compatible_bases == ("sd-2",)
    result = probe(path, Hints(base="sdxl"))
    assert (result.base, result.match.compatible_bases) == ("sdxl", ())
    assert probe(path, Hints(base="sd-2")).match.compatible_bases == ("sd-1",)


def test_a_lora_fits_only_the_base_that_its_name_chooses(tmp_path: Path) -> None:
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"
    tensors = {f"{layer}.lora_A.weight": [4, 320], f"{layer}.lora_B.weight": [320, 4]}
    path = write_safetensors(tmp_path / "style.safetensors", tensors)
    assert "sd-2" in probe(path).match.compatible_bases
    result = probe(path.rename(tmp_path / "style_sd-1.safetensors"))
    assert (result.base, result.match.compatible_bases) == ("sd-1", ())


# ---- folders ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "config",
    [
        '{"architectures": 5}',
        '{"architectures": {"a": 1}}',
        '{"_class_name": ["AutoencoderKL"]}',
        f'{{"_class_name": "{"x" * 100_000}"}}',
    ],
    ids=["a number", "an object", "a list", "a long text"],
)
def test_a_config_of_odd_types_is_unknown(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    result = probe(tmp_path)
    assert result.type == "unknown"
    assert all(len(item.why) < 500 for item in result.match.ruled_out)


@pytest.mark.parametrize(
    "value",
    ["NaN", "-Infinity", "1e999", "1" + 400 * "0", '"\\ud800"', '1, "_class_name": 2', "[" * 50 + "]" * 50],
    ids=["no number", "infinite", "too large", "huge", "no Unicode", "a key twice", "deep"],
)
def test_a_config_that_no_message_can_carry_is_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "config.json").write_text(f'{{"_class_name": "AutoencoderKL", "scaling_factor": {value}}}')
    with pytest.raises(InvalidModelException, match=r"config\.json"):
        probe(tmp_path)


@pytest.mark.parametrize("factor", ["1e8", "-1", "true"], ids=["huge", "negative", "no number"])
def test_a_scaling_factor_that_no_model_has_is_left_out(tmp_path: Path, factor: str) -> None:
    folder = write_pipeline(tmp_path / "m", "sd-1") / "vae"
    config = '{"_class_name": "AutoencoderKL", "latent_channels": 4, "scaling_factor": FACTOR}'
    (folder / "config.json").write_text(config.replace("FACTOR", factor))
    assert probe(folder).match.settings.get("scaling_factor") is None


@pytest.mark.parametrize("name", [b"/vae/\xff.txt", b"/\xff/a.txt"], ids=["file", "folder"])
def test_a_name_that_is_no_utf_8_is_refused_with_what_to_do(tmp_path: Path, name: bytes) -> None:
    folder = write_pipeline(tmp_path / "m", "sd-1")
    path = Path(os.fsdecode(os.fsencode(folder) + name))
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(InvalidModelException, match="Rename or remove it"):
        probe(folder)


def test_a_model_index_made_to_swell_the_answer_is_cut(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "m", "sd-1")
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(
        json.dumps(index | {"y" * 100_000: ["x", "x" * 100_000], "vae": ["diffusers", "z" * 100_000]})
    )
    match = probe(folder).match
    assert all(len(e.finding) + len(e.observation) < 600 for e in match.evidence)
    assert all(len(part.class_name) <= 256 for part in match.settings["submodels"])
    path.write_text(json.dumps(index | {f"part{n}": ["x", "y"] for n in range(30_000)}))
    with pytest.raises(InvalidModelException, match="more than any pipeline has"):
        probe(folder)


def test_a_link_to_nothing_inside_a_folder_is_named(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "m", "sd-1")
    (folder / "vae" / "lost.safetensors").symlink_to("nowhere")
    with pytest.raises(SourceNotFoundException, match=r"lost\.safetensors is a link to nothing"):
        probe(folder)


def test_every_folder_and_every_link_of_a_model_is_checked_and_no_plain_file(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "m", "sd-1")
    (folder / "vae" / "link.txt").symlink_to("config.json")
    checked: list[Path] = []
    files = list_files(folder, checked.append)
    assert {path for path in checked if not path.is_dir()} == {folder / "vae" / "link.txt"}
    assert {(folder / name).parent for name in files.files} <= set(checked)
