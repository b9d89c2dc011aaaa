"""The run of an install from a hub: the look-up, its waits and refusals, what is here, several files."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import (
    ForbiddenPathException,
    LicenseNotAcceptedException,
    ModelkeepError,
    RateLimitedException,
    SourceNotFoundException,
    TokenRequiredException,
    UpstreamUnavailableException,
)
from modelkeep_install.domain.jobs import JobError, Reuse, Stage, State
from modelkeep_install.domain.plans import Hub, Metadata, Plan, PlannedFile
from modelkeep_install.domain.ports import DownloadState, RecordFile, StoredModel
from modelkeep_install.steps.resolve import TRIES
from support.faketime import now
from support.installrun import KEY, REPOSITORY, Bench, on_bench

OTHER = "cd" * 16
WEIGHTS, CARD = "pytorch_lora_weights.safetensors", "README.md"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def several(bench: Bench, **fields: Any) -> Plan:
    """Lets the source come to a folder of two files, of which one has a SHA-256."""
    bench.downloads.contents = {CARD: b"# Style"}
    files = (
        PlannedFile("https://hub.example/card", CARD, 7),
        PlannedFile("https://hub.example/weights", WEIGHTS, len(bench.content), sha256(bench.content)),
    )
    plan = Plan(
        Hub.HUGGING_FACE, REPOSITORY, "style", files, is_folder=True, **{"revision": "c0ffee", **fields}
    )
    bench.downloads.resolved = plan
    return plan


def have(bench: Bench, source: str, files: dict[str, bytes]) -> Path:
    """A model of these files, which an earlier install made."""
    home = bench.models / OTHER / "style"
    home.mkdir(parents=True)
    listed = []
    for name, data in files.items():
        path = home / name
        path.write_bytes(data)
        listed.append(RecordFile(name, len(data), path.stat().st_mtime, sha256=sha256(data)))
    place = str(home.relative_to(bench.models))
    bench.records.earlier[OTHER] = (
        StoredModel(OTHER, "e", place, "root", b"the other record", source=source),
        listed,
    )
    return home


def change_plan(bench: Bench, **fields: Any) -> None:
    assert bench.downloads.resolved is not None
    bench.downloads.resolved = replace(bench.downloads.resolved, **fields)


# ---- the look-up ------------------------------------------------------------------------------------------
def test_a_single_file_is_ordered_by_its_address_name_and_hash_of_the_plan(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        await bench.finish()
        bench.check_completed()
        [order] = bench.downloads.orders.values()
        assert (order.url, order.filename, order.files) == (
            "https://models.example/style.safetensors",
            "style.safetensors",
            (),
        )
        assert order.expected_sha256 == sha256(bench.content)
        [(_, draft, files)] = bench.records.made.values()
        assert (draft.source, draft.source_type) == (REPOSITORY, 3)
        assert [file.sha256 for file in files] == [sha256(bench.content)]

    on_bench(tmp_path, "hub", story)


def test_what_the_source_says_goes_into_the_record_and_what_the_caller_says_wins(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        said = Metadata(
            name="Ink", description="Ink on paper.", license="openrail++", tags=("ink",),
            trigger_phrases=("inkpaper",), preview_url="https://images.example/1.jpeg",
            source_url="https://hub.example/ink",
        )  # fmt: skip
        change_plan(bench, hub=Hub.CIVITAI, metadata=said)
        await bench.finish()
        [(_, draft, _)] = bench.records.made.values()
        assert (draft.name, draft.description, draft.license) == ("Mine", "Ink on paper.", "openrail++")
        assert (list(draft.tags), list(draft.trigger_phrases)) == (["ink"], ["inkpaper"])
        assert (draft.preview_url, draft.source_type) == ("https://images.example/1.jpeg", 4)
        assert draft.source_url == "https://hub.example/ink"

    on_bench(tmp_path, "hub", story, overrides={"name": "Mine"})


def test_a_restart_fetches_the_revision_that_was_looked_up_before_it(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.plan = []
        async with bench.started() as (_, task):
            await bench.store.until(lambda job: job.download_id > 0)
            task.cancel()
        assert bench.job.plan is not None
        change_plan(bench, revision="beef", files=())
        bench.downloads.play(1, [DownloadState.COMPLETED])
        await bench.finish()
        bench.check_completed()
        assert bench.downloads.faults.calls.count("resolve") == 1
        assert bench.job.plan.revision == "c0ffee"

    on_bench(tmp_path, "hub", story)


@pytest.mark.parametrize(
    "error", [TokenRequiredException("Who?"), LicenseNotAcceptedException("First agree.")]
)
def test_what_somebody_can_bring_pauses_the_job_until_the_same_is_imported_again(
    tmp_path: Path, error: ModelkeepError
) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.faults.refused["resolve"] = error
        async with bench.started() as (going, task):
            await bench.store.until(lambda job: job.state is State.PAUSED)
            assert bench.job.error == JobError.of(error)
            del bench.downloads.faults.refused["resolve"]
            going.bring("", "t0k3n")
            await task
        bench.check_completed()
        assert bench.downloads.tokens == ["", "t0k3n"]
        [order] = bench.downloads.orders.values()
        assert order.access_token == "t0k3n"
        assert "t0k3n" not in repr(bench.store.writes)

    on_bench(tmp_path, "hub", story)


def test_a_token_that_went_with_a_restart_is_asked_for_before_the_hub_is(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        async with bench.started() as (going, task):
            await bench.store.until(lambda job: job.state is State.PAUSED)
            going.bring("", "")  # the same again, without
            await asyncio.sleep(5)
            assert (bench.job.state, bench.downloads.tokens) == (State.PAUSED, [])
            going.bring("", "t0k3n")
            await task
        bench.check_completed()
        assert bench.downloads.tokens == ["t0k3n"]

    on_bench(tmp_path, "hub", story, has_secret=True)


def test_a_download_that_wants_a_token_pauses_the_job_and_is_ordered_anew_with_it(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.plan = []
        gated = JobError("FAILED_PRECONDITION", "LICENSE_NOT_ACCEPTED", "First agree.")
        async with bench.started() as (going, task):
            await bench.store.until(lambda job: job.download_id > 0)
            bench.downloads.move(1, DownloadState.ERROR, error=gated)
            await bench.store.until(lambda job: job.state is State.PAUSED)
            assert bench.job.error == gated
            bench.downloads.plan = [DownloadState.COMPLETED]
            going.bring("", "t0k3n")
            await task
        bench.check_completed()
        assert [order.access_token for order in bench.downloads.orders.values()] == ["", "t0k3n"]

    on_bench(tmp_path, "hub", story)


def test_a_limit_of_the_hubs_is_waited_for_as_long_as_it_says_and_told_meanwhile(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        limit = RateLimitedException("Too many questions.", retry_after=55)
        bench.downloads.faults.refused["resolve"] = limit
        async with bench.started() as (_, task):
            await bench.store.until(lambda job: job.error is not None)
            assert bench.job.stage is Stage.RESOLVING
            assert bench.job.error == JobError.of(limit, retry_time=now() + 55)
            del bench.downloads.faults.refused["resolve"]
            await task
        bench.check_completed()
        assert 55 <= now() < 60

    on_bench(tmp_path, "hub", story)


def test_a_hub_that_does_not_answer_is_asked_some_times_and_then_the_job_fails(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        away = UpstreamUnavailableException("The hub is away.", metadata={"host": "hub.example"})
        bench.downloads.faults.refused["resolve"] = away
        await bench.finish()
        assert bench.job.failure is not None
        assert (bench.job.state, bench.job.failure.message) == (State.ERROR, away.message)
        assert bench.downloads.faults.calls == ["resolve"] * TRIES
        bench.check_nothing_left()

    on_bench(tmp_path, "hub", story)


def test_a_hub_whose_name_leads_nowhere_is_asked_once(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        facts = {"host": "hub.example", "attempts": "1", "max_attempts": "1"}
        away = UpstreamUnavailableException("The name cannot be resolved.", metadata=facts)
        bench.downloads.faults.refused["resolve"] = away
        await bench.finish()
        assert bench.job.failure is not None
        assert (bench.job.state, bench.job.failure.message) == (State.ERROR, away.message)
        assert bench.downloads.faults.calls == ["resolve"]
        bench.check_nothing_left()

    on_bench(tmp_path, "hub", story)


def test_a_download_service_that_does_not_answer_is_waited_for_as_any_peer(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.faults.silent["resolve"] = 2 * TRIES
        await bench.finish()
        bench.check_completed()
        assert (State.RUNNING, Stage.WAITING_FOR_PEER) in bench.store.told

    on_bench(tmp_path, "hub", story)


def test_what_the_hub_refuses_for_good_ends_the_job(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.downloads.faults.refused["resolve"] = SourceNotFoundException("No such repository.")
        await bench.finish()
        assert bench.job.error is not None
        assert (bench.job.state, bench.job.error.reason) == (State.ERROR, "SOURCE_NOT_FOUND")
        bench.check_nothing_left()

    on_bench(tmp_path, "hub", story)


@pytest.mark.parametrize(
    ("expected", "folder", "reason"),
    [("0" * 64, False, "CHECKSUM_MISMATCH"), ("0" * 64, True, "FIELD_INVALID")],
)
def test_a_hash_that_cannot_come_true_ends_the_job_before_anything_is_fetched(
    tmp_path: Path, expected: str, folder: bool, reason: str
) -> None:
    async def story(bench: Bench) -> None:
        if folder:
            several(bench)
        await bench.finish()
        assert bench.job.error is not None
        assert (bench.job.state, bench.job.error.reason) == (State.ERROR, reason)
        assert bench.downloads.orders == {}

    on_bench(tmp_path, "hub", story, expected_sha256=expected)


@pytest.mark.parametrize("path", ["../escape.safetensors", "a/../../b.safetensors", "con/x.safetensors"])
def test_a_listing_that_leads_out_of_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    async def story(bench: Bench) -> None:
        plan = several(bench)
        change_plan(bench, files=(*plan.files, PlannedFile("https://hub.example/x", path, 1)))
        await bench.finish()
        assert bench.job.error is not None
        assert (bench.job.state, bench.job.error.reason) == (State.ERROR, "INVALID_MODEL")
        assert bench.downloads.orders == {}

    on_bench(tmp_path, "hub", story)


# ---- several files ----------------------------------------------------------------------------------------
def test_several_files_are_one_download_and_one_folder_with_the_hashes_it_took(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        several(bench)
        await bench.finish()
        assert (bench.job.state, bench.job.error) == (State.COMPLETED, None)
        [order] = bench.downloads.orders.values()
        assert [file.path for file in order.files] == [f"style/{CARD}", f"style/{WEIGHTS}"]
        assert (order.folder, order.url) == (f"{bench.roots.staging(1)}/", "")
        home = bench.models / KEY / "style"
        assert bench.job.local_path == str(home)
        assert sorted(bench.files()) == [home / CARD, home / WEIGHTS]
        [(_, _, files)] = bench.records.made.values()
        assert {file.path: file.sha256 for file in files} == {
            CARD: sha256(b"# Style"),
            WEIGHTS: sha256(bench.content),
        }
        assert bench.store.digests is not None
        assert bench.store.digests.verified == (WEIGHTS,)

    on_bench(tmp_path, "hub", story)


def test_a_folder_of_the_same_source_and_files_ends_the_job_before_a_byte_is_fetched(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        several(bench)
        home = have(bench, REPOSITORY, {CARD: b"# Style", WEIGHTS: bench.content})
        await bench.finish()
        assert (bench.job.state, bench.job.known_key, bench.job.local_path) == (
            State.COMPLETED,
            OTHER,
            str(home),
        )
        assert bench.downloads.orders == {}

    on_bench(tmp_path, "hub", story)


@pytest.mark.parametrize(
    "files",
    [{WEIGHTS: b"other bytes"}, {"pytorch_lora_weights.fp16.safetensors": b"half"}, {CARD: b"# Style"}],
)
def test_another_variant_or_revision_of_the_same_source_is_another_model(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    async def story(bench: Bench) -> None:
        several(bench)
        have(bench, REPOSITORY, files)
        await bench.finish()
        assert (bench.job.state, bench.job.known_key) == (State.COMPLETED, "")
        assert len(bench.downloads.orders) == 1

    on_bench(tmp_path, "hub", story)


@pytest.mark.parametrize(
    ("reuse", "known"), [(Reuse.SAME_SOURCE, ""), (Reuse.SAME_CONTENT, OTHER), (Reuse.NEVER, "")]
)
def test_the_same_files_from_elsewhere_are_told_or_taken_where_their_hashes_prove_it(
    tmp_path: Path, reuse: Reuse, known: str
) -> None:
    async def story(bench: Bench) -> None:
        plan = several(bench)
        change_plan(bench, files=plan.files[1:])
        model = have(bench, "elsewhere", {WEIGHTS: bench.content})
        await bench.finish()
        assert (bench.job.state, bench.job.known_key) == (State.COMPLETED, known)
        assert len(bench.downloads.orders) == (not known)
        if not known:
            [order] = bench.downloads.orders.values()
            assert [file.local_copy for file in order.files] == [str(model / WEIGHTS)]

    on_bench(tmp_path, "hub", story, reuse=reuse)


def test_a_file_that_another_model_has_is_copied_unless_it_changed_since(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        several(bench)
        home = have(bench, "elsewhere", {WEIGHTS: bench.content, "more.json": b"{}"})
        (home / WEIGHTS).write_bytes(b"touched")
        await bench.finish()
        [order] = bench.downloads.orders.values()
        assert [file.local_copy for file in order.files] == ["", ""]

    on_bench(tmp_path, "hub", story)


def test_copies_that_the_download_service_may_not_read_are_left_out_the_hubs_cache_first(
    tmp_path: Path,
) -> None:
    async def story(bench: Bench) -> None:
        plan = several(bench)
        cached = replace(plan.files[0], sha256=sha256(b"# Style"), cached_path="/cache/card")
        change_plan(bench, files=(cached, plan.files[1]))
        home = have(bench, "elsewhere", {WEIGHTS: bench.content})
        asked: list[list[str]] = []
        create = bench.downloads.create

        async def refuses(order: Any) -> Any:
            asked.append([file.local_copy for file in order.files])
            if any(asked[-1]):
                raise ForbiddenPathException("Not there.", metadata={"path": "/cache/card"})
            return await create(order)

        bench.downloads.create = refuses  # type: ignore[method-assign]
        await bench.finish()
        assert (bench.job.state, bench.job.error) == (State.COMPLETED, None)
        assert asked == [["/cache/card", str(home / WEIGHTS)], ["", str(home / WEIGHTS)], ["", ""]]

    on_bench(tmp_path, "hub", story)
