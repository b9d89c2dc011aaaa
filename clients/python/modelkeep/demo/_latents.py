"""The latents that the demo decodes, and what is compared and shown of the result. Runs where torch is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

#: Latents of the demo: 4 channels of 16 × 16, which is a picture of 128 × 128 pixels.
SHAPE = (1, 4, 16, 16)
SEED = 7


@torch.no_grad()
def decode(vae: Any) -> torch.Tensor:
    """Decode the demo's latents.

    Args:
        vae: An AutoencoderKL.

    Returns:
        The picture of shape (1, 3, 128, 128) in the VAE's own precision.
    """
    # One thread, so that sums are taken in the same order in every process.
    torch.set_num_threads(1)
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(SEED)).to(vae.dtype)
    # On processors without bfloat16 instructions this layout is ten times as fast.
    image: torch.Tensor = vae.decode(latents.contiguous(memory_format=torch.channels_last)).sample
    return image.contiguous()


def raw_bytes(tensor: torch.Tensor) -> Any:
    """A tensor's bytes as they are, as a buffer: equal bytes are bitwise equal tensors."""
    return tensor.detach().contiguous().view(torch.uint8).numpy()


def weights_digest(module: torch.nn.Module) -> str:
    """SHA-256 over names and bytes of all weights; reads every page of them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def weights_bytes(module: torch.nn.Module) -> int:
    """Bytes of all parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def write_png(path: Path, image: torch.Tensor) -> None:
    """Write a picture of shape (1, 3, height, width), stretched to the full range of 8 bits."""
    from PIL import Image

    pixels = image[0].float()
    low, high = pixels.min(), pixels.max()
    rows = ((pixels - low) / (high - low) * 255).round().to(torch.uint8).permute(1, 2, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rows.contiguous().numpy()).save(path, format="PNG")
