"""Files whose parts go straight to a device: each to its place, past the page cache, with their digests."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import random
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from blake3 import blake3

from modelkeep.devices import hostmemory, pieces
from modelkeep.devices.driver import DeviceFailedError
from modelkeep.devices.simulated import Fault
from modelkeep_devices import files
from modelkeep_devices.files import Segment, Source
from modelkeep_devices.wire import SourceError
from modelkeep_loader.accelerators import Accelerators, SourceOf
from modelkeep_loader.deviceprocess import Patience
from support.devices import MIB, Faults
from support.waiting import until, wait_until

pytestmark = pytest.mark.timeout(60)

SIZE = 40 * MIB + 5  # more pieces than the ring has parts of, and no whole page at the end
ROOM = 42 * MIB


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    return Faults(tmp_path / "faults.json")


@pytest_asyncio.fixture
async def accelerators(faults: Faults) -> AsyncIterator[Accelerators]:
    found = Accelerators(faults.spec("1x64MiB"), patience=Patience(answer_s=30.0))
    await found.open()
    yield found
    await found.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of random bytes."""
    path = tmp_path / "weights"
    path.write_bytes(random.Random(7).randbytes(SIZE))
    return path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def shuffled(seed: int = 3) -> list[Segment]:
    """The whole file in parts of odd sizes, in another order, behind a beginning of another source."""
    luck = random.Random(seed)
    cuts = sorted({0, SIZE, *(luck.randrange(SIZE) for _ in range(200))})
    parts = list(itertools.pairwise(cuts))
    luck.shuffle(parts)
    segments, target = [Segment(0, 0, 1000, 0)], 1000
    for begin, end in parts:
        segments.append(Segment(1, begin, end - begin, target))
        target += end - begin
    luck.shuffle(segments)
    return segments


def expected(head: bytes, source: bytes, segments: list[Segment]) -> bytes:
    made = bytearray(1000 + SIZE)
    for number, begin, size, target in segments:
        made[target : target + size] = (head, source)[number][begin : begin + size]
    return bytes(made)


async def gathered(
    accelerators: Accelerators, path: Path, target: int, told: list[int], segments: list[Segment]
) -> list[str]:
    head = os.memfd_create("head")
    os.write(head, bytes(range(250)) * 4)
    with opened(path) as descriptor:
        try:
            sources = [SourceOf(head), SourceOf(descriptor, digest=True, cached=False)]
            return await accelerators.gather("sim:0", target, sources, segments, 1000 + SIZE, told.append)
        finally:
            os.close(head)


async def test_each_part_comes_to_its_place_and_the_digest_is_of_what_was_read(
    accelerators: Accelerators, source: Path
) -> None:
    segments, told = shuffled(), list[int]()
    target = await accelerators.create("sim:0", ROOM)
    digests = await gathered(accelerators, source, target, told, segments)
    data = source.read_bytes()
    assert digests == ["", blake3(data).hexdigest()]
    assert os.pread(target, 1000 + SIZE, 0) == expected(bytes(range(250)) * 4, data, segments)
    assert told == sorted(told)
    os.close(target)


async def test_a_file_that_ends_early_is_the_files_fault_and_the_copier_goes_on(
    accelerators: Accelerators, source: Path
) -> None:
    target = await accelerators.create("sim:0", ROOM)
    os.truncate(source, SIZE - 30 * MIB)
    with pytest.raises(SourceError, match="it ends at byte 10,"):
        await gathered(accelerators, source, target, [], shuffled())
    copier = accelerators._copiers["sim:0"].pid
    source.write_bytes(random.Random(8).randbytes(SIZE))
    await gathered(accelerators, source, target, [], shuffled())
    assert accelerators._copiers["sim:0"].pid == copier
    os.close(target)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_copier_that_is_struck_while_it_reads_costs_what_it_was_filling(
    faults: Faults, source: Path, blow: signal.Signals
) -> None:
    accelerators = Accelerators(faults.spec("1x64MiB"), patience=Patience(answer_s=1.0))
    await accelerators.open()
    try:
        target = await accelerators.create("sim:0", ROOM)
        faults.set("sim:0", Fault(slow_s=0.4))
        told: list[int] = []
        work = asyncio.create_task(gathered(accelerators, source, target, told, shuffled()))
        await until(lambda: told)
        os.kill(accelerators._copiers["sim:0"].pid, blow)
        with pytest.raises(DeviceFailedError, match="try again"):
            await work
        faults.clear()
        segments = shuffled()
        await gathered(accelerators, source, target, told, segments)
        data = source.read_bytes()
        assert os.pread(target, 1000 + SIZE, 0) == expected(bytes(range(250)) * 4, data, segments)
        os.close(target)
    finally:
        await accelerators.close()


