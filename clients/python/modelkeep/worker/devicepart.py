"""What of a lent file lies in an accelerator's memory, as this process maps it.

The mapping lives for as long as a tensor in it does, whatever has become of the lease: all tensors that share
memory share one storage of torch's, and the mapping goes when that does.
"""

from __future__ import annotations

import functools
import os
import weakref
from typing import Any, Final

import torch

from modelkeep.devices.driver import DeviceFailedError, DeviceGoneError, DeviceMapping, Driver
from modelkeep.devices.drivers import open_driver
from modelkeep.exceptions import DeviceUnavailableException
from modelkeep.worker.hostpart import map_host_part

#: Kind of accelerators → what a worker needs for them.
_EXTRAS: Final = {"cuda": "modelkeep[cuda]"}


class DevicePart:
    """The first bytes of a lent file, in an allocation on a device, mapped for reading.

    Args:
        device: The device, as the loader calls it, such as "cuda:0".
        uuid: The device's own name, by which this process finds it.
        descriptor: Of the allocation. It may be closed afterwards. None where there is none, since nothing of
            the file is on the device.
        size_bytes: How many of the file's first bytes are there.

    Attributes:
        base: The allocation as one row of bytes; tensors that are views of it keep the mapping.
        size_bytes: As given.
        driver: What maps it.
        name: What this process calls the device.
        torch_device: What torch does.

    Raises:
        DeviceUnavailableException: This process cannot map it.
    """

    def __init__(self, device: str, uuid: str, descriptor: int | None, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.driver, self.name = _found(device, uuid)
        self.torch_device = torch.device(self.driver.torch_device(self.name))
        self._mapping: DeviceMapping | None = None
        if descriptor is None:
            self.base = torch.empty(0, dtype=torch.uint8, device=self.torch_device)
            return
        unit = self.driver.granularity(self.name)
        try:
            self._mapping = self.driver.map(self.name, descriptor, -(-size_bytes // unit) * unit)
        except (DeviceGoneError, DeviceFailedError) as error:
            raise _unmapped(device, error) from None
        self.base = self.driver.bytes_tensor(self._mapping)
        storage: Any = self.base.untyped_storage()
        end = weakref.finalize(storage, _close, self.driver, self._mapping, os.getpid())
        end.atexit = False  # others may still compute then, and the end of the process unmaps it as well

    def bytes_at(self, address: int, size_bytes: int) -> torch.Tensor:
        """Other memory on the device as a row of bytes; its storage keeps nothing alive."""
        found: torch.Tensor = self.driver.bytes_tensor(DeviceMapping(self.name, address, size_bytes))
        return found

    def rest_of(self, descriptor: int) -> torch.Tensor:
        """The whole file in host memory as a row of bytes, from which the device reads what it does not have.

        Args:
            descriptor: Of the file. It may be closed afterwards.
        """
        return map_host_part(descriptor, self.driver, self.name, self.size_bytes)

    def let_go(self) -> None:
        """Give the memory back and keep the address: until :meth:`take_back` nobody may use a tensor there.

        Harmless where it was given back already.
        """
        if self._mapping is not None and self._mapping.is_there:
            self.driver.unmap(self._mapping)

    def take_back(self, descriptor: int | None) -> None:
        """Map memory of the same contents at the same address: every tensor is good again.

        Harmless where it is there.

        Args:
            descriptor: Of an allocation of the same size. It may be closed afterwards.

        Raises:
            DeviceUnavailableException: This process cannot map it.
        """
        if self._mapping is None or descriptor is None or self._mapping.is_there:
            return
        try:
            self.driver.map_again(self._mapping, descriptor)
        except (DeviceGoneError, DeviceFailedError) as error:
            raise _unmapped(self.name, error) from None


def torch_device(device: str, uuid: str) -> torch.device:
    """What torch in this process calls a device of the loader's; the host's memory, "cpu", has no uuid.

    Raises:
        DeviceUnavailableException: This process cannot use it.
    """
    if device == "cpu":
        return torch.device(device)
    driver, name = _found(device, uuid)
    return torch.device(driver.torch_device(name))


def _found(device: str, uuid: str) -> tuple[Driver, str]:
    """A device's driver, and what this process calls the device."""
    kind, _, _ = device.partition(":")
    try:
        driver = _driver(kind)
        return driver, driver.named(uuid)
    except (ValueError, ImportError, DeviceGoneError, DeviceFailedError) as error:
        needs = f"install {_EXTRAS[kind]} for this worker" if kind in _EXTRAS else "update modelkeep here"
        raise DeviceUnavailableException(
            f"The weights are on {device}, which this worker cannot use: {error}",
            metadata={"device": device, "why": str(error)},
            remedy=f'Ask for the device "cpu", or {needs} and let it see the device.',
        ) from None


@functools.cache
def _driver(kind: str) -> Driver:
    return open_driver(kind)


def _unmapped(device: str, error: Exception) -> DeviceUnavailableException:
    return DeviceUnavailableException(
        f"The weights on {device} cannot be mapped: {error}", metadata={"device": device, "why": str(error)}
    )


def _close(driver: Driver, mapping: DeviceMapping, owner: int) -> None:
    """Unmap it; what a forked child has of it goes with the child."""
    if os.getpid() == owner:
        driver.close(mapping)
