"""Processes that a test left behind, told from those of other runs on the same machine."""

from __future__ import annotations

import os
from pathlib import Path


def processes_of(variable: str, value: str | Path) -> list[int]:
    """Other processes whose environment was given this variable with this value, or a path beneath it."""
    wanted = f"{variable}={value}".encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid():
            try:
                environment = (process / "environ").read_bytes().split(b"\0")
            except OSError:  # it has ended, or is another user's
                continue
            if any(entry == wanted or entry.startswith(wanted + b"/") for entry in environment):
                found.append(int(process.name))
    return found


def children(*words: str) -> list[int]:
    """Processes that this one started with all of these in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        if parent == os.getpid() and all(word.encode() in command for word in words):
            found.append(int(folder.name))
    return found


def connections_to(*ports: int) -> int:
    """How many connections this machine has open to servers at these ports (IPv4)."""
    wanted = {f":{port:04X}" for port in ports}
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(row[2][-5:] in wanted and row[3] == "01" for row in rows)  # 01: established
