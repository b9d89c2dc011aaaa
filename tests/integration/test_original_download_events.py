"""The original's events of a download, its handlers and its log, through the client and a real suite."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import Client, DownloadJobBase, DownloadJobStatus, DownloadJobURL, _jobs
from modelkeep.client._watch import follow
from modelkeep.exceptions import FailedByCallerException, UnavailableException
from modelkeep.supervisor import Suite
from support.httpserver import HttpServer, Resource
from support.originaldownloads import BODY, SLOW, SMALL, Seen, new_folder, quick_downloads, tidy_client

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return quick_downloads()


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    with tidy_client(suite) as opened:
        yield opened


@pytest.fixture
def models(suite: Suite) -> Path:
    """A folder that may be downloaded to, new for each test."""
    return new_folder(suite)


def test_the_events_of_a_successful_download(client: Client, web: HttpServer, models: Path) -> None:
    heard: list[tuple[str, str]] = []
    progress = Seen()

    def log_download_event(job: DownloadJobBase) -> None:
        heard.append(("queue's", job.status.value))

    queue = client.create_download_queue("with-handlers", event_handlers=[log_download_event])
    job = queue.create_download_job(
        web.put("/events.bin", Resource(BODY, rate=SLOW)),
        models,
        event_handlers=[lambda job: heard.append(("job's", job.status.value)), progress],
    )
    queue.join(timeout=20)
    assert job.status == "completed"
    assert progress.states.count("enqueued") == 1
    assert progress.states.count("completed") == 1
    assert progress.order == ["enqueued", "running", "completed"]
    assert progress.states.count("running") > 2
    assert progress.bytes == sorted(progress.bytes)
    # The job's own handlers first, then those of the queue.
    assert [who for who, _ in heard] == ["job's", "queue's"] * len(progress.states)
    assert [state for who, state in heard if who == "queue's"] == progress.states


def test_the_events_of_a_download_that_is_paused(client: Client, web: HttpServer, models: Path) -> None:
    handler, queue = Seen(), client.download_queue
    url = web.put("/paused.bin", Resource(BODY, rate=SLOW))
    job = queue.create_download_job(url, models, event_handlers=[handler])
    handler.until_bytes_come()
    queue.pause_job(job)
    handler.until("paused")
    assert job.status is DownloadJobStatus.PAUSED
    assert isinstance(job, DownloadJobURL)
    reached = job.bytes
    web.resources["/paused.bin"].rate = None
    queue.start_job(job)
    queue.join(timeout=20)
    # It waits in the queue once more before it runs again, which is not told as a second "enqueued".
    assert handler.order == ["enqueued", "running", "paused", "running", "completed"]
    # It picks up where it left off.
    assert web.requests_of("/paused.bin")[-1].offset == reached > 0
    assert (models / "paused.bin").read_bytes() == BODY


def test_handlers_run_in_order_on_the_thread_that_their_job_has_while_it_runs(
    client: Client, web: HttpServer, models: Path
) -> None:
    queue, go_on = client.download_queue, threading.Event()
    calls: dict[str, list[tuple[str, int, int]]] = {"held": [], "free": []}
    seen = {"held": Seen(), "free": Seen()}

    def note(name: str, place: int) -> Callable[[DownloadJobBase], None]:
        def handler(job: DownloadJobBase) -> None:
            calls[name].append((job.status.value, place, threading.get_ident()))
            if (name, job.status.value) == ("held", "running"):
                assert go_on.wait(20)

        return handler

    jobs = [
        queue.create_download_job(
            web.put(f"/{name}.bin", Resource(BODY, rate=SLOW // 2)),
            models,
            event_handlers=[note(name, 1), note(name, 2), seen[name]],
        )
        for name in ("held", "free")
    ]
    # A handler that takes its time holds up its own job's news, and no other's.
    seen["free"].until("completed")
    assert seen["held"].states == ["enqueued"]
    go_on.set()
    queue.join(timeout=20)
    assert [job.status for job in jobs] == ["completed", "completed"]
    threads = {}
    for name, heard in calls.items():
        assert seen[name].order == ["enqueued", "running", "completed"]
        assert [place for _, place, _ in heard] == [1, 2] * (len(heard) // 2)
        (threads[name],) = {thread for status, _, thread in heard if status != "enqueued"}
    assert len({*threads.values(), threading.get_ident()}) == 3
    # Of the progress that came while the handler took its time, the latest was told.
    assert seen["held"].states.count("running") <= 4 < seen["free"].states.count("running")


def test_handlers_are_added_to_a_job_and_cleared(client: Client, web: HttpServer, models: Path) -> None:
    early, late, queues = Seen(), Seen(), Seen()
    queue = client.create_download_queue("changed-handlers", event_handlers=[queues])
    url = web.put("/late.bin", Resource(SMALL))
    job = queue.create_download_job(url, models, start=False, event_handlers=[early])
    assert job.event_handlers == [early, queues]  # the queue's are appended to the job's own
    job.add_event_handler(late)
    assert job.event_handlers == [early, late, queues]
    job.clear_event_handlers()
    assert job.event_handlers == []
    job.add_event_handler(late)
    queue.start_job(job)
    queue.join(timeout=20)
    assert (early.states, queues.states) == ([], [])
    assert late.order[-1] == "completed"


def test_the_default_queue_may_have_handlers_of_its_own(suite: Suite, web: HttpServer, models: Path) -> None:
    handler = Seen()
    with Client(data_dir=suite.data_dir, download_event_handlers=[handler]) as client:
        client.download_queue.create_download_job(web.put("/default.bin", Resource(SMALL)), models)
        client.download_queue.join(timeout=20)
        client.download_queue.prune_jobs()
    assert handler.order == ["enqueued", "running", "completed"]


def test_a_handler_may_cancel_its_job(client: Client, web: HttpServer, models: Path) -> None:
    seen, queue = Seen(), client.download_queue

    def enough(job: DownloadJobBase) -> None:
        if job.status == "running":
            queue.cancel_job(job)

    url = web.put("/enough.bin", Resource(BODY, rate=SLOW // 4))
    job = queue.create_download_job(url, models, event_handlers=[seen, enough])
    queue.join(timeout=20)
    assert job.status is DownloadJobStatus.CANCELLED
    assert seen.order[-1] == "cancelled"
    assert list(models.iterdir()) == []


@pytest.mark.parametrize("wish", [DownloadJobStatus.PAUSED, DownloadJobStatus.CANCELLED])
def test_a_handler_may_set_the_status_of_its_job(
    client: Client, web: HttpServer, models: Path, wish: DownloadJobStatus
) -> None:
    seen, queue = Seen(), client.download_queue

    def decide(job: DownloadJobBase) -> None:
        if job.status == "running":
            job.status = wish

    url = web.put("/wish.bin", Resource(BODY, rate=SLOW // 4))
    job = queue.create_download_job(url, models, event_handlers=[decide, seen])
    queue.join(timeout=20)
    seen.until(wish.value)
    found = client.create_download_queue(None).id_to_job(job.id)
    assert (found.status, job.status) == (wish, wish)
    # The handlers after it have seen what it did, as if they ran in one program with the download.
    assert seen.order == ["enqueued", wish.value]
    with pytest.raises(AttributeError, match="call start_job, pause_job"):
        job.status = DownloadJobStatus.RUNNING


@pytest.mark.parametrize("way", ["status", "queue"])
def test_a_handler_may_fail_its_job(client: Client, web: HttpServer, models: Path, way: str) -> None:
    seen, queue, boom = Seen(), client.download_queue, ValueError("not what was wanted")

    def judge(job: DownloadJobBase) -> None:
        if not (isinstance(job, DownloadJobURL) and job.status == "running" and job.bytes):
            return
        if way == "queue":
            queue.fail_job(job, boom)
        else:
            job.status, job.error = DownloadJobStatus.ERROR, boom

    url = web.put("/judged.bin", Resource(BODY, rate=SLOW // 4))
    job = queue.create_download_job(url, models, event_handlers=[judge, seen])
    queue.join(timeout=20)
    assert (job.status, job.error) == (DownloadJobStatus.ERROR, boom)
    assert seen.order == ["enqueued", "running", "error"]
    assert list(models.iterdir()) == []
    with Client(download=client.addresses["download"].target) as another:
        found = another.download_queue.id_to_job(job.id)
        assert found.status is DownloadJobStatus.ERROR
        assert str(found.error).startswith(str(boom))
        assert isinstance(found.error, FailedByCallerException)


def test_what_a_handler_wants_of_a_job_that_has_ended_is_told_to_be_too_late(
    client: Client, web: HttpServer, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def too_late(job: DownloadJobBase) -> None:
        if job.status == "completed":
            job.status = DownloadJobStatus.CANCELLED

    queue = client.download_queue
    url = web.put("/late.bin", Resource(SMALL))
    job = queue.create_download_job(url, models, event_handlers=[too_late])
    queue.join(timeout=20)
    assert job.status == "completed"
    assert f"Download {job.id} of {url} cannot be made cancelled, as a handler wants" in caplog.text


LOG = "modelkeep.client.downloads"


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What was logged at INFO or above, by whomever: level and logger."""
    return [(record.levelname, record.name) for record in caplog.records if record.levelno >= logging.INFO]


