"""A disk of a few MiB, to fill: a tmpfs of its own. Mounting needs root, which tests are."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(mib: int) -> Iterator[Path]:
    """A file system of `mib` MiB, mounted at a short path."""
    folder = Path(tempfile.mkdtemp(prefix="mk-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "none", folder], check=True)
    try:
        yield folder
    finally:
        # Lazily: what a test that failed left running must not keep it.
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


@contextlib.contextmanager
def bound(folder: Path, at: Path) -> Iterator[Path]:
    """A folder under a second path, by a bind mount."""
    at.mkdir()
    subprocess.run(["mount", "--bind", folder, at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def fill(folder: Path) -> Path:
    """Take every byte that is left; returns the file that does."""
    ballast = folder / f"ballast-{len(list(folder.glob('ballast-*')))}"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    assert free_bytes(folder) == 0
    return ballast


def free_bytes(folder: Path) -> int:
    """Bytes that are left."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
