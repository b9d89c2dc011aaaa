"""Records in one SQLite file.

A read is one unit of work on a reader thread, a write one transaction on the writer's; nothing here
waits in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from modelkeep.model.v1.model_pb2 import Model
from modelkeep.reserve import DEFAULT_BYTES
from modelkeep_common.at_once import run_at_once
from modelkeep_common.idempotency import replay_or_run
from modelkeep_common.limits import StoreLimits
from modelkeep_common.paging import Key
from modelkeep_common.sqlite import Connection, Database, LongRead
from modelkeep_common.sqlite.backup import back_up
from modelkeep_common.watch.sqlite_log import SqliteLog, current_revision

from ...domain.covers import Cover
from ...domain.query import Order, Query
from ..store import COLLECTION, BackUp, Once, Page, Stored, StoreInfo, Unit, backup_path, some
from . import reads
from .gather import Gatherer
from .schema import MIGRATIONS
from .transaction import Transaction

#: Filtered lists are mostly quick, so many may wait for a moment.
_MAX_WAITING_LISTS = 256
_LIST_REMEDY = "add a filter that leaves fewer records, such as a name, a tag or a path"
_EXPORT_REMEDY = "read it faster, or export a part of the records at a time, as by type"
_SEARCH_REMEDY = "search for words of three letters or more, or narrow it by type, base or tags"


class SqliteRecordStore:
    """Records in one SQLite file; several processes may have it open. See :class:`RecordStore`."""

    backend = "sqlite"

    def __init__(
        self,
        db: Database,
        *,
        readers: int = 2,
        max_searches: int = 4,
        search_s: float = 2,
        max_exports: int = 2,
        export_s: float = 600,
    ) -> None:
        """See :meth:`open`."""
        self.db = db
        self.log = SqliteLog(db, COLLECTION)
        self._gets = Gatherer(self.get_many)
        self._lists = db.lane(
            "list", at_once=readers, waiting=_MAX_WAITING_LISTS, limit_s=search_s, remedy=_LIST_REMEDY
        )
        self._searches = db.lane(
            "search", at_once=max_searches, waiting=max_searches, limit_s=search_s, remedy=_SEARCH_REMEDY
        )
        self._exports = db.long_reads("export", at_once=max_exports, limit_s=export_s, remedy=_EXPORT_REMEDY)

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        readers: int = 2,
        reserve_bytes: int = DEFAULT_BYTES,
        limits: StoreLimits | None = None,
        max_searches: int = 4,
        search_s: float = 2,
        max_exports: int = 2,
        export_s: float = 600,
    ) -> Self:
        """Open a file, making or migrating it as needed.

        Args:
            path: The database file.
            readers: How many reads, and how many filtered lists, may run at once.
            reserve_bytes: Room that is kept beside the file for when the disk is full.
            limits: How much history and how many kept answers there may be.
            max_searches: How many searches for free text may run at once.
            search_s: How many seconds a search or a filtered list may take.
            max_exports: How many exports may be read at once.
            export_s: How many seconds an export may take.

        Raises:
            StartupError: 65 for a newer schema or a file of another kind, 73 if it cannot be written.
        """
        db = await Database.open(
            path, MIGRATIONS, "record", readers=readers, reserve_bytes=reserve_bytes, limits=limits
        )
        return cls(
            db,
            readers=readers,
            max_searches=max_searches,
            search_s=search_s,
            max_exports=max_exports,
            export_s=export_s,
        )

    @property
    def store_id(self) -> str:
        """UUID of this store, for as long as the file lives; a copy of the file has the same one."""
        return self.db.store_id

    async def close(self) -> None:
        """Finish what was asked for and close."""
        await self.db.close()

    async def get(self, key: str) -> bytes | None:
        """The record of a key."""
        return await self._gets.get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The records of those keys that have one."""
        return await self.db.read_by_key(lambda conn: reads.get_many(conn, keys))

    async def find(self, name: str, base: str, type: int) -> tuple[int, bytes]:
        """How many records have exactly this name, base and type, and one of them (b"" if none)."""
        return await self.db.read_by_key(lambda conn: reads.find(conn, name, base, type))

    async def page(
        self, query: Query, order: Order, descending: bool, after: Sequence[Key], limit: int, max_bytes: int
    ) -> Page:
        """The records after a position, at most ``limit`` and about ``max_bytes``, at least one."""

        def read(conn: Connection) -> Page:
            return reads.page(conn, query, order, descending, after, limit, max_bytes)

        if query.words:
            return await self._searches.run(read)
        if query.restricts:
            return await self._lists.run(read)
        return await self.db.read(read)

    async def files(self, key: str, after: str, limit: int, max_bytes: int) -> Page | None:
        """A model's files after a path; None if there is no such model."""
        return await self.db.read_by_key(lambda conn: reads.files(conn, key, after, limit, max_bytes))

    async def tags(self, prefix: str, after: str, limit: int) -> list[tuple[str, int]]:
        """Tags that begin with a text, after one of them, each with the number of records that have it."""
        return await self._lists.run(lambda conn: reads.tags(conn, prefix, after, limit))

    async def cover(self, key: str) -> Cover | None:
        """The picture that stands for a model."""
        return await self.db.read_by_key(lambda conn: reads.cover(conn, key))

    async def look(self, unit: Unit) -> bytes:
        """Run a unit of work that writes nothing, on records as they are now."""
        return await self.db.read(lambda conn: run_at_once(unit(Transaction(conn))))

    async def write(self, unit: Unit, once: Once, *, grows: bool = False) -> bytes:
        """Run a unit of work in a write transaction; see :class:`RecordStore`."""

        def work(conn: Connection) -> bytes:
            return replay_or_run(
                conn,
                once.request_id,
                once.fingerprint,
                lambda: run_at_once(unit(Transaction(conn))),
                method=once.method,
                principal=once.principal,
            )[0]

        return await self.db.write(work, grows=grows, repeatable=True)

    @contextlib.asynccontextmanager
    async def export(self, query: Query, *, with_covers: bool) -> AsyncIterator[_Export]:
        """See :class:`RecordStore`."""
        async with self._exports.open() as read:
            yield _Export(read, partial(reads.stored, query=query, with_covers=with_covers))

    async def back_up(self, name: str) -> BackUp:
        """Copy the database into ``backups/`` beside it; see :class:`RecordStore`."""
        to = backup_path(self.db.path, name)
        revision, size_bytes = await back_up(self.db.path, to)
        return BackUp(to, size_bytes, revision)

    async def info(self) -> StoreInfo:
        """What the store is and has."""
        return await self.db.read(reads.info)

    async def snapshot(self, source: Connection) -> AsyncIterator[tuple[str, Model]]:
        """Every record with its key, for the watch hub; inside a read transaction."""
        for item in reads.every(source):
            yield item


class _Export:
    """See :class:`modelkeep_record.stores.store.Export`: a read that goes on from step to step."""

    def __init__(self, read: LongRead, begin: Callable[[Connection], Iterator[Stored]]) -> None:
        self._read = read
        self._begin = begin
        self._records: Iterator[Stored] | None = None

    async def revision(self) -> int:
        return await self._read.run(current_revision)

    async def take(self, max_bytes: int) -> list[Stored]:
        return await self._read.run(lambda conn: self._take(conn, max_bytes))

    def _take(self, conn: Connection, max_bytes: int) -> list[Stored]:
        if self._records is None:
            self._records = self._begin(conn)
        return some(self._records, max_bytes)
