"""Objects without weights: their files into sealed memory, in this process, since no library is needed."""

from __future__ import annotations

import os
from collections.abc import Sequence

from blake3 import blake3

from modelkeep import sealed
from modelkeep.headers import Tensor
from modelkeep.worker.manifest import METADATA_KEY, Kind, Manifest
from modelkeep_convert import weightfile
from modelkeep_loader.domain.components import Plan, changed


def pack(plan: Plan, descriptors: Sequence[int]) -> int:
    """Sealed memory that is a safetensors file with each of an object's files as one tensor of bytes.

    Args:
        plan: Of the object.
        descriptors: Its files, open.

    Raises:
        ChangedMeanwhileException: A file is another one than the plan's id says.
        OSError: One cannot be read.
    """
    contents = {name: text.encode() for name, text in plan.texts.items()}
    for name, file, known, fd in zip(plan.names, plan.files, plan.digests, descriptors, strict=True):
        data = _whole(fd, file.size_bytes)
        if blake3(data).hexdigest() != known.blake3:
            raise changed(file)
        contents[name] = data
    manifest = Manifest(plan.library, plan.class_name, dict(plan.overrides), "", {}, (), (), Kind.OBJECT)
    tensors = [Tensor(name, "U8", (len(data),), 0, len(data)) for name, data in contents.items()]
    layout = weightfile.lay_out(tensors, {METADATA_KEY: manifest.to_json()})
    memory = sealed.create(f"modelkeep:{plan.id[:12]}:{plan.class_name}", layout.size_bytes)
    try:
        sealed.write(memory, 0, layout.head)
        for tensor in layout.tensors:
            sealed.write(memory, tensor.begin, contents[tensor.name])
        sealed.seal(memory)
    except BaseException:
        os.close(memory)
        raise
    return memory


def _whole(fd: int, size: int) -> bytes:
    parts: list[bytes] = []
    position = 0
    while position < size and (part := os.pread(fd, size - position, position)):
        parts.append(part)
        position += len(part)
    return b"".join(parts)
