"""Components on simulated accelerators, over real channels, real processes and the kernel's own count."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from safetensors.torch import save_file

from modelkeep.headers import read_header
from modelkeep.loader.v1 import (
    capacity_pb2,
    hold_pb2,
    leases_pb2,
    load_pb2,
    pins_pb2,
    resident_pb2,
    residents_pb2,
)
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.worker._fetch import fetch_descriptors
from support.failures import refused
from support.lending import acquire, hold, load, release
from support.loaders import Lender, component, lender
from support.processes import children

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

MB = 1 << 20
VRAM = resident_pb2.TIER_VRAM


def learned(path: Path, megabytes: int) -> Path:
    """A state dict of several tensors, of about so many megabytes."""
    torch.manual_seed(megabytes)
    save_file({f"t{n}.weight": torch.rand(256, 1024) for n in range(megabytes)}, path)
    return path


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    models = folder / "imports"
    models.mkdir()
    for name, size in (("a", 8), ("b", 12), ("c", 13), ("d", 20)):
        learned(models / f"{name}.safetensors", size)
    faults = folder / "faults.json"
    settings: dict[str, Any] = {
        "accelerator": f"sim:2x32MiB,faults={faults}",
        "vram_budget_bytes": 32 * MB,
        "path_dir": folder / "paths",
        "warm_helper": True,
        "detach_grace_s": 0.3,
    }
    async with lender(folder / "data", models, **settings) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def refs(loader: Lender) -> dict[str, resident_pb2.ComponentRef]:
    return {
        path.stem: component(
            await loader.register(
                path,
                type=taxonomy_pb2.MODEL_TYPE_LORA,
                format=taxonomy_pb2.MODEL_FORMAT_LYCORIS,
            )
        )
        for path in sorted(loader.models.iterdir())
    }


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def clean(loader: Lender) -> AsyncIterator[None]:
    yield
    for lease in loader.app.lending.leases.alive():
        loader.app.lending.leases.release(lease)
    for tier in (VRAM, resident_pb2.TIER_RAM):
        await loader.stub.EvictModel(load_pb2.EvictModelRequest(tier=tier))


def on(ref: resident_pb2.ComponentRef, device: str) -> resident_pb2.ComponentRef:
    placed = resident_pb2.ComponentRef()
    placed.CopyFrom(ref)
    placed.device = device
    return placed


@asynccontextmanager
async def fetched(grant: hold_pb2.Grant) -> AsyncIterator[list[int]]:
    """The descriptors of a grant."""
    count = len(grant.manifests) + sum(m.HasField("device_descriptor_index") for m in grant.manifests)
    connection, descriptors = await asyncio.to_thread(
        fetch_descriptors, grant.socket_path, grant.ticket, count
    )
    try:
        yield descriptors
    finally:
        connection.close()
        for descriptor in descriptors:
            os.close(descriptor)


async def free(loader: Lender, device: str = "sim:0") -> int:
    """Bytes that a device says are free, read anew."""
    await loader.app.lending.devices.measure()
    capacity = await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
    return next(int(one.free_bytes) for one in capacity.accelerators if one.name == device)


async def test_a_lease_gives_the_allocation_and_the_files_beginning(
    loader: Lender, refs: dict[str, resident_pb2.ComponentRef]
) -> None:
    grant = await acquire(loader, on(refs["a"], "sim:0"))
    (manifest,) = grant.manifests
    assert (manifest.device, manifest.device_uuid, manifest.vram_bytes) == (
        "sim:0",
        "SIM-0",
        manifest.file_size_bytes,
    )
    assert grant.lease.vram_bytes == 10 * MB, "rounded up to the device's granularity"
    assert grant.lease.size_bytes == 0
    async with fetched(grant) as (head, allocation):
        first = min(tensor.offset for tensor in manifest.tensors)
        assert os.fstat(head).st_size == first
        assert os.pread(allocation, first, 0) == os.pread(head, first, 0)
        torch.manual_seed(8)
        for name in (f"t{n}.weight" for n in range(8)):
            tensor = next(tensor for tensor in manifest.tensors if tensor.name == name)
            expected = torch.rand(256, 1024).numpy().tobytes()
            assert os.pread(allocation, tensor.size_bytes, tensor.offset) == expected
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(allocation, b"x")
    residents = (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest())).residents
    found = {(r.tier, r.device): r.lease_count for r in residents}
    assert found == {(VRAM, "sim:0"): 1}


async def test_capacity_tells_the_devices_and_their_bytes(
    loader: Lender, refs: dict[str, resident_pb2.ComponentRef]
) -> None:
    grant = await acquire(loader, refs["a"])
    capacity = await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
    assert list(capacity.devices) == ["cpu", "sim:0", "sim:1"]
    assert [one.total_bytes for one in capacity.accelerators] == [32 * MB, 32 * MB]
    device = grant.manifests[0].device
    (tier,) = [tier for tier in capacity.tiers if tier.device == device]
    assert (tier.tier, tier.used_bytes, tier.leased_bytes) == (VRAM, 10 * MB, 10 * MB)
    assert await free(loader, device) == 22 * MB


async def test_a_worker_that_keeps_the_memory_after_its_lease_leaves_less_to_others(
    loader: Lender, refs: dict[str, resident_pb2.ComponentRef]
) -> None:
    grant = await acquire(loader, on(refs["d"], "sim:0"))
    async with fetched(grant):
        await release(loader, grant)
        with refused("VRAM_EXHAUSTED"):
            await acquire(loader, on(refs["b"], "sim:0"))
        assert await free(loader) == 10 * MB
    assert (await acquire(loader, on(refs["b"], "sim:0"))).manifests[0].device == "sim:0"


async def test_a_bound_leaves_the_rest_in_the_whole_file(
    loader: Lender, refs: dict[str, resident_pb2.ComponentRef]
) -> None:
    grant = await acquire(loader, on(refs["a"], "sim:1"), max_vram_bytes=5 * MB)
    (manifest,) = grant.manifests
    ends = sorted(tensor.offset + tensor.size_bytes for tensor in manifest.tensors)
    assert manifest.vram_bytes == max(end for end in ends if end <= 4 * MB)
    assert grant.lease.vram_bytes <= 4 * MB
    assert grant.lease.size_bytes == manifest.file_size_bytes
    async with fetched(grant) as (file, allocation):
        assert os.fstat(file).st_size == manifest.file_size_bytes
        assert len(read_header(file, Path("it")).tensors) == 8
        part = os.pread(allocation, manifest.vram_bytes, 0)
        assert part == os.pread(file, manifest.vram_bytes, 0)


async def test_an_idle_holder_makes_room_and_comes_back(
    loader: Lender, refs: dict[str, resident_pb2.ComponentRef]
) -> None:
    request = hold_pb2.HoldModelRequest(components=[on(refs["d"], "sim:0")])
    call, _, grant = await hold(loader, request)
    waiting = asyncio.create_task(acquire(loader, on(refs["c"], "sim:0"), max_wait={"seconds": 30}))
    while (frame := await call.read()).WhichOneof("event") != "demote_requested":
        assert frame.WhichOneof("event") == "alive"
    assert not waiting.done()
    mine, secret = grant.lease.id, grant.lease_secret
    demotion = hold_pb2.DemoteLeaseRequest(lease_id=mine, lease_secret=secret)
    demoted = (await loader.stub.DemoteLease(demotion)).lease
    assert demoted.demoted
    assert demoted.last_change == resident_pb2.LEASE_CHANGE_DEMOTED
    assert demoted.size_bytes == grant.manifests[0].file_size_bytes
    other = await waiting
    with refused("VRAM_EXHAUSTED"):
        await loader.stub.PromoteLease(hold_pb2.PromoteLeaseRequest(lease_id=mine, lease_secret=secret))
    await release(loader, other)
    promotion = hold_pb2.PromoteLeaseRequest(lease_id=mine, lease_secret=secret)
    back = (await loader.stub.PromoteLease(promotion)).grant
    assert back.lease.last_change == resident_pb2.LEASE_CHANGE_PROMOTED
    assert back.manifests == grant.manifests
    async with fetched(back) as (_, allocation):
        assert os.fstat(allocation).st_size == grant.lease.vram_bytes
    call.cancel()


async def test_a_model_is_dropped_from_one_device_or_from_all(
    loader: Lender, refs: dict[str, resident_pb2.ComponentRef]
) -> None:
    for device in ("sim:0", "sim:1"):
        await load(loader, on(refs["a"], device))
    request = load_pb2.EvictModelRequest(key=refs["a"].key, tier=VRAM, device="sim:1")
    assert [one.device for one in (await loader.stub.EvictModel(request)).evicted] == ["sim:1"]
    request.device = ""
    assert [one.device for one in (await loader.stub.EvictModel(request)).evicted] == ["sim:0"]
    with refused("FIELD_INVALID"):
        await loader.stub.EvictModel(load_pb2.EvictModelRequest(tier=VRAM, device="sim:7"))
    with refused("FIELD_INVALID"):
        await loader.stub.EvictModel(load_pb2.EvictModelRequest(device="sim:0"))


async def test_twenty_that_race_for_room_are_all_served_and_the_device_is_never_too_full(
    loader: Lender, refs: dict[str, resident_pb2.ComponentRef]
) -> None:
    async def one(number: int) -> None:
        ref = on(refs["abcd"[number % 4]], "sim:0")
        grant = await acquire(loader, ref, max_wait={"seconds": 60})
        await asyncio.sleep(0.02)
        await release(loader, grant)

    await asyncio.gather(*(one(number) for number in range(20)))
    capacity = await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
    assert all(tier.high_watermark_bytes <= tier.budget_bytes for tier in capacity.tiers if tier.device)


async def test_what_is_delivered_by_path_is_in_ram(
    loader: Lender, refs: dict[str, resident_pb2.ComponentRef]
) -> None:
    grant = await acquire(loader, refs["a"], delivery=hold_pb2.DELIVERY_PATH)
    assert grant.manifests[0].device == "cpu"
    assert Path(grant.paths[0]).stat().st_size == grant.manifests[0].file_size_bytes
    with refused("FIELD_INVALID") as error:
        await acquire(loader, on(refs["a"], "sim:0"), delivery=hold_pb2.DELIVERY_PATH)
    assert error.violations[0].field == "components.device"


async def test_a_pinned_component_stays_registered_and_can_be_dropped_once_it_is_not(
    loader: Lender, refs: dict[str, resident_pb2.ComponentRef]
) -> None:
    here, there = on(refs["a"], "cpu"), on(refs["a"], "sim:0")
    await loader.stub.PinModel(pins_pb2.PinModelRequest(components=[here], load=True))
    await load(loader, there)
    (in_ram,) = loader.app.lending.cache.tier.residents()
    assert in_ram.built is not None
    memory = in_ram.built.memory
    assert memory.in_use(), "the copier has it mapped"
    await loader.stub.UnpinModel(pins_pb2.UnpinModelRequest(components=[here]))
    async with asyncio.timeout(20):
        while memory.in_use():  # noqa: ASYNC110  # nobody tells of it
            await asyncio.sleep(0.02)


async def test_leases_outlive_the_processes_that_work_on_devices_and_these_come_again(
    loader: Lender, refs: dict[str, resident_pb2.ComponentRef]
) -> None:
    grant = await acquire(loader, on(refs["a"], "sim:1"))
    before = await asyncio.to_thread(children, "modelkeep_devices")
    assert before
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    async with fetched(grant) as (_, allocation):
        assert len(os.pread(allocation, MB, 4 * MB)) == MB
    assert (await acquire(loader, on(refs["b"], "sim:1"), max_wait={"seconds": 30})).lease.vram_bytes
    assert not set(before) & set(await asyncio.to_thread(children, "modelkeep_devices"))
    assert len((await loader.stub.ListLeases(leases_pb2.ListLeasesRequest())).leases) == 2


# The last ones: what they break stays broken.


async def test_a_stranger_that_takes_the_memory_is_seen(
    loader: Lender, refs: dict[str, resident_pb2.ComponentRef], folder: Path
) -> None:
    (folder / "faults.json").write_text(json.dumps({"sim:0": {"stranger_bytes": 28 * MB}}))
    with refused("VRAM_EXHAUSTED") as error:
        await acquire(loader, on(refs["a"], "sim:0"))
    assert error.metadata["budget_bytes"] == str(4 * MB)
    (folder / "faults.json").write_text("{}")
    assert await acquire(loader, on(refs["a"], "sim:0"))


async def test_a_lost_device_ends_its_leases_and_the_other_one_goes_on(
    loader: Lender, refs: dict[str, resident_pb2.ComponentRef], folder: Path
) -> None:
    call, _, _ = await hold(loader, hold_pb2.HoldModelRequest(components=[on(refs["a"], "sim:0")]))
    began = time.monotonic()
    (folder / "faults.json").write_text(json.dumps({"sim:0": {"lost": "It has fallen off the bus."}}))
    while (frame := await call.read()).WhichOneof("event") != "lost":
        assert frame.WhichOneof("event") == "alive"
    assert frame.lost.error.reason == "DEVICE_UNAVAILABLE"
    assert time.monotonic() - began < 15
    with refused("DEVICE_UNAVAILABLE") as error:
        await acquire(loader, on(refs["a"], "sim:0"))
    assert "fallen off the bus" in error.message
    assert (await acquire(loader, on(refs["a"], "auto"))).manifests[0].device == "sim:1"
    capacity = await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
    assert list(capacity.devices) == ["cpu", "sim:1"]
    assert capacity.accelerators[0].refusal == "sim:0 is lost: It has fallen off the bus."