def complain(job: DownloadJobBase) -> None:
    """A handler that fails."""
    raise RuntimeError("a handler's own fault")


@pytest.mark.parametrize("quiet", [False, True])
def test_starts_and_ends_are_logged_unless_quiet(
    client: Client, web: HttpServer, models: Path, caplog: pytest.LogCaptureFixture, quiet: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    queue = client.create_download_queue(f"quiet-{quiet}", quiet=quiet)
    handler = Seen()
    url = web.put("/logged.bin", Resource(BODY, rate=SLOW))
    queue.create_download_job(url, models, event_handlers=[handler])
    queue.join(timeout=20)
    assert handler.states.count("running") > 2
    # Start and end, and none of the progress between them.
    assert logged(caplog) == ([] if quiet else [("INFO", LOG), ("INFO", LOG)])


@pytest.mark.parametrize("quiet", [False, True])
def test_a_quiet_queue_is_quiet_of_failures_and_of_failing_handlers_too(
    client: Client, web: HttpServer, models: Path, caplog: pytest.LogCaptureFixture, quiet: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    queue = client.create_download_queue(f"quiet-failure-{quiet}", event_handlers=[complain], quiet=quiet)
    job = queue.create_download_job(web.url("/nowhere"), models)
    queue.join(timeout=20)
    assert job.status == "error"
    failing_handler = ("ERROR", "modelkeep.client")
    told = [failing_handler, ("INFO", LOG), failing_handler, ("ERROR", LOG), failing_handler]
    assert logged(caplog) == ([] if quiet else told)
    # Whoever looks for errors finds them at DEBUG.
    assert [record.name for record in caplog.records].count("modelkeep.client") == 3


def test_a_quiet_queue_is_quiet_of_pauses_cancels_and_lost_connections_too(
    client: Client,
    suite: Suite,
    web: HttpServer,
    models: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_jobs, "follow", functools.partial(follow, patience_s=0.2))
    caplog.set_level(logging.DEBUG)
    queue, handler = client.create_download_queue("quiet-control", quiet=True), Seen()
    url = web.put("/quiet.bin", Resource(BODY, rate=SLOW // 4))
    job = queue.create_download_job(url, models, event_handlers=[handler])
    handler.until_bytes_come()
    queue.pause_job(job)
    handler.until("paused")
    queue.start_job(job)
    handler.until("running")
    suite.kill("download")
    with pytest.raises(UnavailableException):
        queue.join(timeout=20)
    suite.restart("download")
    queue.cancel_job(job)
    queue.join(timeout=20)
    assert handler.order == ["enqueued", "running", "paused", "running", "cancelled"]
    assert logged(caplog) == []
