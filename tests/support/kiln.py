"""A builder of real sealed memory that needs no model, and time by hand: for tests of the RAM tier."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

from modelkeep import sealed
from modelkeep.exceptions import InvalidModelException
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.components import (
    Builder,
    BuildProgress,
    Built,
    ComponentRef,
    ModelFacts,
    Plan,
    Stage,
)
from modelkeep_loader.domain.demand import Demand
from modelkeep_loader.domain.tier import Tier, TierName
from modelkeep_loader.tiers.ram import SealedMemory

MB = 1 << 20
FACTS = ModelFacts("tiny", "sd-1", "vae", Path("/models/tiny"), "hash")


class Kiln:
    """Builds memory of the planned size; can be made to wait or to fail."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken: set[str] = set()
        self.true_bytes: dict[str, int] = {}
        self.closed_by: list[int] = []
        #: Whether its memory is written, each page with the name, and so takes room.
        self.fills = False

    async def build(self, plan: Plan, progress: BuildProgress) -> Built:
        progress(Stage.READING, 0)
        await self.gate.wait()
        if plan.id in self.broken:
            raise InvalidModelException(f"{plan.id} is broken", metadata={"path": "x"})
        self.built.append(plan.id)
        fd = sealed.create("modelkeep:test", self.true_bytes.get(plan.id, plan.size_bytes))
        if self.fills:
            page = plan.id.encode().ljust(4096, b"\0")
            os.pwrite(fd, page * (plan.size_bytes // 4096), 0)
        sealed.seal(fd)
        readonly = sealed.open_readonly(fd)
        os.close(fd)
        return Built(Ashes(readonly, self.closed_by), (), {}, {}, frozenset())


class Ashes(SealedMemory):
    """Tells which thread closed it."""

    def __init__(self, descriptor: int, closed_by: list[int]) -> None:
        super().__init__(descriptor)
        self._closed_by = closed_by

    def close(self) -> None:
        self._closed_by.append(threading.get_ident())
        super().close()


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def plan(name: str, size: int = MB, key: str = "") -> Plan:
    ref = ComponentRef(key or name, "", "float32")
    return Plan(ref, name, True, "diffusers", "AutoencoderKL", {}, {}, "float32", (), (), None, size, FACTS)


def want(holder: str, *plans: Plan, lease: bool = True) -> Demand:
    return Demand(plans, holder, is_lease=lease)


def ram_cache(builder: Builder, **settings: Any) -> Cache:
    """A cache over a RAM tier with these settings of the tier."""
    return Cache(builder, Tier(TierName.RAM, **settings))
