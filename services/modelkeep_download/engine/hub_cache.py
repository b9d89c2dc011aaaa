"""Files that the hub's own client has fetched to this host: found by their SHA-256, which is their name.

Only what is this process's own user's is looked at, and no link in the cache is followed. That a file has a
name is no proof of what it holds.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Generator, Iterator, Mapping
from pathlib import Path
from typing import Final

from modelkeep_common.paths import open_beneath
from modelkeep_download.engine.hub_home import is_own

_REPOSITORY: Final = "models--"
_BLOBS: Final = "blobs"
#: Opening a pipe must not wait for its writer.
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class HubCache:
    """The cache of the hub's client. Any thread may call it; it blocks.

    Args:
        folder: Where it is; it need not be there. None: there is none.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def paths_of(self, wanted: Mapping[str, int | None]) -> dict[str, Path]:
        """Where files lie, by their SHA-256, of those that are there.

        Args:
            wanted: The size by each SHA-256; None for any.
        """
        found: dict[str, Path] = {}
        with contextlib.closing(self._files(wanted)) as files:
            for sha256, path, fd in files:
                if wanted[sha256] in (None, os.fstat(fd).st_size):
                    found.setdefault(sha256, path)
        return found

    def files_of(self, sha256: str) -> Iterator[int]:
        """Descriptors of the files of this name, one after the other.

        Each is closed when the next is asked for.
        """
        with contextlib.closing(self._files((sha256,))) as files:
            for _, _, fd in files:
                yield fd

    def _files(self, wanted: Collection[str]) -> Generator[tuple[str, Path, int]]:
        """SHA-256, path and descriptor of each file that is called as is wanted."""
        if self._folder is None or not wanted:
            return
        with _opened(self._folder) as folder:
            for repository in sorted(os.listdir(folder)) if folder is not None else ():
                if not repository.startswith(_REPOSITORY):
                    continue
                with _opened(f"{repository}/{_BLOBS}", folder) as blobs:
                    names = set(os.listdir(blobs)) if blobs is not None else set()
                    for sha256 in names.intersection(wanted):
                        with _opened(sha256, blobs, _READ) as fd:
                            if fd is not None and stat.S_ISREG(os.fstat(fd).st_mode):
                                yield sha256, self._folder / repository / _BLOBS / sha256, fd


@contextlib.contextmanager
def _opened(path: Path | str, beneath: int | None = None, flags: int = _FOLDER) -> Iterator[int | None]:
    """A descriptor of what is there; None if nothing is, or what is another user's.

    Args:
        path: Where; with `beneath`, a part of what has this descriptor, and no link on the way is followed.
    """
    try:
        fd = os.open(path, flags) if beneath is None else open_beneath(beneath, str(path), flags)
    except OSError:
        yield None
        return
    try:
        yield fd if is_own(os.fstat(fd)) else None
    finally:
        os.close(fd)
