"""The tensors of a file of torch.save, which is mapped. It is not unpickled: see :mod:`modelkeep.pickles`."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path

import torch

from modelkeep.pickles import Stored, read_stored
from modelkeep.worker.lentfile import TORCH_DTYPES
from modelkeep_convert.mapping import map_privately
from modelkeep_convert.quantised.sources import Source


class _Pickled:
    """A tensor of the file, as a view of the mapping unless others share its bytes."""

    def __init__(self, memory: mmap.mmap, stored: Stored, *, is_shared: bool) -> None:
        self._memory = memory
        self._stored = stored
        self._is_shared = is_shared

    def shape(self) -> list[int]:
        return list(self._stored.tensor.shape)

    def code(self) -> str:
        return self._stored.tensor.dtype

    def read(self) -> torch.Tensor:
        tensor = self._stored.tensor
        dtype = TORCH_DTYPES[tensor.dtype]
        count = tensor.end - tensor.begin
        if not count:
            return torch.empty(tensor.shape, dtype=dtype)
        held = torch.frombuffer(self._memory, dtype=torch.uint8, count=count, offset=tensor.begin)
        # Conversions tell tensors by where they lie, and torch wants them aligned, as torch.save writes them.
        if self._is_shared or tensor.begin % dtype.itemsize:
            held = held.clone()
        return held.view(dtype).as_strided(tensor.shape, self._stored.strides).contiguous()


def open_pickled(fd: int, name: str) -> dict[str, Source]:
    """The tensors of the file behind a descriptor, which may be closed afterwards.

    Raises:
        UnsafeFormatException: It is no file that torch.save writes for tensors.
        InvalidModelException: It is cut off, or holds something else than named tensors.
    """
    found = read_stored(fd, Path(name))
    memory = map_privately(fd)
    shared = _shared(found)
    return {key: _Pickled(memory, stored, is_shared=key in shared) for key, stored in found.items()}


def _shared(found: Mapping[str, Stored]) -> set[str]:
    """Names of tensors some of whose bytes are another's, too."""
    shared: set[str] = set()
    last, holder = 0, ""
    for tensor in sorted((one.tensor for one in found.values()), key=lambda t: (t.begin, t.end)):
        if tensor.begin < last and tensor.end > tensor.begin:
            shared |= {holder, tensor.name}
        if tensor.end > last:
            last, holder = tensor.end, tensor.name
    return shared
