"""What every store of records does, whatever it keeps them in.

A unit of work is a coroutine function of :class:`Records`: a store over a network waits in each of its calls,
one that has its data at hand runs the unit to its end on its own thread. So a unit waits for nothing but the
records that it is given, and may be run again from the start where the first try was in vain.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from modelkeep.model.v1.model_pb2 import Model
from modelkeep_common.paging import Key
from modelkeep_common.watch.log import ChangeLog

from ..domain.covers import Cover
from ..domain.query import Order, Query
from ..domain.rules import Records

#: Name of the collection that a watch of records follows.
COLLECTION = "models"
#: Folder beside a store's file where its copies are.
_BACKUPS = "backups"

Unit = Callable[[Records], Coroutine[Any, Any, bytes]]


@dataclass(frozen=True)
class Once:
    """Who asks for a write, so that the same request is carried out once."""

    request_id: str
    fingerprint: bytes
    method: str
    principal: str


class Page(NamedTuple):
    """Serialised messages of a page, and the sort key of the last, empty if it is the last page."""

    messages: list[bytes]
    position: list[Key]
    resume_token: str


class StoreInfo(NamedTuple):
    """What GetStoreInfo tells."""

    store_id: str
    revision: int
    oldest_revision: int
    create_time: float
    #: (type, format, base) → (records, bytes)
    kinds: dict[tuple[int, int, str], tuple[int, int]]
    #: Records whose files are gone.
    missing: int


class Stored(NamedTuple):
    """A record with all that belongs to it, as serialised messages."""

    model: bytes
    #: Ordered by path.
    files: list[bytes]
    #: The picture that stands for it; empty: it has none, or none was asked for.
    cover_image: bytes = b""

    @property
    def size_bytes(self) -> int:
        """All of it together."""
        return len(self.model) + sum(map(len, self.files)) + len(self.cover_image)


class BackUp(NamedTuple):
    """A copy of a store: where it is, and of which revision."""

    path: Path
    size_bytes: int
    revision: int


class Export(Protocol):
    """Records as they were at one moment, however long it takes to read them."""

    async def revision(self) -> int:
        """That of the store's last change before the moment."""
        ...

    async def take(self, max_bytes: int) -> list[Stored]:
        """The next records by key, about ``max_bytes`` of them, at least one; none at the end."""
        ...


def some(records: Iterator[Stored], max_bytes: int) -> list[Stored]:
    """The next of them, about ``max_bytes``, at least one; none at the end."""
    taken: list[Stored] = []
    size = 0
    for record in records:
        taken.append(record)
        size += record.size_bytes
        if size >= max_bytes:
            break
    return taken


def cut(rows: Iterable[Sequence[Any]], limit: int, max_bytes: int, token: str) -> Page:
    """A page of rows (message, sort key …): at most ``limit``, about ``max_bytes``, at least one."""
    messages: list[bytes] = []
    position: list[Key] = []
    size = 0
    for message, *key in rows:
        size += len(message)
        if messages and (len(messages) == limit or size > max_bytes):
            return Page(messages, position, token)
        messages.append(message)
        position = key
    return Page(messages, [], token)


def backup_path(file: Path, name: str) -> Path:
    """Where the copy of a store's file lies; the name may have the file's suffix, or not."""
    return file.parent / _BACKUPS / f"{name.removesuffix(file.suffix)}{file.suffix}"


class RecordStore(Protocol):
    """Records, their files, and the history of their changes; belongs to an event loop.

    Messages go in and out in their wire form where nobody needs to look inside.
    """

    @property
    def backend(self) -> str:
        """What they are kept in, as ``sqlite``."""
        ...

    @property
    def store_id(self) -> str:
        """UUID of this store, for as long as its history lives."""
        ...

    @property
    def log(self) -> ChangeLog:
        """The changes of collection ``models``, whose payloads are the records."""
        ...

    async def get(self, key: str) -> bytes | None:
        """The record of a key."""
        ...

    async def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The records of those keys that have one."""
        ...

    async def find(self, name: str, base: str, type: int) -> tuple[int, bytes]:
        """How many records have exactly this name, base and type, and one of them (b"" if none)."""
        ...

    async def page(
        self, query: Query, order: Order, descending: bool, after: Sequence[Key], limit: int, max_bytes: int
    ) -> Page:
        """The records after a position, at most ``limit`` and about ``max_bytes``, at least one."""
        ...

    async def files(self, key: str, after: str, limit: int, max_bytes: int) -> Page | None:
        """A model's files after a path; None if there is no such model."""
        ...

    async def tags(self, prefix: str, after: str, limit: int) -> list[tuple[str, int]]:
        """Tags that begin with a text, after one of them, each with the number of records that have it."""
        ...

    async def cover(self, key: str) -> Cover | None:
        """The picture that stands for a model; no other read loads one."""
        ...

    async def look(self, unit: Unit) -> bytes:
        """Run a unit of work that writes nothing, on records as they are now."""
        ...

    async def write(self, unit: Unit, once: Once, *, grows: bool = False) -> bytes:
        """Run a unit of work in one transaction, or answer as an earlier request with the same id.

        What it returns is kept with what it wrote. One that raises leaves no trace, and one whose caller has
        gone is carried through.

        Args:
            unit: The unit of work.
            once: Who asks; an empty request id always runs.
            grows: It does not use the room that is kept for a full disk.

        Raises:
            RequestIdReusedException: The id was used for another request.
            DiskFullException: There is no room.
        """
        ...

    async def info(self) -> StoreInfo:
        """What the store is and has."""
        ...

    def snapshot(self, source: Any) -> AsyncIterator[tuple[str, Model]]:
        """Every record with its key, in any order, from the source of a view of :attr:`log`."""
        ...

    def export(self, query: Query, *, with_covers: bool) -> AbstractAsyncContextManager[Export]:
        """All records that a query is about, at the moment when they are first read.

        Raises:
            ServerBusyException: As many exports are open as may be.
            DeadlineExceededException: This one took longer than one may.
        """
        ...

    async def back_up(self, name: str) -> BackUp:
        """Copy what the store's file keeps, as it is at one moment, into a new file beside it.

        Args:
            name: What the file is called, without a suffix.

        Raises:
            DestinationExistsException: There is such a copy already.
            DiskFullException: There is no room for it; nothing of it is left.
        """
        ...

    async def close(self) -> None:
        """Finish what was asked for and close."""
        ...
