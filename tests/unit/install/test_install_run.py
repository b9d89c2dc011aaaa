"""The run of an install, step by step, with its peers in memory and a clock that skips."""

from __future__ import annotations

import asyncio
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from modelkeep.exceptions import (
    DuplicateModelException,
    InvalidModelConfigException,
    ModelkeepError,
    NotFoundException,
)
from modelkeep_install.domain.jobs import Job, JobError, Progress, Stage, State
from modelkeep_install.domain.ports import DownloadState
from modelkeep_install.steps import COPIED, FETCHED, IN_PLACE, PLANNED
from support.faketime import now
from support.installrun import KEY, URL, Bench, on_bench

KINDS = ["in place", "copy", "url", "hub"]
RUNNING, PAUSED = State.RUNNING, State.PAUSED


# ---- the steps --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "stages"),
    [
        ("in place", [Stage.PROBING, Stage.HASHING, Stage.REGISTERING]),
        ("copy", [Stage.PROBING, Stage.MOVING, Stage.HASHING, Stage.MOVING, Stage.REGISTERING]),
        ("url", [Stage.DOWNLOADING, Stage.PROBING, Stage.HASHING, Stage.MOVING, Stage.REGISTERING]),
        (
            "hub",
            [
                *(Stage.RESOLVING, Stage.DOWNLOADING, Stage.PROBING, Stage.HASHING),
                *(Stage.MOVING, Stage.REGISTERING),
            ],
        ),
    ],
)
def test_an_install_goes_through_its_stages_in_their_order(
    tmp_path: Path, kind: str, stages: list[Stage]
) -> None:
    async def story(bench: Bench) -> None:
        await bench.finish()
        bench.check_completed()
        told = [(RUNNING, Stage.NONE), *((RUNNING, stage) for stage in stages), (State.COMPLETED, Stage.NONE)]
        assert bench.store.told == told

    on_bench(tmp_path, kind, story)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_step_found_is_stored_with_the_stage_of_the_next(tmp_path: Path, kind: str) -> None:
    async def story(bench: Bench) -> None:
        await bench.finish()
        by_stage = {job.stage: job for job in bench.store.writes}
        assert by_stage[Stage.HASHING].probe is not None
        assert by_stage[Stage.REGISTERING].hash
        assert by_stage[Stage.REGISTERING].files
        assert by_stage[Stage.REGISTERING].local_path == bench.job.local_path
        if kind != "in place":
            assert by_stage[Stage.HASHING].staged_path.startswith(str(bench.roots.staging(1)))

    on_bench(tmp_path, kind, story)


def test_each_step_that_a_restart_may_leave_out_fills_a_field_of_the_job() -> None:
    named = {step.fills for steps in (FETCHED, PLANNED, COPIED, IN_PLACE) for step in steps if step.fills}
    assert named == {"plan", "download_id", "staged_path", "probe", "files"}
    assert named <= {field.name for field in fields(Job)}


def test_a_state_that_may_not_follow_is_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        await bench.finish()
        writes = len(bench.store.writes)
        async with bench.started() as (ended, task):
            with pytest.raises(ValueError, match="from completed to running"):
                await ended.enter(State.RUNNING)
            task.cancel()
        assert len(bench.store.writes) == writes

    on_bench(tmp_path, "in place", story)


