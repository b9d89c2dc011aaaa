"""What NVIDIA's management library knows of GPUs: the truth about memory, of all processes."""

from __future__ import annotations

from functools import cache
from typing import Any

from .driver import DeviceFailedError, DeviceGoneError, DeviceMemory


def memory(uuid: str) -> DeviceMemory:
    """Bytes of a GPU as they are now.

    Raises:
        DeviceGoneError: It is lost.
    """
    library = _library()
    try:
        found = library.nvmlDeviceGetMemoryInfo(library.nvmlDeviceGetHandleByUUID(uuid))
    except library.NVMLError as error:
        raise _translated(library, error, uuid) from None
    return DeviceMemory(int(found.total), int(found.free))


def refusal(uuid: str) -> str:
    """Why memory of a GPU cannot be counted, in words; "" if it can."""
    try:
        memory(uuid)
    except (DeviceGoneError, DeviceFailedError) as error:
        return str(error)
    return ""


def _translated(library: Any, error: Exception, uuid: str) -> Exception:
    gone = (library.NVML_ERROR_GPU_IS_LOST, library.NVML_ERROR_NOT_FOUND, library.NVML_ERROR_NO_PERMISSION)
    kind = DeviceGoneError if getattr(error, "value", None) in gone else DeviceFailedError
    return kind(f"NVML says of {uuid}: {error}.")


@cache
def _library() -> Any:
    try:
        import pynvml
    except ImportError:
        raise DeviceGoneError(
            "Memory of GPUs cannot be counted, since Python's bindings for NVML are missing: "
            "install modelkeep[cuda]."
        ) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise DeviceGoneError(f"NVML, which counts memory of GPUs, cannot be used here: {error}.") from None
    return pynvml
