"""Changes to an entry that a person has written or touched: comments, order and style stay.

Only the entry is read and written anew, by ruamel.yaml's round trip; in it every scalar is a text, so that
nothing is shown in another form than the one it was given in.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.resolver import BaseResolver
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

from .names import COMMON, EXTRA, arm_fields, names_of, shown
from .nodes import Listing, Mapping, Node, Scalar
from .reading import parse_entry
from .text import INDENT, is_literal, is_plain
from .tree import Token, Tree

#: Lines are never folded.
_WIDTH: Final = 1 << 30

Aliases = dict[str, tuple[str, ...]]


class _AllTexts(BaseResolver):
    """Takes no scalar for a number, a time or a truth value."""

    def __init__(self, version: Any = None, loader: Any = None, loadumper: Any = None) -> None:
        super().__init__(loader if loadumper is None else loadumper)

    @property
    def processing_version(self) -> Any:
        return (1, 2)


def aliases_of(type_numbers: Iterable[int]) -> Aliases:
    """Every name that the fields of an entry may be given by, by those that they are written by."""
    fields = [*COMMON, *(field for number in type_numbers for field in arm_fields(number))]
    return {shown(field): names_of(field) for field in fields}


def edit(body: str, before: dict[str, Tree], after: dict[str, Tree], aliases: Aliases) -> str | None:
    """An entry with another tree.

    Args:
        body: Its text.
        before: What the text says.
        after: What it shall say.
        aliases: Under which names a field may stand in the text.

    Returns:
        The new text; None if it cannot be made from the old one.
    """
    try:
        _, contents = parse_entry(body)
        if (quick := _by_lines(body, contents, before, after, aliases)) is not None:
            return quick
        yaml = _round_trip(contents)
        document = yaml.load(body)
        (name,) = document
        before, after = _without_loose_fields(document[name], before, after)
        _change(document[name], before, after, lambda field: aliases.get(field, (field,)))
        out = io.StringIO()
        yaml.dump(document, out)
    except (YAMLError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return None  # whatever it stumbled over, the entry can still be written anew
    return out.getvalue()


def _by_lines(
    body: str, contents: Node, before: dict[str, Tree], after: dict[str, Tree], aliases: Aliases
) -> str | None:
    """The entry where only numbers, times and the like are new or others: a hundredth of the work.

    Such are the marks that every entry gets that a person has written.
    """
    if not isinstance(contents, Mapping) or before.keys() - after.keys():
        return None
    first, _ = next(iter(contents.pairs.values()))
    if (first.line, first.column) != (contents.line, contents.column):
        return None  # in braces
    lines = body.splitlines(keepends=True)
    end = "\r\n" if body.endswith("\r\n") else "\n"
    if not lines[-1].endswith("\n"):
        lines[-1] += end
    for field, value in after.items():
        if value == before.get(field):
            continue
        if not isinstance(value, Token):
            return None
        there = next((name for name in aliases.get(field, (field,)) if name in contents.pairs), None)
        if there is None:
            lines.append(f"{' ' * contents.column}{field}: {value}{end}")
            continue
        _, old = contents.pairs[there]
        if not isinstance(old, Scalar) or not old.plain or not old.text:
            return None
        line, stop = lines[old.line], old.column + len(old.text)
        if line[old.column : stop] != old.text:
            return None
        lines[old.line] = f"{line[: old.column]}{value}{line[stop:]}"
    return "".join(lines)


def _without_loose_fields(
    target: Any, before: dict[str, Tree], after: dict[str, Tree]
) -> tuple[dict[str, Tree], dict[str, Tree]]:
    """The trees without the extra fields that stand beside the others, as a person wrote them.

    One that has another value now goes from there, and is written where programs write it.
    """
    old, new = before.get(EXTRA), after.get(EXTRA)
    if not isinstance(old, dict):
        return before, after
    now = dict(new) if isinstance(new, dict) else {}
    was = dict(old)
    for name in [name for name in old if name in target]:
        if now.get(name) == was.pop(name):
            del now[name]
        else:
            del target[name]
    trees = []
    for tree, extra in ((before, was), (after, now)):
        rest = {field: value for field, value in tree.items() if field != EXTRA}
        trees.append({**rest, EXTRA: extra} if extra else rest)
    return trees[0], trees[1]


def _round_trip(contents: Node) -> Any:
    yaml = YAML()
    yaml.Resolver = _AllTexts
    yaml.preserve_quotes = True
    yaml.width = _WIDTH
    yaml.allow_unicode = True
    mapping = contents.column if isinstance(contents, Mapping) and contents.column else INDENT
    offset, gap = _list_style(contents) or (INDENT, INDENT)
    yaml.indent(mapping=mapping, sequence=offset + gap, offset=offset)
    return yaml


def _list_style(node: Node) -> tuple[int, int] | None:
    """How far lists' dashes stand to the right of their names, and their items of the dashes."""
    if not isinstance(node, Mapping):
        return None
    for place, item in node.pairs.values():
        if isinstance(item, Listing) and item.items and item.line > place.line:
            return item.column - place.column, item.items[0].column - item.column
    return None


def _change(
    target: Any, before: dict[str, Tree], after: dict[str, Tree], names: Callable[[str], Iterable[str]]
) -> None:
    for field in [*after, *(field for field in before if field not in after)]:
        if before.get(field) == after.get(field):
            continue
        there = next((name for name in names(field) if name in target), None)
        if field not in after:
            if there is not None:
                del target[there]
        elif there is None:
            target[field] = _new(after[field])
        else:
            target[there] = _changed(target[there], before.get(field), after[field])


def _changed(old: Any, before: Any, after: Tree) -> Any:
    if isinstance(old, CommentedMap) and isinstance(before, dict) and isinstance(after, dict):
        _change(old, before, after, lambda name: (name,))
        return old
    if isinstance(old, CommentedSeq) and isinstance(after, list) and after:
        for number, item in enumerate(after):
            if number >= len(old):
                old.append(_new(item))
            elif not isinstance(before, list) or number >= len(before) or before[number] != item:
                old[number] = _new(item)
        del old[len(after) :]
        return old
    return _new(after)


def _new(value: Tree) -> Any:
    if isinstance(value, dict):
        made = CommentedMap()
        for name, item in value.items():
            made[name if is_plain(name) else DoubleQuotedScalarString(name)] = _new(item)
        return made
    if isinstance(value, list):
        return CommentedSeq([_new(item) for item in value])
    if isinstance(value, Token) or is_plain(value):
        return str(value)
    return LiteralScalarString(value) if is_literal(value) else DoubleQuotedScalarString(value)
