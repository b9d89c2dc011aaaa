"""What holds over RAM and accelerators whatever callers, holders and strangers do, drawn by lot."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from dataclasses import dataclass, field

import pytest

from modelkeep.exceptions import ModelkeepError
from modelkeep_loader.domain.components import ComponentRef, Stage
from modelkeep_loader.domain.demand import Terms
from modelkeep_loader.domain.lease import Lease
from modelkeep_loader.domain.requests import Granted, Wish
from support.devicecore import GRANULARITY, DeviceCore, device_core
from support.faketime import run
from support.kiln import MB

KEYS = "abcdefgh"
KINDS = ("ask", "ask", "ask", "release", "demote", "promote", "stranger", "evict", "end")
#: What a caller may be told.
REFUSED = ("VRAM_EXHAUSTED", "RAM_EXHAUSTED", "UNKNOWN_LEASE")
DEVICES = ("auto", "sim", "sim:0", "sim:1", "cpu")


@dataclass
class Crowd:
    """Callers of a core, who do what a seed says."""

    made: DeviceCore
    lot: random.Random
    held: list[Granted] = field(default_factory=list)
    asked: set[asyncio.Task[None]] = field(default_factory=set)
    served: int = 0

    async def step(self) -> None:
        kind = self.lot.choice(KINDS)
        if kind == "ask":
            task = asyncio.create_task(self.ask())
            self.asked.add(task)
            task.add_done_callback(self.asked.discard)
        elif kind == "release" and self.held:
            granted = self.held.pop(self.lot.randrange(len(self.held)))
            self.made.lending.release(granted.lease.id, granted.lease.secret)
        elif kind == "demote" and self.held:
            lease = self.lot.choice(self.held).lease
            await _refused_or_done(self.made.lending.demote(lease.id, lease.secret))
        elif kind == "promote" and self.held:
            lease = self.lot.choice(self.held).lease
            again = Wish(
                (), lambda plans, residents: (), lease_id=lease.id, lease_secret=lease.secret, max_wait_s=2.0
            )
            await _refused_or_done(self.made.lending.promote(again))
        elif kind == "stranger":
            chip = self.made.chips[self.lot.choice(("sim:0", "sim:1"))]
            chip.strangers = self.lot.randrange(max(1, min(chip.free + chip.strangers, 2 * MB)))
        elif kind == "evict":
            for cache in self.made.lending.caches.all:
                if self.lot.random() < 0.5:
                    cache.evict_idle()
        elif kind == "end" and self.asked:
            task = self.lot.choice(sorted(self.asked, key=id))
            task.cancel()
        await asyncio.sleep(self.lot.choice((0.0, 0.0, 0.3, 2.0)))

    async def ask(self) -> None:
        keys = self.lot.sample(KEYS, self.lot.randint(1, 3))
        refs = [ComponentRef(key, "", "float32", device=self.lot.choice(DEVICES)) for key in keys]
        terms = Terms(
            activation_bytes=self.lot.choice((0, 0, MB // 2)),
            keep_alive_s=self.lot.choice((None, None, 0.0)),
            max_vram_bytes=self.lot.choice((0, 0, MB + MB // 4)),
        )
        wait_s = self.lot.choice((0.0, 5.0))
        wish = Wish(refs, lambda plans, residents: (), terms=terms, max_wait_s=wait_s)
        try:
            granted = await self.made.lending.acquire(wish, 3600.0)
        except ModelkeepError as error:
            if error.reason not in REFUSED:
                raise
            return
        self.served += 1
        self.held.append(granted)

    def check(self) -> None:
        """What holds at any moment."""
        for granted in self.held:
            lease: Lease = granted.lease
            assert lease.end is None
            for resident, plan in zip(lease.residents, lease.plans_now, strict=True):
                assert resident.stage is Stage.RESIDENT
                assert self.made.lending.caches.get(plan) is resident, "a leased component is never dropped"
                assert lease.id in resident.leases
            for resident in lease.besides:
                assert lease.id in resident.leases
        for name, chip in self.made.chips.items():
            assert chip.free >= 0, "a device is never too full"
            tier = self.made.lending.devices.named(name).tier
            there = [r.built.memory for r in tier.residents() if r.built is not None]
            assert set(there) <= chip.made
        ram = self.made.cache.usage()
        assert ram.taken <= ram.budget


async def _refused_or_done(work: Awaitable[object]) -> None:
    try:
        await work
    except ModelkeepError as error:
        if error.reason not in REFUSED:
            raise


@pytest.mark.parametrize("seed", range(12))
def test_nothing_leased_goes_nothing_is_too_full_and_in_the_end_nothing_is_held(seed: int) -> None:
    async def story() -> None:
        lot = random.Random(seed)
        async with device_core((3 * MB, 4 * MB), budget=6 * MB) as made:
            for chip in made.chips.values():
                chip.takes_s = 0.4
            made.forge.takes_s = 0.3
            made.drawer.sizes = {key: MB // 2 + lot.randrange(512) * GRANULARITY for key in KEYS}
            crowd = Crowd(made, lot)
            for _ in range(150):
                await crowd.step()
                crowd.check()
            while crowd.asked:
                await asyncio.wait(set(crowd.asked))
            for granted in crowd.held:
                made.lending.release(granted.lease.id, granted.lease.secret)
            await asyncio.sleep(10)
            assert crowd.served > 10
            for cache in made.lending.caches.all:
                assert not any(r.wanted for r in cache.tier.residents())
                usage = cache.usage()
                assert (usage.reserved, usage.leased, usage.waiting) == (0, 0, 0)
            for name, chip in made.chips.items():
                tier = made.lending.devices.named(name).tier
                kept = {r.built.memory for r in tier.residents() if r.built is not None}
                assert chip.made == kept, "no allocation is forgotten"

    run(story())
