"""One build: a component's tensors into a sealed memfd that is a safetensors file.

Or only its plan: where in the installed files the bytes of that file lie, for a device that takes them from
there. The same tensors come in the same order either way, and so the file is the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modelkeep import sealed
from modelkeep.exceptions import InvalidModelException, ModelkeepError
from modelkeep.headers import Tensor, read_header
from modelkeep.worker.manifest import METADATA_KEY, Kind
from modelkeep.worker.packedshell import SHELL_KEY
from modelkeep.worker.shell import packed_shell
from modelkeep_convert import weightfile
from modelkeep_convert.components import Parts, collect
from modelkeep_convert.memoryformat import in_channels_last
from modelkeep_convert.request import Build, is_in_files


@dataclass(frozen=True, slots=True)
class Gathered:
    """Where the bytes of a lent file lie.

    Attributes:
        head: Descriptor of sealed memory with the file's beginning, up to its first tensor.
        made: Descriptor of sealed memory with the bytes of tensors that stand in no file as they are lent.
        size_bytes: Of the whole file.
        segments: Of each tensor a source, where it begins there, its bytes, and where it begins in the lent
            file. Sources are the files by their numbers; the next number is `made`.
    """

    head: int
    made: int
    size_bytes: int
    segments: list[tuple[int, int, int, int]]


def build(wanted: Build, descriptors: list[int], progress: Callable[[int], None]) -> int:
    """Build one component.

    Returns:
        Descriptor of the sealed memory.

    Raises:
        InvalidModelException: The files do not make up the component.
        ModelkeepError: There are not as many descriptors as files.
    """
    parts, layout = _laid_out(wanted, descriptors)
    memory = sealed.create(wanted.name, layout.size_bytes)
    try:
        sealed.write(memory, 0, layout.head)
        for tensor in layout.tensors:
            sealed.write(memory, tensor.begin, _bytes(parts, tensor))
            progress(tensor.end)
        sealed.seal(memory)
    except BaseException:
        os.close(memory)
        raise
    return memory


def gather(wanted: Build, descriptors: list[int]) -> Gathered | None:
    """Find out where a component's bytes lie in its files.

    Returns:
        None if too many of them do not lie there as they are lent: those of tensors that are cast,
        dequantised, put in another order or tied, of modules that only their library can load, and of
        buffers that files do not have.

    Raises:
        InvalidModelException: The files do not make up the component.
        ModelkeepError: There are not as many descriptors as files.
    """
    parts, layout = _laid_out(wanted, descriptors)
    missing = [tensor for tensor in layout.tensors if tensor.name not in parts.in_files]
    made_bytes = sum(tensor.size_bytes for tensor in missing)
    if not is_in_files(made_bytes, layout.size_bytes):
        return None
    places = _places(wanted, descriptors)
    segments: list[tuple[int, int, int, int]] = []
    for tensor in layout.tensors:
        if (source := parts.in_files.get(tensor.name)) is not None:
            begin = places[source.number][source.name]
            segments.append((source.number, begin, tensor.size_bytes, tensor.begin))
    head, made = sealed.create(wanted.name, len(layout.head)), -1
    try:
        sealed.write(head, 0, layout.head)
        sealed.seal(head)
        made = sealed.create(wanted.name, made_bytes)
        position = 0
        for tensor in missing:
            sealed.write(made, position, _bytes(parts, tensor))
            segments.append((len(descriptors), position, tensor.size_bytes, tensor.begin))
            position += tensor.size_bytes
        sealed.seal(made)
    except BaseException:
        os.close(head)
        if made >= 0:
            os.close(made)
        raise
    return Gathered(head, made, layout.size_bytes, segments)


def _laid_out(wanted: Build, descriptors: list[int]) -> tuple[Parts, weightfile.Layout]:
    """What the component consists of, and where each of it goes in the lent file."""
    if len(descriptors) != len(wanted.files):
        raise ModelkeepError(f"{len(wanted.files)} files named, {len(descriptors)} handed over.")
    parts = collect(wanted, descriptors)
    if wanted.memory_format == "channels_last":
        parts = in_channels_last(parts)
    metadata = {"format": "pt", METADATA_KEY: parts.manifest.to_json()}
    if parts.manifest.kind is Kind.MODULE and not parts.manifest.quantised:
        metadata[SHELL_KEY] = packed_shell(parts.manifest)
    return parts, weightfile.lay_out(parts.tensors, metadata)


def _bytes(parts: Parts, tensor: Tensor) -> memoryview:
    """A tensor's bytes, as many as the layout has for it."""
    data = parts.read(tensor)
    if data.nbytes != tensor.size_bytes:  # it would lie over its neighbour
        raise InvalidModelException(
            f"{tensor.name} has {data.nbytes} bytes, not {tensor.size_bytes}.",
            metadata={"detail": f"size of {tensor.name}"},
            remedy="Fetch config.json and the weights anew, both of one model.",
        )
    return data


def _places(wanted: Build, descriptors: list[int]) -> list[dict[str, int]]:
    """Where in each file its tensors begin."""
    return [
        {tensor.name: tensor.begin for tensor in read_header(fd, Path(name)).tensors}
        for name, fd in zip(wanted.files, descriptors, strict=True)
    ]
