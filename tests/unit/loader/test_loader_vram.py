"""Components on accelerators, through the core's own methods: fake devices, and time that a test skips."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from modelkeep.exceptions import (
    DeviceUnavailableException,
    InvalidModelException,
    RamExhaustedException,
    VramExhaustedException,
)
from modelkeep_loader.domain.components import ComponentRef, Stage
from modelkeep_loader.domain.demand import Terms
from modelkeep_loader.domain.lease import LeaseEnd
from modelkeep_loader.domain.requests import DemoteRequested, Granted, Lost, Wish
from support.devicecore import DeviceCore, device_core
from support.faketime import run
from support.kiln import MB
from support.lendingcore import Ear, wish


def on(device: str, *keys: str, **more: Any) -> Wish:
    refs = [ComponentRef(key, "", "float32", device=device) for key in keys]
    return Wish(refs, lambda plans, residents: [plan.device for plan in plans], **more)


async def lend(made: DeviceCore, wanted: Wish) -> Granted:
    return await made.lending.acquire(wanted, 3600.0)


def release(made: DeviceCore, granted: Granted) -> None:
    made.lending.release(granted.lease.id, granted.lease.secret)


def test_a_component_is_copied_once_and_ram_may_let_go_of_it() -> None:
    async def story() -> None:
        async with device_core() as made:
            made.chips["sim:0"].takes_s = 1.0
            granted = await asyncio.gather(*(lend(made, on("sim:0", "a")) for _ in range(20)))
            assert made.forge.began == [0.0]
            assert made.chips["sim:0"].came == [""]
            assert made.on("sim:0") == ["a"]
            lease = granted[0].lease
            assert (lease.size_bytes, lease.vram_bytes) == (0, MB)
            (in_ram,) = made.cache.tier.residents()
            assert in_ram.may_go, "the copy is all that the leases need"
            made.cache.evict_idle()
            assert (await lend(made, on("sim:0", "a"))).lease.vram_bytes == MB
            assert made.forge.began == [0.0]

    run(story())


def test_one_request_goes_to_one_device_where_it_fits_and_is_spread_where_it_does_not() -> None:
    async def story() -> None:
        async with device_core((2 * MB, 3 * MB)) as made:
            together = await lend(made, on("auto", "a", "b", "c"))
            assert together.brief == ["sim:1"] * 3
            assert (await lend(made, on("auto", "d"))).brief == ["sim:0"], "where there is room"
            release(made, together)
            assert (await lend(made, on("auto", "a"))).brief == ["sim:1"], "where it is"
        async with device_core((2 * MB, 2 * MB)) as made:
            spread = await lend(made, on("sim", "a", "b", "c"))
            assert sorted(spread.brief) in (["sim:0", "sim:0", "sim:1"], ["sim:0", "sim:1", "sim:1"])

    run(story())


def test_two_devices_with_room_go_before_one_that_has_to_be_waited_for() -> None:
    async def story() -> None:
        async with device_core((3 * MB, 3 * MB)) as made:
            for device in ("sim:0", "sim:1"):
                await lend(made, on(device, f"on {device}", f"too on {device}"))
            assert sorted((await lend(made, on("auto", "a", "b"))).brief) == ["sim:0", "sim:1"]

    run(story())


def test_an_estimate_tells_what_each_device_and_ram_would_have_to_find() -> None:
    async def story() -> None:
        async with device_core((2 * MB,)) as made:
            refs = [ComponentRef(key, "", "float32", device="sim:0") for key in ("a", "b", "c")]
            found = await made.lending.estimate(refs[:2], Terms(activation_bytes=1024))
            (device,) = found.devices
            assert (device.needed_bytes, device.bytes_short) == (2 * MB + 1024, 1024)
            assert (found.needed_bytes, found.bytes_short) == (2 * MB, 0)
            assert not found.fits_now
            assert [one.vram_bytes for one in found.components] == [MB, MB]
            release(made, await lend(made, on("sim:0", "a")))
            found = await made.lending.estimate(refs[:2], Terms())
            assert (found.needed_bytes, found.devices[0].needed_bytes) == (MB, MB)
            assert found.fits_now
            assert [one.load_seconds > 0 for one in found.components] == [False, True]
            assert not (await made.lending.estimate(refs, Terms())).fits_at_all
            assert made.on("sim:0") == ["a"], "nothing was loaded"

    run(story())


def test_all_or_none_over_ram_and_devices() -> None:
    async def story() -> None:
        async with device_core((2 * MB,), budget=3 * MB) as made:
            with pytest.raises(VramExhaustedException) as short:
                await lend(made, on("sim:0", "a", "b", "c"))
            assert short.value.metadata["device"] == "sim:0"
            assert (made.on("sim:0"), made.in_ram, made.forge.began) == ([], [], [])
            kept = await lend(made, on("cpu", "x", "y", "z"))
            with pytest.raises(RamExhaustedException):
                await lend(made, on("sim:0", "a"))
            assert made.on("sim:0") == [], "its way there leads through RAM"
            release(made, kept)
            assert (await lend(made, on("sim:0", "a"))).brief == ["sim:0"]

    run(story())


def test_who_waits_holds_nothing_and_is_served_when_a_lease_ends() -> None:
    async def story() -> None:
        async with device_core((2 * MB,)) as made:
            first = await lend(made, on("sim:0", "a", "b"))
            second = asyncio.create_task(lend(made, on("sim:0", "c", "d", max_wait_s=60.0)))
            await asyncio.sleep(5)
            assert made.on("sim:0") == ["a", "b"]
            release(made, first)
            assert (await second).brief == ["sim:0", "sim:0"]
            with pytest.raises(VramExhaustedException, match="is held by the lease"):
                await lend(made, on("sim:0", "a", max_wait_s=3.0))

    run(story())


def test_what_is_dropped_goes_back_to_ram_where_ram_has_it_no_more() -> None:
    async def story() -> None:
        async with device_core((2 * MB,)) as made:
            for key in ("a", "b"):
                release(made, await lend(made, on("sim:0", key)))
            made.cache.evict("a")
            release(made, await lend(made, on("sim:0", "c")))
            await asyncio.sleep(1)
            assert made.on("sim:0") == ["b", "c"], "the longest unused went"
            assert made.chips["sim:0"].went_back == 1
            assert made.in_ram == ["a", "b", "c"]
            await lend(made, on("cpu", "a"))
            assert len(made.forge.began) == 3, "nothing was built twice"
            release(made, await lend(made, on("sim:0", "d")))
            assert made.chips["sim:0"].went_back == 1, "RAM still has b"

    run(story())


def test_what_strangers_take_is_no_room() -> None:
    async def story() -> None:
        async with device_core((4 * MB,)) as made:
            made.chips["sim:0"].strangers = 3 * MB
            assert (await lend(made, on("sim:0", "a"))).brief == ["sim:0"]
            with pytest.raises(VramExhaustedException):
                await lend(made, on("sim:0", "b"))
            waiting = asyncio.create_task(lend(made, on("sim:0", "b", max_wait_s=60.0)))
            await asyncio.sleep(3)
            made.chips["sim:0"].strangers = 0
            assert (await waiting).brief == ["sim:0"]

    run(story())


def test_a_holders_activations_count_once_whether_it_takes_them_or_not() -> None:
    async def story() -> None:
        async with device_core((4 * MB,)) as made:
            terms = Terms(activation_bytes=2 * MB)
            granted = await lend(made, on("sim:0", "a", terms=terms))
            made.chips["sim:0"].strangers = 2 * MB
            assert (await lend(made, on("sim:0", "b"))).brief == ["sim:0"]
            with pytest.raises(VramExhaustedException):
                await lend(made, on("sim:0", "c"))
            made.chips["sim:0"].strangers = 0
            release(made, granted)
            assert made.lending.devices.all[0].tier.usage().reserved == 0

    run(story())


def test_a_bound_puts_what_fits_on_the_device_and_keeps_the_rest_in_ram() -> None:
    async def story() -> None:
        async with device_core() as made:
            terms = Terms(max_vram_bytes=MB + MB // 2)
            granted = await lend(made, on("sim:0", "a", "b", "c", terms=terms))
            assert granted.brief == ["sim:0", "sim:0", "cpu"]
            lease = granted.lease
            assert lease.vram_bytes == MB + MB // 2
            assert lease.size_bytes == 2 * MB, "b and c"
            assert [r.id for r in made.cache.tier.residents() if r.leases] == ["b", "c"]
            release(made, granted)
            assert not any(r.leases for r in made.cache.tier.residents())

    run(story())


def test_a_pin_is_on_its_device() -> None:
    async def story() -> None:
        async with device_core((MB,)) as made:
            ref = ComponentRef("a", "", "float32", device="sim:0")
            await made.lending.pin([ref], load=True)
            with pytest.raises(VramExhaustedException):
                await lend(made, on("sim:0", "b"))
            assert made.lending.unpin([ref]) == [ref]
            assert (await lend(made, on("sim:0", "b"))).brief == ["sim:0"]

    run(story())


def test_a_copy_that_fails_is_cooled_down_as_a_build_is() -> None:
    async def story() -> None:
        async with device_core() as made:
            made.forge.broken = True
            for _ in range(3):
                with pytest.raises(InvalidModelException) as failed:
                    await lend(made, on("sim:0", "a"))
                assert failed.value.message.count("tiny") == 1, "its name once"
            assert made.forge.began == [0.0]

    run(story())


def test_an_idle_holder_is_asked_for_its_memory_and_gets_it_back() -> None:
    async def story() -> None:
        async with device_core((MB,)) as made:
            ear = Ear()
            holding = asyncio.create_task(made.lending.hold(on("sim:0", "a"), ear))
            granted = await ear.granted()
            lease = granted.lease
            waiting = asyncio.create_task(lend(made, on("sim:0", "b", max_wait_s=60.0)))
            await asyncio.sleep(5)
            assert len(ear.times(DemoteRequested)) == 1
            assert not waiting.done(), "nothing is taken from under a mapping"
            await made.lending.demote(lease.id, lease.secret)
            other = await waiting
            assert (lease.demoted, lease.vram_bytes, lease.size_bytes) == (True, 0, MB)
            again = Wish((), lambda plans, residents: [p.device for p in plans], lease_id=lease.id)
            mine = Wish((), again.brief, lease_id=lease.id, lease_secret=lease.secret)
            with pytest.raises(VramExhaustedException):
                await made.lending.promote(mine)
            assert (lease.demoted, lease.size_bytes) == (True, MB), "it keeps what it has"
            release(made, other)
            back = await made.lending.promote(mine)
            assert (back.brief, lease.demoted, lease.vram_bytes) == (["sim:0"], False, MB)
            assert not any(r.leases for r in made.cache.tier.residents())
            release(made, granted)
            await holding
            assert len(made.forge.began) == 2, "nothing was built twice"

    run(story())


def test_a_lease_is_demoted_from_the_device_where_ram_has_its_components_no_more() -> None:
    async def story() -> None:
        async with device_core((MB,), budget=MB) as made:
            granted = await lend(made, on("sim:0", "a", terms=Terms(activation_bytes=0)))
            kept = await lend(made, on("cpu", "b"))
            assert made.in_ram == ["b"]
            lease = granted.lease
            with pytest.raises(RamExhaustedException):
                await made.lending.demote(lease.id, lease.secret)
            assert (lease.demoted, lease.vram_bytes) == (False, MB)
            release(made, kept)
            await made.lending.demote(lease.id, lease.secret)
            assert made.chips["sim:0"].went_back == 1
            assert made.in_ram == ["a"]
            assert len(made.forge.began) == 2

    run(story())


def test_a_device_that_is_lost_ends_its_leases_and_the_loader_goes_on() -> None:
    async def story() -> None:
        async with device_core() as made:
            ear = Ear()
            holding = asyncio.create_task(made.lending.hold(on("sim:0", "a"), ear))
            granted = await ear.granted()
            other = await lend(made, on("sim:1", "a"))
            made.chips["sim:0"].lost = why = "sim:0 is lost: it has fallen off the bus."
            await holding
            (lost,) = [news for _, news in ear.heard if isinstance(news, Lost)]
            assert isinstance(lost.error, DeviceUnavailableException)
            assert lost.error.metadata == {"device": "sim:0", "why": why}
            assert f"has ended, since the device sim:0 is gone: {why}" in lost.error.message
            assert granted.lease.end is LeaseEnd.DEVICE_LOST
            assert made.on("sim:0") == []
            with pytest.raises(DeviceUnavailableException, match="fallen off the bus"):
                await lend(made, on("sim:0", "a"))
            assert (await lend(made, on("auto", "b"))).brief == ["sim:1"]
            assert other.lease.end is None

    run(story())


def test_a_device_that_is_lost_while_something_is_copied_there_fails_the_copy() -> None:
    async def story() -> None:
        async with device_core((4 * MB,)) as made:
            made.forge.takes_s = 5.0
            work = asyncio.create_task(lend(made, on("sim:0", "a")))
            await asyncio.sleep(2)
            made.chips["sim:0"].lost = "gone"
            with pytest.raises(DeviceUnavailableException):
                await work
            assert all(r.stage is Stage.FAILED for r in made.lending.devices.all[0].tier.residents())
            assert (await made.lending.acquire(wish("a"), 60.0)).brief == ["a"], "auto is the CPU now"

    run(story())
