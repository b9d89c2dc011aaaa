"""The diffusers configuration of a VAE that comes as one file, from its shapes and its family.

What a shape shows is read off the shapes; what none shows (scaling factor and the like) stands in
the table of families. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modelkeep.exceptions import InvalidModelException
from modelkeep_common.families import BY_BASE, FAMILIES

_DIFFUSERS_BLOCK = re.compile(r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight$")
_LDM_BLOCK = re.compile(r"^encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight$")
_LDM_PREFIX = "first_stage_model."
#: Whose VAE a family uses that has none of its own.
_WHOSE = {"sdxl-refiner": "sdxl"}


def is_diffusers_layout(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the names are those of diffusers' AutoencoderKL."""
    return any(_DIFFUSERS_BLOCK.match(name) for name in shapes)


def ldm_prefix(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What stands before the names in a latent-diffusion checkpoint: "first_stage_model." or nothing."""
    return _LDM_PREFIX if any(name.startswith(_LDM_PREFIX) for name in shapes) else ""


def infer(
    shapes: Mapping[str, tuple[int, ...]], *, base: str, scaling_factor: float | None
) -> dict[str, Any]:
    """Configuration of the AutoencoderKL whose tensors have these shapes.

    Args:
        shapes: Name → shape, in diffusers' or in latent-diffusion's layout.
        base: The model's family, such as "sd-1".
        scaling_factor: What the record says; None takes the family's.

    Raises:
        InvalidModelException: The tensors are no AutoencoderKL, or the family is not known here.
    """
    prefix = ldm_prefix(shapes)
    plain = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    pattern = _DIFFUSERS_BLOCK if is_diffusers_layout(plain) else _LDM_BLOCK
    blocks: dict[int, int] = {}
    layers: set[int] = set()
    for name, shape in plain.items():
        if (match := pattern.match(name)) and shape:
            blocks[int(match[1])] = shape[0]
            layers.add(int(match[2]))
    try:
        # One number that stands alone would ask for as many modules as it likes.
        complete = layers == set(range(len(layers)))
        widths = [blocks[i] for i in range(len(blocks))] if complete else []
        inner = {
            "in_channels": plain["encoder.conv_in.weight"][1],
            "out_channels": plain["decoder.conv_out.weight"][0],
            "latent_channels": plain["decoder.conv_in.weight"][1],
        }
    except (KeyError, IndexError):
        widths, inner = [], {}
    if not widths:
        raise InvalidModelException(
            "The file is no VAE of the AutoencoderKL kind: its tensors have other names.",
            metadata={"detail": "no AutoencoderKL"},
            remedy="Install a VAE of that kind, or correct the record's type.",
        )
    family = BY_BASE.get(_WHOSE.get(base, base))
    if family is None or not family.vae:
        known = ", ".join(sorted(one.base for one in FAMILIES if one.vae))
        raise InvalidModelException(
            f"The record's base is {base!r}, which does not tell the configuration of a VAE in one file.",
            metadata={"detail": f"base {base}"},
            remedy=f"Set the record's base to one of {known}.",
        )
    return {
        "_class_name": "AutoencoderKL",
        **family.vae,
        **({} if scaling_factor is None else {"scaling_factor": scaling_factor}),
        **inner,
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": len(layers),
        "use_quant_conv": "quant_conv.weight" in plain,
        "use_post_quant_conv": "post_quant_conv.weight" in plain,
        "mid_block_add_attention": any(
            name.startswith(("encoder.mid_block.attentions.", "encoder.mid.attn_1.")) for name in plain
        ),
    }
