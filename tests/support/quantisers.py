"""Quantised weights as others write them, and what they mean: written from the formats' own descriptions,
apart from the suite's code. Numpy for the numbers, torch for the types that numpy has not.

Each quantiser takes a weight's name and its numbers, and returns the tensors that a file has in their place
and the float32 numbers that those stand for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from safetensors.torch import load_file, save_file

Stored: TypeAlias = tuple[dict[str, torch.Tensor], torch.Tensor]
Quantiser: TypeAlias = Callable[[str, torch.Tensor], Stored]

#: The 16 numbers of NF4: quantiles of a normal distribution (QLoRA, appendix E).
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)
#: The 16 numbers of bitsandbytes' FP4: a sign, and magnitudes of 2 exponent bits and 1 of mantissa.
_FP4 = (0.0, 0.0052083333, 0.6666667, 1.0, 0.33333334, 0.5, 0.16666667, 0.25)
FP4 = (*_FP4, *(-number for number in _FP4))


def _base(name: str) -> str:
    return name.removesuffix("weight")


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().numpy().astype(np.float32)


def fp8(key: str = "scale_weight", *, rows: bool = False, block: int = 0, kind: str = "e4m3fn") -> Quantiser:
    """Float8 beside one scale, one for each row, or one for each square block."""

    def quantise(name: str, weight: torch.Tensor) -> Stored:
        numbers, dtype = _numpy(weight), getattr(torch, f"float8_{kind}")
        if block and weight.ndim == 2:
            places = [np.arange(size) // block for size in numbers.shape]
            counts = [-(-size // block) for size in numbers.shape]
            scale = np.zeros(counts, np.float32)
            np.maximum.at(scale, np.ix_(*places), np.abs(numbers))
            scale = (scale / 448 + 1e-6).astype(np.float32)
            wide = scale[np.ix_(*places)]
        else:
            axes = tuple(range(1, numbers.ndim)) if rows else None
            scale = np.asarray(np.abs(numbers).max(axis=axes, keepdims=rows) / 448 + 1e-6, np.float32)
            wide = scale
        stored = torch.from_numpy(numbers / wide).to(dtype)
        scales = torch.from_numpy(np.ascontiguousarray(scale))
        return (
            {name: stored, f"{_base(name)}{key}": scales},
            torch.from_numpy(_numpy(stored) * wide),
        )

    return quantise


def int8(name: str, weight: torch.Tensor) -> Stored:
    """bitsandbytes' 8 bits: a row's largest number is 127."""
    numbers = _numpy(weight)
    scale = np.abs(numbers).max(axis=1).astype(np.float32)
    stored = np.rint(numbers / scale[:, None] * 127).astype(np.int8)
    # The constant is what bitsandbytes multiplies with for 1/127.
    means = stored.astype(np.float32) * scale[:, None] * np.float32(7.874015718698502e-3)
    tensors = {
        name: torch.from_numpy(stored),
        f"{_base(name)}SCB": torch.from_numpy(scale),
        f"{_base(name)}weight_format": torch.tensor(0, dtype=torch.uint8),
    }
    return tensors, torch.from_numpy(means)


def int8_rows(name: str, weight: torch.Tensor) -> Stored:
    """compressed-tensors' 8 bits for each channel."""
    numbers = _numpy(weight)
    scale = (np.abs(numbers).max(axis=1, keepdims=True) / 127 + 1e-9).astype(np.float32)
    stored = np.rint(numbers / scale).astype(np.int8)
    tensors = {
        name: torch.from_numpy(stored),
        f"{_base(name)}weight_scale": torch.from_numpy(scale),
        f"{_base(name)}input_scale": torch.ones(1),
    }
    return tensors, torch.from_numpy(stored.astype(np.float32) * scale)


def quanto(name: str, weight: torch.Tensor) -> Stored:
    """quanto's 8 bits."""
    tensors, means = int8_rows(name, weight)
    scale = tensors[f"{_base(name)}weight_scale"]
    ones = {f"{_base(name)}input_scale": torch.ones(()), f"{_base(name)}output_scale": torch.ones(())}
    return {f"{name}._data": tensors[name], f"{name}._scale": scale, **ones}, means


