"""Another way to fetch, in pieces of any order: queue, rows, resume and delivery are the same for it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelkeep.download.v1 import download_pb2
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transfer import (
    Answered,
    Credentials,
    Durable,
    Head,
    Partial,
    Tell,
    Written,
)
from modelkeep_download.engine.verify import digest_of
from support.downloads import download_service
from support.waiting import until

PIECE = 64 << 10
BODY = os.urandom(8 * PIECE)
SHA256 = hashlib.sha256(BODY).hexdigest()
URL = "http://models.example/whole.safetensors"
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED


@dataclass
class Pieces:
    """Fetches the pieces that lack, in an order of its own; after some of them it breaks off, or hangs."""

    order: Sequence[int] = (5, 0, 7, 2, 1, 6, 3, 4)
    #: Pieces of each try before it breaks off; those after the last of them do not.
    breaks_after: list[int] = field(default_factory=list)
    hangs_after: int = 99
    hangs: bool = False
    #: What each try found, and which pieces it fetched.
    found: list[ByteRanges] = field(default_factory=list)
    fetched: list[list[int]] = field(default_factory=list)

    def run(self, source: Credentials, partial: Partial, tell: Tell, stop: StopSignal) -> str:
        """See `Transfer`."""
        assert source.url == URL
        self.found.append(partial.have)
        self.fetched.append([])
        most = self.breaks_after.pop(0) if self.breaks_after else 99
        there = {first // PIECE for begin, end in partial.have.ranges for first in range(begin, end, PIECE)}
        tell(Answered(Head(len(BODY), '"v1"', "whole.safetensors", URL, ""), partial.have))
        fd = os.open(partial.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            for piece in (piece for piece in self.order if piece not in there):
                if len(self.fetched[-1]) == most:
                    raise TransientError("the source broke off")
                if len(self.fetched[-1]) == self.hangs_after:
                    self.hangs = True
                    stop.wait(60)
                os.pwrite(fd, BODY[piece * PIECE : (piece + 1) * PIECE], piece * PIECE)
                os.fdatasync(fd)
                there.add(piece)
                self.fetched[-1].append(piece)
                tell(Written(len(there) * PIECE))
                tell(Durable(_ranges(there)))
            return digest_of(fd, len(BODY), stop).hexdigest()
        finally:
            os.close(fd)


def _ranges(pieces: set[int]) -> ByteRanges:
    ranges: list[tuple[int, int]] = []
    for piece in sorted(pieces):
        if ranges and ranges[-1][1] == piece * PIECE:
            ranges[-1] = (ranges[-1][0], (piece + 1) * PIECE)
        else:
            ranges.append((piece * PIECE, (piece + 1) * PIECE))
    return ByteRanges(tuple(ranges))


async def test_pieces_come_in_any_order_and_a_new_try_goes_on_with_those_that_are_there(
    data_dir: Path,
) -> None:
    pieces = Pieces(breaks_after=[3, 2])
    async with download_service(data_dir, transfer=pieces) as client:
        job = await client.run(URL, expected_sha256=SHA256)
    assert (job.state, job.verified, job.restarts) == (COMPLETED, True, 0)
    assert Path(job.path).read_bytes() == BODY
    assert pieces.fetched == [[5, 0, 7], [2, 1], [6, 3, 4]]
    assert pieces.found == [ByteRanges(), _ranges({0, 5, 7}), _ranges({0, 1, 2, 5, 7})]


async def test_pieces_outlive_the_service(data_dir: Path) -> None:
    before, after = Pieces(hangs_after=3), Pieces(order=range(8))
    async with download_service(data_dir, transfer=before) as client:
        job = await client.create(URL)
        await until(lambda: before.hangs)
    async with download_service(data_dir, transfer=after) as client:
        ended = await client.ended(job)
    assert (ended.state, ended.sha256) == (COMPLETED, SHA256)
    assert before.fetched == [[5, 0, 7]]
    assert (after.found, after.fetched) == ([_ranges({0, 5, 7})], [[1, 2, 3, 4, 6]])
