"""From files straight to an accelerator: what its tier builds of components that need no place in RAM.

The helper process says where in the files the bytes of the lent file lie, and makes its beginning; the copier
reads the files and puts each part to its place. What is read is digested on the way, unless that was done a
moment ago, so that what is lent is what its identity says.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from modelkeep import sealed
from modelkeep.devices.driver import DeviceFacts
from modelkeep_convert.request import MAX_FILES
from modelkeep_devices.wire import SourceError
from modelkeep_loader.accelerators import Accelerators, SourceOf
from modelkeep_loader.domain.components import (
    BuildProgress,
    Built,
    Memory,
    Plan,
    Stage,
    changed,
    refuse_changed,
)
from modelkeep_loader.domain.digests import is_fresh
from modelkeep_loader.domain.straight import NotInFilesError
from modelkeep_loader.domain.unreadable import unreadable
from modelkeep_loader.helper import Gathered
from modelkeep_loader.tiers.ram import SealedMemory, described
from modelkeep_loader.tiers.vram import Allocation

#: Descriptors that go to a copier with those of files.
_BESIDES: Final = 3


class Gathers(Protocol):
    """Knows where the bytes of components lie."""

    async def gather(self, plan: Plan, progress: BuildProgress) -> Gathered | None:
        """See :meth:`modelkeep_loader.helper.Helper.gather`."""
        ...


#: A plan with files that are near, which stay meanwhile: :meth:`modelkeep_loader.localize.Localizer.near`.
Near = Callable[[Plan, BuildProgress], AbstractAsyncContextManager[Plan]]


class FileFetches:
    """Brings components from their files to one accelerator; a ``domain.straight.Fetches``.

    Args:
        gathers: Says where bytes lie.
        near: Has far files copied to a local disk first.
        accelerators: Makes allocations, and fills them.
        device: Where.
        made: Allocations that are counted as the loader's.
    """

    def __init__(
        self,
        gathers: Gathers,
        near: Near,
        accelerators: Accelerators,
        device: DeviceFacts,
        made: set[Memory],
    ) -> None:
        self._gathers = gathers
        self._near = near
        self._accelerators = accelerators
        self._device = device
        self._made = made

    async def fetch(self, plan: Plan, progress: BuildProgress) -> Built:
        """See Fetches."""
        if len(plan.files) > MAX_FILES - _BESIDES or len(plan.digests) != len(plan.files):
            raise NotInFilesError
        async with self._near(plan, progress) as near:
            gathered = await self._gathers.gather(near, progress)
            if gathered is None:
                raise NotInFilesError
            try:
                return await self._filled(near, gathered, progress)
            except SourceError as error:
                await asyncio.to_thread(_refuse_changed, near, gathered.files)
                said = OSError(errno.EIO, str(error))
                raise unreadable(near.model.name, near.model.location, said) from None
            finally:
                gathered.close()

    async def _filled(self, plan: Plan, gathered: Gathered, progress: BuildProgress) -> Built:
        size = self._device.rounded(gathered.size_bytes)
        memory = Allocation(
            self._accelerators,
            await self._accelerators.create(self._device.name, size),
            size,
            file_bytes=gathered.size_bytes,
            device_bytes=gathered.size_bytes,
            uuid=self._device.uuid,
            made=self._made,
        )
        try:
            digests = await self._accelerators.gather(
                self._device.name,
                memory.descriptor,
                [*_sources(plan, gathered), SourceOf(gathered.made), SourceOf(gathered.head)],
                [*gathered.segments, (len(gathered.files) + 1, 0, os.fstat(gathered.head).st_size, 0)],
                gathered.size_bytes,
                lambda done: progress(Stage.READING, done),
            )
            await asyncio.to_thread(_refuse_changed, plan, gathered.files, digests)
            return await asyncio.to_thread(_described, memory, gathered)
        except BaseException:
            memory.close()
            raise


def _sources(plan: Plan, gathered: Gathered) -> list[SourceOf]:
    """The files. One that was read a moment ago is in the page cache, and known."""
    found: list[SourceOf] = []
    for file, known, descriptor in zip(plan.files, plan.digests, gathered.files, strict=True):
        fresh = is_fresh(known)
        found.append(SourceOf(descriptor, digest=not (fresh and file.is_ours), cached=fresh))
    return found


def _refuse_changed(plan: Plan, descriptors: Sequence[int], digests: Sequence[str] = ()) -> None:
    """In a thread: refuse files that are others than the plan's.

    Args:
        plan: Theirs.
        descriptors: They, open.
        digests: Of what was read of them; "" where that was known.

    Raises:
        ChangedMeanwhileException: One is another.
    """
    for number, file in enumerate(plan.files):
        refuse_changed(file, descriptors[number])
        digest = digests[number] if digests else ""
        if digest and digest != plan.digests[number].blake3:
            raise changed(file)


def _described(memory: Allocation, gathered: Gathered) -> Built:
    """In a thread: what is on the device by the words of its beginning, which the allocation keeps."""
    head = SealedMemory(sealed.open_readonly(gathered.head))
    try:
        built = described(gathered.head, lambda: memory, gathered.size_bytes)
    except BaseException:
        head.close()
        raise
    memory.file = head
    return built
