"""The original's DownloadQueueService by its constructor: queues that are apart, sessions of `requests`."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import (
    AsyncClient,
    Client,
    DownloadJobBase,
    DownloadJobRemoteSource,
    DownloadJobURL,
    DownloadQueueService,
)
from modelkeep.exceptions import SourceNotFoundException, UnknownJobIDException
from modelkeep.supervisor import Suite
from support.httpserver import HttpServer, Resource
from support.originaldownloads import BODY, SLOW, SMALL, Seen, new_folder, quick_downloads
from support.simulatedweb import SimulatedSource, simulated

pytestmark = pytest.mark.timeout(60)

SITE = "https://www.models.example/models"
NAMED = {"Content-Disposition": 'filename="mock.safetensors"'}


def most_at_once(jobs: Iterable[DownloadJobBase]) -> int:
    """How many of the jobs ran at one time, by the times that the service has noted."""
    times = [(time, change) for job in jobs for time, change in ((job.job_started, 1), (job.job_ended, -1))]
    ordered = sorted((time, change) for time, change in times if time is not None)
    return max(accumulate(change for _, change in ordered))


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return quick_downloads(at_once=8)


@pytest.fixture
def models(suite: Suite) -> Path:
    """A folder that may be downloaded to, new for each test."""
    return new_folder(suite)


@pytest.fixture
def address(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues find the suite as every client does."""
    monkeypatch.setenv("MODELKEEP_DATA_DIR", str(suite.data_dir))


# -- of the suite ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("address")
def test_each_queue_object_is_a_queue_of_its_own(web: HttpServer, models: Path) -> None:
    url = web.put("/apart.bin", Resource(SMALL))
    with DownloadQueueService() as one, DownloadQueueService() as two, Client() as client:
        job = one.create_download_job(url, models, start=False)
        assert one.list_jobs() == [job]
        assert (two.list_jobs(), client.download_queue.list_jobs()) == ([], [])
        for queue in (two, client.download_queue):
            for control in (queue.start_job, queue.pause_job, queue.cancel_job):
                with pytest.raises(UnknownJobIDException):
                    control(job)
                with pytest.raises(UnknownJobIDException):
                    control(job.id)
            with pytest.raises(UnknownJobIDException):
                queue.id_to_job(job.id)
        with pytest.raises(UnknownJobIDException):
            one.start_job(DownloadJobRemoteSource(source=url, destination=models))  # never submitted
        two.join(timeout=5)
        one.start_job(job)
        one.join(timeout=20)
        assert job.status == "completed"
        assert (two.prune_jobs(), one.prune_jobs()) == (0, 1)


