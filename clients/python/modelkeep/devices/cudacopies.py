"""Copies between host memory and a GPU, in pieces that overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from . import hostmemory
from .cudacalls import driver, ok
from .pieces import PIECE_BYTES as READ_BYTES
from .pieces import Piece, Run, stream

#: Large enough that a piece's own cost is nothing beside its copy; at 1 GB/s still 15 pieces a second.
PIECE_BYTES: Final = 64 << 20
#: Pieces under way at once where host memory is read directly.
_DEPTH: Final = 2
#: One thread fills a buffer slower than a GPU empties it: with eight a ring is 4 times as fast as with one.
_RING_BUFFERS: Final = 4
_RING_THREADS: Final = 8


class Copies:
    """Copies in one context, on a stream of their own. The context is current in every call.

    Buffers and stream last as long as the process, whose end gives them back.
    """

    def __init__(self) -> None:
        self._cu = driver()
        flags = self._cu.CUstream_flags.CU_STREAM_NON_BLOCKING
        self._stream = ok(self._cu.cuStreamCreate(int(flags)), "cuStreamCreate")
        self._events: list[Any] = []
        self._ring: list[int] = []
        self._threads: ThreadPoolExecutor | None = None

    def from_registered(
        self, target: int, source: int, size_bytes: int, on_progress: Callable[[int], None]
    ) -> None:
        """Copy to the device from host memory that it can read itself."""

        def issue(start: int, size: int, _slot: int) -> None:
            result = self._cu.cuMemcpyHtoDAsync(target + start, source + start, size, self._stream)
            ok(result, "cuMemcpyHtoDAsync")

        self._piece_by_piece(size_bytes, _DEPTH, issue, on_progress)

    def through_ring(
        self, target: int, source: int, size_bytes: int, on_progress: Callable[[int], None]
    ) -> None:
        """Copy to the device by way of pinned buffers that threads fill: no memory has to be registered."""
        ring = self._buffers()
        assert self._threads is not None
        threads = self._threads

        def issue(start: int, size: int, slot: int) -> None:
            part = -(-size // _RING_THREADS)

            def fill(at: int) -> None:
                hostmemory.copy(ring[slot] + at, source + start + at, min(part, size - at))

            list(threads.map(fill, range(0, size, part)))
            result = self._cu.cuMemcpyHtoDAsync(target + start, ring[slot], size, self._stream)
            ok(result, "cuMemcpyHtoDAsync")

        self._piece_by_piece(size_bytes, _RING_BUFFERS, issue, on_progress)

    def from_pieces(
        self,
        target: int,
        pieces: Iterable[Piece],
        check: Callable[[Run], None],
        on_progress: Callable[[int], None],
    ) -> None:
        """Copy to the device what is read into pinned buffers meanwhile. ``check`` refuses runs."""
        slots = [buffer + at for buffer in self._buffers() for at in range(0, PIECE_BYTES, READ_BYTES)]
        self._need_events(len(slots))

        def issue(piece: Piece, slot: int) -> None:
            for run in piece.runs:
                check(run)
                result = self._cu.cuMemcpyHtoDAsync(
                    target + run.target, slots[slot] + run.begin, run.size_bytes, self._stream
                )
                ok(result, "cuMemcpyHtoDAsync")
            ok(self._cu.cuEventRecord(self._events[slot], self._stream), "cuEventRecord")

        def settle(slot: int) -> None:
            ok(self._cu.cuEventSynchronize(self._events[slot]), "cuEventSynchronize")

        try:
            stream(pieces, slots, issue, settle, on_progress)
        except BaseException:
            # Whoever hears of the failure unmaps what the device may still write.
            self._cu.cuStreamSynchronize(self._stream)
            raise

    def to_host(self, target: int, source: int, size_bytes: int, on_progress: Callable[[int], None]) -> None:
        """Copy from the device to host memory of any kind."""

        def issue(start: int, size: int, _slot: int) -> None:
            result = self._cu.cuMemcpyDtoHAsync(target + start, source + start, size, self._stream)
            ok(result, "cuMemcpyDtoHAsync")

        self._piece_by_piece(size_bytes, _DEPTH, issue, on_progress)

    def _piece_by_piece(
        self,
        size_bytes: int,
        depth: int,
        issue: Callable[[int, int, int], None],
        on_progress: Callable[[int], None],
    ) -> None:
        """Have pieces begun, `depth` of them under way at once; one's slot is free again when it is there."""
        self._need_events(depth)
        under_way: deque[tuple[Any, int]] = deque()

        def wait() -> None:
            event, end = under_way.popleft()
            ok(self._cu.cuEventSynchronize(event), "cuEventSynchronize")
            on_progress(end)

        try:
            for number, (start, size) in enumerate(_pieces(size_bytes)):
                if len(under_way) == depth:
                    wait()
                slot = number % depth
                issue(start, size, slot)
                ok(self._cu.cuEventRecord(self._events[slot], self._stream), "cuEventRecord")
                under_way.append((self._events[slot], start + size))
            while under_way:
                wait()
        except BaseException:
            # Whoever hears of the failure unmaps what the device may still read.
            self._cu.cuStreamSynchronize(self._stream)
            raise

    def _need_events(self, count: int) -> None:
        flags = self._cu.CUevent_flags.CU_EVENT_DISABLE_TIMING
        while len(self._events) < count:
            self._events.append(ok(self._cu.cuEventCreate(int(flags)), "cuEventCreate"))

    def _buffers(self) -> list[int]:
        while len(self._ring) < _RING_BUFFERS:
            self._ring.append(int(ok(self._cu.cuMemHostAlloc(PIECE_BYTES, 0), "cuMemHostAlloc")))
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_RING_THREADS, thread_name_prefix="fill-ring")
        return self._ring


def _pieces(size_bytes: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size_bytes, PIECE_BYTES):
        yield start, min(PIECE_BYTES, size_bytes - start)
