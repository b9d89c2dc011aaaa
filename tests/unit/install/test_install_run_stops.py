"""The run of an install that is cancelled, drained or killed at each of its writes, and goes on then."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modelkeep.exceptions import InvalidModelConfigException
from modelkeep_install.domain.jobs import Stage, State
from modelkeep_install.domain.ports import DownloadState
from support.faketime import now, run
from support.installrun import Bench

#: A move is stopped as a copy is, and a hub's files come as those of an address.
KINDS = [
    "in place",
    "copy",
    "url",
    *(pytest.param(kind, marks=pytest.mark.long) for kind in ("move", "hub")),
]
STOPS = ["drain", "kill before", "kill after"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_is_cancelled_at_any_write_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    async def story(at: int) -> Bench:
        bench = Bench(tmp_path / str(at), kind)
        await bench.interrupt("cancel", at)
        return bench

    for at in range(1, 100):
        bench = run(story(at))
        if bench.job.state is State.COMPLETED:
            bench.check_completed()
            break
        assert (bench.job.state, bench.job.error) == (State.CANCELLED, None), at
        bench.check_nothing_left()
    assert at == len(bench.store.writes) > 5, "only the last write comes too late"


@pytest.mark.parametrize("how", STOPS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_job_goes_on_from_any_write_and_does_nothing_twice(tmp_path: Path, kind: str, how: str) -> None:
    async def story(at: int) -> int:
        bench = Bench(tmp_path / str(at), kind)
        await bench.interrupt(how, at)
        reached = len(bench.store.writes)
        if not bench.job.state.final:
            await bench.finish()
        bench.check_completed()
        assert len(bench.downloads.orders) == (kind in ("url", "hub"))
        return reached

    for at in range(1, 100):
        if run(story(at)) < at - (how == "kill before"):
            break
    assert at > 6


@pytest.mark.parametrize("how", STOPS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_fails_keeps_its_reason_wherever_it_is_stopped(
    tmp_path: Path, kind: str, how: str
) -> None:
    refused = InvalidModelConfigException("Such a model has no such field.")

    async def story(at: int) -> int:
        bench = Bench(tmp_path / str(at), kind)
        bench.records.faults.refused["create"] = refused
        await bench.interrupt(how, at)
        reached = len(bench.store.writes)
        if not bench.job.state.final:
            await bench.finish()
        assert bench.job.error is not None
        assert (bench.job.state, bench.job.error.reason) == (State.ERROR, refused.reason), at
        assert bench.records.made == {}
        assert [path.name for path in bench.files()] == ["style.safetensors"] * (kind in ("url", "hub"))
        return reached

    for at in range(1, 100):
        if run(story(at)) < at - (how == "kill before"):
            break
    assert at > 7


@pytest.mark.parametrize("how", ["drain", "cancel"])
@pytest.mark.parametrize("peer", ["records", "downloads"])
def test_a_job_that_waits_for_a_peer_heeds_a_cancel_and_a_drain_before_the_next_try(
    tmp_path: Path, peer: str, how: str
) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, "url")
        getattr(bench, peer).faults.silent["create"] = 40
        async with bench.started() as (going, task):
            await bench.store.until(lambda job: job.stage is Stage.WAITING_FOR_PEER)
            await asyncio.sleep(20)  # tries are 2.5 seconds or more apart by now
            getattr(bench, peer).faults.silent = {}
            began = now()
            if how == "cancel":
                bench.cancel(going)
            else:
                going.stopped.set()
                task.cancel()
            await asyncio.wait({task})
            assert now() - began < 2.5  # the clock skips what a thread takes, up to the next timer
        if how == "drain":
            assert bench.job.stage is Stage.WAITING_FOR_PEER
            await bench.finish()
            bench.check_completed()
        else:
            assert bench.job.state is State.CANCELLED
            assert (bench.records.made, bench.files()) == ({}, [])

    run(story())


def test_a_cancel_that_comes_after_the_record_was_made_comes_too_late(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, "copy")
        bench.records.faults.lost["create"] = 1
        async with bench.started() as (going, task):
            await bench.store.until(lambda job: job.stage is Stage.WAITING_FOR_PEER)
            bench.records.faults.silent["get"] = 3  # whether there is one must be known
            bench.cancel(going)
            await task
        bench.check_completed()
        assert bench.records.faults.calls == ["create", "get", "get", "get", "get"]

    run(story())


def test_a_cancel_ends_a_download_whose_order_was_never_answered(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, "url")
        bench.downloads.plan = [DownloadState.RUNNING]
        bench.downloads.faults.lost["create"] = 1
        async with bench.started() as (going, task):
            await bench.store.until(lambda job: job.stage is Stage.WAITING_FOR_PEER)
            bench.cancel(going)
            await task
        assert bench.job.state is State.CANCELLED
        assert len(bench.downloads.orders) == 1
        bench.check_nothing_left()

    run(story())


def test_a_cancel_waits_until_its_download_has_ended(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, "url")
        bench.downloads.plan = []
        async with bench.started() as (going, task):
            await bench.store.until(lambda job: job.download_id > 0)
            bench.downloads.faults.silent = {"get": 2, "cancel": 2}
            bench.cancel(going)
            await task
        assert bench.job.state is State.CANCELLED
        bench.check_nothing_left()

    run(story())


def test_a_paused_job_is_cancelled_and_drained_as_any_other(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, "url", has_secret=True)
        async with bench.started() as (_, task):
            await bench.store.until(lambda job: job.state is State.PAUSED)
            task.cancel()
        assert [job.state for job in bench.store.writes][-1] is State.PAUSED
        async with bench.started() as (going, task):
            await bench.store.until(lambda job: job.attempt == 2 and job.state is State.PAUSED)
            bench.cancel(going)
            await task
        assert bench.job.state is State.CANCELLED
        bench.check_nothing_left()

    run(story())


def test_a_job_that_was_cancelled_before_a_restart_ends_as_that(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, "copy", cancel_requested=True)
        await bench.finish()
        assert bench.job.state is State.CANCELLED
        bench.check_nothing_left()

    run(story())
