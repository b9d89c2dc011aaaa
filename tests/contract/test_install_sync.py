"""SyncModels: models_dir and the autoimport folders against the records, asked for and at start."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.install.v1 import install_service_pb2 as install_pb
from modelkeep.install.v1 import scan_pb2 as pb
from modelkeep_install.domain.jobs import Job
from modelkeep_install.store import InstallStore
from support.installs import (
    NOBODY,
    InstallClient,
    install_beside,
    install_service,
    records_beside,
    small_lora,
)
from support.scans import (
    COMPLETED,
    ERROR,
    KNOWN,
    MOVED,
    NEW,
    ORPHAN,
    UNREADABLE,
    begin_scan,
    ended_scan,
    findings,
    scan_until,
    sync,
)


def lora(path: Path, number: int = 0) -> Path:
    """A LoRA whose content differs from that of other numbers."""
    return small_lora(path, metadata={"number": str(number)})


@pytest.fixture
def auto(data_dir: Path) -> Path:
    """A folder that is imported by itself."""
    folder = data_dir.parent / "auto"
    folder.mkdir()
    return folder


@pytest.fixture
async def synced(data_dir: Path, auto: Path) -> AsyncIterator[InstallClient]:
    """An InstallService with an autoimport folder, which syncs when it is asked to."""
    async with install_service(data_dir, autoimport_dirs=(auto,), sync_at_start=False) as client:
        yield client


async def kinds(service: InstallClient, scan: pb.Scan) -> dict[str, int]:
    return {one.path: one.kind for one in await findings(service, scan)}


async def test_what_has_no_record_is_registered_where_it_lies(synced: InstallClient, auto: Path) -> None:
    inside = lora(synced.models / "sorted" / "a.safetensors", 1)
    outside = lora(auto / "b.safetensors", 2)
    copied = await synced.install(lora(auto.parent / "import" / "c.safetensors", 3), inplace=False)
    done = await sync(synced)
    assert done.state == COMPLETED
    assert await kinds(synced, done) == {
        str(inside): NEW,
        str(outside): NEW,
        copied.local_path: KNOWN,
    }
    models = [await synced.model(key) for key in done.registered_keys]
    assert sorted((model.path, bool(model.root_id)) for model in models) == [
        (str(outside), False),
        ("sorted/a.safetensors", True),
    ]
    again = await sync(synced)
    assert (again.counts.new_count, again.counts.known_count, again.counts.orphan_count) == (0, 3, 0)


async def test_orphans_are_told_and_marked_and_removed_only_when_asked(
    synced: InstallClient, auto: Path
) -> None:
    jobs = [await synced.install(lora(auto / f"{number}.safetensors", number)) for number in range(4)]
    (auto / "0.safetensors").unlink()
    told = await sync(synced, validate_only=True)
    assert (told.counts.orphan_count, told.counts.removed_count) == (1, 0)
    assert not (await synced.model(jobs[0].model_key)).HasField("missing_time")
    marked = await sync(synced)
    assert (marked.counts.orphan_count, marked.counts.removed_count) == (1, 0)
    assert (await synced.model(jobs[0].model_key)).HasField("missing_time")
    would = await sync(synced, remove_orphans=True, validate_only=True)
    assert (would.counts.orphan_count, would.counts.removed_count) == (1, 0)
    assert await synced.models_count() == 4
    done = await sync(synced, remove_orphans=True)
    assert (done.state, done.counts.orphan_count, done.counts.removed_count) == (COMPLETED, 1, 1)
    [one] = await findings(synced, done, ORPHAN)
    assert (one.key, one.removed) == (jobs[0].model_key, True)
    assert await synced.models_count() == 3
    assert all((auto / f"{number}.safetensors").exists() for number in (1, 2, 3))


@pytest.mark.parametrize("away", ["a folder", "an empty folder", "most"])
async def test_a_disk_that_is_away_does_not_empty_the_records(
    synced: InstallClient, auto: Path, away: str
) -> None:
    disk = auto / "disk"
    for number in range(2):
        await synced.install(lora(disk / f"{number}.safetensors", number))
    others = 1 if away == "most" else 5
    for number in range(2, 2 + others):
        await synced.install(lora(auto / f"{number}.safetensors", number))
    if away == "a folder":
        disk.rename(auto.parent / "gone")
    for path in disk.glob("*"):
        path.unlink()
    if away == "most":
        (disk / "readme").touch()
    done = await sync(synced, remove_orphans=True)
    assert (done.state, done.error.reason) == (ERROR, "MANY_MISSING")
    assert "force" in done.error.metadata["remedy"]
    told = await findings(synced, done, ORPHAN)
    assert [one.error.reason for one in told] == ["MANY_MISSING"] * 2
    assert (done.counts.removed_count, await synced.models_count()) == (0, 2 + others)
    forced = await sync(synced, remove_orphans=True, force=True)
    assert (forced.state, forced.counts.removed_count) == (COMPLETED, 2)
    assert await synced.models_count() == others


async def test_a_start_without_the_disk_of_the_models_is_told(data_dir: Path, source: Path) -> None:
    models = data_dir / "models"
    async with records_beside(data_dir) as (records, address):
        async with install_beside(data_dir, records, address) as service:
            await service.install(lora(source / "a.safetensors"), inplace=False)
        models.rename(data_dir.parent / "disk")
        async with install_beside(data_dir, records, address) as service:
            done = await sync(service, remove_orphans=True, force=True)
            assert (done.state, done.error.reason) == (ERROR, "ROOT_MISMATCH")
            assert await service.models_count() == 1
        shutil.rmtree(models)
        (data_dir.parent / "disk").rename(models)
        async with install_beside(data_dir, records, address) as service:
            done = await sync(service)
            assert (done.state, done.counts.known_count, done.counts.orphan_count) == (COMPLETED, 1, 0)


async def test_a_model_that_moved_is_told_and_goes_where_it_is_asked_for(
    synced: InstallClient, auto: Path
) -> None:
    job = await synced.install(lora(auto / "old.safetensors", 1))
    await synced.install(lora(auto / "other.safetensors", 2))
    (auto / "old.safetensors").rename(auto / "new.safetensors")
    done = await sync(synced)
    assert await kinds(synced, done) == {
        str(auto / "old.safetensors"): ORPHAN,
        str(auto / "new.safetensors"): MOVED,
        str(auto / "other.safetensors"): KNOWN,
    }
    # who wants the old records gone wants the file under a new one
    done = await sync(synced, remove_orphans=True)
    assert (done.counts.new_count, done.counts.removed_count) == (1, 1)
    [key] = done.registered_keys
    assert key != job.model_key
    assert (await synced.model(key)).path == str(auto / "new.safetensors")


async def test_records_of_another_models_dir_are_not_looked_at(synced: InstallClient, auto: Path) -> None:
    job = await synced.install(lora(auto / "a.safetensors"), inplace=False)
    await synced.install(lora(auto / "b.safetensors", 2))
    model = await synced.model(job.model_key)
    shutil.rmtree(synced.models / job.model_key)
    done = await sync(synced)
    assert done.counts.orphan_count == 1
    assert model.root_id


async def test_an_autoimport_folder_that_is_away_is_told(data_dir: Path) -> None:
    gone = data_dir.parent / "gone"
    async with install_service(data_dir, autoimport_dirs=(gone,), sync_at_start=False) as service:
        done = await sync(service)
        assert (done.state, await kinds(service, done)) == (COMPLETED, {str(gone): UNREADABLE})


async def started_scan(service: InstallClient, number: int = 1) -> pb.Scan:
    """The scan that the service began by itself, when it has ended; the number is its own or lower."""
    for _ in range(500):
        scans = (await service.stub.ListScans(pb.ListScansRequest())).scans
        if scans and scans[0].id >= number:
            return await ended_scan(service, scans[0])
        await asyncio.sleep(0.01)
    raise AssertionError("no scan was begun")


async def test_a_start_syncs_in_the_background_and_removes_nothing(data_dir: Path, auto: Path) -> None:
    settings: dict[str, Any] = {"autoimport_dirs": (auto,), "sync_at_start": True}
    async with records_beside(data_dir) as (records, address):
        async with install_beside(data_dir, records, address, NOBODY, **settings) as service:
            assert (await started_scan(service)).at_start
            await service.install(lora(auto / "old.safetensors", 1))
        (auto / "old.safetensors").unlink()
        lora(auto / "new.safetensors", 2)
        async with install_beside(data_dir, records, address, NOBODY, **settings) as service:
            done = await started_scan(service, 2)
            assert (done.at_start, done.state) == (True, COMPLETED)
            assert (done.counts.new_count, done.counts.orphan_count, done.counts.removed_count) == (1, 1, 0)
            assert await service.models_count() == 2
        async with install_beside(data_dir, records, address, NOBODY, sync_at_start=False) as service:
            await asyncio.sleep(0.1)
            scans = (await service.stub.ListScans(pb.ListScansRequest())).scans
            assert [scan.id for scan in scans] == [2, 1]


async def test_a_start_is_ready_though_nobody_answers_for_the_records(data_dir: Path, auto: Path) -> None:
    lora(auto / "a.safetensors")
    settings: dict[str, Any] = {"autoimport_dirs": (auto,), "sync_at_start": True}
    async with install_beside(data_dir, None, NOBODY, NOBODY, **settings) as service:
        for _ in range(500):
            scans = (await service.stub.ListScans(pb.ListScansRequest())).scans
            if scans and scans[0].HasField("error"):
                break
            await asyncio.sleep(0.02)
        assert scans[0].error.reason == "UPSTREAM_UNAVAILABLE"
        assert scans[0].error.HasField("retry_time")
        await service.stub.CancelScan(pb.CancelScanRequest(id=scans[0].id))
        assert (await ended_scan(service, scans[0])).state == pb.SCAN_STATE_CANCELLED
    async with (
        records_beside(data_dir) as (records, address),
        install_beside(data_dir, records, address, NOBODY, **settings) as service,
    ):
        assert (await started_scan(service, 2)).counts.new_count == 1
        assert await service.models_count() == 1


async def test_a_sync_beside_installs_makes_each_model_once(synced: InstallClient, source: Path) -> None:
    jobs = [
        await synced.submit(lora(source / f"{number}.safetensors", number), inplace=False)
        for number in range(8)
    ]
    for _ in range(4):
        done = await sync(synced)
        assert (done.state, done.counts.orphan_count) == (COMPLETED, 0)
        assert {one.kind for one in await findings(synced, done)} <= {KNOWN}
    keys = {(await synced.ended(job)).model_key for job in jobs}
    assert await synced.models_count() == len(keys) == 8
    assert not synced.litter()


@pytest.mark.parametrize("install", [False, True])
async def test_a_scan_that_is_cancelled_keeps_what_it_has_registered(
    synced: InstallClient, source: Path, install: bool
) -> None:
    for number in range(60):
        lora(source / f"{number:02}.safetensors", number)
    begun = await begin_scan(synced, source, install=install)
    await scan_until(synced, begun, lambda scan: scan.counts.new_count >= 3)
    await synced.stub.CancelScan(pb.CancelScanRequest(id=begun.id))
    await synced.stub.CancelScan(pb.CancelScanRequest(id=begun.id))
    done = await ended_scan(synced, begun)
    assert done.state == pb.SCAN_STATE_CANCELLED
    told = await findings(synced, done)
    assert {one.kind for one in told} == {NEW}
    assert 3 <= len(told) < 60
    assert sorted(done.registered_keys) == sorted(one.key for one in told)
    assert await synced.models_count() == len(told)
    assert not synced.litter()
    assert not (await synced.stub.ListInstalls(install_pb.ListInstallsRequest())).installs


async def test_a_scan_is_not_over_while_an_install_of_it_begins(
    synced: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_begin, waits, create = asyncio.Event(), [1.0, 0.2], InstallStore.create

    async def slowly(store: InstallStore, *arguments: Any, **values: Any) -> tuple[Job, bool]:
        wait = waits.pop()
        if not waits:
            both_begin.set()
        await asyncio.sleep(wait)
        return await create(store, *arguments, **values)

    monkeypatch.setattr(InstallStore, "create", slowly)
    for number in range(2):
        lora(source / f"{number}.safetensors", number)
    begun = await begin_scan(synced, source, install=True)
    await both_begin.wait()
    await synced.stub.CancelScan(pb.CancelScanRequest(id=begun.id))
    assert (await ended_scan(synced, begun)).state == pb.SCAN_STATE_CANCELLED
    await asyncio.sleep(1.5)
    assert not (await synced.stub.ListInstalls(install_pb.ListInstallsRequest())).installs
    assert await synced.models_count() == len(await findings(synced, begun)) <= 1
    assert not synced.litter()
