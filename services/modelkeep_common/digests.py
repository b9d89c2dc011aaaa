"""True digests of a file, computed in one pass over every byte.

BLAKE3 is several times as fast as SHA-256 and runs on the thread that reads ahead; SHA-256, where it is
asked for, runs on the caller's, so that both take little longer than SHA-256 alone.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import blake3

from .wire import clamped_time

#: Read-ahead: enough blocks that neither side waits for the other's short pauses.
_BLOCK_BYTES, _BLOCKS = 1 << 20, 6


class Interrupted(Exception):
    """The digest was asked to stop before its end."""


@dataclass(frozen=True, slots=True)
class Digests:
    """The digests of one file, in lowercase hexadecimal, and how many bytes they are of."""

    #: Empty if it was not asked for.
    sha256: str
    blake3: str
    size_bytes: int
    #: Of the last modification, in seconds, as it was after the last byte was read.
    modify_time: float


def digest_descriptor(
    descriptor: int,
    *,
    with_sha256: bool = True,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Digests:
    """Digests of the file behind a descriptor, from its first byte to its last.

    Args:
        descriptor: Open for reading; its position does not matter and is left alone.
        with_sha256: Whether SHA-256 is wanted besides BLAKE3.
        stop: Asked once a mebibyte; true ends the work.
        on_progress: Told once a mebibyte how many bytes are done; from the caller's thread.

    Raises:
        Interrupted: ``stop`` said so.
        OSError: The file cannot be read.
    """
    free: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
    full: queue.SimpleQueue[tuple[bytearray, int] | BaseException] = queue.SimpleQueue()
    for _ in range(_BLOCKS):
        free.put(bytearray(_BLOCK_BYTES))
    fast = blake3.blake3()
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read_ahead() -> None:
        position = 0
        try:
            while (block := free.get()) is not None:
                count = os.preadv(descriptor, [block], position)
                fast.update(memoryview(block)[:count])
                full.put((block, count))
                position += count
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
            if with_sha256:
                sha.update(memoryview(block)[:count])
            size += count
            on_progress(size)
            if stop():
                raise Interrupted
            free.put(block)
    finally:
        free.put(None)
        reader.join()
    modify_time = clamped_time(os.fstat(descriptor).st_mtime)
    return Digests(sha.hexdigest() if with_sha256 else "", fast.hexdigest(), size, modify_time)
