"""A file's text as pieces: what stands before the first entry, and each entry with what follows it.

An entry begins at the first column, with its name. Comments and empty lines between two entries belong to
neither: a change of an entry leaves them alone, and so does its end. What is written is the pieces put
together again, so that no other entry is touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from .problems import Problem

#: The entry that tells what the file is.
METADATA: Final = "__metadata__"

_ENTRY: Final = re.compile(r"^[^\s#]", re.MULTILINE)
_START: Final = re.compile(r"^---[ \t]*(?:#.*)?\r?$")
#: Begins or ends a document.
_MARK: Final = re.compile(r"(?:---|\.\.\.)(?=\s|$)")
_BOM: Final = "\ufeff"


class Piece(NamedTuple):
    """An entry, and what stands between it and the next."""

    body: str
    gap: str


class Split(NamedTuple):
    """A file's text."""

    head: str
    pieces: list[Piece]
    #: Lines before each piece.
    lines: list[int]


def split(text: str) -> Split:
    """The pieces of a text.

    Raises:
        Problem: The text begins in a way that this does not know.
    """
    mark = _BOM if text.startswith(_BOM) else ""
    text = text.removeprefix(mark)
    starts = [found.start() for found in _ENTRY.finditer(text)]
    if starts and _START.match(text[starts[0] :].split("\n", 1)[0]):
        del starts[0]
    head = text[: starts[0]] if starts else text
    line = head.count("\n")
    if starts and text.startswith("%", starts[0]):
        raise Problem(line, 0, "a directive (%) is not supported: leave the line out")
    for number, content in enumerate(head.split("\n")):
        if content.strip() and not content.lstrip().startswith("#") and not _START.match(content):
            raise Problem(
                number, len(content) - len(content.lstrip()), "an entry must begin at the first column"
            )
    pieces, lines = [], []
    for start, end in zip(starts, [*starts[1:], len(text)], strict=False):
        whole = text[start:end]
        if _MARK.match(whole):
            what = "is a mark between documents, and one file is one document: leave the line out"
            raise Problem(line, 0, what)
        cut = _end_of_entry(whole)
        pieces.append(Piece(whole[:cut], whole[cut:]))
        lines.append(line)
        line += whole.count("\n")
    return Split(mark + head, pieces, lines)


def _end_of_entry(whole: str) -> int:
    """Where the comments and empty lines begin that end a text."""
    end = len(whole)
    while end:
        start = whole.rfind("\n", 0, end - 1) + 1
        line = whole[start:end]
        if line[0] != "#" and line.strip():
            break
        end = start
    return end


def join(head: str, pieces: Iterable[Piece]) -> str:
    """The text of a file."""
    parts = [head]
    for piece in pieces:
        if parts[-1] and not parts[-1].endswith("\n"):
            parts.append("\n")
        parts += [part for part in piece if part]
    return "".join(parts)


def gap_without_entry(gap: str) -> str:
    """What stays of what stood below an entry that is gone: the comments."""
    return gap.lstrip("\r\n") if gap.strip() else ""
