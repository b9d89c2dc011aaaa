"""Digests of modules, for comparing them across processes."""

from __future__ import annotations

import hashlib
from typing import Any


def decoded(module: Any) -> str:
    """SHA-256 of what a VAE makes of fixed latents."""
    import torch

    latents = torch.linspace(-2, 2, 4 * 2 * 2).reshape(1, 4, 2, 2).to(next(module.parameters()))
    torch.backends.cudnn.deterministic = True
    with torch.no_grad():
        image = module.decode(latents)[0].cpu()
    return hashlib.sha256(image.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def digest(module: Any) -> str:
    """SHA-256 of every tensor of a module, persistent or not."""
    import torch

    found = hashlib.sha256()
    tensors = {**module.state_dict(), **dict(module.named_buffers())}
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous().cpu()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
