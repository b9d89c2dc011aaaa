"""Which bytes of an object lack, and which connection fetches which of them.

What lacks is handed out from the front, a piece at a time, so that the hash can follow and the file system
has its writes near each other. Whoever is left without work takes over from the one with most to do. Safe to
share between threads.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from modelkeep_download.domain.ranges import ByteRanges

PIECE_BYTES = 16 << 20
#: Less than twice this is not worth a second connection.
LEAST_BYTES = 1 << 20
#: Less than twice this is not worth taking over. On a slow link it is what the others wait for at the end.
_LEAST_LEFT = 256 << 10
_ENDLESS = 2**63 - 1


@dataclass(eq=False, slots=True)
class Span:
    """Bytes that one connection fetches, in their order. Only `Pieces` changes it.

    Attributes:
        first: Offset of its first byte.
        at: Offset of the next byte to come.
        end: Offset behind its last; comes nearer when another connection takes over the rest.
        moved: When a byte came last, in seconds of the monotonic clock.
    """

    first: int
    at: int
    end: int
    moved: float

    @property
    def left(self) -> int:
        """How many bytes it still lacks."""
        return self.end - self.at


class Pieces:
    """The bytes of one object, while a transfer fetches them.

    Args:
        total: Its size in bytes; None while unknown, and then there is one span only.
        have: What is in the file already.
    """

    def __init__(self, total: int | None, have: ByteRanges) -> None:
        self._end = _ENDLESS if total is None else total
        self._done = have
        self._active: set[Span] = set()
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)
        self._closed = False

    @property
    def total(self) -> int | None:
        """The size in bytes; None while unknown."""
        return None if self._end == _ENDLESS else self._end

    @property
    def piece(self) -> int:
        """Bytes of one piece: small files have smaller ones, or a few connections had nothing to share."""
        return (
            PIECE_BYTES if self._end >= 16 * PIECE_BYTES else max(LEAST_BYTES, self._end // 16 & -LEAST_BYTES)
        )

    @property
    def written(self) -> ByteRanges:
        """What is in the file."""
        with self._lock:
            return self._written()

    @property
    def size(self) -> int:
        """How many bytes are in the file."""
        with self._lock:
            return self._done.size + sum(span.at - span.first for span in self._active)

    @property
    def complete(self) -> bool:
        """Whether every byte is there."""
        return self.size >= self._end

    def begin(self) -> Span:
        """The span of the first connection: from the first byte that lacks to the next that is there."""
        with self._lock:
            first, end = next(iter(self._done.gaps(self._end)), (self._end, self._end))
            return self._take(first, end)

    def offer(self, most: int = PIECE_BYTES) -> tuple[int, int] | None:
        """(first, end) of bytes that another connection may fetch, `most` of them unless less is left over.

        Taken they are by `claim` only, so that a connection can ask for them before it does. None: there is
        nothing to share for now.
        """
        with self._lock:
            taken = ByteRanges.of([*self._done.ranges, *((span.first, span.end) for span in self._active)])
            for first, end in taken.gaps(self._end):
                return first, self._cut(first, end, most)
            return self._from_the_busiest(most)

    def claim(self, first: int, end: int) -> Span | None:
        """Take what was offered; None if somebody else has come to it meanwhile."""
        with self._lock:
            if any(first < last and begin < end for begin, last in self._done.ranges):
                return None
            for span in self._active:
                if span.first < end and first < span.end:
                    if span.at > first:
                        return None
                    span.end = first
            return self._take(first, end)

    def advance(self, span: Span, count: int) -> None:
        """So many more bytes of a span are in the file."""
        with self._moved:
            span.at = min(span.at + count, span.end)
            span.moved = time.monotonic()
            self._moved.notify_all()

    def release(self, span: Span) -> None:
        """Nobody fetches the span any more; what it lacks may be offered again."""
        with self._moved:
            if span in self._active:
                self._active.remove(span)
                self._done = ByteRanges.of([*self._done.ranges, (span.first, span.at)])
            self._moved.notify_all()

    def take_from(self, span: Span) -> None:
        """Take away what a span lacks, whoever fetches it."""
        with self._moved:
            span.end = span.at
            self._moved.notify_all()

    def ends_here(self, span: Span) -> None:
        """The object ends where the span is, which had no end."""
        with self._moved:
            self._end = span.end = span.at
            self._moved.notify_all()

    def close(self) -> None:
        """No more bytes come: nobody needs to wait."""
        with self._moved:
            self._closed = True
            self._moved.notify_all()

    def wait_beyond(self, at: int) -> int | None:
        """Wait until the object is there, from its first byte on, beyond `at`; up to where it is.

        None: it will not come further, since that is all, or no more bytes come.
        """
        with self._moved:
            while True:
                prefix = self._written().prefix
                if self._closed or at >= self._end:
                    return None
                if prefix > at:
                    return prefix
                self._moved.wait()

    def wait(self, seconds: float) -> None:
        """Wait until something moved, or so long."""
        with self._moved:
            if not self._closed:
                self._moved.wait(seconds)

    def _written(self) -> ByteRanges:
        if not self._active:
            return self._done
        return ByteRanges.of([*self._done.ranges, *((span.first, span.at) for span in self._active)])

    def _take(self, first: int, end: int) -> Span:
        span = Span(first, first, end, time.monotonic())
        self._active.add(span)
        return span

    def _cut(self, first: int, end: int, most: int) -> int:
        """Where a span from `first` ends: at the end of a piece, unless what is left lacks so few.

        Towards the end of the object they become shorter, so that all connections end at about the same time,
        and the hash, which goes in order, has little to do then.
        """
        piece = self.piece
        if others := len(self._active):
            share = (end - first) // (2 * (others + 1)) & -LEAST_BYTES
            if share < piece:
                piece = most = max(LEAST_BYTES, share)
        cut = max(first + most, first + 1) // piece * piece
        return end if cut <= first or cut + LEAST_BYTES >= end else cut

    def _from_the_busiest(self, most: int) -> tuple[int, int] | None:
        busiest = max(self._active, key=lambda span: span.left, default=None)
        if busiest is None or busiest.left < 2 * _LEAST_LEFT:
            return None
        piece = self.piece
        near = (busiest.at // piece + 2) * piece
        if near + piece <= busiest.end:  # near to where it is, and not so near that it will be there at once
            return near, min(busiest.end, max(near + piece, self._cut(near, busiest.end, most)))
        middle = busiest.at + busiest.left // 2
        return middle, busiest.end
