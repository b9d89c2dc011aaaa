"""An object that another transfer fetches, copied as it is written: nothing of it is fetched twice.

The copy is a file of its own, with its own hash, and durable now and then as what is fetched is; so a job
that is paused meanwhile keeps what it has. On a file system that can, the blocks are shared.
"""

from __future__ import annotations

import os
from dataclasses import replace

from modelkeep_common.copies import copy_at
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.retry import StartOver
from modelkeep_download.engine.blobs import Seat
from modelkeep_download.engine.lanes import Course
from modelkeep_download.engine.transfer import Partial, Shared, Written

_COPY_BYTES = 4 << 20
#: What is still being written is copied in multiples of this, so that blocks can be shared.
_ALIGN_BYTES = 1 << 20
_LOOK_S = 0.02
_CHANGED = "the file that it was copied from changed meanwhile"


class TakeOver(Exception):
    """Nobody else fetches the object: go on with what there is."""

    def __init__(self, there: Partial) -> None:
        super().__init__("nobody else fetches it")
        self.there = there


class Copying:
    """Copies an object from whoever fetches it.

    Args:
        seat: The seat of this transfer.
        other: Whoever fetches it now. Its file is open from now on, whatever becomes of its job.
        there: The object, and what there was of it before.
        beginning: The first bytes, as its own source has served them.
    """

    def __init__(self, seat: Seat, other: Seat, there: Partial, beginning: bytes) -> None:
        self._seat, self._there, self._beginning = seat, there, beginning
        self._total = there.total or 0
        self._other, self._fd = other, other.opened()
        self._sample = (0, b"")
        #: The hash that whoever had the last bytes tells; "" if they were copied before it was known.
        self._sha256 = ""

    def close(self) -> None:
        """Close the other's file."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def expect(self, at: int, sample: bytes) -> None:
        """Hold a part of the copy against what its own source has served."""
        self._sample = (at, sample)

    def run(self, course: Course) -> None:
        """Copy what lacks.

        Args:
            course: Where to.

        Raises:
            TakeOver: It is for this transfer to go on.
            Stopped, OSError, StartOver, ModelkeepError: It did not come to that.
        """
        course.tell(Shared())
        while not course.pieces.complete:
            if self._fd is not None:
                self._copy_from(course, self._fd, self._other)
                self._sha256 = self._sha256 or self._other.sha256
                self.close()
                continue
            first = self._seat.first()
            if first is None:
                raise TakeOver(replace(self._there, have=course.pieces.written))
            self._other, self._fd = first, first.opened()
        at, sample = self._sample
        if os.pread(course.fd, len(sample), at) != sample:
            raise StartOver("the source serves other bytes than those of the expected hash", changed=False)

    def check(self, sha256: str) -> None:
        """Compare the hash of the copy.

        Raises:
            StartOver: It was copied from a file that has another one.
        """
        if self._sha256 not in ("", sha256):
            raise StartOver(_CHANGED, changed=False)

    def _copy_from(self, course: Course, fd: int, other: Seat) -> None:
        """Copy what another has, until it has stood up and there is no more to be had of it."""
        alike = not self._beginning
        while not course.pieces.complete:
            left = other.left  # looked at before what it has written
            if not left and _is_faster(course.bandwidth.rate, other.bandwidth.rate):
                raise self._apart(replace(self._there, have=course.pieces.written))
            alike = alike or self._compares(fd, other)
            moved = alike and self._copy_some(course, fd, other, all_of_it=left)
            if other.void or (left and not moved):
                return
            if not moved:
                course.stop.wait(_LOOK_S)

    def _compares(self, fd: int, other: Seat) -> bool:
        """Whether the other's file has come so far that it begins as it should."""
        own = self._beginning
        if other.pieces.written.prefix < len(own):
            return False
        if os.pread(fd, len(own), 0) != own and not other.void:
            raise self._apart(self._there)
        return not other.void

    def _copy_some(self, course: Course, fd: int, other: Seat, *, all_of_it: bool) -> bool:
        """Copy the first bytes that the other has and this one lacks; whether there were any."""
        course.stop.check()
        pieces = course.pieces
        offer = self._offer(pieces.written, other.pieces.written, all_of_it=all_of_it)
        span = pieces.claim(*offer) if offer is not None else None
        if span is None:
            return False
        try:
            count = copy_at(fd, course.fd, span.at, span.left)
            if other.void:
                return False  # what came may be of another object
            if not count:
                raise StartOver(_CHANGED, changed=False)
            pieces.advance(span, count)
        finally:
            pieces.release(span)
        course.tell(Written(pieces.size))
        course.syncer.note(pieces.size)
        return True

    def _offer(self, have: ByteRanges, others: ByteRanges, *, all_of_it: bool) -> tuple[int, int] | None:
        for first, end in have.gaps(self._total):
            for begin, last in others.ranges:
                at, to = max(first, begin), min(end, last)
                if to < end and not all_of_it:
                    to &= -_ALIGN_BYTES
                if at < to:
                    return at, min(to, (at + _COPY_BYTES) & -_ALIGN_BYTES)
        return None

    def _apart(self, there: Partial) -> TakeOver:
        """Have nothing more to do with the others."""
        self._seat.stand()
        return TakeOver(there)


def _is_faster(own: int, others: int) -> bool:
    """Whether a job, by the limits of both, need not bear the other's bytes a second."""
    return others > 0 and not 0 < own <= others
