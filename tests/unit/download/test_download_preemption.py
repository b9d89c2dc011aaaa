"""Who makes room for whom, in the scheduler by itself; see `test_download_queue.py` for the rule alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import DiskFullException
from modelkeep_download.domain.job import Job, JobState, Stage
from modelkeep_download.domain.limits import Limits
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.domain.transitions import at_stage, to_cancel, to_pause, to_start, to_update
from support.downloadports import World

BUSY = TransientError("503")
HAVE: dict[str, Any] = {"have": ByteRanges.first(5), "bytes_total": 9, "validator": '"v1"'}


@pytest.fixture
async def narrow(tmp_path: Path) -> World:
    return World(tmp_path, max_parallel_downloads=1)


async def obeyed(world: World) -> list[int]:
    """Those who were told to make room, and have."""
    told = world.tries.obey()
    await world.settle()
    return told


def running(world: World) -> list[int]:
    """Ids of the jobs that run."""
    return sorted(world.tries.running)


async def test_a_better_job_takes_the_slot_of_the_worst_which_keeps_its_bytes_and_its_place(
    narrow: World,
) -> None:
    await narrow.add(1, **HAVE)
    await narrow.add(2)
    await narrow.add(3, priority=1)
    assert narrow.tries.began == [1]
    assert await obeyed(narrow) == [1]
    job = narrow.jobs.rows[1]
    assert (job.state, job.stage, job.have, job.enqueue_order) == (
        JobState.ENQUEUED,
        Stage.NONE,
        ByteRanges.first(5),
        1,
    )
    await narrow.end(3)
    assert narrow.tries.began == [1, 3, 1]  # before the second, as it came before it
    await narrow.end(1)
    assert running(narrow) == [2]


async def test_a_job_that_runs_makes_room_when_another_gets_better_or_it_gets_worse(narrow: World) -> None:
    await narrow.add(1, 2)
    await narrow.call(2, lambda job: to_update(job, priority=9))
    assert await obeyed(narrow) == [1]
    await narrow.call(2, lambda job: to_update(job, priority=11))
    assert await obeyed(narrow) == [2]
    assert running(narrow) == [1]


async def test_a_job_that_is_being_delivered_is_let_finish(narrow: World) -> None:
    await narrow.add(1)
    await narrow.scheduler._change(1, lambda job: at_stage(job, Stage.VERIFYING))
    await narrow.add(2, priority=1)
    assert await obeyed(narrow) == []
    assert (await narrow.end(1)).state is JobState.COMPLETED
    assert running(narrow) == [2]


async def test_a_job_that_waits_for_a_retry_takes_its_slot_from_a_worse_one_when_it_is_due(
    narrow: World,
) -> None:
    await narrow.add(1)
    await narrow.end(1, BUSY)
    await narrow.add(2, priority=20)
    assert running(narrow) == [2]
    assert await obeyed(narrow) == []
    await narrow.wait(10)
    assert await obeyed(narrow) == [2]
    assert running(narrow) == [1]


@pytest.mark.parametrize(
    ("transition", "state"), [(to_pause, JobState.PAUSED), (to_cancel, JobState.CANCELLED)]
)
async def test_a_job_that_is_paused_or_cancelled_while_it_makes_room_is_that(
    narrow: World, transition: Callable[[Job], Job], state: JobState
) -> None:
    await narrow.add(1)
    await narrow.add(2, priority=1)
    await narrow.call(1, transition)
    assert await obeyed(narrow) == [1]
    assert narrow.jobs.rows[1].state is state
    await narrow.end(2)
    assert running(narrow) == []


async def test_a_better_job_that_goes_again_leaves_the_slot_to_the_one_that_gave_it_up(narrow: World) -> None:
    await narrow.add(1)
    await narrow.add(2, priority=1)
    await narrow.call(2, to_cancel)
    assert await obeyed(narrow) == [1]
    assert running(narrow) == [1]


async def test_fewer_slots_put_the_worst_back_and_more_begin_with_the_best(tmp_path: Path) -> None:
    world = World(tmp_path, max_parallel_downloads=3)
    for job_id, priority in ((1, 10), (2, 30), (3, 20), (4, 40)):
        await world.add(job_id, priority=priority)
    world.scheduler.limit(Limits(max_parallel_downloads=1))
    assert await obeyed(world) == [2, 3]
    assert running(world) == [1]
    world.scheduler.limit(Limits(max_parallel_downloads=2))
    await world.settle()
    assert running(world) == [1, 3]
    world.scheduler.limit(Limits())  # as the setting says
    await world.settle()
    assert running(world) == [1, 2, 3]


async def test_a_queue_keeps_to_its_own_number_and_leaves_the_rest_to_others(tmp_path: Path) -> None:
    world = World(tmp_path, max_parallel_downloads=3)
    narrow = Limits(queues={"narrow": 1})
    world.scheduler.limit(narrow)
    spec = world.row(1).spec
    await world.add(1, 2, 3, spec=replace(spec, queue="narrow"))
    await world.add(4, 5, 6)
    assert running(world) == [1, 4, 5]
    await world.end(1)
    assert running(world) == [2, 4, 5]
    world.scheduler.limit(replace(narrow, queues={}))
    assert await obeyed(world) == []  # equals are not interrupted
    await world.end(4)
    assert running(world) == [2, 3, 5]


async def test_rates_count_for_tries_that_run_already(tmp_path: Path) -> None:
    world = World(tmp_path, max_bytes_per_second=1 << 20)
    await world.add(1, max_bytes_per_second=100 << 10)
    limit = world.tries.running[1].bandwidth
    assert (limit.rate, limit.chunk()) == (100 << 10, (100 << 10) // 20)
    await world.call(1, lambda job: to_update(job, max_bytes_per_second=0))
    assert limit.chunk() == (1 << 20) // 20
    world.scheduler.limit(Limits(max_bytes_per_second=200 << 10))
    assert limit.chunk() == (200 << 10) // 20
    world.scheduler.limit(Limits(max_bytes_per_second=0))
    assert limit.chunk() == 1 << 20


# A full disk.


async def full(world: World, job_id: int, **fields: Any) -> None:
    """Let a job pause since its disk is full."""
    await world.add(job_id, **{**HAVE, "staging": f"/s/download-{job_id}", **fields})
    await world.end(job_id, DiskFullException("full"))
    assert world.jobs.rows[job_id].awaits_room


async def test_a_job_goes_on_by_itself_as_soon_as_a_look_finds_room(narrow: World) -> None:
    await full(narrow, 1)
    for longest in (10, 20, 40, 60, 60):
        (wait,) = narrow.clock.waits
        assert longest / 2 <= wait <= longest
        await narrow.wait(wait)
        assert running(narrow) == []
    narrow.tries.free = 4
    (wait,) = narrow.clock.waits
    await narrow.wait(wait)
    assert (running(narrow), narrow.clock.waits) == ([1], [])
    assert narrow.jobs.rows[1].have.size == 5


async def test_room_that_is_not_enough_for_all_goes_to_the_best(tmp_path: Path) -> None:
    world = World(tmp_path)
    await full(world, 1)
    await full(world, 2, priority=1)
    world.tries.free = 7
    await world.wait(20)
    assert running(world) == [2]


async def test_a_pause_by_a_caller_is_never_undone(narrow: World) -> None:
    await full(narrow, 1)
    job = await narrow.call(1, to_pause)
    assert (job.state, job.failure) == (JobState.PAUSED, None)
    await narrow.add(2, **HAVE, staging="/s/download-2")
    await narrow.call(2, to_pause)
    job = await narrow.end(2, DiskFullException("full"))  # as it was being paused
    assert (job.state, job.failure) == (JobState.PAUSED, None)
    narrow.tries.free = 100
    await narrow.wait(1000)
    assert running(narrow) == []
    await narrow.call(1, lambda job: to_start(job, 7))
    assert running(narrow) == [1]


async def test_a_process_goes_on_with_what_an_earlier_one_paused_for_want_of_room(tmp_path: Path) -> None:
    world = World(tmp_path)
    await full(world, 1)
    later = World(tmp_path)
    later.jobs.rows = world.jobs.rows
    later.tries.free = 100
    await later.scheduler.open()
    await later.wait(10)
    assert running(later) == [1]
    assert later.clock.waits == []


# Progress.


@pytest.mark.may_block
async def test_progress_is_never_older_than_what_the_row_says(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.add(1, **HAVE)
    attempt, gate = world.tries.running[1], asyncio.Event()

    async def written_but_not_yet_heard_of(job_id: int, transition: Callable[[Job], Job], **_: Any) -> Job:
        job = await type(world.jobs).change(world.jobs, job_id, transition)
        world.scheduler.writes(job)
        await gate.wait()
        return job

    world.jobs.change = written_but_not_yet_heard_of  # type: ignore[method-assign]
    change = asyncio.ensure_future(world.scheduler._change(1, lambda job: to_update(job, priority=3)))
    await world.settle()
    attempt.meter.advance(6)
    attempt._moved()
    await world.settle()
    assert world.progress == []
    gate.set()
    await change
    attempt._moved()
    await world.settle()
    (job,) = world.progress
    assert (job.revision, job.priority, job.bytes_done) == (world.jobs.rows[1].revision, 3, 6)
