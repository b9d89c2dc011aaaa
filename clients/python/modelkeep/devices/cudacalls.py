"""Calls of NVIDIA's driver: found or not, and what went wrong in words.

``cuda.bindings.driver`` returns a result and values; here a result that is no success is an exception of
:mod:`modelkeep.devices.driver`. Nothing here makes a context on a device.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from .driver import DeviceFailedError, DeviceGoneError, DeviceOutOfMemoryError

_INSTALL: Final = "install modelkeep[cuda]"
#: After these another try is of no use: the device is not there, or cannot do it, until somebody mends it.
_GONE: Final = frozenset(
    {
        *("CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_INVALID_DEVICE", "CUDA_ERROR_DEVICE_UNAVAILABLE"),
        *("CUDA_ERROR_DEVICE_NOT_LICENSED", "CUDA_ERROR_SYSTEM_NOT_READY", "CUDA_ERROR_NOT_SUPPORTED"),
        *("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE"),
        *("CUDA_ERROR_ECC_UNCORRECTABLE", "CUDA_ERROR_NVLINK_UNCORRECTABLE", "CUDA_ERROR_STUB_LIBRARY"),
    }
)


@cache
def driver() -> Any:
    """``cuda.bindings.driver``, initialised.

    Raises:
        DeviceGoneError: It cannot be used here; the message says why.
    """
    try:
        from cuda.bindings import driver as found
    except ImportError as error:
        raise DeviceGoneError(
            f"CUDA cannot be used, since Python's bindings for it are missing: {_INSTALL} ({error})."
        ) from None
    try:
        result = found.cuInit(0)
    except Exception as error:  # what it raises without NVIDIA's driver is a class of another package
        raise DeviceGoneError(f"This host has no NVIDIA driver (libcuda): {error}") from None
    ok(result, "cuInit", found)
    return found


def ok(result: Any, call: str, bindings: Any = None) -> Any:
    """The values of a call that went well: none, one, or a tuple of several.

    Args:
        result: What the call returned: its result, and values.
        call: Its name.
        bindings: Where the results' words are; :func:`driver` where that is open already.

    Raises:
        DeviceOutOfMemoryError: The device has no room.
        DeviceGoneError: The device cannot be used, or not for this.
        DeviceFailedError: Something else went wrong.
    """
    code, *values = result
    if int(code) == 0:
        return values[0] if len(values) == 1 else tuple(values) or None
    name = getattr(code, "name", str(code))
    message = f"{call}: {name} ({_words(bindings or driver(), code)})."
    if name == "CUDA_ERROR_OUT_OF_MEMORY":
        raise DeviceOutOfMemoryError(message)
    if name in _GONE:
        raise DeviceGoneError(message)
    raise DeviceFailedError(message)


def _words(bindings: Any, code: Any) -> str:
    answer, words = bindings.cuGetErrorString(code)
    return words.decode("utf-8", "replace") if int(answer) == 0 else "unknown to this driver"
