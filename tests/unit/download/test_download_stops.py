"""A try that is stopped waits for no disk, and a power cut afterwards costs bytes, never their truth."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.engine import piece_map
from modelkeep_download.engine.pieces import Pieces
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.syncer import Syncer
from modelkeep_download.engine.transfer import Answered, Durable, Head, News
from support.downloadports import World

MIB = 1 << 20


def test_who_is_stopped_waits_for_no_disk_and_is_told_of_nothing_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, waiting = threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        os.fstat(fd)  # it is open still
        waiting.set()
        assert disk.wait(10)

    monkeypatch.setattr(os, "fdatasync", slow)
    told: list[News] = []
    fd = os.open(tmp_path / "partial", os.O_RDWR | os.O_CREAT)
    pieces = Pieces(4 * MIB, ByteRanges())
    syncer = Syncer(fd, pieces, told.append, MIB, 60.0)
    span = pieces.begin()
    pieces.advance(span, 2 * MIB)
    syncer.note(2 * MIB)
    assert waiting.wait(10)
    syncer.leave()
    assert syncer._thread is not None
    assert syncer._thread.is_alive(), "the disk has not answered"
    os.close(fd)
    assert told == [Durable(ByteRanges.first(2 * MIB), synced=False)]
    disk.set()
    syncer._thread.join(10)
    assert len(told) == 1


async def attempt_with(world: World, folder: Path, **fields: Any) -> Any:
    """The try of a job whose source has answered."""
    await world.add(1, **fields)
    attempt = world.tries.running[1]
    attempt.staged_in(folder)
    attempt.hear(Answered(Head(100, '"v1"', "", "http://h/m.bin", ""), ByteRanges()))
    return attempt


@pytest.mark.may_block
async def test_what_was_written_before_a_stop_counts_until_the_machine_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    attempt = await attempt_with(world, tmp_path)
    attempt.hear(Durable(ByteRanges.first(40)))
    attempt.hear(Durable(ByteRanges.first(60), synced=False))
    assert attempt.job.have.size == 40
    attempt.stop.stop()
    attempt.hear(Durable(ByteRanges.first(80), synced=False))
    world.tries.obey()
    await world.settle()
    row = world.jobs.rows[1]
    assert row.have.size == 80
    (again,) = [world.tries.running[1]]  # nobody paused it: it goes on at once
    again.recall()
    assert again.job.have.size == 80
    monkeypatch.setattr(piece_map, "boot_id", lambda: "another start")
    again.recall()
    assert again.job.have.size == 40


@pytest.mark.may_block
async def test_a_row_without_a_map_tells_until_the_machine_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    attempt = await attempt_with(world, tmp_path)
    attempt.stop.stop()
    attempt.hear(Durable(ByteRanges.first(60), synced=False))
    piece_map.forget(attempt.partial)
    attempt.recall()
    assert attempt.job.have.size == 60
    monkeypatch.setattr(piece_map, "boot_id", lambda: "another start")
    attempt.recall()
    assert attempt.job.have.size == 0
    attempt.job = replace(attempt.job, have=ByteRanges.first(30), boot="")
    attempt.recall()
    assert attempt.job.have.size == 30


def test_a_stop_signal_tells_its_branches() -> None:
    stop = StopSignal()
    branch = stop.branch()
    stop.stop()
    assert branch.is_set
    assert stop.branch().is_set
