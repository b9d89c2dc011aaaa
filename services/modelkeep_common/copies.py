"""Bytes from one file to another by the kernel, which shares the blocks where the file system can."""

from __future__ import annotations

import errno
import os
from typing import Final

#: Not between these two file systems; of EIO, reading and writing apart tell which one has it.
NOT_IN_KERNEL: Final = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EIO}
)
_READ_BYTES = 1 << 20


def copy_at(source: int, target: int, at: int, most: int) -> int:
    """Copy bytes to the same offset of another file; returns how many, 0 at the source's end.

    Args:
        source: Descriptor to read from.
        target: Descriptor to write to.
        at: Offset of the first byte.
        most: Bytes, at most.

    Raises:
        OSError: One of them cannot be read or written.
    """
    try:
        return os.copy_file_range(source, target, most, at, at)
    except OSError as error:
        if error.errno not in NOT_IN_KERNEL:
            raise
    block = memoryview(os.pread(source, min(most, _READ_BYTES), at))
    done = 0
    while done < len(block):
        done += os.pwrite(target, block[done:], at + done)
    return done
