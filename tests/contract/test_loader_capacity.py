"""How full the loader is and how it is emptied, over real channels: WatchCapacity, EvictModel of all."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelkeep.client import AsyncClient
from modelkeep.exceptions import FieldInvalidException
from modelkeep.loader.v1 import capacity_pb2, load_pb2, residents_pb2
from modelkeep.model.v1 import taxonomy_pb2
from support import tinymodels
from support.failures import refused
from support.lending import acquire, evict_all, load, release
from support.loaders import Lender, component, lender

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    models = folder / "imports"
    tinymodels.save_pipeline(models / "sd")
    async with lender(folder / "data", models, warm_helper=True) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(loader: Lender) -> str:
    return await loader.register(loader.models / "sd", name="tiny")


def watch(loader: Lender, **intervals: float) -> Any:
    request = capacity_pb2.WatchCapacityRequest()
    for name, seconds in intervals.items():
        getattr(request, name).FromNanoseconds(int(seconds * 1e9))
    return loader.stub.WatchCapacity(request)


async def until(call: Any, wanted: Any, within_s: float = 10.0) -> capacity_pb2.GetCapacityResponse:
    """The first capacity of a watch that is as wanted."""
    async with asyncio.timeout(within_s):
        while True:
            frame: capacity_pb2.WatchCapacityResponse = await call.read()
            if frame.HasField("capacity") and wanted(frame.capacity):
                return frame.capacity


async def test_a_watch_tells_what_get_capacity_answers_now_and_after_each_change(
    loader: Lender, key: str
) -> None:
    await evict_all(loader)
    call = watch(loader, min_interval=0.1)
    first = await until(call, lambda capacity: True)
    assert first == await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
    assert first.tiers[0].used_bytes == 0

    (resident,) = [f.resident for f in await load(loader, component(key, "vae")) if f.HasField("resident")]
    seen = await until(call, lambda c: c.tiers[0].resident_count == 1)
    assert seen.tiers[0].used_bytes == resident.size_bytes
    grant = await acquire(loader, component(key, "vae"))
    seen = await until(call, lambda c: c.lease_count == 1)
    assert seen.tiers[0].leased_bytes == resident.size_bytes
    await release(loader, grant)
    await until(call, lambda c: c.lease_count == 0 and c.tiers[0].leased_bytes == 0)
    call.cancel()


async def test_silence_is_broken_by_frames_that_say_nothing(loader: Lender) -> None:
    call = watch(loader, bookmark_interval=1.0)
    await until(call, lambda capacity: True)
    began = time.monotonic()
    frame = await call.read()
    assert not frame.HasField("capacity")
    assert 0.5 < time.monotonic() - began < 10
    call.cancel()


async def test_the_client_watches_on_across_a_restart_of_the_loader(folder: Path, loader: Lender) -> None:
    place = folder / "second"
    async with lender(place, loader.models, warm_helper=False) as first:
        address = first.address
        client = AsyncClient(loader=address, record=first.record_address)
        frames = client.model_loader.watch_capacity()
        before = (await anext(frames)).events[0].put
        assert before is not None
        assert before.lease_count == 0
    port = int(address.rpartition(":")[2])
    async with lender(place, loader.models, warm_helper=False, port=port):
        async with asyncio.timeout(30):
            async for frame in frames:
                if frame.events:
                    break
        after = frame.events[0].put
        assert after is not None
        assert (after.boot_id, after.tiers[0]) == (before.boot_id, before.tiers[0])
    await frames.aclose()
    await client.close()


async def test_without_a_key_all_goes_that_no_lease_holds(loader: Lender, key: str) -> None:
    await load(loader, component(key, "vae"), component(key, "text_encoder"))
    grant = await acquire(loader, component(key, "vae"))
    would = await loader.stub.EvictModel(load_pb2.EvictModelRequest(validate_only=True))
    assert would.evicted_count == 1
    assert len((await loader.stub.ListResidents(residents_pb2.ListResidentsRequest())).residents) == 2

    done = await loader.stub.EvictModel(load_pb2.EvictModelRequest())
    assert [one.class_name for one in done.evicted] == ["CLIPTextModel"]
    assert (done.evicted_count, done.freed_bytes) == (1, would.freed_bytes)
    (left,) = (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest())).residents
    assert left.lease_ids == [grant.lease.id]
    await release(loader, grant)
    assert (await loader.stub.EvictModel(load_pb2.EvictModelRequest())).evicted_count == 1
    assert (await loader.stub.EvictModel(load_pb2.EvictModelRequest())).evicted_count == 0


async def test_a_component_of_no_model_is_refused(loader: Lender) -> None:
    request = load_pb2.EvictModelRequest(submodel=taxonomy_pb2.SUB_MODEL_TYPE_VAE)
    with refused("FIELD_INVALID"):
        await loader.stub.EvictModel(request)


async def test_the_client_drops_all_only_by_its_name(loader: Lender, key: str) -> None:
    async with AsyncClient(loader=loader.address, record=loader.record_address) as client:
        await client.model_loader.load(key, "vae")
        with pytest.raises(FieldInvalidException, match="evict_all"):
            await client.model_loader.evict("")
        assert (await client.model_loader.evict_all(validate_only=True)).evicted_count == 1
        assert (await client.model_loader.evict_all()).evicted_count == 1
        assert await client.model_loader.residents() == []


async def test_the_command_line_drops_all_and_says_so(loader: Lender, key: str) -> None:
    await load(loader, component(key, "vae"))
    assert "Would drop 1 component, which would free " in await said(loader, "evict", "--all", "--dry-run")
    assert "Dropped 1 component, which freed " in await said(loader, "evict", "--all")
    assert "Dropped 0 components" in await said(loader, "evict", "--all")
    assert "name a model, or give --all alone" in await said(loader, "evict", code=2)
    assert "name a model, or give --all alone" in await said(loader, "evict", "tiny", "--all", code=2)


async def said(loader: Lender, *arguments: str, code: int = 0) -> str:
    """What the command line says of the loader's memory."""
    place = ("--address", f"loader={loader.address}", "--address", f"record={loader.record_address}")
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelkeep.cli", "cache", *arguments, *place),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=loader.models,
    )
    text = (await run.communicate())[0].decode()
    assert run.returncode == code, text
    return text


async def test_the_command_line_shows_each_change_on_a_line(loader: Lender, key: str) -> None:
    await evict_all(loader)
    arguments = ("cache", "capacity", "-w", "--json", "--address", f"loader={loader.address}")
    shown = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "modelkeep.cli", *arguments, stdout=asyncio.subprocess.PIPE, cwd=loader.models
    )
    assert shown.stdout is not None
    try:
        async with asyncio.timeout(60):
            first = json.loads(await shown.stdout.readline())
            assert first["tiers"][0]["resident_count"] == 0
            await load(loader, component(key, "vae"))
            while json.loads(await shown.stdout.readline())["tiers"][0]["resident_count"] != 1:
                pass
    finally:
        shown.terminate()
        await shown.wait()
