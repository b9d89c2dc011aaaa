"""What a list is made of: how a kind of thing is shown, row by row, and what it is filtered by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from modelkeep.cli._output import KEY_SHOWN, ago, size, when
from modelkeep.cli._terminal import Look

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column of a list.

    Attributes:
        title: Its title, and by which name a list is sorted.
        cell: What stands in it.
        brief: What stands in it on a terminal; the cell by default.
        right: Whether it is aligned to the right, as numbers are.
        drop: Columns of the highest number go first where there is no room; those of 0 never.
        cut: Whether what is too long is cut off, at the "end" or the "start"; "" never.
        wide: Whether it is shown with ``-o wide`` alone.
        order: What a list is sorted by; the cell by default.
        look: How it is written.
    """

    title: str
    cell: Callable[[T], object]
    brief: Callable[[T, float], object] | None = None
    right: bool = False
    drop: int = 0
    cut: str = ""
    wide: bool = False
    order: Callable[[T], Any] | None = None
    look: Callable[[T], Look | None] | None = None


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """How a kind of thing is listed.

    Attributes:
        noun: What one is: "model".
        json_name: Under which name the list stands in JSON; that of the API.
        columns: Its columns, in order.
        key: What names one for good: a key, a number.
        name: What a person calls one.
        data: One for programs.
        filters: What ``--filter`` looks at: name → the values that one has.
        totals: What the footer says beside the number.
    """

    noun: str
    json_name: str
    columns: Sequence[Column[T]]
    key: Callable[[T], str]
    name: Callable[[T], str]
    data: Callable[[T], Any]
    filters: Mapping[str, Callable[[T], Iterable[str]]] = field(default_factory=dict)
    totals: Callable[[Sequence[T]], str] = lambda rows: ""


def key_column(key: Callable[[T], str], drop: int) -> Column[T]:
    """The column of a model's key."""
    return Column("KEY", key, lambda row, now: key(row)[:KEY_SHOWN], drop=drop)


def size_column(count: Callable[[T], int], drop: int, title: str = "SIZE") -> Column[T]:
    """A column of bytes."""
    return Column(title, lambda row: size(count(row)), right=True, drop=drop, order=count)


def time_column(
    title: str, seconds: Callable[[T], float | None], drop: int, *, wide: bool = False
) -> Column[T]:
    """A column of times: how long ago on a terminal, else when."""
    return Column(
        title,
        lambda row: when(seconds(row)),
        lambda row, now: ago(seconds(row), now),
        drop=drop,
        wide=wide,
        order=lambda row: seconds(row) or 0.0,
    )
