"""Main models in one file, by headers alone: which components there are, and the configuration of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import InvalidModelException
from modelkeep.worker.classconfig import checked_config
from modelkeep.worker.classes import ALLOWED
from modelkeep_common.families import BY_BASE
from modelkeep_convert.checkpoints import original, parts, schedulers, settings
from support import modelshapes

Shapes = dict[str, tuple[int, ...]]


def shapes_of(tensors: Mapping[str, Sequence[int]]) -> Shapes:
    return {name: tuple(shape) for name, shape in tensors.items()}


def configs_of(
    shapes: Shapes, base: str, *, published: str = "", prediction_type: str = ""
) -> dict[str, dict[str, Any]]:
    """Submodel → configuration, as far as its class is told."""
    named = original.shipped(published) if published else original.of_base(base)
    found = {}
    for name, part in parts.parts_of(shapes, base, "it").items():
        assert (part.library, part.class_name) in ALLOWED
        config = settings.settings_of(part, shapes, base, named, prediction_type, is_named=bool(published))
        assert checked_config(part.class_name, config, Path("config.json")) == config
        found[name] = config
    return found


#: What the published configurations say, where it is not the class's default.
UNETS: Mapping[str, Mapping[str, Any]] = {
    "sd-1": {
        "sample_size": 64,
        "block_out_channels": [320, 640, 1280, 1280],
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
        "transformer_layers_per_block": 1,
        "use_linear_projection": False,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    "sd-2": {
        "sample_size": 64,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "transformer_layers_per_block": 1,
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": [1, 2, 10],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    },
    "sdxl-refiner": {
        "block_out_channels": [384, 768, 1536, 1536],
        "attention_head_dim": [6, 12, 24, 24],
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 4,
        "projection_class_embeddings_input_dim": 2560,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    },
}
#: Submodel → width, layers, heads, activation.
ENCODERS: Mapping[str, Mapping[str, tuple[int, int, int, str]]] = {
    "sd-1": {"text_encoder": (768, 12, 12, "quick_gelu")},
    "sd-2": {"text_encoder": (1024, 23, 16, "gelu")},
    "sdxl": {"text_encoder": (768, 12, 12, "quick_gelu"), "text_encoder_2": (1280, 32, 20, "gelu")},
    "sdxl-refiner": {"text_encoder_2": (1280, 32, 20, "gelu")},
}


@pytest.mark.parametrize("base", UNETS)
def test_the_true_shapes_of_a_checkpoint_yield_the_published_configurations(base: str) -> None:
    found = configs_of(shapes_of(modelshapes.checkpoint_tensors(base)), base)
    assert found.keys() == {"unet", "vae", *ENCODERS[base]}
    assert {**found["unet"], **UNETS[base]} == found["unet"]
    assert (found["unet"]["in_channels"], found["unet"]["out_channels"]) == (4, 4)
    assert found["unet"]["layers_per_block"] == 2
    for name, (width, layers, heads, act) in ENCODERS[base].items():
        config = found[name]
        assert config["hidden_size"] == width
        assert (config["num_hidden_layers"], config["num_attention_heads"]) == (layers, heads)
        assert config["hidden_act"] == act
    assert found["vae"]["scaling_factor"] == (0.13025 if base.startswith("sdxl") else 0.18215)
    assert found["vae"]["block_out_channels"] == [128, 256, 512, 512]


PUBLISHED = [
    ("v1-inference.yaml", "sd-1", 4),
    ("v1-inference-v.yaml", "sd-1", 4),
    ("v1-inpainting-inference.yaml", "sd-1", 9),
    ("v2-inference.yaml", "sd-2", 4),
    ("v2-inference-v.yaml", "sd-2", 4),
    ("v2-inpainting-inference.yaml", "sd-2", 9),
    ("v2-inpainting-inference-v.yaml", "sd-2", 9),
    ("v2-midas-inference.yaml", "sd-2", 5),
    ("sd_xl_base.yaml", "sdxl", 4),
    ("sd_xl_inpaint.yaml", "sdxl", 9),
    ("sd_xl_refiner.yaml", "sdxl-refiner", 4),
]


@pytest.mark.parametrize(("published", "base", "channels"), PUBLISHED)
def test_every_configuration_that_comes_along_fits_the_model_that_it_is_called_after(
    published: str, base: str, channels: int
) -> None:
    shapes = shapes_of(modelshapes.checkpoint_tensors(base, channels=channels))
    found = configs_of(shapes, base, published=published)
    assert found["unet"]["in_channels"] == channels
    predicts = original.shipped(published)
    assert predicts is not None
    assert predicts.prediction_type == ("v_prediction" if "-v.yaml" in published else "")
    others = shapes_of(modelshapes.checkpoint_tensors(base, channels=6))
    with pytest.raises(InvalidModelException, match=rf"{published} is another model's"):
        configs_of(others, base, published=published)


def test_those_that_come_along_are_all_looked_at() -> None:
    assert original.shipped_names() == {name for name, _, _ in PUBLISHED}


def flux_shapes(prefix: str = "", *, guided: bool = True, channels: int = 64) -> Shapes:
    """FLUX.1's true shapes; most blocks alike."""
    width = 3072
    found: Shapes = {}
    for name, inner in (("time_in", 256), ("vector_in", 768), *((("guidance_in", 256),) if guided else ())):
        found |= {f"{name}.in_layer.weight": (width, inner), f"{name}.out_layer.weight": (width, width)}
    found |= {"img_in.weight": (width, channels), "txt_in.weight": (width, 4096)}
    for block in range(19):
        for stream in ("img", "txt"):
            here = f"double_blocks.{block}.{stream}"
            found |= {
                f"{here}_attn.norm.key_norm.scale": (128,),
                f"{here}_attn.norm.query_norm.scale": (128,),
                f"{here}_attn.qkv.weight": (3 * width, width),
            }
    found |= {f"single_blocks.{block}.linear1.weight": (7 * width, width) for block in range(38)}
    found["final_layer.linear.weight"] = (64, width)
    return {prefix + name: shape for name, shape in found.items()}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("guided", [False, True])
