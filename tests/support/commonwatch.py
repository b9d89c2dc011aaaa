"""A collection of small items to watch."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterable
from typing import Any

from modelkeep_common.sqlite import Database, Migration
from modelkeep_common.watch import Event, Frame, Watch, WatchHub
from modelkeep_common.watch.sqlite_log import append_change

Item = dict[str, Any]

MIGRATIONS = [Migration(1, "CREATE TABLE items (id TEXT PRIMARY KEY, body TEXT NOT NULL);")]


def parse(payload: bytes) -> Item:
    item: Item = json.loads(payload)
    return item


def read_all(conn: sqlite3.Connection) -> Iterable[tuple[str, Item]]:
    return [(key, json.loads(body)) for key, body in conn.execute("SELECT id, body FROM items")]


async def put(db: Database, key: str, **fields: Any) -> int:
    body = json.dumps({"id": key, **fields})

    def work(conn: sqlite3.Connection) -> int:
        conn.execute("INSERT OR REPLACE INTO items VALUES (?, ?)", (key, body))
        return append_change(conn, "items", key, body.encode())

    return await db.write(work)


async def remove(db: Database, key: str) -> int:
    def work(conn: sqlite3.Connection) -> int:
        conn.execute("DELETE FROM items WHERE id = ?", (key,))
        return append_change(conn, "items", key, None)

    return await db.write(work)


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
