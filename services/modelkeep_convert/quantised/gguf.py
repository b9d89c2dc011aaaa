"""The tensors of a GGUF file, which is mapped: those made of blocks are read as bytes."""

from __future__ import annotations

import mmap
from pathlib import Path

import torch

from modelkeep.gguf import BLOCKS, read_gguf
from modelkeep.headers import Tensor
from modelkeep.worker.lentfile import TORCH_DTYPES
from modelkeep_convert.mapping import map_privately
from modelkeep_convert.quantised.sources import Source


class _Plain:
    """A tensor of one of the types that safetensors has, too."""

    def __init__(self, memory: mmap.mmap, tensor: Tensor) -> None:
        self._memory = memory
        self._tensor = tensor

    def shape(self) -> list[int]:
        return list(self._tensor.shape)

    def code(self) -> str:
        return self._tensor.dtype

    def read(self) -> torch.Tensor:
        dtype = TORCH_DTYPES[self._tensor.dtype]
        return _bytes(self._memory, self._tensor).view(dtype).reshape(self._tensor.shape)


class Blocks:
    """A tensor made of ggml's blocks. Its type is their name, its shape the one that it stands for."""

    def __init__(self, memory: mmap.mmap, tensor: Tensor) -> None:
        self._memory = memory
        self._tensor = tensor

    def shape(self) -> list[int]:
        """As it is once it is dequantised."""
        return list(self._tensor.shape)

    def code(self) -> str:
        """ggml's name of the type."""
        return self._tensor.dtype

    def read(self) -> torch.Tensor:
        """Its blocks, each a row of bytes."""
        return _bytes(self._memory, self._tensor).reshape(-1, BLOCKS[self._tensor.dtype].size_bytes)


def open_gguf(fd: int, name: str) -> dict[str, Source]:
    """The tensors of the file behind a descriptor, which may be closed afterwards.

    Raises:
        InvalidModelException: It is no valid GGUF file.
    """
    header = read_gguf(fd, Path(name))
    memory = map_privately(fd)
    return {
        tensor.name: Blocks(memory, tensor) if tensor.dtype in BLOCKS else _Plain(memory, tensor)
        for tensor in header.tensors
    }


def _bytes(memory: mmap.mmap, tensor: Tensor) -> torch.Tensor:
    count = tensor.end - tensor.begin
    if not count:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(memory, dtype=torch.uint8, count=count, offset=tensor.begin)
