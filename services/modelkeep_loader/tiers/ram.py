"""The RAM tier's memory: sealed memfds, each a safetensors file that says itself what stands in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from modelkeep import sealed
from modelkeep.exceptions import ModelkeepError
from modelkeep.headers import read_header
from modelkeep.worker.manifest import METADATA_KEY, Manifest
from modelkeep_loader.domain.components import Built, Memory

#: What such a file is called in messages.
_CALLED: Final = Path("the loader's memory")


class SealedMemory:
    """Sealed memory that the loader keeps open, for reading only; a ``domain.components.Memory``.

    Args:
        descriptor: The only open file on it, made by :func:`modelkeep.sealed.open_readonly`.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size_bytes = os.fstat(descriptor).st_size

    @property
    def descriptors(self) -> tuple[int, ...]:
        """See :class:`modelkeep_loader.domain.components.Memory`."""
        return (self.descriptor,)

    def open_for_holder(self) -> int:
        """See :class:`modelkeep_loader.domain.components.Memory`."""
        return sealed.open_readonly(self.descriptor)

    def in_use(self) -> bool:
        """See :class:`modelkeep_loader.domain.components.Memory`."""
        return sealed.in_use_elsewhere(self.descriptor)

    def close(self) -> None:
        """See :class:`modelkeep_loader.domain.components.Memory`."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def take_memory(descriptor: int) -> Built:
    """What a helper has built: looked at, since it has read files from anywhere. The descriptor stays open.

    Raises:
        ModelkeepError: It is no memory that may be lent.
        OSError: It cannot be read or opened.
    """
    return described(descriptor, lambda: SealedMemory(sealed.open_readonly(descriptor)))


def take_kept(descriptors: Sequence[int]) -> Built:
    """Memory that was kept for this loader: the same open file, which is taken over unless this raises.

    Raises:
        ModelkeepError: It is no memory that may be lent.
        OSError: It cannot be read.
        ValueError: There are more descriptors than one, or none.
    """
    (descriptor,) = descriptors
    return described(descriptor, lambda: SealedMemory(descriptor))


def take_zombie(descriptors: Sequence[int]) -> Memory:
    """Memory that was dropped and still mapped, as it was kept: the same open file, which is taken over.

    Raises:
        ValueError: It is something else.
    """
    (descriptor,) = descriptors
    if not sealed.is_sealed(descriptor):
        raise ValueError("it is no sealed memory")
    return SealedMemory(descriptor)


def described(descriptor: int, memory: Callable[[], Memory], size_bytes: int | None = None) -> Built:
    """What stands in sealed memory by its own words.

    Args:
        descriptor: Of it, or of its beginning.
        memory: Makes what is lent, once that has been read.
        size_bytes: Of the whole file, where the descriptor has only its beginning.

    Raises:
        ModelkeepError: It is no memory that may be lent.
        OSError: It cannot be read.
    """
    if not sealed.is_sealed(descriptor):
        raise ModelkeepError("The memory is not sealed.")
    sealed.let_others_open(descriptor)
    header = read_header(descriptor, _CALLED, whole=(METADATA_KEY,), size_bytes=size_bytes)
    manifest = Manifest.from_json(header.metadata.get(METADATA_KEY, ""))
    return Built(
        memory=memory(),
        tensors=header.tensors,
        config=manifest.config,
        aliases=manifest.aliases,
        buffers=frozenset(manifest.buffers),
        quantised=manifest.quantised,
        channels_last=frozenset(manifest.channels_last),
    )
