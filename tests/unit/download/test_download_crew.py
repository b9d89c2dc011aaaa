"""Threads that take one work after another."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from modelkeep_download.engine.crew import Crew


class Works:
    """Does works that take so long, and sees how many are under way at once."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.done: list[int] = []
        self.at_once = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, work: int) -> None:
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(self.seconds)
        with self._lock:
            self.at_once -= 1
            self.done.append(work)


def test_every_work_is_done_once() -> None:
    works = Works()
    Crew(range(100), works, lambda _: 16, lambda: None).run()
    assert sorted(works.done) == list(range(100))


def test_works_that_take_long_are_done_more_at_once_up_to_the_most() -> None:
    works = Works(0.05)
    Crew(range(60), works, lambda _: 7, lambda: None).run()
    assert works.most == 7


def test_the_first_error_ends_the_others_and_nothing_new_is_begun() -> None:
    told = threading.Event()

    def do(work: int) -> None:
        if work == 2:
            raise OSError("broken")
        if work > 2:
            return
        assert told.wait(5)

    with pytest.raises(OSError, match="broken"):
        Crew(itertools.count(), do, lambda _: 4, told.set).run()
