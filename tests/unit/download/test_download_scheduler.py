"""The scheduler by itself: rows in memory, tries that a test ends, and time that a test lets pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import (
    ChecksumMismatchException,
    DiskFullException,
    ModelkeepError,
    SourceNotFoundException,
)
from modelkeep_download.domain.job import Job, JobState, SecretKind, Stage
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.retry import StartOver, TransientError
from modelkeep_download.domain.transitions import (
    to_cancel,
    to_pause,
    to_start,
    to_update,
)
from modelkeep_download.engine import piece_map
from modelkeep_download.engine.stops import Stopped
from modelkeep_download.engine.transfer import Answered, Credentials, Durable, Head, Restarted, Written
from support.downloadports import World

BUSY = TransientError("503")
HAVE: dict[str, Any] = {"have": ByteRanges.first(5), "bytes_total": 9, "validator": '"v1"'}


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path, max_parallel_downloads=2)


@pytest.fixture
async def narrow(tmp_path: Path) -> World:
    return World(tmp_path, max_parallel_downloads=1)


def reason(job: Job) -> str:
    """Why a job failed or waits."""
    return job.failure.reason if job.failure else ""


# Order.


async def test_as_many_run_as_may_and_the_next_begins_when_one_ends(world: World) -> None:
    await world.add(1, 2, 3)
    assert world.tries.began == [1, 2]
    assert world.jobs.rows[3].state is JobState.ENQUEUED
    assert (await world.end(2)).state is JobState.COMPLETED
    assert world.tries.began == [1, 2, 3]


async def test_the_lowest_priority_runs_first_and_equals_in_the_order_they_came(narrow: World) -> None:
    await narrow.add(1)
    for job_id, priority in ((2, 10), (3, 5), (4, 10), (5, 5)):
        narrow.scheduler.poke(narrow.row(job_id, priority=priority))
    for job_id in (1, 3, 5, 2, 4):
        assert narrow.tries.began[-1] == job_id
        await narrow.end(job_id)
    assert [narrow.jobs.rows[job_id].job_sequence for job_id in (1, 3, 5, 2, 4)] == [1, 2, 3, 4, 5]


async def test_a_job_that_gets_another_priority_in_the_queue_takes_its_turn_by_it(narrow: World) -> None:
    await narrow.add(1, 2, 3)
    await narrow.call(3, lambda job: to_update(job, priority=1, preserve_partial=None))
    await narrow.end(1)
    assert narrow.tries.began == [1, 3]


async def test_a_job_that_waits_for_a_retry_leaves_its_slot_to_others(narrow: World) -> None:
    await narrow.add(1, 2)
    await narrow.end(1, BUSY)
    assert list(narrow.tries.running) == [2]
    await narrow.wait(10)
    assert list(narrow.tries.running) == [2]  # it is due, and waits for its turn
    await narrow.end(2)
    assert list(narrow.tries.running) == [1]
    assert narrow.jobs.rows[1].attempt == 2


# Retries.


async def test_waits_double_with_each_try_that_gains_nothing_until_the_job_fails(tmp_path: Path) -> None:
    world = World(tmp_path, max_attempts=5)
    await world.add(1)
    for longest in (10, 20, 40, 60):
        job = await world.end(1, BUSY)
        assert (job.state, job.stage, reason(job)) == (
            JobState.RUNNING,
            Stage.WAITING,
            "UPSTREAM_UNAVAILABLE",
        )
        (wait,) = world.clock.waits
        assert longest / 2 <= wait <= longest
        assert job.failure is not None
        assert job.failure.retry_time == world.clock.now + wait
        await world.wait(wait - 0.001)
        assert not world.tries.running
        await world.wait(0.001)
        assert list(world.tries.running) == [1]
    job = await world.end(1, BUSY)
    assert (job.state, reason(job), job.attempt) == (JobState.ERROR, "UPSTREAM_UNAVAILABLE", 5)
    assert job.failure is not None
    assert job.failure.metadata["attempts"] == "5"
    assert job.end_time == world.clock.now


@pytest.mark.parametrize(("asked", "waited"), [(120.0, 120.0), (1e6, 600.0), (0.0, None)])
async def test_a_source_is_given_the_time_that_it_asks_for_within_bounds(
    world: World, asked: float, waited: float | None
) -> None:
    await world.add(1)
    await world.end(1, TransientError("429", retry_after=asked))
    (wait,) = world.clock.waits
    assert 5 <= wait <= 10 if waited is None else wait == waited


async def test_a_try_that_brought_bytes_begins_the_waits_anew(world: World) -> None:
    await world.add(1)
    for reached in (0, 0, 100, 100, 200):
        world.tries.running[1].reached = reached
        await world.end(1, BUSY)
        (wait,) = world.clock.waits
        await world.wait(wait)
    # Two that gained nothing, one that gained, one that did not, one that did.
    await world.end(1, BUSY)
    (wait,) = world.clock.waits
    assert 10 <= wait <= 20


async def test_what_cannot_work_is_not_tried_again(world: World) -> None:
    await world.add(1)
    job = await world.end(1, SourceNotFoundException("404"))
    assert (job.state, reason(job), world.clock.waits) == (JobState.ERROR, "SOURCE_NOT_FOUND", [])


async def test_an_object_that_changes_twice_fails_the_job(world: World) -> None:
    await world.add(1, **HAVE)
    job = await world.end(1, StartOver("another one", changed=True))
    assert (job.stage, job.have, job.restarts) == (Stage.WAITING, ByteRanges(), 1)
    await world.wait(10)
    job = await world.end(1, StartOver("another one", changed=True))
    assert (job.state, reason(job)) == (JobState.ERROR, "SOURCE_CHANGED")


# Pause and cancel, at every step.


async def connecting(world: World) -> None:
    await world.add(1, **HAVE, staging="/s/download-1")


async def enqueued(world: World) -> None:
    await world.add(2, 3)
    await connecting(world)
    assert 1 not in world.tries.running


async def waiting(world: World) -> None:
    await connecting(world)
    await world.end(1, BUSY)


async def due(world: World) -> None:
    """Its wait is over, and others have the slots."""
    await waiting(world)
    await world.add(2, 3)
    await world.wait(10)
    assert 1 not in world.tries.running


async def paused(world: World) -> None:
    await waiting(world)
    await world.call(1, to_pause)


STEPS = [connecting, enqueued, waiting, due, paused]
Step = Callable[[World], Any]


@pytest.mark.parametrize("step", STEPS)
async def test_a_pause_keeps_what_is_there_and_the_job_stays_where_it_is(world: World, step: Step) -> None:
    await step(world)
    job = await world.call(1, to_pause)
    if step is connecting:
        assert job.stage is Stage.PAUSING
        assert world.tries.obey() == [1]
        await world.settle()
        job = world.jobs.rows[1]
    assert (job.state, job.stage, job.bytes_done) == (JobState.PAUSED, Stage.NONE, 5)
    assert world.clock.waits == []
    others = [job_id for job_id in (2, 3) if job_id in world.tries.running]
    for job_id in others:
        await world.end(job_id)
    await world.wait(1000)
    assert 1 not in world.tries.running
    assert world.tries.discarded == []
    await world.call(1, lambda job: to_start(job, 7))
    assert list(world.tries.running) == [1]


@pytest.mark.parametrize("step", STEPS)
async def test_a_cancel_leaves_nothing_behind(world: World, step: Step) -> None:
    await step(world)
    job = await world.call(1, to_cancel)
    if step is connecting:
        assert job.stage is Stage.CANCELLING
        assert world.tries.discarded == []  # its thread still writes there
        world.tries.obey()
        await world.settle()
        job = world.jobs.rows[1]
    assert (job.state, job.stage, job.staging) == (JobState.CANCELLED, Stage.NONE, "")
    assert world.clock.waits == []
    assert job.end_time == world.clock.now
    assert world.tries.discarded == ["/s/download-1"]
    await world.wait(1000)
    assert 1 not in world.tries.running


async def test_a_job_started_again_while_it_stops_goes_back_into_the_queue(world: World) -> None:
    await connecting(world)
    await world.call(1, to_pause)
    await world.call(1, lambda job: to_start(job, 7))
    assert world.tries.obey() == [1]
    await world.settle()
    assert (list(world.tries.running), world.jobs.rows[1].stage) == ([1], Stage.CONNECTING)


async def test_a_cancel_that_comes_as_the_try_fails_wins(world: World) -> None:
    await connecting(world)
    await world.call(1, to_cancel)
    job = await world.end(1, BUSY)
    assert (job.state, world.clock.waits) == (JobState.CANCELLED, [])
    assert world.tries.discarded == ["/s/download-1"]


async def test_a_job_that_ends_gives_up_its_secrets(world: World) -> None:
    for job_id in (1, 2):
        world.scheduler.credentials[job_id] = Credentials("http://h/m.bin", token="t")
    await world.add(1, 2, secret=SecretKind.ACCESS_TOKEN)
    await world.end(1)
    await world.end(2, BUSY)
    assert list(world.scheduler.credentials) == [2]


# What stays of a job that failed.


@pytest.mark.parametrize(
    ("preserved", "validator", "error", "kept"),
    [
        (True, '"v1"', SourceNotFoundException("404"), True),
        (False, '"v1"', SourceNotFoundException("404"), False),
        (True, "", SourceNotFoundException("404"), False),
        (False, "", ChecksumMismatchException("wrong", metadata={"quarantined_path": "/q"}), True),
    ],
)
async def test_after_an_error_only_what_can_be_used_stays(
    world: World, preserved: bool, validator: str, error: ModelkeepError, kept: bool
) -> None:
    fields = {**HAVE, "validator": validator, "preserve_partial": preserved, "staging": "/s/download-1"}
    await world.add(1, **fields)
    job = await world.end(1, error)
    assert job.state is JobState.ERROR
    assert (job.staging, world.tries.discarded) == (
        ("/s/download-1", []) if kept else ("", ["/s/download-1"])
    )


# A full disk.


async def test_without_room_a_job_that_can_go_on_later_pauses_with_its_bytes(world: World) -> None:
    await world.add(1, **HAVE, staging="/s/download-1")
    await world.add(2, staging="/s/download-2")
    job = await world.end(1, DiskFullException("full"))
    assert (job.state, reason(job), job.bytes_done) == (JobState.PAUSED, "DISK_FULL", 5)
    job = await world.end(2, DiskFullException("full"))
    assert (job.state, reason(job)) == (JobState.ERROR, "DISK_FULL")
    assert world.tries.discarded == ["/s/download-2"]


async def test_a_delivery_that_cannot_be_recorded_is_recorded_when_there_is_room(world: World) -> None:
    await world.add(1)
    world.jobs.full = True
    world.tries.delivered = {1}
    assert (await world.end(1)).state is JobState.RUNNING
    await world.wait(5)
    assert world.jobs.rows[1].state is JobState.RUNNING
    world.jobs.full = False
    await world.wait(5)
    assert (world.jobs.rows[1].state, world.tries.began) == (JobState.COMPLETED, [1])


async def test_a_try_whose_end_cannot_be_recorded_runs_again_when_there_is_room(world: World) -> None:
    await world.add(1)
    world.jobs.full = True
    await world.end(1, BUSY)
    world.jobs.full = False
    await world.wait(5)
    assert world.tries.began == [1, 1]


async def test_a_slot_is_not_lost_to_a_job_whose_row_cannot_be_written(narrow: World) -> None:
    await narrow.add(1)
    narrow.row(2)
    narrow.jobs.full = True
    await narrow.end(1)
    narrow.jobs.full = False
    await narrow.add(2)
    assert list(narrow.tries.running) == [2]


# Beginning and end of the process.


async def test_the_jobs_of_an_earlier_process_are_gone_on_with(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.row(1, JobState.RUNNING, stage=Stage.WAITING)
    world.row(2, JobState.RUNNING, stage=Stage.PAUSING)
    world.row(3, JobState.RUNNING, stage=Stage.CANCELLING, staging="/s/download-3")
    world.row(4, JobState.RUNNING, stage=Stage.VERIFYING)
    world.row(5, JobState.RUNNING, secret=SecretKind.ACCESS_TOKEN)
    world.row(6, JobState.ERROR, staging="/s/download-6")
    world.row(7, JobState.IDLE)
    world.tries.delivered = {4}
    await world.scheduler.open()
    await world.settle()
    assert world.tries.swept == [{"/s/download-3", "/s/download-6"}]
    states = {job_id: job.state.value for job_id, job in world.jobs.rows.items()}
    assert states == {
        **{1: "running", 2: "paused", 3: "cancelled", 4: "completed", 5: "paused", 6: "error", 7: "idle"}
    }
    assert reason(world.jobs.rows[5]) == "TOKEN_REQUIRED"
    assert (list(world.tries.running), world.tries.discarded) == ([1], ["/s/download-3"])


async def test_with_a_full_disk_a_process_begins_and_takes_its_jobs_over_later(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.row(1, JobState.RUNNING)
    world.jobs.full = True
    await world.scheduler.open()
    await world.settle()
    assert not world.tries.running
    world.jobs.full = False
    await world.wait(5)
    assert list(world.tries.running) == [1]


async def test_a_drain_stops_every_try_and_leaves_the_rows_to_the_next_process(world: World) -> None:
    await world.add(1, 2, 3)
    await world.end(2, BUSY)
    before = dict(world.jobs.rows)
    draining = asyncio.ensure_future(world.scheduler.drain())
    await world.settle()
    assert not draining.done()
    assert sorted(world.tries.obey()) == [1, 3]
    await draining
    assert world.tries.closed
    assert world.jobs.rows == before
    assert world.clock.waits == []
    world.scheduler.poke(world.row(4))
    await world.settle()
    assert not world.tries.running


async def test_what_fails_as_the_process_drains_is_left_to_the_next(world: World) -> None:
    await world.add(1)
    draining = asyncio.ensure_future(world.scheduler.drain())
    await world.settle()
    await world.end(1, BUSY)
    await draining
    assert (world.jobs.rows[1].state, world.clock.waits) == (JobState.RUNNING, [])


# News; where the room is looked at, as a try's thread does, the loop waits for the file system.


@pytest.mark.may_block
async def test_what_a_transfer_tells_is_in_the_row_or_in_the_live_job(world: World, tmp_path: Path) -> None:
    await world.add(1)
    attempt = world.tries.running[1]
    attempt.staged_in(tmp_path)
    attempt.hear(Answered(Head(100, '"v1"', "other.bin", "http://cdn/m.bin", "a/b"), ByteRanges()))
    row = world.jobs.rows[1]
    assert (row.stage, row.bytes_total, row.staging) == (Stage.TRANSFERRING, 100, str(tmp_path))
    assert (row.name, row.validator, row.final_url) == ("1.bin", '"v1"', "http://cdn/m.bin")
    attempt.hear(Written(60))
    assert world.jobs.rows[1].bytes_done == 0
    assert world.scheduler.live(world.jobs.rows[1]).bytes_done == 60
    pieces = ByteRanges(((0, 20), (40, 60)))
    attempt.hear(Durable(pieces))
    assert piece_map.kept(attempt.partial, attempt.job.object_id) == pieces
    assert world.jobs.rows[1].have == pieces
    assert attempt.noted(world.jobs.rows[1]).have == pieces
    assert world.scheduler.live(world.jobs.rows[1]).bytes_done == 60
    job = await world.end(1, BUSY)
    assert (job.have, job.bytes_done) == (pieces, 40)
    await world.wait(10)
    attempt = world.tries.running[1]
    assert attempt.job.have == pieces
    attempt.hear(Restarted("the source cannot resume", changed=False))
    row = world.scheduler.live(world.jobs.rows[1])
    assert (row.have, row.bytes_done, row.restarts) == (ByteRanges(), 0, 1)


@pytest.mark.may_block
async def test_a_pause_outlives_what_its_transfer_still_tells(world: World, tmp_path: Path) -> None:
    await world.add(1)
    attempt = world.tries.running[1]
    attempt.staged_in(tmp_path)
    await world.call(1, to_pause)
    attempt.hear(Answered(Head(100, '"v1"', "", "", ""), ByteRanges()))
    assert world.jobs.rows[1].stage is Stage.PAUSING
    world.tries.obey()
    await world.settle()
    assert world.jobs.rows[1].state is JobState.PAUSED


@pytest.mark.may_block
async def test_running_jobs_leave_room_for_each_other(world: World, tmp_path: Path) -> None:
    await world.add(1, 2)
    first, second = world.tries.running[1], world.tries.running[2]
    for attempt in (first, second):
        attempt.staged_in(tmp_path)
    first.measured(1 << 61, room=False)
    one_byte = Answered(Head(1, "", "", "", ""), ByteRanges())
    with pytest.raises(DiskFullException):
        second.hear(one_byte)
    first.hear(Written(1 << 61))
    second.hear(one_byte)


@pytest.mark.may_block
async def test_a_cancelled_job_takes_no_news(world: World, tmp_path: Path) -> None:
    await world.add(1)
    attempt = world.tries.running[1]
    attempt.staged_in(tmp_path)
    world.jobs.rows[1] = replace(world.jobs.rows[1], state=JobState.CANCELLED)
    with pytest.raises(Stopped):
        attempt.hear(Answered(Head(100, "", "", "", ""), ByteRanges()))
