"""The RAM tier by the kernel's count: 2,000 acquires over real memfds, written, mapped and let go of."""

from __future__ import annotations

import asyncio
import mmap
import os
import random

import pytest

from modelkeep.exceptions import ModelInUseException, RamExhaustedException
from modelkeep_loader.domain.components import Stage
from modelkeep_loader.domain.demand import Demand, Terms
from support.kiln import Kiln, plan, ram_cache
from support.memorytruth import memfd_bytes

COMPONENTS, ROOM, ACQUIRES, WORKERS = 24, 8, 2000, 6
SIZE = 256 << 10


class Truth:
    """Looks at the memory, and at every living lease, after each step."""

    def __init__(self, budget_bytes: int) -> None:
        self.most = self.looks = self.refused = self.served = 0
        self.kiln = Kiln()
        self.kiln.fills = True
        self.cache = ram_cache(self.kiln, budget_bytes=budget_bytes)
        #: What each living lease is on, and what it may take besides.
        self.leases: dict[str, tuple[str, int]] = {}

    def look(self) -> None:
        taken = memfd_bytes([os.getpid()], "modelkeep:test")
        self.most, self.looks = max(self.most, taken), self.looks + 1
        besides = sum(size for _, size in self.leases.values())
        assert taken + besides <= self.cache.tier.budget_bytes
        for holder, (name, _) in self.leases.items():
            resident = self.cache.tier.get(name)
            assert resident is not None
            assert (resident.stage, holder in resident.leases) == (Stage.RESIDENT, True)

    async def work(self, number: int, dice: random.Random, count: int) -> None:
        """Lease, map, read, and let go of lease and mapping in either order."""
        for turn in range(count):
            name = f"c{min(int(dice.expovariate(0.15)), COMPONENTS - 1):02}"
            holder = f"lease-{number}-{turn}"
            besides = dice.choice((0, 0, 0, SIZE))
            demand = Demand([plan(name, SIZE)], holder, terms=Terms(besides, dice.choice((None, 0.0, 0.001))))
            try:
                (resident,) = await self.cache.acquire(demand, max_wait_s=0.2)
            except RamExhaustedException:
                self.refused += 1
                continue
            self.served += 1
            self.leases[holder] = name, besides
            fd = self.cache.tier.export(resident)
            mapping = mmap.mmap(fd, SIZE, mmap.MAP_PRIVATE, mmap.PROT_READ)
            os.close(fd)
            self.look()
            await asyncio.sleep(dice.choice((0, 0, 0.001)))
            assert mapping[:3].decode() == mapping[-4096:-4093].decode() == name, "it is what was asked for"
            del self.leases[holder]
            self.cache.give_back(holder)
            if dice.random() < 0.1:  # an operator at work while it is still mapped
                try:
                    self.cache.evict(name)
                except ModelInUseException:
                    assert self.is_wanted(name)
            await asyncio.sleep(0)
            self.look()
            mapping.close()
            if turn % 7 == 0:
                self.cache.sweep()

    def is_wanted(self, name: str) -> bool:
        """Whether somebody holds it, or was let in, or it is being built."""
        resident = self.cache.tier.get(name)
        return resident is not None and (resident.is_loading or bool(resident.leases))


@pytest.mark.timeout(120)
@pytest.mark.may_block  # asks the kernel what there is
async def test_no_lease_loses_its_memory_and_the_budget_holds_by_the_kernels_count() -> None:
    truth = Truth(ROOM * SIZE)
    await asyncio.gather(
        *(truth.work(number, random.Random(number), ACQUIRES // WORKERS) for number in range(WORKERS))
    )
    assert truth.served + truth.refused == ACQUIRES // WORKERS * WORKERS
    assert truth.served > truth.refused * 20
    assert (ROOM - 1) * SIZE < truth.most <= ROOM * SIZE, "it was full, and never fuller"
    truth.cache.sweep()
    usage = truth.cache.usage()
    assert (usage.leased, usage.zombie, usage.reserved, usage.waiting) == (0, 0, 0, 0)
    assert usage.hits + usage.misses >= truth.served
    assert usage.evictions >= len(truth.kiln.built) - ROOM
    await truth.cache.tier.freed()
    assert memfd_bytes([os.getpid()], "modelkeep:test") == usage.used
    await truth.cache.close()
    assert memfd_bytes([os.getpid()], "modelkeep:test") == 0
