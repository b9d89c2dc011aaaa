"""A simulated accelerator with lent files on it, as the loader's processes put them there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from modelkeep import sealed
from modelkeep.devices import hostmemory
from modelkeep.devices.simulated import Simulated
from modelkeep.headers import read_header
from modelkeep.worker.devicepart import DevicePart


class Lent(NamedTuple):
    """What a worker gets of a component: descriptors of its file, or of its head, and of its allocation."""

    file: int
    allocation: int | None
    size_bytes: int

    def part(self) -> DevicePart:
        """The allocation, mapped."""
        return DevicePart("sim:0", "SIM-0", self.allocation, self.size_bytes)

    def close(self) -> None:
        """Let go of the descriptors."""
        for fd in (self.file, self.allocation):
            if fd is not None:
                os.close(fd)


class Board:
    """One accelerator; this process is owner, copier and worker of it.

    Args:
        size_bytes: Its memory.
    """

    name = "sim:0"

    def __init__(self, size_bytes: int = 256 << 20) -> None:
        self.driver = Simulated((size_bytes,))

    @property
    def taken_bytes(self) -> int:
        """Bytes of living allocations."""
        memory = self.driver.memory(self.name)
        return memory.total_bytes - memory.free_bytes

    def lend(self, memory: int, share: float = 1.0) -> Lent:
        """Put a lent file there: the longest prefix of whole tensors that this share of it has room for."""
        whole = os.fstat(memory).st_size
        header = read_header(memory, Path("lent"))
        ends = sorted(tensor.end for tensor in header.tensors)
        first = min(tensor.begin for tensor in header.tensors)
        size = max((end for end in ends if end <= whole * share), default=0)
        if not size:
            return Lent(sealed.open_readonly(memory), None, 0)
        allocation = self.place(memory, size)
        if size < whole:
            return Lent(sealed.open_readonly(memory), allocation, size)
        head = sealed.create("modelkeep:head", first)
        sealed.write(head, 0, os.pread(memory, first, 0))
        sealed.seal(head)
        opened = sealed.open_readonly(head)
        os.close(head)
        return Lent(opened, allocation, size)

    def place(self, memory: int, size_bytes: int) -> int:
        """An allocation that holds the beginning of a file; a descriptor that only reads."""
        unit = self.driver.granularity(self.name)
        rounded = -(-size_bytes // unit) * unit
        made = self.driver.create(self.name, rounded)
        mapping = self.driver.map(self.name, made, rounded, writable=True)
        source = hostmemory.map_file(memory, size_bytes)
        try:
            self.driver.copy_in(mapping, source, size_bytes, lambda done: None)
        finally:
            hostmemory.unmap(source, size_bytes)
            self.driver.close(mapping)
        opened = sealed.open_readonly(made)
        os.close(made)
        return opened
