"""InstallService stopped dead at every step of a job: the next start makes one record, one copy, no litter.

The steps of a job are separated by its writes to the store. Each test lets a service die just before or
just after the n-th of them, for every n, and starts another one on what is left. tests/integration kills
real processes; here every point is met, and met exactly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep_common.serving import start_server
from modelkeep_install import app as install_app
from modelkeep_install.domain.jobs import Job
from modelkeep_install.domain.ports import DigestWork
from modelkeep_install.store import InstallStore
from support.downloads import downloads_beside
from support.httpserver import HttpServer, Resource
from support.installs import InstallClient, install_beside, records_beside, small_lora

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED


class Died(BaseException):
    """What ends a job as a kill would: no handler of the service sees it."""


class DyingStore(InstallStore):
    """Dies at a given write: before it (its data is lost) or after it (nobody learns of it)."""

    #: Writes until the end; None: lives.
    left: int | None = None
    after = False
    died: asyncio.Event

    async def save(self, job: Job, *, record: bytes = b"", digests: DigestWork | None = None) -> Job:
        cls = type(self)
        if cls.left is None:
            return await super().save(job, record=record, digests=digests)
        cls.left -= 1
        if cls.left < 0:
            if cls.after:
                await super().save(job, record=record, digests=digests)
            cls.died.set()
            raise Died
        return await super().save(job, record=record, digests=digests)


@pytest.fixture(autouse=True)
def dying(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[DyingStore]]:
    monkeypatch.setattr(install_app, "InstallStore", DyingStore)
    DyingStore.died = asyncio.Event()
    yield DyingStore
    DyingStore.left = None


async def die_at(
    count: int, after: bool, data_dir: Path, peers: tuple[Any, str, str], source: Path | str, **fields: Any
) -> tuple[int, bool]:
    """Lets a service die at the ``count``-th write of a job: (the job's id, whether it did die)."""
    DyingStore.left, DyingStore.after, DyingStore.died = count, after, asyncio.Event()
    async with install_beside(data_dir, *peers) as service:
        job = await service.submit(source, **fields)
        ended = asyncio.create_task(service.ended(job))
        died = asyncio.create_task(DyingStore.died.wait())
        await asyncio.wait({ended, died}, return_when=asyncio.FIRST_COMPLETED)
        dead = died.done()
        for task in (ended, died):
            task.cancel()
        await asyncio.gather(ended, died, return_exceptions=True)
    DyingStore.left = None
    return job.id, dead


async def check_recovered(service: InstallClient, job_id: int, content: bytes) -> None:
    """The job is COMPLETED, with one record and one copy, and nothing else is there."""
    job = await service.ended(job_id)
    assert job.state == COMPLETED, job.error
    assert await service.models_count() == 1
    [file] = await service.digested(job.model_key)
    assert file.size_bytes == len(content)
    assert service.litter() == []
    placed = list(service.models.rglob("*.safetensors"))
    assert placed == [service.models / job.model_key / file.path]
    assert placed[0].read_bytes() == content
    await service.stub.UninstallModel(
        pb.UninstallModelRequest(key=job.model_key, files=pb.UNINSTALL_FILES_OWNED)
    )
    await service.stub.PruneInstalls(pb.PruneInstallsRequest())
    assert [path for path in service.models.iterdir() if path.is_dir() and any(path.iterdir())] == []


@pytest.mark.timeout(90)
@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
async def test_a_copied_model_survives_the_end_of_the_service_at_every_step(
    data_dir: Path, after: bool
) -> None:
    (data_dir.parent / "import").mkdir()
    source = small_lora(data_dir.parent / "import" / "style.safetensors")
    content = source.read_bytes()
    async with records_beside(data_dir) as (records, address):
        peers = (records, address, "127.0.0.1:9")
        points = 0
        while True:
            job_id, dead = await die_at(points, after, data_dir, peers, source, inplace=False)
            async with install_beside(data_dir, *peers) as service:
                await check_recovered(service, job_id, content)
            if not dead:
                break
            points += 1
    assert points >= 8


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
async def test_a_downloaded_model_survives_the_end_of_the_service_at_every_step(
    data_dir: Path, after: bool
) -> None:
    (data_dir.parent / "import").mkdir()
    content = small_lora(data_dir.parent / "import" / "style.safetensors").read_bytes()
    with HttpServer() as http:
        url = http.put("/style.safetensors", Resource(content))
        async with (
            downloads_beside(data_dir) as downloads,
            records_beside(data_dir) as (records, address),
        ):
            peers = (records, address, downloads)
            points = 0
            while True:
                job_id, dead = await die_at(points, after, data_dir, peers, url)
                async with install_beside(data_dir, *peers) as service:
                    await check_recovered(service, job_id, content)
                if not dead:
                    break
                points += 1
        assert points >= 8
        # every job downloaded once, whenever the service died
        assert http.bytes_served("/style.safetensors") == (points + 1) * len(content)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
async def test_a_job_that_fails_keeps_its_reason_when_the_service_dies_at_any_step(
    data_dir: Path, after: bool
) -> None:
    (data_dir.parent / "import").mkdir()
    source = small_lora(data_dir.parent / "import" / "style.safetensors")
    refused = install_pb2.ModelOverrides(format=taxonomy_pb2.MODEL_FORMAT_OLIVE)  # by RecordService, at last
    async with records_beside(data_dir) as (records, address):
        peers = (records, address, "127.0.0.1:9")
        points = 0
        while True:
            job_id, dead = await die_at(
                points, after, data_dir, peers, source, inplace=False, overrides=refused
            )
            async with install_beside(data_dir, *peers) as service:
                job = await service.ended(job_id)
                assert job.state == install_pb2.INSTALL_STATE_ERROR
                assert job.error.reason == "INVALID_MODEL_CONFIG", (points, job.error)
                assert service.litter() == []
                assert list(service.models.rglob("*.safetensors")) == []
            if not dead:
                break
            points += 1
    assert points >= 8


async def test_a_cancelled_job_stays_cancelled_when_the_service_dies_meanwhile(data_dir: Path) -> None:
    (data_dir.parent / "import").mkdir()
    source = small_lora(data_dir.parent / "import" / "style.safetensors")
    async with records_beside(data_dir) as (records, address):
        async with install_beside(data_dir, records, "127.0.0.1:9") as service:
            job = await service.submit(source, inplace=False)
            await service.until(job, lambda i: i.stage == install_pb2.INSTALL_STAGE_WAITING_FOR_PEER)
            DyingStore.left, DyingStore.died = 0, asyncio.Event()
            await service.stub.CancelInstall(pb.CancelInstallRequest(id=job.id))
        DyingStore.left = None
        async with install_beside(data_dir, records, address) as service:
            ended = await service.ended(job)
            assert ended.state == install_pb2.INSTALL_STATE_CANCELLED
            assert await service.models_count() == 0
            assert service.litter() == []


async def test_an_uninstall_that_died_between_record_and_files_is_finished_at_the_next_start(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelkeep_install import uninstall

    (data_dir.parent / "import").mkdir()
    source = small_lora(data_dir.parent / "import" / "style.safetensors")
    async with records_beside(data_dir) as (records, address):
        async with install_beside(data_dir, records, address) as service:
            job = await service.ended(await service.submit(source, inplace=False))
            await service.digested(job.model_key)

            def die(*args: object) -> None:
                raise OSError("the power is gone")

            with monkeypatch.context() as patch:
                patch.setattr(uninstall, "_delete", die)
                with pytest.raises(Exception, match="Internal error"):
                    await service.stub.UninstallModel(
                        pb.UninstallModelRequest(key=job.model_key, files=pb.UNINSTALL_FILES_OWNED)
                    )
            assert await service.models_count() == 0
            assert Path(job.local_path).exists()
        async with install_beside(data_dir, records, address) as service:
            async with asyncio.timeout(20):
                while Path(job.local_path).parent.exists():  # noqa: ASYNC110  # nobody tells
                    await asyncio.sleep(0.02)
            assert source.exists()


async def test_a_second_service_on_the_same_models_dir_does_not_start(data_dir: Path) -> None:
    from modelkeep_common.startup import StartupError
    from modelkeep_install.app import InstallApplication
    from modelkeep_install.config import InstallSettings

    async with records_beside(data_dir) as (records, address), install_beside(data_dir, records, address):
        settings = InstallSettings.for_test(data_dir / "other", models_dir=data_dir / "models")
        with pytest.raises(StartupError, match="in use by another process") as caught:
            await start_server(InstallApplication(settings), settings)
        assert caught.value.exit_code == 73


async def test_staging_folders_that_no_job_owns_are_swept_and_those_of_downloads_are_left(
    data_dir: Path,
) -> None:
    staging = data_dir / "models" / ".staging"
    (staging / "77").mkdir(parents=True)
    (staging / "77" / "half.safetensors").write_bytes(b"x")
    (staging / "download-3").mkdir()
    async with records_beside(data_dir) as (records, address), install_beside(data_dir, records, address):
        assert sorted(path.name for path in staging.iterdir()) == ["download-3"]
