"""Disks of a test's own: a small one, to fill, and one whose power goes. Mounting needs root."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: EXT4_IOC_SHUTDOWN, and its flag that leaves the journal as it is (EXT4_GOING_FLAGS_NOLOGFLUSH).
_SHUTDOWN, _WITHOUT_FLUSH = 0x8004587D, 2


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


class PowerDisk:
    """A disk with ext4 on it, whose power can be cut: what nobody has synced is lost, as a real one loses it.

    Nothing becomes durable by the passing of time alone.

    Args:
        mib: Its size; takes only what is written.
    """

    def __init__(self, mib: int) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="mk-power-"))
        self.folder = self._home / "disk"
        self.folder.mkdir()
        image = self._home / "image"
        with image.open("wb") as file:
            file.truncate(mib << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        self._mount()

    def __enter__(self) -> PowerDisk:
        return self

    def __exit__(self, *error: object) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)
        shutil.rmtree(self._home)

    def cut_power(self) -> None:
        """From now on nothing reaches the disk, and whoever tries is told so. Then `power_up`."""
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSH))
        finally:
            os.close(fd)

    def power_up(self) -> None:
        """Mount it again, with what it holds. Nobody may have a file of it open."""
        subprocess.run(["umount", self.folder], check=True)
        self._mount()

    def sync(self) -> None:
        """Make durable what there is."""
        subprocess.run(["sync", "-f", self.folder], check=True)

    def _mount(self) -> None:
        options = "loop,commit=3600,noauto_da_alloc"
        subprocess.run(["mount", "-o", options, self._home / "image", self.folder], check=True)


def has_loop() -> bool:
    """Whether files can be mounted as disks here."""
    return os.geteuid() == 0 and os.path.exists("/dev/loop-control") and bool(shutil.which("mkfs.ext4"))


@contextlib.contextmanager
def bound(folder: Path, at: Path, *, read_only: bool = False) -> Iterator[Path]:
    """A folder under a second path, by a bind mount; by that one it may be for reading only."""
    at.mkdir()
    subprocess.run(["mount", "--bind", folder, at], check=True)
    try:
        if read_only:
            subprocess.run(["mount", "-o", "remount,bind,ro", at], check=True)
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
