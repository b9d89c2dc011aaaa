"""What the shapes of a Stable Diffusion UNet tell; shared by single files, folders and LoRAs."""

from __future__ import annotations

from collections.abc import Mapping

#: Width of the text embedding that the cross-attention takes -> base. The refiner's is OpenCLIP-G's alone.
BASE_BY_CONTEXT: Mapping[int, str] = {768: "sd-1", 1024: "sd-2", 1280: "sdxl-refiner", 2048: "sdxl"}

#: Channels of the first convolution -> variant: latents (4), + masked latents and mask (9), + depth (5).
VARIANT_BY_CHANNELS: Mapping[int, str] = {4: "normal", 9: "inpaint", 5: "depth"}

UNET_BASES = tuple(BASE_BY_CONTEXT.values())
