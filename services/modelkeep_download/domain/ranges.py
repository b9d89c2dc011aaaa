"""Which bytes of a file are there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ByteRanges:
    """Bytes of a file, as ranges (first, end) in ascending order that neither overlap nor touch."""

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def first(cls, size: int) -> ByteRanges:
        """The first `size` bytes; none if it is not positive."""
        return cls(((0, size),)) if size > 0 else cls()

    @property
    def size(self) -> int:
        """How many bytes there are in all."""
        return sum(end - first for first, end in self.ranges)

    @property
    def prefix(self) -> int:
        """How many bytes there are from the first one on, without a gap."""
        return self.ranges[0][1] if self.ranges and self.ranges[0][0] == 0 else 0

    def below(self, end: int) -> ByteRanges:
        """Those of them before the offset `end`."""
        return ByteRanges(tuple((first, min(last, end)) for first, last in self.ranges if first < end))
