"""The tensors of a component's files, each read when its turn comes."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import safe_open

from modelkeep.exceptions import InvalidModelException
from modelkeep.gguf import is_gguf
from modelkeep.torchzip import is_zip
from modelkeep_convert.pickles import open_pickled
from modelkeep_convert.quantised.gguf import open_gguf
from modelkeep_convert.quantised.sources import Source, joined
from modelkeep_convert.request import Build


class FileTensor:
    """A tensor of a safetensors file.

    Attributes:
        number: Which of the component's files it is in.
        name: What it is called there.
    """

    def __init__(self, file: Any, number: int, name: str) -> None:
        self._file = file
        self.number = number
        self.name = name

    def shape(self) -> list[int]:
        """See Source."""
        return list(self._file.get_slice(self.name).get_shape())

    def code(self) -> str:
        """See Source."""
        return str(self._file.get_slice(self.name).get_dtype())

    def read(self) -> torch.Tensor:
        """See Source."""
        tensor: torch.Tensor = self._file.get_tensor(self.name)
        return tensor


def open_tensors(wanted: Build, descriptors: list[int]) -> dict[str, Source]:
    """The tensors of a component's files by their names there, with those of quantised weights joined.

    Raises:
        InvalidModelException: A tensor is in two files, or a file is none that can be read.
    """
    sources: dict[str, Source] = {}
    for number, (name, fd) in enumerate(zip(wanted.files, descriptors, strict=True)):
        for key, source in _tensors_of(fd, number, name).items():
            if not key.startswith(wanted.prefix):
                continue  # another component's
            if key in sources:
                raise InvalidModelException(
                    f"The tensor {key} stands in two files, one of them {name}.",
                    metadata={"path": name, "detail": f"twice: {key}"},
                    remedy="Fetch the model anew, into an empty folder.",
                )
            sources[key] = source
    return joined(sources)


def _tensors_of(fd: int, number: int, name: str) -> dict[str, Source]:
    if is_gguf(fd):
        return open_gguf(fd, name)
    if is_zip(fd):
        return open_pickled(fd, name)
    file: Any = safe_open(f"/proc/self/fd/{fd}", framework="pt")
    return {key: FileTensor(file, number, key) for key in list(file.keys())}
