"""The original's DownloadQueueService, example by example, through the Python client against a real suite.

One download runs at a time in this suite, so that what waits in the queue can be seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from modelkeep.client import (
    AsyncClient,
    Client,
    DownloadJobBase,
    DownloadJobPath,
    DownloadJobRemoteSource,
    DownloadJobStatus,
    DownloadJobURL,
)
from modelkeep.exceptions import (
    DestinationExistsException,
    FieldInvalidException,
    SourceNotFoundException,
    UnknownJobIDException,
    WrongStateException,
)
from modelkeep.supervisor import Suite
from support.httpserver import HttpServer, Resource
from support.originaldownloads import BODY, SLOW, SMALL, Seen, new_folder, quick_downloads, tidy_client

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return quick_downloads(at_once=1)


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    with tidy_client(suite) as opened:
        yield opened


@pytest.fixture
def models(suite: Suite) -> Path:
    """A folder that may be downloaded to, new for each test."""
    return new_folder(suite)


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
    with pytest.raises(ValueError, match="was submitted before"):
        client.download_queue.submit_download_job(job)


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


@pytest.mark.parametrize("way", ["destination", "filename", "path"])
def test_a_destination_that_is_an_existing_file_is_written_over(
    client: Client, suite: Suite, web: HttpServer, models: Path, way: str
) -> None:
    queue, url = client.download_queue, web.put("/theirs.bin", Resource(SMALL))
    (models / "old.bin").write_bytes(b"old")
    (suite.data_dir.parent / "moved.bin").write_bytes(SMALL)
    job: DownloadJobBase
    if way == "filename":
        job = queue.create_download_job(url, models, filename="old.bin")
    else:
        job = (
            DownloadJobURL(source=url, destination=models / "old.bin")
            if way == "destination"
            else DownloadJobPath(source=suite.data_dir.parent / "moved.bin", destination=models / "old.bin")
        )
        queue.submit_download_job(job)
    queue.join(timeout=20)
    assert (job.status, job.replace_existing) == ("completed", True), job.error
    assert {path.name: path.read_bytes() for path in models.iterdir()} == {"old.bin": SMALL}


def test_an_existing_file_stays_until_the_new_one_is_there_and_where_it_was_not_named(
    client: Client, web: HttpServer, models: Path
) -> None:
    queue, url = client.download_queue, web.put("/old.bin", Resource(SMALL))
    (models / "old.bin").write_bytes(b"old")
    broken = queue.create_download_job(web.url("/nowhere"), models, filename="old.bin")
    named_by_the_source = queue.create_download_job(url, models, start=False)
    queue.join(timeout=20)
    queue.start_job(named_by_the_source)
    queue.join(timeout=20)
    assert (broken.status, named_by_the_source.status) == ("error", "error")
    assert isinstance(named_by_the_source.error, DestinationExistsException)
    with pytest.raises(DestinationExistsException):
        queue.create_download_job(url, models, filename="old.bin", replace_existing=False)
    assert (models / "old.bin").read_bytes() == b"old"


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
        replace_existing=False,
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


def test_partial_files_may_be_preserved_any_time_before_the_error(
    client: Client, web: HttpServer, models: Path
) -> None:
    url = web.put("/late.bin", Resource(BODY, rate=SLOW))
    queue, handler = client.download_queue, Seen()
    job = queue.create_download_job(url, models, event_handlers=[handler])
    handler.until_bytes_come()
    assert job.preserve_partial_downloads is False
    job.preserve_partial_downloads = True
    assert queue.id_to_job(job.id).message.preserve_partial
    queue.pause_job(job)
    handler.until("paused")
    (models / "late.bin").write_bytes(b"in the way")
    queue.start_job(job)
    queue.join(timeout=20)
    assert (job.status, job.preserve_partial_downloads) == ("error", True)
    (models / "late.bin").unlink()
    queue.create_download_job(url, models)
    queue.join(timeout=20)
    assert web.requests_of("/late.bin")[-1].offset > 0
    # It is over, and nothing that is set of it can come true.
    with pytest.raises(WrongStateException):
        job.preserve_partial_downloads = False
    assert job.preserve_partial_downloads is True


def test_a_handler_may_preserve_the_partial_file_and_change_the_priority(
    client: Client, web: HttpServer, models: Path
) -> None:
    def change(job: DownloadJobBase) -> None:
        if job.status == "enqueued":
            job.preserve_partial_downloads = True
            job.priority = 3

    url = web.put("/changed.bin", Resource(BODY, rate=SLOW))
    job = client.download_queue.create_download_job(url, models, event_handlers=[change])
    client.download_queue.join(timeout=20)
    found = client.create_download_queue(None).id_to_job(job.id)
    assert (found.priority, found.preserve_partial_downloads) == (3, True)


async def test_on_the_event_loop_a_job_is_changed_by_the_queue(
    suite: Suite, web: HttpServer, models: Path
) -> None:
    async with AsyncClient(data_dir=suite.data_dir) as client:
        queue = client.download_queue
        job = await queue.create_download_job(web.put("/a.bin", Resource(SMALL)), models, start=False)
        with pytest.raises(RuntimeError, match=r"await queue\.update_job\(job, priority=1\)"):
            job.priority = 1
        assert await queue.update_job(job, priority=1, preserve_partial_downloads=True) is job
        assert (job.priority, job.preserve_partial_downloads) == (1, True)
        assert (await queue.update_job(job.id, priority=2)).preserve_partial_downloads is True


def test_join_waits_until_a_paused_job_that_was_cancelled_is_gone(
    client: Client, web: HttpServer, models: Path
) -> None:
    queue, handler = client.download_queue, Seen()
    url = web.put("/slow.bin", Resource(BODY, rate=SLOW // 4))
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
    with pytest.raises(FieldInvalidException, match="older_than"):
        queue.prune_jobs(older_than=float("nan"))
    assert queue.prune_jobs([job]) == 1
    assert [found.id for found in queue.list_jobs()] == [failed.id]


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
    url = web.put("/number.bin", Resource(BODY, rate=SLOW // 4))
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
        web.put("/first.bin", Resource(BODY, rate=SLOW)), models, priority=1, event_handlers=[running]
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


def test_a_job_that_makes_way_for_a_better_one_is_told_as_running_again(
    client: Client, web: HttpServer, models: Path
) -> None:
    queue, handler, urgent_handler = client.download_queue, Seen(), Seen()
    first = queue.create_download_job(
        web.put("/first.bin", Resource(BODY, rate=SLOW)), models, priority=20, event_handlers=[handler]
    )
    handler.until_bytes_come()
    urgent = queue.create_download_job(
        web.put("/urgent.bin", Resource(BODY, rate=SLOW)), models, priority=1, event_handlers=[urgent_handler]
    )
    urgent_handler.until("running")
    assert queue.id_to_job(first.id).status is DownloadJobStatus.ENQUEUED
    queue.join(timeout=20)
    assert (first.status, urgent.status) == ("completed", "completed")
    assert handler.order == urgent_handler.order == ["enqueued", "running", "completed"]
    assert (first.job_sequence or 0) > (urgent.job_sequence or 0)


def test_a_failed_job_is_made_anew_with_its_handlers(client: Client, web: HttpServer, models: Path) -> None:
    own, queues = Seen(), Seen()
    queue = client.create_download_queue("again", [queues])
    failed = queue.create_download_job(web.url("/later.bin"), models, event_handlers=[own])
    queue.join(timeout=20)
    web.put("/later.bin", Resource(SMALL))
    with pytest.raises(UnknownJobIDException):
        client.download_queue.retry_job(failed)
    again = queue.retry_job(failed)
    queue.join(timeout=20)
    assert (failed.status, again.status, again.message.retry_of_id) == ("error", "completed", failed.id)
    assert again.event_handlers == [own, queues]
    assert own.order == queues.order == ["enqueued", "running", "error", "enqueued", "running", "completed"]
    with pytest.raises(WrongStateException):
        queue.retry_job(again)


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
    url = web.put("/cancelled.bin", Resource(BODY, rate=SLOW // 4))
    job = queue.create_download_job(url, models, event_handlers=[handler])
    handler.until_bytes_come()
    queue.cancel_job(job)
    queue.join(timeout=20)
    assert job.status is DownloadJobStatus.CANCELLED
    assert list(models.iterdir()) == []
    assert not (suite.data_dir / "downloads" / ".staging" / f"download-{job.id}").exists()
