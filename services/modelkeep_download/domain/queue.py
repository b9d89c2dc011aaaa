"""Who runs next: strict priority, lower first, and first come first served inside one priority."""

from __future__ import annotations

import heapq


class PriorityQueue:
    """Ids by (priority, order). Changing a priority keeps the place among equals by order."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int]] = []
        self._entries: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, job_id: int) -> bool:
        return job_id in self._entries

    def put(self, job_id: int, priority: int, order: int) -> None:
        """Add a job, or give one that waits another priority."""
        if self._entries.get(job_id) != (priority, order):
            self._entries[job_id] = (priority, order)
            heapq.heappush(self._heap, (priority, order, job_id))

    def discard(self, job_id: int) -> None:
        """Take a job out, if it is in."""
        self._entries.pop(job_id, None)

    def pop(self) -> int | None:
        """The next job, or None if nobody waits."""
        while self._heap:
            priority, order, job_id = heapq.heappop(self._heap)
            if self._entries.get(job_id) == (priority, order):
                del self._entries[job_id]
                return job_id
        return None
