"""LoaderService over real channels: how long components stay, pins, reservations and counts. Real weights."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import capacity_pb2, hold_pb2, load_pb2, pins_pb2, resident_pb2, residents_pb2
from support import tinymodels
from support.failures import refused
from support.lending import evict_all, release
from support.loaders import Lender, component, lender

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    tinymodels.save_pipeline(folder / "imports" / "sd")
    async with lender(folder / "data", folder / "imports", warm_helper=True) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(loader: Lender) -> str:
    return await loader.register(loader.models / "sd", name="tiny")


async def residents(loader: Lender) -> list[resident_pb2.Resident]:
    return list((await loader.stub.ListResidents(residents_pb2.ListResidentsRequest())).residents)


async def ram(loader: Lender) -> resident_pb2.TierCapacity:
    found: Any = await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
    tiers: list[resident_pb2.TierCapacity] = list(found.tiers)
    return next(tier for tier in tiers if tier.tier == resident_pb2.TIER_RAM)


async def load(loader: Lender, part: resident_pb2.ComponentRef, keep_alive_s: int | None) -> None:
    request = load_pb2.LoadModelRequest(components=[part])
    if keep_alive_s is not None:
        request.keep_alive.seconds = keep_alive_s
    async for _ in loader.stub.LoadModel(request):
        pass


async def test_keep_alive_is_said_with_a_load_and_with_a_lease(loader: Lender, key: str) -> None:
    vae = component(key, "vae")
    await load(loader, vae, None)
    (resident,) = await residents(loader)
    assert not resident.HasField("keep_until_time"), "the setting keeps it for as long as there is room"
    await load(loader, vae, 3600)
    (resident,) = await residents(loader)
    left = resident.keep_until_time.ToNanoseconds() - resident.last_use_time.ToNanoseconds()
    assert left == pytest.approx(3600e9, abs=1e3)
    request = hold_pb2.AcquireLeaseRequest(components=[vae], delivery=hold_pb2.DELIVERY_NONE)
    request.keep_alive.seconds = 0
    lease = (await loader.stub.AcquireLease(request)).grant
    (resident,) = await residents(loader)
    assert not resident.HasField("keep_until_time")
    await release(loader, lease)
    assert await residents(loader) == [], "0: it goes with its last lease"
    await load(loader, vae, 0)
    assert await residents(loader) == []


async def test_what_a_lease_reserves_shows_in_it_and_in_the_capacity_until_it_ends(
    loader: Lender, key: str
) -> None:
    before = await ram(loader)
    request = hold_pb2.AcquireLeaseRequest(
        components=[component(key, "vae")], delivery=hold_pb2.DELIVERY_NONE, activation_bytes=12_345_678
    )
    lease = (await loader.stub.AcquireLease(request)).grant
    assert lease.lease.activation_bytes == 12_345_678
    now = await ram(loader)
    assert now.reserved_bytes == 12_345_678
    assert now.high_watermark_bytes >= now.used_bytes + 12_345_678
    assert now.miss_count == before.miss_count + 1
    await load(loader, component(key, "vae"), None)
    assert (await ram(loader)).hit_count == before.hit_count + 1
    request.activation_bytes = now.budget_bytes
    with refused("RAM_EXHAUSTED") as error:
        await loader.stub.AcquireLease(request)
    assert int(error.metadata["bytes_short"]) > 0
    await release(loader, lease)
    assert (await ram(loader)).reserved_bytes == 0
    request.activation_bytes = -1
    with refused("FIELD_INVALID"):
        await loader.stub.AcquireLease(request)
    await evict_all(loader)
    assert (await ram(loader)).eviction_count > before.eviction_count


async def test_a_pin_is_by_name_loads_if_asked_and_guards_against_an_eviction(
    loader: Lender, key: str
) -> None:
    vae, text = component(key, "vae"), component(key, "text_encoder", "float16")
    pinned = await loader.stub.PinModel(pins_pb2.PinModelRequest(components=[vae, text]))
    assert [(pin.component, pin.resident) for pin in pinned.pins] == [
        (component(key, "vae"), False),
        (text, False),
    ]
    assert await residents(loader) == []
    await load(loader, vae, 0)
    (resident,) = await residents(loader)
    assert (resident.id, resident.pinned) == (pinned.pins[0].resident_id, True)
    again = await loader.stub.PinModel(pins_pb2.PinModelRequest(components=[text], load=True))
    assert (again.pins[0].resident, again.pins[0].size_bytes > 0) == (True, True)
    tier = await ram(loader)
    assert tier.pinned_bytes == tier.used_bytes > 0
    with refused("MODEL_PINNED") as error:
        await loader.stub.EvictModel(load_pb2.EvictModelRequest(key=key))
    assert error.metadata["key"] == key
    assert error.metadata["components"] == "tiny/text_encoder,tiny/vae"
    assert error.message.startswith(f"The model 'tiny' ({key}) is pinned")
    assert "cache unpin" in error.remedy
    taken = await loader.stub.UnpinModel(pins_pb2.UnpinModelRequest(components=[component(key)]))
    assert {(c.submodel, c.precision) for c in taken.components} == {
        (c.submodel, c.precision) for c in (vae, text)
    }
    assert (await loader.stub.EvictModel(load_pb2.EvictModelRequest(key=key))).evicted_count >= 1
    assert not (
        await loader.stub.UnpinModel(pins_pb2.UnpinModelRequest(components=[component(key)]))
    ).components


async def test_what_cannot_be_loaded_is_not_pinned_by_the_attempt(loader: Lender, key: str) -> None:
    cache = loader.app.lending.cache
    budget, cache.tier.budget_bytes = cache.tier.budget_bytes, 1000
    try:
        with refused("RAM_EXHAUSTED"):
            await loader.stub.PinModel(
                pins_pb2.PinModelRequest(components=[component(key, "unet")], load=True)
            )
    finally:
        cache.tier.budget_bytes = budget
    unpinned = await loader.stub.UnpinModel(pins_pb2.UnpinModelRequest(components=[component(key)]))
    assert not unpinned.components
    with refused("SUBMODEL_REQUIRED"):
        await loader.stub.PinModel(pins_pb2.PinModelRequest(components=[component(key)]))
