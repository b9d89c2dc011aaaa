"""What processes take of the host's memory by what the kernel says: no counting of our own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def memfd_bytes(pids: Iterable[int], name: str = "") -> int:
    """Bytes of memory behind the memfds that processes have open, each once, mapped or not.

    Args:
        pids: The processes; those that have ended count nothing.
        name: Only memfds whose name begins so.
    """
    return sum(memfds(pids, name).values())


def memfds(pids: Iterable[int], name: str = "") -> dict[tuple[int, int], int]:
    """The same of each, by its device and inode."""
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        folder = Path(f"/proc/{pid}/fd")
        try:
            entries = list(folder.iterdir())
        except OSError:
            continue
        for entry in entries:
            try:
                if os.readlink(entry).startswith(f"/memfd:{name}"):
                    status = entry.stat()
                    found[status.st_dev, status.st_ino] = status.st_blocks * 512
            except OSError:
                continue  # closed meanwhile
    return found


def own_bytes(pid: int) -> int:
    """Bytes that a process has for itself: anonymous memory, swapped out or not; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii", "replace").splitlines()
    except OSError:
        return 0
    values = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return sum(int(values.get(name, "0 kB").split()[0]) * 1024 for name in ("Anonymous", "Swap"))
