"""The original's DownloadQueueService, example by example, through the Python client against a real suite.

One download runs at a time in this suite, so that what waits in the queue can be seen.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from modelkeep.client import (
    Client,
    DownloadJobBase,
    DownloadJobPath,
    DownloadJobRemoteSource,
    DownloadJobStatus,
    DownloadJobURL,
)
from modelkeep.exceptions import (
    FieldInvalidException,
    SourceNotFoundException,
    UnknownJobIDException,
)
from modelkeep.supervisor import Suite
from support.httpserver import HttpServer, Resource, pattern

pytestmark = pytest.mark.timeout(60)

BODY = pattern(1_000_000)
#: No text, which would be taken for what was sent in the place of a file.
SMALL = b"\0small\xff"
#: Bytes a second: a second for the whole body.
SLOW = len(BODY)


class Seen:
    """A handler that keeps what it saw, and lets a test wait for it."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.bytes: list[tuple[int, int]] = []
        self._news = threading.Condition()

    def __call__(self, job: DownloadJobBase) -> None:
        with self._news:
            self.states.append(job.status.value)
            if isinstance(job, DownloadJobRemoteSource):
                self.bytes.append((job.bytes, job.total_bytes))
            self._news.notify_all()

    def until(self, state: str) -> None:
        """Wait until the state is this one."""
        self._wait(lambda: self.states[-1:] == [state])

    def until_bytes_come(self) -> None:
        """Wait until some bytes are there."""
        self._wait(lambda: any(done for done, _ in self.bytes))

    def _wait(self, what: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(what, timeout=20), self.states

    @property
    def order(self) -> list[str]:
        """The states, each run of equal ones once."""
        return [state for state, _ in itertools.groupby(self.states)]


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    settings = {"MAX_PARALLEL_DOWNLOADS": "1", "MAX_ATTEMPTS": "2", "RETRY_BASE_S": "0.05"}
    env = {f"MODELKEEP_DOWNLOAD_{name}": value for name, value in settings.items()}
    return {"services": ("download",), "env": env}


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    with Client(data_dir=suite.data_dir) as opened:
        yield opened
        every = opened.create_download_queue(None)
        for job in every.list_jobs():
            if not job.ended:
                every.cancel_job(job)
        every.join(timeout=20)
        every.prune_jobs()


@pytest.fixture
def models(suite: Suite) -> Path:
    """A folder that may be downloaded to, new for each test."""
    return Path(tempfile.mkdtemp(dir=suite.data_dir / "downloads"))


# -- jobs -----------------------------------------------------------------------------------------------


def test_a_job_made_by_hand_is_submitted(client: Client, web: HttpServer, models: Path) -> None:
    first, second = Seen(), Seen()
    job = DownloadJobRemoteSource(
        source=web.put("/models/13456", Resource(BODY, disposition='attachment; filename="theirs.bin"')),
        destination=f"{models}/",
        event_handlers=[first, second],
    )
    assert (job.id, job.status, job.priority) == (0, DownloadJobStatus.IDLE, 10)
    assert job.preserve_partial_downloads is False
    assert (job.bytes, job.total_bytes, job.access_token) == (0, 0, None)
    submitted = client.download_queue.submit_download_job(job, start=True)
    client.download_queue.join(timeout=20)
    assert submitted is job
    assert job.id > 0
    assert job.status is DownloadJobStatus.COMPLETED
    # An existing folder: the name is the one that the remote site assigns.
    assert (models / "theirs.bin").read_bytes() == BODY
    assert (job.bytes, job.total_bytes) == (len(BODY), len(BODY))
    assert job.job_started is not None
    assert job.job_ended is not None
    assert job.job_started <= job.job_ended
    assert job.job_sequence is not None
    assert job.error is None
    assert first.states == second.states


def test_create_download_job_makes_and_submits_it(client: Client, web: HttpServer, models: Path) -> None:
    handler = Seen()
    job = client.download_queue.create_download_job(
        source=web.put("/models/13456", Resource(BODY)),
        destdir=models,
        filename="my_model.safetensors",
        event_handlers=[handler],
        start=True,
    )
    client.download_queue.join(timeout=20)
    assert job.path == models / "my_model.safetensors"
    assert job.path.read_bytes() == BODY
    assert handler.order[-1] == "completed"


def test_a_destination_that_is_a_new_file_names_the_file(
    client: Client, web: HttpServer, models: Path
) -> None:
    url = web.put("/theirs.bin", Resource(SMALL))
    client.download_queue.submit_download_job(
        DownloadJobRemoteSource(source=url, destination=models / "new.bin")
    )
    client.download_queue.join(timeout=20)
    assert [path.name for path in models.iterdir()] == ["new.bin"]


def test_a_path_is_moved_in_the_background(client: Client, suite: Suite, models: Path) -> None:
    file, folder = suite.data_dir.parent / "here.bin", suite.data_dir.parent / "here"
    file.write_bytes(b"file")
    folder.mkdir()
    (folder / "inside.bin").write_bytes(b"folder")
    handler = Seen()
    jobs = [
        client.download_queue.create_download_job(file, models, event_handlers=[handler]),
        client.download_queue.create_download_job(folder, models),
    ]
    client.download_queue.join(timeout=20)
    assert all(isinstance(job, DownloadJobPath) and job.status == "completed" for job in jobs)
    assert (models / "here.bin").read_bytes() == b"file"
    assert (models / "here" / "inside.bin").read_bytes() == b"folder"
    assert not file.exists()
    assert not folder.exists()
    assert handler.order == ["enqueued", "running", "completed"]


def test_an_url_is_validated(client: Client, models: Path) -> None:
    with pytest.raises(ValidationError):
        DownloadJobURL(source="no address at all", destination=models)
    with pytest.raises(FieldInvalidException):
        client.download_queue.create_download_job("http://", models)
    with pytest.raises(FieldInvalidException):
        client.download_queue.create_download_job("ftp://example.com/file", models)
    assert client.download_queue.list_jobs() == []


def test_access_token_is_presented_to_the_source(client: Client, web: HttpServer, models: Path) -> None:
    url = web.put("/locked.bin", Resource(SMALL, authorization="Bearer open-sesame"))
    queue = client.download_queue
    opened = queue.create_download_job(url, models, access_token="open-sesame")
    refused = queue.create_download_job(url, models, filename="refused.bin")
    queue.join(timeout=20)
    assert opened.status == "completed", opened.error
    assert refused.status != "completed"
    assert "open-sesame" not in str(opened.message)


def test_an_error_is_kept_as_an_exception(client: Client, web: HttpServer, models: Path) -> None:
    handler = Seen()
    job = client.download_queue.create_download_job(web.url("/nowhere"), models, event_handlers=[handler])
    client.download_queue.join(timeout=20)
    assert job.status is DownloadJobStatus.ERROR
    assert isinstance(job.error, SourceNotFoundException)
    assert handler.order == ["enqueued", "running", "error"]
    assert job.job_ended is not None


@pytest.mark.parametrize("preserve", [False, True])
def test_partial_files_go_after_an_error_unless_preserved(
    client: Client, web: HttpServer, models: Path, preserve: bool
) -> None:
    url = web.put("/partial.bin", Resource(BODY, rate=SLOW))
    queue, handler = client.download_queue, Seen()
    failing = DownloadJobRemoteSource(
        source=url,
        destination=models / "partial.bin",
        preserve_partial_downloads=preserve,
        event_handlers=[handler],
    )
    queue.submit_download_job(failing)
    handler.until_bytes_come()
    queue.pause_job(failing)
    handler.until("paused")
    (models / "partial.bin").write_bytes(b"in the way")
    queue.start_job(failing)
    queue.join(timeout=20)
    assert failing.status == "error"
    (models / "partial.bin").unlink()
    web.resources["/partial.bin"].rate = None
    again = queue.submit_download_job(DownloadJobRemoteSource(source=url, destination=models / "partial.bin"))
    queue.join(timeout=20)
    assert again.status == "completed"
    assert (models / "partial.bin").read_bytes() == BODY
    # Relaunched, it goes on where the preserved file ends.
    assert (web.requests_of("/partial.bin")[-1].offset > 0) is preserve


def test_the_name_of_a_repository_is_told_as_one(client: Client, models: Path) -> None:
    with pytest.raises(SourceNotFoundException, match="Hugging Face repository cannot be fetched yet"):
        client.download_queue.create_download_job("owner/name", models)


def test_join_waits_until_a_paused_job_that_was_cancelled_is_gone(
    client: Client, web: HttpServer, models: Path
) -> None:
    queue, handler = client.download_queue, Seen()
    url = web.put("/slow.bin", Resource(BODY, rate=SLOW))
    job = queue.create_download_job(url, models, event_handlers=[handler])
    handler.until_bytes_come()
    queue.pause_job(job)
    queue.cancel_job(job)
    queue.join(timeout=20)
    assert (job.status, handler.order[-1]) == (DownloadJobStatus.CANCELLED, "cancelled")


def test_jobs_are_listed_by_labels_watched_to_their_end_and_pruned_by_status(
    client: Client, web: HttpServer, models: Path
) -> None:
    queue = client.download_queue
    url = web.put("/m.bin", Resource(b"\0small"))
    job = queue.create_download_job(url, models, labels={"team": "a"})
    failed = queue.create_download_job(web.url("/nowhere"), models)
    told = [
        (event.id, event.put.status)
        for frame in queue.watch([job.id, failed.id], until_ended=True)
        for event in frame.events
        if event.put is not None
    ]
    assert {(job.id, "completed"), (failed.id, "error")} <= set(told)
    assert [found.id for found in queue.list_jobs({"team": "a"})] == [job.id]
    assert queue.prune_jobs(statuses=["completed"], older_than=3600) == 0
    assert queue.prune_jobs([job]) == 1
    assert [found.id for found in queue.list_jobs()] == [failed.id]


# -- events ---------------------------------------------------------------------------------------------


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
    # It goes on through the queue, so that it may have to wait there again.
    assert [state for state in handler.order if state != "enqueued"] == [
        "running",
        "paused",
        "running",
        "completed",
    ]
    assert handler.order[0] == "enqueued"
    # It picks up where it left off.
    assert web.requests_of("/paused.bin")[-1].offset == reached > 0
    assert (models / "paused.bin").read_bytes() == BODY


def test_handlers_are_added_to_a_job_and_cleared(client: Client, web: HttpServer, models: Path) -> None:
    early, late, queue = Seen(), Seen(), client.download_queue
    job = queue.create_download_job(
        web.put("/late.bin", Resource(SMALL)), models, start=False, event_handlers=[early]
    )
    job.clear_event_handlers()
    job.add_event_handler(late)
    queue.start_job(job)
    queue.join(timeout=20)
    assert early.states == []
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

    url = web.put("/enough.bin", Resource(BODY, rate=SLOW))
    job = queue.create_download_job(url, models, event_handlers=[seen, enough])
    queue.join(timeout=20)
    assert job.status is DownloadJobStatus.CANCELLED
    assert seen.order[-1] == "cancelled"
    assert list(models.iterdir()) == []


@pytest.mark.parametrize("quiet", [False, True])
def test_starts_and_ends_are_logged_unless_quiet(
    client: Client, web: HttpServer, models: Path, caplog: pytest.LogCaptureFixture, quiet: bool
) -> None:
    caplog.set_level(logging.INFO, "modelkeep.client.downloads")
    queue = client.create_download_queue(f"quiet-{quiet}", quiet=quiet)
    queue.create_download_job(web.put("/logged.bin", Resource(BODY, rate=4 * SLOW)), models)
    queue.join(timeout=20)
    said = [record for record in caplog.records if record.name == "modelkeep.client.downloads"]
    assert len(said) == (0 if quiet else 2)  # start and end, and no progress


@pytest.mark.parametrize("quiet", [False, True])
def test_a_quiet_queue_is_quiet_of_failures_too(
    client: Client, web: HttpServer, models: Path, caplog: pytest.LogCaptureFixture, quiet: bool
) -> None:
    caplog.set_level(logging.INFO, "modelkeep.client.downloads")
    queue = client.create_download_queue(f"quiet-failure-{quiet}", quiet=quiet)
    job = queue.create_download_job(web.url("/nowhere"), models)
    queue.join(timeout=20)
    assert job.status == "error"
    said = [record.levelname for record in caplog.records if record.name == "modelkeep.client.downloads"]
    assert said == ([] if quiet else ["INFO", "ERROR"])


# -- control --------------------------------------------------------------------------------------------


def test_an_idle_job_is_started_later(client: Client, web: HttpServer, models: Path) -> None:
    queue = client.download_queue
    job = queue.create_download_job(web.put("/idle.bin", Resource(SMALL)), models, start=False)
    queue.join(timeout=20)  # it is not active, so nothing is waited for
    assert job.status == DownloadJobStatus.IDLE
    queue.start_job(job)
    queue.join(timeout=20)
    assert client.download_queue.id_to_job(job.id) is job
    assert job.ended
    assert (models / "idle.bin").read_bytes() == SMALL


def test_a_job_is_controlled_by_its_number(client: Client, web: HttpServer, models: Path) -> None:
    queue, handler = client.download_queue, Seen()
    url = web.put("/number.bin", Resource(BODY, rate=SLOW))
    job = queue.create_download_job(url, models, start=False, event_handlers=[handler])
    assert queue.start_job(job.id) is job
    handler.until_bytes_come()
    assert queue.pause_job(job.id) is job
    handler.until("paused")
    assert queue.cancel_job(job.id) is job
    handler.until("cancelled")
    assert job.status is DownloadJobStatus.CANCELLED


def test_the_lowest_priority_of_those_that_wait_runs_first(
    client: Client, web: HttpServer, models: Path
) -> None:
    queue, running = client.download_queue, Seen()
    first = queue.create_download_job(
        web.put("/first.bin", Resource(BODY, rate=SLOW)), models, event_handlers=[running]
    )
    running.until("running")
    late, normal, urgent = (
        queue.create_download_job(web.put(f"/{priority}.bin", Resource(b"\0x")), models, priority=priority)
        for priority in (20, 10, 1)
    )
    assert [job.status for job in (late, normal, urgent)] == [DownloadJobStatus.ENQUEUED] * 3
    assert first.status is DownloadJobStatus.RUNNING
    queue.join(timeout=20)
    by_sequence = sorted((first, late, normal, urgent), key=lambda job: job.job_sequence or 0)
    assert by_sequence == [first, urgent, normal, late]


def test_queues_are_isolated_and_know_only_their_jobs(client: Client, web: HttpServer, models: Path) -> None:
    url = web.put("/apart.bin", Resource(SMALL))
    one, two = client.create_download_queue("one"), client.create_download_queue("two")
    job = one.create_download_job(url, models, start=False)
    assert one.list_jobs() == [job]
    assert two.list_jobs() == []
    for control in (two.start_job, two.pause_job, two.cancel_job):
        with pytest.raises(UnknownJobIDException):
            control(job)
    with pytest.raises(UnknownJobIDException):
        one.start_job(DownloadJobRemoteSource(source=url, destination=models))  # never submitted
    with pytest.raises(UnknownJobIDException):
        two.id_to_job(job.id)


def test_jobs_are_listed_found_by_id_and_pruned(client: Client, web: HttpServer, models: Path) -> None:
    queue = client.download_queue
    url = web.put("/listed.bin", Resource(SMALL))
    idle = queue.create_download_job(url, models, filename="idle.bin", start=False)
    done = queue.create_download_job(url, models, filename="done.bin")
    failed = queue.create_download_job(web.url("/nowhere"), models)
    queue.join(timeout=20)
    assert {job.id for job in queue.list_jobs()} == {idle.id, done.id, failed.id}
    assert queue.id_to_job(done.id) is done
    queue.prune_jobs()
    assert [job.id for job in queue.list_jobs()] == [idle.id]
    with pytest.raises(UnknownJobIDException):
        queue.id_to_job(done.id)
    assert (models / "done.bin").exists()


def test_a_cancelled_job_leaves_no_temporary_file(
    client: Client, suite: Suite, web: HttpServer, models: Path
) -> None:
    handler, queue = Seen(), client.download_queue
    url = web.put("/cancelled.bin", Resource(BODY, rate=SLOW))
    job = queue.create_download_job(url, models, event_handlers=[handler])
    handler.until_bytes_come()
    queue.cancel_job(job)
    queue.join(timeout=20)
    assert job.status is DownloadJobStatus.CANCELLED
    assert list(models.iterdir()) == []
    assert not (suite.data_dir / "downloads" / ".staging" / f"download-{job.id}").exists()
