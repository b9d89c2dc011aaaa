"""What the kernel says about the memory of a process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mapping:
    """Memory of one process that maps a file, in bytes, as /proc/<pid>/smaps counts it (proc(5)).

    Attributes:
        name: What is mapped, ``/memfd:…``; empty if nothing of the file is.
        rss: Resident in the process.
        pss: Its fair share of that: each page divided by the number of processes that map it.
        private: What no other process maps, copies made by writing included.
    """

    name: str
    rss: int
    pss: int
    private: int


def read_mapping(pid: int, device: int, inode: int) -> Mapping:
    """What a process maps of the file with a device and an inode number."""
    totals = dict.fromkeys(("Rss", "Pss", "Private_Clean", "Private_Dirty"), 0)
    wanted = [f"{os.major(device):02x}:{os.minor(device):02x}", str(inode)]
    name = ""
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text(errors="replace").splitlines():
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):  # "low-high perms offset dev inode   name"
            fields = rest.split(maxsplit=4)
            inside = fields[2:4] == wanted
            name = fields[4] if inside and len(fields) > 4 else name
        elif inside and first[:-1] in totals:
            totals[first[:-1]] += int(rest.split()[0]) * 1024
    return Mapping(
        name.removesuffix(" (deleted)"),
        totals["Rss"],
        totals["Pss"],
        totals["Private_Clean"] + totals["Private_Dirty"],
    )


def has_open(pid: int, device: int, inode: int) -> bool:
    """Whether a process has a descriptor of the file with a device and an inode number."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found = entry.stat()
        except FileNotFoundError:  # closed meanwhile, or the other end is gone
            continue
        if (found.st_dev, found.st_ino) == (device, inode):
            return True
    return False
