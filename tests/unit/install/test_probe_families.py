"""The probe against the true names and shapes of full-size models."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.exceptions import InvalidModelException, UnsafeFormatException
from modelkeep_install.probe import Hints, ProbeResult, Strength, probe
from support.modelshapes import (
    checkpoint_tensors,
    prefixed,
    table,
    write_checkpoint,
    write_pipeline,
    write_safetensors,
    write_vae_folder,
)


def findings(result: ProbeResult, strength: Strength) -> list[str]:
    return [e.finding for e in result.match.evidence if e.strength is strength]


def ruled_out(result: ProbeResult) -> dict[str, str]:
    return {r.candidate: r.why for r in result.match.ruled_out}


@pytest.mark.parametrize(
    ("channels", "variant"), [(4, "normal"), (9, "inpaint"), (5, "depth")], ids=["normal", "inpaint", "depth"]
)
@pytest.mark.parametrize("base", ["sd-1", "sd-2", "sdxl", "sdxl-refiner"])
def test_a_single_file_main_model_shows_its_base_and_variant(
    tmp_path: Path, base: str, channels: int, variant: str
) -> None:
    path = write_checkpoint(tmp_path / "sushi.safetensors", base, channels=channels)
    assert path.stat().st_size > 2_000_000_000
    result = probe(path)
    assert (result.type, result.base, result.format, result.match.settings["variant"]) == (
        "main",
        base,
        "checkpoint",
        variant,
    )
    assert result.match.possible_bases == (base,)
    assert result.match.compatible_bases == ()
    assert {f"base={base}", f"variant={variant}"} <= set(findings(result, Strength.CERTAIN))
    assert {"sd-1", "sd-2", "sdxl", "sdxl-refiner", "VAE", "LoRA"} - {base} == set(ruled_out(result))
    assert result.name == "sushi"
    assert "Stable Diffusion" in result.description
    assert result.size_bytes == path.stat().st_size


def test_a_single_file_names_the_prefixes_of_its_components(tmp_path: Path) -> None:
    result = probe(write_checkpoint(tmp_path / "a.safetensors", "sdxl"))
    assert {part.type: part.path_or_prefix for part in result.match.settings["submodels"]} == {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    }


def test_a_checkpoint_without_its_vae_says_so(tmp_path: Path) -> None:
    tensors = {n: s for n, s in checkpoint_tensors("sd-1").items() if not n.startswith("first_stage_model.")}
    result = probe(write_safetensors(tmp_path / "a.safetensors", tensors))
    assert "vae" not in {part.type for part in result.match.settings["submodels"]}
    assert "no submodel=vae" in findings(result, Strength.CERTAIN)


def test_an_sd_2_file_says_that_it_cannot_show_its_prediction_type(tmp_path: Path) -> None:
    result = probe(write_checkpoint(tmp_path / "a.safetensors", "sd-2"))
    assert result.match.settings.get("prediction_type") is None
    assert any("does not show its prediction type" in e.observation for e in result.match.evidence)


@pytest.mark.parametrize(
    ("metadata", "tensors", "strength"),
    [
        ({"modelspec.prediction_type": "v"}, {}, Strength.LIKELY),
        ({"prediction_type": "v_prediction"}, {}, Strength.LIKELY),
        ({"ss_v_parameterization": "True"}, {}, Strength.LIKELY),
        (None, {"v_pred": []}, Strength.CERTAIN),
        (None, {"ztsnr": []}, Strength.CERTAIN),
        (None, {"edm_vpred.sigma_max": []}, Strength.CERTAIN),
    ],
)
def test_a_prediction_type_that_the_file_states_is_taken(
    tmp_path: Path, metadata: dict[str, str] | None, tensors: dict[str, list[int]], strength: Strength
) -> None:
    path = write_safetensors(
        tmp_path / "a.safetensors", checkpoint_tensors("sd-2") | tensors, metadata=metadata
    )
    result = probe(path)
    assert result.match.settings["prediction_type"] == "v_prediction"
    assert "prediction_type=v_prediction" in findings(result, strength)


def test_a_prediction_that_the_record_has_no_word_for_stays_open(tmp_path: Path) -> None:
    tensors = checkpoint_tensors("sdxl") | {"edm_mean": [4], "edm_std": [4]}
    result = probe(write_safetensors(tmp_path / "playground.safetensors", tensors))
    assert "prediction_type" not in result.match.settings
    assert any("Playground" in e.observation for e in result.match.evidence)


@pytest.mark.parametrize("base", ["sd-1", "sd-2", "sdxl", "sdxl-refiner"])
def test_a_diffusers_folder_shows_base_components_and_prediction_type(tmp_path: Path, base: str) -> None:
    folder = write_pipeline(tmp_path / "sushi", base, prediction_type="v_prediction")
    result = probe(folder)
    assert (result.type, result.base, result.format) == ("main", base, "diffusers")
    assert result.match.settings["variant"] == "normal"
    assert result.match.settings["prediction_type"] == "v_prediction"
    assert {"unet", "vae", "scheduler"} <= {part.type for part in result.match.settings["submodels"]}
    vae = next(part for part in result.match.settings["submodels"] if part.type == "vae")
    assert (vae.path_or_prefix, vae.class_name, vae.library) == ("vae", "AutoencoderKL", "diffusers")
    assert result.files["unet/diffusion_pytorch_model.safetensors"] > 1_000_000_000
    assert result.size_bytes == sum(result.files.values())


@pytest.mark.parametrize(
    ("base", "channels", "class_name", "variant"),
    [
        ("sd-1", 9, "StableDiffusionInpaintPipeline", "inpaint"),
        ("sd-2", 9, "StableDiffusionInpaintPipeline", "inpaint"),
        ("sd-2", 5, "StableDiffusionDepth2ImgPipeline", "depth"),
        ("sdxl", 9, "StableDiffusionXLInpaintPipeline", "inpaint"),
    ],
)
def test_a_folder_shows_its_variant(
    tmp_path: Path, base: str, channels: int, class_name: str, variant: str
) -> None:
    result = probe(write_pipeline(tmp_path / "x", base, channels=channels, class_name=class_name))
    assert (result.base, result.match.settings["variant"]) == (base, variant)


def test_a_pipeline_of_an_unpublished_size_lists_its_possible_bases(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "toy", "sd-1", unet_config={"cross_attention_dim": 32})
    write_safetensors(
        folder / "unet" / "diffusion_pytorch_model.safetensors", {"conv_in.weight": [8, 4, 3, 3]}
    )
    result = probe(folder)
    assert result.base == "sd-1"
    assert result.match.possible_bases == ("sd-1", "sd-2")
    assert findings(result, Strength.LIKELY) == ["base=sd-1", "prediction_type=epsilon"]


def test_a_folder_whose_weights_contradict_its_config_is_refused(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "x", "sd-1", unet_config={"cross_attention_dim": 1024})
    with pytest.raises(InvalidModelException, match="cross_attention_dim 1024"):
        probe(folder)


def test_a_folder_whose_only_weights_are_pickles_is_refused(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "x", "sd-1")
    weights = folder / "text_encoder" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(UnsafeFormatException, match=r"pytorch_model\.bin is a pickle"):
        probe(folder)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".pth"])
def test_a_pickle_is_refused_unread(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"\x80\x04cposix\nsystem\n")
    with pytest.raises(UnsafeFormatException) as caught:
        probe(path)
    assert caught.value.metadata == {"path": str(path), "format": suffix}


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_a_vae_file_lists_all_bases_that_have_such_a_vae(tmp_path: Path, layout: str) -> None:
    result = probe(write_safetensors(tmp_path / "some.safetensors", table(f"vae.{layout}")))
    assert (result.type, result.format, result.base) == ("vae", "checkpoint", "unknown")
    assert result.match.possible_bases == ("sd-1", "sd-2", "sdxl")
    assert result.match.compatible_bases == ("sd-1", "sd-2", "sdxl")
    assert result.match.settings["key_layout"] == layout


def test_a_vae_under_the_checkpoints_prefix_is_a_vae(tmp_path: Path) -> None:
    tensors = prefixed("first_stage_model.", table("vae.ldm"))
    assert probe(write_safetensors(tmp_path / "some.safetensors", tensors)).type == "vae"


@pytest.mark.parametrize(
    ("name", "base", "compatible"),
    [
        ("sdxl_vae.safetensors", "sdxl", ()),
        ("fixFP16ErrorsSDXLLowerMemoryUse_v10-xl.safetensors", "sdxl", ()),
        ("v1-5-vae.safetensors", "sd-1", ("sd-2",)),
        ("sd-v2-1-vae.safetensors", "sd-2", ("sd-1",)),
    ],
)
def test_a_name_chooses_the_base_of_a_vae_as_weak_evidence(
    tmp_path: Path, name: str, base: str, compatible: tuple[str, ...]
) -> None:
    result = probe(write_safetensors(tmp_path / name, table("vae.ldm")))
    assert result.base == base
    assert set(result.match.possible_bases) == {"sd-1", "sd-2", "sdxl"}
    assert result.match.compatible_bases == compatible
    assert findings(result, Strength.WEAK) == [f"base={base}"]


@pytest.mark.parametrize(
    ("factor", "base", "compatible"), [(0.18215, "sd-1", ("sd-2",)), (0.13025, "sdxl", ())]
)
def test_the_scaling_factor_of_a_vae_folder_is_likely_evidence(
    tmp_path: Path, factor: float, base: str, compatible: tuple[str, ...]
) -> None:
    result = probe(write_vae_folder(tmp_path / "some", scaling_factor=factor))
    assert (result.type, result.format, result.base) == ("vae", "diffusers", base)
    assert result.match.compatible_bases == compatible
    assert result.match.settings.get("scaling_factor") == factor
    assert len(result.match.possible_bases) == 3
    assert findings(result, Strength.LIKELY)[0].startswith(f"base={base}")


def test_a_vae_of_sixteen_channels_is_no_stable_diffusion_one(tmp_path: Path) -> None:
    result = probe(write_safetensors(tmp_path / "ae.safetensors", table("vae.flux.diffusers")))
    assert result.match.possible_bases == ("flux", "sd-3")
    assert "16" in ruled_out(result)["sd-1"]


@pytest.mark.parametrize("layout", ["kohya", "peft"])
@pytest.mark.parametrize("base", ["sd-1", "sd-2", "sdxl"])
def test_a_lora_shows_its_base_by_the_widths_of_its_layers(tmp_path: Path, base: str, layout: str) -> None:
    result = probe(write_safetensors(tmp_path / "l.safetensors", table(f"lora.{base}.{layout}")))
    assert (result.type, result.base) == ("lora", base)
    assert result.format == ("lycoris" if layout == "kohya" else "diffusers")
    assert (result.match.settings["key_layout"], result.match.settings.get("rank")) == (layout, 16)


def test_a_folder_with_a_lora_of_diffusers_is_a_lora(tmp_path: Path) -> None:
    folder = tmp_path / "my-lora"
    write_safetensors(folder / "pytorch_lora_weights.safetensors", table("lora.sdxl.peft"))
    result = probe(folder)
    assert (result.type, result.base, result.format, result.name) == ("lora", "sdxl", "diffusers", "my-lora")


def test_a_lora_of_the_text_encoder_alone_lists_the_bases_that_have_it(tmp_path: Path) -> None:
    tensors = {n: s for n, s in table("lora.sd-1.kohya").items() if n.startswith("lora_te_")}
    result = probe(write_safetensors(tmp_path / "l.safetensors", tensors))
    assert result.type == "lora"
    assert result.base == "unknown"
    assert result.match.possible_bases == ("sd-1", "sdxl")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("other.llama-8b", "a language model"),
        ("other.controlnet-sd-1", "a ControlNet"),
        ("text.clip-l.transformers", "a CLIP text encoder"),
        ("unet.sdxl.diffusers", "a UNet alone"),
    ],
)
def test_what_is_of_no_known_family_stays_unknown_and_is_named(tmp_path: Path, name: str, what: str) -> None:
    result = probe(write_safetensors(tmp_path / "sd15-vae-lora.safetensors", table(name)))
    assert not result.known
    assert (result.type, result.base) == ("unknown", "unknown")
    assert set(ruled_out(result)) == {"other kinds", "main model, single file", "VAE", "LoRA"}
    assert ruled_out(result)["other kinds"].startswith(f"{what}, which is not supported yet: ")


def test_a_unet_alone_in_diffusers_layout_is_no_main_model(tmp_path: Path) -> None:
    assert not probe(write_safetensors(tmp_path / "u.safetensors", table("unet.sdxl.diffusers"))).known


def test_a_folder_of_a_language_model_stays_unknown(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "llama" / "model.safetensors", table("other.llama-8b"))
    (tmp_path / "llama" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    result = probe(tmp_path / "llama")
    assert not result.known
    assert "LlamaForCausalLM" in ruled_out(result)["diffusers folder"]


def test_a_pipeline_that_is_not_known_yet_stays_unknown(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "x", "sd-1", class_name="AudioLDMPipeline")
    result = probe(folder)
    assert not result.known
    assert "AudioLDMPipeline" in ruled_out(result)["diffusers folder"]


def test_what_the_caller_says_wins_and_is_told_from_what_was_found(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "l.safetensors", table("other.llama-8b"))
    result = probe(path, Hints(type="text_llm", base="any"))
    assert (result.type, result.base, result.format) == ("text_llm", "any", "checkpoint")
    path = write_checkpoint(tmp_path / "a.safetensors", "sd-1")
    result = probe(path, Hints(base="sdxl"))
    assert result.base == "sdxl"
    assert result.match.settings["variant"] == "normal"
    against = next(e for e in result.match.evidence if e.finding == "base=sdxl")
    assert "although the files say sd-1" in against.observation


def test_a_base_that_the_caller_knows_settles_an_open_one(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "some.safetensors", table("vae.ldm"))
    result = probe(path, Hints(base="sd-1"))
    assert result.base == "sd-1"
    assert result.match.compatible_bases == ("sd-2",)
