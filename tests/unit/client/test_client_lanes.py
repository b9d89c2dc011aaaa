"""News of several jobs side by side: in order for each, none held up by another's."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass

from modelkeep.client._tracker import Lanes


@dataclass(frozen=True)
class News:
    """What a message of a job has, and which one it is."""

    id: int
    revision: int
    place: int = 0


class Listener:
    """Takes news, each job's when its gate is open."""

    def __init__(self) -> None:
        self.heard: dict[int, list[News | None]] = defaultdict(list)
        self.gates: dict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self.told = 0

    async def step(self, id: int, news: News | None) -> None:
        await self.gates[id].wait()
        self.heard[id].append(news)

    async def note(self) -> None:
        self.told += 1


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_each_job_has_its_news_in_order_and_none_waits_for_another() -> None:
    listener = Listener()
    lanes = Lanes[News](listener.step, listener.note)
    for revision in (1, 2, 3):
        lanes.put(7, News(7, revision))
        lanes.put(8, News(8, revision))
    lanes.put(8, None)
    listener.gates[8].set()
    await settle()
    assert listener.heard[8] == [News(8, 1), News(8, 2), News(8, 3), None]
    assert (listener.heard[7], set(lanes.busy), listener.told) == ([], {7}, 4)
    listener.gates[7].set()
    await settle()
    assert listener.heard[7] == [News(7, 1), News(7, 2), News(7, 3)]
    assert (set(lanes.busy), listener.told) == (set(), 7)


async def test_of_progress_that_waits_the_latest_is_told_and_no_change_is_left_out() -> None:
    listener = Listener()
    lanes = Lanes[News](listener.step, listener.note)
    told = [News(7, 1), News(7, 1, 1), News(7, 1, 2), News(7, 2), News(7, 2, 1), News(7, 2, 2), News(7, 3)]
    lanes.put(7, told[0])
    await settle()  # it is being told
    for news in told[1:]:
        lanes.put(7, news)
    listener.gates[7].set()
    await settle()
    assert listener.heard[7] == [News(7, 1), News(7, 1, 2), News(7, 2, 2), News(7, 3)]


async def test_closed_lanes_tell_no_more() -> None:
    listener = Listener()
    lanes = Lanes[News](listener.step, listener.note)
    lanes.put(7, News(7, 1))
    await settle()
    await lanes.close()
    listener.gates[7].set()
    await settle()
    assert (listener.heard[7], set(lanes.busy)) == ([], set())
