"""The loader itself is killed, stopped, or short of memory: workers go on, and so does the next loader."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from modelkeep.loader.v1 import capacity_pb2, hold_pb2, load_pb2, loader_service_pb2_grpc
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.worker._fetch import fetch_descriptors
from support import tinymodels
from support.failures import refused
from support.lending import acquire, leases, load
from support.loaderprocess import LoaderProcess
from support.loaders import Lender, component
from support.ports import free_port
from support.processes import processes_of
from support.records import record_service
from support.workers import shared_workers

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

_NO_KEEPER = ["--keeper=none"]
VAE = taxonomy_pb2.MODEL_TYPE_VAE
T5 = taxonomy_pb2.MODEL_TYPE_T5_ENCODER


@dataclass
class Killable:
    """A loader that can be killed, and the one that follows it at the same address."""

    process: LoaderProcess
    both: Lender
    data_dir: Path


@pytest.fixture
async def killable(data_dir: Path) -> AsyncIterator[Killable]:
    models, port = data_dir.parent / "imports", free_port()
    async with record_service(data_dir, port=port) as records:
        # What a kill leaves by itself; tests/integration/test_loader_keeper.py has a keeper.
        process = LoaderProcess(data_dir, f"127.0.0.1:{port}", models, free_port(), options=_NO_KEEPER)
        async with grpc.aio.insecure_channel(process.address) as channel:
            stub: Any = loader_service_pb2_grpc.LoaderServiceStub(channel)
            await process.start()
            try:
                yield Killable(process, Lender(stub, records, process.address, models, None), data_dir)
            finally:
                await process.stop(signal.SIGKILL)


async def one_frame(call: Any, event: str) -> Any:
    """The first frame of a kind."""
    while (frame := await call.read()).WhichOneof("event") != event:
        pass
    return frame


async def no_helper_but_of(killable: Killable, count: int) -> None:
    """Wait until as many processes of the loader are left."""
    for _ in range(400):
        found = processes_of(LoaderProcess.MARK, killable.data_dir)
        if len(found) <= count:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{len(found)} processes are left")


async def test_a_loader_that_is_killed_at_any_step_leaves_nothing_and_the_next_one_lends_the_same(
    killable: Killable,
) -> None:
    loader, process = killable.both, killable.process
    shared_workers()
    await asyncio.to_thread(tinymodels.vae(widths=(32, 64)).save_pretrained, loader.models / "vae")
    # Large enough that its loading is seen.
    wide = tinymodels.t5_encoder(vocabulary=1 << 19).half()
    await asyncio.to_thread(wide.save_pretrained, loader.models / "wide")
    vae = await loader.register(loader.models / "vae", type=VAE)
    t5 = await loader.register(loader.models / "wide", type=T5)
    worker = await shared_workers().new()
    await worker.do("connect", address=loader.address)
    await worker.do("hold", key=vae, submodel=None, precision="bfloat16")
    before = await worker.do("tensors"), await worker.do("decode")
    large, small = component(t5, "", "float32"), component(vae, "", "float16")

    async def asked() -> None:
        loader.stub.LoadModel(load_pb2.LoadModelRequest(components=[large]))
        await asyncio.sleep(0.01)

    async def loading() -> None:
        await one_frame(loader.stub.LoadModel(load_pb2.LoadModelRequest(components=[large])), "progress")

    async def granted() -> None:
        await one_frame(loader.stub.HoldModel(hold_pb2.HoldModelRequest(components=[small])), "granted")

    async def handed_over() -> None:
        grant = await acquire(loader, small)
        connection, fds = await asyncio.to_thread(fetch_descriptors, grant.socket_path, grant.ticket, 1)
        fetched.append(os.pread(fds[0], 1 << 30, 0))
        held.append((connection, fds[0]))

    fetched: list[bytes] = []
    held: list[tuple[Any, int]] = []
    for step in (asked, loading, granted, handed_over, handed_over):
        await step()
        await process.stop(signal.SIGKILL)
        await no_helper_but_of(killable, 0)
        assert (await worker.do("tensors"), await worker.do("decode")) == before, step.__name__
        await process.start()
        await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest(), wait_for_ready=True)
        assert await leases(loader) == []
    # What a dead loader handed over is readable for ever, and the next one makes the same.
    assert len(fetched) == 2
    assert fetched[0] == fetched[1]
    for connection, fd in held:
        assert os.pread(fd, 1 << 30, 0) == fetched[0]
        os.close(fd)
        connection.close()
    await worker.do("release")
    await worker.close()


async def test_a_loader_that_is_stopped_holds_nobody_up_for_ever_and_goes_on_where_it_was(
    killable: Killable, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader, process = killable.both, killable.process
    shared_workers()
    await asyncio.to_thread(tinymodels.vae(widths=(32, 64)).save_pretrained, loader.models / "vae")
    key = await loader.register(loader.models / "vae", type=VAE)
    wanted = component(key, "", "bfloat16")
    worker = await shared_workers().new()
    await worker.do("connect", address=loader.address)
    await worker.do("hold", key=key, submodel=None, precision="bfloat16")
    before = await worker.do("decode")
    grant = await acquire(loader, wanted)
    monkeypatch.setattr("modelkeep.worker._fetch._TIMEOUT_S", 0.5)
    process.send(signal.SIGSTOP)
    try:
        assert await worker.do("decode") == before
        request = hold_pb2.AcquireLeaseRequest(components=[wanted])
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await loader.stub.AcquireLease(request, timeout=1)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(Exception, match=r"broke off|does not answer"):
            await asyncio.to_thread(fetch_descriptors, grant.socket_path, grant.ticket, 1)
    finally:
        process.send(signal.SIGCONT)
    assert len(await leases(loader)) >= 2  # the worker's stream was never cut, and the ttl has not run out
    again = await acquire(loader, wanted)
    monkeypatch.undo()
    connection, fds = await asyncio.to_thread(fetch_descriptors, again.socket_path, again.ticket, 1)
    os.close(fds[0])
    connection.close()
    assert await worker.do("lost") == ""
    await worker.do("release")
    await worker.close()


@contextlib.contextmanager
def control_group(limit_bytes: int) -> Iterator[Path]:
    """A memory control group of its own, of either version; skips where none can be made."""
    root = Path("/sys/fs/cgroup")
    older = (root / "memory").is_dir()
    folder = (root / "memory" if older else root) / f"modelkeep-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        limit = folder / ("memory.limit_in_bytes" if older else "memory.max")
        if not limit.exists():
            pytest.skip("control groups here do not limit memory")
        limit.write_text(str(limit_bytes))
        with contextlib.suppress(OSError):  # without swap there is nothing to forbid
            swap = folder / ("memory.memsw.limit_in_bytes" if older else "memory.swap.max")
            swap.write_text(str(limit_bytes) if older else "0")
        yield folder
    finally:
        for _ in range(100):
            try:
                folder.rmdir()
                break
            except OSError:  # the last of its processes is still about to go
                time.sleep(0.05)


async def test_in_a_control_group_smaller_than_the_model_the_load_fails_and_the_loader_stays(
    data_dir: Path,
) -> None:
    models, port = data_dir.parent / "imports", free_port()
    # 64 MiB on disk, 128 MiB as float32, and twice that while it is built.
    wide = tinymodels.t5_encoder(vocabulary=1 << 20).half()
    await asyncio.to_thread(wide.save_pretrained, models / "wide")
    del wide
    await asyncio.to_thread(tinymodels.vae(widths=(32, 64)).save_pretrained, models / "vae")
    with control_group(640 << 20) as group:
        async with record_service(data_dir, port=port) as records:
            process = LoaderProcess(data_dir, f"127.0.0.1:{port}", models, free_port(), group, _NO_KEEPER)
            await process.start()
            try:
                async with grpc.aio.insecure_channel(process.address) as channel:
                    stub: Any = loader_service_pb2_grpc.LoaderServiceStub(channel)
                    loader = Lender(stub, records, process.address, models, None)
                    (ram, *_) = (await stub.GetCapacity(capacity_pb2.GetCapacityRequest())).tiers
                    assert ram.budget_bytes == 320 << 20  # half of the group's, not of the host's
                    t5 = await loader.register(models / "wide", type=T5)
                    with refused("RAM_EXHAUSTED"):
                        await load(loader, component(t5, "", "float32"))
                    vae = await loader.register(models / "vae", type=VAE)
                    assert (await load(loader, component(vae, "", "float16")))[-1].resident.size_bytes > 0
                    (ram, *_) = (await stub.GetCapacity(capacity_pb2.GetCapacityRequest())).tiers
                    assert ram.used_bytes < 4 << 20
            finally:
                await process.stop(signal.SIGKILL)
