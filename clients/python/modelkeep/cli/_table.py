"""Lists: the columns that fit the terminal, or JSON, YAML, names, keys."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from modelkeep.cli import _terminal
from modelkeep.cli._listing import Column, Listing
from modelkeep.cli._options import Format, Options, chosen
from modelkeep.cli._output import counted, print_data
from modelkeep.cli._select import selected
from modelkeep.cli._terminal import Look, Terminal, cells, visible

T = TypeVar("T")

_GAP: Final = "  "
#: A column that may be cut is never narrower, unless there is nothing else to give way.
_LEAST: Final = 12
_LEAST_OF_ALL: Final = 4


def show(listing: Listing[T], rows: Sequence[T], *, empty: str) -> None:
    """Print a list in the way that was chosen.

    Args:
        listing: How this kind of thing is listed.
        rows: The things.
        empty: What is said, on stderr, where there is none.
    """
    kept = selected(listing, rows)
    options = chosen()
    if options.quiet or options.format is Format.NAME:
        for row in kept:
            print(visible(listing.key(row) if options.quiet else listing.name(row)))
    elif options.as_data:
        print_data({listing.json_name: [listing.data(row) for row in kept]})
    elif not kept:
        _terminal.complain(f"No {listing.noun} passes these filters." if rows else empty)
    else:
        for line in lines(listing, kept, _terminal.stdout(), all_of=len(rows)):
            print(line)


def lines(
    listing: Listing[T],
    rows: Sequence[T],
    terminal: Terminal,
    *,
    all_of: int | None = None,
    now: float | None = None,
    options: Options | None = None,
) -> list[str]:
    """A table as lines: titles, rows, and on a terminal a footer.

    Args:
        listing: How this kind of thing is listed.
        rows: The things, at least one.
        terminal: What it is for.
        all_of: How many there are before filters; as many as `rows` by default.
        now: The time, in seconds since the epoch.
        options: How to print; as was chosen by default.
    """
    options = chosen() if options is None else options
    clock = time.time() if now is None else now
    wide = options.format is Format.WIDE
    columns = [column for column in listing.columns if wide or not column.wide]
    whole = wide or options.whole or terminal.width is None
    table = [[_text(column, row, whole, clock, terminal) for column in columns] for row in rows]
    if terminal.width is None:
        return ["\t".join(cells) for cells in ([column.title for column in columns], *table)]
    if not whole:  # what is empty in every row takes no room
        full = [n for n, column in enumerate(columns) if not column.drop or any(line[n] for line in table)]
        columns = [columns[n] for n in full]
        table = [[line[n] for n in full] for line in table]
    widths = [
        max(cells(column.title), *(cells(line[place]) for line in table))
        for place, column in enumerate(columns)
    ]
    if not whole:
        shown = fit(columns, widths, terminal.width)
        columns = [columns[place] for place in shown]
        table = [[line[place] for place in shown] for line in table]
        widths = list(shown.values())
    looks = [[column.look(row) if column.look else None for column in columns] for row in rows]
    titles = _line([column.title for column in columns], columns, widths, ["bold"] * len(columns), terminal)
    body = [_line(line, columns, widths, look, terminal) for line, look in zip(table, looks, strict=True)]
    return [titles, *body, terminal.look(footer(listing, rows, all_of), "dim")]


def footer(listing: Listing[T], rows: Sequence[T], all_of: int | None = None) -> str:
    """How many there are, and what they come to."""
    number = counted(len(rows), listing.noun)
    if all_of not in (None, len(rows)):
        number = f"{len(rows):,} of {counted(all_of or 0, listing.noun)}"
    return ", ".join(filter(None, (number, listing.totals(rows))))


def fit(columns: Sequence[Column[T]], widths: Sequence[int], room: int) -> dict[int, int]:
    """Which columns are shown where there is not room for all, and how wide: place → width.

    Columns go by their priority until the others fit with what can be cut cut short; then room is given to
    those, evenly.
    """
    least = {
        place: min(width, max(_LEAST, len(column.title))) if column.cut else width
        for place, (column, width) in enumerate(zip(columns, widths, strict=True))
    }

    def taken(shown: Mapping[int, int]) -> int:
        return sum(shown.values()) + len(_GAP) * (len(shown) - 1)

    while taken(least) > room:
        place = max(least, key=lambda place: (columns[place].drop, place))
        if columns[place].drop == 0:
            break
        del least[place]
    while taken(least) > room:
        soft = [place for place in least if columns[place].cut and least[place] > _LEAST_OF_ALL]
        if not soft:
            break
        least[max(soft, key=lambda place: least[place])] -= 1
    spare = room - taken(least)
    while spare > 0 and (short := [place for place in least if least[place] < widths[place]]):
        least[min(short, key=lambda place: least[place])] += 1
        spare -= 1
    return least


def _text(column: Column[T], row: T, whole: bool, now: float, terminal: Terminal) -> str:
    value = column.cell(row) if whole or column.brief is None else column.brief(row, now)
    return "" if value is None else terminal.shown(value)


def _line(
    texts: Sequence[str],
    columns: Sequence[Column[Any]],
    widths: Sequence[int],
    looks: Sequence[Look | None],
    terminal: Terminal,
) -> str:
    out = []
    last = len(columns) - 1
    for place, (text, column, width) in enumerate(zip(texts, columns, widths, strict=True)):
        shown = terminal.cut(text, width, keep_end=column.cut == "start")
        blank = " " * (width - cells(shown))
        seen = terminal.look(shown, looks[place])
        out.append(blank + seen if column.right else seen if place == last else seen + blank)
    return _GAP.join(out).rstrip()
