"""Tiny models of every class: written to disk, run, and compared bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from modelkeep.worker.classes import resolve_class
from support.tinyclasses import MADE


def save_tiny(library: str, name: str, folder: Path) -> None:
    """Write a tiny model of a class, with random weights, as its library does."""
    config, _ = MADE[library, name]
    cls = resolve_class(library, name)
    settings = getattr(cls, "config_class", None)
    torch.manual_seed(0)
    module = cls.from_config(dict(config)) if settings is None else cls(settings.from_dict(dict(config)))
    for parameter in module.parameters():  # some begin as zeros, which would hide much
        torch.nn.init.normal_(parameter.detach(), std=0.05)
    module.save_pretrained(folder)


def results(value: Any) -> list[Any]:
    """The tensors of an output."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if hasattr(value, "mean") and hasattr(value, "logvar"):  # a distribution of latents
        value = [value.mean, value.logvar]
    return [one for part in value for one in results(part)] if isinstance(value, (list, tuple)) else []


def same(one: Any, other: Any) -> bool:
    """Bit for bit, whatever they hold."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.numel() == 0 or bool(
        torch.equal(
            one.detach().contiguous().reshape(-1).view(torch.uint8),
            other.detach().contiguous().reshape(-1).view(torch.uint8),
        )
    )


def ran(module: Any, make: Any, precision: str) -> list[Any]:
    torch.manual_seed(1)

    def cast(value: Any) -> Any:
        if isinstance(value, list):
            return [cast(one) for one in value]
        is_float = isinstance(value, torch.Tensor) and value.dtype == torch.float32
        return value.to(getattr(torch, precision)) if is_float else value

    inputs = {name: cast(value) for name, value in make().items()}
    with torch.no_grad():
        return results(module(**inputs))
