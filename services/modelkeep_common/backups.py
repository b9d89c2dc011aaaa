"""Files that are copies of a store: each takes its name once it is whole, and none takes that of another."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from modelkeep.exceptions import DestinationExistsException, DiskFullException

from .threads import to_its_end

#: A file system with less room than this counts as full.
_FULL_BELOW_BYTES = 1 << 20
#: No copy takes so long.
_STALE_S = 24 * 3600.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextlib.asynccontextmanager
async def new_file(path: Path, size_bytes: int) -> AsyncIterator[Path]:
    """An empty file that becomes ``path`` at the end; nothing of it is left when something goes wrong inside.

    It is for this user alone, and so is its folder, which is made if need be.

    Args:
        path: What it is called at the end.
        size_bytes: How large it will be, about.

    Raises:
        DestinationExistsException: There is such a file already.
        DiskFullException: There is no room for it.
    """
    scratch = path.with_name(f".{path.name}.part")
    try:
        await to_its_end(_begin, scratch, path, size_bytes)
        yield scratch
        await to_its_end(_finish, scratch, path)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise await asyncio.to_thread(full_disk, path.parent, size_bytes) from None
        raise
    finally:
        await to_its_end(_drop, scratch)


def full_disk(folder: Path, size_bytes: int) -> DiskFullException:
    """The error for a copy of so many bytes that has no room."""
    try:
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
    except OSError:
        free = 0
    short = max(size_bytes + _FULL_BELOW_BYTES - free, _FULL_BELOW_BYTES)
    return DiskFullException(
        f"The file system of {folder} has no room for the copy: {short:,} bytes are missing.",
        metadata={"path": str(folder), "bytes_short": str(short)},
        retry_after=30,
    )


def _begin(scratch: Path, path: Path, size_bytes: int) -> None:
    folder = path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.path.lexists(path):
        raise DestinationExistsException(
            f"There is a copy of this name already: {path}", metadata={"path": str(path)}
        )
    status = os.statvfs(folder)
    if status.f_bavail * status.f_frsize < size_bytes + _FULL_BELOW_BYTES:
        raise full_disk(folder, size_bytes)
    _sweep(folder)
    with contextlib.suppress(FileNotFoundError):
        scratch.unlink()  # of a process that was killed
    os.close(os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _sweep(folder: Path) -> None:
    """Take away what processes that were killed have left, long ago: another one may be at work right now."""
    for left in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_S:
                left.unlink()


def _drop(scratch: Path) -> None:
    with contextlib.suppress(OSError):
        scratch.unlink()


def _finish(scratch: Path, path: Path) -> None:
    for name, flags in ((scratch, os.O_RDWR), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(name, flags | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if name == scratch:
            os.rename(scratch, path)
