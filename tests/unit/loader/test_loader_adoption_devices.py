"""A loader is killed, and the next one goes on with what lies on accelerators, as far as these are there."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from modelkeep_loader.domain.components import Placed, Plan
from modelkeep_loader.domain.demand import Demand
from modelkeep_loader.domain.lease import Lease, LeaseState
from modelkeep_loader.domain.leases import LeaseTable
from support.cupboards import SIZE, Cupboard, Loader
from support.kiln import Clock, plan
from support.memorytruth import memfd_bytes


@pytest.fixture
async def cupboard() -> AsyncIterator[Cupboard]:
    made = Cupboard()
    yield made
    await made.close(keep=False)
    assert memfd_bytes([os.getpid()], "modelkeep:test:") == 0


def on_device(name: str, part_bytes: int = 0, device: str = "sim:0") -> Plan:
    """A component on a device, whole or in part."""
    source = plan(name, SIZE)
    return replace(
        source,
        ref=replace(source.ref, device=device),
        id=f"{name}@{device}",
        device=device,
        size_bytes=part_bytes or SIZE,
        placed=Placed(name, SIZE, 0, part_bytes),
    )


async def lease_on(loader: Loader, plans: Sequence[Plan], activation_bytes: int = 0) -> Lease:
    """A lease that a stream binds; what is for RAM, or is in RAM besides, is built."""
    for one in plans:
        if one.placed is None or one.placed.part_bytes:
            await loader.load(one.source.id)
        if one.placed is not None and loader.caches.get(one) is None:
            loader.put_on_device(one)
    holder = LeaseTable.new_id()
    loader.caches.hold_on(Demand(plans, holder))
    found = [resident for one in plans if (resident := loader.caches.get(one)) is not None]
    lease = loader.leases.grant(
        holder,
        plans,
        found,
        activation_bytes=activation_bytes,
        besides=loader.caches.besides(Demand(plans, holder)),
    )
    loader.leases.bind_stream(lease)
    return lease


async def next_loader(before: Loader, devices: Sequence[str] = ("sim:0",)) -> Loader:
    before.die()
    return await Loader(before.cupboard, before.clock, devices=devices).adopt()


async def test_what_is_on_a_device_is_held_there_and_in_ram_only_what_is_there_in_part(
    cupboard: Cupboard,
) -> None:
    first = Loader(cupboard, Clock(), devices=["sim:0"])
    granted = await lease_on(
        first, [on_device("a"), on_device("b", 5000), plan("c", SIZE)], activation_bytes=SIZE
    )
    device = first.caches.devices.named("sim:0")
    device.cache.pin([on_device("a")])
    second = await next_loader(first)
    device = second.caches.devices.named("sim:0")
    (lease,) = second.leases.alive()
    assert lease.state is LeaseState.DETACHED
    assert lease.plans == granted.plans
    assert [r.id for r in lease.residents] == ["a@sim:0", "b@sim:0", "c"]
    assert [r.id for r in lease.besides] == ["b"]
    assert (lease.size_bytes, lease.vram_bytes) == (2 * SIZE, SIZE + 5000)
    assert second.names == ["b", "c"]
    assert [r.id for r in device.tier.residents()] == ["a@sim:0", "b@sim:0"]
    assert (device.cache.usage().leased, device.cache.usage().pinned) == (SIZE + 5000, SIZE)
    assert (device.cache.usage().reserved, second.cache.usage().reserved) == (SIZE, 0)
    second.leases.release(lease)
    assert (device.cache.usage().leased, device.cache.usage().reserved, second.cache.usage().leased) == (
        0,
    ) * 3
    second.die()


async def test_a_lease_that_has_let_go_of_the_device_comes_back_to_it_later(cupboard: Cupboard) -> None:
    first = Loader(cupboard, Clock(), devices=["sim:0"])
    wanted = on_device("a")
    granted = await lease_on(first, [wanted], activation_bytes=SIZE)
    await first.load("a")
    first.cache.hold_on(Demand([wanted.source], granted.id))
    device = first.caches.devices.named("sim:0")
    device.cache.give_back(granted.id)
    first.leases.demoted(granted)
    device.cache.evict_idle()
    second = await next_loader(first)
    (lease,) = second.leases.alive()
    assert (lease.demoted, lease.plans) == (True, [wanted])
    assert [r.id for r in lease.residents] == ["a"]
    assert (lease.size_bytes, lease.vram_bytes) == (SIZE, 0)
    usage = second.caches.devices.named("sim:0").cache.usage()
    assert (usage.used, usage.reserved, second.cache.usage().reserved) == (0, 0, 0)
    second.die()


async def test_without_the_device_or_the_rest_in_ram_a_lease_does_not_go_on(
    cupboard: Cupboard, caplog: pytest.LogCaptureFixture
) -> None:
    first = Loader(cupboard, Clock(), devices=["sim:0", "sim:1"])
    gone = await lease_on(first, [on_device("a", device="sim:1")])
    torn = await lease_on(first, [on_device("b", 5000)])
    whole = await lease_on(first, [on_device("c")])
    cupboard.drop("resident/b")
    second = await next_loader(first)
    assert [lease.id for lease in second.leases.alive()] == [whole.id]
    assert (
        "resident/a@sim:1 of an earlier loader does not go on: the device sim:1 is not there" in caplog.text
    )
    assert (
        f"lease/{gone.id} of an earlier loader does not go on: the device sim:1 is not there" in caplog.text
    )
    assert f"lease/{torn.id} of an earlier loader does not go on: the component b@sim:0" in caplog.text
    assert {name for name in cupboard.things if name.startswith("lease/")} == {f"lease/{whole.id}"}
    second.die()
