"""Channels last: tensors of four dimensions are written with the second of them closest together.

That is what ``module.to(memory_format=torch.channels_last)`` makes of them, done once for all workers. The
lent file stays a true safetensors file: its header has the shape in which the bytes lie row by row, (N, H, W,
C), and its manifest the names of these tensors, of which a worker makes views of the shape (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch

from modelkeep.exceptions import InvalidModelException
from modelkeep.headers import Tensor
from modelkeep.worker.manifest import Kind, channels_last_shape
from modelkeep_convert.components import Parts
from modelkeep_convert.quantised.sources import bytes_of

#: Bytes of an element → a type that moves it as it is.
_MOVED_AS: Final[Mapping[int, torch.dtype]] = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
}


def in_channels_last(parts: Parts) -> Parts:
    """The same component with its tensors of four dimensions in channels last, buffers among them.

    Raises:
        InvalidModelException: It is a state dict, or some of its weights are lent quantised.
    """
    if parts.manifest.kind is not Kind.MODULE or parts.manifest.quantised:
        raise InvalidModelException(
            "Only modules whose weights are lent dequantised can be lent in channels_last.",
            metadata={"detail": "channels_last"},
            remedy="Ask for it contiguous, or for its weights dequantised.",
        )
    plain = {tensor.name: tensor for tensor in parts.tensors if len(tensor.shape) == 4}

    def turned(tensor: Tensor) -> Tensor:
        if tensor.name not in plain:
            return tensor
        return Tensor(tensor.name, tensor.dtype, channels_last_shape(tensor.shape))

    def read(tensor: Tensor) -> memoryview:
        before = plain.get(tensor.name)
        if before is None:
            return parts.read(tensor)
        data = parts.read(before)
        if not data.nbytes:
            return data
        moved = torch.frombuffer(data, dtype=_MOVED_AS[data.nbytes // before.elements])
        return bytes_of(moved.view(before.shape).permute(0, 2, 3, 1))

    return Parts(
        replace(parts.manifest, channels_last=tuple(sorted(plain))), [turned(t) for t in parts.tensors], read
    )
