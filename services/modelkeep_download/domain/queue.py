"""Who runs, who waits, and who makes room: strict priority, lower first, and first come first served in one.

There are so many slots, and fewer for the jobs of a queue that has a number of its own. The jobs that should
have them are found by going through all from the best to the worst and taking each for which there is still
a slot. Of equals, one that runs comes before one that waits: nobody is interrupted for an equal.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Place(NamedTuple):
    """A job's place among all: the lower, the sooner it runs."""

    priority: int
    order: int
    job_id: int
    queue: str


class Plan(NamedTuple):
    """What is to happen now: who gets a slot, and who must give up his."""

    start: list[int]
    stop: list[int]


@dataclass
class _Slot:
    place: Place
    #: It is let finish.
    kept: bool = False
    #: It was told to make room, and still has its slot.
    stopping: bool = False

    @property
    def rank(self) -> tuple[bool, Place]:
        return (not self.kept, self.place)


class RunQueue:
    """The jobs that wait for a slot, and those that have one.

    Args:
        slots: How many jobs may run at once.
        by_queue: How many of a queue, for those that have a number of their own.
    """

    def __init__(self, slots: int, by_queue: Mapping[str, int] | None = None) -> None:
        self.slots, self.by_queue = slots, by_queue or {}
        self._waiting: dict[int, Place] = {}
        self._running: dict[int, _Slot] = {}
        #: The places of each queue's waiting jobs, and of all queues' first ones; some may be out of date.
        self._queues: dict[str, list[Place]] = {}
        self._firsts: list[Place] = []
        #: Which of the latter stands for its queue.
        self._first_of: dict[str, Place] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, job_id: int) -> bool:
        """Whether a job waits."""
        return job_id in self._waiting

    def put(self, job_id: int, queue: str, priority: int, order: int) -> None:
        """Let a job wait, or give one that waits or runs another priority."""
        place = Place(priority, order, job_id, queue)
        if (slot := self._running.get(job_id)) is not None:
            slot.place = place
        elif self._waiting.get(job_id) != place:
            self._add(place)

    def discard(self, job_id: int) -> None:
        """Let a job wait no more, if it does."""
        self._waiting.pop(job_id, None)

    def keep(self, job_id: int) -> None:
        """Let a job that runs finish, whoever comes."""
        if (slot := self._running.get(job_id)) is not None:
            slot.kept = True

    def release(self, job_id: int) -> None:
        """A job runs no more: its slot is free."""
        del self._running[job_id]

    def plan(self) -> Plan:
        """Give the slots that are free to those that should have them, and find out who must make room."""
        stop, wanted, passed, taken = list[int](), list[Place](), set[str](), Counter[str]()
        ranked = sorted((slot for slot in self._running.values() if not slot.stopping), key=lambda s: s.rank)
        runs, free = deque(ranked), self.slots
        while free > 0 and (runs or self._first() is not None):
            first = self._first()
            if runs and (first is None or runs[0].kept or runs[0].place.priority <= first.priority):
                slot = runs.popleft()
                queue, stays = slot.place.queue, slot.kept or self._has_room(slot.place.queue, taken)
                if not stays:
                    stop.append(slot.place.job_id)
                    continue
            else:
                queue = heapq.heappop(self._firsts).queue
                del self._first_of[queue]
                passed.add(queue)
                if first is None or not self._has_room(queue, taken):
                    continue  # nor has it for those behind the first
                wanted.append(self._waiting.pop(first.job_id))
                self._offer(queue)
            taken[queue] += 1
            free -= 1
        stop += [slot.place.job_id for slot in runs if not slot.kept]
        for job_id in stop:
            self._running[job_id].stopping = True
        started = self._start(wanted)
        for queue in passed:
            self._offer(queue)
        return Plan(started, stop)

    def _start(self, wanted: list[Place]) -> list[int]:
        """Give a slot to those that should have one and find one free; the others go on waiting."""
        started, taken = list[int](), Counter(slot.place.queue for slot in self._running.values())
        for place in wanted:
            if len(self._running) < self.slots and self._has_room(place.queue, taken):
                self._running[place.job_id] = _Slot(place)
                taken[place.queue] += 1
                started.append(place.job_id)
            else:
                self._add(place)
        return started

    def _has_room(self, queue: str, taken: Counter[str]) -> bool:
        return taken[queue] < self.by_queue.get(queue, self.slots)

    def _add(self, place: Place) -> None:
        self._waiting[place.job_id] = place
        heapq.heappush(self._queues.setdefault(place.queue, []), place)
        self._offer(place.queue)

    def _first(self) -> Place | None:
        """The best of those that wait and were not passed over."""
        while self._firsts:
            place = self._firsts[0]
            if self._first_of.get(place.queue) == place:
                if self._waiting.get(place.job_id) == place:
                    return place
                del self._first_of[place.queue]
                self._offer(place.queue)
            else:
                heapq.heappop(self._firsts)
        return None

    def _offer(self, queue: str) -> None:
        """Put the best of a queue, if it has any, among the first ones of all."""
        places = self._queues.get(queue, [])
        while places and self._waiting.get(places[0].job_id) != places[0]:
            heapq.heappop(places)
        if not places:
            self._queues.pop(queue, None)
        elif self._first_of.get(queue) != places[0]:
            self._first_of[queue] = places[0]
            heapq.heappush(self._firsts, places[0])
