"""Files as the copier reads them: piece by piece, past the page cache where their file system lets it.

What goes to a device needs no place in the host's memory, and what is read once should not push out of the
page cache what is read often. So files are read by O_DIRECT; where a file system does not take that, what was
read is dropped from the cache afterwards.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

from blake3 import blake3

from modelkeep.devices import hostmemory
from modelkeep.devices.pieces import PIECE_BYTES, Piece, Run
from modelkeep_devices.wire import SourceError

#: What O_DIRECT asks of positions, sizes and addresses, at most: no file system asks for more than a page.
_BLOCK_BYTES: Final = 4096


class Segment(NamedTuple):
    """Bytes of a source that go to one place on a device.

    Attributes:
        source: Number of the source.
        begin: Where they begin in it.
        size_bytes: How many they are.
        target: Where they go, from the beginning of the allocation.
    """

    source: int
    begin: int
    size_bytes: int
    target: int


class Source:
    """A file, or sealed memory, that is read.

    Args:
        descriptor: An open file that nobody else reads through; it stays the caller's.
        digest: Whether all of it is read, to tell its digest.
        cached: Whether it is in the page cache, or memory itself, and read from there.
    """

    def __init__(self, descriptor: int, *, digest: bool = False, cached: bool = False) -> None:
        self._descriptor = descriptor
        self._is_cached = cached
        self._is_direct = not cached and _set_direct(descriptor, on=True)
        self.size_bytes = os.fstat(descriptor).st_size
        self.digest = blake3(max_threads=blake3.AUTO) if digest else None

    @property
    def is_direct(self) -> bool:
        """Whether it is read past the page cache."""
        return self._is_direct

    def read(self, position: int, size_bytes: int, address: int) -> None:
        """Read bytes to an address in host memory, which has room for whole blocks. Called by many threads.

        Raises:
            SourceError: They cannot be read, or the file ends before them.
        """
        room = -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES
        buffer = hostmemory.view(address, room)
        done = 0
        while done < size_bytes:
            direct = self._is_direct
            # Of a file that ends within a block, O_DIRECT gives what there is of it.
            wanted = buffer[done : room if direct else size_bytes]
            try:
                count = os.preadv(self._descriptor, [wanted], position + done)
            except OSError as error:
                if error.errno == errno.EINVAL and direct:
                    # A file system that takes the flag, and then wants other places, or does not mean it.
                    # Other threads may hear the same of what they read now; the flag goes first, so that none
                    # hears it of what it reads next.
                    _set_direct(self._descriptor, on=False)
                    self._is_direct = False
                    continue
                raise SourceError(f"{os.strerror(error.errno or 0)} at byte {position + done:,}") from None
            done += count
            if not count or (direct and done < size_bytes and done % _BLOCK_BYTES):
                raise SourceError(f"it ends at byte {position + done:,}, and had {self.size_bytes:,}")
        if not self._is_cached and not self._is_direct:
            os.posix_fadvise(self._descriptor, position, size_bytes, os.POSIX_FADV_DONTNEED)


def pieces(sources: Sequence[Source], segments: Sequence[Segment]) -> Iterator[Piece]:
    """What is read, file after file and from front to back, for some segments to come where they go.

    A source whose digest is wanted is read as a whole, another one from its first segment to its last.
    """
    by_source: dict[int, list[Segment]] = {number: [] for number in range(len(sources))}
    for segment in segments:
        if segment.size_bytes:
            by_source[segment.source].append(segment)
    for number, source in enumerate(sources):
        yield from _pieces_of(source, sorted(by_source[number], key=lambda segment: segment.begin))


def _pieces_of(source: Source, segments: Sequence[Segment]) -> Iterator[Piece]:
    if source.digest is None and not segments:
        return
    first, end = 0, max((segment.begin + segment.size_bytes for segment in segments), default=0)
    if source.digest is not None:
        end = max(end, source.size_bytes)  # a file that ends too early is noticed where it is read
    else:
        first = segments[0].begin // _BLOCK_BYTES * _BLOCK_BYTES
    waiting = 0
    for begin in range(first, end, PIECE_BYTES):
        size = min(PIECE_BYTES, end - begin)
        runs: list[Run] = []
        for number in range(waiting, len(segments)):
            segment = segments[number]
            if segment.begin >= begin + size:
                break
            runs += _run(segment, begin, size)
            waiting += segment.begin + segment.size_bytes <= begin + size
        yield Piece(partial(source.read, begin, size), partial(_note, source, size), runs)


def _run(segment: Segment, begin: int, size: int) -> list[Run]:
    """What of a segment is in a piece."""
    start = max(segment.begin, begin)
    count = min(segment.begin + segment.size_bytes, begin + size) - start
    return [Run(start - begin, segment.target + start - segment.begin, count)] if count > 0 else []


def _note(source: Source, size_bytes: int, address: int) -> None:
    if source.digest is not None:
        source.digest.update(hostmemory.view(address, size_bytes))


def _set_direct(descriptor: int, *, on: bool) -> bool:
    """Have a file read past the page cache, or no longer; whether it took that."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
    except OSError:
        return False
    return True
