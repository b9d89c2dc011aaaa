"""What is read of the records in a file: each function looks at one state, on any thread."""

from __future__ import annotations

import bisect
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Final

from modelkeep.model.v1.model_pb2 import Model
from modelkeep_common.paging import Key
from modelkeep_common.wire import to_micros

from ...domain.query import Order, Query
from ..store import Page, Stored, StoreInfo, cut
from .covers import Covers, digest_of
from .state import Entry, State

#: Columns of an order that are not fields of a record by that name.
_COLUMNS: Final[dict[str, Callable[[Model], Key]]] = {
    "create_time_us": lambda model: to_micros(model.create_time),
    "update_time_us": lambda model: to_micros(model.update_time),
}
#: How many records are looked at before it is asked whether to go on.
_AT_A_TIME: Final = 200

#: Raises when nobody waits for the answer any more.
GoOn = Callable[[], None]
SortKey = tuple[Key, ...]


class Sorted:
    """The records of one state in each order, sorted when the order is first asked for."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._orders: dict[Order, tuple[list[SortKey], list[Entry]]] = {}
        self._tags: list[tuple[str, int]] | None = None

    def by(self, order: Order) -> tuple[list[SortKey], list[Entry]]:
        """Sort keys in order, and the record of each."""
        found = self._orders.get(order)
        if found is None:
            pairs = [(sort_key(entry.model, order), entry) for entry in self.state.entries.values()]
            pairs.sort(key=lambda pair: pair[0])
            found = self._orders[order] = ([key for key, _ in pairs], [entry for _, entry in pairs])
        return found

    @property
    def tags(self) -> list[tuple[str, int]]:
        """Every tag, and how many records have it."""
        if self._tags is None:
            counts = Counter(tag for entry in self.state.entries.values() for tag in set(entry.model.tags))
            self._tags = sorted(counts.items())
        return self._tags


def sort_key(model: Model, order: Order) -> SortKey:
    """What a record is sorted by."""
    return tuple(
        _COLUMNS[column](model) if column in _COLUMNS else getattr(model, column) for column in order.value
    )


def page(
    records: Sorted,
    query: Query,
    order: Order,
    descending: bool,
    after: Sequence[Key],
    limit: int,
    max_bytes: int,
    token: str,
    go_on: GoOn,
) -> Page:
    """The records after a position, at most ``limit`` and about ``max_bytes``, at least one."""
    keys, entries = records.by(order)
    place: SortKey = tuple(after)
    if descending:
        end = bisect.bisect_left(keys, place) if after else len(keys)
        candidates: Iterable[int] = range(end - 1, -1, -1)
    else:
        candidates = range(bisect.bisect_right(keys, place) if after else 0, len(keys))
    matches = _matcher(query)
    found = (
        (entries[number].message, *keys[number])
        for looked, number in enumerate(candidates)
        if _ask(go_on, looked) and matches(entries[number])
    )
    return cut(found, limit, max_bytes, token)


def find(state: State, name: str, base: str, type: int) -> tuple[int, bytes]:
    """How many records have exactly this name, base and type, and one of them (b"" if none)."""
    found = [
        entry.message
        for entry in state.entries.values()
        if entry.model.name == name and entry.model.base == base and entry.model.type == type
    ]
    return len(found), found[0] if found else b""


def files(state: State, key: str, after: str, limit: int, max_bytes: int) -> Page | None:
    """A model's files after a path; None if there is no such model."""
    entry = state.entries.get(key)
    if entry is None:
        return None
    found = ((file.SerializeToString(), file.path) for file in entry.files if file.path > after)
    return cut(found, limit, max_bytes, "")


def stored(records: Sorted, query: Query, covers: Covers | None) -> Iterator[Stored]:
    """The records that a query is about, by key, with their files, and their pictures if these are meant."""
    matches = _matcher(query)
    for entry in filter(matches, records.by(Order.KEY)[1]):
        picture = covers.read(digest_of(entry.model)) if covers is not None else None
        yield Stored(
            entry.message,
            [file.SerializeToString() for file in entry.files],
            b"" if picture is None else picture.image,
        )


def tags(records: Sorted, prefix: str, after: str, limit: int) -> list[tuple[str, int]]:
    """Tags that begin with a text, after one of them, each with the number of records that have it."""
    start = bisect.bisect_right(records.tags, (after, sys.maxsize)) if after else 0
    start = max(start, bisect.bisect_left(records.tags, (prefix, 0)))
    found = []
    for tag, count in records.tags[start : start + limit]:
        if not tag.startswith(prefix):
            break
        found.append((tag, count))
    return found


def info(state: State, store_id: str, oldest_revision: int, create_time: float) -> StoreInfo:
    """What the store is and has."""
    kinds: dict[tuple[int, int, str], tuple[int, int]] = {}
    missing = 0
    for entry in state.entries.values():
        model = entry.model
        kind = (model.type, model.format, model.base)
        count, size = kinds.get(kind, (0, 0))
        kinds[kind] = (count + 1, size + model.size_bytes)
        missing += model.HasField("missing_time")
    return StoreInfo(store_id, state.revision, oldest_revision, create_time, kinds, missing)


def _ask(go_on: GoOn, looked: int) -> bool:
    if looked % _AT_A_TIME == 0:
        go_on()
    return True


def _matcher(query: Query) -> Callable[[Entry], bool]:
    """Whether an entry is among those asked for, its files included."""
    if not query.restricts:
        return lambda entry: True
    of_model = replace(query, hash="")

    def matches(entry: Entry) -> bool:
        return (
            of_model.matches(entry.model)
            and (not query.hash or _has_hash(entry, query.hash))
            and (not query.files or _lists_one(entry, query))
        )

    return matches


def _has_hash(entry: Entry, digest: str) -> bool:
    return digest in (entry.model.original_hash, entry.model.current_hash) or any(
        digest in (file.sha256, file.blake3) for file in entry.files
    )


def _lists_one(entry: Entry, query: Query) -> bool:
    """Whether the record lists one of the files asked for: in its folder, or as the one file that it is."""
    model = entry.model
    if model.root_id not in ("", query.root_id):
        return False
    listed = {file.path for file in entry.files}
    inside = f"{model.path}/"
    return any(
        (file == model.path and PurePosixPath(file).name in listed)
        or (file.startswith(inside) and file[len(inside) :] in listed)
        for file in query.files
    )
