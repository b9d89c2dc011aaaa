"""The pure rules of downloads: sources and their secrets, names, retries, order, progress, states."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.contents import MAX_QUOTE
from modelkeep.exceptions import (
    AddressExpiredException,
    EtagMismatchException,
    FieldInvalidException,
    SourceChangedException,
    TokenRejectedException,
    TokenRequiredException,
    WrongStateException,
)
from modelkeep_common.file_names import FORBIDDEN
from modelkeep_download.domain import names
from modelkeep_download.domain import transitions as domain
from modelkeep_download.domain.credentials import CredentialKind
from modelkeep_download.domain.job import (
    Failure,
    Job,
    JobSpec,
    JobState,
    SecretKind,
    SourceKind,
    Stage,
    check_etag,
)
from modelkeep_download.domain.names import choose_name, is_safe_component, name_from_disposition
from modelkeep_download.domain.progress import ProgressMeter
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.refusals import Asked, Refusal, error_of, read_refusal
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine.http1 import parse_retry_after
from modelkeep_download.engine.requests import renewed
from modelkeep_download.engine.transfer import Credentials


@given(st.text(max_size=300))
def test_a_name_from_a_header_is_one_safe_component_or_none(text: str) -> None:
    for header in (f'attachment; filename="{text}"', f"attachment; filename*=UTF-8''{text}", text):
        name = name_from_disposition(header)
        assert name == "" or is_safe_component(name)
        assert "/" not in name
        assert Path("/root", name).parent in (Path("/root"), Path("/"))


def test_unsafe_names_are_told() -> None:
    unsafe = [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "a\\b",
        "c:",
        "nul",
        "COM1.txt",
        "end.",
        "end ",
        " begin",
        "a\x00b",
    ]
    assert [
        name for name in [*unsafe, "a\nb", "a\u202eb", "x" * 241, "ü" * 130] if is_safe_component(name)
    ] == []
    assert all(map(is_safe_component, ["a.safetensors", "naïve name (1).bin", "console.bin", "x" * 240]))


def test_the_name_comes_from_the_header_then_the_source_then_the_final_address() -> None:
    source, final = "https://h/models/m.bin", "https://cdn/abc123"
    assert choose_name(1, "header.bin", source, final) == "header.bin"
    assert choose_name(1, "", source, final) == "m.bin"
    assert choose_name(1, "", "https://h/api/download/123", "https://cdn/real.bin?x") == "real.bin"
    assert choose_name(1, "", "https://h/api/download/123", final) == "123"
    assert choose_name(7, "", "https://h/", "https://h/") == "download-7"
    key = "https://h/v0/b/bucket/o/models%2Fvae%2Fmy%20model.bin?alt=media"
    assert choose_name(7, "", key, key) == "my model.bin"


def test_retry_after_is_seconds_or_a_date() -> None:
    now = 1_700_000_000.0
    assert parse_retry_after("120") == 120.0
    assert parse_retry_after(formatdate(now + 30, usegmt=True), now) == 30.0
    assert parse_retry_after(formatdate(now - 30, usegmt=True), now) == 0.0
    assert [parse_retry_after(text) for text in (None, "", "soon", "-5", "1.5")] == [None] * 5
    assert parse_retry_after("9" * 400) is not None


def test_access_errors_depend_on_who_answered_and_whether_a_token_was_sent() -> None:
    def error(
        status: int, *, had_token: bool = False, worked: bool = False, at_source: bool = True
    ) -> Exception:
        shown = CredentialKind.CALL if had_token else CredentialKind.NONE
        return error_of(Refusal(status, "h"), Asked(at_source, shown, worked))

    assert isinstance(error(401), TokenRequiredException)
    assert isinstance(error(403, had_token=True), TokenRejectedException)
    assert isinstance(error(403, worked=True), AddressExpiredException)
    assert isinstance(error(403, worked=True, had_token=True), TokenRejectedException)
    assert isinstance(error(403, at_source=False, had_token=True), TransientError)
    assert isinstance(error(503), TransientError)
    assert not isinstance(error(501), TransientError)


@given(
    st.integers(400, 599),
    st.binary(max_size=300),
    st.text(max_size=100),
    st.sampled_from(CredentialKind),
    st.booleans(),
)
def test_whatever_a_source_says_becomes_one_clean_line(
    status: int, body: bytes, header: str, shown: CredentialKind, worked: bool
) -> None:
    refusal = read_refusal(status, "h", {"X-Error-Message": header}.get, body + b"5ecret", secrets=["5ecret"])
    error = error_of(refusal, Asked(shown=shown, worked=worked))
    text = str(error)
    assert text.isprintable()
    assert "5ecret" not in text
    assert len(refusal.sentence) <= MAX_QUOTE


def test_progress_is_told_each_percent_and_at_most_ten_times_a_second() -> None:
    meter = ProgressMeter(0, 1000, now=0.0)
    told = [step for step in range(1, 1001) if meter.advance(step, now=step * 0.01)]  # 10 s, 100 steps/s
    assert 90 <= len(told) <= 100
    assert all(b - a >= 10 for a, b in itertools.pairwise(told))
    slow = ProgressMeter(0, 10**6, now=0.0)
    assert [n for n in range(1, 101) if slow.advance(n * 1000, now=n)] == list(range(10, 101, 10))
    assert slow.rate(now=100.0) == 1000
    meter.advance(5, now=20.0)
    assert meter.bytes_done == 1000  # never goes back


SPEC = JobSpec(
    queue="",
    kind=SourceKind.URL,
    source="http://h/m.bin",
    destination=Path("/m"),
    destination_is_folder=True,
    filename="",
    root=Path("/m"),
    priority=10,
    preserve_partial=False,
    copy=False,
    expected_sha256="",
    start=True,
)


def job(state: JobState, stage: Stage = Stage.NONE, **more: object) -> Job:
    return dataclasses.replace(Job(id=1, spec=SPEC, state=state, stage=stage), **more)  # type: ignore[arg-type]  # any field


def test_calls_move_jobs_between_states_as_documented() -> None:
    S = JobState
    table = {
        S.IDLE: (S.ENQUEUED, S.IDLE, S.CANCELLED),
        S.ENQUEUED: (S.ENQUEUED, S.PAUSED, S.CANCELLED),
        S.PAUSED: (S.ENQUEUED, S.PAUSED, S.CANCELLED),
        S.COMPLETED: (None, None, None),
        S.ERROR: (None, None, None),
        S.CANCELLED: (None, None, S.CANCELLED),
    }
    for state, after in table.items():
        calls: tuple[Callable[[Job], Job], ...] = (
            lambda j: domain.to_start(j, 5),
            domain.to_pause,
            domain.to_cancel,
        )
        for call, expected in zip(calls, after, strict=True):
            if expected is None:
                with pytest.raises(WrongStateException):
                    call(job(state))
            else:
                assert call(job(state)).state is expected
    running = job(S.RUNNING, Stage.TRANSFERRING)
    assert domain.to_pause(running).stage is Stage.PAUSING
    assert domain.to_cancel(running).stage is Stage.CANCELLING
    assert domain.to_start(running, 5) == running
    assert domain.to_start(domain.to_pause(running), 5).state is S.ENQUEUED
    assert domain.to_cancel(job(S.PAUSED, staging="/x")).stage is Stage.CANCELLING
    with pytest.raises(WrongStateException):
        domain.to_pause(domain.to_cancel(running))


VERDICT = Failure("ABORTED", "FAILED_BY_CALLER", "not what we want")


def test_a_caller_fails_what_has_not_ended_and_the_first_who_ends_a_job_counts() -> None:
    S = JobState
    for at_once in (job(S.IDLE), job(S.ENQUEUED), job(S.PAUSED)):
        failed = domain.to_fail(at_once, VERDICT)
        assert (failed.state, failed.failure) == (S.ERROR, VERDICT)
        assert domain.to_fail(failed, dataclasses.replace(VERDICT, message="again")) == failed
    other = Failure("UNAVAILABLE", "UPSTREAM_UNAVAILABLE", "503")
    for over in (job(S.COMPLETED), job(S.CANCELLED), job(S.ERROR, failure=other)):
        with pytest.raises(WrongStateException):
            domain.to_fail(over, VERDICT)
    for begun in (job(S.RUNNING, Stage.TRANSFERRING), job(S.PAUSED, staging="/x")):
        failing = domain.to_fail(begun, VERDICT)
        assert (failing.stage, failing.failure) == (Stage.CANCELLING, None)
        assert domain.to_cancel(failing) == domain.restored(failing) == domain.stopped(failing) == failing
        assert domain.to_fail(domain.to_cancel(begun), VERDICT) == domain.to_cancel(begun)
        done = domain.cancelled(failing)
        assert (done.state, done.failure, done.verdict) == (S.ERROR, VERDICT, None)
        assert domain.completed(dataclasses.replace(failing, name="m.bin")).failure is None


@pytest.mark.parametrize(
    ("preserve", "validator", "kept"), [(True, '"v1"', "/x"), (False, '"v1"', ""), (True, "", "")]
)
def test_what_a_caller_fails_keeps_its_partial_file_as_after_any_error(
    preserve: bool, validator: str, kept: str
) -> None:
    more = {
        "staging": "/x",
        "have": ByteRanges.first(5),
        "validator": validator,
        "preserve_partial": preserve,
    }
    running = job(JobState.RUNNING, Stage.TRANSFERRING, **more)
    assert domain.cancelled(domain.to_fail(running, VERDICT)).staging == kept
    assert domain.cancelled(domain.to_cancel(running)).staging == ""


def test_a_pause_that_was_asked_for_outlives_the_stages_of_the_run() -> None:
    pausing = job(JobState.RUNNING, Stage.PAUSING)
    assert domain.at_stage(pausing, Stage.VERIFYING) == pausing
    assert domain.at_stage(job(JobState.ENQUEUED), Stage.VERIFYING).stage is Stage.NONE


def test_a_slot_that_comes_too_late_does_not_bring_a_job_back() -> None:
    S = JobState
    for late in (
        job(S.PAUSED),
        job(S.CANCELLED, secret=SecretKind.ACCESS_TOKEN),
        job(S.ENQUEUED, Stage.CANCELLING, staging="/x"),
        job(S.RUNNING, Stage.CANCELLING, staging="/x"),
    ):
        assert domain.begun(late, 1, has_secrets=False) == late
    assert domain.begun(job(S.ENQUEUED), 7).job_sequence == 7
    waiting = job(S.RUNNING, Stage.WAITING, job_sequence=7)
    assert domain.begun(waiting, 8).job_sequence == 7
    secret = job(S.ENQUEUED, secret=SecretKind.ACCESS_TOKEN)
    assert domain.begun(secret, 1).state is S.RUNNING
    assert domain.begun(secret, 1, has_secrets=False).state is S.PAUSED


def test_a_stop_that_nobody_wants_any_more_puts_the_job_back_into_the_queue() -> None:
    S = JobState
    assert domain.stopped(job(S.RUNNING, Stage.PAUSING)).state is S.PAUSED
    assert domain.stopped(job(S.RUNNING, Stage.CONNECTING)).state is S.ENQUEUED
    for settled in (job(S.ENQUEUED), job(S.PAUSED), job(S.CANCELLED), job(S.RUNNING, Stage.CANCELLING)):
        assert domain.stopped(settled) == settled
    gone = domain.cancelled(job(S.RUNNING, Stage.CANCELLING, staging="/x"))
    assert (gone.state, gone.staging) == (S.CANCELLED, "")
    assert domain.cancelled(gone) == gone


def test_a_problem_is_shown_only_as_long_as_the_job_tries_again_because_of_it() -> None:
    S = JobState
    waiting = Failure("UNAVAILABLE", "UPSTREAM_UNAVAILABLE", "503", retry_time=1.0)
    trying = domain.begun(job(S.RUNNING, Stage.WAITING, failure=waiting), 1)
    assert trying.failure == dataclasses.replace(waiting, retry_time=None)
    for after in (
        domain.begun(job(S.ENQUEUED, failure=waiting), 1),
        domain.restored(job(S.RUNNING, Stage.WAITING, failure=waiting)),
        domain.restored(job(S.RUNNING, Stage.PAUSING, failure=waiting)),
        domain.stopped(job(S.RUNNING, Stage.PAUSING, failure=waiting)),
    ):
        assert after.failure is None


def test_a_new_process_takes_jobs_over_without_threads_and_secrets() -> None:
    S = JobState
    assert domain.restored(job(S.RUNNING, Stage.WAITING)).state is S.ENQUEUED
    assert domain.restored(job(S.RUNNING, Stage.PAUSING)).state is S.PAUSED
    assert domain.restored(job(S.RUNNING, Stage.CANCELLING)).stage is Stage.CANCELLING
    assert domain.restored(job(S.IDLE)).state is S.IDLE
    secret = domain.restored(job(S.RUNNING, secret=SecretKind.ACCESS_TOKEN))
    assert secret.state is S.PAUSED
    assert secret.failure is not None
    assert secret.failure.reason == "TOKEN_REQUIRED"
    whole = job(S.RUNNING, secret=SecretKind.BOTH, have=ByteRanges.first(5), bytes_total=5)
    assert domain.restored(whole).state is S.ENQUEUED  # needs its source no more


def test_an_object_may_change_once() -> None:
    once = domain.started_over(job(JobState.RUNNING, have=ByteRanges.first(5)), changed=True)
    assert (once.bytes_done, once.restarts, once.changes) == (0, 1, 1)
    again = domain.started_over(once, changed=False)
    assert (again.restarts, again.changes) == (2, 1)
    with pytest.raises(SourceChangedException):
        domain.started_over(again, changed=True)


def test_a_stale_etag_is_refused() -> None:
    check_etag(job(JobState.IDLE), "")
    check_etag(job(JobState.IDLE), '"1-1"')
    with pytest.raises(EtagMismatchException):
        check_etag(job(JobState.IDLE), '"1-2"')


def test_rates_need_time_to_pass() -> None:
    meter = ProgressMeter(0, None, now=time.monotonic())
    assert meter.rate(now=meter._samples[0][0]) == 0


def test_the_rate_is_zero_when_nothing_moves() -> None:
    meter = ProgressMeter(0, 10**6, now=0.0)
    for tenth in range(1, 21):
        meter.advance(tenth * 1000, now=tenth / 10)
    assert meter.rate(now=2.0) == 10_000
    assert meter.rate(now=60.0) == 0


def test_a_token_stays_with_the_host_that_it_was_given_for_when_the_address_is_replaced() -> None:
    failure = Failure("FAILED_PRECONDITION", "ADDRESS_EXPIRED", "403")
    source = "https://one.example/m.bin"
    waiting = job(JobState.PAUSED, failure=failure, spec=dataclasses.replace(SPEC, source=source))
    held = Credentials(source, token="of-one")
    for address, token in (("https://one.example/new", "of-one"), ("https://two.example/new", None)):
        shown, credentials, _ = renewed(waiting, held, "", address)
        assert (shown, credentials.token) == (address, token)
    assert renewed(waiting, held, "of-two", "https://two.example/new")[1].token == "of-two"
    with pytest.raises(FieldInvalidException):
        renewed(dataclasses.replace(waiting, failure=None), held, "", "https://two.example/new")


def test_a_name_that_is_refused_is_told_what_names_may_hold() -> None:
    assert all(character in names.PLAIN_NAME for character in FORBIDDEN)
    assert not any(names.is_safe_component(name) for name in ("CON", "nul.txt", ".hidden", " a", "a.", "a\n"))
