"""SIGKILL of the three services while a model is installed from a URL: one record, one copy, no litter."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.install.v1 import install_service_pb2_grpc as rpc
from modelkeep.record.v1 import record_service_pb2_grpc as record_rpc
from modelkeep.supervisor import Suite
from support.httpserver import HttpServer, Resource
from support.installs import InstallClient, small_lora

SERVICES = ("record", "download", "install")
COMPLETED = install_pb2.INSTALL_STATE_COMPLETED


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return {"services": SERVICES, "env": {"MODELKEEP_DOWNLOAD_RETRY_BASE_S": "0.05"}}


@pytest.fixture
async def service(suite: Suite) -> AsyncIterator[InstallClient]:
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 500)]
    async with (
        grpc.aio.insecure_channel(suite.addresses["install"], options=options) as channel,
        grpc.aio.insecure_channel(suite.addresses["record"], options=options) as records,
    ):
        client = InstallClient(
            channel, record_rpc.RecordServiceStub(records), Path(os.path.realpath(suite.data_dir)) / "models"
        )
        client.stub = Patient(rpc.InstallServiceStub(channel))
        client.records = Patient(client.records)
        yield client


class Patient:
    """A stub whose calls wait for a service that is being restarted."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, name)
        return lambda request: method(request, wait_for_ready=True, timeout=30)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small_lora(tmp_path_factory.mktemp("lora") / "style.safetensors").read_bytes()


async def install_through_kills(
    suite: Suite,
    service: InstallClient,
    kills: Sequence[tuple[str, float]],
    content: bytes,
    download_s: float,
) -> None:
    """One install; each of ``kills`` is a service and the pause in seconds before it is killed."""
    with HttpServer() as http:
        url = http.put("/style.safetensors", Resource(content, rate=int(len(content) / download_s)))
        job = await service.submit(url)
        for victim, pause_s in kills:
            await asyncio.sleep(pause_s)
            await asyncio.to_thread(suite.kill, victim)
            await asyncio.to_thread(suite.restart, victim)
        done = await service.ended(job, timeout=25)
        assert done.state == COMPLETED, (kills, done.error)
        assert done.model_key == job.model_key
        assert await service.models_count() == 1
        [file] = await service.digested(job.model_key)
        placed = service.models / job.model_key / file.path
        assert list(service.models.rglob("*.safetensors")) == [placed]
        assert placed.read_bytes() == content
        assert service.litter() == []
        # the installer's own end costs no byte twice; a download goes on from what was durable
        times = 2 if any(victim == "download" for victim, _ in kills) else 1
        assert http.bytes_served("/style.safetensors") <= times * len(content)
    await service.stub.UninstallModel(
        pb.UninstallModelRequest(key=job.model_key, files=pb.UNINSTALL_FILES_OWNED)
    )
    await service.stub.PruneInstalls(pb.PruneInstallsRequest())


@pytest.mark.timeout(90)
async def test_one_install_survives_the_kill_of_each_service_in_turn(
    suite: Suite, service: InstallClient, content: bytes
) -> None:
    kills = [("install", 0.2), ("download", 0.2), ("record", 0.2)]
    await install_through_kills(suite, service, kills, content, download_s=3)


#: All that the long test may do; .ci/run takes a share of it, chosen by a seed that it prints.
KILLS = 40


def chosen_kills() -> list[tuple[str, float]]:
    """(service, pause in seconds before its kill), as MODELKEEP_KILL_SEED and MODELKEEP_KILL_SHARE say."""
    moments = random.Random(os.environ.get("MODELKEEP_KILL_SEED", "3"))
    share = min(1.0, max(0.0, float(os.environ.get("MODELKEEP_KILL_SHARE", "1"))))
    kills = [(moments.choice(SERVICES), moments.uniform(0, 1.0)) for _ in range(KILLS)]
    return kills[: max(1, round(share * KILLS))]


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_installs_survive_kills_at_random_moments(
    suite: Suite, service: InstallClient, content: bytes
) -> None:
    for kill in chosen_kills():
        await install_through_kills(suite, service, [kill], content, download_s=0.7)
