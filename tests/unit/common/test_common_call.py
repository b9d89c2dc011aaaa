"""How long a call that waits may do so."""

from __future__ import annotations

import time

import pytest

from modelkeep_common.calls import Call


@pytest.mark.parametrize(("asked", "waits"), [(None, 30), (0, 0), (-5, 0), (7.5, 7.5), (3600, 60)])
def test_a_wait_is_as_long_as_asked_within_bounds(asked: float | None, waits: float) -> None:
    assert Call().patience(asked) == waits


def test_a_wait_ends_before_its_caller_stops_waiting() -> None:
    for left in (0.1, 1.0, 10.0):
        patience = Call(deadline=time.monotonic() + left).patience(None)
        assert left / 2 < patience < left
    assert Call(deadline=time.monotonic() - 1).patience(None) == 0
    assert Call(deadline=time.monotonic() + 40).patience(2.0) == 2.0
