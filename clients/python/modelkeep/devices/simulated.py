"""Simulated accelerators, in the host's own memory: the rules of CUDA's without CUDA.

An allocation is a memfd whose size is sealed. Workers get a descriptor that only reads, so that a write
through their mapping kills them and nobody else. What lives is counted by the kernel, as a driver counts it:
an allocation takes its bytes until the last process that has it open or mapped lets go, killed ones included.
It is a ledger of the process that made them: after that process has died, nobody counts what it left.

A file may say what goes wrong (:class:`Fault`), and is read anew at each call.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modelkeep import sealed

from . import hostmemory
from .driver import (
    DeviceFacts,
    DeviceFailedError,
    DeviceGoneError,
    DeviceMapping,
    DeviceMemory,
    DeviceOutOfMemoryError,
    check_run,
)
from .pieces import PIECE_BYTES, Piece, stream

#: As CUDA's, so that what is rounded is rounded alike.
_GRANULARITY: Final = 2 << 20
#: Parts of the ring through which what is read goes.
_RING: Final = 4
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong on one device: an entry of the faults' file, which is JSON, by the device's name.

    Attributes:
        lost: Why the device is not there any more; "" while it is.
        refusal: Why nothing can be lent on it; "" if it can.
        stranger_bytes: Memory that somebody else took.
        slow_s: Seconds that each piece of a copy takes longer.
    """

    lost: str = ""
    refusal: str = ""
    stranger_bytes: int = 0
    slow_s: float = 0.0


