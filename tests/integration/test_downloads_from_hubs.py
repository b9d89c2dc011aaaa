"""What hubs name, downloaded by command and by the Python client, under the original's names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import Client, DownloadJobRemoteSource, DownloadJobRepoID, DownloadJobURL
from modelkeep.exceptions import TokenRequiredException, UnknownVariantException
from modelkeep.supervisor import Suite
from support.cli import run, run_json
from support.httpserver import pattern
from support.hub import Hub
from support.originaldownloads import Seen, new_folder, quick_downloads, tidy_client

pytestmark = pytest.mark.timeout(90)

FULL, HALF = pattern(400_000, seed=3), pattern(200_000, seed=4)
CONFIG = b'{"_class_name": "AutoencoderKL"}'
VAE = {
    "config.json": CONFIG,
    "diffusion_pytorch_model.bin": FULL,
    "diffusion_pytorch_model.fp16.bin": HALF,
}
BY_DEFAULT = {name: VAE[name] for name in ("config.json", "diffusion_pytorch_model.bin")}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as started:
        started.repository("org/vae", VAE)
        started.repository("org/gated", VAE, gated="manual").grant("alice")
        yield started


@pytest.fixture(scope="module")
def suite_options(hub: Hub) -> dict[str, Any]:
    options = quick_downloads()
    return {**options, "env": {**options["env"], "MODELKEEP_DOWNLOAD_HUB_ENDPOINT": hub.url}}


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    with tidy_client(suite) as client:
        yield client


@pytest.fixture
def models(suite: Suite) -> Path:
    """A folder that may be downloaded to, new for each test."""
    return new_folder(suite)


def delivered(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_repository_is_looked_up_and_fetched_by_command(suite: Suite, models: Path) -> None:
    told = run(suite, "downloads", "resolve", "org/vae").stdout
    assert "diffusion_pytorch_model.bin  400.0 kB" in told
    assert "variant fp16" in told
    plan = run_json(suite, "downloads", "resolve", "org/vae", "--variant", "fp16")
    assert {file["path"] for file in plan["files"]} == {"config.json", "diffusion_pytorch_model.fp16.bin"}
    added = run_json(suite, "downloads", "add", "org/vae", f"{models}/half", "--variant", "fp16")
    assert (added["state"], added["file_count"]) == ("DOWNLOAD_STATE_COMPLETED", 2)
    assert (models / "half" / "diffusion_pytorch_model.fp16.bin").read_bytes() == HALF
    shown = run(suite, "downloads", "show", added["id"]).stdout
    assert plan["revision"] in shown
    assert "org/vae" in run(suite, "downloads", "list").stdout
    one = run_json(suite, "downloads", "add", "org/vae:config.json")
    assert one["path"] == f"{suite.data_dir}/downloads/vae/config.json"
    assert "UNKNOWN_VARIANT" in run(suite, "downloads", "add", "org/vae", "--variant", "int3", code=1).stderr


def test_a_repositorys_job_has_the_statuses_and_events_of_a_files(
    client: Client, models: Path, hub: Hub
) -> None:
    handler, of_file = Seen(), Seen()
    job = client.download_queue.create_download_job("org/vae", models / "vae", event_handlers=[handler])
    assert isinstance(job, DownloadJobRepoID)
    client.download_queue.join(timeout=30)
    url = f"{hub.url}/org/vae/resolve/main/diffusion_pytorch_model.bin"
    file = client.download_queue.create_download_job(url, models, event_handlers=[of_file])
    assert isinstance(file, DownloadJobURL)
    client.download_queue.join(timeout=30)
    assert handler.order == of_file.order == ["enqueued", "running", "completed"]
    assert (job.bytes, job.total_bytes) == (len(FULL) + len(CONFIG),) * 2
    assert (file.bytes, file.total_bytes) == (len(FULL),) * 2
    revision = client.download_queue.resolve_source("org/vae").revision
    assert (job.status, job.revision, job.path) == ("completed", revision, models / "vae")
    assert delivered(models / "vae") == BY_DEFAULT
    assert client.download_queue.id_to_job(job.id) is job


def test_a_job_made_by_hand_takes_a_repository_too_and_is_steered_as_any(
    client: Client, models: Path
) -> None:
    queue = client.download_queue
    one = DownloadJobRemoteSource(source="org/vae", destination=models / "one")
    other = DownloadJobRepoID(source="org/vae", variant="fp16", destination=models / "other")
    for job in (one, other):
        assert queue.submit_download_job(job, start=False) is job
        assert (job.status, job.bytes, job.total_bytes) == ("idle", 0, 0)
    queue.cancel_job(other)
    queue.start_all_jobs()
    queue.join(timeout=30)
    assert (one.status, other.status) == ("completed", "cancelled")
    assert delivered(models) == {f"one/{name}": body for name, body in BY_DEFAULT.items()}


def test_what_a_lookup_finds_wrong_is_raised_by_the_submission(
    client: Client, models: Path, hub: Hub
) -> None:
    queue = client.download_queue
    with pytest.raises(TokenRequiredException):
        queue.create_download_job("org/gated", models / "gated")
    with pytest.raises(UnknownVariantException):
        queue.create_download_job("org/vae", models / "vae", variant="int3")
    job = queue.create_download_job("org/gated", models / "gated", access_token=hub.token("alice"))
    queue.join(timeout=30)
    assert job.status == "completed"
    assert delivered(models / "gated") == BY_DEFAULT
    plan = queue.resolve_source("org/vae", variant="fp16")
    assert plan.bytes_total == len(HALF) + len(CONFIG)
