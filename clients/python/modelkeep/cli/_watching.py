"""``-w``: a list that stays true, redrawn on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from modelkeep.cli import _terminal
from modelkeep.cli._listing import Listing
from modelkeep.cli._options import Format, chosen
from modelkeep.cli._output import away, print_data
from modelkeep.cli._select import selected
from modelkeep.cli._table import lines, show
from modelkeep.cli._terminal import visible

if TYPE_CHECKING:
    from modelkeep.client import WatchFrame

T = TypeVar("T")

#: How often progress alone is drawn.
_LEAST_BETWEEN_S: Final = 0.1
#: How often is looked at what cannot be watched.
POLL_S: Final = 2.0


def watch(listing: Listing[T], states: Iterator[Mapping[Any, T]], *, empty: str) -> None:
    """Show a list again whenever it changes, until Ctrl-C.

    Args:
        listing: How this kind of thing is listed.
        states: All there is, by what tells one from another, each time that something has changed.
        empty: What is said where there is none.
    """
    options = chosen()
    screen = Screen()
    as_table = not (options.as_data or options.quiet or options.format is Format.NAME)
    if as_table and _terminal.stdout().moves:
        for state in states:
            screen.draw(listing, list(state.values()), empty)
    else:
        _tell(listing, states, titles=as_table)


def of_frames(
    frames: Generator[WatchFrame[T]], passes: Callable[[T], bool] = lambda one: True
) -> Iterator[dict[Any, T]]:
    """What a watch tells of, each time that it tells something new.

    Args:
        frames: The watch.
        passes: Whether one is shown.
    """
    state: dict[Any, T] = {}
    begun, is_away, drawn = False, False, 0.0
    with contextlib.closing(frames):
        for frame in frames:
            if frame.away_s is not None:
                _tell_away(frame.away_s, news=not is_away)
                is_away = True
                continue
            is_away = False
            if frame.restarted:
                state.clear()
            news = False
            for event in frame.events:
                news = news or not event.progress
                if event.put is not None and passes(event.put):
                    state[event.id] = event.put
                else:
                    state.pop(event.id, None)
            begun = begun or frame.snapshot_complete or frame.phase == "live"
            if begun and (news or frame.snapshot_complete or time.monotonic() - drawn >= _LEAST_BETWEEN_S):
                drawn = time.monotonic()
                yield state


def _tell_away(seconds: float, *, news: bool) -> None:
    """Say that the service is away, beneath the table; the next drawing writes over it."""
    if _terminal.stderr().moves:
        sys.stderr.write(f"\r\x1b[2K{_terminal.stderr().look(away(seconds), 'yellow')}")
        sys.stderr.flush()
    elif news:
        _terminal.complain(away(seconds))


def polled(fetch: Callable[[], Sequence[T]], key: Callable[[T], Any]) -> Iterator[dict[Any, T]]:
    """What there is, every two seconds, of what has no watch."""
    while True:
        yield {key(one): one for one in fetch()}
        time.sleep(POLL_S)


def poll(listing: Listing[T], fetch: Callable[[], Sequence[T]], *, empty: str) -> None:
    """Show a list of what has no watch: once, or with ``-w`` every two seconds until Ctrl-C."""
    if chosen().watch:
        watch(listing, polled(fetch, listing.key), empty=empty)
    show(listing, fetch(), empty=empty)


class Screen:
    """A part of the terminal that is written anew in place."""

    def __init__(self) -> None:
        self._height = 0

    def draw(self, listing: Listing[T], rows: Sequence[T], empty: str) -> None:
        """Write a table over the last one."""
        terminal = _terminal.stdout()
        kept = selected(listing, rows)
        text = lines(listing, kept, terminal, all_of=len(rows)) if kept else [terminal.look(empty, "dim")]
        room = terminal.height - 1
        if len(text) > room:
            hidden = len(text) - room
            text = [*text[: room - 2], terminal.look(f"… {hidden + 1} more rows", "dim"), text[-1]]
        self.write(text)

    def write(self, text: Sequence[str]) -> None:
        """Write lines over the last ones."""
        up = f"\x1b[{self._height}A" if self._height else ""
        sys.stdout.write(up + "".join(f"\r\x1b[2K{line}\n" for line in text) + "\x1b[J")
        sys.stdout.flush()
        self._height = len(text)


def _tell(listing: Listing[T], states: Iterator[Mapping[Any, T]], *, titles: bool) -> None:
    """Print a line for each row that is new or has changed, and for each that has gone."""
    options = chosen()
    said: dict[Any, str] = {}
    for state in states:
        rows = {key: row for key, row in state.items() if selected(listing, [row])}
        for key, row in rows.items():
            if options.as_data:
                line: Any = listing.data(row)
            elif options.quiet or options.format is Format.NAME:
                line = visible((listing.key if options.quiet else listing.name)(row))
            else:
                first, line = lines(listing, [row], _terminal.Terminal())
                if titles:
                    print(first)
                    titles = False
            if said.get(key) != str(line):
                said[key] = str(line)
                _put(line)
        for key in [key for key in said if key not in rows]:
            del said[key]
            _put({"removed_id": str(key)} if options.as_data else f"{visible(key)}\tremoved")


def _put(line: Any) -> None:
    if isinstance(line, str):
        print(line, flush=True)
    else:
        print_data(line, lines=True)
