"""Stable Diffusion: 1, 2, XL with its refiner, and 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .family import Component, Family

#: Channels of the UNet's first convolution → variant: latents (4), + masked ones and mask (9), + depth (5).
VARIANT_BY_CHANNELS: Final[Mapping[int, str]] = {4: "normal", 9: "inpaint", 5: "depth"}

_VAE = Component("vae", "first_stage_model.", "AutoencoderKL", "diffusers")
_SD_PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInpaintPipelineLegacy",
)
_XL_PIPELINES = (
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
)


def _clip(prefix: str) -> Component:
    return Component("text_encoder", prefix, "CLIPTextModel", "transformers")


def _projecting_clip(prefix: str) -> Component:
    return Component("text_encoder_2", prefix, "CLIPTextModelWithProjection", "transformers")


SD_1 = Family(
    base="sd-1",
    name="Stable Diffusion 1",
    words=r"sd[-_ ]?v?1(?!\d\d)|stable[-_ ]diffusion[-_ ]v?1|(?<![a-z0-9])v1[-_.][45]",
    context_width=768,
    text_widths=(768,),
    block_depth=1,
    pipelines=_SD_PIPELINES,
    components=(_clip("cond_stage_model.transformer."), _VAE),
    latent_channels=4,
    vae={"act_fn": "silu", "norm_num_groups": 32, "sample_size": 512, "scaling_factor": 0.18215},
)
SD_2 = Family(
    base="sd-2",
    name="Stable Diffusion 2",
    words=r"sd[-_ ]?v?2(?!\d)|stable[-_ ]diffusion[-_ ]v?2|(?<![a-z0-9])v2[-_.][01]|768[-_]v",
    context_width=1024,
    text_widths=(1024,),
    block_depth=1,
    pipelines=(*_SD_PIPELINES, "StableDiffusionDepth2ImgPipeline"),
    components=(_clip("cond_stage_model.model."), _VAE),
    latent_channels=4,
    vae={"act_fn": "silu", "norm_num_groups": 32, "sample_size": 768, "scaling_factor": 0.18215},
)
SDXL = Family(
    base="sdxl",
    name="Stable Diffusion XL",
    words=r"sd[-_ ]?xl|(?<![a-z])xl(?![a-z])",
    context_width=2048,
    text_widths=(768, 1280),
    block_depth=10,
    pipelines=_XL_PIPELINES,
    components=(
        _clip("conditioner.embedders.0.transformer."),
        _projecting_clip("conditioner.embedders.1.model."),
        _VAE,
    ),
    latent_channels=4,
    vae={
        "act_fn": "silu",
        "norm_num_groups": 32,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "force_upcast": True,
    },
)
SDXL_REFINER = Family(
    base="sdxl-refiner",
    name="Stable Diffusion XL refiner",
    words="refiner",
    context_width=1280,  # OpenCLIP-G's alone
    text_widths=(1280,),
    block_depth=4,
    pipelines=_XL_PIPELINES,
    components=(_projecting_clip("conditioner.embedders.0.model."), _VAE),  # the VAE is SDXL's
)
SD_3 = Family(
    base="sd-3",
    name="Stable Diffusion 3",
    latent_channels=16,
    vae={
        "act_fn": "silu",
        "norm_num_groups": 32,
        "sample_size": 1024,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "force_upcast": True,
    },
)
