"""The code of the original's chapter on download queues as it stands there, imports and folders apart."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import DownloadJobBase, DownloadJobRemoteSource
from modelkeep.supervisor import Suite
from support.civitai import Civitai, File, Model, Version
from support.originaldownloads import SMALL, Seen, new_folder, quick_downloads

pytestmark = pytest.mark.timeout(60)

#: Not part of the repository; where it is at hand, the examples are compared with it.
REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "model_manager_v2.md"

HANDLER = """
def handler(job: DownloadJobBase):
    pass
"""
ADD_HANDLER = """
job.add_event_handler(my_handler)
"""
QUEUE = """
from invokeai.app.services.download_manager import DownloadQueueService
def log_download_event(job: DownloadJobBase):
    logger.info(f'job={job.id}: status={job.status}')
queue = DownloadQueueService(
    event_handlers=[log_download_event]
)
"""
SUBMIT = """
job = DownloadJobRemoteSource(
    source='http://www.civitai.com/models/13456',
    destination='/data/models/',
    event_handlers=[my_handler1, my_handler2], # if desired
)
queue.submit_download_job(job, start=True)
"""
CREATE = """
job = queue.create_download_job(
    source='http://www.civitai.com/models/13456',
    destdir='/data/models/',
    filename='my_model.safetensors',
    event_handlers=[my_handler1, my_handler2], # if desired
    start=True,
)
"""
EXAMPLES = {
    "handler": HANDLER,
    "add-handler": ADD_HANDLER,
    "queue": QUEUE,
    "submit": SUBMIT,
    "create": CREATE,
}


@pytest.fixture(scope="module")
def site() -> Iterator[Civitai]:
    with Civitai() as started:
        started.add(Model("Theirs", [Version("v1", [File("theirs.safetensors", SMALL)])], id=13456))
        yield started


@pytest.fixture(scope="module")
def suite_options(site: Civitai) -> dict[str, Any]:
    options = quick_downloads()
    return {**options, "env": {**options["env"], "MODELKEEP_DOWNLOAD_CIVITAI_ENDPOINT": site.endpoint}}


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference is not at hand")
@pytest.mark.parametrize("code", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_the_examples_are_the_references(code: str) -> None:
    assert "".join(code.split()) in "".join(REFERENCE.read_text().split())


def test_the_chapters_examples_run(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MODELKEEP_DATA_DIR", str(suite.data_dir))
    caplog.set_level(logging.INFO, "example")
    models = new_folder(suite)
    handlers = {name: Seen() for name in ("my_handler", "my_handler1", "my_handler2")}
    names: dict[str, Any] = {
        "DownloadJobBase": DownloadJobBase,
        "DownloadJobRemoteSource": DownloadJobRemoteSource,
        "logger": logging.getLogger("example"),
        **handlers,
    }

    def run(code: str) -> None:
        code = code.replace("invokeai.app.services.download_manager", "modelkeep.client")
        exec(code.replace("/data/models/", f"{models}/"), names)

    run(HANDLER)
    run(QUEUE)
    with names["queue"] as queue:
        run(SUBMIT)
        run(ADD_HANDLER)
        submitted = names["job"]
        queue.join()
        run(CREATE)
        queue.join()
        created = names["job"]
        assert (submitted.status, created.status) == ("completed", "completed")
        assert queue.list_jobs() == [submitted, created]
    assert {path.name: path.read_bytes() for path in models.iterdir()} == {
        "theirs.safetensors": SMALL,
        "my_model.safetensors": SMALL,
    }
    # The handlers of both jobs, and the queue's, which was appended to theirs.
    for name in ("my_handler1", "my_handler2"):
        assert handlers[name].states.count("completed") == 2
    assert handlers["my_handler"].states[-1:] == ["completed"]
    told = [record.getMessage() for record in caplog.records if record.name == "example"]
    for job in (submitted, created):
        of_job = [text for text in told if text.startswith(f"job={job.id}: ")]
        assert of_job[0] == f"job={job.id}: status=enqueued"
        assert of_job[-1] == f"job={job.id}: status=completed"
