"""Files of residents in a folder that sandboxes mount read-only; see ``domain/paths.py``."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from pathlib import Path
from typing import Final

from modelkeep import sealed
from modelkeep.defaults import EXIT_ADDRESS_TAKEN, EXIT_NOT_WRITABLE
from modelkeep.exceptions import DiskFullException
from modelkeep.locks import LockedError, remove_lock, take_lock
from modelkeep.private import UnsafeFolderError, make_private
from modelkeep_common.startup import StartupError
from modelkeep_loader.domain.components import signature_of

_LOCK: Final = "paths.lock"
_SUFFIX, _PART = ".safetensors", ".part"
#: Bytes that are copied at a time.
_CHUNK: Final = 64 << 20


class FileCopy:
    """A file, and the loader's only descriptor of it; a ``domain.paths.Copy``."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = str(path)
        status = os.fstat(descriptor)
        self.size_bytes = status.st_size
        self._descriptor = descriptor
        self._signature = signature_of(status)

    def is_intact(self) -> bool:
        """See :class:`modelkeep_loader.domain.paths.Copy`."""
        status = os.fstat(self._descriptor)
        return status.st_nlink > 0 and signature_of(status) == self._signature

    def remove(self) -> None:
        """See :class:`modelkeep_loader.domain.paths.Copy`."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def in_use(self) -> bool:
        """See :class:`modelkeep_loader.domain.paths.Copy`."""
        return sealed.in_use_elsewhere(self._descriptor)

    def close(self) -> None:
        """See :class:`modelkeep_loader.domain.paths.Copy`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Remove and close it: nobody has it."""
        self.remove()
        self.close()


class PathFolder:
    """The folder; a ``domain.paths.Shelf``. This user's alone, and this loader's while it runs.

    Args:
        folder: Best on a tmpfs, where its bytes are RAM as they are counted.

    Raises:
        StartupError: 73 if it cannot be made private, 98 if another loader has it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        try:
            make_private(self._folder)
            self._lock = take_lock(self._folder / _LOCK)
        except LockedError:
            raise StartupError(
                EXIT_ADDRESS_TAKEN, f"another loader uses {folder}: stop it, or set path_dir"
            ) from None
        except UnsafeFolderError as error:
            raise StartupError(EXIT_NOT_WRITABLE, f"{error}, or set path_dir") from None
        except OSError as error:
            raise StartupError(EXIT_NOT_WRITABLE, f"cannot make {folder}: {error.strerror}") from None
        self._count = 0
        for left in self._folder.iterdir():  # of a loader that was killed
            if left.suffix in (_SUFFIX, _PART):
                left.unlink(missing_ok=True)

    async def put(self, descriptor: int, size_bytes: int) -> FileCopy:
        """See :class:`modelkeep_loader.domain.paths.Shelf`; closes the descriptor."""
        self._count += 1
        path = self._folder / f"{os.getpid()}-{self._count}{_SUFFIX}"
        work = asyncio.ensure_future(asyncio.to_thread(_copy, descriptor, size_bytes, path))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # The thread goes on; what it makes is nobody's.
            work.add_done_callback(_discard)
            raise

    def close(self) -> None:
        """See :class:`modelkeep_loader.domain.paths.Shelf`."""
        remove_lock(self._folder / _LOCK, self._lock)


def _copy(descriptor: int, size_bytes: int, path: Path) -> FileCopy:
    part = path.with_suffix(_PART)
    try:
        try:
            _write(descriptor, size_bytes, part)
            os.rename(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return FileCopy(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullException(
            f"There is no room for {size_bytes:,} bytes in path_dir ({path.parent}).",
            metadata={"path": str(path.parent), "needed_bytes": str(size_bytes)},
            remedy="Make room there, set path_dir to a larger file system, or ask for DELIVERY_FD.",
        ) from None
    finally:
        os.close(descriptor)


def _write(descriptor: int, size_bytes: int, path: Path) -> None:
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o400)
    try:
        done = 0
        while done < size_bytes:
            copied = os.sendfile(target, descriptor, done, min(_CHUNK, size_bytes - done))
            if not copied:
                raise OSError(errno.EIO, "the memory is shorter than it was")
            done += copied
    finally:
        os.close(target)


def _discard(work: asyncio.Future[FileCopy]) -> None:
    if not work.cancelled() and work.exception() is None:
        asyncio.get_running_loop().run_in_executor(None, work.result().discard)
