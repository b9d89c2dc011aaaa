"""How full the loader is, as it is told to who watches: in time that is skipped."""

from __future__ import annotations

import asyncio

import pytest

from modelkeep.exceptions import ServerDrainingException
from modelkeep_loader.domain.drain import Drain
from modelkeep_loader.domain.gauge import Gauge
from support.faketime import now, run


class Dial:
    """A reading that a test sets, and what was told of it, with the time."""

    def __init__(self) -> None:
        self.value = 0
        self.drain = Drain()
        self.gauge = Gauge(lambda: self.value, self.drain, now)
        self.told: list[tuple[float, int | None]] = []

    def turn(self, value: int, *, silently: bool = False) -> None:
        self.value = value
        if not silently:
            self.gauge.moved()

    async def hear(self, value: int | None) -> None:
        self.told.append((round(now(), 3), value))

    def watch(self, least_s: float = 0.5, most_s: float = 15.0) -> asyncio.Task[None]:
        return asyncio.create_task(self.gauge.watch(self.hear, least_s=least_s, most_s=most_s))


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


def test_it_is_told_at_once_and_when_it_moves() -> None:
    async def story() -> None:
        dial = Dial()
        task = dial.watch()
        await asyncio.sleep(3)
        dial.turn(5)
        await asyncio.sleep(3)
        await end(task)
        assert dial.told == [(0.0, 0), (3.0, 5)]
        dial.turn(6)  # nobody watches any more
        await asyncio.sleep(1)
        assert len(dial.told) == 2

    run(story())


def test_what_moves_quickly_is_told_together_as_it_is_in_the_end() -> None:
    async def story() -> None:
        dial = Dial()
        task = dial.watch(least_s=2.0)
        for value in range(1, 41):
            await asyncio.sleep(0.1)
            dial.turn(value)
        await asyncio.sleep(5)
        await end(task)
        assert [when for when, _ in dial.told] == pytest.approx([0.0, 2.0, 4.0, 6.0], abs=0.11)
        assert dial.told[-1][1] == 40

    run(story())


def test_what_goes_back_to_what_was_told_is_not_told_again() -> None:
    async def story() -> None:
        dial = Dial()
        task = dial.watch(least_s=2.0)
        await asyncio.sleep(1)
        dial.turn(7)
        await asyncio.sleep(0.5)
        dial.turn(0)
        await asyncio.sleep(6)
        await end(task)
        assert dial.told == [(0.0, 0)]

    run(story())


def test_what_changes_without_an_event_is_seen_within_a_second() -> None:
    async def story() -> None:
        dial = Dial()
        task = dial.watch()
        await asyncio.sleep(5.5)
        dial.turn(9, silently=True)
        await asyncio.sleep(5)
        await end(task)
        (told,) = [when for when, value in dial.told if value == 9]
        assert 5.5 <= told <= 6.5

    run(story())


def test_silence_has_its_bookmarks() -> None:
    async def story() -> None:
        dial = Dial()
        task = dial.watch(most_s=2.5)
        await asyncio.sleep(6)
        await end(task)
        assert dial.told == [(0.0, 0), (2.5, None), (5.0, None)]

    run(story())


def test_a_shutdown_ends_the_watch() -> None:
    async def story() -> None:
        dial = Dial()
        task = dial.watch()
        await asyncio.sleep(1)
        dial.drain.begin()
        with pytest.raises(ServerDrainingException):
            await task
        assert now() == pytest.approx(1.0)

    run(story())
