"""Hashes of models: a sampled one in constant time, and two true digests in one pass.

**Sampled hash** (``original_hash``, ``current_hash``): imohash, murmur3-128 over the first, middle and last
16 KiB of a file and its size (the whole file below 128 KiB); 32 hexadecimal characters. It tells a changed
model quickly. It is no identity: whoever wants to can make two files with the same one.

**Sampled hash of a folder**: for each file, in ascending order of the UTF-8 bytes of its path relative to
the folder with ``/`` between components, the line ``<imohash> <path>\\n``; the imohash of all these lines
together. Adding, removing, renaming or changing a file changes it, the order on disk does not.

**Digests**: SHA-256 and BLAKE3 of every byte. The file is read once; BLAKE3 runs on the thread that reads
ahead, SHA-256 on the caller's, so that both take little longer than SHA-256 alone.
"""

from __future__ import annotations

import hashlib
import io
import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import blake3
import imohash

from modelkeep_common.wire import clamped_time

from .probe.headers import Opener, open_regular
from .system_errors import reading

#: imohash's own defaults. Given by position: the keyword is misspelt in the released version.
_SAMPLE_THRESHOLD, _SAMPLE_SIZE = 128 * 1024, 16 * 1024

#: Read-ahead of a digest: enough blocks that neither side waits for the other's short pauses.
_BLOCK_BYTES, _BLOCKS = 1 << 20, 6


class Interrupted(Exception):
    """The digest was asked to stop before its end."""


@dataclass(frozen=True, slots=True)
class Digests:
    """The digests of one file, in lowercase hexadecimal, and how many bytes they are of."""

    sha256: str
    blake3: str
    size_bytes: int
    #: Of the last modification, in seconds, as it was after the last byte was read.
    modify_time: float


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


def digest_file(
    path: Path,
    opener: Opener = open_regular,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Digests:
    """SHA-256 and BLAKE3 of a file in one pass.

    Args:
        path: The file.
        opener: Opens it.
        stop: Asked once a mebibyte; true ends the work.

    Raises:
        Interrupted: ``stop`` said so.
        OSError: The file cannot be read.
    """
    free: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
    full: queue.SimpleQueue[tuple[bytearray, int] | BaseException] = queue.SimpleQueue()
    for _ in range(_BLOCKS):
        free.put(bytearray(_BLOCK_BYTES))
    fast = blake3.blake3()

    with opener(path) as file:
        descriptor = file.fileno()
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

        def read_ahead() -> None:
            try:
                while (block := free.get()) is not None:
                    count = os.readv(descriptor, [block])
                    fast.update(memoryview(block)[:count])
                    full.put((block, count))
                    if count == 0:
                        return
            except BaseException as error:
                full.put(error)

        sha = hashlib.sha256()
        size = 0
        reader = threading.Thread(target=read_ahead, name="read-ahead", daemon=True)
        reader.start()
        try:
            while True:
                got = full.get()
                if isinstance(got, BaseException):
                    raise got
                block, count = got
                if count == 0:
                    break
                sha.update(memoryview(block)[:count])
                size += count
                if stop():
                    raise Interrupted
                free.put(block)
        finally:
            free.put(None)
            reader.join()
        modify_time = clamped_time(os.fstat(descriptor).st_mtime)
    return Digests(sha.hexdigest(), fast.hexdigest(), size, modify_time)