def read_all(source: Source, segments: list[Segment]) -> tuple[str, bytes]:
    """The digest, and the bytes of one segment, by way of pieces as a driver takes them."""
    made = bytearray(sum(segment.size_bytes for segment in segments))
    ring = hostmemory.allocate(2 * pieces.PIECE_BYTES)
    slots = [ring, ring + pieces.PIECE_BYTES]

    def copy(piece: pieces.Piece, slot: int) -> None:
        for run in piece.runs:
            there = hostmemory.view(slots[slot] + run.begin, run.size_bytes)
            made[run.target : run.target + run.size_bytes] = there

    pieces.stream(files.pieces([source], segments), slots, copy, lambda slot: None, lambda done: None)
    hostmemory.unmap(ring, 2 * pieces.PIECE_BYTES)
    return source.digest.hexdigest() if source.digest is not None else "", bytes(made)


@pytest.mark.parametrize("way", ["direct", "buffered", "cached"])
def test_a_file_is_the_same_whichever_way_it_is_read(
    source: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "buffered":
        monkeypatch.setattr(files, "_set_direct", lambda descriptor, *, on: False)
    data = source.read_bytes()
    with opened(source) as descriptor:
        read = Source(descriptor, digest=True, cached=way == "cached")
        if way != "direct":
            assert not read.is_direct
        segments = [Segment(0, 4099, SIZE - 5000, 0)]
        digest, made = read_all(read, segments)
    assert digest == blake3(data).hexdigest()
    assert made == data[4099 : SIZE - 901]


def test_what_is_not_wanted_of_a_file_is_not_read_where_no_digest_is(source: Path) -> None:
    begins = []
    with opened(source) as descriptor:
        read = Source(descriptor, cached=True)
        found = list(files.pieces([read], [Segment(0, 20 * MIB + 1, 10, 0), Segment(0, 0, 0, 10)]))
        begins = [(piece.copied_bytes, piece.read.args[:2]) for piece in found]  # type: ignore[attr-defined]
    assert begins == [(10, (20 * MIB, 11))]


def test_a_file_system_that_means_no_o_direct_is_read_all_the_same(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, both, refused = os.preadv, threading.Barrier(2, timeout=30), list[int]()

    def preadv(descriptor: int, buffers: list[memoryview], position: int) -> int:
        if position not in (0, pieces.PIECE_BYTES) or position in refused:
            return real(descriptor, buffers, position)
        refused.append(position)
        both.wait()  # two threads read at once, both past the page cache
        if position:
            wait_until(lambda: not read.is_direct, "the other thread has gone on without the flag")
        raise OSError(errno.EINVAL, "Invalid argument")

    with opened(source) as descriptor:
        read = Source(descriptor, digest=True)
        if not read.is_direct:
            assert "CI" not in os.environ, "nothing takes O_DIRECT here"
            pytest.skip("the file system of the tests takes no O_DIRECT")
        monkeypatch.setattr(os, "preadv", preadv)
        digest, _ = read_all(read, [Segment(0, 0, SIZE, 0)])
        assert not read.is_direct
    assert digest == blake3(source.read_bytes()).hexdigest()