@pytest.mark.usefixtures("address")
def test_max_parallel_dl_is_a_queues_own(web: HttpServer, models: Path) -> None:
    with (
        DownloadQueueService(max_parallel_dl=1) as one,
        DownloadQueueService(max_parallel_dl=2) as two,
        Client() as client,
    ):
        for queue, name in ((one, "one"), (two, "two")):
            for number in range(4):
                url = web.put(f"/{name}-{number}.bin", Resource(SMALL * 10_000, rate=SLOW // 4))
                queue.create_download_job(url, models)
        one.join(timeout=30)
        two.join(timeout=30)
        assert (most_at_once(one.list_jobs()), most_at_once(two.list_jobs())) == (1, 2)
        assert set(client.download_queue.get_limits().queues.values()) == {1, 2}
    with Client() as client:  # a queue that nobody can come back to leaves no limit behind
        assert client.download_queue.get_limits().queues == {}


@pytest.mark.usefixtures("address")
def test_five_run_at_once_where_nobody_says_how_many(web: HttpServer, models: Path) -> None:
    with DownloadQueueService() as queue:
        for number in range(8):
            url = web.put(f"/five-{number}.bin", Resource(SMALL * 10_000, rate=SLOW // 8))
            queue.create_download_job(url, models)
        queue.join(timeout=40)
        assert most_at_once(queue.list_jobs()) == 5


class _NamedJob(DownloadJobURL):
    """A job of a caller's own class."""


class _NamingQueue(DownloadQueueService):
    def job_class(self, source: Any) -> type[DownloadJobBase]:
        return _NamedJob if str(source).endswith(".named") else super().job_class(source)


@pytest.mark.usefixtures("address")
def test_a_subclass_of_the_queue_chooses_the_classes_of_its_jobs(web: HttpServer, models: Path) -> None:
    named, other = web.put("/a.named", Resource(SMALL)), web.put("/b.bin", Resource(SMALL))
    with _NamingQueue() as queue:
        jobs = [queue.create_download_job(url, models) for url in (named, other)]
        queue.join(timeout=20)
        assert [type(job) for job in jobs] == [_NamedJob, DownloadJobURL]
        assert [job.status for job in jobs] == ["completed", "completed"]
    gone = weakref.ref(queue)
    del queue
    gc.collect()
    assert gone() is None


@pytest.mark.usefixtures("address")
def test_a_named_queue_is_found_again(web: HttpServer, models: Path) -> None:
    url = web.put("/named.bin", Resource(SMALL))
    with DownloadQueueService(queue="mine", max_parallel_dl=3) as queue:
        id = queue.create_download_job(url, models, start=False).id
    with DownloadQueueService(queue="mine", max_parallel_dl=3) as queue, Client() as client:
        assert [job.id for job in queue.list_jobs()] == [id]
        assert client.download_queue.get_limits().queues["mine"] == 3
        queue.cancel_job(id)
        queue.join(timeout=10)
        queue.prune_jobs()


@pytest.mark.usefixtures("address")
def test_all_jobs_of_a_queue_are_started_paused_and_cancelled(web: HttpServer, models: Path) -> None:
    with DownloadQueueService() as queue, DownloadQueueService() as other:
        jobs = [
            queue.create_download_job(
                web.put(f"/all-{number}.bin", Resource(BODY, rate=SLOW // 4)), models, start=False
            )
            for number in range(3)
        ]
        bystander = other.create_download_job(web.put("/bystander.bin", Resource(SMALL)), models, start=False)
        done = queue.create_download_job(web.put("/done.bin", Resource(SMALL)), models)
        queue.join(timeout=20)
        handler = Seen()
        for job in jobs:
            job.add_event_handler(handler)
        assert queue.start_all_jobs() == 3
        handler.until_bytes_come()
        assert queue.pause_all_jobs() == 3
        queue.join(timeout=20)
        assert {job.status for job in queue.list_jobs()} == {"paused", "completed"}
        assert queue.start_all_jobs() == 3
        assert queue.cancel_all_jobs() == 3
        queue.join(timeout=20)
        assert [job.status for job in (*jobs, done, bystander)] == ["cancelled"] * 3 + ["completed", "idle"]
        other.cancel_job(bystander)
    assert [path.name for path in models.iterdir()] == ["done.bin"]


@pytest.mark.usefixtures("address")
async def test_on_an_event_loop_a_queue_has_a_number_of_its_own_too(web: HttpServer, models: Path) -> None:
    async with AsyncClient() as client:
        queue = client.create_download_queue("on-a-loop", max_parallel_dl=1)
        for number in range(3):
            url = web.put(f"/loop-{number}.bin", Resource(SMALL * 1000, rate=SLOW // 20))
            await queue.create_download_job(url, models, start=False)
        assert await queue.start_all_jobs() == 3
        await queue.join(timeout=20)
        assert most_at_once(await queue.list_jobs()) == 1
        assert (await queue.get_limits()).queues["on-a-loop"] == 1
        await queue.set_limits(reset=True)


def test_fewer_than_one_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="max_parallel_dl"):
        DownloadQueueService(max_parallel_dl=0)


# -- with a session -------------------------------------------------------------------------------------


def test_a_session_simulates_a_web_server(tmp_path: Path) -> None:
    handler = Seen()
    session = simulated({f"{SITE}/1": SimulatedSource(BODY, NAMED), f"{SITE}/2": SimulatedSource(SMALL)})
    with DownloadQueueService(requests_session=session, event_handlers=[handler]) as queue:
        (tmp_path / "models").mkdir()
        first = queue.submit_download_job(DownloadJobURL(source=f"{SITE}/1", destination=tmp_path / "models"))
        queue.join()
        second = queue.create_download_job(f"{SITE}/2", tmp_path / "models", filename="two.bin")
        missing = queue.create_download_job(f"{SITE}/3", tmp_path / "models")
        queue.join()
        assert [job.status for job in (first, second, missing)] == ["completed", "completed", "error"]
        assert isinstance(missing.error, SourceNotFoundException)
        assert isinstance(first, DownloadJobURL)
        assert (first.bytes, first.total_bytes) == (len(BODY), len(BODY))
        assert handler.states[0] == "enqueued"
        assert queue.prune_jobs() == 3
    assert (tmp_path / "models" / "mock.safetensors").read_bytes() == BODY
    assert (tmp_path / "models" / "two.bin").read_bytes() == SMALL


def test_a_download_through_a_session_is_paused_started_and_cancelled(tmp_path: Path) -> None:
    source, handler = SimulatedSource(BODY, {"ETag": '"v1"'}, rate=SLOW // 2), Seen()
    with DownloadQueueService(requests_session=simulated({f"{SITE}/1": source})) as queue:
        job = queue.create_download_job(f"{SITE}/1", tmp_path, event_handlers=[handler])
        handler.until_bytes_come()
        queue.pause_job(job)
        handler.until("paused")
        queue.start_job(job)
        handler.until("running")
        queue.cancel_job(job)
        queue.join(timeout=20)
    assert handler.order == ["enqueued", "running", "paused", "running", "cancelled"]
    assert list(tmp_path.iterdir()) == []


def test_a_token_goes_through_the_session_and_max_parallel_dl_holds(tmp_path: Path) -> None:
    source = SimulatedSource(SMALL * 10_000, rate=SLOW // 4)
    with DownloadQueueService(max_parallel_dl=2, requests_session=simulated({SITE: source})) as queue:
        for number in range(4):
            queue.create_download_job(f"{SITE}/{number}", tmp_path, access_token="open-sesame")
        queue.join(timeout=30)
        assert {job.status for job in queue.list_jobs()} == {"completed"}
    assert source.most_at_once == 2
    assert {request.headers["Authorization"] for request in source.requests} == {"Bearer open-sesame"}


def test_queues_with_sessions_are_apart(tmp_path: Path) -> None:
    sources = SimulatedSource(b"\0one"), SimulatedSource(b"\0two")
    with (
        DownloadQueueService(requests_session=simulated({SITE: sources[0]})) as one,
        DownloadQueueService(requests_session=simulated({SITE: sources[1]})) as two,
    ):
        jobs = [
            queue.create_download_job(f"{SITE}/x", tmp_path, filename=f"{place}.bin")
            for place, queue in enumerate((one, two))
        ]
        one.join(timeout=20)
        two.join(timeout=20)
        assert (one.list_jobs(), two.list_jobs()) == (jobs[:1], jobs[1:])
        with pytest.raises(UnknownJobIDException):
            two.start_job(jobs[0])
    assert [(tmp_path / f"{place}.bin").read_bytes() for place in (0, 1)] == [b"\0one", b"\0two"]


@pytest.mark.parametrize("quiet", [False, True])
def test_a_queue_with_a_session_is_quiet_if_it_is_told_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, quiet: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    session = simulated({f"{SITE}/1": SimulatedSource(SMALL)})
    with DownloadQueueService(requests_session=session, quiet=quiet) as queue:
        queue.create_download_job(f"{SITE}/1", tmp_path)
        queue.join()
        queue.create_download_job(f"{SITE}/2", tmp_path)
        queue.join()
    told = [(record.levelname, record.name) for record in caplog.records if record.levelno >= logging.INFO]
    log = "modelkeep.client.downloads"
    levels = ("INFO", "INFO", "INFO", "ERROR")
    assert told == ([] if quiet else [(level, log) for level in levels])


def test_without_the_service_a_session_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "modelkeep_download.embedded", None)
    with pytest.raises(RuntimeError, match=r"modelkeep\[download\]"):
        DownloadQueueService(requests_session=simulated({}))


def test_a_queue_with_a_session_that_is_forgotten_leaves_no_thread_and_no_folder(tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    queue = DownloadQueueService(requests_session=simulated({f"{SITE}/1": SimulatedSource(SMALL)}))
    job = queue.create_download_job(f"{SITE}/1", tmp_path)
    queue.join()
    assert job.status == "completed"
    assert set(threading.enumerate()) > threads
    del queue
    assert set(threading.enumerate()) <= threads
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_program_that_ends_in_the_middle_of_a_download_ends_without_noise(tmp_path: Path) -> None:
    code = (
        "import sys, threading\n"
        "from modelkeep.client import DownloadQueueService\n"
        "from support.simulatedweb import SimulatedSource, simulated\n"
        "session = simulated({'https://m.example': SimulatedSource(bytes(1_000_000), rate=100_000)})\n"
        "begun = threading.Event()\n"
        "def note(job):\n"
        "    if job.bytes:\n"
        "        begun.set()\n"
        "queue = DownloadQueueService([note], requests_session=session, quiet=True)\n"
        "job = queue.create_download_job('https://m.example/x', sys.argv[1])\n"
        "assert begun.wait(20)\n"
    )
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "models")],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list((tmp_path / "tmp").glob("modelkeep-*/download")) == []
