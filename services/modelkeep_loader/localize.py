"""Localising: weight files that lie far away are copied to a local disk once, and read from there.

A far file is read over the network a single time: what copies it is what tells the digest that identities are
made of. From then on its copy is what components are built from, as often as they are. Which file is which is
known by path, inode, size and times, as for files that are near; a copy counts for what its own bytes are,
looked at once in each run of the loader, and whenever something has touched it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final

from modelkeep.exceptions import CancelledException, DiskFullException
from modelkeep_common.digests import Digests, Interrupted, digest_descriptor
from modelkeep_loader.copying import Fetcher, built, copy_plan, id_of, origin
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.components import (
    Builder,
    BuildProgress,
    Built,
    ComponentRef,
    Identified,
    ModelFacts,
    Plan,
    Resident,
    SourceFile,
    Stage,
    changed,
)
from modelkeep_loader.domain.demand import Demand
from modelkeep_loader.domain.digests import Digester, Known, Reading
from modelkeep_loader.domain.shortage import Shortage
from modelkeep_loader.domain.tier import Tier
from modelkeep_loader.tiers.disk import CacheFolder, Copy, CopyMemory

_log = logging.getLogger(__name__)

#: Seconds between two looks at how far a copy is.
_LOOK_S: Final = 0.2
#: How often a copy that turns out to be damaged is fetched again for one request.
_TRIES: Final = 2


class DiskTier(Tier):
    """The tier of copies. They stay when the loader ends."""

    def close(self) -> None:
        """Forget what there is, and leave it where it is."""
        self._residents.clear()
        self._zombies.clear()


class Localizer:
    """Keeps copies of far files. Belongs to one event loop.

    Args:
        folder: Where copies are.
        tier: What they may take.
        digester: Keeps what files are; what is learnt from copying is noted there.
        opener: Opens a file beneath the allowed roots; yields its descriptor.
        is_far: Whether a path's file is to be copied; blocks.
        must: Whether a file that finds no room is refused. Otherwise it is read where it lies.
        on_progress: Called with a copy that grows.
    """

    def __init__(
        self,
        folder: CacheFolder,
        tier: DiskTier,
        digester: Digester,
        opener: Callable[[Path], AbstractContextManager[int]],
        *,
        is_far: Callable[[Path], bool],
        must: bool,
        on_progress: Callable[[Resident], None] = lambda resident: None,
    ) -> None:
        self.folder = folder
        self.cache = Cache(
            Fetcher(folder, digester, opener), tier, on_progress=on_progress, explain=self._exhausted
        )
        self._tier = tier
        self._digester = digester
        self._is_far = is_far
        self._must = must
        self._far: dict[str, bool] = {}
        self._notes: dict[str, tuple[str, str]] = {}
        self._stop = threading.Event()
        self._asked = 0

    async def open(self) -> None:
        """Take up the copies that are there.

        Raises:
            OSError: The folder cannot be used.
        """
        await asyncio.to_thread(self.folder.open)
        await self._look()
        self._tier.fit()

    async def close(self) -> None:
        """Stop copying. What is whole stays."""
        self._stop.set()
        await self.cache.close()

    # What the planner asks.

    async def wants(self, file: SourceFile) -> bool:
        """Whether a file is one to be copied."""
        device = file.signature.partition(":")[0]
        if device not in self._far:
            try:
                self._far[device] = await asyncio.to_thread(self._is_far, file.path)
            except OSError:
                return False  # whoever reads it will say why it cannot be
        return self._far[device]

    async def digest(
        self, file: SourceFile, ref: ComponentRef, model: ModelFacts, *, with_sha256: bool, reading: Reading
    ) -> Known:
        """What a far file's bytes are; it is copied if that has to be found out.

        Args:
            file: The file.
            ref, model: Whose it is.
            with_sha256: Whether SHA-256 is needed besides BLAKE3.
            reading: Told how far it is.

        Raises:
            DiskFullException: There is no room for the copy, and there must be one.
            ModelkeepError: The file cannot be read, or is another one meanwhile.
        """
        if self.known(file, with_sha256) is None:
            await self._look()
        if (known := self.known(file, with_sha256)) is not None:
            reading.done += file.size_bytes
            return known
        holder = self._holder("localise")
        plan = copy_plan(file, ref, model, self._blake3_of(file))
        try:
            (resident,) = await self._followed(Demand([plan], holder, is_lease=False), reading)
            copy = _copy_of(resident)
            if resident.id != (name := id_of(copy.blake3)):
                self._tier.rename(resident, replace(resident.plan, id=name, digests=_identified(copy)))
            if (known := self.known(file, with_sha256)) is None:
                known = await self._read_near(file, copy)
            return known
        except DiskFullException as error:
            if self._must:
                raise
            _log.warning("%s is read where it lies: %s", file.path, error.message)
            return await self._digester.digest(file, with_sha256=with_sha256, reading=reading)
        finally:
            self.cache.give_back(holder)

    # What builds ask.

    @contextlib.asynccontextmanager
    async def near(self, plan: Plan, progress: BuildProgress) -> AsyncIterator[Plan]:
        """A plan with the copies of its far files, which stay meanwhile.

        Raises:
            DiskFullException: There is no room for a copy, and there must be one.
            ModelkeepError: A far file cannot be read, or is another one meanwhile.
        """
        far = [number for number in range(len(plan.digests)) if await self._has_or_wants(plan, number)]
        if not far:
            yield plan
            return
        holder = self._holder("build")
        demand = Demand(_copy_plans(plan, far), holder, is_lease=False)
        try:
            if not all(self._is_there(one) for one in demand.plans):
                progress(Stage.LOCALIZING, 0)
            try:
                copies = await self._copies(demand)
            except DiskFullException as error:
                if self._must:
                    raise
                _log.warning("%s is read where it lies: %s", plan.display_name, error.message)
                yield plan
                return
            files, digests = list(plan.files), list(plan.digests)
            for number, copy in zip(far, copies, strict=True):
                files[number] = _near_file(plan.files[number], copy)
                digests[number] = Identified(copy.blake3, copy.read_at)
            yield replace(plan, files=tuple(files), digests=tuple(digests))
        finally:
            self.cache.give_back(holder)

    def has(self, plan: Plan) -> bool:
        """Whether there are copies of all files of a component."""
        numbers = range(len(plan.digests))
        return bool(numbers) and all(self._is_there(copy) for copy in _copy_plans(plan, numbers))

    def demand_for(self, plans: Sequence[Plan]) -> Demand:
        """What brings all files of some components to the disk, wherever they lie."""
        wanted = [one for plan in plans for one in _copy_plans(plan, range(len(plan.digests)))]
        return Demand(wanted, self._holder("load"), is_lease=False)

    # Copies.

    async def _has_or_wants(self, plan: Plan, number: int) -> bool:
        (copy,) = _copy_plans(plan, [number])
        return self._is_there(copy) or await self.wants(plan.files[number])

    def _is_there(self, copy: Plan) -> bool:
        there = self._tier.get(copy.id)
        return there is not None and there.stage is Stage.RESIDENT

    async def _copies(self, demand: Demand) -> list[Copy]:
        """The copies of a demand, each looked at; a damaged one is fetched again."""
        for left in reversed(range(_TRIES)):
            residents = self.cache.take_now(demand)
            if residents is None:
                await self._look()
                residents = await self.cache.acquire(demand)
            bad: list[Resident] = []
            for resident in dict.fromkeys(residents):
                if not await asyncio.to_thread(self._is_good, _copy_of(resident)):
                    bad.append(resident)
            if not bad:
                return [_copy_of(resident) for resident in residents]
            self.cache.give_back(demand.holder)
            for resident in bad:
                _log.warning("the copy %s is damaged, and fetched again", _copy_of(resident).path)
                await asyncio.to_thread(self.folder.discard, _copy_of(resident))
                if self._tier.get(resident.id) is resident:
                    self._tier.drop(resident)
            if not left:
                raise changed(demand.plans[residents.index(bad[0])].files[0])
        raise AssertionError("the last try returns or raises")

    def _is_good(self, copy: Copy) -> bool:
        """In a thread: whether a copy is what it is called; its bytes are looked at if nobody has yet."""
        if copy.read_at and self.folder.is_as_it_was(copy):
            return True
        try:
            return self.folder.verify(copy, self._stop.is_set)
        except Interrupted:
            raise CancelledException("The loader is shutting down.") from None

    async def _followed(self, demand: Demand, reading: Reading) -> list[Resident]:
        """Get what is demanded, and tell how far it is."""
        if self.cache.take_now(demand) is not None:
            reading.done += sum(plan.size_bytes for plan in demand.plans)
            return demand.residents
        work = asyncio.ensure_future(self.cache.acquire(demand))
        told = 0
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=_LOOK_S)
                done = sum(resident.bytes_done for resident in demand.residents)
                reading.done, told = reading.done + done - told, done
            return work.result()
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})

    async def _look(self) -> None:
        """Before something is fetched: notice what another loader put there, or took away."""
        there = {copy.blake3: copy for copy in await asyncio.to_thread(self.folder.look)}
        self._notes = await asyncio.to_thread(self.folder.notes)
        for resident in self._tier.residents():
            if resident.built is None:
                continue
            name = _copy_of(resident).blake3
            if name not in there and resident.may_go:
                self._tier.drop(resident)
            there.pop(name, None)
        for copy in there.values():
            if self._tier.get(id_of(copy.blake3)) is None:
                self._adopt(copy)

    def _adopt(self, copy: Copy) -> None:
        model = ModelFacts(copy.blake3[:12], "", "", copy.path, "")
        file = SourceFile(copy.path, copy.blake3[:12], copy.size_bytes, copy.signature, 0, True)
        resident = self._tier.place(copy_plan(file, ComponentRef(""), model, copy.blake3))
        self._tier.settle(resident, built(self.folder, copy), 0.0)
        self._tier.on_change(resident, False)

    async def _read_near(self, file: SourceFile, copy: Copy) -> Known:
        """All digests of a far file, from its copy."""

        def read() -> Digests:
            with self.folder.reading(copy) as fd:
                return digest_descriptor(fd, with_sha256=True, stop=self._stop.is_set)

        try:
            digests = await asyncio.to_thread(read)
        except Interrupted:
            raise CancelledException("The loader is shutting down.") from None
        except OSError:
            raise changed(file) from None
        if digests.blake3 != copy.blake3:
            raise changed(file)
        known = Known(digests, time.monotonic())
        self._digester.note(file, known)
        await asyncio.to_thread(self.folder.note, copy.blake3, digests.sha256, origin(file))
        return known

    # What is known of far files.

    def known(self, file: SourceFile, with_sha256: bool) -> Known | None:
        """What a file's bytes are, if it need not be read for that."""
        known = self._digester.known(file, with_sha256=with_sha256)
        if known is not None or (noted := self._notes.get(origin(file))) is None:
            return known
        blake3, sha256 = noted
        known = Known(Digests(sha256, blake3, file.size_bytes, 0.0), 0.0)
        self._digester.note(file, known)
        return self._digester.known(file, with_sha256=with_sha256)

    def _blake3_of(self, file: SourceFile) -> str:
        known = self.known(file, False)
        return known.digests.blake3 if known is not None else ""

    def _holder(self, what: str) -> str:
        self._asked += 1
        return f"{what}-{self._asked}"

    def _exhausted(self, shortage: Shortage) -> DiskFullException:
        usage, needed = shortage.usage, shortage.demand.size_bytes
        short = shortage.demand.bytes_short
        return DiskFullException(
            f"There is no room for copies in {self.folder.path}: {short:,} bytes are missing of the "
            f"{usage.budget:,} that they may take.",
            metadata={
                "path": str(self.folder.path),
                "bytes_short": str(short),
                "needed_bytes": str(needed),
                "free_bytes": str(max(0, usage.budget - usage.taken)),
            },
            remedy="Raise disk_budget_bytes of LoaderService, or unpin what is pinned there.",
        )


