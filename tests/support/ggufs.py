"""GGUF files for tests: a writer, and quantisers of ggml's simpler types, from their descriptions."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: ggml's number of a type, and how many numbers and bytes a block of it has.
TYPES = {
    **{"F32": (0, 1, 4), "F16": (1, 1, 2), "BF16": (30, 1, 2)},
    **{"Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q8_0": (8, 32, 34)},
}


def text(value: str) -> bytes:
    """A string as the format has it."""
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def note(value: Any) -> bytes:
    """A note's type and value."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, list) and all(isinstance(entry, int) for entry in value):
        return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    return struct.pack("<II", 4, value)


def quantised(type_name: str, numbers: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Numbers as bytes of a type, and the float32 numbers that these stand for."""
    flat = np.ascontiguousarray(numbers, np.float32)
    if type_name == "F32":
        return flat.tobytes(), flat
    if type_name == "F16":
        half = flat.astype(np.float16)
        return half.tobytes(), half.astype(np.float32)
    rows = flat.reshape(-1, 32)
    if type_name == "Q8_0":
        d = (np.abs(rows).max(axis=1, keepdims=True) / 127 + 1e-6).astype(np.float16)
        q = np.rint(rows / d.astype(np.float32)).clip(-127, 127).astype(np.int8)
        data = np.concatenate([d.view(np.uint8), q.view(np.uint8)], axis=1)
        return data.tobytes(), (d.astype(np.float32) * q).reshape(flat.shape)
    if type_name == "Q4_0":
        d = (np.abs(rows).max(axis=1, keepdims=True) / 7 + 1e-6).astype(np.float16)
        q = (np.rint(rows / d.astype(np.float32)) + 8).clip(0, 15).astype(np.uint8)
        packed = q[:, :16] | q[:, 16:] << 4
        data = np.concatenate([d.view(np.uint8), packed], axis=1)
        meant = d.astype(np.float32) * (q.astype(np.int32) - 8)
        return data.tobytes(), meant.astype(np.float32).reshape(flat.shape)
    low = rows.min(axis=1, keepdims=True).astype(np.float16)
    d = ((rows.max(axis=1, keepdims=True) - low.astype(np.float32)) / 15 + 1e-6).astype(np.float16)
    q = np.rint((rows - low.astype(np.float32)) / d.astype(np.float32)).clip(0, 15).astype(np.uint8)
    data = np.concatenate([d.view(np.uint8), low.view(np.uint8), q[:, :16] | q[:, 16:] << 4], axis=1)
    meant = d.astype(np.float32) * q + low.astype(np.float32)
    return data.tobytes(), meant.astype(np.float32).reshape(flat.shape)


def file_of(
    tensors: Sequence[tuple[str, str, Sequence[int], bytes]],
    notes: Mapping[str, Any] | None = None,
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A whole file: tensors by name, type, shape in torch's order, and bytes."""
    notes = {"general.architecture": "flux", **(notes or {})}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(notes))
    for key, value in notes.items():
        head += text(key) + note(value)
    body = b""
    for name, type_name, shape, data in tensors:
        head += text(name) + struct.pack("<I", len(shape))
        head += b"".join(struct.pack("<Q", size) for size in reversed(shape))
        body += bytes(-len(body) % alignment)
        head += struct.pack("<IQ", TYPES[type_name][0] if type_name in TYPES else int(type_name), len(body))
        body += data
    return head + bytes(-len(head) % alignment) + body


def save(
    path: Path,
    state: Mapping[str, np.ndarray],
    types: Mapping[str, str],
    notes: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Write a file; what its numbers stand for. ``types``: name → type; others are F32."""
    tensors: list[tuple[str, str, Sequence[int], bytes]] = []
    meant: dict[str, np.ndarray] = {}
    for name, numbers in state.items():
        type_name = types.get(name, "F32")
        data, meant[name] = quantised(type_name, numbers)
        tensors.append((name, type_name, numbers.shape, data))
    path.write_bytes(file_of(tensors, notes))
    return meant
