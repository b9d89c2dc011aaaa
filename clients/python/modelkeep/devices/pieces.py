"""Copies to a device of what is read piece by piece, through a ring of host memory.

While one half of the ring is read into, the other is copied from, so that neither the disk nor the device
waits for the other. A piece goes to the device in several runs: what is one after the other in a file need
not be so there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple

#: The most that is read at once, and how many such are read at a time: so many that a disk has enough to do,
#: and so few that a slow one has the first of them soon.
PIECE_BYTES: Final = 16 << 20
_READERS: Final = 8


class Run(NamedTuple):
    """Bytes that go to the device together: where they begin in their piece and there, and how many."""

    begin: int
    target: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What is read at once.

    Attributes:
        read: Reads it to an address in host memory, a multiple of the page size, where PIECE_BYTES have room.
            Several are read at a time, each in a thread of its own.
        check: Called with that address once the piece is there, in the order of the pieces, before any of it
            is copied.
        runs: What of it goes to the device.
    """

    read: Callable[[int], None]
    check: Callable[[int], None]
    runs: Sequence[Run]

    @property
    def copied_bytes(self) -> int:
        """How many bytes of it go to the device."""
        return sum(run.size_bytes for run in self.runs)


def stream(
    pieces: Iterable[Piece],
    slots: Sequence[int],
    issue: Callable[[Piece, int], None],
    settle: Callable[[int], None],
    on_progress: Callable[[int], None],
) -> None:
    """Read pieces and have them copied; returns once all are there.

    Args:
        pieces: In the order in which they are copied.
        slots: Addresses of the ring's parts, each of PIECE_BYTES.
        issue: Begins to copy a piece from a slot, by its number.
        settle: Waits until what was begun from a slot is there.
        on_progress: Told after each piece how many bytes are on the device.

    Raises:
        Exception: What reading, checking or copying raised first. Nothing is read into a slot any more; what
            was begun to be copied from one may go on.
    """
    upcoming = iter(pieces)
    reading: deque[tuple[Piece, int, Future[None]]] = deque()
    copying: deque[tuple[Piece, int]] = deque()
    done = 0

    with ThreadPoolExecutor(min(_READERS, len(slots)), thread_name_prefix="read-piece") as readers:

        def begin(slot: int) -> None:
            if (piece := next(upcoming, None)) is not None:
                reading.append((piece, slot, readers.submit(piece.read, slots[slot])))

        def finish() -> None:
            nonlocal done
            piece, slot = copying.popleft()
            settle(slot)
            done += piece.copied_bytes
            on_progress(done)
            begin(slot)

        for slot in range(len(slots)):
            begin(slot)
        while reading:
            piece, slot, read = reading.popleft()
            read.result()
            piece.check(slots[slot])
            issue(piece, slot)
            copying.append((piece, slot))
            while len(copying) > len(slots) // 2 or (copying and not reading):
                finish()
