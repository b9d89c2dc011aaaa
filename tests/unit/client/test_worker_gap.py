"""When a worker tries to have its loader back, and when it gives it up."""

from __future__ import annotations

from modelkeep.worker._gap import Gap


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def tries(gap: Gap, clock: Clock, asked_s: float | None = None) -> list[float]:
    """The pauses, each slept through, until there is no time for another try."""
    found: list[float] = []
    while (pause := gap.pause(asked_s)) is not None:
        found.append(pause)
        clock.now += pause
    return found


def test_the_first_try_comes_at_once_and_the_others_ever_more_rarely_until_the_time_is_over() -> None:
    clock = Clock()
    gap = Gap(60.0, clock)
    assert gap.begin()
    pauses = tries(gap, clock)
    assert pauses[0] == 0.0
    assert 0.025 <= pauses[1] <= 0.05
    assert all(pause <= 1.0 for pause in pauses)
    assert all(pause >= 0.5 for pause in pauses[8:-1])
    assert clock.now == 1060.0  # the last try is at the very end
    assert len(pauses) < 130


def test_workers_that_lost_their_loader_together_do_not_come_together() -> None:
    def second_try() -> float:
        gap = Gap(60.0, Clock())
        gap.begin()
        gap.pause()
        return gap.pause() or 0.0

    assert len({second_try() for _ in range(20)}) > 10


def test_a_loader_that_asks_to_wait_is_given_that_time_but_no_more_than_there_is() -> None:
    clock = Clock()
    gap = Gap(5.0, clock)
    gap.begin()
    assert tries(gap, clock, asked_s=2.0) == [0.0, 2.0, 2.0, 1.0]


def test_a_loader_that_goes_away_again_at_once_has_not_come_back() -> None:
    clock = Clock()
    gap = Gap(10.0, clock)
    assert gap.begin()
    assert gap.pause() == 0.0
    clock.now += 4.0
    assert gap.end() == 4.0
    clock.now += 0.9
    assert not gap.begin()
    assert gap.pause() != 0.0  # it is not asked without rest
    clock.now += 5.2
    assert gap.pause() is None
    # One that was there for a while has.
    gap.end()
    clock.now += 1.0
    assert gap.begin()
    assert gap.pause() == 0.0


def test_without_time_there_is_no_try() -> None:
    gap = Gap(0.0, Clock())
    assert gap.begin()
    assert gap.pause() is None
