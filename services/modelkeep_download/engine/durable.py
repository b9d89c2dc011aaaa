"""Small files beside a download that are there as a whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from modelkeep_download.engine.files import sync_folder


def replace_file(path: Path, text: bytes, *, synced: bool = True) -> None:
    """Put a file in the place of what is there.

    Args:
        path: Where.
        text: What it holds.
        synced: It outlives a power cut, as does its name; else only the end of the process.
    """
    beside = path.with_name(f"{path.name}.new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        if os.write(fd, text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if synced:
            os.fdatasync(fd)
    finally:
        os.close(fd)
    os.rename(beside, path)
    if synced:
        sync_folder(path.parent)
