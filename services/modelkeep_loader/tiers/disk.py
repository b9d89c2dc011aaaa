"""The folder behind the disk tier: copies of weight files, each called by the BLAKE3 of its bytes.

A copy is written under another name, synced, and then renamed: under its own name there is never half a
file, whoever dies and whenever. Several loaders may share the folder. What one of them is writing is locked,
so that another's start does not take it for left behind; what one of them reads is locked too, and not
removed.

Beside a copy lies a note of where it came from: the path, inode, size and times of the files whose bytes were
read to be these. By it a copy is found again after a restart, without a look at the far file's bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelkeep.exceptions import DiskFullException
from modelkeep_common.digests import Digests, digest_descriptor
from modelkeep_common.paths import AllowedRoots
from modelkeep_common.room import disk_full, free_bytes
from modelkeep_loader.domain.components import signature_of

_NAME: Final = re.compile(r"[0-9a-f]{64}")
_NOTES, _COMING = ".json", ".coming"
#: Of one copy, as many files are remembered that it came from; and the largest note that is read.
_MOST_ORIGINS, _MOST_NOTE_BYTES = 64, 256 << 10
_REMEDY: Final = "Make room there, or have cache_dir of LoaderService on another disk."


@dataclass(slots=True)
class Copy:
    """A copy as it was when it was written or verified.

    Attributes:
        blake3: Of its bytes, and its name.
        path: Where it is.
        size_bytes: Its size.
        signature: See :func:`modelkeep_loader.domain.components.signature_of`.
        read_at: When its bytes were last seen to be right, in monotonic seconds; 0: not since the start.
    """

    blake3: str
    path: Path
    size_bytes: int
    signature: str
    read_at: float = 0.0


class CacheFolder:
    """The folder. Everything here blocks: call it in threads.

    Args:
        path: The folder, for this alone; it is made when it is needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changing = threading.Lock()

    def open(self) -> list[Copy]:
        """Take away what was left half written, and find the copies, the oldest first.

        Raises:
            OSError: The folder is there, and cannot be read.
        """
        for entry in self._entries():
            if entry.name.endswith(_COMING):
                self._take_away(Path(entry.path))
        return self.look()

    def make(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            OSError: It cannot be made.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def look(self) -> list[Copy]:
        """The copies that are there, the oldest first."""
        found: list[tuple[float, Copy]] = []
        for entry in self._entries():
            if not _NAME.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    copy = Copy(entry.name, Path(entry.path), status.st_size, signature_of(status))
                    found.append((status.st_mtime, copy))
        return [copy for _, copy in sorted(found, key=lambda one: one[0])]

    def fetch(
        self,
        source: int,
        *,
        with_sha256: bool,
        stop: Callable[[], bool],
        on_progress: Callable[[int], None],
        check: Callable[[], None],
    ) -> tuple[Copy, Digests]:
        """Copy a file, and learn what it is from the same reading.

        Args:
            source: The file, open.
            with_sha256: Whether that is wanted besides BLAKE3.
            stop: Asked all the time; true ends it.
            on_progress: Told the bytes done.
            check: Called after the last byte was read; raises if the file is another one by now.

        Raises:
            DiskFullException: There is no room.
            Interrupted: `stop` said so.
            OSError: It cannot be read.
        """
        size = os.fstat(source).st_size
        self.make()
        coming = self.path / f"{uuid.uuid4().hex}{_COMING}"
        fd = os.open(coming, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            with self._room_for(size):
                _reserve(fd, size)

            def write(block: memoryview) -> None:
                with self._room_for(size):
                    while block:
                        block = block[os.write(fd, block) :]

            digests = digest_descriptor(
                source, with_sha256=with_sha256, stop=stop, on_progress=on_progress, sink=write
            )
            check()
            with self._room_for(size):
                os.ftruncate(fd, digests.size_bytes)
                os.fchmod(fd, 0o400)
                os.fsync(fd)
            read_at = time.monotonic()
            with self._changing:
                os.rename(coming, final := self.path / digests.blake3)
                self._sync()
                return Copy(digests.blake3, final, size, signature_of(os.fstat(fd)), read_at), digests
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(coming)
            os.close(fd)

    def verify(self, copy: Copy, stop: Callable[[], bool]) -> bool:
        """Whether a copy's bytes are what its name says; noted in it if they are.

        Raises:
            Interrupted: `stop` said so.
        """
        try:
            with self.reading(copy) as fd:
                signature = signature_of(os.fstat(fd))
                if digest_descriptor(fd, with_sha256=False, stop=stop).blake3 != copy.blake3:
                    return False
                if signature_of(os.fstat(fd)) != signature:
                    return False
        except OSError:
            return False
        copy.signature, copy.read_at = signature, time.monotonic()
        return True

    def is_as_it_was(self, copy: Copy) -> bool:
        """Whether nothing has touched a copy since it was looked at."""
        try:
            return signature_of(os.lstat(copy.path)) == copy.signature
        except OSError:
            return False

    @contextlib.contextmanager
    def reading(self, copy: Copy) -> Iterator[int]:
        """A copy, open for reading; meanwhile nobody removes it.

        Raises:
            OSError: It is gone.
        """
        fd = os.open(copy.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield fd
        finally:
            os.close(fd)

    def in_use(self, copy: Copy) -> bool:
        """Whether somebody, perhaps another loader, reads a copy right now."""
        try:
            fd = os.open(copy.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def remove(self, copy: Copy) -> None:
        """Take a copy away, unless another has come in its place."""
        with self._changing:
            if self.is_as_it_was(copy):
                with contextlib.suppress(OSError):
                    os.unlink(copy.path)
                    os.unlink(f"{copy.path}{_NOTES}")

    def discard(self, copy: Copy) -> None:
        """Take away what lies under a copy's name, whatever it is: it is not what it is called."""
        with self._changing, contextlib.suppress(OSError):
            os.unlink(copy.path)

    # Where copies came from.

    def notes(self) -> dict[str, tuple[str, str]]:
        """Origin → BLAKE3 and SHA-256 ("" where that was not computed) of the copies that are there."""
        found: dict[str, tuple[str, str]] = {}
        for copy in self.look():
            sha256, origins = self._note_of(copy.blake3)
            found |= dict.fromkeys(origins, (copy.blake3, sha256))
        return found

    def note(self, blake3: str, sha256: str, origin: str) -> None:
        """Note where a copy came from. It is of use only to later starts: an error is no harm."""
        with contextlib.suppress(OSError), self._changing:
            before_sha256, origins = self._note_of(blake3)
            kept = [one for one in origins if one != origin][-_MOST_ORIGINS + 1 :]
            text = json.dumps({"sha256": sha256 or before_sha256, "origins": [*kept, origin]})
            coming = self.path / f"{uuid.uuid4().hex}{_COMING}"
            try:
                coming.write_text(text, "utf-8", "surrogateescape")
                os.rename(coming, self.path / f"{blake3}{_NOTES}")
            finally:
                coming.unlink(missing_ok=True)

    def _note_of(self, blake3: str) -> tuple[str, list[str]]:
        try:
            with open(self.path / f"{blake3}{_NOTES}", encoding="utf-8", errors="surrogateescape") as file:
                note = json.loads(file.read(_MOST_NOTE_BYTES))
            return str(note["sha256"]), [str(origin) for origin in note["origins"]]
        except (OSError, ValueError, KeyError, TypeError):
            return "", []

    # What else.

    @contextlib.contextmanager
    def _room_for(self, size: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise self.full(size) from None

    def room(self) -> int:
        """Bytes that copies could take: what is free, and what they have."""
        return free_bytes(self.path) + sum(copy.size_bytes for copy in self.look())

    def full(self, size: int) -> DiskFullException:
        """What is said where there is no room for so many bytes."""
        return disk_full(self.path, needed=size, free=free_bytes(self.path), remedy=_REMEDY)

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            return list(os.scandir(self.path))
        except FileNotFoundError:
            return []

    def _take_away(self, path: Path) -> None:
        """Remove what is half written, if whoever wrote it is gone."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        except OSError:
            pass  # another loader's, which lives
        finally:
            os.close(fd)

    def _sync(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class OpensCopies:
    """Opens copies, and whatever else lies beneath the allowed roots.

    The folder of copies may lie in the suite's own data folder, which no root opens.

    Args:
        roots: What else may be read.
        folder: The folder of copies.
    """

    def __init__(self, roots: AllowedRoots, folder: CacheFolder) -> None:
        self._roots = roots
        self._folder = folder

    def open_beneath(self, path: Path, flags: int) -> int:
        """See :meth:`modelkeep_common.paths.AllowedRoots.open_beneath`."""
        if path.parent == self._folder.path:
            return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        return self._roots.open_beneath(path, flags)


class CopyMemory:
    """A copy as what is behind a resident; a ``domain.components.Memory``."""

    def __init__(self, folder: CacheFolder, copy: Copy) -> None:
        self.folder = folder
        self.copy = copy
        self.size_bytes = copy.size_bytes

    @property
    def descriptors(self) -> tuple[int, ...]:
        """See :class:`modelkeep_loader.domain.components.Memory`."""
        return ()

    def open_for_holder(self) -> int:
        """See :class:`modelkeep_loader.domain.components.Memory`."""
        return os.open(self.copy.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def in_use(self) -> bool:
        """See :class:`modelkeep_loader.domain.components.Memory`."""
        return self.folder.in_use(self.copy)

    def close(self) -> None:
        """See :class:`modelkeep_loader.domain.components.Memory`: the copy is removed."""
        self.folder.remove(self.copy)


def _reserve(fd: int, size: int) -> None:
    """Have the room before the first byte, so that what is too large fails at once."""
    if size == 0:
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
