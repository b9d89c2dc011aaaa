"""One build: a component's tensors into a sealed memfd that is a safetensors file."""

from __future__ import annotations

import os
from collections.abc import Callable

from modelkeep import sealed
from modelkeep.exceptions import InvalidModelException, ModelkeepError
from modelkeep.worker.manifest import METADATA_KEY, Kind
from modelkeep.worker.packedshell import SHELL_KEY
from modelkeep.worker.shell import packed_shell
from modelkeep_convert import weightfile
from modelkeep_convert.components import collect
from modelkeep_convert.memoryformat import in_channels_last
from modelkeep_convert.request import Build


def build(wanted: Build, descriptors: list[int], progress: Callable[[int], None]) -> int:
    """Build one component.

    Returns:
        Descriptor of the sealed memory.

    Raises:
        InvalidModelException: The files do not make up the component.
        ModelkeepError: There are not as many descriptors as files.
    """
    if len(descriptors) != len(wanted.files):
        raise ModelkeepError(f"{len(wanted.files)} files named, {len(descriptors)} handed over.")
    parts = collect(wanted, descriptors)
    if wanted.memory_format == "channels_last":
        parts = in_channels_last(parts)
    metadata = {"format": "pt", METADATA_KEY: parts.manifest.to_json()}
    if parts.manifest.kind is Kind.MODULE and not parts.manifest.quantised:
        metadata[SHELL_KEY] = packed_shell(parts.manifest)
    layout = weightfile.lay_out(parts.tensors, metadata)
    memory = sealed.create(wanted.name, layout.size_bytes)
    try:
        sealed.write(memory, 0, layout.head)
        for tensor in layout.tensors:
            data = parts.read(tensor)
            if data.nbytes != tensor.size_bytes:  # it would lie over its neighbour
                raise InvalidModelException(
                    f"{tensor.name} has {data.nbytes} bytes, not {tensor.size_bytes}.",
                    metadata={"detail": f"size of {tensor.name}"},
                    remedy="Fetch config.json and the weights anew, both of one model.",
                )
            sealed.write(memory, tensor.begin, data)
            progress(tensor.end)
        sealed.seal(memory)
    except BaseException:
        os.close(memory)
        raise
    return memory