def test_the_bytes_of_a_download_are_told_as_news_and_stored_with_what_it_delivered(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        await bench.finish()
        size = len(bench.content)
        assert [job.progress for job in bench.news][-1] == Progress(size // 2, size)
        assert bench.job.progress == Progress(size, size)
        assert bench.store.writes[0].progress == Progress()

    on_bench(tmp_path, "url", story)


# ---- peers that fall silent -------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_record_service_is_waited_for_which_is_noted_once(tmp_path: Path, kind: str) -> None:
    async def story(bench: Bench) -> None:
        bench.records.faults.silent["create"] = 6
        began = now()
        await bench.finish()
        bench.check_completed()
        assert bench.records.faults.calls == ["create"] * 7
        waited = 0.1 * (2**6 - 1)
        assert waited / 2 <= now() - began <= waited + (2 if kind in ("url", "hub") else 0)
        [waiting] = [job for job in bench.store.writes if job.stage is Stage.WAITING_FOR_PEER]
        assert waiting.error is not None
        assert waiting.error.retry_time is not None
        assert bench.store.told[-2:] == [(RUNNING, Stage.REGISTERING), (State.COMPLETED, Stage.NONE)]

    on_bench(tmp_path, kind, story)


@pytest.mark.parametrize("call", ["create", "get"])
@pytest.mark.parametrize("how", ["silent", "lost"])
def test_a_download_service_that_does_not_answer_is_asked_again_and_makes_one_download(
    tmp_path: Path, call: str, how: str
) -> None:
    async def story(bench: Bench) -> None:
        getattr(bench.downloads.faults, how)[call] = 3
        await bench.finish()
        bench.check_completed()
        assert len(bench.downloads.orders) == 1
        assert (RUNNING, Stage.WAITING_FOR_PEER) in bench.store.told

    on_bench(tmp_path, "url", story)


def test_a_record_whose_answer_was_lost_is_not_made_twice(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.records.faults.lost["create"] = 2
        await bench.finish()
        bench.check_completed()

    on_bench(tmp_path, "copy", story)


def test_our_own_record_that_is_there_already_ends_the_job_and_anothers_fails_it(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.records.made[KEY] = ("earlier", None, [])
        there = DuplicateModelException("There is one.", metadata={"key": KEY})
        bench.records.faults.refused["create"] = there
        await bench.finish()
        bench.check_completed()

        bench.store.jobs[1] = replace(bench.store.writes[0], key="cd" * 16)
        await bench.finish()
        assert bench.job.state is State.ERROR
        assert bench.job.error is not None
        assert bench.job.error.reason == there.reason

    on_bench(tmp_path, "in place", story)


# ---- peers that refuse ------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [InvalidModelConfigException("No."), ModelkeepError("A defect.")])
def test_what_the_record_service_refuses_fails_the_job_and_leaves_a_download_alone(
    tmp_path: Path, kind: str, error: ModelkeepError
) -> None:
    async def story(bench: Bench) -> None:
        bench.records.faults.refused["create"] = error
        await bench.finish()
        assert bench.job.state is State.ERROR
        assert bench.job.error is not None
        assert bench.job.error.reason == error.reason
        assert bench.job.failure is not None
        assert replace(bench.job.failure, detail="") == JobError.of(error)
        assert bench.job.failure.detail == bench.job.error.detail
        assert re.search(r"\n  register\.py:\d+ in register\n", bench.job.error.detail)
        assert bench.job.error.detail.endswith(f"\n{type(error).__name__}")
        assert bench.records.made == {}
        kept = [bench.roots.staging(1) / "style.safetensors"] if kind in ("url", "hub") else []
        assert bench.files() == kept
        assert bench.job.staged_path == (str(kept[0]) if kept else "")
        assert bench.job.error.metadata.get("kept_path", "") == bench.job.staged_path

    on_bench(tmp_path, kind, story)


def test_a_refused_order_fails_the_job_which_has_no_download_to_cancel(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.faults.refused["create"] = NotFoundException("Nothing there.")
        await bench.finish()
        assert (bench.job.state, bench.job.ordering) == (State.ERROR, False)
        assert bench.downloads.faults.calls == ["create"]
        bench.check_nothing_left()

    on_bench(tmp_path, "url", story)


def test_a_download_that_fails_gives_its_error_to_the_job(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        failure = JobError("NOT_FOUND", "SOURCE_NOT_FOUND", "The server has no such file.")
        bench.downloads.plan = []
        async with bench.started() as (_, task):
            await bench.store.until(lambda job: job.download_id > 0)
            bench.downloads.move(1, DownloadState.ERROR, error=failure)
            await task
        assert bench.job.error is not None
        assert (bench.job.state, replace(bench.job.error, detail="")) == (State.ERROR, failure)
        assert bench.files() == []

    on_bench(tmp_path, "url", story)


def test_a_download_that_somebody_else_cancels_cancels_the_job(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.plan = [DownloadState.RUNNING, DownloadState.CANCELLED]
        await bench.finish()
        assert bench.job.state is State.CANCELLED
        bench.check_nothing_left()

    on_bench(tmp_path, "url", story)


def test_a_download_that_was_forgotten_is_ordered_anew_under_another_request_id(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.plan = []
        async with bench.started() as (_, task):
            await bench.store.until(lambda job: job.download_id > 0)
            bench.downloads.forget()
            bench.downloads.plan = [DownloadState.RUNNING, DownloadState.COMPLETED]
            await task  # found by the look that doubts a watch without news
        bench.check_completed()
        assert len(bench.downloads.orders) == 2
        assert (bench.job.download_id, bench.job.download_generation) == (2, 1)

    on_bench(tmp_path, "url", story)


def test_a_file_that_is_delivered_elsewhere_is_not_taken(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.plan = []
        async with bench.started() as (_, task):
            await bench.store.until(lambda job: job.download_id > 0)
            bench.downloads.move(1, DownloadState.COMPLETED, path=str(bench.source))
            await task
        assert bench.job.error is not None
        assert (bench.job.state, bench.job.error.reason) == (State.ERROR, "INVALID_MODEL")
        assert bench.source.exists()

    on_bench(tmp_path, "url", story)


# ---- secrets ----------------------------------------------------------------------------------------------
def test_a_secret_goes_into_the_order_and_then_is_forgotten(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        signed, token = f"{URL}?sig=s3cr3t", "t0k3n"
        async with bench.started(url=signed, access_token=token) as (going, task):
            await task
            assert (going.url, going.access_token) == ("", "")
        [order] = bench.downloads.orders.values()
        assert (order.url, order.access_token) == (signed, token)
        assert not any(hidden in repr(bench.store.writes) for hidden in ("s3cr3t", token))

    on_bench(tmp_path, "url", story, has_secret=True)


def test_a_job_whose_secret_went_with_a_restart_pauses_until_it_is_brought(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        async with bench.started() as (going, task):
            await bench.store.until(lambda job: job.state is PAUSED)
            assert bench.job.error is not None
            assert bench.job.error.reason == "TOKEN_REQUIRED"
            assert bench.downloads.orders == {}
            going.bring("", "token")
            await task
        bench.check_completed()
        [order] = bench.downloads.orders.values()
        assert (order.url, order.access_token) == (URL, "token")

    on_bench(tmp_path, "url", story, has_secret=True)


def test_a_paused_download_pauses_the_job_and_gets_the_token_that_is_brought(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.plan = []
        needed = JobError("UNAUTHENTICATED", "TOKEN_REQUIRED", "A token, please.")
        async with bench.started() as (going, task):
            await bench.store.until(lambda job: job.download_id > 0)
            bench.downloads.move(1, DownloadState.PAUSED, error=needed)
            await bench.store.until(lambda job: job.state is PAUSED)
            assert bench.job.error == needed
            going.bring("", "token")
            await task
        bench.check_completed()
        assert bench.downloads.started == [("token", "")]

    on_bench(tmp_path, "url", story)


# ---- turns ------------------------------------------------------------------------------------------------
def test_two_jobs_of_one_local_source_take_turns(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        async with bench.started() as (going, task), going.tools.sources.hold(str(bench.source)):
            await bench.store.until(lambda job: job.state is RUNNING)
            await asyncio.sleep(60)
            assert bench.store.told == [(RUNNING, Stage.NONE)]
            assert not task.done()
        assert bench.store.told == [(RUNNING, Stage.NONE)]

    on_bench(tmp_path, "copy", story)
