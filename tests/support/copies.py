"""A localizer over plain files, for tests: no models, no service."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from modelkeep_loader.domain.components import ComponentRef, Identified, ModelFacts, Plan, SourceFile, Stage
from modelkeep_loader.domain.digests import Digester, Known, Reading
from modelkeep_loader.domain.tier import TierName
from modelkeep_loader.localize import DiskTier, Localizer
from modelkeep_loader.tiers.disk import CacheFolder

MB = 1 << 20


@dataclass
class Shelf:
    """A localizer, and which far files were opened.

    Attributes:
        localizer: It.
        tier: What its copies take.
        opened: Names of the far files, each time that one was opened.
    """

    localizer: Localizer
    tier: DiskTier
    opened: list[str] = field(default_factory=list)

    async def digest(self, path: Path, *, with_sha256: bool = False) -> Known:
        """What a file is, as the planner would ask."""
        return await self.localizer.digest(
            source(path),
            ComponentRef(path.stem),
            facts(path),
            with_sha256=with_sha256,
            reading=Reading(),
        )

    @contextlib.asynccontextmanager
    async def near(self, *paths: Path) -> AsyncIterator[Plan]:
        """What a build of these files would read."""
        async with self.localizer.near(plan_of(*paths), silent) as plan:
            yield plan

    @property
    def names(self) -> list[str]:
        """Copies that the tier has, by the BLAKE3 of their bytes."""
        kept: list[Any] = [
            r.built.memory for r in self.tier.residents() if r.built and r.stage is Stage.RESIDENT
        ]
        return sorted(memory.copy.blake3 for memory in kept)


@contextlib.asynccontextmanager
async def shelf(
    folder: Path, *, budget: int = 64 * MB, must: bool = True, far: bool = True
) -> AsyncIterator[Shelf]:
    """A localizer with its copies in a folder."""
    opened: list[str] = []

    @contextlib.contextmanager
    def opener(path: Path) -> Iterator[int]:
        opened.append(path.name)
        fd = os.open(path, os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)

    tier = DiskTier(TierName.DISK, budget_bytes=budget)
    localizer = Localizer(
        CacheFolder(folder), tier, Digester(opener), opener, is_far=lambda path: far, must=must
    )
    await localizer.open()
    try:
        yield Shelf(localizer, tier, opened)
    finally:
        await localizer.close()


def silent(stage: Stage, done: int, private_bytes: int = 0) -> None:
    """Hears of a build's progress and says nothing."""


def source(path: Path) -> SourceFile:
    """A file as the planner has it."""
    return SourceFile.of(path, path.stem, path.stat())


def facts(path: Path) -> ModelFacts:
    """A model whose only file this is."""
    return ModelFacts(path.stem, "sd-1", "vae", path, "")


def plan_of(*paths: Path) -> Plan:
    """A plan of a component in these files, whose contents are known."""
    return Plan(
        ref=ComponentRef(paths[0].stem),
        id="component",
        content_addressed=True,
        library="diffusers",
        class_name="AutoencoderKL",
        config={},
        overrides={},
        precision="float32",
        files=tuple(map(source, paths)),
        digests=tuple(Identified(digest_of(path), 0.0) for path in paths),
        scaling_factor=None,
        size_bytes=MB,
        model=facts(paths[0]),
    )


def digest_of(path: Path) -> str:
    """BLAKE3 of a file."""
    return blake3(path.read_bytes()).hexdigest()


def file(path: Path, size: int = MB) -> Path:
    """A file of random bytes, settled long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    return path
