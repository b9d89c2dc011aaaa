"""YAML text as a tree that knows where everything stands.

The parser is libyaml's, through PyYAML, which gives events: what is made of them here is bounded in depth,
where PyYAML's own composer ends the process. Only plain YAML is taken: no anchors and aliases, so that each
entry can be read and written by itself, and no tags. What a scalar means is said by the field that it is
for: `no` is a text where a text belongs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from .problems import Problem

#: Lists and mappings inside each other.
MAX_DEPTH: Final = 32

_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value. ``plain``: it stands there without quotes."""

    line: int
    column: int
    text: str
    plain: bool

    @property
    def is_null(self) -> bool:
        """Whether nothing is given."""
        return self.plain and self.text in _NULLS


@dataclass(frozen=True, slots=True)
class Listing:
    """A list."""

    line: int
    column: int
    items: list[Node]


@dataclass(frozen=True, slots=True)
class Mapping:
    """Pairs, each name once."""

    line: int
    column: int
    pairs: dict[str, tuple[Scalar, Node]]


Node = Scalar | Listing | Mapping


def parse(text: str) -> Node | None:
    """The tree of one document; None if there is nothing in it.

    Raises:
        Problem: It is no YAML, or not plain.
    """
    return _Builder().build(_events(text))


def _events(text: str) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = len(before) - before.rfind("\n") - 1
        what = f"has the character U+{error.character:04X}, which no YAML may have"
        raise Problem(before.count("\n"), column, what) from None
    except yaml.MarkedYAMLError as error:
        # What is not closed is missed at the end of the text: there is nothing to see there.
        is_open = error.context is not None and any(word in error.context for word in ("quoted", "flow"))
        mark = error.context_mark if is_open else error.problem_mark or error.context_mark
        what = ": ".join(part for part in (error.context, error.problem) if part) or "is no YAML"
        raise Problem(*(_seen(text, mark) if mark else (0, 0)), what) from None


def _seen(text: str, mark: Any) -> tuple[int, int]:
    """Where a mark is, or the last character before it if it is behind all of them."""
    last = len(text.rstrip()) - 1
    if mark.index <= last:
        return mark.line, mark.column
    return text.count("\n", 0, last), last - text.rfind("\n", 0, last) - 1


class _Builder:
    """Puts events together, without a level of Python's stack for each of the text's."""

    def __init__(self) -> None:
        self._root: Node | None = None
        #: The lists and mappings that are open, each mapping with the name whose value comes next.
        self._open: list[tuple[Listing | Mapping, Scalar | None]] = []

    def build(self, events: Iterator[Any]) -> Node | None:
        """The tree."""
        documents = 0
        for event in events:
            place = (event.start_mark.line, event.start_mark.column)
            match event:
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        raise Problem(*place, "begins a second document; one file is one document")
                case yaml.AliasEvent():
                    raise Problem(*place, "is an alias (*…), which is not supported: write the value itself")
                case yaml.ScalarEvent():
                    _check_plain(event, place)
                    plain = event.implicit[0] and not event.style
                    self._add(Scalar(*place, event.value, plain))
                case yaml.SequenceStartEvent():
                    _check_plain(event, place)
                    self._enter(Listing(*place, []))
                case yaml.MappingStartEvent():
                    _check_plain(event, place)
                    self._enter(Mapping(*place, {}))
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    self._open.pop()
        return self._root

    def _enter(self, node: Listing | Mapping) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise Problem(node.line, node.column, f"is nested deeper than {MAX_DEPTH} levels")
        self._add(node)
        self._open.append((node, None))

    def _add(self, node: Node) -> None:
        if not self._open:
            self._root = node
            return
        holder, name = self._open[-1]
        if isinstance(holder, Listing):
            holder.items.append(node)
        elif name is None:
            self._open[-1] = (holder, _name(node, holder))
        else:
            holder.pairs[name.text] = (name, node)
            self._open[-1] = (holder, None)


def _name(node: Node, holder: Mapping) -> Scalar:
    if not isinstance(node, Scalar):
        raise Problem(node.line, node.column, "stands where a name must be")
    if node.is_null:
        raise Problem(node.line, node.column, "has no name before the colon")
    if (first := holder.pairs.get(node.text)) is not None:
        above = node.line - first[0].line
        where = f"{above} line{'s' * (above > 1)} above" if above else "in the same line"
        raise Problem(node.line, node.column, f"{node.text} is there already, {where}")
    return node


def _check_plain(event: Any, place: tuple[int, int]) -> None:
    if event.anchor:
        raise Problem(
            *place,
            f"has an anchor (&{event.anchor}), which is not supported: write each value where it belongs",
        )
    if event.tag:
        raise Problem(*place, f"has a tag ({event.tag}), which is not supported: leave it out")
