"""Room on a file system: asked for before and while something large is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.exceptions import DiskFullException
from modelkeep_common import room
from modelkeep_common.room import Room, check_room


def test_room_is_checked_with_what_is_missing(tmp_path: Path) -> None:
    check_room(tmp_path, 1, 0)
    check_room(tmp_path, 0, 1 << 62)  # nothing more is needed
    with pytest.raises(DiskFullException) as error:
        check_room(tmp_path / "not" / "yet", 1 << 60, 0)
    assert int(error.value.metadata["bytes_short"]) > 1 << 59
    assert error.value.metadata["remedy"] in str(error.value)


def test_writers_at_the_same_time_are_not_promised_the_same_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 100
    monkeypatch.setattr(room, "free_bytes", lambda folder: free)
    shared = Room(tmp_path, reserve=10)
    with shared.claim() as one:
        one.want(60)
        with shared.claim() as other:
            with pytest.raises(DiskFullException) as error:
                other.want(31)
            assert error.value.metadata["bytes_short"] == "1"
            other.want(30)
            free = 60
            one.want(20)  # 40 of them are written
            with pytest.raises(DiskFullException):
                other.want(31)
        one.want(50)
        free = 20  # somebody else fills the disk
        with pytest.raises(DiskFullException):
            one.want(11)
    with shared.claim() as third:
        third.want(10)
