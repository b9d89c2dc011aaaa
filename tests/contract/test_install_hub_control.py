"""What callers do to installs from a hub, in each of their stages and over restarts; all peers are real."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.download.v1.resolve_pb2 import RemoteSource
from modelkeep.install.v1 import control_pb2 as control
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from support.downloads import downloads_beside
from support.failures import fails
from support.httpserver import Hang, Slow, Status
from support.hub import Hub
from support.installs import InstallClient, install_beside, records_beside
from support.waiting import until

COMPLETED, ERROR = install_pb2.INSTALL_STATE_COMPLETED, install_pb2.INSTALL_STATE_ERROR
PAUSED, CANCELLED = install_pb2.INSTALL_STATE_PAUSED, install_pb2.INSTALL_STATE_CANCELLED
RESOLVING = install_pb2.INSTALL_STAGE_RESOLVING
WEIGHTS = "pytorch_lora_weights.safetensors"
#: What the probe makes of the weights is refused with this, at last.
REFUSED = install_pb2.ModelOverrides(format=taxonomy_pb2.MODEL_FORMAT_OLIVE)


class Suite:
    """InstallService and DownloadService, each to be started anew, beside a RecordService that stays."""

    def __init__(self, data_dir: Path, hub: Hub, records: Any, address: str) -> None:
        self._data_dir = data_dir
        self._hub = hub
        self._records = (records, address)

    @contextlib.asynccontextmanager
    async def started(self, downloads: str) -> AsyncIterator[InstallClient]:
        """An InstallService on a DownloadService that stays."""
        mirrors = (self._hub.url.removeprefix("http://"),)
        async with install_beside(self._data_dir, *self._records, downloads, hub_mirrors=mirrors) as service:
            yield service

    @contextlib.asynccontextmanager
    async def both_started(self) -> AsyncIterator[InstallClient]:
        """Both services."""
        async with (
            downloads_beside(self._data_dir, hub_endpoint=self._hub.url, max_attempts=2) as downloads,
            self.started(downloads) as service,
        ):
            yield service


@pytest.fixture
async def suite(data_dir: Path, hub: Hub) -> AsyncIterator[Suite]:
    (data_dir / "models").mkdir(parents=True, exist_ok=True)
    (data_dir.parent / "import").mkdir(exist_ok=True)
    async with records_beside(data_dir) as (records, address):
        yield Suite(data_dir, hub, records, address)


async def submit(
    service: InstallClient, source: str, variant: str = "", **fields: Any
) -> install_pb2.Install:
    what = install_pb2.InstallSource(remote=RemoteSource(source=source, variant=variant))
    answer: pb.ImportModelResponse = await service.stub.ImportModel(
        pb.ImportModelRequest(source=what, **fields)
    )
    return answer.install


async def pause(service: InstallClient, job: install_pb2.Install) -> install_pb2.Install:
    answer: control.PauseInstallResponse = await service.stub.PauseInstall(
        control.PauseInstallRequest(id=job.id)
    )
    return answer.install


async def resume(service: InstallClient, job: install_pb2.Install, **secrets: str) -> None:
    await service.stub.ResumeInstall(control.ResumeInstallRequest(id=job.id, **secrets))


async def retry(service: InstallClient, job: install_pb2.Install) -> install_pb2.Install:
    answer: control.RetryInstallResponse = await service.stub.RetryInstall(
        control.RetryInstallRequest(ids=[job.id])
    )
    return answer.installs[0]


def folder(lora: bytes) -> dict[str, bytes]:
    return {"README.md": b"# Ink", WEIGHTS: lora}


def served(hub: Hub) -> int:
    """Bytes of large files that were fetched."""
    return sum(request.bytes_sent for request in hub.storage.requests)


def comes(job: install_pb2.Install) -> bool:
    return job.progress.bytes_done > 0 and job.download_id > 0


# ---- one job for one source -------------------------------------------------------------------------------
async def test_the_same_source_is_the_same_job_after_a_restart_as_well(
    suite: Suite, hub: Hub, lora: bytes
) -> None:
    hub.repository("org/ink", folder(lora))
    hub.fail_storage(WEIGHTS, Slow(len(lora) // 4), Slow(len(lora) // 4))
    async with suite.both_started() as service:
        job = await submit(service, "org/ink")
        before = await service.until(job, comes)
        assert (await pause(service, job)).state == PAUSED
    async with suite.both_started() as service:
        with fails(code="ALREADY_EXISTS", reason="INSTALL_IN_PROGRESS") as found:
            await submit(service, "hf:org/ink", variant="fp16")
        assert found[0].metadata["id"] == str(job.id)
        assert (await service.get(job)).state == PAUSED
        for text in ("https://huggingface.co/org/ink", "hf:org/ink", f"{hub.url}/org/ink", "org/ink@main"):
            assert (await submit(service, text)).id == job.id, text
        other = await submit(service, f"org/ink@{before.plan.revision}")
        assert other.id != job.id
        done = await service.ended(job)
        assert (done.state, done.error.message) == (COMPLETED, "")


async def test_whoever_brings_what_a_paused_job_waits_for_is_answered_that_it_goes_on(
    suite: Suite, hub: Hub, lora: bytes
) -> None:
    hub.repository("org/gated", folder(lora), gated="auto").grant("bob")
    async with suite.both_started() as service:
        job = await submit(service, "org/gated")
        await service.until(job, lambda now: now.state == PAUSED)
        joined = await submit(service, "org/gated", access_token=hub.token("bob"))
        assert joined.id == job.id
        assert joined.state != PAUSED
        assert (await service.ended(job)).state == COMPLETED
        slow = hub.repository("org/slow", folder(lora))
        hub.fail_storage(WEIGHTS, Slow(len(lora) // 4))
        job = await submit(service, slow.name)
        await service.until(job, comes)
        await pause(service, job)
        assert (await submit(service, slow.name)).state != PAUSED


async def test_a_token_that_went_with_a_restart_is_asked_for_and_the_job_goes_on_with_it(
    suite: Suite, hub: Hub, lora: bytes
) -> None:
    hub.repository("org/gated", folder(lora), gated="auto").grant("alice")
    token = hub.token("alice")
    hub.fail_storage(WEIGHTS, Slow(len(lora) // 8))
    async with suite.both_started() as service:
        job = await submit(service, "org/gated", access_token=token)
        await service.until(job, comes)
        assert (await pause(service, job)).state == PAUSED
    async with suite.both_started() as service:
        with fails(code="FAILED_PRECONDITION", reason="TOKEN_REQUIRED"):
            await resume(service, job)
        assert (await service.get(job)).state == PAUSED
        assert (await submit(service, "hf:org/gated", access_token=token)).id == job.id
        done = await service.ended(job)
        assert (done.state, done.error.message) == (COMPLETED, "")
        assert token not in str(done)
        assert service.litter() == []


# ---- each stage -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["pause", "cancel", "delete"])
async def test_a_hub_that_hangs_keeps_nobody_from_steering_a_job_that_is_looked_up(
    suite: Suite, hub: Hub, lora: bytes, how: str
) -> None:
    hub.repository("org/ink", folder(lora))
    hub.fail(r"/api/models/org/ink", Hang(after=-1, seconds=300))
    async with suite.both_started() as service:
        job = await submit(service, "org/ink")
        await service.until(job, lambda now: now.stage == RESOLVING)
        await until(lambda: hub.site.requests)
        if how == "pause":
            assert (await pause(service, job)).state == PAUSED
            await resume(service, job)
            done = await service.ended(job)
            assert (done.state, done.error.message) == (COMPLETED, "")
            return
        if how == "cancel":
            await service.stub.CancelInstall(pb.CancelInstallRequest(id=job.id))
            assert (await service.ended(job)).state == CANCELLED
        else:
            await service.stub.DeleteInstall(control.DeleteInstallRequest(id=job.id))
            with fails(code="NOT_FOUND", reason="UNKNOWN_JOB"):
                await service.get(job)
        assert service.litter() == []


async def test_a_set_that_is_paused_fetches_nothing_and_goes_on_or_is_deleted(
    suite: Suite, hub: Hub, lora: bytes
) -> None:
    hub.repository("org/ink", folder(lora))
    hub.fail_storage(WEIGHTS, Slow(len(lora) // 4), Slow(len(lora) // 4))
    async with suite.both_started() as service:
        job = await submit(service, "org/ink")
        before = await service.until(job, comes)
        assert (await pause(service, job)).state == PAUSED
        await until(lambda: all(request.done for request in hub.storage.requests))
        at = served(hub)
        await asyncio.sleep(0.3)
        assert served(hub) == at
        await resume(service, job)
        again = await service.until(job, lambda now: now.state != PAUSED)
        assert (again.download_id, again.plan.revision) == (before.download_id, before.plan.revision)
        await pause(service, job)
        await service.stub.DeleteInstall(control.DeleteInstallRequest(id=job.id))
        assert service.litter() == []
        assert await service.models_count() == 0


async def test_a_refusal_that_is_lifted_while_the_job_is_paused_lets_the_download_be_tried_anew(
    suite: Suite, hub: Hub, lora: bytes
) -> None:
    repository = hub.repository("org/gated", folder(lora))
    hub.fail(rf"/resolve/.*{WEIGHTS}", Status(403))
    async with suite.both_started() as service:
        job = await submit(service, "org/gated")
        waiting = await service.until(job, lambda now: now.state in (PAUSED, ERROR))
        assert waiting.state == PAUSED, waiting.error
        assert waiting.plan.revision == repository.sha
        paused = await pause(service, job)
        assert (paused.state, paused.HasField("error")) == (PAUSED, False)
    async with suite.both_started() as service:
        await resume(service, job)
        done = await service.ended(job)
        assert (done.state, done.error.message) == (COMPLETED, "")


# ---- made anew --------------------------------------------------------------------------------------------
async def test_what_failed_while_it_was_looked_up_is_looked_up_anew(
    suite: Suite, hub: Hub, lora: bytes
) -> None:
    async with suite.both_started() as service:
        failed = await service.ended(await submit(service, "org/late"))
        assert (failed.state, failed.error.reason) == (ERROR, "SOURCE_NOT_FOUND")
        assert "kept_path" not in failed.error.metadata
        hub.repository("org/late", folder(lora))
        done = await service.ended(await retry(service, failed))
        assert (done.state, done.retry_of_id) == (COMPLETED, failed.id), done.error
        assert service.litter() == []


async def test_what_failed_after_its_download_is_made_of_that_without_fetching_a_byte(
    suite: Suite, hub: Hub, lora: bytes
) -> None:
    repository = hub.repository("org/ink", folder(lora))
    first = repository.sha
    async with suite.both_started() as service:
        failed = await service.ended(await submit(service, "org/ink", overrides=REFUSED))
        assert (failed.state, failed.error.reason) == (ERROR, "INVALID_MODEL_CONFIG")
        kept = failed.error.metadata["kept_path"]
    repository.commit({"README.md": b"# Another"})
    fetched, asked = served(hub), len(hub.site.requests)
    async with suite.both_started() as service:
        made = await retry(service, failed)
        assert made.plan.revision == first
        again = await service.ended(made)
        assert (again.error.reason, again.error.metadata["kept_path"]) == ("INVALID_MODEL_CONFIG", kept)
        assert (served(hub), len(hub.site.requests)) == (fetched, asked)
        assert again.plan.revision == first
        # the folder may be installed by itself, as the error says
        done = await service.install(Path(kept))
        assert done.state == COMPLETED, done.error
        await service.stub.DeleteInstall(control.DeleteInstallRequest(id=again.id))
        assert service.litter() == []
        [file] = [file for file in await service.digested(done.model_key) if file.path == WEIGHTS]
        assert file.digest_state == model_pb2.DIGEST_STATE_COMPUTED
