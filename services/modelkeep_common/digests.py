"""True digests of a file, computed in one pass over every byte.

BLAKE3 is several times as fast as SHA-256 and runs on the thread that reads ahead; SHA-256, where it is
asked for, runs on the caller's, so that both take little longer than SHA-256 alone.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
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


class Digesting:
    """Digests of one file as far as it has been read: what is stopped goes on where it was.

    Args:
        with_sha256: Whether SHA-256 is wanted besides BLAKE3.
        sink: Given each block as it was read, in order; for who copies the file meanwhile.
    """

    def __init__(self, *, with_sha256: bool = True, sink: Callable[[memoryview], None] | None = None) -> None:
        self._sink = sink
        self._sha = hashlib.sha256() if with_sha256 else None
        self._fast = blake3.blake3()
        self._seen: tuple[int, int, int, int] | None = None
        #: Bytes that the digests are of.
        self.done = 0

    def go_on(
        self,
        descriptor: int,
        *,
        stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> Digests:
        """Reads on to the end.

        Args:
            descriptor: The file, open for reading; its position does not matter and is left alone.
            stop: Asked once a mebibyte; true ends the work.
            on_progress: Told once a mebibyte how many bytes are done; from the caller's thread.

        Raises:
            Interrupted: ``stop`` said so; another call goes on from there.
            OSError: The file cannot be read. ESTALE: it is not the one that was begun, or was changed.
        """
        found = os.fstat(descriptor)
        identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if self._seen not in (None, identity):
            raise OSError(errno.ESTALE, "it changed while it was read")
        self._seen = identity
        os.posix_fadvise(descriptor, self.done, 0, os.POSIX_FADV_SEQUENTIAL)
        ahead = _ReadAhead(descriptor, self.done, self._fast)
        try:
            for block in ahead:
                self._take(block)
                on_progress(self.done)
                if stop():
                    raise Interrupted
        finally:
            # what was read ahead is in BLAKE3 already
            for block in ahead.end():
                self._take(block)
        modify_time = clamped_time(os.fstat(descriptor).st_mtime)
        sha256 = self._sha.hexdigest() if self._sha is not None else ""
        return Digests(sha256, self._fast.hexdigest(), self.done, modify_time)

    def _take(self, block: memoryview) -> None:
        if self._sha is not None:
            self._sha.update(block)
        if self._sink is not None:
            self._sink(block)
        self.done += len(block)


class _ReadAhead:
    """The blocks of a file from a position on, read and put into BLAKE3 by a thread of its own."""

    def __init__(self, descriptor: int, position: int, fast: blake3.blake3) -> None:
        self._free: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[memoryview | BaseException] = queue.SimpleQueue()
        self._ending = threading.Event()
        for _ in range(_BLOCKS):
            self._free.put(bytearray(_BLOCK_BYTES))
        arguments = (descriptor, position, fast)
        self._thread = threading.Thread(target=self._read, args=arguments, name="read-ahead", daemon=True)
        self._thread.start()

    def _read(self, descriptor: int, position: int, fast: blake3.blake3) -> None:
        try:
            while (block := self._free.get()) is not None and not self._ending.is_set():
                view = memoryview(block)[: os.preadv(descriptor, [block], position)]
                fast.update(view)
                self._full.put(view)
                position += len(view)
                if not view:
                    return
        except BaseException as error:
            self._full.put(error)

    def __iter__(self) -> Iterator[memoryview]:
        while True:
            got = self._full.get()
            if isinstance(got, BaseException):
                raise got
            if not got:
                return
            yield got
            assert isinstance(got.obj, bytearray)
            self._free.put(got.obj)

    def end(self) -> Iterator[memoryview]:
        """Ends the thread; gives what it had read besides."""
        self._ending.set()
        self._free.put(None)
        self._thread.join()
        while not self._full.empty():
            if isinstance(got := self._full.get(), memoryview):
                yield got


def digest_descriptor(
    descriptor: int,
    *,
    with_sha256: bool = True,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int], None] = lambda done: None,
    sink: Callable[[memoryview], None] | None = None,
) -> Digests:
    """Digests of the file behind a descriptor, in one go; see :class:`Digesting`."""
    reading = Digesting(with_sha256=with_sha256, sink=sink)
    return reading.go_on(descriptor, stop=stop, on_progress=on_progress)
