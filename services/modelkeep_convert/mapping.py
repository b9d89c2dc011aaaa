"""Files that are mapped, for tensors that are views of them."""

from __future__ import annotations

import mmap
from typing import Final

#: Of <sys/mman.h> on Linux, where the standard library has no name for it yet: a file larger than memory may
#: be mapped so that it could be written, for it is not.
_MAP_NORESERVE: Final = 0x4000


def map_privately(fd: int) -> mmap.mmap:
    """The file behind a descriptor, which may be closed afterwards.

    The mapping is private, since torch warns of memory that cannot be written; nobody writes into it.
    """
    return mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE | _MAP_NORESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
