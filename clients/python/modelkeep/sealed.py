"""Sealed anonymous memory: a memfd that nobody can write, grow or shrink any more.

``open_readonly`` turns the descriptor that was written through into one that can only be read. The
loader keeps and hands out only such descriptors: the kernel then can tell, by a lease on the file,
whether anybody else still has it open or mapped (fcntl(2), F_SETLEASE).

Whoever has a descriptor is, to the kernel, the memory's owner as the loader is. Contents and size are out of
his reach; the mode is not, so it is set again before each opening, and nothing else here rests on what he
can change: position and flags are his own open file's, locks and leases of his hinder no reader.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
from typing import Final

#: Every seal that freezes contents and size, and freezes the seals themselves.
ALL_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
#: Of Linux 6.3; the standard library has no name for it.
_MFD_NOEXEC_SEAL: Final = 0x8
#: Whose it is may read it, and nobody else do anything.
_MODE: Final = 0o400
#: Against somebody who changes the mode all the time.
_TRIES: Final = 20
#: F_SETSIG of <fcntl.h> on Linux; the standard library has no name for it.
_F_SETSIG: Final = 10


def create(name: str, size_bytes: int) -> int:
    """Make an unsealed memfd of a size, which cannot be executed; pages take memory once they are written."""
    try:
        fd = os.memfd_create(name, os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # what a kernel says that does not know the flag
            raise
        fd = os.memfd_create(name, os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    try:
        os.fchmod(fd, _MODE)
        os.ftruncate(fd, size_bytes)
    except BaseException:
        os.close(fd)
        raise
    return fd


def write(fd: int, position: int, data: bytes | memoryview) -> None:
    """Write all of it at a position."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, position)
        view, position = view[count:], position + count


def seal(fd: int) -> None:
    """Freeze contents and size for ever. No writable shared mapping may exist."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, ALL_SEALS)


def is_sealed(fd: int) -> bool:
    """Whether every seal is on; False for a descriptor that is no memfd at all."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & ALL_SEALS == ALL_SEALS
    except OSError:
        return False


def open_readonly(fd: int) -> int:
    """A new open file on the same memory, for reading only, closed on exec. Does not block.

    Raises:
        OSError: It cannot be opened: out of descriptors, or somebody takes the right to read away as
            quickly as it is given back.
    """
    for _ in range(_TRIES):
        with contextlib.suppress(OSError):  # it may still be readable
            os.fchmod(fd, _MODE)
        try:
            # A lease of another process would be waited for.
            opened = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (PermissionError, BlockingIOError) as failed:
            error: OSError = failed
            continue
        fcntl.fcntl(opened, fcntl.F_SETFL, 0)
        return opened
    raise error


def in_use_elsewhere(fd: int) -> bool:
    """Whether anybody else has this memory open or mapped, in any process, also after a fork.

    Args:
        fd: The caller's only open file on the memory, made by :func:`open_readonly`.

    A write lease is granted by the kernel only on a file that nobody else has open, and a mapping
    counts as open. Where leases are refused for another reason (a kernel without file leases), the
    answer is False: bytes are then counted as free when the loader itself has let go of them.
    """
    try:
        # Should somebody open the file in this very moment, the kernel would tell by SIGIO, which
        # kills; SIGURG is ignored by default.
        fcntl.fcntl(fd, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def let_others_open(fd: int) -> None:
    """End the kernel's lease on this open file, if a process died while it looked in
    :func:`in_use_elsewhere` and others have the same open file: nobody could open the memory anew.
    """
    with contextlib.suppress(OSError):  # there is none
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def is_out_of_memory(error: Exception) -> bool:
    """Whether it says that memory could not be had, which is no fault of the model's files."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOMEM, errno.ENOSPC)  # the latter where memory is never overcommitted
    # torch has no exception of its own for it on the CPU.
    return isinstance(error, MemoryError) or "allocate memory" in str(error)
