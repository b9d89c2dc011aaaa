"""A collection of small items to watch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from modelkeep_common.sqlite import Connection, Database, Migration
from modelkeep_common.watch import Event, Frame, Watch, WatchHub
from modelkeep_common.watch.log import ChangeLog
from modelkeep_common.watch.memory_log import Kept, MemoryLog
from modelkeep_common.watch.sqlite_log import SqliteLog, append_change, trim_history

Item = dict[str, Any]
#: Where items are: each is watched by the log of its kind.
Store = Database | MemoryLog

MIGRATIONS = [Migration(1, "CREATE TABLE items (id TEXT PRIMARY KEY, body TEXT NOT NULL);")]


def parse(payload: bytes) -> Item:
    item: Item = json.loads(payload)
    return item


def log_of(store: Store) -> ChangeLog:
    return store if isinstance(store, MemoryLog) else SqliteLog(store, "items")


async def read_all(source: Connection | Mapping[str, Kept]) -> AsyncIterator[tuple[str, Item]]:
    if isinstance(source, Connection):
        for key, body in source.execute("SELECT id, body FROM items"):
            yield key, json.loads(body)
        return
    for key, kept in source.items():
        yield key, json.loads(kept.payload)


async def put(store: Store, key: str, **fields: Any) -> int:
    body = json.dumps({"id": key, **fields})
    if isinstance(store, MemoryLog):
        return store.append(key, body.encode())

    def work(conn: Connection) -> int:
        conn.execute("INSERT OR REPLACE INTO items VALUES (?, ?)", (key, body))
        return append_change(conn, "items", key, body.encode())

    return await store.write(work)


async def remove(store: Store, key: str) -> int:
    if isinstance(store, MemoryLog):
        return store.append(key, None)

    def work(conn: Connection) -> int:
        conn.execute("DELETE FROM items WHERE id = ?", (key,))
        return append_change(conn, "items", key, None)

    return await store.write(work)


async def append(store: Store, *keys: str, now: float | None = None) -> None:
    """A change of each item, all of them at once."""
    if isinstance(store, MemoryLog):
        for key in keys:
            store.append(key, b"{}", now=now)
        return

    def work(conn: Connection) -> None:
        for key in keys:
            append_change(conn, "items", key, b"{}", now=now)

    await store.write(work)


async def trim(store: Store, **limits: Any) -> int:
    """As if the history were so short."""
    if isinstance(store, MemoryLog):
        return store.trim(**limits)
    return await store.write(lambda conn: trim_history(conn, **limits))


def watch(hub: WatchHub[Item], token: str = "", **options: Any) -> Watch[Item]:
    return hub.watch(resume_token=token, snapshot=read_all, **options)


async def following(watching: Watch[Item], timeout: float = 5) -> Frame[Item]:
    async with asyncio.timeout(timeout):
        return await anext(watching)


async def snapshot_of(watching: Watch[Item]) -> list[Frame[Item]]:
    frames = [await following(watching)]
    while not frames[-1].snapshot_complete:
        frames.append(await following(watching))
    return frames


async def live(watching: Watch[Item]) -> Watch[Item]:
    """Past the snapshot and the bookmark that says that it is live."""
    await snapshot_of(watching)
    frame = await following(watching)
    assert (frame.phase, frame.events) == ("LIVE", [])
    return watching


async def events(watching: Watch[Item], count: int) -> list[Event[Item]]:
    found: list[Event[Item]] = []
    while len(found) < count:
        found += (await following(watching)).events
    return found
