"""What happens to workers when the loader dies, and how a loader starts, drains and refuses to start."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from modelkeep.loader.v1 import capacity_pb2, hold_pb2, loader_service_pb2_grpc
from modelkeep_common.serving import start_server
from modelkeep_common.startup import StartupError
from modelkeep_loader.app import LoaderApplication
from modelkeep_loader.config import LoaderSettings
from support import tinymodels
from support.loaderprocess import LoaderProcess
from support.loaders import Lender, component
from support.ports import free_port
from support.processes import processes_of
from support.records import record_service
from support.workers import ROOT, WorkerError, shared_workers

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def records(data_dir: Path) -> AsyncIterator[tuple[Any, str]]:
    port = free_port()
    async with record_service(data_dir, port=port) as stub:
        yield stub, f"127.0.0.1:{port}"


@pytest.mark.long
async def test_workers_go_on_when_the_loader_is_killed_and_can_use_the_next_one(
    data_dir: Path, records: tuple[Any, str]
) -> None:
    models = data_dir.parent / "imports"
    shared_workers()  # begins to import while the models are made
    await asyncio.to_thread(tinymodels.save_pipeline, models / "sd")
    stub, record_address = records
    loader = LoaderProcess(data_dir, record_address, models, free_port(), options=["--keeper=none"])
    await loader.start()
    key = await Lender(None, stub, "", models, None).register(models / "sd")
    worker = await shared_workers().new()
    await worker.do("connect", address=loader.address)
    held = {"key": key, "submodel": "vae", "precision": "bfloat16"}
    await worker.do("hold", **held)
    before = await worker.do("decode")

    await loader.stop(signal.SIGKILL)
    assert await worker.do("decode") == before
    assert await worker.do("verify")
    assert await worker.do("lost") == ""

    # The next one takes the stale socket's place, and starts with nothing held: the worker hears so.
    await loader.start()
    for _ in range(200):
        if lost := await worker.do("lost"):
            break
        await asyncio.sleep(0.05)
    assert "No lease" in lost
    await worker.do("release")
    with pytest.raises(WorkerError) as raised:
        await worker.do("hold", **{**held, "key": "0" * 32})
    assert raised.value.args[0] == "UnknownModelException"
    assert await worker.do("decode") == before
    assert await loader.stop(signal.SIGTERM) == 0
    await worker.close()
    # The helper of the killed loader noticed by itself, that of the other was ended.
    for _ in range(200):
        if not processes_of(LoaderProcess.MARK, data_dir):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("a helper process outlives its loader")


async def test_without_recordservice_a_request_says_which_peer_is_missing(data_dir: Path) -> None:
    settings = LoaderSettings.for_test(
        data_dir, record_address=f"127.0.0.1:{free_port()}", descriptor_dir=data_dir / "fd"
    )
    server = await start_server(LoaderApplication(settings), settings)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = loader_service_pb2_grpc.LoaderServiceStub(channel)
        request = hold_pb2.AcquireLeaseRequest(components=[component("0" * 32)])
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.AcquireLease(request)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "record" in (raised.value.details() or "")
        capacity = await stub.GetCapacity(capacity_pb2.GetCapacityRequest())
        assert capacity.tiers[0].budget_bytes > 1 << 28
        assert capacity.socket_path == str(data_dir / "fd" / "fd.sock")
    await server.stop()
    assert list((data_dir / "fd").iterdir()) == []


async def test_a_loader_that_ends_leaves_neither_socket_nor_lock_nor_folder(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = data_dir.parent / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    settings = LoaderSettings.for_test(data_dir)
    for _ in range(2):
        server = await start_server(LoaderApplication(settings), settings)
        (folder,) = (runtime / "modelkeep").iterdir()
        there = [f"{name}.{what}" for name in ("fd", "kp") for what in ("lock", "sock")]
        assert sorted(path.name for path in folder.iterdir()) == there
        await server.stop()
        assert list(runtime.iterdir()) == []


async def test_a_second_loader_on_the_same_data_folder_refuses_to_start(data_dir: Path) -> None:
    settings = LoaderSettings.for_test(data_dir, descriptor_dir=data_dir / "fd")
    server = await start_server(LoaderApplication(settings), settings)
    try:
        with pytest.raises(StartupError) as raised:
            await start_server(LoaderApplication(settings), settings)
        assert raised.value.exit_code == 98
    finally:
        await server.stop()


async def test_a_descriptor_folder_with_too_long_a_name_is_a_bad_setting(data_dir: Path) -> None:
    settings = LoaderSettings.for_test(data_dir, descriptor_dir=data_dir / ("x" * 100))
    with pytest.raises(StartupError) as raised:
        await start_server(LoaderApplication(settings), settings)
    assert raised.value.exit_code == 78


async def test_a_socket_folder_that_another_user_made_first_is_not_trusted(data_dir: Path) -> None:
    (data_dir / "fd").mkdir()
    os.chown(data_dir / "fd", 65534, 65534)
    settings = LoaderSettings.for_test(data_dir, descriptor_dir=data_dir / "fd")
    with pytest.raises(StartupError, match=r"not a folder of yours .* or set descriptor_dir") as raised:
        await start_server(LoaderApplication(settings), settings)
    assert raised.value.exit_code == 73


def test_the_serving_process_imports_neither_torch_nor_diffusers() -> None:
    code = (
        "import sys, modelkeep_loader.app, modelkeep_loader.__main__;"
        "print([n for n in ('torch', 'diffusers', 'transformers', 'numpy') if n in sys.modules])"
    )
    path = os.pathsep.join([str(ROOT / "services"), str(ROOT / "clients" / "python")])
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=True
    )
    assert found.stdout.strip() == b"[]"
