"""Where a failure happened is told by files, lines and functions, and by nothing that a caller brought."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modelkeep.exceptions import SourceNotFoundException
from modelkeep_install.domain.jobs import Job, JobError, State
from modelkeep_install.domain.ports import DownloadState
from modelkeep_install.domain.traces import trace_of
from support.installrun import Bench, on_bench

SECRET = "hush-hush"


def raised(depth: int = 0) -> Exception:
    """An exception whose text, values and cause have a secret."""

    def fail(token: str, left: int) -> None:
        if left:
            fail(token, left - 1)
        try:
            raise OSError(5, f"read of {token}")
        except OSError as error:
            raise SourceNotFoundException(f"no {token}", metadata={"source": token}) from error

    try:
        fail(SECRET, depth)
    except SourceNotFoundException as error:
        return error
    raise AssertionError


def test_a_trace_names_places_and_classes_from_the_cause_on_and_no_value() -> None:
    told = trace_of(raised())
    assert re.fullmatch(
        r"Traceback \(most recent call last\):\n"
        r"  test_install_traces\.py:\d+ in fail\n"
        r"OSError\n\n"
        r"The above exception was the direct cause of the following exception:\n\n"
        r"Traceback \(most recent call last\):\n"
        r"  test_install_traces\.py:\d+ in raised\n"
        r"  test_install_traces\.py:\d+ in fail\n"
        r"SourceNotFoundException",
        told,
    )


def test_a_deep_trace_is_cut_in_its_middle() -> None:
    told = trace_of(raised(depth=200))
    assert len(told) < 4096
    assert re.search(r"\n  … \d+ more\n", told)
    assert told.count(" in fail\n") >= 40


@pytest.mark.parametrize("unforeseen", [False, True])
def test_a_failure_with_a_secret_in_it_has_a_trace_without(tmp_path: Path, unforeseen: bool) -> None:
    async def story(bench: Bench) -> None:
        error: Exception = ValueError(SECRET) if unforeseen else raised()
        bench.records.faults.refused["create"] = error
        job = await bench.finish(url=f"{bench.job.source.text}?token={SECRET}", access_token=SECRET)
        assert job.error is not None
        assert re.search(r"  register\.py:\d+ in register\n", job.error.detail)
        assert job.error.detail.endswith(f"\n{type(error).__name__}")
        assert SECRET not in job.error.detail

    on_bench(tmp_path, "url", story)


def test_the_failure_of_a_download_keeps_its_own_detail_and_says_where_it_arrived(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        said = JobError("NOT_FOUND", "SOURCE_NOT_FOUND", "No such file.", detail="of the download")
        bench.downloads.plan = []
        async with bench.started() as (_, task):
            await bench.store.until(lambda job: bool(job.download_id))
            bench.downloads.move(1, DownloadState.ERROR, error=said)
            await task
        job: Job = bench.job
        assert job.state is State.ERROR
        assert job.error is not None
        assert job.error.detail.startswith("of the download\n\nTraceback ")
        assert job.error.detail.endswith("\nSourceNotFoundException")

    on_bench(tmp_path, "url", story)
