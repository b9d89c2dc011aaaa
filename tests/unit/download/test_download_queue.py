"""Who runs, who waits and who makes room, held against the same rules written down without any speed."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from modelkeep_download.domain.queue import Plan, RunQueue


def queue_of(slots: int, *jobs: tuple[int, int], by_queue: dict[str, int] | None = None) -> RunQueue:
    """A queue with jobs of (id, priority), of which those run that do."""
    queue = RunQueue(slots, by_queue)
    for job_id, priority in jobs:
        queue.put(job_id, "", priority, order=job_id)
    queue.plan()
    return queue


def test_the_lowest_priority_runs_first_and_equals_in_their_order() -> None:
    queue = RunQueue(1)
    for job_id, priority in enumerate([10, 10, 5, 20, 5, 10]):
        queue.put(job_id, "", 99, order=job_id)
        queue.put(job_id, "", priority, order=job_id)  # changed while it waits
    queue.discard(4)
    order = []
    for _ in range(5):
        (job_id,) = queue.plan().start
        order.append(job_id)
        queue.release(job_id)
    assert order == [2, 0, 1, 5, 3]
    assert queue.plan() == Plan([], [])


def test_a_better_one_that_waits_stops_the_worst_one_and_gets_its_slot() -> None:
    queue = queue_of(2, (1, 10), (2, 20))
    queue.put(3, "", 5, order=3)
    assert queue.plan() == Plan([], [2])
    assert queue.plan() == Plan([], [])  # it is on its way
    queue.release(2)
    queue.put(2, "", 20, order=2)
    assert queue.plan() == Plan([3], [])
    queue.release(3)
    assert queue.plan() == Plan([2], [])


def test_of_equals_the_newest_makes_room_and_the_oldest_gets_it_back() -> None:
    queue = queue_of(3, (1, 10), (2, 10), (3, 10), (4, 10))
    queue.put(5, "", 1, order=5)
    assert queue.plan() == Plan([], [3])
    queue.release(3)
    queue.put(3, "", 10, order=3)
    assert queue.plan() == Plan([5], [])
    queue.release(1)
    assert queue.plan() == Plan([3], [])


def test_nobody_is_stopped_for_an_equal_or_while_it_is_let_finish() -> None:
    queue = queue_of(1, (2, 10))
    queue.put(1, "", 10, order=1)
    assert queue.plan() == Plan([], [])
    queue.keep(2)
    queue.put(3, "", 1, order=3)
    assert queue.plan() == Plan([], [])


def test_a_running_job_that_gets_worse_makes_room_and_one_that_waits_and_gets_better_takes_it() -> None:
    queue = queue_of(1, (1, 10), (2, 10))
    queue.put(1, "", 11, order=1)
    assert queue.plan() == Plan([], [1])
    queue = queue_of(1, (1, 10), (2, 10))
    queue.put(2, "", 9, order=2)
    assert queue.plan() == Plan([], [1])


def test_a_queue_with_a_number_of_its_own_leaves_the_other_slots_to_others() -> None:
    queue = RunQueue(3, {"narrow": 1})
    for job_id in (1, 2, 3):
        queue.put(job_id, "narrow", 1, order=job_id)
    for job_id in (4, 5, 6):
        queue.put(job_id, "", 10, order=job_id)
    assert queue.plan() == Plan([1, 4, 5], [])
    queue.put(7, "narrow", 0, order=7)
    assert queue.plan() == Plan([], [1])  # not one of the others: they are not in its way
    queue.release(1)
    queue.put(1, "narrow", 1, order=1)
    assert queue.plan() == Plan([7], [])


def test_with_fewer_slots_the_worst_make_room_and_with_more_the_best_begin() -> None:
    queue = queue_of(3, (1, 10), (2, 5), (3, 20), (4, 30))
    queue.slots = 1
    assert sorted(queue.plan().stop) == [1, 3]
    for job_id in (1, 3):
        queue.release(job_id)
    queue.put(1, "", 10, order=1)
    queue.slots = 2
    assert queue.plan() == Plan([1], [])
    queue.by_queue = {"": 1}
    assert queue.plan() == Plan([], [1])


@dataclass
class Slowly:
    """The rules by themselves: everybody is looked at, each time."""

    slots: int = 2
    by_queue: dict[str, int] = field(default_factory=dict)
    waiting: dict[int, tuple[int, int, str]] = field(default_factory=dict)
    running: dict[int, tuple[int, int, str]] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    stopping: set[int] = field(default_factory=set)

    def plan(self) -> Plan:
        """See `RunQueue.plan`."""
        able = {job_id: at for job_id, at in self.running.items() if job_id not in self.stopping}
        everybody = [((job_id not in self.kept, at[0], 0, *at[1:]), job_id) for job_id, at in able.items()]
        everybody += [((True, at[0], 1, *at[1:]), job_id) for job_id, at in self.waiting.items()]
        taken, chosen = Counter[str](), list[int]()
        for _, job_id in sorted(everybody):
            queue = (able.get(job_id) or self.waiting[job_id])[2]
            if len(chosen) < self.slots and (job_id in self.kept or self.has_room(queue, taken)):
                chosen.append(job_id)
                taken[queue] += 1
        stop = {job_id for job_id in able if job_id not in chosen and job_id not in self.kept}
        self.stopping |= stop
        start, taken = list[int](), Counter(at[2] for at in self.running.values())
        for job_id in chosen:
            if job_id in self.waiting and len(self.running) < self.slots:
                queue = self.waiting[job_id][2]
                if self.has_room(queue, taken):
                    self.running[job_id] = self.waiting.pop(job_id)
                    taken[queue] += 1
                    start.append(job_id)
        return Plan(start, sorted(stop))

    def has_room(self, queue: str, taken: Counter[str]) -> bool:
        """Whether a queue has a slot left."""
        return taken[queue] < self.by_queue.get(queue, self.slots)


JOBS = st.integers(0, 9)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), JOBS, st.integers(0, 3), st.sampled_from("ab")),
        st.tuples(st.just("discard"), JOBS),
        st.tuples(st.just("keep"), JOBS),
        st.tuples(st.just("release"), JOBS),
        st.tuples(st.just("slots"), st.integers(1, 4)),
        st.tuples(st.just("by_queue"), st.dictionaries(st.sampled_from("ab"), st.integers(1, 3))),
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(STEPS)
def test_whatever_happens_the_plan_is_that_of_the_rules(steps: list[tuple[Any, ...]]) -> None:
    queue, slowly, orders, queues = RunQueue(2), Slowly(), dict[int, int](), dict[int, str]()
    for number, (what, *values) in enumerate(steps):
        if what in ("slots", "by_queue"):
            setattr(queue, what, values[0])
            setattr(slowly, what, values[0])
        elif what == "put":
            job_id, priority, name = values
            order, name = orders.setdefault(job_id, number), queues.setdefault(job_id, name)
            queue.put(job_id, name, priority, order)
            there = slowly.running if job_id in slowly.running else slowly.waiting
            there[job_id] = (priority, order, name)
        elif what == "discard":
            queue.discard(values[0])
            slowly.waiting.pop(values[0], None)
        elif values[0] in slowly.running:
            getattr(queue, what)(values[0])
            if what == "keep":
                slowly.kept.add(values[0])
            else:
                del slowly.running[values[0]]
                slowly.kept.discard(values[0])
                slowly.stopping.discard(values[0])
        plan = queue.plan()
        assert Plan(plan.start, sorted(plan.stop)) == slowly.plan()
        assert len(queue) == len(slowly.waiting)


def test_a_plan_costs_the_same_however_many_wait() -> None:
    queue = RunQueue(5, {"full": 1})
    for job_id in range(20_000):
        queue.put(job_id, f"{job_id % 100}" if job_id % 2 else "full", 10, order=job_id)
    running = queue.plan().start
    begin = time.thread_time()
    for job_id in range(20_000, 20_500):
        queue.put(job_id, "", 10, order=job_id)
        queue.plan()
        queue.release(running.pop(0))  # it waits for a retry, say, and comes back
        queue.put(job_id - 20_000, "", 10, order=job_id)
        running += queue.plan().start
    assert (time.thread_time() - begin) / 500 < 1e-3
    assert len(queue._firsts) < 1000
