"""A store of small items and the hub that watches it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep_common.sqlite import Database
from modelkeep_common.watch import WatchHub
from support.commonwatch import MIGRATIONS, Item, parse


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "t.db", MIGRATIONS, "test")
    yield database
    await database.close()


@pytest.fixture
async def hub(db: Database) -> AsyncIterator[WatchHub[Item]]:
    made: WatchHub[Item] = WatchHub(db, collection="items", parse=parse, chunk_events=3)
    yield made
    await made.drain(0.1)
