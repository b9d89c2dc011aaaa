"""NVIDIA's GPUs, by the driver's calls for virtual memory.

An allocation is made without a context on the device and exported as a descriptor, which alone keeps the
memory; it is mapped with the access that a process asks for, and a write through a mapping that only reads
is an error of the writer's context and harms nobody else. What works on a device uses its primary context,
which is torch's as well. docs/adr/0044 says how this was measured.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from . import hostmemory, nvml
from .cudacalls import driver, ok
from .cudacopies import Copies
from .driver import (
    DeviceFacts,
    DeviceFailedError,
    DeviceGoneError,
    DeviceMapping,
    DeviceMemory,
    check_run,
)
from .pieces import Piece

_PREFIX: Final = "cuda:"


class Cuda:
    """A :class:`modelkeep.devices.driver.Driver`. Names are in the order in which CUDA shows devices here.

    Raises:
        DeviceGoneError: CUDA cannot be used here; the message says why.
    """

    kind = "cuda"

    def __init__(self) -> None:
        self._cu = driver()
        self._lock = threading.Lock()
        self._facts: Sequence[DeviceFacts] = ()
        #: By the devices' numbers, once something was done there.
        self._contexts: dict[int, Any] = {}
        self._copies: dict[int, Copies] = {}
        self._registered: dict[int, int] = {}

    def devices(self) -> Sequence[DeviceFacts]:
        """See Driver."""
        if not self._facts:
            count = ok(self._cu.cuDeviceGetCount(), "cuDeviceGetCount")
            self._facts = tuple(self._look_at(number) for number in range(count))
        return self._facts

    def memory(self, device: str) -> DeviceMemory:
        """See Driver."""
        return nvml.memory(self.devices()[self._number(device)].uuid)

    def named(self, uuid: str) -> str:
        """See Driver."""
        for facts in self.devices():
            if facts.uuid == uuid:
                return facts.name
        raise DeviceGoneError(
            f"This process does not see the GPU {uuid}: CUDA_VISIBLE_DEVICES, or its container, hides it."
        )

    def granularity(self, device: str) -> int:
        """See Driver."""
        return self.devices()[self._number(device)].granularity

    # The owner.

    def create(self, device: str, size_bytes: int) -> int:
        """See Driver."""
        posix = self._posix()
        handle = ok(self._cu.cuMemCreate(size_bytes, self._property(self._number(device)), 0), "cuMemCreate")
        try:
            exported = self._cu.cuMemExportToShareableHandle(handle, posix, 0)
            descriptor = int(ok(exported, "cuMemExportToShareableHandle"))
        finally:
            self._cu.cuMemRelease(handle)  # the descriptor keeps the memory
        os.set_inheritable(descriptor, False)
        return descriptor

    # The copier and workers.

    def map(self, device: str, descriptor: int, size_bytes: int, *, writable: bool = False) -> DeviceMapping:
        """See Driver."""
        number = self._number(device)
        with self._context(number):
            reserved = self._cu.cuMemAddressReserve(size_bytes, 0, 0, 0)
            address = int(ok(reserved, "cuMemAddressReserve"))
            try:
                self._put(number, address, descriptor, size_bytes, writable=writable)
            except BaseException:
                self._cu.cuMemAddressFree(address, size_bytes)
                raise
        return DeviceMapping(device, address, size_bytes)

    def unmap(self, mapping: DeviceMapping) -> None:
        """See Driver."""
        if not mapping.is_there:
            return
        with self._context(self._number(mapping.device)):
            ok(self._cu.cuCtxSynchronize(), "cuCtxSynchronize")
            ok(self._cu.cuMemUnmap(mapping.address, mapping.size_bytes), "cuMemUnmap")
        mapping.is_there = False

    def map_again(self, mapping: DeviceMapping, descriptor: int) -> None:
        """See Driver."""
        if mapping.is_there:
            raise ValueError("there is an allocation already at this address")
        number = self._number(mapping.device)
        with self._context(number):
            self._put(number, mapping.address, descriptor, mapping.size_bytes, writable=False)
        mapping.is_there = True

    def close(self, mapping: DeviceMapping) -> None:
        """See Driver. What a broken context does not give back goes with its process."""
        if not mapping.address:
            return
        with contextlib.suppress(DeviceFailedError, DeviceGoneError):
            self.unmap(mapping)
            freed = self._cu.cuMemAddressFree(mapping.address, mapping.size_bytes)
            ok(freed, "cuMemAddressFree")
        mapping.address, mapping.is_there = 0, False

    # The copier, and workers that stream.

    def register(self, address: int, size_bytes: int) -> None:
        """See Driver. Every context of this process may read it then."""
        size_bytes = -(-size_bytes // hostmemory.PAGE_BYTES) * hostmemory.PAGE_BYTES
        flags = int(self._cu.CU_MEMHOSTREGISTER_READ_ONLY) | int(self._cu.CU_MEMHOSTREGISTER_PORTABLE)
        with self._any_context():
            ok(self._cu.cuMemHostRegister(address, size_bytes, flags), "cuMemHostRegister")
        self._registered[address] = size_bytes

    def unregister(self, address: int) -> None:
        """See Driver."""
        with self._any_context():
            ok(self._cu.cuMemHostUnregister(address), "cuMemHostUnregister")
        del self._registered[address]

    def copy_in(
        self, mapping: DeviceMapping, address: int, size_bytes: int, on_progress: Callable[[int], None]
    ) -> None:
        """See Driver. What was not registered goes through a ring of pinned buffers."""
        direct = self._registered.get(address, 0) >= size_bytes
        _check_size(mapping, size_bytes)
        with self._copying(mapping) as copies:
            copy = copies.from_registered if direct else copies.through_ring
            copy(mapping.address, address, size_bytes, on_progress)

    def copy_pieces(
        self, mapping: DeviceMapping, pieces: Iterable[Piece], on_progress: Callable[[int], None]
    ) -> None:
        """See Driver."""
        with self._copying(mapping) as copies:
            check = partial(check_run, mapping)
            copies.from_pieces(mapping.address, pieces, check, on_progress)

    def copy_out(
        self, mapping: DeviceMapping, address: int, size_bytes: int, on_progress: Callable[[int], None]
    ) -> None:
        """See Driver."""
        _check_size(mapping, size_bytes)
        with self._copying(mapping) as copies:
            copies.to_host(address, mapping.address, size_bytes, on_progress)

    # Workers.

    def torch_device(self, device: str) -> str:
        """See Driver. torch shows devices in CUDA's order, as this does."""
        return f"{_PREFIX}{self._number(device)}"

    def bytes_tensor(self, mapping: DeviceMapping) -> Any:
        """See Driver."""
        import torch

        if not torch.cuda.is_available():
            raise DeviceGoneError(
                "PyTorch of this process cannot use CUDA: install a build that can, or ask for device cpu."
            )
        return torch.as_tensor(_Bytes(mapping), device=self.torch_device(mapping.device))

    # What is done with the driver.

    def _look_at(self, number: int) -> DeviceFacts:
        """What one device is, without a context on it."""
        device = self._device(number)
        name = ok(self._cu.cuDeviceGetName(256, device), "cuDeviceGetName")
        plain = uuid.UUID(bytes=bytes(ok(self._cu.cuDeviceGetUuid(device), "cuDeviceGetUuid").bytes))
        refusal = self._refusal(device, plain)
        minimum = self._cu.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        granularity = 0
        if not refusal:
            found = self._cu.cuMemGetAllocationGranularity(self._property(number), minimum)
            granularity = int(ok(found, "cuMemGetAllocationGranularity"))
        return DeviceFacts(
            name=f"{_PREFIX}{number}",
            product=name.split(b"\0")[0].decode("utf-8", "replace"),
            uuid=f"GPU-{plain}",
            total_bytes=int(ok(self._cu.cuDeviceTotalMem(device), "cuDeviceTotalMem")),
            granularity=granularity or 2 << 20,
            refusal=refusal,
        )

    def _refusal(self, device: Any, plain: uuid.UUID) -> str:
        """Why nothing can be lent on a device, in words; "" if it can."""
        attributes, modes = self._cu.CUdevice_attribute, self._cu.CUcomputemode

        def has(attribute: Any) -> int:
            return int(ok(self._cu.cuDeviceGetAttribute(attribute, device), "cuDeviceGetAttribute"))

        if not has(attributes.CU_DEVICE_ATTRIBUTE_VIRTUAL_ADDRESS_MANAGEMENT_SUPPORTED):
            return "It has no virtual memory management, by which memory is shared between processes."
        if not has(attributes.CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED):
            return "Its driver does not export memory as file descriptors."
        if has(attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_MODE) != int(modes.CU_COMPUTEMODE_DEFAULT):
            return "Its compute mode lets one process use it, or none; nvidia-smi -c DEFAULT lets several."
        if refusal := nvml.refusal(f"GPU-{plain}"):
            if not nvml.refusal(f"MIG-{plain}"):
                return "It is a slice of a GPU (MIG), on which nothing was tried; nvidia-smi -mig 0 ends MIG."
            return refusal
        return ""

    def _number(self, device: str) -> int:
        number = device.removeprefix(_PREFIX)
        count = len(self.devices())
        if device.startswith(_PREFIX) and number.isdecimal() and int(number) < count:
            return int(number)
        raise DeviceGoneError(f"There is no device {device!r} among the {count} that CUDA shows here.")

    def _device(self, number: int) -> Any:
        return ok(self._cu.cuDeviceGet(number), "cuDeviceGet")

    def _posix(self) -> Any:
        return self._cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR

    def _property(self, number: int) -> Any:
        wanted = self._cu.CUmemAllocationProp()
        wanted.type = self._cu.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        wanted.location.type = self._cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        wanted.location.id = number
        wanted.requestedHandleTypes = self._posix()
        return wanted

    def _put(self, number: int, address: int, descriptor: int, size_bytes: int, *, writable: bool) -> None:
        """Map an allocation at an address that is reserved."""
        cu = self._cu
        imported = cu.cuMemImportFromShareableHandle(descriptor, self._posix())
        handle = ok(imported, "cuMemImportFromShareableHandle")
        try:
            ok(cu.cuMemMap(address, size_bytes, 0, handle, 0), "cuMemMap")
        finally:
            cu.cuMemRelease(handle)  # the mapping keeps the memory
        access = cu.CUmemAccessDesc()
        access.location.type = cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        access.location.id = number
        flags = cu.CUmemAccess_flags
        read, both = flags.CU_MEM_ACCESS_FLAGS_PROT_READ, flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        access.flags = both if writable else read
        try:
            ok(cu.cuMemSetAccess(address, size_bytes, [access], 1), "cuMemSetAccess")
        except BaseException:
            cu.cuMemUnmap(address, size_bytes)
            raise

    @contextlib.contextmanager
    def _context(self, number: int) -> Iterator[None]:
        """The device's primary context, current in this thread."""
        with self._lock:
            if number not in self._contexts:
                if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
                    torch.cuda.init()  # before the context is made, for which torch has wishes
                retained = self._cu.cuDevicePrimaryCtxRetain(self._device(number))
                self._contexts[number] = ok(retained, "cuDevicePrimaryCtxRetain")
        ok(self._cu.cuCtxPushCurrent(self._contexts[number]), "cuCtxPushCurrent")
        try:
            yield
        finally:
            self._cu.cuCtxPopCurrent()

    def _any_context(self) -> contextlib.AbstractContextManager[None]:
        """The context of a device that is in use already, or of the first one."""
        return self._context(next(iter(self._contexts), 0))

    @contextlib.contextmanager
    def _copying(self, mapping: DeviceMapping) -> Iterator[Copies]:
        number = self._number(mapping.device)
        with self._context(number):
            if number not in self._copies:
                self._copies[number] = Copies()
            yield self._copies[number]


def _check_size(mapping: DeviceMapping, size_bytes: int) -> None:
    if not 0 < size_bytes <= mapping.size_bytes:
        raise ValueError(f"{size_bytes} bytes do not fit into {mapping.size_bytes}")


class _Bytes:
    """A mapping as torch takes memory of a GPU; torch knows no memory that is only read."""

    def __init__(self, mapping: DeviceMapping) -> None:
        self.__cuda_array_interface__ = {
            "shape": (mapping.size_bytes,),
            "typestr": "|u1",
            "data": (mapping.address, False),
            "strides": None,
            "version": 3,
        }
