"""The weight files that people have: quantised ones, old ones, shards under either naming. Needs torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Change the tensors of a component's only weight file."""
    (path,) = folder.glob("*.safetensors")
    changed = {name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}
    save_file(changed, path, metadata={"format": "pt"})


def _is_matrix(name: str, tensor: torch.Tensor) -> bool:
    return name.endswith(".weight") and tensor.ndim >= 2 and "embedding" not in name


def fp8_beside_scales(key: str) -> Callable[[Path], None]:
    """Makes weights float8, each beside the scale that it has to be multiplied with, named so."""

    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        changed = dict(state)
        for name, tensor in state.items():
            if _is_matrix(name, tensor):
                scale = tensor.float().abs().max() / 448
                changed[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
                changed[name.removesuffix("weight") + key] = scale.reshape(())
        return changed

    return lambda folder: rewrite(folder, change)


def fp8_plain(folder: Path) -> None:
    """A plain cast of the matrices to float8."""
    rewrite(
        folder, lambda state: {n: t.to(torch.float8_e4m3fn) if t.ndim > 1 else t for n, t in state.items()}
    )


def int8(folder: Path, *, scales: bool = True, marked: bool = False) -> None:
    """Weights of bitsandbytes' 8 bits, with what the config.json says of it or without."""

    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        changed = dict(state)
        for name, tensor in state.items():
            if _is_matrix(name, tensor) and tensor.ndim == 2:
                scale = tensor.abs().amax(1)
                changed[name] = (tensor / scale[:, None] * 127).round().to(torch.int8)
                if scales:
                    changed[name.removesuffix("weight") + "SCB"] = scale.float()
        return changed

    rewrite(folder, change)
    if marked:
        edit_config(folder, quantization_config={"load_in_8bit": True, "quant_method": "bitsandbytes"})


def nf4(folder: Path) -> None:
    """Weights packed to 4 bits, as bitsandbytes writes them."""

    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        changed = dict(state)
        for name, tensor in state.items():
            if _is_matrix(name, tensor) and tensor.ndim == 2:
                changed[name] = torch.zeros(tensor.numel() // 2, 1, dtype=torch.uint8)
                changed[f"{name}.absmax"] = torch.ones(tensor.numel() // 64)
                changed[f"{name}.quant_map"] = torch.ones(16)
                changed[f"{name}.quant_state.bitsandbytes__nf4"] = torch.zeros(90, dtype=torch.uint8)
        return changed

    rewrite(folder, change)


def with_position_ids(folder: Path, dtype: str) -> None:
    """A text encoder as it was saved before transformers 4.31."""

    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        old = {n if n.startswith("text_model.") else f"text_model.{n}": t for n, t in state.items()}
        count = old["text_model.embeddings.position_embedding.weight"].shape[0]
        old["text_model.embeddings.position_ids"] = torch.arange(count).unsqueeze(0).to(getattr(torch, dtype))
        return old

    rewrite(folder, change)


def shard(folder: Path, pattern: str, index: str) -> None:
    """Split a component's file into two, which are named by the pattern, with this index."""
    (path,) = folder.glob("*.safetensors")
    state = load_file(path)
    path.unlink()
    names = sorted(state)
    half = len(names) // 2
    places: dict[str, str] = {}
    for number, part in enumerate((names[:half], names[half:]), 1):
        file = pattern.format(number)
        save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))


def edit_config(folder: Path, **values: Any) -> None:
    """Set entries of a component's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
