"""Every kind of store that records are kept in, for the tests that each of them must pass."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep_common.limits import StoreLimits
from modelkeep_record.domain import rules
from modelkeep_record.domain.query import Order, Query
from modelkeep_record.stores.sqlite import SqliteRecordStore
from modelkeep_record.stores.store import Once, RecordStore
from modelkeep_record.stores.yaml import YamlRecordStore
from support.slowstore import SlowStore

#: Nobody in particular, for a write that is asked for once.
ANYBODY = Once("", b"", "", "")


@dataclass(frozen=True)
class Kind:
    """One kind of store."""

    #: What ``backend`` says.
    name: str
    #: Opens what lies in a folder, making it if need be.
    open: Callable[[Path, StoreLimits], Awaitable[RecordStore]]
    #: Whether records, and whether the history too, are there again when it is opened again.
    keeps_records: bool = True
    keeps_history: bool = True


async def _sqlite(folder: Path, limits: StoreLimits) -> RecordStore:
    return await SqliteRecordStore.open(folder / "record.db", reserve_bytes=1 << 20, limits=limits)


async def _yaml(folder: Path, limits: StoreLimits) -> RecordStore:
    return await YamlRecordStore.open(folder / "record.yaml", reserve_bytes=1 << 20, limits=limits)


async def _slow(folder: Path, limits: StoreLimits) -> RecordStore:
    return SlowStore(folder, limits)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("sqlite", _sqlite),
        Kind("yaml", _yaml, keeps_history=False),
        Kind("slow", _slow, keeps_records=False, keeps_history=False),
    )
}


def once(request_id: str, fingerprint: bytes = b"f", method: str = "m", principal: str = "p") -> Once:
    return Once(request_id, fingerprint, method, principal)


async def create(store: RecordStore, model: Model, files: Sequence[ModelFile] = (), now: float = 5) -> Model:
    """Store a record, as CreateModel does; it has its marks afterwards."""

    async def unit(records: rules.Records) -> bytes:
        return (await rules.create(records, model, files, now)).SerializeToString()

    return Model.FromString(await store.write(unit, ANYBODY, grows=True))


async def update(
    store: RecordStore, key: str, *, files: Sequence[ModelFile] | None = None, now: float = 9, **fields: Any
) -> Model:
    """Change a record, as UpdateModel does."""

    async def unit(records: rules.Records) -> bytes:
        changed, _ = await rules.update(records, Model(key=key, **fields), None, files, now)
        return changed.SerializeToString()

    return Model.FromString(await store.write(unit, ANYBODY))


async def delete(store: RecordStore, key: str) -> int:
    """Delete a record, as DeleteModel does; the revision of its end."""

    async def unit(records: rules.Records) -> bytes:
        return str((await rules.delete(records, key, "", 9))[1]).encode()

    return int(await store.write(unit, ANYBODY))


async def mark_missing(store: RecordStore, key: str, missing: bool = True, now: float = 9) -> None:
    """Note whether a model's files are gone, as MarkModels does."""

    async def unit(records: rules.Records) -> bytes:
        return str(await rules.mark(records, key, missing, None, now)).encode()

    await store.write(unit, ANYBODY)


async def listed(
    store: RecordStore,
    query: Query = Query(),  # noqa: B008  frozen
    order: Order = Order.NAME,
    descending: bool = False,
    *,
    size: int = 1000,
) -> list[Model]:
    """All pages of a list, of so many records each."""
    found: list[Model] = []
    after: list[Any] = []
    while True:
        page = await store.page(query, order, descending, after, size, 1 << 20)
        assert len(page.messages) <= size
        found += map(Model.FromString, page.messages)
        after = page.position
        if not after:
            return found


async def get(store: RecordStore, key: str) -> Model | None:
    message = await store.get(key)
    return None if message is None else Model.FromString(message)
