"""A store of small items and the hub that watches it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep_common.sqlite import Database
from modelkeep_common.watch import WatchHub
from modelkeep_common.watch.memory_log import MemoryLog
from support.commonwatch import MIGRATIONS, Item, Store, log_of, parse


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "t.db", MIGRATIONS, "test")
    yield database
    await database.close()


@pytest.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Items behind each kind of change log: all of them keep the guarantees of a watch."""
    if request.param == "memory":
        yield MemoryLog("items")
        return
    database = await Database.open(tmp_path / "t.db", MIGRATIONS, "test")
    yield database
    await database.close()


@pytest.fixture
async def hub(store: Store) -> AsyncIterator[WatchHub[Item]]:
    made: WatchHub[Item] = WatchHub(log_of(store), parse=parse, chunk_events=3)
    yield made
    await made.drain(0.1)
