"""Components that come from their files to an accelerator without a place in RAM."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from safetensors.torch import save_file

from modelkeep.devices.simulated import Fault
from modelkeep.loader.v1 import capacity_pb2, hold_pb2, load_pb2, pins_pb2, resident_pb2, residents_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.worker._fetch import fetch_descriptors
from modelkeep_loader import direct
from modelkeep_loader.accelerators import Accelerators
from modelkeep_loader.direct import FileFetches
from modelkeep_loader.domain.components import ChangedMeanwhileException, Identified
from modelkeep_loader.helper import Gathered
from support import tinymodels
from support.devices import MIB, Faults
from support.failures import refused
from support.lending import acquire, load
from support.loaders import Lender, component, lender
from support.processes import children
from support.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

VRAM, RAM = resident_pb2.TIER_VRAM, resident_pb2.TIER_RAM
LORA = {"type": taxonomy_pb2.MODEL_TYPE_LORA, "format": taxonomy_pb2.MODEL_FORMAT_LYCORIS}


def learned(path: Path, megabytes: int, seed: int = 0) -> Path:
    """A state dict of several tensors, of so many megabytes and a little."""
    torch.manual_seed(seed)
    odd = {"odd": torch.rand(3), "number": torch.tensor([7])}
    save_file({f"t{n}": torch.rand(512, 512) for n in range(megabytes)} | odd, path)
    return path


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def faults(folder: Path) -> Faults:
    return Faults(folder / "faults.json")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path, faults: Faults) -> AsyncIterator[Lender]:
    models = folder / "imports"
    models.mkdir()
    settings: dict[str, Any] = {
        "accelerator": faults.spec("1x128MiB"),
        "ram_budget_bytes": 24 * MIB,
        "warm_helper": True,
    }
    async with lender(folder / "data", models, **settings) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pipeline(loader: Lender) -> str:
    """Key of a main model."""
    return await loader.register(tinymodels.save_pipeline(loader.models / "sd", widths=(32, 64)))


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def clean(loader: Lender, faults: Faults) -> AsyncIterator[None]:
    yield
    faults.clear()
    for lease in loader.app.lending.leases.alive():
        loader.app.lending.leases.release(lease)
    for tier in (VRAM, RAM):
        await loader.stub.EvictModel(load_pb2.EvictModelRequest(tier=tier))


async def named(loader: Lender, path: Path, device: str, **more: Any) -> resident_pb2.ComponentRef:
    found = component(await loader.register(path, **LORA))
    found.device = device
    for name, value in more.items():
        setattr(found, name, value)
    return found


async def tiers(loader: Lender) -> list[int]:
    """Where there is something."""
    residents = (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest())).residents
    return sorted({resident.tier for resident in residents})


async def came(loader: Lender) -> tuple[int, int]:
    """Bytes that have come to the device from files, and from RAM."""
    capacity = await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
    (device,) = capacity.accelerators
    return device.from_files_bytes, device.from_ram_bytes


@asynccontextmanager
async def lent(loader: Lender, ref: resident_pb2.ComponentRef) -> AsyncIterator[bytes]:
    """The bytes of a component on the device, while it is leased."""
    grant = await acquire(loader, ref)
    (manifest,) = grant.manifests
    connection, descriptors = await asyncio.to_thread(fetch_descriptors, grant.socket_path, grant.ticket, 2)
    try:
        first = min(tensor.offset for tensor in manifest.tensors)
        assert os.fstat(descriptors[0]).st_size == first
        data = os.pread(descriptors[1], manifest.file_size_bytes, 0)
        assert data[:first] == os.pread(descriptors[0], first, 0)
        yield data
    finally:
        connection.close()
        for descriptor in descriptors:
            os.close(descriptor)
        request = hold_pb2.ReleaseLeaseRequest(lease_id=grant.lease.id, lease_secret=grant.lease_secret)
        await loader.stub.ReleaseLease(request)


async def whole(loader: Lender, ref: resident_pb2.ComponentRef) -> bytes:
    """The bytes of a component."""
    async with lent(loader, ref) as data:
        return data


@pytest.mark.parametrize("is_known", [True, False], ids=["just read", "to be read"])
@pytest.mark.parametrize("part", ["", "vae", "unet", "text_encoder"])
async def test_either_way_brings_the_same_bytes(
    loader: Lender, pipeline: str, monkeypatch: pytest.MonkeyPatch, part: str, is_known: bool
) -> None:
    if part:
        ref = component(pipeline, part)
        ref.device = "sim:0"
    else:
        path = learned(loader.models / f"either-{is_known}.safetensors", 20)
        ref = await named(loader, path, "sim:0")
    by_ram = resident_pb2.ComponentRef()
    by_ram.CopyFrom(ref)
    by_ram.device = "auto"
    monkeypatch.setattr(direct, "is_fresh", lambda known: is_known)
    before = await came(loader)
    data = await whole(loader, ref)
    assert await tiers(loader) == [VRAM], "nothing of it is in RAM"
    straight = await came(loader)
    assert (straight[0] - before[0], straight[1] - before[1]) == (len(data), 0)
    await loader.stub.EvictModel(load_pb2.EvictModelRequest(tier=VRAM))
    await loader.stub.EvictModel(load_pb2.EvictModelRequest(tier=RAM))
    assert await whole(loader, by_ram) == data
    after = await came(loader)
    assert (after[0] - straight[0], after[1] - straight[1]) == (0, len(data))


async def test_what_is_larger_than_all_of_ram_comes_to_a_device(loader: Lender) -> None:
    path = learned(loader.models / "large.safetensors", 40)
    ref = await named(loader, path, "sim:0")
    assert len(await whole(loader, ref)) > 40 * MIB
    ref.device = "cpu"
    with refused("RAM_EXHAUSTED"):
        await acquire(loader, ref)


async def test_what_has_to_be_cast_is_pinned_or_is_there_goes_by_ram(loader: Lender) -> None:
    path = learned(loader.models / "other.safetensors", 20)
    cast = await named(loader, path, "sim:0", precision=resident_pb2.PRECISION_FLOAT16)
    before = await came(loader)
    await load(loader, cast)
    assert await tiers(loader) == [RAM, VRAM]
    plain = await named(loader, learned(loader.models / "plain.safetensors", 2), "cpu")
    await load(loader, plain)
    there = resident_pb2.ComponentRef()
    there.CopyFrom(plain)
    there.device = "sim:0"
    await load(loader, there)
    assert (await came(loader))[0] == before[0]
    await loader.stub.PinModel(pins_pb2.PinModelRequest(components=[plain]))
    for tier in (VRAM, RAM):
        await loader.stub.EvictModel(load_pb2.EvictModelRequest(tier=tier))
    await load(loader, there)
    assert (await came(loader))[0] == before[0], "RAM is to keep it"
    await loader.stub.UnpinModel(pins_pb2.UnpinModelRequest(components=[plain]))


def between(loader: Lender, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> list[object]:
    """Have something done once between the look at the files and their reading."""
    done: list[object] = []
    real = loader.app.helper.gather

    async def gather(*arguments: Any) -> Gathered | None:
        found = await real(*arguments)
        if not done:
            done.append(None)
            await asyncio.to_thread(act)
        return found

    monkeypatch.setattr(loader.app.helper, "gather", gather)
    return done


async def test_a_file_that_becomes_another_meanwhile_is_read_anew(
    loader: Lender, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = learned(loader.models / "changing.safetensors", 6)
    ref = await named(loader, path, "sim:0")
    new = learned(loader.models / "new.safetensors", 6, seed=1)
    ref_of_new = await named(loader, new, "sim:0")
    done = between(loader, monkeypatch, lambda: path.write_bytes(new.read_bytes()))
    data = await whole(loader, ref)
    assert done, "and noticed"
    assert data == await whole(loader, ref_of_new)


async def test_a_file_that_is_cut_off_meanwhile_is_refused(
    loader: Lender, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = learned(loader.models / "short.safetensors", 6)
    ref = await named(loader, path, "sim:0")
    done = between(loader, monkeypatch, lambda: os.truncate(path, 2 * MIB))
    with refused("INVALID_MODEL"):
        await acquire(loader, ref)
    assert done


async def test_bytes_that_are_others_than_the_digest_says_are_not_lent(loader: Lender) -> None:
    path = learned(loader.models / "silent.safetensors", 2)
    ref = await named(loader, path, "cpu")
    await load(loader, ref)
    (resident,) = loader.app.lending.cache.tier.residents()
    plan = replace(resident.plan, digests=(Identified("0" * 64, 0.0),))
    accelerators = Accelerators("sim:1x64MiB")
    await accelerators.open()
    made: set[Any] = set()

    @asynccontextmanager
    async def near(plan: Any, progress: Any) -> AsyncIterator[Any]:
        yield plan

    fetches = FileFetches(loader.app.helper, near, accelerators, accelerators.devices[0], made)
    with pytest.raises(ChangedMeanwhileException):
        await fetches.fetch(plan, lambda stage, done, private_bytes=0: None)
    assert not made
    built = await fetches.fetch(
        replace(plan, digests=resident.plan.digests), lambda stage, done, private_bytes=0: None
    )
    built.memory.close()
    await accelerators.close()


async def test_a_copier_that_dies_while_it_reads_costs_no_more_than_time(
    loader: Lender, faults: Faults
) -> None:
    path = learned(loader.models / "killed.safetensors", 24)
    ref = await named(loader, path, "sim:0")
    await load(loader, ref)  # so that there is a copier
    await loader.stub.EvictModel(load_pb2.EvictModelRequest(tier=VRAM))
    await loader.stub.EvictModel(load_pb2.EvictModelRequest(tier=RAM))
    faults.set("sim:0", Fault(slow_s=20.0))
    work = asyncio.create_task(whole(loader, ref))
    (device,) = loader.app.lending.devices.all
    await until(lambda: device.tier.made)
    for pid in children("modelkeep_devices", "copier"):
        os.kill(pid, signal.SIGKILL)
    faults.clear()
    assert len(await work) > 24 * MIB
    assert len(device.tier.made) == 1
