"""A file's tensors with quantised weights joined: each weight is one source, its scales are none any more.

Whatever is done with sources afterwards (renaming, conversion, casting) need not know of quantisation.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

import torch

from modelkeep import sealed
from modelkeep.dtypes import PRECISIONS
from modelkeep.exceptions import InvalidModelException
from modelkeep.gguf import BLOCKS
from modelkeep.headers import Tensor
from modelkeep.quantised import GGUF, QuantisedTensor, survey
from modelkeep.worker.dequantise import dequantise, logical_shape
from modelkeep.worker.lentfile import TORCH_DTYPES
from modelkeep_convert import weightfile


class Source(Protocol):
    """A tensor of the files, read when called."""

    def shape(self) -> list[int]:
        """Its shape."""
        ...

    def code(self) -> str:
        """Its type, as safetensors names it."""
        ...

    def read(self) -> torch.Tensor:
        """Its numbers."""
        ...


class Quantised:
    """A weight that several tensors of the files stand for. As a source it is its numbers in float32.

    Attributes:
        scheme: How it is quantised.
        parts: Role → source of the tensor, as it is in the file.
    """

    def __init__(self, scheme: str, parts: Mapping[str, Source], shape: tuple[int, ...]) -> None:
        self.scheme = scheme
        self.parts = parts
        self._shape = shape

    def shape(self) -> list[int]:
        """Its shape once it is dequantised."""
        return list(self._shape)

    def code(self) -> str:
        """What it is dequantised in."""
        return "F32"

    def read(self) -> torch.Tensor:
        """Dequantise it; new memory."""
        return dequantise(
            self.scheme, {role: source.read() for role, source in self.parts.items()}, self._shape
        )


class _Bytes:
    """ggml's blocks as what a safetensors file can hold: each a row of bytes."""

    def __init__(self, blocks: Source, weight: QuantisedTensor) -> None:
        self._blocks = blocks
        size = BLOCKS[blocks.code()].size_bytes
        self._shape = [weight.elements // BLOCKS[blocks.code()].elements, size]

    def shape(self) -> list[int]:
        return self._shape

    def code(self) -> str:
        return "U8"

    def read(self) -> torch.Tensor:
        return self._blocks.read()


def joined(sources: Mapping[str, Source]) -> dict[str, Source]:
    """Sources with those of quantised weights joined; the others as they are, in their order.

    Raises:
        InvalidModelException: Something is quantised in a way that cannot be read; it is named.
    """
    tensors = [Tensor(name, source.code(), tuple(source.shape())) for name, source in sources.items()]
    found = survey(tensors, Path("The model's file"))
    weights = {weight.parts["data"]: weight for weight in found.weights.values()}
    taken = found.taken
    together: dict[str, Source] = {}
    for name, source in sources.items():
        if (weight := weights.get(name)) is not None:
            together[weight.name] = _one(weight, sources)
        elif name not in taken:
            together[name] = source
    return together


def _one(weight: QuantisedTensor, sources: Mapping[str, Source]) -> Quantised:
    parts = {role: sources[name] for role, name in weight.parts.items()}
    if weight.scheme.startswith(GGUF):
        return Quantised(weight.scheme, {"data": _Bytes(parts["data"], weight)}, weight.shape)
    notes = {role: source.read() for role, source in parts.items()}
    try:
        shape = logical_shape(weight.scheme, notes, weight.shape)
    except InvalidModelException as error:
        error.metadata["detail"] = f"{error.metadata['detail']} ({weight.name[:200]})"
        raise
    return Quantised(weight.scheme, parts, shape)


def written_out(sources: Mapping[str, Source], precision: str, kept: Collection[str]) -> int:
    """A file in memory with the same weights, dequantised: for the library's own loaders.

    Args:
        sources: What goes into it.
        precision: Of the dequantised weights; the others stay as they are.
        kept: Modules that the library keeps in float32 all the same.

    Returns:
        Its descriptor; the caller closes it.
    """
    tensors: list[Tensor] = []
    for name, source in sources.items():
        code = source.code()
        if isinstance(source, Quantised):
            is_kept = not set(kept).isdisjoint(name.split("."))
            code = "F32" if is_kept else PRECISIONS[precision]
        tensors.append(Tensor(name, code, tuple(source.shape())))
    layout = weightfile.lay_out(tensors, {"format": "pt"})
    memory = sealed.create("modelkeep:dequantised", layout.size_bytes)
    try:
        sealed.write(memory, 0, layout.head)
        for tensor in layout.tensors:
            source = sources[tensor.name]
            value = source.read()
            if isinstance(source, Quantised):
                value = value.to(TORCH_DTYPES[tensor.dtype])
            sealed.write(memory, tensor.begin, bytes_of(value))
    except BaseException:
        os.close(memory)
        raise
    return memory


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """A tensor's bytes in order, without a copy where they lie so already."""
    flat = tensor.detach().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(b"")  # type: ignore[arg-type]
