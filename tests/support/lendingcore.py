"""The loader's core on fake ports: plans, helper, memory and processes that exist in a test only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from modelkeep.exceptions import InvalidModelException
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.components import (
    BuildProgress,
    Built,
    ChangedMeanwhileException,
    ComponentRef,
    Memory,
    Plan,
    Stage,
)
from modelkeep_loader.domain.digests import Reading
from modelkeep_loader.domain.lending import Lending
from modelkeep_loader.domain.requests import Granted, News, Wish
from support.faketime import now
from support.kiln import MB, plan, ram_cache

HERE = "this host"


def free_at_once(memory: Memory) -> asyncio.Future[None]:
    """No thread: a loop in which time is skipped waits for none."""
    memory.close()
    freed = asyncio.get_running_loop().create_future()
    freed.set_result(None)
    return freed


class Drawer:
    """Plans by key. Each takes as many seconds as is said, and as many bytes."""

    def __init__(self) -> None:
        self.takes_s = 0.0
        self.sizes: dict[str, int] = {}
        self.closed = False
        self.distrusted: list[str] = []

    async def plan(self, refs: Sequence[ComponentRef], reading: Reading | None = None) -> list[Plan]:
        await asyncio.sleep(self.takes_s)
        return await self.outline(refs)

    async def outline(self, refs: Sequence[ComponentRef]) -> list[Plan]:
        plans = (plan(ref.key, self.sizes.get(ref.key, MB)) for ref in refs)
        return [
            replace(one, ref=replace(one.ref, device=ref.device))
            for one, ref in zip(plans, refs, strict=True)
        ]

    def distrust(self, plans: Sequence[Plan]) -> None:
        self.distrusted += [plan.ref.key for plan in plans]

    def close(self) -> None:
        self.closed = True


@dataclass
class Slab:
    """Memory of which a test says whether somebody has it mapped."""

    size_bytes: int
    mapped: bool = False
    closed: bool = False

    @property
    def descriptors(self) -> tuple[int, ...]:
        return ()

    def open_for_holder(self) -> int:
        raise OSError("there is no file behind it")

    def in_use(self) -> bool:
        return self.mapped

    def close(self) -> None:
        self.closed = True


@dataclass
class Forge:
    """Builds slabs, in ten steps that take as many seconds in all as is said."""

    takes_s: float = 0.0
    broken: bool = False
    #: Builds that find another file than the plan was made from.
    changing: int = 0
    began: list[float] = field(default_factory=list)
    slabs: dict[str, Slab] = field(default_factory=dict)

    async def build(self, plan: Plan, progress: BuildProgress) -> Built:
        self.began.append(round(now(), 3))
        for step in range(10):
            progress(Stage.CONVERTING, plan.size_bytes * step // 10)
            await asyncio.sleep(self.takes_s / 10)
        if self.changing:
            self.changing -= 1
            raise ChangedMeanwhileException(f"{plan.id} was changed", retry_after=0.0)
        if self.broken:
            raise InvalidModelException(f"{plan.id} is broken", metadata={"path": "x"})
        self.slabs[plan.id] = Slab(plan.size_bytes)
        return Built(self.slabs[plan.id], (), {}, {}, frozenset())


class Ear:
    """Hears the news of one request, and when they came."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, News]] = []
        self._news = asyncio.Event()

    async def __call__(self, news: News) -> None:
        self.heard.append((round(now(), 3), news))
        self._news.set()

    def times(self, kind: type[News]) -> list[float]:
        return [when for when, news in self.heard if isinstance(news, kind)]

    @property
    def words(self) -> list[str]:
        """Kinds of the news in order, each once where the same kind follows itself."""
        kinds = [type(news).__name__ for _, news in self.heard]
        return [kind for place, kind in enumerate(kinds) if kinds[place - 1 : place] != [kind]]

    async def granted(self) -> Granted:
        """The grant, once it came."""
        while True:
            for _, news in self.heard:
                if isinstance(news, Granted):
                    return news
            self._news.clear()
            await self._news.wait()


@dataclass
class Core:
    """The core, and what stands behind its ports."""

    lending: Lending
    drawer: Drawer
    forge: Forge
    cache: Cache
    watched: list[int]

    def hold(self, key: str, **more: Any) -> tuple[asyncio.Task[None], Ear]:
        """Begin to hold a component; its news."""
        ear = Ear()
        return asyncio.create_task(self.lending.hold(wish(key, **more), ear)), ear


def wish(*keys: str, **more: Any) -> Wish:
    refs = [ComponentRef(key, "", "float32") for key in keys]
    return Wish(refs, more.pop("brief", lambda plans, residents: [plan.id for plan in plans]), **more)


@asynccontextmanager
async def core(budget: int = 2 * MB, **settings: Any) -> AsyncIterator[Core]:
    drawer, forge, watched = Drawer(), Forge(), list[int]()
    cache = ram_cache(forge, budget_bytes=budget, free=free_at_once, clock=now)
    lending = Lending(drawer, cache, boot_id=HERE, watch_process=watched.append, clock=now, **settings)
    await lending.open()
    try:
        yield Core(lending, drawer, forge, cache, watched)
    finally:
        await lending.close()
