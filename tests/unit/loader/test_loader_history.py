"""The history of residents: what watchers are told, whatever the disk does meanwhile."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from modelkeep.loader.v1 import resident_pb2
from modelkeep_loader import store
from modelkeep_loader.store import ResidentHistory, read_residents

LOADING, RESIDENT = resident_pb2.RESIDENT_STATE_CONVERTING, resident_pb2.RESIDENT_STATE_RESIDENT


async def test_a_change_that_could_not_be_written_is_written_the_next_time(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = await ResidentHistory.open(data_dir / "loader.db")
    history.changed("gone", resident_pb2.Resident(id="gone", state=RESIDENT))
    await history.flush()

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(store, "_write", fail)
    history.changed("gone", None)
    for state in (LOADING, RESIDENT):
        history.changed("new", resident_pb2.Resident(id="new", state=state))
    with pytest.raises(sqlite3.OperationalError):
        await history.flush()
    monkeypatch.undo()
    await history.flush()
    (written,) = await history._db.read(read_residents)
    assert (written[0], written[1].state) == ("new", RESIDENT)
    assert await history.revisions() == {"new": written[1].revision}
    await history.close()