class Simulated:
    """A :class:`modelkeep.devices.driver.Driver`.

    Args:
        sizes: Bytes of each device; a worker needs none.
        faults: The file that says what goes wrong.
    """

    kind = "sim"

    def __init__(self, sizes: Sequence[int] = (), faults: Path | None = None) -> None:
        self._sizes = {f"sim:{number}": size for number, size in enumerate(sizes)}
        self._faults = faults
        self._lock = threading.RLock()
        #: Of each device what was made there: its only open file of this process, and its bytes.
        self._made: dict[str, list[tuple[int, int]]] = {name: [] for name in self._sizes}
        self._registered: set[int] = set()

    def devices(self) -> Sequence[DeviceFacts]:
        """See Driver."""
        found = []
        for number, (name, size) in enumerate(self._sizes.items()):
            fault = self._fault(name)
            facts = DeviceFacts(
                name=name,
                product="simulated accelerator",
                uuid=f"SIM-{number}",
                total_bytes=size,
                granularity=_GRANULARITY,
                refusal=fault.refusal or fault.lost,
            )
            found.append(facts)
        return found

    def memory(self, device: str) -> DeviceMemory:
        """See Driver."""
        size = self._size(device)
        with self._lock:
            taken = self._fault(device).stranger_bytes + self._living(device)
        return DeviceMemory(size, max(0, size - taken))

    def named(self, uuid: str) -> str:
        """See Driver."""
        prefix, _, number = uuid.partition("-")
        if prefix != "SIM" or not number.isdecimal():
            raise DeviceGoneError(f"{uuid!r} is no simulated accelerator.")
        return f"sim:{number}"

    def granularity(self, device: str) -> int:
        """See Driver."""
        return _GRANULARITY

    def create(self, device: str, size_bytes: int) -> int:
        """See Driver. The descriptor is for writing; what workers get is opened anew from it."""
        if size_bytes <= 0 or size_bytes % _GRANULARITY:
            raise ValueError(f"{size_bytes} is no multiple of {_GRANULARITY}")
        with self._lock:
            free = self.memory(device).free_bytes
            if size_bytes > free:
                raise DeviceOutOfMemoryError(
                    f"{device} has {free:,} bytes free, and {size_bytes:,} are needed."
                )
            made = sealed.create(f"modelkeep:{device}", size_bytes)
            try:
                fcntl.fcntl(made, fcntl.F_ADD_SEALS, _SEALS)
                own = sealed.open_readonly(made)
                self._made[device].append((own, size_bytes))
                return _open_for_writing(made)
            finally:
                os.close(made)

    def map(self, device: str, descriptor: int, size_bytes: int, *, writable: bool = False) -> DeviceMapping:
        """See Driver."""
        self._look(device)
        _check_allocation(descriptor, size_bytes)
        try:
            address = hostmemory.map_file(descriptor, size_bytes, writable=writable)
        except OSError as error:
            raise DeviceFailedError(f"The allocation cannot be mapped: {error}.") from None
        return DeviceMapping(device, address, size_bytes)

    def unmap(self, mapping: DeviceMapping) -> None:
        """See Driver."""
        if mapping.is_there:
            hostmemory.reserve(mapping.address, mapping.size_bytes)
            mapping.is_there = False

    def map_again(self, mapping: DeviceMapping, descriptor: int) -> None:
        """See Driver."""
        self._look(mapping.device)
        if mapping.is_there:
            raise ValueError("there is an allocation already at this address")
        _check_allocation(descriptor, mapping.size_bytes)
        try:
            hostmemory.map_file(descriptor, mapping.size_bytes, at=mapping.address)
        except OSError as error:
            raise DeviceFailedError(f"The allocation cannot be mapped: {error}.") from None
        mapping.is_there = True

    def close(self, mapping: DeviceMapping) -> None:
        """See Driver."""
        if mapping.address:
            hostmemory.unmap(mapping.address, mapping.size_bytes)
            mapping.address, mapping.is_there = 0, False

    def register(self, address: int, size_bytes: int) -> None:
        """See Driver. The host's memory is the device's: only the rules are kept."""
        if address in self._registered:
            raise DeviceFailedError("This memory is registered already.")
        self._registered.add(address)

    def unregister(self, address: int) -> None:
        """See Driver."""
        if address not in self._registered:
            raise DeviceFailedError("This memory is not registered.")
        self._registered.remove(address)

    def copy_in(
        self, mapping: DeviceMapping, address: int, size_bytes: int, on_progress: Callable[[int], None]
    ) -> None:
        """See Driver."""
        for start, size in self._pieces(mapping, size_bytes):
            hostmemory.copy(mapping.address + start, address + start, size)
            on_progress(start + size)

    def copy_pieces(
        self, mapping: DeviceMapping, pieces: Iterable[Piece], on_progress: Callable[[int], None]
    ) -> None:
        """See Driver."""
        ring = hostmemory.allocate(_RING * PIECE_BYTES)
        slots = [ring + number * PIECE_BYTES for number in range(_RING)]

        def copy(piece: Piece, slot: int) -> None:
            time.sleep(self._look(mapping.device).slow_s)
            for run in piece.runs:
                check_run(mapping, run)
                hostmemory.copy(mapping.address + run.target, slots[slot] + run.begin, run.size_bytes)

        try:
            stream(pieces, slots, copy, lambda slot: None, on_progress)
        finally:
            hostmemory.unmap(ring, _RING * PIECE_BYTES)

    def copy_out(
        self, mapping: DeviceMapping, address: int, size_bytes: int, on_progress: Callable[[int], None]
    ) -> None:
        """See Driver."""
        for start, size in self._pieces(mapping, size_bytes):
            hostmemory.copy(address + start, mapping.address + start, size)
            on_progress(start + size)

    def torch_device(self, device: str) -> str:
        """See Driver."""
        return "cpu"

    def bytes_tensor(self, mapping: DeviceMapping) -> Any:
        """See Driver."""
        import torch

        raw = (ctypes.c_ubyte * mapping.size_bytes).from_address(mapping.address)
        return torch.frombuffer(raw, dtype=torch.uint8)

    def _pieces(self, mapping: DeviceMapping, size_bytes: int) -> Iterator[tuple[int, int]]:
        """Where each piece of a copy begins, and its bytes."""
        if not 0 < size_bytes <= mapping.size_bytes:
            raise ValueError(f"{size_bytes} bytes do not fit into {mapping.size_bytes}")
        for start in range(0, size_bytes, PIECE_BYTES):
            time.sleep(self._look(mapping.device).slow_s)
            yield start, min(PIECE_BYTES, size_bytes - start)

    def _size(self, device: str) -> int:
        self._look(device)
        try:
            return self._sizes[device]
        except KeyError:
            raise DeviceGoneError(
                f"There is no device {device!r}; there are: {', '.join(self._sizes)}."
            ) from None

    def _look(self, device: str) -> Fault:
        """What goes wrong there; raises where it is lost."""
        fault = self._fault(device)
        if fault.lost:
            raise DeviceGoneError(f"{device} is lost: {fault.lost}")
        return fault

    def _fault(self, device: str) -> Fault:
        if self._faults is None:
            return Fault()
        with contextlib.suppress(FileNotFoundError):
            return Fault(**json.loads(self._faults.read_text("utf-8")).get(device, {}))
        return Fault()

    def _living(self, device: str) -> int:
        """Bytes of what was made there and is still open or mapped somewhere."""
        living = []
        for own, size in self._made[device]:
            if sealed.in_use_elsewhere(own):
                living.append((own, size))
            else:
                os.close(own)
        self._made[device] = living
        return sum(size for _own, size in living)


def _open_for_writing(descriptor: int) -> int:
    """A new open file on a memfd: the kernel does not count the one that came with its making."""
    os.fchmod(descriptor, 0o600)
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)


def _check_allocation(descriptor: int, size_bytes: int) -> None:
    """Nobody can shrink what is mapped: whoever read there would get SIGBUS."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        seals = 0
    if seals & _SEALS != _SEALS or os.fstat(descriptor).st_size != size_bytes:
        raise DeviceFailedError(f"The descriptor is no allocation of {size_bytes:,} bytes.")
