"""How far something is: on a terminal lines that are drawn anew, elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Final

from modelkeep.cli import _terminal
from modelkeep.cli._output import counted, lasting, size
from modelkeep.cli._terminal import Terminal, cells, visible

_TICK_S: Final = 0.2
#: Elsewhere a line is written when so much was done, or so long nothing was said.
_STEP_PERCENT: Final = 10
_STEP_S: Final = 10.0
_SHORTEST_BAR: Final = 8
_LONGEST_BAR: Final = 40


#: Files that have a line each on a terminal; the others under way are counted.
_MOST_FILES: Final = 5


@dataclass(frozen=True, slots=True)
class FileStanding:
    """How far one of several files is.

    Attributes:
        path: Its path.
        done: Bytes done.
        total: Bytes in total; 0 while not known.
    """

    path: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """How far something is.

    Attributes:
        text: What is going on.
        done: Bytes done, or how many of what `noun` says.
        total: Bytes, or how many, in total; 0 while not known.
        rate: Bytes a second; 0 while not known.
        noun: What is counted in place of bytes: "line".
        file: The file that is being worked on.
        why: Why it waits; "" while it goes on.
        until: When it goes on by itself, in seconds since the epoch.
        files: Several files that are being worked on, in place of `file`.
    """

    text: str
    done: int = 0
    total: int = 0
    rate: int = 0
    file: str = ""
    why: str = ""
    until: float | None = None
    files: Sequence[FileStanding] = ()
    noun: str = ""

    @property
    def numbers(self) -> str:
        """How much is done of how much, for people."""
        if not self.noun:
            return size(self.done) + (f" of {size(self.total)}" if self.total else "")
        return (
            f"{self.done:,} of {counted(self.total, self.noun)}"
            if self.total
            else counted(self.done, self.noun)
        )

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
    rate = standing.rate
    for part in (
        standing.left(now),
        f"{standing.percent} %" if standing.percent is not None else "",
        standing.numbers if standing.done or standing.total else "",
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


def drawn_with_files(standing: Standing, terminal: Terminal, now: float) -> list[str]:
    """A standing as lines that fit the terminal: one for all, and one for each of the largest files."""
    lines = [drawn(standing, terminal, now)]
    most = min(_MOST_FILES, max(0, terminal.height - 4))
    largest = sorted(standing.files, key=lambda file: -file.total)[:most]
    shown = [file for file in standing.files if file in largest]
    room = ((terminal.width or 80) - 1) // 2 - 2
    names = [terminal.cut(visible(file.path), room, keep_end=True) for file in shown]
    widest = max(map(cells, names), default=0)
    for file, name in zip(shown, names, strict=True):
        text = f"  {name}{' ' * (widest - cells(name))}"
        lines.append(drawn(Standing(text, file.done, file.total), terminal, now))
    if shown and (more := len(standing.files) - len(shown)):
        told = terminal.cut(f"  and {more} more under way", (terminal.width or 80) - 1)
        lines.append(terminal.look(told, "dim"))
    return lines


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
        #: Lines that are drawn; the cursor is on the last of them.
        self._height = 1
        self._said: tuple[str, str] = ("", "")
        self._step = 0
        self._last = 0.0

    @contextlib.contextmanager
    def shown(self) -> Iterator[Bar]:
        """On a terminal it is drawn inside, and gone after."""
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
            self._write([""])

    def update(self, standing: Standing) -> None:
        """Show a standing."""
        before, self._standing = self._standing, standing
        if not self._draws:
            self._tell(standing)
            return
        if standing.why and (before is None or before.why != standing.why):
            width = _terminal.stderr().width or 80
            self._write([*wrap(visible(standing.why), width - 1), ""], stays=True)
        if before is None or before.text != standing.text:  # progress alone is drawn now and then
            self._draw()

    def _draw(self) -> None:
        if (standing := self._standing) is not None:
            self._write(drawn_with_files(standing, _terminal.stderr(), self._now()))

    def _write(self, lines: Sequence[str], *, stays: bool = False) -> None:
        """Write lines over what is drawn, which they become, unless they are to stay above it."""
        with self._lock:
            up = f"\x1b[{self._height - 1}A" if self._height > 1 else ""
            sys.stderr.write(f"\r{up}" + "\n".join(f"\x1b[2K{line}" for line in lines) + "\x1b[J")
            sys.stderr.flush()
            self._height = 1 if stays else max(1, len(lines))

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
            more = f": {percent}{standing.numbers}"
            more += f", {size(standing.rate)}/s" if standing.rate else ""
        _terminal.complain(standing.text + more)
        self._said, self._step, self._last = said, step, self._clock()


def _bar(percent: int, width: int, terminal: Terminal) -> str:
    full = percent * width // 100
    done, rest = ("━", "─") if terminal.unicode else ("=", "-")
    return terminal.look(done * full, "green") + terminal.look(rest * (width - full), "dim")
