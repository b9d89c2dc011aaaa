"""Following a watch of another service: what it tells arrives once, whatever breaks off in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import pytest

from modelkeep.exceptions import (
    InvalidModelException,
    ModelkeepError,
    ResumeTokenExpiredException,
    UpstreamUnavailableException,
)
from modelkeep_common import following
from modelkeep_common.following import follow


class Frame(NamedTuple):
    resume_token: str


class Server:
    """A history of frames "1", "2", …; each watch of it ends as the script says."""

    def __init__(self, *ends: tuple[int, Exception | None]) -> None:
        #: Of each watch: how many frames it tells, and what it ends with.
        self._ends = list(ends)
        self.asked: list[str] = []
        #: Set by the watch after the last of them.
        self.over = asyncio.Event()

    async def watch(self, token: str) -> AsyncIterator[Frame]:
        self.asked.append(token)
        if not self._ends:
            self.over.set()
            await asyncio.Event().wait()
        count, end = self._ends.pop(0)
        for number in range(int(token or 0), int(token or 0) + count):
            yield Frame(str(number + 1))
        if end is not None:
            raise end


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_FIRST_RETRY_S", 0.0)


async def followed(
    server: Server, faults: Sequence[ModelkeepError] = (), begin: Callable[[], None] = lambda: None
) -> list[tuple[str, bool]]:
    """What is taken until the server's script is over; `faults` are raised by the first frames taken."""
    taken: list[tuple[str, bool]] = []
    left = list(faults)

    async def take(frame: Frame, is_first: bool) -> None:
        if left:
            raise left.pop(0)
        taken.append((frame.resume_token, is_first))

    task = asyncio.create_task(follow(server.watch, take, what="things", last_retry_s=0.0, begin=begin))
    async with asyncio.timeout(20):
        await server.over.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return taken


async def test_a_watch_that_breaks_off_goes_on_where_it_was() -> None:
    away = UpstreamUnavailableException("away")
    server = Server((0, away), (2, away), (0, away), (1, None), (1, away))
    assert await followed(server) == [("1", True), ("2", False), ("3", False), ("4", False)]
    assert server.asked == ["", "", "2", "2", "3", "4"]


async def test_over_another_store_it_begins_anew_and_says_so() -> None:
    begun: list[str] = []
    server = Server((2, ResumeTokenExpiredException("too old")), (1, None))
    taken = await followed(server, begin=lambda: begun.append(server.asked[-1] if server.asked else "first"))
    assert taken == [("1", True), ("2", False), ("1", True)]
    assert server.asked == ["", "", "1"]
    assert begun == ["first", ""]


async def test_a_frame_that_could_not_be_taken_is_told_again() -> None:
    server = Server((2, None), (2, None))
    assert await followed(server, [InvalidModelException("not now")]) == [("1", True), ("2", False)]
    assert server.asked == ["", "", "2"]


async def test_a_defect_is_not_hidden() -> None:
    server = Server((1, ValueError("a defect")))

    async def take(frame: Frame, is_first: bool) -> None:
        pass

    with pytest.raises(ValueError, match="a defect"):
        await follow(server.watch, take, what="things", last_retry_s=0.0)
