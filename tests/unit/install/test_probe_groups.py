"""Every group of tensors is accounted for: what is missing, added or of another shape is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkeep.exceptions import InvalidModelException
from modelkeep_install.domain.draft import check_known
from modelkeep_install.probe import Hints, ProbeResult, Strength, probe
from support.modelshapes import (
    Table,
    checkpoint_tensors,
    prefixed,
    table,
    write_checkpoint,
    write_pipeline,
    write_safetensors,
    write_vae_folder,
)

pytestmark = pytest.mark.timeout(120)  # a checkpoint's header takes its time where others run beside it

BASES = ("sd-1", "sd-2", "sdxl", "sdxl-refiner")
UNET = "model.diffusion_model."
in_one_folder = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def group_of(name: str) -> str:
    """A block or component: as much of a name as people would call a part."""
    return ".".join(name.split(".")[:4])


def probed(tmp_path: Path, tensors: Table, name: str = "some") -> ProbeResult:
    return probe(write_safetensors(tmp_path / f"{name}.safetensors", tensors))


def certain(result: ProbeResult) -> set[str]:
    return {e.finding for e in result.match.evidence if e.strength is Strength.CERTAIN}


def told(result: ProbeResult, finding: str) -> str:
    return next((e.observation for e in result.match.evidence if e.finding == finding), "")


# ---- main models ------------------------------------------------------------------------------------------
@in_one_folder
@given(base=st.sampled_from(BASES), draw=st.data())
def test_a_main_model_without_a_group_is_told_as_such(tmp_path: Path, base: str, draw: st.DataObject) -> None:
    tensors = checkpoint_tensors(base)
    groups = sorted({group_of(name) for name in tensors})
    lost = draw.draw(st.sampled_from([group for group in groups if group.startswith(UNET)]))
    result = probed(tmp_path, {n: s for n, s in tensors.items() if group_of(n) != lost})
    assert result.base in (base, "unknown")
    if result.known:
        assert "type=main" not in certain(result)
        assert "layers" in told(result, "missing")
    else:
        assert any(item.near or "no tensor" in item.why for item in result.match.ruled_out)


@in_one_folder
@given(
    base=st.sampled_from(BASES),
    name=st.from_regex(r"\A[a-z]{3,9}\.[a-z]{3,9}\.[0-9]\.weight\Z"),
    inside=st.booleans(),
)
def test_a_group_that_no_family_has_is_listed_or_the_reason(
    tmp_path: Path, base: str, name: str, inside: bool
) -> None:
    name = UNET + name if inside else name
    result = probed(tmp_path, checkpoint_tensors(base) | {name: [8, 8]})
    if inside:
        assert (result.type, result.base) == ("unknown", "unknown")
        assert any(item.near for item in result.match.ruled_out)
    else:
        assert (result.type, result.base) == ("main", base)
        assert "type=main" not in certain(result)
        assert name in told(result, "also")


@in_one_folder
@given(base=st.sampled_from(BASES), draw=st.data())
def test_a_tensor_of_another_shape_is_the_reason(tmp_path: Path, base: str, draw: st.DataObject) -> None:
    tensors = checkpoint_tensors(base)
    inside = sorted(n for n, s in tensors.items() if n.startswith(UNET) and s)
    changed = draw.draw(st.sampled_from(inside))
    tensors[changed] = [tensors[changed][0] + 1, *tensors[changed][1:]]
    result = probed(tmp_path, tensors)
    assert not result.known
    assert any(item.near or "convolution" in item.why for item in result.match.ruled_out)


def test_what_lies_beside_every_published_checkpoint_keeps_it_certain(tmp_path: Path) -> None:
    beside: Table = {
        **dict.fromkeys(
            ("alphas_cumprod", "alphas_cumprod_prev", "betas", "sqrt_recipm1_alphas_cumprod"), (1000,)
        ),
        **dict.fromkeys(("sqrt_one_minus_alphas_cumprod", "posterior_mean_coef1", "lvlb_weights"), (1000,)),
        **{"log_one_minus_alphas_cumprod": [1000], "model_ema.decay": [], "model_ema.num_updates": []},
        **{
            "cond_stage_model.transformer.text_model.embeddings.position_ids": [1, 77],
            "denoiser.sigmas": [1000],
        },
    }
    result = probed(tmp_path, {**checkpoint_tensors("sd-1"), **beside})
    assert {"type=main", "base=sd-1"} <= certain(result)


def test_a_distilled_model_is_still_one_of_its_family_as_likely(tmp_path: Path) -> None:
    kept = {
        name: shape
        for name, shape in checkpoint_tensors("sdxl").items()
        if "middle_block.1." not in name and not any(f"transformer_blocks.{n}." in name for n in range(4, 10))
    }
    result = probed(tmp_path, kept)
    assert (result.type, result.base) == ("main", "sdxl")
    assert not {"type=main", "base=sdxl"} & certain(result)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({f"{UNET}label_emb.0.0.weight": [1280, 1536]}, "layers that no Stable Diffusion 1 has"),
        (
            {f"{UNET}input_blocks.1.1.time_stack.0.norm_in.weight": [320]},
            "layers that no Stable Diffusion 1 has",
        ),
        ({f"{UNET}input_blocks.0.0.weight": [320, 8, 3, 3]}, "takes 8 channels"),
    ],
    ids=["unCLIP", "video", "InstructPix2Pix"],
)
def test_a_relative_that_no_family_is_stays_unknown_with_the_reason(
    tmp_path: Path, changes: Table, why: str
) -> None:
    path = write_safetensors(tmp_path / "sd15.safetensors", {**checkpoint_tensors("sd-1"), **changes})
    with pytest.raises(InvalidModelException, match=why):
        check_known(probe(path), path)


@pytest.mark.parametrize("base", BASES)
def test_the_encoders_half_of_a_unet_is_no_main_model(tmp_path: Path, base: str) -> None:
    tensors = {
        n: s
        for n, s in checkpoint_tensors(base).items()
        if ".output_blocks." not in n and f"{UNET}out." not in n
    }
    assert not probed(tmp_path, tensors).known


@pytest.mark.parametrize(
    ("base", "lost", "part"),
    [
        ("sd-1", "first_stage_model.decoder.up.0.", "vae"),
        ("sd-1", "cond_stage_model.transformer.text_model.encoder.layers.11.", "text_encoder"),
        ("sd-2", "cond_stage_model.model.transformer.resblocks.7.", "text_encoder"),
        ("sdxl", "conditioner.embedders.1.model.ln_final.", "text_encoder_2"),
        ("sdxl-refiner", "first_stage_model.encoder.conv_in.", "vae"),
    ],
)
def test_a_component_with_a_part_missing_is_no_certain_one(
    tmp_path: Path, base: str, lost: str, part: str
) -> None:
    whole = probed(tmp_path, checkpoint_tensors(base))
    assert f"submodel={part}" in certain(whole)
    assert not told(whole, "missing")
    kept = {n: s for n, s in checkpoint_tensors(base).items() if not n.startswith(lost)}
    result = probed(tmp_path, kept)
    assert f"submodel={part}" not in certain(result)
    assert f"of {part}: " in told(result, "missing")


# ---- autoencoders -----------------------------------------------------------------------------------------
@in_one_folder
@given(layout=st.sampled_from(["ldm", "diffusers"]), draw=st.data())
def test_a_vae_without_a_group_is_no_certain_one(tmp_path: Path, layout: str, draw: st.DataObject) -> None:
    tensors = table(f"vae.{layout}")
    lost = draw.draw(st.sampled_from(sorted({group_of(name) for name in tensors} - {"quant_conv.weight"})))
    kept = {n: s for n, s in tensors.items() if group_of(n) != lost}
    result = probed(tmp_path, kept)
    if lost.startswith(("quant_conv", "post_quant_conv")):
        assert "type=vae" in certain(result)
    else:
        assert "type=vae" not in certain(result)


@in_one_folder
@given(layout=st.sampled_from(["ldm", "diffusers"]), draw=st.data())
def test_a_vae_with_a_layer_of_another_kind_is_none(tmp_path: Path, layout: str, draw: st.DataObject) -> None:
    tensors = dict(table(f"vae.{layout}"))
    changed = draw.draw(st.sampled_from(sorted(n for n in tensors if ".mid" in n and n.endswith(".weight"))))
    tensors[changed] = [tensors[changed][0] + 1, *tensors[changed][1:]]
    assert not probed(tmp_path, tensors).known
    more = table(f"vae.{layout}") | {"encoder.attn.0.weight": [8, 8]}
    assert not probed(tmp_path, more).known


@pytest.mark.parametrize("levels", [3, 5])
def test_an_autoencoder_fits_a_base_only_with_its_number_of_levels(tmp_path: Path, levels: int) -> None:
    widths = [128, 256, 512, 512, 512][:levels]
    folder = write_vae_folder(tmp_path / "v", block_out_channels=widths)
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", {"quant_conv.weight": [8, 8, 1, 1]})
    with pytest.raises(InvalidModelException, match=f"an autoencoder of {levels} levels"):
        check_known(probe(folder), folder)
    if levels == 3:
        tensors = {n: s for n, s in table("vae.ldm").items() if ".down.3." not in n and ".up.3." not in n}
        assert not probed(tmp_path, tensors, "sdxl_vae").known


def test_a_folder_whose_config_and_weights_have_other_levels_is_named(tmp_path: Path) -> None:
    folder = write_vae_folder(tmp_path / "v", block_out_channels=[128, 256, 512, 512])
    check_known(probe(folder), folder)
    levels = [n for n in table("vae.diffusers") if "down_blocks.3" not in n]
    weights = {n: table("vae.diffusers")[n] for n in levels}
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", weights)
    with pytest.raises(InvalidModelException, match=r"block_out_channels .* where the weights have"):
        check_known(probe(folder), folder)


def test_what_only_a_config_says_is_not_certain(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "m", "sd-1")
    for part, first in (("unet", "conv_in.weight"), ("vae", "decoder.conv_in.weight")):
        file = folder / part / "diffusion_pytorch_model.safetensors"
        tensors = table("unet.sd-1.diffusers" if part == "unet" else "vae.diffusers")
        write_safetensors(file, {n: s for n, s in tensors.items() if n != first})
    assert not {"variant=normal", "base=sd-1"} & certain(probe(folder))
    assert not {"type=vae", "base=sd-1|sd-2|sdxl"} & certain(probe(folder / "vae"))


def test_an_autoencoder_fits_a_base_only_with_its_scaling(tmp_path: Path) -> None:
    folder = write_vae_folder(tmp_path / "sdxl-vae", scaling_factor=0.08333)
    result = probe(folder)
    assert (result.type, result.base, result.match.possible_bases) == ("vae", "unknown", ())
    with pytest.raises(InvalidModelException, match="with base given"):
        check_known(result, folder)
    check_known(probe(folder, Hints(base="sd-1")), folder)


def test_a_vae_narrower_than_published_ones_is_one_and_says_so(tmp_path: Path) -> None:
    tensors = {n: [d // 4 if d >= 128 else d for d in s] for n, s in table("vae.ldm").items()}
    result = probed(tmp_path, tensors)
    assert result.type == "vae"
    assert any("wide" in e.observation for e in result.match.evidence if e.strength is Strength.LIKELY)


def test_the_names_that_attention_had_in_older_folders_are_known(tmp_path: Path) -> None:
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = {}
    for name, shape in table("vae.diffusers").items():
        for new, then in old.items():
            name = name.replace(new, then)
        tensors[name] = shape
    assert "type=vae" in certain(probed(tmp_path, tensors))
    query = next(name for name in tensors if name.endswith(".query.weight"))
    both = tensors | {query.replace("query", "to_q"): tensors[query]}
    assert probed(tmp_path, both).type != "vae", "one of the two would be left out in silence"


# ---- folders ----------------------------------------------------------------------------------------------
def test_a_pipelines_unet_with_other_layers_is_no_certain_base(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "m", "sdxl")
    assert "base=sdxl" in certain(probe(folder))
    more = table("unet.sdxl.diffusers") | {"encoder_hid_proj.weight": [2048, 4096]}
    write_safetensors(folder / "unet" / "diffusion_pytorch_model.safetensors", more)
    result = probe(folder)
    assert "base=sdxl" not in certain(result)
    assert "encoder_hid_proj.weight" in told(result, "also")


# ---- quantised weights ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("beside", "format_"),
    [
        ("absmax", "bnb_quantized_nf4b"),
        ("quant_state.bitsandbytes__nf4", "bnb_quantized_nf4b"),
        ("SCB", "bnb_quantized_int8b"),
        ("weight_scale_2", "checkpoint"),
    ],
)
def test_a_quantised_file_is_named_with_its_format_and_taken_only_by_who_knows_it(
    tmp_path: Path, beside: str, format_: str
) -> None:
    tensors = checkpoint_tensors("sdxl")
    name = f"{UNET}middle_block.1.proj_in.weight"
    ending = f"{name}.{beside}" if beside[0] in "aq" else f"{name.removesuffix('weight')}{beside}"
    path = write_safetensors(tmp_path / "a.safetensors", tensors | {ending: [1]})
    with pytest.raises(InvalidModelException, match=r"quantised .*cannot be lent"):
        check_known(probe(path), path)
    result = probe(path, Hints(type="main", base="sdxl"))
    check_known(result, path)
    assert result.format == format_


def test_a_file_of_float8_beside_scales_is_what_its_shapes_say(tmp_path: Path) -> None:
    tensors = checkpoint_tensors("sdxl")
    name = f"{UNET}middle_block.1.proj_in.scale_weight"
    result = probe(write_safetensors(tmp_path / "a.safetensors", tensors | {name: []}))
    assert (result.type, result.base, result.format) == ("main", "sdxl", "checkpoint")


def test_a_component_with_quantised_weights_is_named(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "m", "sd-1")
    weights = folder / "text_encoder" / "model.safetensors"
    write_safetensors(weights, table("text.clip-l.transformers") | {"text_model.x.SCB": [768]})
    with pytest.raises(InvalidModelException, match=r"model\.safetensors holds quantised weights .*x\.SCB"):
        probe(folder)
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    write_safetensors(weights, table("text.clip-l.transformers"))
    with pytest.raises(InvalidModelException, match=r"quantised weights .*cannot be lent"):
        probe(folder)


def test_a_plain_cast_to_eight_bits_is_no_quantisation(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.safetensors", "sd-1", dtype="F8_E4M3")
    assert probe(path).known


def test_prefixed_vae_tensors_beside_a_vae_are_more_than_one(tmp_path: Path) -> None:
    both = table("vae.ldm") | prefixed("first_stage_model.", table("vae.ldm"))
    assert not probed(tmp_path, both).known
