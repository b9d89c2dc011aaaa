"""What of a lent file an accelerator has to read from host memory, since its own has no room for it."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import weakref
from typing import Any

import torch

from modelkeep.devices import hostmemory
from modelkeep.devices.driver import DeviceFailedError, DeviceGoneError, Driver

_log = logging.getLogger(__name__)

#: What is mapped in this process: file, device, where the device's part of it ends.
_mapped: weakref.WeakValueDictionary[tuple[int, int, str, int], Any] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def map_host_part(descriptor: int, driver: Driver, device: str, first: int) -> torch.Tensor:
    """A whole lent file as a row of bytes, mapped for reading only, for as long as one of its tensors lives.

    From what is not on the device it reads directly, where its driver can do that: this memory is registered
    with it, once for each file in a process. Otherwise copies go through a buffer of the driver's, and take
    several times as long.

    Args:
        descriptor: Open descriptor of the file. It may be closed afterwards.
        driver: The device's.
        device: Its name in this process.
        first: The first byte of the file that is not on the device.
    """
    status = os.fstat(descriptor)
    which = (status.st_dev, status.st_ino, device, first)
    with _lock:
        storage = _mapped.get(which)
        if storage is None:
            storage = _mapped[which] = _map(descriptor, status.st_size, driver, first)
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (status.st_size,), (1,))


def _map(descriptor: int, size_bytes: int, driver: Driver, first: int) -> Any:
    address = hostmemory.map_file(descriptor, size_bytes)
    raw = (ctypes.c_ubyte * size_bytes).from_address(address)
    storage: Any = torch.frombuffer(raw, dtype=torch.uint8).untyped_storage()
    first -= first % hostmemory.PAGE_BYTES
    whole = -(-size_bytes // hostmemory.PAGE_BYTES) * hostmemory.PAGE_BYTES
    registered = _register(driver, address + first, whole - first)
    end = weakref.finalize(
        storage, _unmap, driver, address + first if registered else 0, address, size_bytes, os.getpid()
    )
    end.atexit = False  # the end of the process does as much
    return storage


def _register(driver: Driver, address: int, size_bytes: int) -> bool:
    try:
        driver.register(address, size_bytes)
    except (DeviceGoneError, DeviceFailedError) as error:
        _log.warning("the device cannot read lent memory directly, and copies of it are slow: %s", error)
        return False
    return True


def _unmap(driver: Driver, registered: int, address: int, size_bytes: int, owner: int) -> None:
    """Unmap it; what a forked child has of it goes with the child."""
    if os.getpid() != owner:
        return
    if registered:
        driver.unregister(registered)
    hostmemory.unmap(address, size_bytes)
