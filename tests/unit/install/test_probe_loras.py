"""LoRA files: what belongs to one, how its base follows from all of its layers, and what stays open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkeep.configs.wire import kind_violations
from modelkeep.exceptions import InvalidModelException
from modelkeep.taxonomy import ModelType
from modelkeep_install.domain.draft import check_known, draft_of
from modelkeep_install.probe import Hints, ProbeResult, Strength, probe
from support.adaptershapes import ALGORITHMS, lora, unet_layers
from support.modelshapes import Table, table, write_safetensors

SD_BASES = ("sd-1", "sd-2", "sdxl", "sdxl-refiner")
in_one_folder = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def probed(tmp_path: Path, tensors: Table, name: str = "style", **kwargs: object) -> ProbeResult:
    path = write_safetensors(tmp_path / f"{name}.safetensors", tensors)
    return probe(path, **kwargs)  # type: ignore[arg-type]


def findings(result: ProbeResult, strength: Strength | None = None) -> list[str]:
    return [e.finding for e in result.match.evidence if strength in (None, e.strength)]


def kinds(result: ProbeResult) -> tuple[str, str, str]:
    return result.type, result.base, result.format


# ---- algorithms -------------------------------------------------------------------------------------------
WRITERS = [(name, writer) for name, writers in ALGORITHMS.items() for writer in writers]


@pytest.mark.parametrize(("algorithm", "write"), WRITERS, ids=[w.__name__ for _, w in WRITERS])
@pytest.mark.parametrize(("base", "layout"), [("sd-1", "diffusers"), ("sdxl", "ldm"), ("sdxl", "diffusers")])
def test_each_algorithm_on_every_layer_is_a_lora_of_its_base(
    tmp_path: Path, base: str, layout: str, algorithm: str, write: Callable[[str, Sequence[int]], Table]
) -> None:
    layers = unet_layers(base, layout)
    tensors = {k: v for n, s in layers.items() for k, v in write(f"lora_unet_{n}", s).items()}
    result = probed(tmp_path, tensors)
    assert (result.type, result.format) == ("lora", "lycoris")
    assert [f for f in findings(result) if f.startswith("algorithm=")] == [f"algorithm={algorithm}"]
    assert "also" not in findings(result)
    # neither shows how many features of text a layer takes
    assert base in result.match.possible_bases if algorithm in ("oft", "ia3") else result.base == base
    assert set(result.match.possible_bases) <= ({"sd-1", "sd-2"} if base == "sd-1" else {base})


PEFT: dict[str, dict[str, list[int]]] = {
    "lora": {"lora_A.weight": [8, 768], "lora_B.weight": [320, 8], "lora_B.bias": [320]},
    "dora": {"lora_A.weight": [8, 768], "lora_B.weight": [320, 8], "lora_magnitude_vector": [320]},
    "lora (AdaLoRA)": {"lora_A": [8, 768], "lora_B": [320, 8], "lora_E": [8, 1]},
    "lora (named)": {"lora_A.mine.weight": [8, 768], "lora_B.mine.weight": [320, 8]},
    "loha": {
        **{"hada_w1_a": [320, 8], "hada_w1_b": [8, 768]},
        **{"hada_w2_a": [320, 8], "hada_w2_b": [8, 768]},
    },
    "lokr": {"lokr_w1": [16, 24], "lokr_w2_a": [20, 8], "lokr_w2_b": [8, 32]},
    "oft": {"oft_R.weight": [8, 780]},
    "oft (BOFT)": {"boft_R": [1, 40, 8, 8], "boft_s": [320, 1]},
    "ia3": {"ia3_l": [320, 1]},
}


@pytest.mark.parametrize("name", PEFT)
def test_what_peft_writes_is_a_lora_whatever_its_algorithm(tmp_path: Path, name: str) -> None:
    layer = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    result = probed(tmp_path, {f"{layer}.{part}": shape for part, shape in PEFT[name].items()})
    assert (result.type, result.match.settings["key_layout"]) == ("lora", "peft")
    assert f"algorithm={name.partition(' ')[0]}" in findings(result)
    assert "also" not in findings(result)
    assert "sd-1" in result.match.possible_bases
    assert "sdxl" not in result.match.possible_bases


def test_norms_that_are_trained_along_are_part_of_a_lora(tmp_path: Path) -> None:
    tensors = dict(table("lora.sdxl.kohya"))
    for norm, width in {
        "input_blocks_4_1_norm": 640,
        "middle_block_1_transformer_blocks_0_norm2": 1280,
    }.items():
        tensors |= {f"lora_unet_{norm}.w_norm": [width], f"lora_unet_{norm}.b_norm": [width]}
    result = probed(tmp_path, tensors)
    assert kinds(result) == ("lora", "sdxl", "lycoris")
    assert "also" not in findings(result)


@pytest.mark.parametrize(
    ("file", "layers"),
    [
        (
            "lora.sdxl.kohya",
            {
                **{"time_embed_0": [1280, 320], "time_embed_2": [1280, 1280], "label_emb_0_0": [1280, 2816]},
                **{
                    "label_emb_0_2": [1280, 1280],
                    "input_blocks_0_0": [320, 4, 3, 3],
                    "out_2": [4, 320, 3, 3],
                },
            },
        ),
        (
            "lora.sd-1.kohya",
            {
                **{"conv_in": [320, 4, 3, 3], "conv_out": [4, 320, 3, 3]},
                **{"time_embedding_linear_1": [1280, 320], "time_embedding_linear_2": [1280, 1280]},
            },
        ),
        ("lora.sd-2.kohya", {"conv_in": [320, 9, 3, 3]}),
    ],
)
def test_layers_outside_the_blocks_change_nothing_about_a_lora(
    tmp_path: Path, file: str, layers: Mapping[str, list[int]]
) -> None:
    plain = probed(tmp_path, table(file))
    more = {k: v for name, shape in layers.items() for k, v in lora(f"lora_unet_{name}", shape).items()}
    result = probed(tmp_path, table(file) | more)
    assert kinds(result) == kinds(plain)
    assert "also" not in findings(result)


# ---- any part of a LoRA, and whatever else ----------------------------------------------------------------
def layers_of(file: str) -> dict[str, dict[str, list[int]]]:
    found: dict[str, dict[str, list[int]]] = {}
    for name, shape in table(file).items():
        found.setdefault(name.partition(".lora")[0].partition(".alpha")[0], {})[name] = shape
    return found


FILES = st.sampled_from(
    [f"lora.{base}.{layout}" for base in ("sd-1", "sd-2", "sdxl") for layout in ("kohya", "peft")]
)


@in_one_folder
@given(file=FILES, draw=st.data())
def test_of_any_layers_of_a_lora_no_other_base_follows(
    tmp_path: Path, file: str, draw: st.DataObject
) -> None:
    layers = layers_of(file)
    kept = draw.draw(st.lists(st.sampled_from(sorted(layers)), min_size=1, max_size=12, unique=True))
    result = probed(tmp_path, {name: shape for layer in kept for name, shape in layers[layer].items()})
    base = file.split(".")[1]
    assert result.type == "lora"
    assert base in result.match.possible_bases
    assert result.base in (base, "unknown")


@in_one_folder
@given(file=FILES, draw=st.data())
def test_one_layer_of_another_shape_rules_its_base_out(
    tmp_path: Path, file: str, draw: st.DataObject
) -> None:
    tensors = dict(table(file))
    downs = sorted(n for n in tensors if n.endswith((".lora_down.weight", ".lora_A.weight")))
    changed = draw.draw(st.sampled_from(downs))
    tensors[changed] = [tensors[changed][0], tensors[changed][1] + 1, *tensors[changed][2:]]
    result = probed(tmp_path, tensors)
    assert result.base != file.split(".")[1]


FOREIGN: dict[str, dict[str, list[int]]] = {
    "a single tensor": {"noise_offset": [1]},
    "embeddings of words": {"bundle_emb.cat.string_to_param.*": [4, 768]},
    "half a pair": {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": [4, 1280]},
    "layers of no base": lora("lora_unet_my_own_block_0", [320, 320]),
    "an alpha alone": {"lora_unet_conv_in.alpha": []},
    "a text encoder's embedding": {"text_model.embeddings.token_embedding.weight": [49409, 768]},
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("file", ["lora.sd-1.kohya", "lora.sd-2.peft", "lora.sdxl.kohya"])
def test_whatever_else_is_in_a_lora_is_listed_and_lowers_the_strength(
    tmp_path: Path, file: str, what: str
) -> None:
    result = probed(tmp_path, table(file) | FOREIGN[what])
    assert (result.type, result.base) == ("lora", file.split(".")[1])
    also = [e.observation for e in result.match.evidence if e.finding == "also"]
    assert len(also) == 1
    name = next(iter(FOREIGN[what]))
    assert name.partition(".")[0] in also[0]
    if what != "embeddings of words":
        assert not {"type=lora", f"base={result.base}"} & set(findings(result, Strength.CERTAIN))


@pytest.mark.parametrize("base", SD_BASES)
def test_shapes_beat_names(tmp_path: Path, base: str) -> None:
    layers = unet_layers(base)
    tensors = {k: v for n, s in layers.items() for k, v in lora(f"lora_unet_{n}", s).items()}
    for other in SD_BASES:
        assert probed(tmp_path, tensors, name=f"{other}-style").base == base


# ---- other models' LoRAs ----------------------------------------------------------------------------------
_MOTION = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0"
OTHERS: dict[str, Table] = {
    "FLUX": lora("lora_unet_double_blocks_0_img_attn_qkv", [9216, 3072])
    | lora("lora_te1_text_model_encoder_layers_0_mlp_fc1", [3072, 768]),
    "Stable Diffusion 3": lora("lora_unet_joint_blocks_0_x_block_attn_qkv", [4608, 1536])
    | lora("lora_te1_text_model_encoder_layers_0_mlp_fc1", [3072, 768]),
    "Wan": {
        "diffusion_model.blocks.0.self_attn.q.lora_A.weight": [16, 5120],
        "diffusion_model.blocks.0.self_attn.q.lora_B.weight": [5120, 16],
    },
    "a language model": {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": [16, 4096],
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": [4096, 16],
    },
    "a motion module of AnimateDiff": {
        f"{_MOTION}.attention_blocks.0.processor.{k}": s
        for k, s in {"to_q_lora.down.weight": [4, 320], "to_q_lora.up.weight": [320, 4]}.items()
    },
    "Kolors": dict(table("lora.sdxl.peft"))
    | {"unet.encoder_hid_proj.lora_A.weight": [16, 4096], "unet.encoder_hid_proj.lora_B.weight": [2048, 16]},
    "an IP adapter": {
        "ip_adapter.0.to_q_lora.down.weight": [128, 320],
        "ip_adapter.0.to_q_lora.up.weight": [320, 128],
        "image_proj.proj.0.weight": [1024, 512],
    },
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_lora_of_another_family_is_told_as_what_it_is_and_stays_unknown(tmp_path: Path, what: str) -> None:
    result = probed(tmp_path, OTHERS[what], name="sd-1-lora")
    assert kinds(result) == ("unknown", "unknown", "checkpoint")
    near = [item for item in result.match.ruled_out if item.near]
    assert near
    assert what in near[0].why
    with pytest.raises(InvalidModelException, match=what):
        check_known(result, tmp_path / "sd-1-lora.safetensors")


def test_a_lora_for_the_layers_that_kolors_shares_is_sdxls_as_likely_only(tmp_path: Path) -> None:
    shared = probed(tmp_path, table("lora.sdxl.peft"))
    assert shared.base == "sdxl"
    assert "base=sdxl" in findings(shared, Strength.LIKELY)
    assert any("Kolors" in e.observation for e in shared.match.evidence)
    own = probed(tmp_path, table("lora.sdxl.kohya"))
    assert "base=sdxl" in findings(own, Strength.CERTAIN)


def test_text_encoders_alone_do_not_make_a_base_certain(tmp_path: Path) -> None:
    text = {n: s for n, s in table("lora.sdxl.kohya").items() if n.startswith("lora_te")}
    result = probed(tmp_path, text)
    assert (result.type, result.base) == ("lora", "sdxl")
    assert "base=sdxl" in findings(result, Strength.LIKELY)


def test_a_lora_of_halves_is_told_as_one(tmp_path: Path) -> None:
    halves = {n: s for n, s in table("lora.sdxl.kohya").items() if "lora_up" not in n}
    path = write_safetensors(tmp_path / "a.safetensors", halves)
    with pytest.raises(InvalidModelException, match="a LoRA of which halves are missing"):
        check_known(probe(path), path)


def test_a_name_that_speaks_of_kolors_leaves_the_base_open(tmp_path: Path) -> None:
    result = probed(tmp_path, table("lora.sdxl.peft"), name="kolors-pixel-art")
    assert (result.type, result.base) == ("lora", "unknown")
    assert any("Kolors" in e.observation for e in result.match.evidence if e.strength is Strength.WEAK)
    assert probed(tmp_path, table("lora.sdxl.kohya"), name="kolors-pixel-art").base == "sdxl"


def test_a_lora_with_megabytes_of_notes_is_taken(tmp_path: Path) -> None:
    notes = {"ss_tag_frequency": "tag, " * 900_000, "modelspec.thumbnail": "A" * 5_000_000}
    path = write_safetensors(tmp_path / "a.safetensors", table("lora.sd-1.kohya"), metadata=notes)
    assert path.stat().st_size > 9_500_000
    assert kinds(probe(path)) == ("lora", "sd-1", "lycoris")


# ---- damage -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rank", [0, 1 << 17, 1 << 40])
def test_an_absurd_rank_is_refused_by_the_probe(tmp_path: Path, rank: int) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    down, up = ([rank, 0], [0, rank]) if rank > 1 << 20 else ([rank, 320], [320, rank])
    path = write_safetensors(
        tmp_path / "a.safetensors", {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    )
    with pytest.raises(InvalidModelException, match="rank"):
        probe(path)


# ---- what the caller says ---------------------------------------------------------------------------------
@pytest.mark.parametrize("is_folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize("type_", sorted(set(ModelType) - {ModelType.Unknown}))
def test_a_type_that_the_caller_gives_takes_the_format_that_fits(
    tmp_path: Path, type_: ModelType, is_folder: bool
) -> None:
    path = write_safetensors(tmp_path / "m" / "x.safetensors", {"a": [1]})
    (path.parent / "y.txt").touch()
    result = probe(path.parent if is_folder else path, Hints(type=type_, base="sd-1"))
    check_known(result, path)
    model, _ = draft_of(result, {"type": str(type_), "base": "sd-1"}, key="0" * 32, path="/x")
    assert not kind_violations(model)
