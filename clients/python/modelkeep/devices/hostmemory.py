"""Host memory at known addresses: mmap(2), since Python's own module tells no address and fixes none."""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import cache
from typing import Final

_MAP_FIXED: Final = 0x10
_PROT_NONE: Final = 0
_FAILED: Final = ctypes.c_void_p(-1).value
#: What addresses and sizes that a driver is told of are rounded to.
PAGE_BYTES: Final = mmap.PAGESIZE


def map_file(descriptor: int, size_bytes: int, *, writable: bool = False, at: int = 0) -> int:
    """Map the beginning of a file, shared with everybody who does so; returns the address.

    Args:
        descriptor: The file; it may be closed afterwards.
        size_bytes: How much of it. Whoever reads beyond the file's end gets SIGBUS.
        writable: Whether this process writes to it.
        at: Where to, in place of what is mapped there; 0 for anywhere.

    Raises:
        OSError: The system refuses.
    """
    if os.fstat(descriptor).st_size < size_bytes:
        raise OSError(f"a file of {os.fstat(descriptor).st_size} bytes has no {size_bytes} to map")
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return _map(at, size_bytes, protection, mmap.MAP_SHARED, descriptor)


def allocate(size_bytes: int) -> int:
    """New memory of this process alone, from the beginning of a page on; returns the address."""
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return _map(0, size_bytes, protection, flags, -1)


def reserve(address: int, size_bytes: int) -> None:
    """Let go of what is mapped at an address, and keep the address: nothing else comes to lie there."""
    _map(address, size_bytes, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)


def unmap(address: int, size_bytes: int) -> None:
    """Let go of memory and address."""
    if _libc().munmap(address, size_bytes) != 0:
        raise _error("munmap")


def view(address: int, size_bytes: int) -> memoryview:
    """Memory of this process as bytes, which can be written; it keeps nothing alive."""
    return memoryview((ctypes.c_ubyte * size_bytes).from_address(address)).cast("B")


def copy(target: int, source: int, size_bytes: int) -> None:
    """Copy from one address to another; other threads run meanwhile."""
    ctypes.memmove(target, source, size_bytes)


def _map(address: int, size_bytes: int, protection: int, flags: int, descriptor: int) -> int:
    fixed = _MAP_FIXED if address else 0
    found = _libc().mmap(address or None, size_bytes, protection, flags | fixed, descriptor, 0)
    if found == _FAILED:
        raise _error("mmap")
    return int(found)


def _error(call: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{call}: {os.strerror(code)}")


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    size, address = ctypes.c_size_t, ctypes.c_void_p
    libc.mmap.restype = address
    libc.mmap.argtypes = [address, size, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [address, size]
    return libc
