"""Waits between tries, in whatever part of the suite."""

from __future__ import annotations

import pytest

from modelkeep.backoff import Backoff, doubled, wait_after


def test_waits_grow_with_jitter_and_are_capped() -> None:
    for failures, most in ((1, 1.0), (2, 2.0), (4, 8.0), (50, 60.0), (10**6, 60.0)):
        waits = [wait_after(failures, 1.0, 60.0) for _ in range(50)]
        assert most / 2 <= min(waits) < max(waits) <= most == doubled(failures, 1.0, 60.0)


def test_the_other_side_may_ask_for_a_longer_wait_but_for_no_shorter_one() -> None:
    assert wait_after(1, 1.0, 60.0, asked_s=5.0) == 5.0
    assert wait_after(5, 1.0, 60.0, asked_s=0.0) >= 8.0


def test_after_a_success_waits_begin_anew() -> None:
    waits = Backoff(1.0, 4.0)
    grown = [waits.next() for _ in range(4)]
    assert [most / 2 <= wait <= most for wait, most in zip(grown, (1, 2, 4, 4), strict=True)] == [True] * 4
    assert waits.next(asked_s=9.0) == 9.0
    waits.reset()
    assert waits.next() == pytest.approx(0.75, abs=0.25)
