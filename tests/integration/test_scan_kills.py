"""SIGKILL of services during scans and syncs: each model once, no litter, and the scan ends with all keys."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from modelkeep.install.v1 import install_service_pb2 as install_pb
from modelkeep.install.v1 import install_service_pb2_grpc as rpc
from modelkeep.record.v1 import record_service_pb2 as record_pb
from modelkeep.record.v1 import record_service_pb2_grpc as record_rpc
from modelkeep.supervisor import Suite
from support.installs import InstallClient, small_lora
from support.scans import COMPLETED, NEW, begin_scan, ended_scan, findings, sync

MODELS = 24
#: All that the long test may do; .ci/run takes a share of it, chosen by a seed that it prints.
KILLS = 30


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return {
        "services": ("record", "download", "install"),
        "env": {"MODELKEEP_INSTALL_SYNC_AT_START": "false"},
    }


class Patient:
    """A stub whose calls wait for a service that is being restarted, and are made again if it was killed."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, name)

        async def call(request: Any) -> Any:
            for _ in range(20):
                try:
                    return await method(request, wait_for_ready=True, timeout=30)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    await asyncio.sleep(0.1)
            raise AssertionError(f"{name} is never answered")

        return call


@pytest.fixture
async def service(suite: Suite) -> AsyncIterator[InstallClient]:
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 500)]
    async with (
        grpc.aio.insecure_channel(suite.addresses["install"], options=options) as channel,
        grpc.aio.insecure_channel(suite.addresses["record"], options=options) as records,
    ):
        stub = record_rpc.RecordServiceStub(records)
        client = InstallClient(channel, stub, Path(os.path.realpath(suite.data_dir)) / "models")
        client.stub = Patient(rpc.InstallServiceStub(channel))
        client.records = Patient(stub)
        yield client


async def scan_through_a_kill(
    suite: Suite, service: InstallClient, top: Path, victim: str, pause_s: float, *, install: bool
) -> None:
    for number in range(MODELS):
        small_lora(top / f"{number}.safetensors", metadata={"number": f"{top}{number}"})
    scan = await begin_scan(service, top, install=install)
    await asyncio.sleep(pause_s)
    await asyncio.to_thread(suite.kill, victim)
    await asyncio.to_thread(suite.restart, victim)
    done = await ended_scan(service, scan)
    told = f"{victim} killed after {pause_s:.3f} s"
    assert done.state == COMPLETED, (told, done)
    found = await findings(service, done)
    assert [one.kind for one in found] == [NEW] * MODELS, (told, found)
    assert sorted(done.registered_keys) == sorted(one.key for one in found)
    answer = await service.records.ListModels(record_pb.ListModelsRequest(page_size=1000))
    assert sorted(model.key for model in answer.models) == sorted(done.registered_keys), told
    assert not (await service.stub.ListInstalls(install_pb.ListInstallsRequest())).installs, told
    assert service.litter() == [], told
    if install:
        placed = sorted(
            str(path.relative_to(service.models)) for path in service.models.rglob("*.safetensors")
        )
        assert placed == sorted(model.path for model in answer.models), told
    # what is there now is known to a sync, and to a second scan
    again = await ended_scan(service, await begin_scan(service, top, install=install))
    assert (again.counts.new_count, again.counts.known_count) == (0, MODELS), told
    synced = await sync(service)
    assert (synced.counts.new_count, synced.counts.orphan_count) == (0, 0), told
    for model in answer.models:
        request = install_pb.UninstallModelRequest(
            key=model.key, files=install_pb.UNINSTALL_FILES_ANY_ALLOWED_ROOT
        )
        await service.stub.UninstallModel(request)


@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    ("victim", "pause_s", "install"),
    [("install", 0.05, False), ("install", 0.4, True), ("record", 0.2, False)],
)
async def test_a_scan_survives_the_kill_of_a_service(
    suite: Suite, service: InstallClient, tmp_path: Path, victim: str, pause_s: float, install: bool
) -> None:
    await scan_through_a_kill(suite, service, tmp_path, victim, pause_s, install=install)


@pytest.mark.timeout(90)
async def test_a_sync_survives_the_kill_of_the_service(suite: Suite, service: InstallClient) -> None:
    for number in range(MODELS):
        small_lora(service.models / "by-hand" / f"{number}.safetensors", metadata={"number": f"s{number}"})
    syncing = asyncio.create_task(sync(service))
    await asyncio.sleep(0.3)
    await asyncio.to_thread(suite.kill, "install")
    await asyncio.to_thread(suite.restart, "install")
    done = await syncing
    assert (done.state, done.counts.new_count, len(done.registered_keys)) == (COMPLETED, MODELS, MODELS)
    assert await service.models_count() == MODELS
    assert service.litter() == []
    assert not (await service.stub.ListInstalls(install_pb.ListInstallsRequest())).installs


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_scans_survive_kills_at_random_moments(
    suite: Suite, service: InstallClient, tmp_path: Path
) -> None:
    for key in [
        m.key for m in (await service.records.ListModels(record_pb.ListModelsRequest(page_size=1000))).models
    ]:
        await service.stub.UninstallModel(
            install_pb.UninstallModelRequest(key=key, files=install_pb.UNINSTALL_FILES_OWNED)
        )
    moments = random.Random(os.environ.get("MODELKEEP_KILL_SEED", "3"))
    share = min(1.0, max(0.0, float(os.environ.get("MODELKEEP_KILL_SHARE", "1"))))
    for number in range(max(1, round(share * KILLS))):
        victim, pause_s = moments.choice(["install", "install", "record"]), moments.uniform(0, 1.5)
        top = tmp_path / str(number)
        await scan_through_a_kill(suite, service, top, victim, pause_s, install=moments.random() < 0.5)
