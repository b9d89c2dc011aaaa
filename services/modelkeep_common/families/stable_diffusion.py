"""Stable Diffusion: 1, 2, XL with its refiner, and 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .family import Component, Family
from .networks import Autoencoder, TextEncoder, UNet

#: Channels of the UNet's first convolution → variant: latents (4), + masked ones and mask (9), + depth (5).
VARIANT_BY_CHANNELS: Final[Mapping[int, str]] = {4: "normal", 9: "inpaint", 5: "depth"}

_CLIP_L = TextEncoder(768, 12)
_OPENCLIP_H = TextEncoder(1024, 24)
_OPENCLIP_G = TextEncoder(1280, 32)
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
    # v1-5-pruned: so its publisher calls the files. A version anywhere else is the model's own.
    words=r"(?<![a-z])sd[-_ ]?v?1(?!\d\d)|stable[-_ ]diffusion[-_ ]v?1|^v1[-_.][45][-_](?=[a-z])",
    unet=UNet((320, 640, 1280, 1280), (1, 1, 1, 0), middle=1, context=768),
    text_encoders={"text_encoder": _CLIP_L},
    pipelines=_SD_PIPELINES,
    components=(_clip("cond_stage_model.transformer."), _VAE),
    autoencoder=Autoencoder(4),
    vae={"act_fn": "silu", "norm_num_groups": 32, "sample_size": 512, "scaling_factor": 0.18215},
)
SD_2 = Family(
    base="sd-2",
    name="Stable Diffusion 2",
    words=r"(?<![a-z])sd[-_ ]?v?2(?!\d)|stable[-_ ]diffusion[-_ ]v?2|^v2[-_.][01][-_](?=\w)|^768[-_]v[-_]",
    unet=UNet((320, 640, 1280, 1280), (1, 1, 1, 0), middle=1, context=1024),
    text_encoders={"text_encoder": _OPENCLIP_H},
    pipelines=(*_SD_PIPELINES, "StableDiffusionDepth2ImgPipeline"),
    components=(_clip("cond_stage_model.model."), _VAE),
    autoencoder=Autoencoder(4),
    vae={"act_fn": "silu", "norm_num_groups": 32, "sample_size": 768, "scaling_factor": 0.18215},
)
SDXL = Family(
    base="sdxl",
    name="Stable Diffusion XL",
    words=r"sd[-_ ]?xl|(?<![a-z])xl(?![a-z])",
    unet=UNet((320, 640, 1280), (0, 2, 10), middle=10, context=2048, labels=2816),
    text_encoders={"text_encoder": _CLIP_L, "text_encoder_2": _OPENCLIP_G},
    pipelines=_XL_PIPELINES,
    components=(
        _clip("conditioner.embedders.0.transformer."),
        _projecting_clip("conditioner.embedders.1.model."),
        _VAE,
    ),
    autoencoder=Autoencoder(4),
    vae={
        "act_fn": "silu",
        "norm_num_groups": 32,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "force_upcast": True,
    },
    lookalikes={"Kolors": "kolors"},
)
SDXL_REFINER = Family(
    base="sdxl-refiner",
    name="Stable Diffusion XL refiner",
    words="refiner",
    unet=UNet((384, 768, 1536, 1536), (0, 4, 4, 0), middle=4, context=1280, labels=2560),
    text_encoders={"text_encoder_2": _OPENCLIP_G},
    pipelines=_XL_PIPELINES,
    components=(_projecting_clip("conditioner.embedders.0.model."), _VAE),  # the VAE is SDXL's
)
SD_3 = Family(
    base="sd-3",
    name="Stable Diffusion 3",
    autoencoder=Autoencoder(16),
    vae={
        "act_fn": "silu",
        "norm_num_groups": 32,
        "sample_size": 1024,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "force_upcast": True,
    },
)
