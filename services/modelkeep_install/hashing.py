"""Hashes of models: a sampled one in constant time, and two true digests in one pass.

**Sampled hash** (``original_hash``, ``current_hash``): imohash, murmur3-128 over the first, middle and last
16 KiB of a file and its size (the whole file below 128 KiB); 32 hexadecimal characters. It tells most
changes quickly, but none that keeps the size and lies between the samples. It is no identity: whoever wants
to can make two files with the same one.

**Sampled hash of a folder**: for each file, in ascending order of the UTF-8 bytes of its path relative to
the folder with ``/`` between components, the line ``<imohash> <path>\\n``; the imohash of all these lines
together. Adding, removing, renaming or changing a file changes it, the order on disk does not.

**Digests**: SHA-256 and BLAKE3 of every byte, in one pass; see :mod:`modelkeep_common.digests`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import imohash

from modelkeep.exceptions import InvalidModelException
from modelkeep_common.digests import Digesting, Digests, Interrupted

from .domain.system_errors import reading
from .probe.readers.headers import Opener, open_regular

#: imohash's own defaults. Given by position: the keyword is misspelt in the released version.
_SAMPLE_THRESHOLD, _SAMPLE_SIZE = 128 * 1024, 16 * 1024
#: Some file systems do not tell how large they are.
_ALWAYS_READ = 1 << 30

__all__ = [
    "Digesting",
    "Digests",
    "Interrupted",
    "digest_file",
    "sampled_hash",
    "sampled_hash_of",
    "sampled_hash_of_folder",
]


def sampled_hash(path: Path, opener: Opener = open_regular) -> str:
    """The sampled hash of one file, reading at most 128 KiB."""
    with reading(path), opener(path) as file:
        return str(imohash.hashfileobject(file, _SAMPLE_THRESHOLD, _SAMPLE_SIZE, True))


def sampled_hash_of_folder(folder: Path, files: Sequence[str], opener: Opener = open_regular) -> str:
    """The sampled hash of a folder's files, given by their relative paths; see the module's text."""
    lines = [
        f"{sampled_hash(folder / name, opener)} {name}\n".encode()
        for name in sorted(files, key=lambda name: name.encode())
    ]
    return str(imohash.hashfileobject(io.BytesIO(b"".join(lines)), _SAMPLE_THRESHOLD, _SAMPLE_SIZE, True))


def sampled_hash_of(path: Path, files: Sequence[str], opener: Opener = open_regular) -> str:
    """The sampled hash of a model: of a folder, that of its files."""
    return sampled_hash_of_folder(path, files, opener) if path.is_dir() else sampled_hash(path, opener)


def digest_file(
    path: Path,
    opener: Opener = open_regular,
    *,
    stop: Callable[[], bool] = lambda: False,
    begun: Digesting | None = None,
) -> Digests:
    """SHA-256 and BLAKE3 of a file in one pass.

    Args:
        path: The file.
        opener: Opens it.
        stop: Asked once a mebibyte; true ends the work.
        begun: As far as it has been read before; it is as far as this came when ``stop`` ends the work.

    Raises:
        Interrupted: ``stop`` said so.
        InvalidModelException: It is longer than its file system can hold, so most of it is holes.
        OSError: The file cannot be read, or is another than was begun.
    """
    with opener(path) as file:
        _refuse_holes(path, file.fileno())
        return (begun or Digesting()).go_on(file.fileno(), stop=stop)


def _refuse_holes(path: Path, descriptor: int) -> None:
    """A file of holes may be of any length, and reading it takes as long as if it were full."""
    room = os.fstatvfs(descriptor)
    size = os.fstat(descriptor).st_size
    if size > max(room.f_blocks * room.f_frsize, _ALWAYS_READ):
        raise InvalidModelException(
            f"{path} is longer ({size:,} bytes) than its file system: most of it was never written.",
            metadata={"path": str(path), "detail": "a sparse file"},
            remedy="Fetch the file anew.",
        )