def four_bits(kind: str = "nf4", *, blocksize: int = 64, nested: bool = False) -> Quantiser:
    """bitsandbytes' 4 bits: two numbers a byte, a scale for each block, perhaps scaled once more."""
    code = np.array(NF4 if kind == "nf4" else FP4, np.float32)

    def quantise(name: str, weight: torch.Tensor) -> Stored:
        flat = _numpy(weight).reshape(-1)
        count = -(-flat.size // blocksize)
        padded = np.zeros(count * blocksize, np.float32)
        padded[: flat.size] = flat
        absmax = np.abs(padded.reshape(count, blocksize)).max(axis=1) + np.float32(1e-6)
        near = padded.reshape(count, blocksize) / absmax[:, None]
        chosen = np.abs(near[..., None] - code).argmin(axis=-1).reshape(-1)[: flat.size + flat.size % 2]
        packed = (chosen[0::2] << 4 | chosen[1::2]).astype(np.uint8)
        state: dict[str, object] = {
            **{"quant_type": kind, "blocksize": blocksize, "dtype": "bfloat16"},
            "shape": list(weight.shape),
        }
        tensors = {
            name: torch.from_numpy(packed.reshape(-1, 1)),
            f"{name}.quant_map": torch.from_numpy(code.copy()),
        }
        if nested:
            offset, absmax, more = _nested(name, absmax)
            tensors |= more
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
        else:
            tensors[f"{name}.absmax"] = torch.from_numpy(absmax.astype(np.float32))
        text = np.frombuffer(json.dumps(state).encode(), np.uint8).copy()
        tensors[f"{name}.quant_state.bitsandbytes__{kind}"] = torch.from_numpy(text)
        means = code[chosen[: flat.size]] * np.repeat(absmax.astype(np.float32), blocksize)[: flat.size]
        return tensors, torch.from_numpy(means.reshape(tuple(weight.shape)))

    return quantise


def _nested(name: str, absmax: np.ndarray) -> tuple[float, np.ndarray, dict[str, torch.Tensor]]:
    """Scales of scales, of 8 bits in blocks of 256."""
    offset = float(np.float32(absmax.mean()))
    table = np.linspace(-1, 1, 256).astype(np.float32)
    away = (absmax - np.float32(offset)).astype(np.float32)
    count = -(-away.size // 256)
    padded = np.zeros(count * 256, np.float32)
    padded[: away.size] = away
    widest = np.abs(padded.reshape(count, 256)).max(axis=1) + np.float32(1e-9)
    near = padded.reshape(count, 256) / widest[:, None]
    chosen = np.abs(near[..., None] - table).argmin(axis=-1).reshape(-1)[: away.size].astype(np.uint8)
    meant = (table[chosen] * np.repeat(widest, 256)[: away.size] + np.float32(offset)).astype(np.float32)
    return (
        offset,
        meant,
        {
            f"{name}.absmax": torch.from_numpy(chosen),
            f"{name}.nested_absmax": torch.from_numpy(widest.astype(np.float32)),
            f"{name}.nested_quant_map": torch.from_numpy(table),
        },
    )


def is_matrix(name: str, tensor: torch.Tensor) -> bool:
    """What quantisers take: a layer's matrix."""
    return name.endswith(".weight") and tensor.ndim == 2 and "embedding" not in name and "shared" not in name


def quantise_folder(folder: Path, plain: Path | None, quantise: Quantiser, **more: torch.Tensor) -> int:
    """Quantise the matrices of a component's only file in place; how many there were.

    Args:
        folder: The component.
        plain: A copy of it, which gets what the quantised numbers stand for.
        quantise: How.
        more: Further tensors of the quantised file.
    """
    (path,) = folder.glob("*.safetensors")
    stored: dict[str, torch.Tensor] = dict(more)
    meant: dict[str, torch.Tensor] = {}
    count = 0
    for name, tensor in load_file(path).items():
        if is_matrix(name, tensor):
            parts, meant[name] = quantise(name, tensor)
            stored |= parts
            count += 1
        else:
            stored[name] = meant[name] = tensor
    _save(stored, path)
    if plain is not None:
        _save(meant, plain / path.name)
    return count


def _save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata={"format": "pt"})
