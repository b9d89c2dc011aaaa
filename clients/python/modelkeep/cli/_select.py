"""Which rows of a list are shown, and in which order: ``--filter``, ``--sort``, ``--limit``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import typer

from modelkeep.cli._listing import Listing
from modelkeep.cli._options import chosen
from modelkeep.cli._terminal import visible
from modelkeep.cli._words import did_you_mean, folded, words

T = TypeVar("T")

_FILTER: Final = re.compile(r"([^=~!]+)(!=|=|~)(.*)", re.DOTALL)


def selected(listing: Listing[T], rows: Sequence[T]) -> list[T]:
    """The rows that pass all filters, sorted and cut off as was chosen."""
    options = chosen()
    passes = passing(listing)
    kept = [row for row in rows if passes(row)]
    if options.sort is not None:
        kept.sort(key=_order(listing, options.sort))
    if options.reverse:
        kept.reverse()
    return kept[: options.limit] if options.limit else kept


def passing(listing: Listing[T]) -> Callable[[T], bool]:
    """Tells whether a row passes all filters that were chosen."""
    tests = [_test(listing, text) for text in chosen().filters]
    return lambda row: all(test(row) for test in tests)


def _test(listing: Listing[T], text: str) -> Callable[[T], bool]:
    found = _FILTER.fullmatch(text)
    known = ", ".join(listing.filters)
    if found is None:
        raise typer.BadParameter(
            f"{visible(text)!r} is not NAME=VALUE, NAME!=VALUE or NAME~PART; names are {known}.",
            param_hint="--filter",
        )
    name, sign, value = found[1].strip().casefold(), found[2], found[3]
    if name not in listing.filters:
        near = did_you_mean(name, list(listing.filters))
        raise typer.BadParameter(
            f"A {listing.noun} has no {visible(name)!r} to filter by; there are {known}.{near}",
            param_hint="--filter",
        )
    values_of = listing.filters[name]
    wanted = [folded(word) for word in words([value])]

    def contains(row: T) -> bool:
        return any(value.casefold() in has.casefold() for has in values_of(row))

    def equals(row: T) -> bool:
        has = {folded(one) for one in values_of(row)}
        return any(word in has for word in wanted) if wanted else not any(has)

    if sign == "~":
        return contains
    return equals if sign == "=" else lambda row: not equals(row)


def _order(listing: Listing[T], name: str) -> Callable[[T], Any]:
    wanted = folded(name).removesuffix("_time").removesuffix("_bytes")  # as the API calls them
    titles = {folded(column.title): column for column in listing.columns}
    column = titles.get(wanted) or next((titles[title] for title in titles if title.startswith(wanted)), None)
    if column is None:
        known = [column.title.lower() for column in listing.columns]
        near = did_you_mean(name, known)
        raise typer.BadParameter(
            f"{listing.noun.capitalize()}s are sorted by {', '.join(known)}, not by {visible(name)!r}.{near}",
            param_hint="--sort",
        )
    order = column.order
    cell = column.cell
    return order if order is not None else lambda row: str(cell(row)).casefold()
