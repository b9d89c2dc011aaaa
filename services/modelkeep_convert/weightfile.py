"""Safetensors files laid out without torch.

A file is 8 bytes (little-endian length N of the header), N bytes of JSON, then the tensors without
gaps (https://huggingface.co/docs/safetensors/index#format); :mod:`modelkeep.headers` reads it. The loader
lays out the sealed memory that it lends so that every tensor begins at a multiple of its own natural
alignment: kernels are chosen by the alignment of their operands, so an output can depend on where a weight
lies. The format forbids holes, so order is what is left (:func:`lay_out`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from modelkeep.headers import Tensor

#: The header of a laid-out file ends at a multiple of this.
HEADER_ALIGNMENT: Final = 4096


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything goes in a file that is about to be written."""

    head: bytes
    tensors: tuple[Tensor, ...]
    size_bytes: int


def natural_alignment(size_bytes: int) -> int:
    """The largest power of two that divides a size; of nothing, which has a place anywhere, 0."""
    return size_bytes & -size_bytes


def lay_out(tensors: Iterable[Tensor], metadata: Mapping[str, str]) -> Layout:
    """Order tensors for alignment and write the header for them.

    The largest natural alignment comes first. What stands before a tensor is then a sum of multiples of its
    own alignment, and so is the place where it begins, counted from the end of the header; counted from the
    beginning of the file, up to HEADER_ALIGNMENT. Since a tensor's size is a multiple of its elements', it is
    aligned for these as well.

    Args:
        tensors: Names, dtypes and shapes; offsets are ignored.
        metadata: Free text for ``__metadata__``.
    """
    ordered = sorted(tensors, key=lambda t: (-natural_alignment(t.size_bytes), t.name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    relative = 0
    for tensor in ordered:
        end = relative + tensor.size_bytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [relative, end],
        }
        relative = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % HEADER_ALIGNMENT)
    start = 8 + len(text)
    placed: list[Tensor] = []
    position = start
    for tensor in ordered:
        end = position + tensor.size_bytes
        placed.append(Tensor(tensor.name, tensor.dtype, tensor.shape, position, end))
        position = end
    return Layout(len(text).to_bytes(8, "little") + text, tuple(placed), position)