class NearBuilder:
    """Builds from copies; a :class:`modelkeep_loader.domain.components.Builder`.

    Args:
        builder: Builds from files.
        localizer: Has the copies.
    """

    def __init__(self, builder: Builder, localizer: Localizer) -> None:
        self._builder = builder
        self._localizer = localizer

    async def build(self, plan: Plan, progress: BuildProgress) -> Built:
        """See :class:`modelkeep_loader.domain.components.Builder`."""
        async with self._localizer.near(plan, progress) as near:
            return await self._builder.build(near, progress)


def _copy_plans(plan: Plan, numbers: Iterable[int]) -> list[Plan]:
    return [
        copy_plan(plan.files[number], plan.ref, plan.model, plan.digests[number].blake3) for number in numbers
    ]


def _near_file(file: SourceFile, copy: Copy) -> SourceFile:
    return SourceFile(copy.path, file.model, copy.size_bytes, copy.signature, 0, True, called=file.path.name)


def _copy_of(resident: Resident) -> Copy:
    assert resident.built is not None, "it is on the disk"
    memory = resident.built.memory
    assert isinstance(memory, CopyMemory), "it is of the disk tier"
    return memory.copy


def _identified(copy: Copy) -> tuple[Identified, ...]:
    return (Identified(copy.blake3, copy.read_at),)
