"""What a process can ask of an accelerator's memory, whatever kind of accelerator it is.

The roles are those of three kinds of processes. The *owner* makes allocations, each of which is a
descriptor: the memory lives for as long as some process has the descriptor or a mapping of it. The *copier*
maps an allocation for writing and fills it from host memory. A *worker* maps it for reading only: a write
harms nobody but the writer. None of it is done in the process that serves gRPC.

``cuda.py`` is NVIDIA's driver; ``simulated.py`` keeps the same rules in the host's own memory, so that all
but the driver's own calls runs everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .pieces import Piece, Run


class DeviceOutOfMemoryError(Exception):
    """A device has no room for an allocation. Callers of the loader are told VRAM_EXHAUSTED."""


class DeviceGoneError(Exception):
    """A device is not there, or not there any more, or cannot do what is needed; the message says why."""


class DeviceFailedError(Exception):
    """Something went wrong on a device that another try, in another process, may not meet again."""


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One accelerator.

    Attributes:
        name: What callers know it by, such as "cuda:0".
        product: What it is called, such as "NVIDIA H200".
        uuid: Its own name, whatever else the host has.
        total_bytes: Its memory.
        granularity: What sizes of allocations are rounded up to, in bytes.
        refusal: Why nothing can be lent on it, in words; "" if it can.
    """

    name: str
    product: str
    uuid: str
    total_bytes: int
    granularity: int
    refusal: str = ""

    def rounded(self, size_bytes: int) -> int:
        """Bytes that an allocation of this size takes."""
        return -(-size_bytes // self.granularity) * self.granularity


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of a device as its driver counts them: of all processes, strangers included."""

    total_bytes: int
    free_bytes: int


@dataclass(slots=True)
class DeviceMapping:
    """An allocation as it is mapped in this process; ``is_there`` is False while only the address is kept.

    Attributes:
        device: Name of the device.
        address: First byte, as pointers of the device.
        size_bytes: As it is mapped: a multiple of the granularity.
        is_there: Whether there is memory behind it.
    """

    device: str
    address: int
    size_bytes: int
    is_there: bool = True


def check_run(mapping: DeviceMapping, run: Run) -> None:
    """Refuse to copy to what is not the mapping's: whoever computed the runs is at fault.

    Raises:
        ValueError: It is not.
    """
    if run.target < 0 or run.size_bytes < 0 or run.target + run.size_bytes > mapping.size_bytes:
        raise ValueError(f"{run.size_bytes} bytes from {run.target} on are not within {mapping.size_bytes}")


class Driver(Protocol):
    """The accelerators of one kind. What blocks is called from threads.

    Every method raises DeviceGoneError where the device is none, or is lost, and DeviceFailedError for what
    else goes wrong there.
    """

    #: "cuda" or "sim": what the names of its devices begin with.
    kind: str

    def devices(self) -> Sequence[DeviceFacts]:
        """What there is, in the order of their numbers."""
        ...

    def memory(self, device: str) -> DeviceMemory:
        """The bytes of a device as they are now."""
        ...

    def named(self, uuid: str) -> str:
        """What this process calls the device with this uuid; others may see other devices, in another order.

        Raises:
            DeviceGoneError: This process sees none such.
        """
        ...

    def granularity(self, device: str) -> int:
        """What sizes of allocations are rounded up to, in bytes, also where :meth:`devices` tells of none."""
        ...

    # The owner.

    def create(self, device: str, size_bytes: int) -> int:
        """Make an allocation; a descriptor of it, closed on exec. The last one frees it.

        Args:
            device: Where.
            size_bytes: A multiple of the granularity.

        Raises:
            DeviceOutOfMemoryError: There is no room.
        """
        ...

    # The copier and workers.

    def map(self, device: str, descriptor: int, size_bytes: int, *, writable: bool = False) -> DeviceMapping:
        """Map an allocation. The descriptor may be closed afterwards."""
        ...

    def unmap(self, mapping: DeviceMapping) -> None:
        """Let go of the memory and keep the address, at which nothing else comes to lie meanwhile.

        What uses it then is the process's own fault. Work that was begun on the memory is waited for.
        """
        ...

    def map_again(self, mapping: DeviceMapping, descriptor: int) -> None:
        """Put an allocation of the same size where one was before: pointers to it are good again."""
        ...

    def close(self, mapping: DeviceMapping) -> None:
        """Let go of memory and address."""
        ...

    # The copier.

    def register(self, address: int, size_bytes: int) -> None:
        """Let the device read host memory of this process directly. Slow: once while it is mapped."""
        ...

    def unregister(self, address: int) -> None:
        """Take that back."""
        ...

    def copy_in(
        self, mapping: DeviceMapping, address: int, size_bytes: int, on_progress: Callable[[int], None]
    ) -> None:
        """Copy host memory to the beginning of a writable mapping; returns once it is there.

        Args:
            mapping: Where to.
            address: What to copy; quickest where it was registered.
            size_bytes: How much.
            on_progress: Told after each piece how many bytes are there.
        """
        ...

    def copy_pieces(
        self, mapping: DeviceMapping, pieces: Iterable[Piece], on_progress: Callable[[int], None]
    ) -> None:
        """Copy to a writable mapping what is read meanwhile, through host memory of the driver's own.

        Args:
            mapping: Where to.
            pieces: What is read, and where each part of it goes; see :func:`modelkeep.devices.pieces.stream`.
            on_progress: Told after each piece how many bytes are there.

        Raises:
            Exception: What reading raised.
        """
        ...

    def copy_out(
        self, mapping: DeviceMapping, address: int, size_bytes: int, on_progress: Callable[[int], None]
    ) -> None:
        """Copy the beginning of a mapping to host memory; returns once it is there."""
        ...

    # Workers.

    def torch_device(self, device: str) -> str:
        """What torch calls the device that tensors in a mapping are on."""
        ...

    def bytes_tensor(self, mapping: DeviceMapping) -> Any:
        """The mapping as a one-dimensional torch tensor of uint8, without a copy.

        It keeps nothing alive: the mapping outlives it, or whoever uses it is at fault.
        """
        ...
