"""Reading one row by its key on a thread, by our Database and by aiosqlite, one after the other; no server.

Ours hands a function over, which begins a transaction, reads and ends it: one hop. aiosqlite hands over each
statement and each fetch, here without a transaction: three hops.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import aiosqlite
from figures import Spread, interleaved, ratios, report

from modelkeep_common.sqlite import Connection, Database, Migration

ROUNDS = 7
READS = 3000
_MIGRATIONS = [Migration(1, "CREATE TABLE items (id INTEGER PRIMARY KEY, body TEXT NOT NULL);")]
_SELECT = "SELECT body FROM items WHERE id = 1"


def _select(connection: Connection) -> str:
    return str(connection.execute(_SELECT).fetchone()[0])


def timed(loop: asyncio.Runner, once: Callable[[], Awaitable[object]]) -> Callable[[], float]:
    """Microseconds of one read, over many."""

    async def reads() -> float:
        begin = time.perf_counter()
        for _ in range(READS):
            await once()
        return (time.perf_counter() - begin) / READS * 1e6

    return lambda: loop.run(reads())


def main() -> bool:
    """Run and print; whether the bar holds."""
    with TemporaryDirectory() as scratch, asyncio.Runner() as loop:
        path = Path(scratch) / "items.db"
        db = loop.run(Database.open(path, _MIGRATIONS, "bench", reserve_bytes=0))
        loop.run(db.write(lambda connection: connection.execute("INSERT INTO items VALUES (1, 'body')")))
        theirs = loop.run(_open(path))

        async def by_aiosqlite() -> object:
            async with theirs.execute(_SELECT) as cursor:
                return await cursor.fetchone()

        ours, peers = interleaved(
            timed(loop, lambda: db.read(_select)), timed(loop, by_aiosqlite), rounds=ROUNDS
        )
        loop.run(theirs.close())
        loop.run(db.close())
    report("one row by Database.read, one hop", Spread.of(ours).text("µs", 0), "-", None)
    report("one row by aiosqlite, three hops", Spread.of(peers).text("µs", 0), "-", None)
    ratio = ratios(ours, peers)
    return report("Database.read / aiosqlite", ratio.text("x"), "<= 0.70", ratio.median <= 0.70)


async def _open(path: Path) -> aiosqlite.Connection:
    return await aiosqlite.connect(path)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
