"""What several threads share while they fetch one object: pieces, the map of them, the hash, the syncs."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.engine import piece_map
from modelkeep_download.engine.hosts import Hosts
from modelkeep_download.engine.pieces import LEAST_BYTES, PIECE_BYTES, Pieces, Span
from modelkeep_download.engine.stops import Stopped, StopSignal
from modelkeep_download.engine.syncer import Syncer
from modelkeep_download.engine.transfer import Durable
from modelkeep_download.engine.verify import Follower, digest_of

MIB = 1 << 20
_ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8)


@given(_ranges, st.integers(0, 70))
def test_ranges_are_the_bytes_that_they_are_made_of(pairs: list[tuple[int, int]], end: int) -> None:
    found = ByteRanges.of(pairs)
    there = {at for first, last in pairs for at in range(first, last)}
    assert {at for first, last in found.ranges for at in range(first, last)} == there
    assert found.size == len(there)
    assert found.end == max(there, default=-1) + 1
    assert {at for first, last in found.gaps(end) for at in range(first, last)} == set(range(end)) - there
    assert found.prefix == next(at for at in range(62) if at not in there)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), _ranges, st.integers(0, 2**32))
def test_whoever_comes_and_goes_every_byte_is_fetched_and_none_by_two_at_once(
    total_mib: int, pairs: list[tuple[int, int]], seed: int
) -> None:
    luck = random.Random(seed)
    total = total_mib * MIB - luck.randrange(MIB)
    have = ByteRanges.of((first * MIB, last * MIB) for first, last in pairs).below(total)
    if have.size == total:
        return
    pieces = Pieces(total, have)
    active: list[Span] = [pieces.begin()]
    for _ in range(5000):
        if pieces.complete:
            break
        deed = luck.random()
        if deed < 0.3 and len(active) < 12:
            offer = pieces.offer(luck.choice((PIECE_BYTES, 5 * PIECE_BYTES)))
            if offer is not None and (span := pieces.claim(*offer)) is not None:
                active.append(span)
        elif deed < 0.35 and active:  # its connection breaks off
            pieces.release(active.pop(luck.randrange(len(active))))
        elif deed < 0.38 and active:  # others take over
            pieces.take_from(luck.choice(active))
        elif active:
            span = luck.choice(active)
            pieces.advance(span, luck.randrange(8 * MIB))
            if not span.left:
                active.remove(span)
                pieces.release(span)
        still = sorted((span.at, span.end) for span in active if span.left)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(still))
        there = pieces.written
        assert all(not (at < last and first < end) for at, end in still for first, last in there.ranges)
    while not pieces.complete:
        for span in active:
            pieces.advance(span, span.left)
            pieces.release(span)
        active.clear()
        if (offer := pieces.offer()) is not None:
            span = pieces.claim(*offer)
            assert span is not None
            active.append(span)
    assert pieces.written == ByteRanges.first(total)
    assert pieces.offer() is None


def test_what_is_handed_out_lies_near_the_front_and_ends_with_a_piece() -> None:
    pieces = Pieces(100 * PIECE_BYTES, ByteRanges())
    first = pieces.begin()
    assert (first.at, first.end) == (0, 100 * PIECE_BYTES)
    assert pieces.offer() == (2 * PIECE_BYTES, 3 * PIECE_BYTES)
    second = pieces.claim(2 * PIECE_BYTES, 3 * PIECE_BYTES)
    assert (second is not None, first.end) == (True, 2 * PIECE_BYTES)
    assert pieces.offer() == (3 * PIECE_BYTES, 4 * PIECE_BYTES)
    assert pieces.claim(2 * PIECE_BYTES + 5, 3 * PIECE_BYTES) is not None, "what nobody has written of it"
    pieces.advance(first, PIECE_BYTES + 1)
    assert pieces.claim(PIECE_BYTES, 2 * PIECE_BYTES) is None, "the first connection is there already"


def test_the_end_is_shared_until_it_is_not_worth_it() -> None:
    pieces = Pieces(4 * LEAST_BYTES, ByteRanges())
    span = pieces.begin()
    pieces.advance(span, 3 * LEAST_BYTES)
    assert pieces.offer() == (4 * LEAST_BYTES - LEAST_BYTES // 2, 4 * LEAST_BYTES)
    pieces.advance(span, LEAST_BYTES // 2 + 1)
    assert pieces.offer() is None
    pieces.take_from(span)
    assert pieces.offer() == (4 * LEAST_BYTES - LEAST_BYTES // 2 + 1, 4 * LEAST_BYTES)


def test_the_end_of_an_object_without_a_size_is_where_it_ends() -> None:
    pieces = Pieces(None, ByteRanges())
    span = pieces.begin()
    pieces.advance(span, 5)
    assert (pieces.total, pieces.complete) == (None, False)
    pieces.ends_here(span)
    assert (pieces.total, pieces.complete) == (5, True)


def test_the_hash_follows_the_front_and_ends_with_the_object(tmp_path: Path) -> None:
    body = os.urandom(3 * MIB + 7)
    path = tmp_path / "data"
    path.write_bytes(body)
    pieces = Pieces(len(body), ByteRanges(((2 * MIB, len(body)),)))
    with path.open("rb") as file:
        follower = Follower(file.fileno(), pieces, StopSignal())
        span = pieces.begin()
        for _ in range(2):
            pieces.advance(span, MIB)
        assert follower.digest() == hashlib.sha256(body).hexdigest()
        assert follower.at == len(body)
        assert digest_of(file.fileno(), len(body), StopSignal()).hexdigest() == follower.digest()


@pytest.mark.parametrize("ends", ["stop", "close"])
def test_the_hash_ends_when_no_more_comes(tmp_path: Path, ends: str) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(MIB))
    pieces, stop = Pieces(2 * MIB, ByteRanges.first(MIB)), StopSignal()
    with path.open("rb") as file:
        follower = Follower(file.fileno(), pieces, stop)
        if ends == "stop":
            stop.stop()
        pieces.close()
        follower.end()
    if ends == "stop":
        with pytest.raises(Stopped):
            digest_of(os.open(path, os.O_RDONLY), MIB, stop)


HAVE = ByteRanges(((0, 5), (9, 12)))


def test_a_map_is_kept_beside_the_file_and_read_again(tmp_path: Path) -> None:
    partial = tmp_path / "data"
    assert piece_map.kept(partial, "a") is None
    piece_map.keep(partial, "a", HAVE, durable=True)
    piece_map.keep(partial, "a", ByteRanges.first(7), durable=False)
    assert piece_map.kept(partial, "a") == ByteRanges(((0, 7), (9, 12)))
    assert piece_map.told(partial) == ("a", ByteRanges(((0, 7), (9, 12))))
    assert piece_map.recalled(partial, "a", ByteRanges(((20, 30),))).size == 20
    assert piece_map.kept(partial, "b") is None
    assert piece_map.recalled(partial, "b", HAVE) == HAVE
    piece_map.keep(partial, "b", ByteRanges.first(1), durable=False)
    assert piece_map.told(partial) is None, "one map is of another object"
    piece_map.forget(partial)
    assert piece_map.told(partial) is None
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_durable_counts_until_the_machine_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = tmp_path / "data"
    piece_map.keep(partial, "a", ByteRanges.first(5), durable=True)
    piece_map.keep(partial, "a", ByteRanges.first(9), durable=False)
    monkeypatch.setattr(piece_map, "boot_id", lambda: "another")
    assert piece_map.kept(partial, "a") == ByteRanges.first(5)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"object": "a"}', '{"object":"a","boot":"","ranges":[[1]]}']
)
def test_a_map_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.pieces").write_text(text)
    assert piece_map.kept(tmp_path / "data", "a") is None


def test_a_full_disk_leaves_the_map_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = tmp_path / "data"
    piece_map.keep(partial, "a", HAVE, durable=True)

    def full(fd: int, text: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", full)
    piece_map.keep(partial, "a", ByteRanges.first(99), durable=True)
    assert piece_map.kept(partial, "a") == HAVE


def test_a_host_that_refuses_bears_what_it_has_for_a_while() -> None:
    now = [0.0]
    hosts = Hosts(4, 6, clock=lambda: now[0])
    assert hosts.enter("h", extra=False)
    assert [hosts.enter("h", extra=True) for _ in range(4)] == [True, True, True, False]
    assert hosts.enter("h", extra=False), "the first of a transfer always may"
    hosts.leave("h", extra=False)
    assert hosts.enter("g", extra=True)
    assert hosts.enter("g", extra=True)
    assert not hosts.enter("i", extra=True), "as many as there may be in all"
    hosts.leave("g", extra=True)
    hosts.leave("g", extra=True)
    hosts.refused("h")
    hosts.leave("h", extra=True)
    assert not hosts.enter("h", extra=True)
    now[0] += 61
    assert hosts.enter("h", extra=True)


def test_limits_of_connections_are_lowered_and_raised_while_some_are_open() -> None:
    hosts = Hosts(8, 8)
    assert hosts.enter("h", extra=False)
    assert all(hosts.enter("h", extra=True) for _ in range(5))
    assert not hosts.has_too_many("h")
    hosts.limit(3, 8, 32)
    while hosts.has_too_many("h"):
        hosts.leave("h", extra=True)
    assert not hosts.enter("h", extra=True), "three are open"
    assert hosts.enter("g", extra=False)
    assert hosts.enter("g", extra=True)
    hosts.limit(8, 2, 32)
    assert hosts.has_too_many("h")
    hosts.leave("h", extra=True)
    hosts.leave("h", extra=True)
    assert not hosts.has_too_many("g"), "as many beside the first of each"
    hosts.limit(8, 8, 4)
    assert (hosts.most_per_file, hosts.enter("h", extra=True)) == (4, True)


class _Told:
    """Hears what a syncer tells."""

    def __init__(self) -> None:
        self.news: list[Any] = []

    def __call__(self, news: Any) -> None:
        self.news.append(news)


def _synced(told: _Told) -> Callable[[], bool]:
    return lambda: any(isinstance(news, Durable) and news.synced for news in told.news)


def test_what_is_written_becomes_durable_in_time_also_when_no_more_comes(tmp_path: Path) -> None:
    told, arrived = _Told(), threading.Event()
    pieces = Pieces(10 * MIB, ByteRanges())
    span = pieces.begin()
    fd = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT)

    def tell(news: Any) -> None:
        told(news)
        arrived.set()

    syncer = Syncer(fd, pieces, tell, 100 * MIB, 0.05)
    pieces.advance(span, 2 * MIB)
    syncer.note(pieces.size)
    assert arrived.wait(5)
    assert told.news == [Durable(ByteRanges.first(2 * MIB))]
    pieces.advance(span, MIB)
    syncer.settle()
    assert told.news[-1] == Durable(ByteRanges.first(3 * MIB))
    os.close(fd)


def test_a_sync_that_failed_is_not_repeated_and_what_it_was_to_cover_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _Told()
    pieces = Pieces(100 * MIB, ByteRanges.first(MIB))
    span = pieces.begin()
    fd = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT)
    syncer = Syncer(fd, pieces, told, 100 * MIB, 60)
    pieces.advance(span, 20 * MIB)
    syncer.note(pieces.size)
    assert told.news == [Durable(ByteRanges.first(21 * MIB), synced=False)]

    def fails(fd: int) -> None:
        raise OSError(errno.EIO, "the disk fails")

    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(OSError, match="the disk fails"):
        syncer.settle()
    monkeypatch.undo()
    assert told.news[-1] == Durable(ByteRanges.first(MIB), synced=False)
    syncer.settle()
    assert not _synced(told)()
    os.close(fd)
