"""The configuration of a UNet or transformer in an original checkpoint, from its shapes.

What a shape shows is read off the shapes. What none shows (heads, the size of images) comes from the
configuration that the original was published with, or stands here. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count
from math import isqrt
from typing import Any, Final, NoReturn

from modelkeep.exceptions import InvalidModelException
from modelkeep_convert.checkpoints.original import OTHER_CONFIG, Original

Shapes = Mapping[str, tuple[int, ...]]

_DEPTH: Final = re.compile(
    r"(input_blocks\.\d+\.1|middle_block\.1|output_blocks\.\d+\.1)\.transformer_blocks\.(\d+)\."
)
_BLOCK: Final = re.compile(r"(double_blocks|single_blocks|joint_blocks)\.(\d+)\.")
#: Latents of the images that a model was trained on, by base; SD 2 has another for what predicts velocities.
_SAMPLE_SIZE: Final[Mapping[str, int]] = {"sd-1": 64, "sd-2": 64, "sdxl": 128, "sdxl-refiner": 128}
_SAMPLE_SIZE_768_V: Final = 96
#: Of FLUX.1's rotary embedding: what stands for an image's place among several, its row, its column.
_FLUX_AXES: Final = (16, 56, 56)
#: Width of every FLUX.1.
FLUX_WIDTH: Final = 3072
#: Features that each of the numbers becomes that SDXL is told about size and crop.
_TIME_IDS: Final = 256
#: Features of one head.
_SD3_HEAD: Final = 64


def unet(shapes: Shapes, base: str, original: Original | None, prediction_type: str) -> dict[str, Any]:
    """Configuration of a UNet2DConditionModel.

    Args:
        shapes: Name → shape, without prefix.
        base: "sd-1", "sd-2", "sdxl" or "sdxl-refiner".
        original: The configuration that says the number of heads.
        prediction_type: What it predicts, for the size of its images.

    Raises:
        InvalidModelException: The tensors are no such UNet.
    """
    depths = _depths(shapes)
    levels: list[list[tuple[int, int]]] = [[]]  # (width, depth of its attention) of each resnet
    for at in count(1):
        if f"input_blocks.{at}.0.op.weight" in shapes:
            levels.append([])
        elif shape := shapes.get(f"input_blocks.{at}.0.in_layers.2.weight"):
            levels[-1].append((shape[0], depths.get(f"input_blocks.{at}.1", 0)))
        else:
            break
    try:
        # All resnets of a level are alike, and every level has as many.
        (per_level,) = {len(level) for level in levels}
        widths, attends = zip(*(level[0] for level in levels if len(set(level)) == 1), strict=True)
        first, taken = shapes["input_blocks.0.0.weight"][:2]
        given = shapes["out.2.weight"][0]
        middle = depths["middle_block.1"]
        context = next(shape[1] for name, shape in shapes.items() if name.endswith(".attn2.to_k.weight"))
        linear = len(next(s for name, s in shapes.items() if name.endswith(".1.proj_in.weight"))) == 2
    except (KeyError, IndexError, ValueError, StopIteration):
        _bad("a UNet of the kind that Stable Diffusion has")
    if len(widths) != len(levels) or first != widths[0]:
        _bad("a UNet of the kind that Stable Diffusion has")
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": _sample_size(base, prediction_type),
        "in_channels": taken,
        "out_channels": given,
        "block_out_channels": list(widths),
        "layers_per_block": per_level,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(attends)],
        "transformer_layers_per_block": _depth_of_levels(attends, middle),
        "cross_attention_dim": context,
        "attention_head_dim": _heads(widths, original),
        "use_linear_projection": linear,
    }
    if (label := shapes.get("label_emb.0.0.weight")) is not None and len(label) == 2:
        config["projection_class_embeddings_input_dim"] = label[1]
        if base.startswith("sdxl"):
            config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": _TIME_IDS}
        else:
            config["class_embed_type"] = "projection"
    return config


def check_unet(config: Mapping[str, Any], original: Original) -> None:
    """Refuse a configuration that somebody has named and that is another model's.

    Args:
        config: What the shapes say.
        original: What was named.

    Raises:
        InvalidModelException: They contradict each other.
    """
    said = original.unet
    width = said.get("model_channels")
    multiples = said.get("channel_mult")
    wanted: dict[str, object] = {
        "in_channels": said.get("in_channels"),
        "out_channels": said.get("out_channels"),
        "layers_per_block": said.get("num_res_blocks"),
        "use_linear_projection": said.get("use_linear_in_transformer"),
        "projection_class_embeddings_input_dim": said.get("adm_in_channels"),
    }
    if isinstance(width, int) and isinstance(multiples, list):
        wanted["block_out_channels"] = [width * multiple for multiple in multiples]
    context = said.get("context_dim")
    wanted["cross_attention_dim"] = context[0] if isinstance(context, list) and context else context
    for key, value in wanted.items():
        if value is not None and config.get(key) != value:
            raise InvalidModelException(
                f"{original.name} is another model's: by it {key} is {value}, by the file's tensors "
                f"{config.get(key)}.",
                metadata={"path": original.name, "detail": f"{key} is {value}, not {config.get(key)}"},
                remedy=OTHER_CONFIG,
            )


def flux(shapes: Shapes) -> dict[str, Any]:
    """Configuration of a FluxTransformer2DModel.

    Raises:
        InvalidModelException: The tensors are no FLUX.1.
    """
    try:
        width, taken = shapes["img_in.weight"]
        head = shapes["double_blocks.0.img_attn.norm.key_norm.scale"][0]
        given = shapes["final_layer.linear.weight"][0]
        text, pooled = shapes["txt_in.weight"][1], shapes["vector_in.in_layer.weight"][1]
    except (KeyError, IndexError, ValueError):
        _bad("a FLUX.1")
    if width != FLUX_WIDTH or head != sum(_FLUX_AXES):
        # diffusers' conversion takes the width for granted, and the axes are in no tensor.
        _bad(f"a FLUX.1, which is {FLUX_WIDTH} wide, with heads of {sum(_FLUX_AXES)}")
    return {
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": taken,
        "out_channels": given,
        "num_layers": _blocks(shapes, "double_blocks"),
        "num_single_layers": _blocks(shapes, "single_blocks"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": text,
        "pooled_projection_dim": pooled,
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
        "axes_dims_rope": list(_FLUX_AXES),
    }


def sd3(shapes: Shapes) -> dict[str, Any]:
    """Configuration of an SD3Transformer2DModel.

    Raises:
        InvalidModelException: The tensors are no Stable Diffusion 3.
    """
    try:
        width, channels, patch, _ = shapes["x_embedder.proj.weight"]
        given = shapes["final_layer.linear.weight"][0]
        places = shapes["pos_embed"][1]
        captions, text = shapes["context_embedder.weight"]
        pooled = shapes["y_embedder.mlp.0.weight"][1]
        if width % _SD3_HEAD or isqrt(places) ** 2 != places or given % patch**2:
            raise ValueError
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        _bad("a Stable Diffusion 3")
    layers = _blocks(shapes, "joint_blocks")
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": given // patch**2,
        "num_layers": layers,
        "attention_head_dim": _SD3_HEAD,
        "num_attention_heads": width // _SD3_HEAD,
        "joint_attention_dim": text,
        "caption_projection_dim": captions,
        "pooled_projection_dim": pooled,
        "pos_embed_max_size": isqrt(places),
        "dual_attention_layers": [
            layer for layer in range(layers) if f"joint_blocks.{layer}.x_block.attn2.qkv.weight" in shapes
        ],
        "qk_norm": "rms_norm" if "joint_blocks.0.x_block.attn.ln_q.weight" in shapes else None,
    }


def _depths(shapes: Shapes) -> dict[str, int]:
    """Blocks in a row of each attention of a UNet, by its name."""
    found: dict[str, int] = {}
    for name in shapes:
        if match := _DEPTH.match(name):
            found[match[1]] = max(found.get(match[1], 0), int(match[2]) + 1)
    return found


def _blocks(shapes: Shapes, kind: str) -> int:
    """How many blocks of a kind there are, none left out."""
    found = {int(match[2]) for name in shapes if (match := _BLOCK.match(name)) and match[1] == kind}
    if not found or found != set(range(len(found))):
        _bad(f"a transformer with all of its {kind}")
    return len(found)


def _depth_of_levels(attends: tuple[int, ...], middle: int) -> int | list[int]:
    """One number where all are alike. A level without attention has any; the last one's is the middle's."""
    if {*attends, middle} - {0} == {middle}:
        return middle
    levels = [depth or 1 for depth in attends]
    return levels if attends[-1] else [*levels[:-1], middle]


def _heads(widths: tuple[int, ...], original: Original | None) -> int | list[int]:
    """What UNet2DConditionModel calls attention_head_dim, and is the number of heads."""
    said = original.unet if original is not None else {}
    if isinstance(heads := said.get("num_heads"), int) and heads > 0:
        return heads
    if isinstance(features := said.get("num_head_channels"), int) and features > 0:
        return [max(width // features, 1) for width in widths]
    name = original.name if original is not None else "the configuration"
    raise InvalidModelException(
        f"{name} does not say how many heads the attention has, and no tensor does.",
        metadata={"path": name, "detail": "neither num_heads nor num_head_channels"},
        remedy=OTHER_CONFIG,
    )


def _sample_size(base: str, prediction_type: str) -> int:
    if base == "sd-2" and prediction_type == "v_prediction":
        return _SAMPLE_SIZE_768_V
    return _SAMPLE_SIZE[base]


def _bad(kind: str) -> NoReturn:
    raise InvalidModelException(
        f"The file holds no denoiser that can be lent: it should be {kind}, and its tensors are others.",
        metadata={"detail": f"not {kind}"},
        remedy="Correct the record's base, or install the model as a folder in diffusers' layout.",
    )
