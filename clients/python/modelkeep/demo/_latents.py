"""The latents that the demo decodes, and what is compared and shown of the result. Runs where torch is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

#: Width and height of the demo's latents, which make a picture of 256 × 256 pixels.
SIZE = 32


@torch.no_grad()
def decode(vae: Any) -> torch.Tensor:
    """Decode the demo's latents.

    Args:
        vae: An AutoencoderKL.

    Returns:
        The picture of shape (1, 3, 256, 256) in the VAE's own precision.
    """
    # One thread, so that sums are taken in the same order in every process.
    torch.set_num_threads(1)
    latents = rings().to(vae.dtype)
    # On processors without bfloat16 instructions this layout is ten times as fast.
    image: torch.Tensor = vae.decode(latents.contiguous(memory_format=torch.channels_last)).sample
    return image.contiguous()


def rings() -> torch.Tensor:
    """Latents of shape (1, 4, 32, 32) that show: rings, a quarter of a ring further in each channel.

    A VAE with random weights makes noise of noise; of these it makes rings again.
    """
    along = torch.linspace(-1, 1, SIZE)
    radius = (along[:, None] ** 2 + along[None, :] ** 2).sqrt()
    return torch.stack([torch.cos(2 * torch.pi * (2 * radius + k / 4)) for k in range(4)]).unsqueeze(0)


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
    """Write a picture of shape (1, 3, height, width), each colour stretched but for its extremes."""
    from PIL import Image

    pixels = image[0].float()
    low, high = torch.quantile(pixels.flatten(1), torch.tensor([0.02, 0.98]), dim=1)[:, :, None, None]
    rows = ((pixels - low) / (high - low) * 255).clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rows.contiguous().numpy()).save(path, format="PNG")
