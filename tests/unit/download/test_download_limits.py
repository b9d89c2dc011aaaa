"""How many bytes a second pass, by a clock that a test moves; few wait for the real one."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from modelkeep_download.engine.limits import Bandwidth, JobBandwidth
from modelkeep_download.engine.stops import Stopped, StopSignal

KIB, MIB = 1 << 10, 1 << 20


@dataclass
class Time:
    """A clock that sleeping moves, and what happens at some of its moments."""

    now: float = 0.0
    events: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        """See `StopSignal.wait`."""
        assert seconds > 0
        self.now += seconds
        while self.events and self.events[0][0] <= self.now:
            self.events.pop(0)[1]()


def passed(limit: Bandwidth, clock: Time, seconds: float) -> list[tuple[float, int]]:
    """What one thread passes through in so many seconds, from a source that gives whatever it asks for."""
    end, took = clock.now + seconds, []
    while clock.now < end:
        count = limit.chunk()
        limit.take(count, clock)
        took.append((clock.now, count))
    return took


def windows(took: Sequence[tuple[float, int]], seconds: float = 5.0) -> list[float]:
    """Bytes a second of every window of so many seconds that begins with one of the takes."""
    last = took[-1][0]
    return [
        sum(count for at, count in took if begin < at <= begin + seconds) / seconds
        for begin in (at for at, _ in took if at + seconds <= last)
    ]


@pytest.mark.parametrize("rate", [16 * KIB, 50_000, MIB, 33 * MIB])
def test_every_five_seconds_bring_what_the_rate_says_within_five_percent(rate: int) -> None:
    clock = Time()
    took = passed(Bandwidth(rate, clock=clock), clock, 12)
    assert all(0.95 * rate <= window <= 1.05 * rate for window in windows(took))


def test_the_first_five_seconds_bring_no_more_than_the_others() -> None:
    clock = Time()
    took = passed(Bandwidth(MIB, clock=clock), clock, 5)
    assert sum(count for _, count in took) <= 1.05 * 5 * MIB


def test_a_quiet_time_is_not_made_up_for() -> None:
    clock = Time()
    limit = Bandwidth(MIB, clock=clock)
    passed(limit, clock, 1)
    clock.now += 100
    begin = clock.now
    took = passed(limit, clock, 5)
    assert sum(count for at, count in took if at <= begin + 0.01) <= 0.16 * MIB  # 100 ms, and one chunk
    assert sum(count for _, count in took) <= 1.05 * 5 * MIB


@pytest.mark.parametrize(("before", "after"), [(MIB, 5 * MIB), (20 * MIB, MIB), (0, MIB), (MIB, 64 * KIB)])
def test_a_new_rate_counts_at_once(before: int, after: int) -> None:
    clock = Time()
    limit = Bandwidth(before, clock=clock)
    if before:
        passed(limit, clock, 3)
    limit.rate = after
    begin = clock.now
    took = passed(limit, clock, 11)
    assert limit.rate == after
    assert sum(count for at, count in took if at <= begin + 5) == pytest.approx(5 * after, rel=0.05)
    assert all(0.95 * after <= window <= 1.05 * after for window in windows(took))


@pytest.mark.parametrize("after", [0, 100 * MIB])
def test_who_waits_heeds_a_new_rate_within_50_ms(after: int) -> None:
    clock = Time()
    limit = Bandwidth(KIB, clock=clock)
    clock.events = [(2.0, lambda: setattr(limit, "rate", after))]
    waited = limit.take(MIB, clock)
    assert 2.0 <= waited <= 2.07
    assert waited == clock.now


def test_without_a_rate_nobody_waits_and_reads_are_large() -> None:
    clock = Time()
    limit = Bandwidth(clock=clock)
    assert [limit.take(1 << 40, clock) for _ in range(3)] == [0.0] * 3
    assert (clock.now, limit.chunk()) == (0.0, MIB)


def test_chunks_are_a_twentieth_of_a_second_within_bounds() -> None:
    chunks = [Bandwidth(rate).chunk() for rate in (2 * KIB, 40 * KIB, 10 * MIB, 1000 * MIB)]
    assert chunks == [KIB, 2 * KIB, 10 * MIB // 20, MIB]


def test_a_job_passes_both_limits_and_its_chunks_are_those_of_the_narrower() -> None:
    service = Bandwidth(MIB)
    job, other = JobBandwidth(service, 256 * KIB), JobBandwidth(service)
    stop = StopSignal()
    assert (job.chunk(), other.chunk()) == (256 * KIB // 20, MIB // 20)
    begin = time.monotonic()
    for _ in range(10):
        job.take(16 * KIB, stop)
    assert time.monotonic() - begin >= 0.6 - 0.1
    service.rate = 64 * KIB
    begin = time.monotonic()
    for _ in range(3):
        job.take(16 * KIB, stop)
    assert time.monotonic() - begin >= 0.75 - 0.1 - 0.05
    assert job.rate == 256 * KIB
    service.rate = job.rate = 0
    assert job.take(1 << 40, stop) == 0.0
    assert JobBandwidth().take(1 << 40, stop) == 0.0


def test_a_stop_ends_the_wait_at_once_and_leaves_the_bytes_to_others() -> None:
    limit, stop, other = Bandwidth(100 * KIB), StopSignal(), StopSignal()
    stopped: list[float] = []

    def wait() -> None:
        with pytest.raises(Stopped):
            limit.take(100 * MIB, stop)
        stopped.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    begin = time.monotonic()
    stop.stop()
    limit.take(50 * KIB, other)  # would wait for a thousand seconds behind what has gone
    thread.join()
    # Half a second, not a thousand.
    assert stopped[0] - begin < 10
    assert time.monotonic() - begin < 10


class SharedTime(Time):
    """A clock that goes on to the next moment for which one of so many threads waits once all of them do."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self._running = threads
        self._changed = threading.Condition()
        self._wanted: list[float] = []

    def wait(self, seconds: float) -> None:
        """See `StopSignal.wait`."""
        with self._changed:
            until = self.now + seconds
            self._wanted.append(until)
            self.leave()
            while self.now < until:
                assert self._changed.wait(20)

    def leave(self) -> None:
        """One thread less runs: it waits, or has ended."""
        with self._changed:
            self._running -= 1
            if not self._running and self._wanted:
                self.now = min(self._wanted)
                self._running = self._wanted.count(self.now)
                self._wanted = [until for until in self._wanted if until > self.now]
                self._changed.notify_all()


def test_threads_share_a_rate_evenly_and_keep_it() -> None:
    rate, seconds = 4 * MIB, 12.0
    clock, totals = SharedTime(8), Counter[int]()
    limit = Bandwidth(rate, clock=clock)

    def pass_through(number: int) -> None:
        while clock.now < seconds:
            count = limit.chunk()
            limit.take(count, clock)
            if clock.now <= seconds:
                totals[number] += count
        clock.leave()

    threads = [threading.Thread(target=pass_through, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(totals.values()) == pytest.approx(rate * seconds, rel=0.01)
    assert min(totals.values()) >= 0.9 * max(totals.values())