def test_a_flux_is_found_with_and_without_its_encoders(prefix: str, guided: bool) -> None:
    shapes = flux_shapes(prefix, guided=guided)
    assert configs_of(shapes, "flux").keys() == {"transformer"}
    text = modelshapes.prefixed(
        "text_encoders.clip_l.transformer.", modelshapes.table("text.clip-l.transformers")
    )
    t5 = "text_encoders.t5xxl.transformer."
    attention, feed = (
        f"{t5}encoder.block.0.layer.0.SelfAttention",
        f"{t5}encoder.block.0.layer.1.DenseReluDense",
    )
    shapes |= shapes_of(text) | {
        f"{t5}shared.weight": (32128, 4096),
        f"{attention}.relative_attention_bias.weight": (32, 64),
        f"{attention}.q.weight": (4096, 4096),
        f"{feed}.wi_0.weight": (10240, 4096),
        **shapes_of(modelshapes.prefixed("vae.", modelshapes.table("vae.ldm"))),
    }
    found = configs_of(shapes, "flux")
    assert found.keys() == {"transformer", "text_encoder", "text_encoder_2", "vae"}
    transformer = found["transformer"]
    assert (transformer["num_layers"], transformer["num_single_layers"]) == (19, 38)
    assert (transformer["num_attention_heads"], transformer["attention_head_dim"]) == (24, 128)
    assert (transformer["in_channels"], transformer["guidance_embeds"]) == (64, guided)
    assert found["text_encoder_2"]["d_ff"] == 10240
    assert found["text_encoder_2"]["feed_forward_proj"] == "gated-gelu"
    assert found["vae"]["scaling_factor"] == 0.3611
    scheduler = schedulers.settings_of("flux", shapes, None, "")
    assert scheduler is not None
    assert scheduler["use_dynamic_shifting"] is guided


@pytest.mark.parametrize(
    ("base", "tensors", "said"),
    [
        ("sd-1", modelshapes.checkpoint_tensors("sd-2"), "is no Stable Diffusion 1"),
        ("sdxl", modelshapes.checkpoint_tensors("sdxl-refiner"), "is no Stable Diffusion XL"),
        (
            "sd-1",
            modelshapes.prefixed("model.diffusion_model.", modelshapes.table("unet.sd-2.ldm")),
            "takes 1024 features of text",
        ),
        ("flux", flux_shapes() | {"distilled_guidance_layer.norms.0.scale": (1,)}, "is no FLUX"),
        ("flux", flux_shapes() | {"img_in.weight": (2048, 64)}, "3072 wide"),
        ("wan", flux_shapes(), "of which no main model can be lent from one file yet"),
        ("sd-1", modelshapes.table("other.controlnet-sd-1"), "holds no component"),
        ("sdxl", modelshapes.checkpoint_tensors("sdxl") | {"edm_mean": [1, 4, 1, 1]}, "Playground"),
    ],
)
def test_what_is_another_model_is_refused_with_words(
    base: str, tensors: Mapping[str, Sequence[int]], said: str
) -> None:
    with pytest.raises(InvalidModelException) as refusal:
        configs_of(shapes_of(tensors), base)
    assert said in refusal.value.message
    assert refusal.value.remedy


@pytest.mark.parametrize("missing", ["input_blocks.4.", "middle_block.1.", "out.2."])
def test_part_of_a_unet_is_none(missing: str) -> None:
    tensors = modelshapes.checkpoint_tensors("sd-1")
    whole = shapes_of({n: s for n, s in tensors.items() if f"diffusion_model.{missing}" not in n})
    with pytest.raises(InvalidModelException):
        configs_of(whole, "sd-1")


def test_what_has_no_first_layer_is_not_among_the_components() -> None:
    tensors = modelshapes.checkpoint_tensors("sd-1")
    del tensors["model.diffusion_model.input_blocks.0.0.weight"]
    assert configs_of(shapes_of(tensors), "sd-1").keys() == {"text_encoder", "vae"}


def test_every_family_that_single_files_are_lent_of_is_one_of_the_table() -> None:
    assert set(parts.bases()) == set(BY_BASE)


@pytest.mark.parametrize(
    ("base", "names", "prediction_type", "expected"),
    [
        ("sd-1", [], "", ("PNDMScheduler", "epsilon")),
        ("sd-2", [], "", None),
        ("sd-2", [], "v_prediction", ("DDIMScheduler", "v_prediction")),
        ("sdxl", ["v_pred", "ztsnr"], "v_prediction", ("EulerDiscreteScheduler", "v_prediction")),
        ("sd-3", [], "", ("FlowMatchEulerDiscreteScheduler", None)),
    ],
)
def test_a_scheduler_is_lent_only_where_it_is_known_what_is_predicted(
    base: str, names: list[str], prediction_type: str, expected: tuple[str, str | None] | None
) -> None:
    found = schedulers.settings_of(base, names, original.of_base(base), prediction_type)
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert (found["_class_name"], found.get("prediction_type")) == expected
    assert found.get("rescale_betas_zero_snr", False) is ("ztsnr" in names)
