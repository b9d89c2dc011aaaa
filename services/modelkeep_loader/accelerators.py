"""The loader's side of its accelerators: the owner that makes memory there, and the copiers that fill it.

What works on a device runs in processes of its own (:mod:`modelkeep_devices`), which are started when they
are needed, and again when they have died. This process has only descriptors: it maps nothing, and knows
no CUDA.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from modelkeep import sealed
from modelkeep.devices.driver import DeviceFacts, DeviceFailedError, DeviceGoneError, DeviceMemory
from modelkeep.devices.specs import Spec

from .deviceprocess import DeviceProcess, Patience

_log = logging.getLogger(__name__)

#: One of them is there wherever NVIDIA's driver is; without one, no process has to be started to know.
_SIGNS_OF_CUDA: Final = (Path("/dev/nvidiactl"), Path("/dev/dxg"))


class SourceOf(NamedTuple):
    """What is read for a device.

    Attributes:
        descriptor: An open file that nobody else reads through.
        digest: Whether all of it is read, to tell its digest.
        cached: Whether it is in the page cache, or memory itself, and read from there.
    """

    descriptor: int
    digest: bool = False
    cached: bool = True


class Accelerators:
    """The accelerators of this host.

    Every method may raise DeviceFailedError: a process died or did not answer, or something went wrong that
    another try, which gets a new process, may not meet again. DeviceGoneError says that the device is not
    there or cannot do it.

    Args:
        spec: "auto", "cuda", "none", or simulated ones ("sim:2x256MiB"); see :mod:`modelkeep.devices.specs`.
        patience: How long the processes may take.

    Attributes:
        devices: What there is, since :meth:`open`; those with a refusal included.

    Raises:
        ValueError: The spec says nothing.
    """

    def __init__(self, spec: str, *, patience: Patience | None = None) -> None:
        self._spec = Spec.parse(spec)
        self._patience = patience or Patience()
        self._owner: DeviceProcess | None = None
        self._copiers: dict[str, DeviceProcess] = {}
        self.devices: Sequence[DeviceFacts] = ()

    async def open(self) -> None:
        """Find out what there is. With "auto" that may be nothing.

        Raises:
            DeviceGoneError: "cuda" was asked for, and cannot be used here; the message says why.
        """
        kind = self._spec.kind
        if kind == "none" or (kind == "auto" and not await asyncio.to_thread(_is_cuda_likely)):
            return
        text = "cuda" if kind == "auto" else self._spec.text
        self._owner = DeviceProcess(self._patience, "owner", "--accelerators", text)
        try:
            answer, _ = await self._owner.ask({"do": "devices"})
        except (DeviceGoneError, DeviceFailedError) as error:
            await self.close()
            if kind != "auto":
                raise
            _log.warning("no accelerators are used: %s", error)
            return
        self.devices = tuple(DeviceFacts(**facts) for facts in answer["devices"])
        for facts in self.devices:
            self._copiers[facts.name] = DeviceProcess(
                self._patience, "copier", "--accelerators", text, "--device", facts.name
            )

    async def memory(self, device: str) -> DeviceMemory:
        """Bytes of a device as they are now, of all processes of the host."""
        answer, _ = await self._ask_owner({"do": "memory", "device": device})
        return DeviceMemory(**answer)

    async def create(self, device: str, size_bytes: int) -> int:
        """Make an allocation; its descriptor is the caller's to close, and the last one frees it.

        Args:
            device: Where.
            size_bytes: Rounded up to the device's granularity.

        Raises:
            DeviceOutOfMemoryError: There is no room.
        """
        _, made = await self._ask_owner({"do": "create", "device": device, "size_bytes": size_bytes})
        return made[0]

    async def fill(
        self,
        device: str,
        target: int,
        source: int,
        size_bytes: int,
        on_progress: Callable[[int], None],
        *,
        keep: str = "",
    ) -> None:
        """Copy host memory into an allocation. One at a time on a device; others wait.

        Args:
            device: Where.
            target: The allocation, as :meth:`create` made it for this size.
            source: A memfd, of which the beginning is copied; it stays the caller's, as the target does.
            size_bytes: How much.
            on_progress: Told on the event loop, at most 20 times a second, how many bytes are there.
            keep: A name under which the memory stays mapped and registered in the copier until
                :meth:`forget`, which makes the next copy of it quick. "" for memory that goes there once.

        A fill that is cancelled ends the copier: what is half filled is of no use.
        """
        request = {"do": "fill", "size_bytes": size_bytes, "keep": keep}
        # An open file of the copier's own, so that the kernel tells whether it still has the memory.
        opened = sealed.open_readonly(source)
        try:
            await self._copier(device).ask(request, [target, opened], on_progress)
        finally:
            os.close(opened)

    async def gather(
        self,
        device: str,
        target: int,
        sources: Sequence[SourceOf],
        segments: Sequence[Sequence[int]],
        size_bytes: int,
        on_progress: Callable[[int], None],
    ) -> list[str]:
        """Fill an allocation from parts of files. One at a time on a device; others wait.

        Args:
            device: Where.
            target: The allocation, as :meth:`create` made it for this size; it stays the caller's.
            sources: What is read.
            segments: Of each part number of its source, first byte there, bytes, and first byte on the
                device; together they are the whole allocation, its rest after the last one aside.
            size_bytes: How much.
            on_progress: As for :meth:`fill`.

        Returns:
            Of each source its BLAKE3 in hexadecimal, as its bytes were when they were read; "" of those of
            which it is not wanted.

        Raises:
            SourceError: A source cannot be read, or ends before a part of it.

        What is cancelled ends the copier, as for :meth:`fill`.
        """
        told = [{"digest": source.digest, "cached": source.cached} for source in sources]
        request = {"do": "gather", "size_bytes": size_bytes, "sources": told, "segments": list(segments)}
        descriptors = [target, *(source.descriptor for source in sources)]
        answer, _ = await self._copier(device).ask(request, descriptors, on_progress)
        return list(answer["digests"])

    async def read_back(self, device: str, source: int, target: int, size_bytes: int) -> None:
        """Copy the beginning of an allocation to host memory.

        Args:
            device: Where the allocation is.
            source: The allocation.
            target: A memfd open for writing, not sealed yet, of that size at least.
            size_bytes: How much.
        """
        await self._copier(device).ask({"do": "read_back", "size_bytes": size_bytes}, [source, target])

    async def forget(self, keep: str) -> None:
        """Let go of host memory that was kept under a name, on every device; nothing happens if none was."""
        for copier in self._copiers.values():
            await copier.forget(keep)

    def reader(self, descriptor: int) -> int:
        """A descriptor of an allocation to hand to workers; the caller closes it.

        Of simulated ones it can only be read through. With CUDA it is the mapping that keeps a worker from
        writing, and a descriptor is like another.
        """
        return sealed.open_readonly(descriptor) if self._spec.kind == "sim" else os.dup(descriptor)

    async def close(self) -> None:
        """End the processes. What they made lives on in its descriptors."""
        attendants = [*self._copiers.values(), *([self._owner] if self._owner is not None else [])]
        self._owner, self._copiers = None, {}
        for attendant in attendants:
            await attendant.close()

    async def _ask_owner(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        self._copier(request["device"])  # there is such a device
        assert self._owner is not None
        return await self._owner.ask(request)

    def _copier(self, device: str) -> DeviceProcess:
        try:
            return self._copiers[device]
        except KeyError:
            names = ", ".join(self._copiers) or "none"
            raise DeviceGoneError(f"There is no device {device!r}; there are: {names}.") from None


def _is_cuda_likely() -> bool:
    return any(sign.exists() for sign in _SIGNS_OF_CUDA)
