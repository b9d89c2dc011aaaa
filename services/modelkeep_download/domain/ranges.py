"""Which bytes of a file are there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ByteRanges:
    """Bytes of a file, as ranges (first, end) in ascending order that neither overlap nor touch."""

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def first(cls, size: int) -> ByteRanges:
        """The first `size` bytes; none if it is not positive."""
        return cls(((0, size),)) if size > 0 else cls()

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> ByteRanges:
        """The bytes of ranges in any order, which may overlap; empty ones are none."""
        merged: list[tuple[int, int]] = []
        for first, end in sorted(ranges):
            if first >= end:
                continue
            if merged and first <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((first, end))
        return cls(tuple(merged))

    @property
    def size(self) -> int:
        """How many bytes there are in all."""
        return sum(end - first for first, end in self.ranges)

    @property
    def prefix(self) -> int:
        """How many bytes there are from the first one on, without a gap."""
        return self.ranges[0][1] if self.ranges and self.ranges[0][0] == 0 else 0

    @property
    def end(self) -> int:
        """The offset behind the last of them; 0 if there are none."""
        return self.ranges[-1][1] if self.ranges else 0

    def below(self, end: int) -> ByteRanges:
        """Those of them before the offset `end`."""
        return ByteRanges(tuple((first, min(last, end)) for first, last in self.ranges if first < end))

    def gaps(self, end: int) -> Iterable[tuple[int, int]]:
        """What lacks before the offset `end`, in ascending order."""
        at = 0
        for first, last in self.ranges:
            if first >= end:
                break
            if first > at:
                yield at, first
            at = last
        if at < end:
            yield at, end
