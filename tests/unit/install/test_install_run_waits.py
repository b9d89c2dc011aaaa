"""An install that waits says for what, which try it was, and when the next one comes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelkeep.exceptions import QueueFullException
from modelkeep_install.domain.jobs import JobError, Stage, State
from modelkeep_install.domain.ports import DownloadState
from support.faketime import now
from support.installrun import Bench, on_bench

RUNNING = State.RUNNING


def test_why_a_download_waits_which_try_that_is_and_when_the_next_one_comes_is_told_by_the_job(
    tmp_path: Path,
) -> None:
    async def story(bench: Bench) -> None:
        busy = JobError("UNAVAILABLE", "UPSTREAM_UNAVAILABLE", "The server answers 503.", retry_time=1e9)
        tries = [(1, None), (1, busy), (2, None), (2, busy), (3, None)]
        bench.downloads.plan = []
        async with bench.started() as (_, task):
            await bench.store.until(lambda job: job.download_id > 0)
            for attempt, error in tries:
                bench.downloads.move(1, DownloadState.RUNNING, attempt=attempt, error=error)
                await asyncio.sleep(1)
            bench.downloads.play(1, [DownloadState.COMPLETED])
            await task
        bench.check_completed()
        tried = [job for job in bench.store.writes if job.stage is Stage.DOWNLOADING and job.download_attempt]
        assert [(job.download_attempt, job.error) for job in tried] == tries
        assert {job.state for job in tried} == {RUNNING}

    on_bench(tmp_path, "url", story)


def test_a_full_queue_of_downloads_makes_an_install_wait_and_does_not_fail_it(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.faults.refused["create"] = QueueFullException("It takes no more.", retry_after=2)
        async with bench.started() as (_, task):
            await bench.store.until(lambda job: job.stage is Stage.WAITING_FOR_PEER)
            assert bench.job.error is not None
            assert (bench.job.error.reason, bench.job.error.retry_time) == ("QUEUE_FULL", now() + 2)
            del bench.downloads.faults.refused["create"]
            await task
        bench.check_completed()

    on_bench(tmp_path, "url", story)


def test_an_install_that_waits_for_room_in_a_full_queue_can_be_cancelled(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.faults.refused["create"] = QueueFullException("It takes no more.")
        async with bench.started() as (going, task):
            await bench.store.until(lambda job: job.stage is Stage.WAITING_FOR_PEER)
            bench.cancel(going)
            await task
        assert bench.job.state is State.CANCELLED
        bench.check_nothing_left()

    on_bench(tmp_path, "url", story)
