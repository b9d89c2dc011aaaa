"""The run of an install that a caller pauses at any of its writes, and that goes on or ends then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from modelkeep.exceptions import QueueFullException
from modelkeep_install.domain.jobs import Stage, State
from modelkeep_install.domain.ports import DownloadState
from support.faketime import run
from support.installrun import Bench, on_bench

KINDS = ["in place", "copy", "move", "url"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_is_paused_at_any_write_and_goes_on_to_its_end(tmp_path: Path, kind: str) -> None:
    paused = 0

    async def story(at: int) -> bool:
        nonlocal paused
        bench = Bench(tmp_path / str(at), kind)
        await bench.interrupt("pause", at)
        reached = len(bench.store.writes)
        if not bench.job.state.final:
            assert (bench.job.state, bench.job.stage, bench.job.error) == (State.PAUSED, Stage.NONE, None), at
            assert bench.job.is_held
            states = [status.state for status in bench.downloads.statuses.values()]
            assert not {DownloadState.RUNNING, DownloadState.ENQUEUED} & set(states), at
            assert bench.source.read_bytes() == bench.content
            assert bench.records.made == {} or bench.job.registering
            paused += 1
            await bench.resume()
        bench.check_completed()
        assert len(bench.downloads.orders) == (kind == "url")
        return reached < at

    for at in range(1, 100):
        if run(story(at)):
            break
    assert paused >= 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_paused_job_is_cancelled_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    async def story(at: int) -> bool:
        bench = Bench(tmp_path / str(at), kind)
        await bench.interrupt("pause", at)
        if bench.job.state.final or bench.job.registering:
            return True
        bench.store.jobs[1] = replace(bench.job, cancel_requested=True)
        await bench.finish()
        assert (bench.job.state, bench.job.error) == (State.CANCELLED, None), at
        bench.check_nothing_left()
        return False

    for at in range(1, 100):
        if run(story(at)):
            break
    assert at > 3


def test_a_pause_waits_for_a_silent_download_service_and_takes_effect_when_it_answers(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.plan = [DownloadState.RUNNING]
        async with bench.started() as (installing, task):
            await bench.store.until(lambda job: bool(job.download_id))
            bench.downloads.faults.silent["pause"] = 3
            bench.pause(installing)
            await bench.store.until(lambda job: job.stage is Stage.WAITING_FOR_PEER)
            await task
        assert bench.job.is_held
        assert bench.downloads.faults.calls.count("pause") == 4
        assert bench.downloads.statuses[1].state is DownloadState.PAUSED

    on_bench(tmp_path, "url", story)


@pytest.mark.parametrize("instead", ["goes on", "is cancelled"])
def test_a_pause_that_waits_is_given_up_where_the_job(tmp_path: Path, instead: str) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.plan = [DownloadState.RUNNING]
        async with bench.started() as (installing, task):
            await bench.store.until(lambda job: bool(job.download_id))
            bench.downloads.faults.silent["pause"] = 1_000_000
            bench.pause(installing)
            await bench.store.until(lambda job: job.stage is Stage.WAITING_FOR_PEER)
            if instead == "goes on":
                bench.store.jobs[1] = replace(bench.job, pause_requested=False)
                installing.go_on("", "")
            else:
                bench.cancel(installing)
            await task
        assert not bench.job.state.final
        assert not bench.job.is_held
        bench.downloads.play(1, [DownloadState.COMPLETED])
        await bench.finish()
        if instead == "goes on":
            bench.check_completed()
        else:
            assert bench.job.state == State.CANCELLED
            bench.check_nothing_left()

    on_bench(tmp_path, "url", story)


def test_an_order_whose_answer_was_lost_is_found_and_paused(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.plan = [DownloadState.RUNNING]
        bench.downloads.faults.lost["create"] = 1
        async with bench.started(url="https://models.example/style.safetensors?token=1") as (
            installing,
            task,
        ):
            await bench.store.until(lambda job: job.stage is Stage.WAITING_FOR_PEER)
            bench.pause(installing)
            await task
            assert (installing.url, installing.access_token) == ("", "")
        assert bench.job.is_held
        assert (bench.job.download_id, len(bench.downloads.orders)) == (1, 1)
        assert bench.downloads.statuses[1].state is DownloadState.PAUSED

    on_bench(tmp_path, "url", story, has_secret=True)


def test_secrets_stay_in_memory_while_a_job_is_paused_before_it_could_order(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.faults.silent["create"] = 1_000_000
        async with bench.started(access_token="hush") as (installing, task):
            await bench.store.until(lambda job: job.stage is Stage.WAITING_FOR_PEER)
            bench.downloads.faults.silent["create"] = 0
            bench.downloads.faults.refused["create"] = QueueFullException("The queue is full.")
            bench.pause(installing)
            await task
            assert installing.access_token == "hush"
        assert bench.job.is_held
        assert (bench.job.download_id, bench.downloads.orders) == (0, {})
        assert "hush" not in repr(bench.store.writes)

    on_bench(tmp_path, "url", story, has_secret=True)


def test_a_copy_stops_in_its_middle_and_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: Bench) -> None:
        monkeypatch.setattr("modelkeep_install.files._COPY_BYTES", 4096)
        async with bench.started() as (installing, task):
            told = bench.news.append

            def pause_in_its_middle(job: object) -> None:
                told(job)  # type: ignore[arg-type]
                bench.pause(installing)

            monkeypatch.setattr("modelkeep_install.steps.place._TELL_EVERY_S", 0)
            object.__setattr__(installing.tools, "news", pause_in_its_middle)
            await task
        assert bench.job.is_held
        assert 0 < bench.job.progress.bytes_done < len(bench.content)
        assert bench.files() == []
        await bench.resume()
        bench.check_completed()

    on_bench(tmp_path, "copy", story)
