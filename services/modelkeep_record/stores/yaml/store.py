"""Records in one YAML file, which people may edit while the service runs.

The records are in memory, and what is read is read there: by key at once, lists and searches on threads of
their own. The history lives in memory, too, and ends with the process: the store's id is another one at each
start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from modelkeep.defaults import EXIT_DATA, EXIT_NOT_WRITABLE
from modelkeep.exceptions import ServerBusyException
from modelkeep.model.v1.model_pb2 import Model
from modelkeep.reserve import DEFAULT_BYTES, Reserve
from modelkeep_common.at_once import run_at_once
from modelkeep_common.backups import new_file
from modelkeep_common.limits import StoreLimits
from modelkeep_common.paging import Key
from modelkeep_common.startup import StartupError
from modelkeep_common.watch.memory_log import Kept, MemoryLog

from ...domain.covers import Cover
from ...domain.query import Order, Query
from ..store import COLLECTION, BackUp, Once, Page, Stored, StoreInfo, Unit, backup_path, some
from . import reads
from .answers import Answers
from .covers import Covers, digest_of, folder_beside
from .file import YamlFile
from .problems import BrokenFileError
from .scans import Scans
from .state import Change, State
from .transaction import Transaction
from .writer import Writer

#: How often the pictures of a copy are looked for while records change.
_COPY_TRIES = 8
#: Lists are mostly quick, so many may wait for a moment.
_MAX_WAITING_LISTS = 256
_LIST_REMEDY = "add a filter that leaves fewer records, or keep the records in SQLite"
_SEARCH_REMEDY = "narrow it by type, base or tags, or keep the records in SQLite"


class YamlRecordStore:
    """Records in one YAML file; several processes may have it open. See :class:`RecordStore`."""

    backend = "yaml"

    def __init__(
        self, file: YamlFile, reserve: Reserve, limits: StoreLimits, max_searches: int, search_s: float
    ) -> None:
        """See :meth:`open`."""
        self.log = MemoryLog(COLLECTION, limits)
        self._path = file.path
        self._state = file.state
        self._sorted = reads.Sorted(self._state)
        self.log.begin(
            {key: entry.message for key, entry in self._state.entries.items()}, self._state.revision
        )
        self._create_time = self._state.metadata.create_time_s
        self._lists = Scans(
            "list", at_once=1, waiting=_MAX_WAITING_LISTS, limit_s=search_s, remedy=_LIST_REMEDY
        )
        self._searches = Scans(
            "search", at_once=max_searches, waiting=max_searches, limit_s=search_s, remedy=_SEARCH_REMEDY
        )
        self._covers = file.covers
        self._writer = Writer(file, reserve, Answers(limits.answers_bytes))
        file.listener = self._changed

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        reserve_bytes: int = DEFAULT_BYTES,
        limits: StoreLimits | None = None,
        max_searches: int = 4,
        search_s: float = 2,
    ) -> Self:
        """Open a file, making it as needed.

        Args:
            path: The file.
            reserve_bytes: Room that is kept beside the file for when the disk is full.
            limits: How much history and how many kept answers there may be.
            max_searches: How many searches for free text may run at once.
            search_s: How many seconds a search or a list may take.

        Raises:
            StartupError: 65 for a file that cannot be read as it is, 73 if it cannot be written.
        """
        try:
            file, reserve = await asyncio.to_thread(_open, path, reserve_bytes)
        except BrokenFileError as error:
            raise StartupError(EXIT_DATA, str(error)) from None
        except (OSError, ServerBusyException) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise StartupError(EXIT_NOT_WRITABLE, f"cannot write {path}: {reason}") from None
        return cls(file, reserve, limits or StoreLimits(), max_searches, search_s)

    @property
    def store_id(self) -> str:
        """UUID of this opening of the file."""
        return self.log.store_id

    async def close(self) -> None:
        """Finish what was asked for and close."""
        await self._writer.close()
        await self._lists.close()
        await self._searches.close()

    async def get(self, key: str) -> bytes | None:
        """The record of a key."""
        entry = self._state.entries.get(key)
        return None if entry is None else entry.message

    async def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The records of those keys that have one."""
        entries = self._state.entries
        return {key: entries[key].message for key in keys if key in entries}

    async def find(self, name: str, base: str, type: int) -> tuple[int, bytes]:
        """How many records have exactly this name, base and type, and one of them (b"" if none)."""
        state = self._state
        return await self._lists.run(lambda go_on: reads.find(state, name, base, type))

    async def page(
        self, query: Query, order: Order, descending: bool, after: Sequence[Key], limit: int, max_bytes: int
    ) -> Page:
        """The records after a position, at most ``limit`` and about ``max_bytes``, at least one."""
        records, token = self._sorted, self.log.token()
        scans = self._searches if query.words else self._lists
        return await scans.run(
            lambda go_on: reads.page(records, query, order, descending, after, limit, max_bytes, token, go_on)
        )

    async def files(self, key: str, after: str, limit: int, max_bytes: int) -> Page | None:
        """A model's files after a path; None if there is no such model."""
        return reads.files(self._state, key, after, limit, max_bytes)

    async def cover(self, key: str) -> Cover | None:
        """The picture that stands for a model."""
        entry = self._state.entries.get(key)
        if entry is None or not (digest := digest_of(entry.model)):
            return None
        return await asyncio.to_thread(self._covers.read, digest)

    async def tags(self, prefix: str, after: str, limit: int) -> list[tuple[str, int]]:
        """Tags that begin with a text, after one of them, each with the number of records that have it."""
        records = self._sorted
        return await self._lists.run(lambda go_on: reads.tags(records, prefix, after, limit))

    async def look(self, unit: Unit) -> bytes:
        """Run a unit of work that writes nothing, on records as they are now."""
        transaction = Transaction(self._state, self._covers)
        return await asyncio.to_thread(lambda: run_at_once(unit(transaction)))

    async def write(self, unit: Unit, once: Once, *, grows: bool = False) -> bytes:
        """Run a unit of work in one transaction; see :class:`RecordStore`.

        Raises:
            StoreFileBrokenException: The file was changed by hand, and cannot be read.
        """
        return await self._writer.submit(unit, once, grows=grows)

    @contextlib.asynccontextmanager
    async def export(self, query: Query, *, with_covers: bool) -> AsyncIterator[_Export]:
        """See :class:`RecordStore`. A picture that is replaced meanwhile does not come along."""
        yield _Export(self._sorted, query, self._covers if with_covers else None)

    async def back_up(self, name: str) -> BackUp:
        """Copy the file into ``backups/``, and its pictures into a folder beside that. See `RecordStore`."""
        to = backup_path(self._path, name)
        async with new_file(to, self._state.metadata.size_bytes) as scratch:
            try:
                state = await self._copy_covers(folder_beside(to))
                data, _ = await asyncio.to_thread(state.written)
                await asyncio.to_thread(scratch.write_bytes, data)
            except BaseException:
                await asyncio.to_thread(shutil.rmtree, folder_beside(to), ignore_errors=True)
                raise
        return BackUp(to, len(data), state.revision)

    async def _copy_covers(self, folder: Path) -> State:
        """Copy the pictures of one state, which is answered.

        One that is replaced meanwhile is not of the next state; one that a person has taken away is of all.
        """
        for _ in range(_COPY_TRIES):
            state = self._state
            digests = {digest_of(entry.model) for entry in state.entries.values()} - {""}
            if await asyncio.to_thread(self._covers.copy_to, folder, digests) or self._state is state:
                break
        return state

    async def info(self) -> StoreInfo:
        """What the store is and has."""
        state, oldest = self._state, await self.log.floor()
        return await self._lists.run(
            lambda go_on: reads.info(state, self.store_id, oldest, self._create_time)
        )

    async def snapshot(self, source: Mapping[str, Kept]) -> AsyncIterator[tuple[str, Model]]:
        """Every record with its key, in any order, from the source of a view of :attr:`log`."""
        for key, kept in source.items():
            yield key, Model.FromString(kept.payload)

    def _changed(self, state: State, changes: list[Change]) -> None:
        """Another state; on the thread that noticed or made it."""
        self._writer.call_soon(self._publish, state, changes)

    def _publish(self, state: State, changes: list[Change]) -> None:
        """Let readers and watchers see it, all of it at one moment."""
        self._state, self._sorted = state, reads.Sorted(state)
        for change in changes:
            self.log.append(change.key, change.message, revision=change.revision)


class _Export:
    """See :class:`modelkeep_record.stores.store.Export`: one state, which no change touches."""

    def __init__(self, records: reads.Sorted, query: Query, covers: Covers | None) -> None:
        self._state = records.state
        self._records = reads.stored(records, query, covers)

    async def revision(self) -> int:
        return self._state.revision

    async def take(self, max_bytes: int) -> list[Stored]:
        return await asyncio.to_thread(some, self._records, max_bytes)


def _open(path: Path, reserve_bytes: int) -> tuple[YamlFile, Reserve]:
    real = Path(os.path.realpath(path))
    # The folder is a person's, and may have others like it.
    reserve = Reserve(real.parent, reserve_bytes, f".{real.name}.reserve")
    file = YamlFile(path, reserve=reserve)
    file.open()
    reserve.renew()
    return file, reserve
