"""A store of records without threads: every call waits on the event loop, as one over a network does.

It holds everything in memory, and each state whole, so that a reader sees one moment however long it takes.
Writers take one lock, as those of a database would that keeps revisions in the order of commits.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep_common.backups import new_file
from modelkeep_common.idempotency import request_id_reused
from modelkeep_common.limits import StoreLimits
from modelkeep_common.paging import Key
from modelkeep_common.watch.log import ChangeRow, EpochTable, LogReader, Position
from modelkeep_common.wire import to_micros
from modelkeep_record.domain.covers import Cover
from modelkeep_record.domain.query import Order, Query
from modelkeep_record.stores.store import COLLECTION, BackUp, Once, Page, StoreInfo, Unit, backup_path
from modelkeep_record.stores.store import Stored as ExportedRecord

T = TypeVar("T")


async def pause() -> None:
    """Where a store over a network would wait for its answer."""
    await asyncio.sleep(0)


@dataclass(frozen=True)
class Stored:
    """A record as it is sent, and its files by path."""

    message: bytes
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        return Model.FromString(self.message)

    @property
    def listed(self) -> list[ModelFile]:
        return [ModelFile.FromString(self.files[path]) for path in sorted(self.files)]


@dataclass(frozen=True)
class State:
    """All records at one moment, and how long the history was then."""

    records: Mapping[str, Stored] = field(default_factory=dict)
    covers: Mapping[str, Cover] = field(default_factory=dict)
    revision: int = 0
    floor: int = 0


class Draft:
    """:class:`modelkeep_record.domain.rules.Records`: what one unit of work has made of a state."""

    def __init__(self, state: State) -> None:
        self.records = dict(state.records)
        self.covers = dict(state.covers)
        self.rows: list[ChangeRow] = []
        self._revision = state.revision

    async def get(self, key: str) -> Model | None:
        await pause()
        return self.records[key].model if key in self.records else None

    async def key_at_path(self, path: str, root_id: str) -> str | None:
        await pause()
        for key, stored in self.records.items():
            if (stored.model.path, stored.model.root_id) == (path, root_id):
                return key
        return None

    async def files(self, key: str) -> list[ModelFile]:
        await pause()
        return self.records[key].listed if key in self.records else []

    async def keys_naming(self, key: str) -> list[str]:
        await pause()
        return sorted(naming for naming, stored in self.records.items() if key in stored.model.related_keys)

    async def cover(self, key: str) -> Cover | None:
        await pause()
        return self.covers.get(key)

    async def put_cover(self, key: str, cover: Cover | None) -> None:
        await pause()
        self.covers.pop(key, None)
        if cover is not None:
            self.covers[key] = cover

    async def next_revision(self) -> int:
        await pause()
        return self._revision + len(self.rows) + 1

    async def put(self, model: Model, files: Sequence[ModelFile] | None) -> None:
        await pause()
        old = self.records.get(model.key)
        if files is not None:
            listed: Mapping[str, bytes] = {file.path: file.SerializeToString() for file in files}
        else:
            listed = old.files if old else {}
        self.records[model.key] = Stored(model.SerializeToString(), listed)
        self._append(model.key, self.records[model.key].message, old)

    async def remove(self, key: str) -> None:
        await pause()
        self._append(key, None, self.records.pop(key))
        self.covers.pop(key, None)

    def _append(self, key: str, payload: bytes | None, old: Stored | None) -> None:
        revision = self._revision + len(self.rows) + 1
        self.rows.append(ChangeRow(revision, key, payload, old.message if old else None))


class SlowStore:
    """See :class:`modelkeep_record.stores.store.RecordStore`."""

    backend = "slow"

    def __init__(self, folder: Path, limits: StoreLimits | None = None) -> None:
        self.folder = folder
        self.store_id = str(uuid.uuid4())
        self.limits = limits or StoreLimits()
        self.epochs = EpochTable(self.store_id, [(1, "slow")])
        self.state = State()
        #: Every change ever made: that of revision n is the one before index n.
        self.rows: list[ChangeRow] = []
        self.log = SlowLog(self)
        self._made = time.time()
        self._turn = asyncio.Lock()
        self._answers: dict[tuple[str, str, str], tuple[bytes, bytes]] = {}
        self._writes: set[asyncio.Future[bytes]] = set()

    async def close(self) -> None:
        await asyncio.gather(*self._writes, return_exceptions=True)

    async def get(self, key: str) -> bytes | None:
        return (await self.get_many([key])).get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        await pause()
        records = self.state.records
        return {key: records[key].message for key in keys if key in records}

    async def find(self, name: str, base: str, type: int) -> tuple[int, bytes]:
        await pause()
        found = [
            stored.message
            for stored in self.state.records.values()
            if (stored.model.name, stored.model.base, stored.model.type) == (name, base, type)
        ]
        return len(found), found[0] if found else b""

    async def page(
        self, query: Query, order: Order, descending: bool, after: Sequence[Key], limit: int, max_bytes: int
    ) -> Page:
        await pause()
        state = self.state
        rows = [(sort_key(s.model, order), s.message) for s in state.records.values() if matches(query, s)]
        rows.sort(reverse=descending)
        if after:
            rows = [row for row in rows if (row[0] < list(after) if descending else row[0] > list(after))]
        token = self.epochs.token(COLLECTION, Position(state.revision))
        return cut(rows, limit, max_bytes, token)

    async def files(self, key: str, after: str, limit: int, max_bytes: int) -> Page | None:
        await pause()
        stored = self.state.records.get(key)
        if stored is None:
            return None
        rows: list[tuple[list[Key], bytes]] = [
            ([p], stored.files[p]) for p in sorted(stored.files) if p > after
        ]
        return cut(rows, limit, max_bytes, "")

    async def tags(self, prefix: str, after: str, limit: int) -> list[tuple[str, int]]:
        await pause()
        counts: dict[str, int] = {}
        for stored in self.state.records.values():
            for tag in set(stored.model.tags):
                counts[tag] = counts.get(tag, 0) + 1
        return [(tag, counts[tag]) for tag in sorted(counts) if tag.startswith(prefix) and tag > after][
            :limit
        ]

    async def cover(self, key: str) -> Cover | None:
        await pause()
        return self.state.covers.get(key)

    async def look(self, unit: Unit) -> bytes:
        await pause()
        return await unit(Draft(self.state))

    async def write(self, unit: Unit, once: Once, *, grows: bool = False) -> bytes:
        """Shielded: a caller who leaves does not stop it."""
        write = asyncio.ensure_future(self._write(unit, once))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        write.add_done_callback(lambda done: done.exception())  # nobody may be there to be told
        return await asyncio.shield(write)

    async def _write(self, unit: Unit, once: Once) -> bytes:
        async with self._turn:
            await pause()
            asked = (once.principal, once.method, once.request_id)
            if once.request_id and asked in self._answers:
                fingerprint, answer = self._answers[asked]
                if fingerprint != once.fingerprint:
                    raise request_id_reused(once.request_id)
                return answer
            draft = Draft(self.state)
            answer = await unit(draft)
            await pause()
            self._commit(draft)
            if once.request_id:
                self._answers[asked] = (once.fingerprint, answer)
        return answer

    def _commit(self, draft: Draft) -> None:
        self.rows += draft.rows
        kept, floor = 0, len(self.rows)
        while (
            floor and (kept := kept + len(self.rows[floor - 1].payload or b"")) <= self.limits.history_bytes
        ):
            floor -= 1
        self.state = State(draft.records, draft.covers, len(self.rows), floor)
        if draft.rows:
            self.log.tell([row.resource_id for row in draft.rows])

    @contextlib.asynccontextmanager
    async def export(self, query: Query, *, with_covers: bool) -> AsyncIterator[SlowExport]:
        yield SlowExport(self, query, with_covers)

    async def back_up(self, name: str) -> BackUp:
        """The messages of the records, one after the other."""
        state, path = self.state, backup_path(self.folder / "records.slow", name)
        data = b"".join(stored.message for stored in state.records.values())
        async with new_file(path, len(data)) as scratch:
            await asyncio.to_thread(scratch.write_bytes, data)
        return BackUp(path, len(data), state.revision)

    async def info(self) -> StoreInfo:
        await pause()
        state = self.state
        kinds: dict[tuple[int, int, str], tuple[int, int]] = {}
        models = [stored.model for stored in state.records.values()]
        for model in models:
            kind = (model.type, model.format, model.base)
            count, size = kinds.get(kind, (0, 0))
            kinds[kind] = (count + 1, size + model.size_bytes)
        missing = sum(model.HasField("missing_time") for model in models)
        return StoreInfo(self.store_id, state.revision, state.floor, self._made, kinds, missing)

    async def snapshot(self, source: State) -> AsyncIterator[tuple[str, Model]]:
        for key, stored in source.records.items():
            await pause()
            yield key, stored.model


class SlowExport:
    """See :class:`modelkeep_record.stores.store.Export`: one state, that of the first question."""

    def __init__(self, store: SlowStore, query: Query, with_covers: bool) -> None:
        self._store = store
        self._query = query
        self._with_covers = with_covers
        self._state: State | None = None
        self._left: list[str] = []

    async def revision(self) -> int:
        return (await self._moment()).revision

    async def take(self, max_bytes: int) -> list[ExportedRecord]:
        state = await self._moment()
        taken: list[ExportedRecord] = []
        size = 0
        while self._left and size < max_bytes:
            stored = state.records[self._left.pop(0)]
            files = [stored.files[path] for path in sorted(stored.files)]
            cover = state.covers.get(stored.model.key) if self._with_covers else None
            taken.append(ExportedRecord(stored.message, files, cover.image if cover is not None else b""))
            size += taken[-1].size_bytes
        return taken

    async def _moment(self) -> State:
        await pause()
        if self._state is None:
            self._state = self._store.state
            self._left = sorted(key for key, s in self._state.records.items() if matches(self._query, s))
        return self._state


class SlowLog:
    """See :class:`modelkeep_common.watch.log.ChangeLog`."""

    collection = COLLECTION

    def __init__(self, store: SlowStore) -> None:
        self.watch_queue_bytes = store.limits.watch_queue_bytes
        self.watch_queues_bytes = store.limits.watch_queues_bytes
        self._store = store
        self._whole = asyncio.Lock()
        self._listeners: list[Callable[[Collection[str]], None]] = []

    async def read(self, reader: LogReader[T]) -> T:
        await pause()
        return await reader(SlowView(self._store, self._store.state))

    async def read_all(self, reader: LogReader[T]) -> T:
        async with self._whole:
            return await self.read(reader)

    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        self._listeners.append(listener)

    def tell(self, ids: Collection[str]) -> None:
        for listener in self._listeners:
            listener(ids)


class SlowView:
    """See :class:`modelkeep_common.watch.log.LogView`: one state, however long it is read."""

    def __init__(self, store: SlowStore, state: State) -> None:
        self._store = store
        self.source = state

    async def revision(self) -> int:
        await pause()
        return self.source.revision

    async def floor(self) -> int:
        await pause()
        return self.source.floor

    async def epochs(self) -> EpochTable:
        await pause()
        return self._store.epochs

    async def changes(self, after: int) -> AsyncGenerator[ChangeRow, None]:
        for row in self._store.rows[after : self.source.revision]:
            await pause()
            yield row


def sort_key(model: Model, order: Order) -> list[Key]:
    """The values that an order compares."""
    times = {"create_time_us": "create_time", "update_time_us": "update_time"}
    return [
        to_micros(getattr(model, times[column])) if column in times else getattr(model, column)
        for column in order.value
    ]


def matches(query: Query, stored: Stored) -> bool:
    """Whether a record is among those asked for, by its files as well."""
    model, files = stored.model, stored.listed
    digests = {model.original_hash, model.current_hash, *(d for f in files for d in (f.sha256, f.blake3))}
    if query.hash and query.hash not in digests:
        return False
    if query.files and (
        model.root_id not in ("", query.root_id) or not query.files & set(places(model, files))
    ):
        return False
    return replace(query, hash="").matches(model)


def places(model: Model, files: Sequence[ModelFile]) -> list[str]:
    """Where a model's files lie: beneath its path, or there, where it is one file."""
    path = PurePosixPath(model.path)
    beneath = [str(path / file.path) for file in files]
    return [*beneath, *(str(path) for file in files if file.path == path.name)]


def cut(rows: Sequence[tuple[list[Key], bytes]], limit: int, max_bytes: int, token: str) -> Page:
    """The first of the rows."""
    size = 0
    for number, (_, message) in enumerate(rows):
        size += len(message)
        if number and (number == limit or size > max_bytes):
            return Page([m for _, m in rows[:number]], rows[number - 1][0], token)
    return Page([message for _, message in rows], [], token)
