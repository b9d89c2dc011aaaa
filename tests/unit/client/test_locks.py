"""Files that lock: one holder at a time, and nothing is left of one that is taken away."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from modelkeep.locks import LockedError, remove_lock, take_lock


def test_a_lock_has_one_holder_who_is_named(tmp_path: Path) -> None:
    held = take_lock(tmp_path / "a.lock")
    with pytest.raises(LockedError) as raised:
        take_lock(tmp_path / "a.lock")
    assert raised.value.holder == str(os.getpid())
    remove_lock(tmp_path / "a.lock", held)
    assert list(tmp_path.iterdir()) == []
    os.close(take_lock(tmp_path / "a.lock"))


def test_a_lock_on_a_file_that_was_taken_away_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.lock"
    path.touch()
    lock, tries = fcntl.flock, 0

    def late(descriptor: int, operation: int) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:  # who held it until now leaves between our opening and our lock
            path.unlink()
        lock(descriptor, operation)

    monkeypatch.setattr("modelkeep.locks.fcntl.flock", late)
    held = take_lock(path)
    assert tries == 2
    with pytest.raises(LockedError):
        take_lock(path)
    os.close(held)


def test_a_lock_that_another_has_by_now_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    mine = take_lock(path)
    path.unlink()
    theirs = take_lock(path)
    remove_lock(path, mine)
    assert path.exists()
    os.close(theirs)
