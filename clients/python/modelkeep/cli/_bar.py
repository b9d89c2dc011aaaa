"""How far something is: one line on a terminal that is drawn anew, lines now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from textwrap import wrap
from typing import Final

from modelkeep.cli import _terminal
from modelkeep.cli._output import lasting, size
from modelkeep.cli._terminal import Terminal, cells, visible

_TICK_S: Final = 0.2
#: Elsewhere a line is written when so much was done, or so long nothing was said.
_STEP_PERCENT: Final = 10
_STEP_S: Final = 10.0
_SHORTEST_BAR: Final = 8
_LONGEST_BAR: Final = 40


@dataclass(frozen=True, slots=True)
class Standing:
    """How far something is.

    Attributes:
        text: What is going on.
        done: Bytes done.
        total: Bytes in total; 0 while not known.
        rate: Bytes a second; 0 while not known.
        file: The file that is being worked on.
        why: Why it waits; "" while it goes on.
        until: When it goes on by itself, in seconds since the epoch.
    """

    text: str
    done: int = 0
    total: int = 0
    rate: int = 0
    file: str = ""
    why: str = ""
    until: float | None = None

    @property
    def percent(self) -> int | None:
        """How much is done; None while not known."""
        return min(100, self.done * 100 // self.total) if self.total else None

    def left(self, now: float) -> str:
        """How long a wait still lasts, for people."""
        if self.until is None:
            return ""
        left = self.until - now
        return f"next try in {lasting(left)}" if left >= 1 else "trying again"


def drawn(standing: Standing, terminal: Terminal, now: float) -> str:
    """A standing as one line that fits the terminal.

    What there is no room for is left out, least important first.
    """
    room = (terminal.width or 80) - 1  # a line that is quite full would be broken by some terminals
    parts: list[str] = []
    numbers = size(standing.done)
    if standing.total:
        numbers += f" of {size(standing.total)}"
    rate = standing.rate
    for part in (
        standing.left(now),
        f"{standing.percent} %" if standing.percent is not None else "",
        numbers if standing.done or standing.total else "",
        f"{size(rate)}/s" if rate else "",
        f"{lasting((standing.total - standing.done) / rate)} left" if rate and standing.total else "",
        visible(standing.file),
    ):
        taken = cells(standing.text) + sum(2 + cells(one) for one in parts)
        if part and taken + 2 + cells(part) <= room:
            parts.append(part)
    spare = room - cells(standing.text) - sum(2 + cells(one) for one in parts) - 2
    if standing.percent is not None and spare >= _SHORTEST_BAR:
        parts.insert(0, _bar(standing.percent, min(spare, _LONGEST_BAR), terminal))
        return "  ".join([standing.text, *parts])
    return "  ".join([terminal.cut(standing.text, room), *parts])


class Bar:
    """Shows how far a job is, and why it waits.

    Args:
        clock: Seconds that only grow.
        now: Seconds since the epoch.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._now = now
        self._standing: Standing | None = None
        self._draws = False
        self._lock = threading.Lock()
        self._said: tuple[str, str] = ("", "")
        self._step = 0
        self._last = 0.0

    @contextlib.contextmanager
    def shown(self) -> Iterator[Bar]:
        """On a terminal the line is drawn inside, and gone after."""
        self._draws = _terminal.stderr().moves
        if not self._draws:
            yield self
            return
        over = threading.Event()

        def tick() -> None:
            while not over.wait(_TICK_S):
                self._draw()

        ticking = threading.Thread(target=tick, daemon=True)
        ticking.start()
        try:
            yield self
        finally:
            over.set()
            ticking.join()
            self._write("\r\x1b[2K")

    def update(self, standing: Standing) -> None:
        """Show a standing."""
        before, self._standing = self._standing, standing
        if not self._draws:
            self._tell(standing)
            return
        if standing.why and (before is None or before.why != standing.why):
            width = _terminal.stderr().width or 80
            self._write("\r\x1b[2K" + "".join(f"{line}\n" for line in wrap(visible(standing.why), width - 1)))
        if before is None or before.text != standing.text:  # progress alone is drawn now and then
            self._draw()

    def _draw(self) -> None:
        if (standing := self._standing) is not None:
            terminal = _terminal.stderr()
            self._write(f"\r\x1b[2K{drawn(standing, terminal, self._now())}")

    def _write(self, text: str) -> None:
        with self._lock:
            sys.stderr.write(text)
            sys.stderr.flush()

    def _tell(self, standing: Standing) -> None:
        """Write a line if there is something new, or much done, or nothing said for long."""
        said = (standing.text, standing.why)
        step = (standing.percent or 0) // _STEP_PERCENT
        news = said != self._said
        moved = step > self._step or (standing.done and self._clock() - self._last >= _STEP_S)
        if not news and (not moved or standing.why):
            return
        more = ""
        if standing.why:
            more = f": {visible(standing.why)}"
            if standing.until is not None:
                more += f"; next try at {time.strftime('%H:%M:%S', time.localtime(standing.until))}"
        elif not news:
            percent = f"{standing.percent} %, " if standing.percent is not None else ""
            more = f": {percent}{size(standing.done)}"
            more += f" of {size(standing.total)}" if standing.total else ""
            more += f", {size(standing.rate)}/s" if standing.rate else ""
        _terminal.complain(standing.text + more)
        self._said, self._step, self._last = said, step, self._clock()


def _bar(percent: int, width: int, terminal: Terminal) -> str:
    full = percent * width // 100
    done, rest = ("━", "─") if terminal.unicode else ("=", "-")
    return terminal.look(done * full, "green") + terminal.look(rest * (width - full), "dim")
